/** `-drive` as people type it for QEMU: taken apart, checked, and turned into what opens the disk and what attaches it. */
import { BlockError } from '../block/error.ts'
import { THROTTLE_OPTIONS } from '../block/filters/throttle.ts'
import { formats } from '../block/formats/index.ts'
import type { OpenDiskOptions } from '../block/open.ts'
import { host } from '../block/protocols/node/index.ts'
import { type OptionTree, parseFileName, parseKeyValues } from './node-options.ts'
import { parseSize } from './units.ts'

/** One `-drive`. */
export interface DriveRequest {
  /** A file name, or the tree that `json:` and the like stand for; undefined for a CD-ROM drive without a disc. */
  readonly file: string | OptionTree | undefined
  readonly if: 'virtio' | 'ide' | 'scsi'
  readonly media: 'disk' | 'cdrom'
  readonly bootindex?: number
  /** Place on the controller: IDE drive 0 to 3, SCSI ID. */
  readonly index?: number
  /** What the guest sees of the drive, by the names of the library. */
  readonly device?: Readonly<Record<string, unknown>>
  /** What `openDisk` gets. */
  readonly open: OpenDiskOptions
}

type Reader = (value: string, key: string) => unknown

function refused(key: string, value: string, expected: string): BlockError {
  return new BlockError('EINVAL', `-drive: ${key} is '${value}', must be ${expected}`)
}

function choice(...values: string[]): Reader {
  return (value, key) => {
    if (!values.includes(value)) throw refused(key, value, values.join(', '))
    return value
  }
}

const flag: Reader = (value, key) => {
  if (['on', 'yes', 'true'].includes(value)) return true
  if (['off', 'no', 'false'].includes(value)) return false
  throw refused(key, value, 'on or off')
}

const size: Reader = (value, key) => {
  const bytes = parseSize(value)
  if (bytes === undefined) throw refused(key, value, 'a size, such as 4096 or 4k')
  return bytes
}

const count: Reader = (value, key) => {
  if (!/^\d{1,9}$/.test(value)) throw refused(key, value, 'a number')
  return Number(value)
}

const text: Reader = (value) => value

/** What a place of the request's own is read with; the rest goes to `openDisk` under the given name. */
const KEYS: Readonly<Record<string, readonly [name: string, read: Reader]>> = {
  file: ['file', text],
  if: ['if', choice('virtio', 'ide', 'scsi')],
  media: ['media', choice('disk', 'cdrom')],
  bootindex: ['bootindex', count],
  index: ['index', count],
  format: ['format', text],
  serial: ['serial', text],
  cache: ['cache', choice('writeback', 'none', 'writethrough', 'directsync', 'unsafe')],
  aio: ['aio', choice('threads', 'io_uring', 'native')],
  locking: ['locking', choice('auto', 'on', 'off')],
  discard: ['discard', (value, key) => choice('ignore', 'unmap')(DISCARD_ALIASES[value] ?? value, key)],
  'detect-zeroes': ['detectZeroes', choice('off', 'on', 'unmap')],
  'copy-on-read': ['copyOnRead', flag],
  snapshot: ['snapshot', flag],
  readonly: ['readOnly', flag],
  'read-only': ['readOnly', flag],
  rerror: ['rerror', choice('report', 'ignore', 'stop')],
  werror: ['werror', choice('report', 'ignore', 'stop', 'enospc')],
  logical_block_size: ['logicalBlockSize', size],
  physical_block_size: ['physicalBlockSize', size],
  min_io_size: ['minIoSize', size],
  opt_io_size: ['optIoSize', size],
  discard_granularity: ['discardGranularity', size],
}

const name64: Reader = (value, key) => {
  if (!/^(0x[0-9a-f]{1,16}|[0-9]{1,20})$/i.test(value)) throw refused(key, value, 'a number of 64 bits')
  return BigInt(value)
}

/** Properties of `-device`, for the interfaces whose drives have them. */
const DEVICE_KEYS: Readonly<Record<string, readonly [name: string, read: Reader, interfaces: readonly string[]]>> = {
  'scsi-id': ['scsiId', count, ['scsi']],
  lun: ['lun', count, ['scsi']],
  vendor: ['vendor', text, ['scsi']],
  product: ['product', text, ['scsi']],
  ver: ['ver', text, ['scsi', 'ide']],
  model: ['model', text, ['ide']],
  wwn: ['wwn', name64, ['scsi', 'ide']],
  port_wwn: ['portWwn', name64, ['scsi']],
  device_id: ['deviceId', text, ['scsi']],
  removable: ['removable', flag, ['scsi']],
  rotation_rate: ['rotationRate', count, ['scsi', 'ide']],
  dpofua: ['dpofua', flag, ['scsi']],
  chip: ['chip', text, ['scsi', 'ide']],
  scsi: ['scsi', flag, ['virtio']],
}

const DISCARD_ALIASES: Readonly<Record<string, string>> = { off: 'ignore', on: 'unmap' }

const OWN = ['file', 'if', 'media', 'bootindex', 'index'] as const

/** Takes apart `file=debian.img,format=raw,if=virtio`; a comma in a value is typed twice. Unknown keys are refused by name. */
export function parseDrive(argument: string): DriveRequest {
  const found: Record<string, unknown> = {}
  const throttling: Record<string, number> = {}
  const device: Record<string, unknown> = {}
  const properties: (readonly [key: string, interfaces: readonly string[]])[] = []
  for (const [key, value] of parseKeyValues(argument)) {
    const known = Object.hasOwn(KEYS, key) ? KEYS[key] : undefined
    const property = Object.hasOwn(DEVICE_KEYS, key) ? DEVICE_KEYS[key] : undefined
    if (known !== undefined) found[known[0]] = known[1](value, key)
    else if (property !== undefined) {
      device[property[0]] = property[1](value, key)
      properties.push([key, property[2]])
    } else if (key.startsWith('throttling.')) throttling[throttlingName(key)] = size(value, key) as number
    else found[imageOption(key)] = imageValue(value)
  }
  const media = (found.media ?? 'disk') as DriveRequest['media']
  const interfaceName = (found.if ?? (media === 'cdrom' ? 'ide' : 'virtio')) as DriveRequest['if']
  for (const [key, interfaces] of properties) {
    if (interfaces.includes(interfaceName)) continue
    throw new BlockError('EINVAL', `-drive: ${key} is for if=${interfaces.join(' and if=')}, not if=${interfaceName}`)
  }
  if (media === 'cdrom') found.readOnly ??= true
  if (found.file === undefined && media === 'disk') {
    throw new BlockError('EINVAL', `-drive ${argument}: no file; say file=NAME`)
  }
  const open = Object.fromEntries(Object.entries(found).filter(([key]) => !(OWN as readonly string[]).includes(key)))
  if (media === 'cdrom') open.format ??= 'raw'
  if (Object.keys(throttling).length > 0) open.throttling = throttling
  return {
    file: found.file === undefined ? undefined : parseFileName(found.file as string),
    if: interfaceName,
    media,
    ...(found.bootindex === undefined ? {} : { bootindex: found.bootindex as number }),
    ...(found.index === undefined ? {} : { index: found.index as number }),
    ...(properties.length === 0 ? {} : { device }),
    open,
  }
}

function camel(key: string): string {
  return key.replace(/-([a-z0-9])/g, (_, letter: string) => letter.toUpperCase())
}

function throttlingName(key: string): string {
  const name = camel(key.slice('throttling.'.length))
  if (THROTTLE_OPTIONS.includes(name)) return name
  const known = THROTTLE_OPTIONS.map((option) => option.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`))
  throw new BlockError('EINVAL', `-drive: unknown key '${key}'; known are throttling. and one of ${known.join(', ')}`)
}

/** The library's name of an option of a format or a protocol. */
function imageOption(key: string): string {
  const options = [...formats, ...host.protocols].flatMap((driver) => driver.openOptions ?? [])
  const name = camel(key)
  if (options.includes(name) && !key.includes('.')) return name
  throw new BlockError(
    'EINVAL',
    `-drive: unknown key '${key}'; known are ${[...Object.keys(KEYS), ...Object.keys(DEVICE_KEYS)].join(', ')}, throttling.* and the format's own`,
  )
}

function imageValue(value: string): unknown {
  if (['on', 'yes', 'true'].includes(value)) return true
  if (['off', 'no', 'false'].includes(value)) return false
  return parseSize(value) ?? value
}
