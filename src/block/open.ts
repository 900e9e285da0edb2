/** Opens and makes disks by name, with the options that people know from `-drive`. */
import { host } from '#host'
import { asDevice, type BlockDevice, type BlockDriver } from './device.ts'
import { type CacheMode, Disk, type DiskOptions } from './disk.ts'
import { BlockError } from './error.ts'
import { CopyOnRead } from './filters/copy-on-read.ts'
import { DetectZeroes } from './filters/detect-zeroes.ts'
import { GatherDiscards } from './filters/gather-discards.ts'
import { Overlay } from './filters/overlay.ts'
import { ReadAhead } from './filters/readahead.ts'
import { THROTTLE_OPTIONS, Throttle, type ThrottleOptions } from './filters/throttle.ts'
import { type FormatDriver, PROBE_LENGTH, refuseUnknown } from './format.ts'
import { formats } from './formats/index.ts'
import { type Gate, type GatePolicy, makeGate } from './gate.ts'
import { bytesVec } from './iovec.ts'
import { noteLayer } from './layer.ts'
import type { FileOptions, ProtocolDriver } from './protocol.ts'
import { BlobDisk } from './protocols/blob.ts'

/** What an image can be opened from: a file's name or a URL, a Blob, or a driver. */
export type Source = string | Blob | BlockDriver

/** How an image is opened; the format's and the protocol's own options stand among these, by their names. */
export interface ImageOptions {
  /** Format of the image by name, or `probe` to guess it from its first bytes, which a guest may have written. */
  format?: string
  readOnly?: boolean
  cache?: CacheMode
  /** How requests reach the host that cannot be answered at once; default the best that works. */
  aio?: 'threads' | 'io_uring' | 'native'
  /** Whether other openers are kept out; default `auto`: where the file system can. */
  locking?: 'auto' | 'on' | 'off'
  /** Which other files the image may open: `below` its own folder (default), `any`, `none`, or as a function says. */
  gate?: GatePolicy
  /** Stands in for the backing file that the image names; closed with it. */
  backing?: BlockDevice
  [option: string]: unknown
}

/** How a disk is opened. */
export interface OpenDiskOptions extends ImageOptions, Omit<DiskOptions, 'cache'> {
  detectZeroes?: 'off' | 'on' | 'unmap'
  /** Keep in the image what is read from its backing file. */
  copyOnRead?: boolean
  /** Leave the image as it is: writes go to a temporary file and vanish with the disk. */
  snapshot?: boolean
  /** Smallest hole that discards make, bytes; smaller ones wait for neighbours. Default 64 KiB; 0 passes each on by itself. */
  discardMinimum?: number
  /** Bytes to read ahead of who reads in order, for slow protocols; default 0: none. */
  readAhead?: number
  throttling?: ThrottleOptions
}

const IMAGE_OPTIONS = ['format', 'readOnly', 'cache', 'aio', 'locking', 'gate', 'backing'] as const

const DISK_OPTIONS = [
  'name',
  'serial',
  'rerror',
  'werror',
  'discard',
  'logicalBlockSize',
  'physicalBlockSize',
  'minIoSize',
  'optIoSize',
  'discardGranularity',
] as const

const FILTER_OPTIONS = ['detectZeroes', 'copyOnRead', 'snapshot', 'discardMinimum', 'readAhead', 'throttling'] as const

const CHOICES: Readonly<Record<string, readonly unknown[]>> = {
  cache: ['writeback', 'none', 'writethrough', 'directsync', 'unsafe'],
  aio: ['threads', 'io_uring', 'native'],
  locking: ['auto', 'on', 'off'],
  discard: ['ignore', 'unmap'],
  detectZeroes: ['off', 'on', 'unmap'],
  rerror: ['report', 'ignore', 'stop'],
  werror: ['report', 'ignore', 'stop', 'enospc'],
  readOnly: [true, false],
  copyOnRead: [true, false],
  snapshot: [true, false],
}

/** Opens a disk. A failure leaves nothing open and nothing written. */
export async function openDisk(source: Source, options: OpenDiskOptions = {}): Promise<Disk> {
  const name = options.name ?? sourceName(source)
  const doing = `Cannot open ${name}`
  checkChoices(options, doing)
  if (options.snapshot && options.readOnly) {
    throw new BlockError('EINVAL', `${doing}: snapshot and readOnly exclude each other`)
  }
  if (options.throttling) refuseUnknown(options.throttling, THROTTLE_OPTIONS, doing, 'throttling option')
  const image: Record<string, unknown> = { ...options, readOnly: options.readOnly || options.snapshot }
  for (const key of [...DISK_OPTIONS, ...FILTER_OPTIONS]) delete image[key]
  const base = await openSource(source, image, [...DISK_OPTIONS, ...FILTER_OPTIONS])
  let device = base
  try {
    if (options.snapshot) device = asDevice(new Overlay(device, asDevice(await host.temporaryFile())))
    const root = device
    if (options.readAhead) {
      const window = amount(options.readAhead, 'readAhead', doing)
      device = asDevice(new ReadAhead(device, { window }))
    }
    const minimum = amount(options.discardMinimum ?? 64 << 10, 'discardMinimum', doing)
    const granularity = holeUnit(options.discardGranularity, device)
    const gathers = minimum > 0 || granularity > device.discardGranularity
    if (gathers && options.discard !== 'ignore' && device.canDiscard) {
      device = asDevice(new GatherDiscards(device, { minimum, granularity }))
    }
    if (options.detectZeroes === 'on') device = asDevice(new DetectZeroes(device, false))
    if (options.detectZeroes === 'unmap') device = asDevice(new DetectZeroes(device, options.discard !== 'ignore'))
    if (options.copyOnRead) {
      if (device.readOnly) throw new BlockError('EINVAL', `${doing}: copyOnRead needs an image that may be written`)
      if (device.backing !== undefined) device = asDevice(new CopyOnRead(device))
    }
    if (options.throttling) device = asDevice(new Throttle(device, options.throttling))
    const disk: Record<string, unknown> = { name, cache: options.cache }
    for (const key of DISK_OPTIONS) disk[key] = options[key] ?? disk[key]
    return new Disk(device, disk as DiskOptions, root)
  } catch (error) {
    await device.close()
    throw error
  }
}

/** Bytes to whose multiples holes are aligned: the device's own, or more if wanted; only powers of two can be. */
function holeUnit(wanted: number | undefined, device: BlockDevice): number {
  const own = device.discardGranularity
  return wanted === undefined || !(wanted > own) || Math.log2(wanted) % 1 !== 0 ? own : wanted
}

/** Opens an image without a disk in front: for tools and jobs. The format must be named, or be `probe`. */
export async function openImage(source: Source, options: ImageOptions = {}): Promise<BlockDevice> {
  checkChoices(options, `Cannot open ${sourceName(source)}`)
  return openSource(source, options, [])
}

/** Makes an image of `size` bytes in a file, and what was there is gone; `options` are the format's own. */
export async function createImage(
  name: string,
  format: string,
  size: number,
  options: Readonly<Record<string, unknown>> & { preallocation?: string; gate?: GatePolicy } = {},
): Promise<void> {
  const driver = formatNamed(format, `Cannot create ${name}`)
  if (driver.create === undefined)
    throw new BlockError('ENOTSUP', `Cannot create ${name}: ${format} images can only be read`)
  if (!Number.isSafeInteger(size) || size < 0) {
    throw new BlockError('EINVAL', `Cannot create ${name}: its size is ${size}, must be a number of bytes`)
  }
  const { gate, ...own } = options
  refuseUnknown(own, driver.createOptions ?? [], `Cannot create ${name}`)
  await host.createFile(name, 0)
  const file = asDevice(await host.openFile(name))
  try {
    const chain = [host.resolveName(name)]
    await driver.create(file, { name, size, gate: gateOf(name, gate ?? 'below', chain, {}), options: own })
  } finally {
    await file.close()
  }
}

function amount(value: unknown, key: string, doing: string): number {
  if (Number.isSafeInteger(value) && (value as number) >= 0) return value as number
  throw new BlockError('EINVAL', `${doing}: ${key} is ${value}, must be a number of bytes`)
}

function sourceName(source: Source): string {
  if (typeof source === 'string') return source
  return isBlob(source) ? ('name' in source ? String(source.name) : 'a blob') : source.name
}

function isBlob(source: Source): source is Blob {
  return typeof Blob !== 'undefined' && source instanceof Blob
}

function checkChoices(options: Readonly<Record<string, unknown>>, doing: string): void {
  for (const [key, choices] of Object.entries(CHOICES)) {
    const value = options[key]
    if (value !== undefined && !choices.includes(value)) {
      throw new BlockError('EINVAL', `${doing}: ${key} is '${value}', must be ${choices.join(', ')}`)
    }
  }
}

function formatNamed(name: string, doing: string): FormatDriver {
  const format = formats.find((candidate) => candidate.name === name)
  if (format !== undefined) return format
  throw new BlockError(
    'EINVAL',
    `${doing}: unknown format '${name}'; known are ${formats.map((candidate) => candidate.name).join(', ')}`,
  )
}

/** The format that recognizes the image best. */
async function probe(file: BlockDevice): Promise<FormatDriver> {
  const head = new Uint8Array(Math.min(PROBE_LENGTH, file.size))
  await file.read(0, bytesVec(head))
  let best = { format: formats[formats.length - 1]!, score: 0 }
  for (const format of formats) {
    const score = format.probe(head)
    if (score > best.score) best = { format, score }
  }
  return best.format
}

function protocolOf(name: string): ProtocolDriver | undefined {
  const scheme = /^([a-z][a-z0-9+.-]*):/i.exec(name)?.[1]?.toLowerCase()
  if (scheme === undefined) return undefined
  const found = host.protocols.find((protocol) => protocol.schemes.includes(scheme))
  if (found === undefined && name.startsWith('://', scheme.length)) {
    const known = host.protocols.flatMap((protocol) => protocol.schemes)
    throw new BlockError(
      'EINVAL',
      `Cannot open ${name}: unknown protocol '${scheme}'; known are ${['file', ...known].join(', ')}`,
    )
  }
  return found
}

async function openSource(
  source: Source,
  options: ImageOptions,
  alsoKnown: readonly string[],
  chain?: readonly string[],
): Promise<BlockDevice> {
  const name = sourceName(source)
  const doing = `Cannot open ${name}`
  const plain = typeof source === 'string' ? source.replace(/^file:(?:\/\/(?=\/))?/, '') : undefined
  const protocol = plain === undefined ? undefined : protocolOf(plain)
  const named =
    options.format === undefined || options.format === 'probe' ? undefined : formatNamed(options.format, doing)
  const candidates = named === undefined ? formats : [named]
  const own = pick(options, (key) => !(IMAGE_OPTIONS as readonly string[]).includes(key))
  const formatOptions = candidates.flatMap((format) => format.openOptions ?? [])
  refuseUnknown(own, [...IMAGE_OPTIONS, ...alsoKnown, ...formatOptions, ...(protocol?.openOptions ?? [])], doing)
  const readOnly = options.readOnly ?? isBlob(source)
  const file = await openProtocol(source, plain, protocol, options, own, readOnly)
  try {
    if (!readOnly && file.readOnly) {
      throw new BlockError(
        'EROFS',
        `${doing} for writing: it can only be read; open it with readOnly: true (readonly=on)`,
      )
    }
    if (options.format === undefined) {
      const guess = (await probe(file)).name
      throw new BlockError(
        'EINVAL',
        `${doing}: its format is not named; say format: '${guess}', which it looks like, or format: 'probe' to always guess`,
      )
    }
    const format = named ?? (await probe(file))
    const base = plain ?? name
    const gate = gateOf(base, options.gate ?? 'below', chain ?? [host.resolveName(base)], options)
    const known = format.openOptions ?? []
    const formatOptions = pick(own, (key) => known.includes(key))
    const openMedium = (readOnly: boolean, trial = false) =>
      openProtocol(source, plain, protocol, trial ? { ...options, locking: 'off' } : options, own, readOnly)
    const openFormat = async (medium: BlockDevice, readOnly: boolean, backing: BlockDevice | undefined) => {
      const parts = { name, readOnly, gate, options: formatOptions, ...(backing === undefined ? {} : { backing }) }
      const driver = await format.open(medium, parts)
      noteLayer(driver, {
        file: plain === undefined ? undefined : protocol === undefined ? host.resolveName(plain) : plain,
        format: format.name,
        medium,
        ...(plain === undefined ? {} : { openMedium }),
        openImage: openFormat,
      })
      return driver
    }
    return asDevice(await openFormat(file, readOnly, options.backing))
  } catch (error) {
    await file.close()
    throw error
  }
}

async function openProtocol(
  source: Source,
  plain: string | undefined,
  protocol: ProtocolDriver | undefined,
  options: ImageOptions,
  own: Readonly<Record<string, unknown>>,
  readOnly: boolean,
): Promise<BlockDevice> {
  if (plain === undefined) return asDevice(isBlob(source) ? new BlobDisk(source) : (source as BlockDriver))
  if (protocol !== undefined) {
    const known = protocol.openOptions ?? []
    return asDevice(await protocol.open(plain, { readOnly, options: pick(own, (key) => known.includes(key)) }))
  }
  const file: FileOptions = {
    readOnly,
    direct: options.cache === 'none' || options.cache === 'directsync',
    ...(options.aio === undefined ? {} : { aio: options.aio }),
    ...(options.locking === undefined ? {} : { locking: options.locking }),
  }
  return asDevice(await host.openFile(plain, file))
}

function pick(options: Readonly<Record<string, unknown>>, wanted: (key: string) => boolean): Record<string, unknown> {
  return Object.fromEntries(Object.entries(options).filter(([key, value]) => value !== undefined && wanted(key)))
}

/** The gate of the image `name`: what it opens is opened like itself. */
function gateOf(name: string, policy: GatePolicy, chain: readonly string[], options: ImageOptions): Gate {
  return makeGate({
    policy,
    image: name,
    chain,
    resolve: (other) => host.resolveName(other, name),
    isBelow: (other) => host.isBelow(other, name),
    async open(other, request, longer) {
      const format = request.format ?? (options.format === 'probe' ? 'probe' : undefined)
      const inherited = pick(options, (key) => key === 'cache' || key === 'aio' || key === 'locking' || key === 'gate')
      return openSource(
        other,
        { ...inherited, readOnly: request.readOnly, ...(format === undefined ? {} : { format }) },
        [],
        longer,
      )
    },
    async create(other) {
      await host.createFile(other, 0)
      return asDevice(await host.openFile(other))
    },
  })
}
