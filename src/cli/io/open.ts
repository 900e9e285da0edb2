/** Opens what `block86 io` works on. */
import { host } from '#host'
import { asDevice, type BlockDevice } from '../../block/device.ts'
import { BlockError } from '../../block/error.ts'
import { CopyOnRead } from '../../block/filters/copy-on-read.ts'
import { Overlay } from '../../block/filters/overlay.ts'
import { formats } from '../../block/formats/index.ts'
import { type Flags, type Opened, openPlace, placeOf, warnOfRaw } from '../img/open.ts'
import { withNodeModes } from '../nodes.ts'
import { parseObjects } from '../objects.ts'
import type { Session } from './session.ts'

/** How an image is opened. */
export interface OpenFlags {
  readonly format?: string
  readonly readOnly?: boolean
  readonly snapshot?: boolean
  readonly copyOnRead?: boolean
  readonly cache?: 'none' | 'writeback' | 'writethrough' | 'directsync' | 'unsafe'
  readonly aio?: 'threads' | 'io_uring' | 'native'
  readonly discard?: 'ignore' | 'unmap'
  readonly forceShare?: boolean
  readonly imageOptions?: boolean
  /** Options of the image's driver, as `-o` gives them. */
  readonly options?: string
}

/** The open image. */
export interface OpenImage {
  readonly name: string | undefined
  readonly flags: OpenFlags
  readonly opened: Opened
  /** What requests go to: the image, or what stands in front of it. */
  readonly device: BlockDevice
  /** Every write is durable when it completes. */
  readonly writeThrough: boolean
  /** Discards reach the image. */
  readonly unmap: boolean
}

/** Opens the image; throws what tells why not. */
export async function openForIo(session: Session, name: string | undefined, flags: OpenFlags): Promise<OpenImage> {
  const readOnly = flags.readOnly === true || flags.snapshot === true
  if (flags.forceShare && !readOnly)
    throw new BlockError('EINVAL', 'force-share=on can only be used with read-only images')
  const opening: Flags = {
    readOnly,
    ...(flags.cache === undefined ? {} : { cache: flags.cache }),
    ...(flags.aio === undefined ? {} : { aio: flags.aio }),
    ...(flags.forceShare ? { forceShare: true } : {}),
    nodes: {
      objects: parseObjects(session.objects),
      log: (text) => session.out(`${text}\n`),
      warnOfRaw: (file) => warnOfRaw(session.console, file),
    },
  }
  const place = placeFor(name, flags)
  const opened = await openPlace(place, name ?? '', flags.format, opening, [])
  const guessed = flags.format === undefined && flags.options === undefined && !flags.imageOptions
  if (guessed && opened.format === 'raw' && !readOnly && name?.startsWith('json:') === false)
    warnOfRaw(session.console, name)
  try {
    let device = frontOf(opened, place)
    if (device.readOnly && !readOnly) throw new BlockError('EROFS', 'Block node is read-only')
    if (flags.snapshot) device = asDevice(new Overlay(device, asDevice(await host.temporaryFile())))
    if (flags.copyOnRead) {
      if (device.readOnly) throw new BlockError('EINVAL', "Can't use copy-on-read on read-only device")
      device = asDevice(new CopyOnRead(device))
    }
    return {
      name,
      flags,
      opened,
      device,
      writeThrough: flags.cache === 'writethrough' || flags.cache === 'directsync',
      unmap: flags.discard !== 'ignore',
    }
  } catch (error) {
    await opened.close()
    throw error
  }
}

/** The image behind the modes of its own node; those of nodes below are there already. */
export function frontOf({ device }: Opened, place: ReturnType<typeof placeOf>): BlockDevice {
  if (typeof place === 'string') return device
  const { driver } = place
  const isFormat = driver === undefined || formats.some((format) => format.name === driver)
  return isFormat ? withNodeModes(device, place) : device
}

/** What the name and the options stand for: as in `-o driver=qcow2,lazy-refcounts=on FILE`, both together. */
function placeFor(name: string | undefined, flags: OpenFlags): ReturnType<typeof placeOf> {
  if (flags.imageOptions) return placeOf(name!, true)
  if (flags.options === undefined) return placeOf(name!, false)
  const tree = placeOf(flags.options, true)
  if (name === undefined || typeof tree === 'string') return tree
  return { ...tree, file: placeOf(name, false) }
}
