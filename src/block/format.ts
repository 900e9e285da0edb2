/** What the author of an image format hands in: how to recognize, open and make an image. */
import type { BlockDevice, BlockDriver } from './device.ts'
import { BlockError } from './error.ts'
import type { Gate } from './gate.ts'
import type { Now } from './now.ts'

/** What a format gets to open an image with. */
export interface FormatOpenOptions {
  /** What messages call the image. */
  readonly name: string
  /** The image may not be written, not even its headers. */
  readonly readOnly: boolean
  /** Stands in for the backing file that the image names; closed with the image. */
  readonly backing?: BlockDevice
  /** The only way to any other file that the image names. */
  readonly gate: Gate
  /** The format's own options by their names in camelCase, only names that it lists in `openOptions`. */
  readonly options: Readonly<Record<string, unknown>>
}

/** What a format gets to make an image with. */
export interface FormatCreateOptions {
  readonly name: string
  /** Size of the disk, bytes. */
  readonly size: number
  readonly gate: Gate
  /** The format's own options by their names in camelCase, only names that it lists in `createOptions`. */
  readonly options: Readonly<Record<string, unknown>>
}

/** An image format. */
export interface FormatDriver {
  /** As in `format=`. */
  readonly name: string
  /** Names of the options that `open` takes besides the common ones. */
  readonly openOptions?: readonly string[]
  /** Names of the options that `create` takes besides the size. */
  readonly createOptions?: readonly string[]
  /** How sure it is, from 0 (not at all) to 100, that an image that starts with `head` (up to 64 KiB) is of this format. */
  probe(head: Uint8Array): number
  /** Opens the image in `file`, and closes `file` when it is closed; on failure the caller closes `file`. */
  open(file: BlockDevice, options: FormatOpenOptions): Now<BlockDriver>
  /** Makes an empty image in `file`, which is empty and can be resized. It is durable when this completes. */
  create?(file: BlockDevice, options: FormatCreateOptions): Now<void>
}

/** Bytes from the start of a file that {@link FormatDriver.probe} is shown. */
export const PROBE_LENGTH = 65536

/** Refuses, by name, options that are not among the `known` ones. */
export function refuseUnknown(
  options: Readonly<Record<string, unknown>>,
  known: Iterable<string>,
  doing: string,
  kind = 'option',
): void {
  const names = new Set(known)
  const unknown = Object.keys(options).filter((key) => options[key] !== undefined && !names.has(key))
  if (unknown.length === 0) return
  throw new BlockError(
    'EINVAL',
    `${doing}: unknown ${kind}${unknown.length > 1 ? 's' : ''} ${unknown.map((key) => `'${key}'`).join(', ')}; ` +
      (names.size > 0 ? `known are ${[...names].sort().join(', ')}` : 'there are none'),
  )
}
