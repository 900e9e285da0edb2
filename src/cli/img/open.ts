/** Opens images and their chains for the `img` verbs, and keeps what these tell about them. */
import { host } from '#host'
import { asDevice, type BlockDevice, type BlockDriver } from '../../block/device.ts'
import type { CacheMode } from '../../block/disk.ts'
import { BlockError, errnoOf } from '../../block/error.ts'
import { Unflushed } from '../../block/filters/unflushed.ts'
import { type FormatDriver, PROBE_LENGTH } from '../../block/format.ts'
import { formats } from '../../block/formats/index.ts'
import { openQcow2With } from '../../block/formats/qcow2/index.ts'
import { CHAIN_LIMIT, type Gate } from '../../block/gate.ts'
import type { Image } from '../../block/image.ts'
import { bytesVec } from '../../block/iovec.ts'
import { ImageDevice } from '../../block/mover.ts'
import { openImage } from '../../block/open.ts'
import { codecs } from '../../codecs/index.ts'
import type { CodecPool } from '../../codecs/pool.ts'
import { type OptionTree, parseFileName, parseKeyValues, treeOf } from '../node-options.ts'
import { type NodeDefaults, openTree, typed, withNodeModes } from '../nodes.ts'
import { type Console, Failure, PROGRAM } from './console.ts'
import { foreignFormat } from './foreign.ts'
import { PaddedFile, WholeFile } from './padded.ts'
import { fileReason, formatReason, Reason } from './reasons.ts'

/** How an image is opened. */
export interface Flags {
  readonly readOnly: boolean
  readonly cache?: CacheMode
  /** As `-U`: do not keep others out, and do not mind them. */
  readonly forceShare?: boolean
  /** Open the image alone: its holes read as zeroes. */
  readonly noBacking?: boolean
  /** How far down the chain a layer is opened for writing too; 0: only the image itself, if that is. */
  readonly writableDepth?: number
  /** For long copies: requests go to threads, beside this one. */
  readonly bulk?: boolean
  /** A raw image may have any size. */
  readonly exact?: boolean
  /** Compresses in other threads. */
  readonly codecs?: CodecPool
  /** How requests reach the kernel; default threads, `auto`: the best that works. */
  readonly aio?: 'threads' | 'io_uring' | 'native' | 'auto'
  /** More for the nodes of an option tree. */
  readonly nodes?: Partial<NodeDefaults>
}

/** An open image. */
export interface Opened {
  /** Its name as it was given, or as the image above it names it. */
  readonly name: string
  readonly format: string
  /** The disk; closes all below. */
  readonly device: BlockDevice
  /** The file that the format is in. */
  readonly file: BlockDevice
  /** What the format knows, unless it is raw. */
  readonly image: Image | undefined
  /** What the image was opened over. */
  readonly backing: Opened | undefined
  readonly flags: Flags
  close(): Promise<void>
}

/** What was given as an image: a name, or option trees. */
export type Place = string | OptionTree

/** Opens `name` as a verb was given it; whatever fails is a {@link Failure} in qemu-img's words. */
export async function openGiven(
  console: Console,
  name: string,
  format: string | undefined,
  flags: Flags,
  imageOptions = false,
): Promise<Opened> {
  if (imageOptions && format !== undefined) throw new Failure('--image-opts and --format are mutually exclusive')
  try {
    const nodes = { ...(console.objects === undefined ? {} : { objects: console.objects }), ...flags.nodes }
    const place = placeOf(name, imageOptions)
    const opened = withModesOf(await openPlace(place, name, format, { ...flags, nodes }, []), place)
    if (
      format === undefined &&
      !imageOptions &&
      opened.format === 'raw' &&
      !flags.readOnly &&
      typeof place === 'string'
    )
      warnOfRaw(console, name)
    return opened
  } catch (error) {
    if (error instanceof Failure) throw error
    throw new Failure(`Could not open '${name}': ${reasonOf(error, name)}`)
  }
}

/** The image behind the `detect-zeroes` and `discard` of its own node; those of nodes below are there already. */
function withModesOf(opened: Opened, place: Place): Opened {
  if (typeof place === 'string' || opened.flags.readOnly) return opened
  const { driver } = place
  if (driver !== undefined && !formats.some((format) => format.name === driver)) return opened
  const device = withNodeModes(opened.device, place)
  return device === opened.device ? opened : { ...opened, device }
}

/** The reason that a failed opening gave. */
export function reasonOf(error: unknown, name: string): string {
  return error instanceof Reason ? error.message : formatReason(error, name, 'raw')
}

/** What a name, or with `--image-opts` an option string, stands for. */
export function placeOf(name: string, imageOptions: boolean): Place {
  if (!imageOptions) {
    const place = parseFileName(name)
    // What an old prefix names is looked at for a format; what names its driver is that.
    return typeof place === 'string' || name.startsWith('json:') ? place : { file: place }
  }
  if (/^[^=,]+$/.test(name)) throw new Reason('ENOENT', `Cannot find device='${name}' nor node-name='${name}'`)
  return treeOf(parseKeyValues(name))
}

/** Warns as qemu-img does of a raw image that was not called one. */
export function warnOfRaw(console: Console, name: string): void {
  console.err.write(
    `WARNING: Image format was not specified for '${name}' and probing guessed raw.\n` +
      '         Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.\n' +
      "         Specify the 'raw' format explicitly to remove the restrictions.\n",
  )
}

/** The driver of a format that an option names. */
export function formatCalled(name: string): FormatDriver {
  const found = formats.find((each) => each.name === name)
  if (found === undefined) throw new Reason('EINVAL', `Unknown driver '${name}'`)
  return found
}

/** Opens a name or a tree with all that it stands on; throws {@link Reason}s. */
export async function openPlace(
  place: Place,
  name: string,
  format: string | undefined,
  flags: Flags,
  chain: readonly string[],
): Promise<Opened> {
  if (typeof place === 'string') {
    const driver = format === undefined ? undefined : formatCalled(format)
    return openFormat(await openFile(place, flags), place, driver, flags, {}, undefined, chain)
  }
  const { driver, file, backing, ...rest } = place
  if (typeof driver === 'string' && !formats.some((each) => each.name === driver)) {
    const below = await openNodes(place, flags)
    const shown = { ...formatCalled('raw'), name: driver }
    return openFormat(below, name, shown, flags, {}, undefined, chain)
  }
  if (driver !== undefined && typeof driver !== 'string')
    throw new Reason('EINVAL', "Invalid parameter type for 'driver', expected: string")
  const named = driver ?? format
  const { filename, ...own } = rest
  const child = file ?? (typeof filename === 'string' ? filename : undefined)
  if (child === undefined) throw new Reason('EINVAL', 'A block device must be specified for "file"')
  const changed = takeFlags(own, flags)
  const nodeName = fileNameOf(child)
  const below =
    typeof child === 'string' ? await openFile(child, changed) : await openNodes(child as OptionTree, changed)
  return openFormat(
    below,
    nodeName ?? name,
    named === undefined ? undefined : formatCalled(named),
    changed,
    typed(own),
    backing as Place | null | undefined,
    chain,
  )
}

/** The name of the file at the bottom of a tree, against which other names are resolved. */
function fileNameOf(child: OptionTree[string]): string | undefined {
  if (typeof child === 'string') return child
  if (typeof child !== 'object' || Array.isArray(child) || child === null) return undefined
  if (typeof child.filename === 'string') return child.filename
  const below = child.file ?? child.image
  return below === undefined ? undefined : fileNameOf(below)
}

/** Takes the options that every node has out of `own`. */
function takeFlags(own: OptionTree, flags: Flags): Flags {
  const changed: { -readonly [K in keyof Flags]: Flags[K] } = { ...flags }
  const on = (value: unknown) => value === true || value === 'on'
  if (own['read-only'] !== undefined) changed.readOnly = on(own['read-only'])
  if (own['force-share'] !== undefined) changed.forceShare = on(own['force-share'])
  const cache = own.cache as OptionTree | undefined
  if (on(cache?.direct)) changed.cache = 'none'
  if (on(cache?.['no-flush'])) changed.cache = 'unsafe'
  for (const key of ['read-only', 'force-share', 'cache', 'node-name', 'auto-read-only', 'discard', 'detect-zeroes'])
    delete own[key]
  return changed
}

async function openNodes(tree: OptionTree, flags: Flags): Promise<BlockDevice> {
  const { driver, filename, ...own } = tree
  if (typeof filename === 'string' && (driver === undefined || driver === 'file' || driver === 'host_device')) {
    const changed = takeFlags(own, flags)
    const [strange] = Object.keys(own).filter((key) => key !== 'locking' && key !== 'aio')
    if (strange !== undefined)
      throw new Reason('EINVAL', `Block protocol 'file' doesn't support the option '${strange}'`)
    return openFile(filename, own.locking === 'off' ? { ...changed, forceShare: true } : changed)
  }
  try {
    return await openTree(tree, {
      format: 'raw',
      readOnly: flags.readOnly,
      gate: 'any',
      ...flags.nodes,
      ...(flags.cache === undefined ? {} : { cache: flags.cache }),
      ...(flags.forceShare ? { locking: 'off' as const } : {}),
    })
  } catch (error) {
    const name = fileNameOf(tree)
    if (name !== undefined && error instanceof BlockError && tree.driver === 'file')
      throw new Reason(errnoOf(error), fileReason(error, name, flags.readOnly))
    throw new Reason(errnoOf(error), (error as Error).message)
  }
}

/** Opens a file or what a URL names, without looking at what is in it. */
export async function openFile(name: string, flags: Flags): Promise<BlockDevice> {
  const path = name.replace(/^file:(?:\/\/(?=\/))?/, '')
  const scheme = path === name ? /^([a-z][a-z0-9+.-]*):/i.exec(name.split('/', 1)[0]!)?.[1] : undefined
  if (scheme !== undefined) {
    if (!host.protocols.some((protocol) => protocol.schemes.includes(scheme.toLowerCase())))
      throw new Reason('EINVAL', `Unknown protocol '${scheme}'`)
    return openImage(name, { format: 'raw', readOnly: flags.readOnly })
  }
  try {
    const driver = await host.openFile(path, {
      readOnly: flags.readOnly,
      direct: flags.cache === 'none' || flags.cache === 'directsync',
      // A ring costs more to set up and to end than a short command takes, and does page cache copies on this thread.
      ...(flags.aio === 'auto' ? {} : { aio: flags.aio ?? 'threads' }),
      ...(flags.bulk ? { immediate: false } : {}),
      ...(flags.forceShare ? { locking: 'off' as const } : {}),
    })
    const file = asDevice(driver)
    return flags.cache === 'unsafe' && !flags.readOnly ? asDevice(new Unflushed(file)) : file
  } catch (error) {
    throw new Reason(errnoOf(error), fileReason(error, path, flags.readOnly))
  }
}

/** The format that an image's first bytes look like. */
async function probe(file: BlockDevice): Promise<FormatDriver> {
  const head = new Uint8Array(Math.min(PROBE_LENGTH, file.size))
  await file.read(0, bytesVec(head))
  let best = { format: formats.at(-1)!, score: 0 }
  for (const format of formats) {
    const score = format.probe(head)
    if (score > best.score) best = { format, score }
  }
  return best.format
}

async function openFormat(
  file: BlockDevice,
  name: string,
  wanted: FormatDriver | undefined,
  flags: Flags,
  options: Record<string, unknown>,
  backingNode: Place | null | undefined,
  chain: readonly string[],
): Promise<Opened> {
  let format = wanted
  let backing: Opened | undefined
  try {
    if (format === undefined) {
      format = await probe(file)
      const foreign = format.name === 'raw' ? await foreignFormat(file) : undefined
      if (foreign !== undefined)
        throw new Reason('ENOTSUP', `It is a ${foreign} image, and format '${foreign}' is not supported by ${PROGRAM}`)
    }
    const strange = Object.keys(options).find((key) => !(format!.openOptions ?? []).includes(key))
    if (strange !== undefined)
      throw new Reason('EINVAL', `Block format '${format.name}' does not support the option '${strange}'`)
    const gate: Gate = {
      async open(other, request) {
        if (request.purpose === 'backing file' && (flags.noBacking || backingNode === null))
          return asDevice(new Nothing())
        const full = resolveBacking(name, other)
        const readOnly = request.readOnly
        if (request.purpose !== 'backing file') {
          return openFile(full, { ...flags, readOnly })
        }
        const longer = [...chain, host.resolveName(name)]
        if (longer.includes(host.resolveName(full)) || longer.length >= CHAIN_LIMIT) {
          throw new Reason('EINVAL', `Backing file '${full}' creates an infinite loop.`)
        }
        try {
          const writable = flags.writableDepth === longer.length
          const below = { ...flags, readOnly: !writable }
          backing = await openPlace(parseFileName(full), full, request.format, below, longer)
        } catch (error) {
          throw new Reason(errnoOf(error), `Could not open backing file: ${reasonOf(error, full)}`)
        }
        return backing.device
      },
      async create(other) {
        const full = resolveBacking(name, other)
        await host.createFile(full, 0)
        return asDevice(await host.openFile(full))
      },
    }
    if (backingNode !== null && backingNode !== undefined && !flags.noBacking) {
      const given = typeof backingNode === 'string' ? parseFileName(backingNode) : backingNode
      backing = await openPlace(given, fileNameOf(given) ?? name, undefined, { ...flags, readOnly: true }, chain)
    }
    const driver = await openDriver(format, file, name, flags, gate, options, backing?.device)
    const device = asDevice(driver)
    return {
      name,
      format: format.name,
      device,
      file,
      image: driver instanceof ImageDevice ? driver.image : undefined,
      get backing() {
        return backing
      },
      flags,
      close: async () => {
        await device.close()
      },
    }
  } catch (error) {
    if (backingNode !== undefined) await backing?.device.close()
    await file.close()
    throw error instanceof Reason ? error : new Reason(errnoOf(error), formatReason(error, name, format?.name ?? 'raw'))
  }
}

function openDriver(
  format: FormatDriver,
  file: BlockDevice,
  name: string,
  flags: Flags,
  gate: Gate,
  options: Record<string, unknown>,
  backing: BlockDevice | undefined,
): BlockDriver | Promise<BlockDriver> {
  const { readOnly } = flags
  if (format.open === formatCalled('raw').open && file.size % 512 !== 0 && Object.keys(options).length === 0) {
    if (flags.exact) return new WholeFile(file)
    if (!readOnly) {
      throw new Reason(
        'EINVAL',
        "Cannot get 'write' permission without 'resize': Image size is not a multiple of request alignment",
      )
    }
    return new PaddedFile(file)
  }
  const wanted = { name, readOnly, gate, options, ...(backing === undefined ? {} : { backing }) }
  if (flags.codecs === undefined || format.name !== 'qcow2') return format.open(file, wanted)
  const { deflateWithin, zstdCompressWithin } = flags.codecs
  return openQcow2With({ ...codecs, deflateWithin, zstdCompressWithin }, file, wanted)
}

/** The name of a backing file, which is relative to the image's own folder; the text as it will be shown. */
export function resolveBacking(image: string, other: string): string {
  if (other === '' || other.startsWith('/') || /^[a-z][a-z0-9+.-]*:/i.test(other.split('/', 1)[0]!)) return other
  const slash = image.lastIndexOf('/')
  return slash < 0 ? other : image.slice(0, slash + 1) + other
}

/** A backing file that is left out: of no size. */
class Nothing implements BlockDriver {
  readonly name = 'null-co'
  readonly size = 0
  readonly readOnly = true
  read(): void {}
}
