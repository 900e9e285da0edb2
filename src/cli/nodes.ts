/** Opens block nodes from names and option trees, as the tools' command lines give them. */
import { readFileSync } from 'node:fs'
import { host } from '#host'
import { asDevice, type BlockDevice } from '../block/device.ts'
import { BlockError, errnoOf } from '../block/error.ts'
import { Blkdebug, type BlkdebugOptions, parseBlkdebug } from '../block/filters/blkdebug.ts'
import { Blklogwrites } from '../block/filters/blklogwrites.ts'
import { Blkverify } from '../block/filters/blkverify.ts'
import { withModes } from '../block/filters/cachemode.ts'
import { CopyOnRead } from '../block/filters/copy-on-read.ts'
import { DetectZeroes } from '../block/filters/detect-zeroes.ts'
import { THROTTLE_OPTIONS, Throttle, type ThrottleOptions } from '../block/filters/throttle.ts'
import { refuseUnknown } from '../block/format.ts'
import { formats } from '../block/formats/index.ts'
import { type ImageOptions, openImage } from '../block/open.ts'
import { Null } from '../block/protocols/null.ts'
import { fileReason, Reason, strerror } from './img/reasons.ts'
import { clientTls } from './nbd/tls.ts'
import { type OptionTree, parseFileName, parseKeyValues, treeOf } from './node-options.ts'
import { type Objects, objectOf } from './objects.ts'
import { parseSize } from './units.ts'

/** How a node and all below it is opened where its own options do not say. */
export interface NodeDefaults extends Pick<ImageOptions, 'format' | 'readOnly' | 'cache' | 'aio' | 'locking' | 'gate'> {
  /** What `throttle-group=` and the like refer to. */
  objects?: Objects
  /** Hears what filters have to say while they work. */
  log?: (text: string) => void
  /** Told of an image that may be written and that was guessed to be raw. */
  warnOfRaw?: (name: string) => void
}

/** The part of the defaults that an image is opened with. */
function ownOptions({ objects, log, warnOfRaw, ...rest }: NodeDefaults): ImageOptions {
  return rest
}

type Open = (options: OptionTree, defaults: NodeDefaults) => Promise<BlockDevice>

/** Opens what a tool was given as its file: a name, or with `--image-opts` an option string. */
export async function openNode(name: string, defaults: NodeDefaults, imageOptions = false): Promise<BlockDevice> {
  const node = imageOptions ? treeOf(parseKeyValues(name)) : parseFileName(name)
  return typeof node === 'string' ? openImage(node, ownOptions(defaults)) : openTree(node, defaults)
}

/** Opens an option tree: a protocol, a filter or a format by its `driver`, or what `filename` names. */
export async function openTree(tree: OptionTree, defaults: NodeDefaults): Promise<BlockDevice> {
  const device = await openDriver(tree, defaults)
  try {
    return withNodeModes(device, tree)
  } catch (error) {
    await device.close()
    throw error
  }
}

/** The device behind what its node's `detect-zeroes` and `discard` ask for. */
export function withNodeModes(device: BlockDevice, tree: OptionTree): BlockDevice {
  const zeroes = choice(tree, 'detect-zeroes', ['off', 'on', 'unmap'], (value) => `invalid parameter value: ${value}`)
  const discard = choice(tree, 'discard', ['ignore', 'unmap', 'off', 'on'], () => 'Invalid discard option')
  const unmap = discard === undefined || discard === 'unmap' || discard === 'on'
  const kept = withModes(device, undefined, unmap ? 'unmap' : 'ignore')
  if (zeroes === undefined || zeroes === 'off' || device.readOnly) return kept
  return asDevice(new DetectZeroes(kept, zeroes === 'unmap'))
}

function choice(
  tree: OptionTree,
  key: string,
  values: readonly string[],
  wrong: (value: unknown) => string,
): string | undefined {
  const value = tree[key]
  if (value === undefined) return undefined
  if (typeof value === 'string' && values.includes(value)) return value
  throw new BlockError('EINVAL', wrong(value))
}

async function openDriver(tree: OptionTree, defaults: NodeDefaults): Promise<BlockDevice> {
  const { driver, ...options } = tree
  const common = takeCommon(options, defaults)
  if (driver === undefined && typeof options.filename === 'string' && options.file === undefined) {
    const { filename, ...rest } = options
    if (Object.keys(rest).length === 0) return openNamed(filename, common)
    return openImage(filename, { ...ownOptions(common), ...typed(rest) })
  }
  if (driver === undefined) return openFormat(common.format ?? 'probe', options, common)
  if (typeof driver !== 'string') throw new BlockError('EINVAL', "Parameter 'driver' is not a string")
  const open = special[driver]
  if (open !== undefined) return open(options, common)
  if (formats.some((format) => format.name === driver)) return openFormat(driver, options, common)
  throw new BlockError('EINVAL', `Unknown driver '${driver}'`)
}

/** Takes the options that every node has out of `options`. */
function takeCommon(options: OptionTree, defaults: NodeDefaults): NodeDefaults {
  const common: NodeDefaults = { ...defaults }
  const readOnly = take(options, 'read-only')
  if (readOnly !== undefined) common.readOnly = flag(readOnly, 'read-only')
  const direct = flag(take(options.cache, 'direct') ?? 'off', 'cache.direct')
  const noFlush = flag(take(options.cache, 'no-flush') ?? 'off', 'cache.no-flush')
  delete options.cache
  if (direct) common.cache = 'none'
  if (noFlush) common.cache = 'unsafe'
  const aio = take(options, 'aio')
  if (aio !== undefined) common.aio = aio as NonNullable<ImageOptions['aio']>
  const locking = take(options, 'locking')
  if (locking !== undefined) common.locking = locking as NonNullable<ImageOptions['locking']>
  for (const ignored of ['auto-read-only', 'force-share', 'node-name', 'discard', 'detect-zeroes'])
    delete options[ignored]
  return common
}

function take(tree: OptionTree[string] | undefined, key: string): OptionTree[string] | undefined {
  if (typeof tree !== 'object' || Array.isArray(tree)) return undefined
  const value = tree[key]
  delete tree[key]
  return value
}

function flag(value: unknown, key: string): boolean {
  if (value === true || value === 'on' || value === 'yes' || value === 'true') return true
  if (value === false || value === 'off' || value === 'no' || value === 'false') return false
  throw new BlockError('EINVAL', `Parameter '${key}' expects 'on' or 'off'`)
}

/** Options by their library names and types: `l2-cache-size=1M` is `l2CacheSize: 1048576`. */
export function typed(options: OptionTree): Record<string, unknown> {
  return Object.fromEntries(Object.entries(options).map(([key, value]) => [camel(key), typedValue(value)]))
}

function camel(key: string): string {
  return key.replace(/[-_]([a-z0-9])/g, (_, letter: string) => letter.toUpperCase())
}

function typedValue(value: OptionTree[string]): unknown {
  if (typeof value === 'object') return Array.isArray(value) ? value.map(typedValue) : typed(value)
  if (typeof value !== 'string') return value
  if (/^(on|yes|true)$/.test(value)) return true
  if (/^(off|no|false)$/.test(value)) return false
  return parseSize(value) ?? value
}

async function openFormat(format: string, options: OptionTree, defaults: NodeDefaults): Promise<BlockDevice> {
  const { file, backing, ...own } = options
  if (file === undefined) throw new BlockError('EINVAL', `A block device must be specified for "file"`)
  const below = await openChild(file, { ...defaults, format: 'raw' })
  try {
    const over = backing === undefined ? undefined : await openChild(backing, { ...defaults, readOnly: true })
    return await openImage(below, {
      ...ownOptions(defaults),
      format,
      ...typed(own),
      ...(over ? { backing: over } : {}),
    })
  } catch (error) {
    await below.close()
    throw error
  }
}

/** Opens a name as the defaults' format: raw is what stands at the bottom. */
async function openNamed(name: string, defaults: NodeDefaults): Promise<BlockDevice> {
  const { format } = defaults
  if (format === 'raw') return openBare(name, defaults)
  const opened = await openImage(name, ownOptions(defaults))
  if (format === 'probe' && opened.name === 'raw' && !opened.readOnly) defaults.warnOfRaw?.(name)
  return opened
}

/** Opens what stands at the bottom: a file as it is, or what a URL names. */
async function openBare(name: string, defaults: NodeDefaults): Promise<BlockDevice> {
  const plain = name.replace(/^file:(?:\/\/(?=\/))?/, '')
  if (plain === name && /^[a-z][a-z0-9+.-]*:/i.test(name.split('/', 1)[0]!))
    return openImage(name, { ...ownOptions(defaults), format: 'raw' })
  const { readOnly, cache, aio, locking } = defaults
  try {
    return asDevice(
      await host.openFile(plain, {
        readOnly: readOnly === true,
        direct: cache === 'none' || cache === 'directsync',
        ...(aio === undefined ? {} : { aio }),
        ...(locking === undefined ? {} : { locking }),
      }),
    )
  } catch (error) {
    throw new Reason(errnoOf(error), fileReason(error, plain, readOnly === true))
  }
}

function openChild(child: OptionTree[string], defaults: NodeDefaults): Promise<BlockDevice> {
  const node = typeof child === 'string' ? parseFileName(child) : child
  if (typeof node === 'string') return openNamed(node, defaults)
  if (typeof node === 'object' && !Array.isArray(node)) return openTree(node, defaults)
  throw new BlockError('EINVAL', 'A block device reference is neither a name nor an object')
}

function childOf(options: OptionTree, key: string, driver: string): OptionTree[string] {
  const child = options[key]
  if (child === undefined) throw new BlockError('EINVAL', `${driver}: a block device must be specified for "${key}"`)
  delete options[key]
  return child
}

function refuseRest(options: OptionTree, driver: string): void {
  const [key] = Object.keys(options)
  if (key !== undefined)
    throw new BlockError('EINVAL', `Block protocol '${driver}' doesn't support the option '${key}'`)
}

const openFile: Open = async (options, defaults) => {
  const { filename, ...rest } = options
  if (typeof filename !== 'string') throw new BlockError('EINVAL', "The 'file' block driver requires a file name")
  refuseRest(rest, 'file')
  return openBare(filename, defaults)
}

const openNbd: Open = async (options, defaults) => {
  const { host, port, path, uri, export: name, server, 'tls-creds': creds, 'tls-hostname': hostname, ...rest } = options
  const place = (typeof server === 'object' && !Array.isArray(server) ? server : { host, port, path }) as OptionTree
  const exportName = encodeURIComponent(typeof name === 'string' ? name : '')
  const scheme = creds === undefined ? 'nbd' : 'nbds'
  const url =
    typeof uri === 'string'
      ? uri
      : place.path !== undefined
        ? `${scheme}+unix:///${exportName}?socket=${encodeURIComponent(String(place.path))}`
        : `${scheme}://${place.host ?? 'localhost'}:${place.port ?? 10809}/${exportName}`
  const tls =
    typeof creds === 'string'
      ? { tls: clientTls(defaults.objects ?? new Map(), creds, typeof hostname === 'string' ? hostname : undefined) }
      : {}
  return openImage(url, { ...ownOptions(defaults), format: 'raw', ...typed(rest), ...tls })
}

/** A list of rules: given as a list, or as children `0`, `1`, … of an option string. */
function rules(value: OptionTree[string] | undefined): Record<string, unknown>[] {
  if (value === undefined || typeof value !== 'object') return []
  return (Array.isArray(value) ? value : Object.values(value)).map((rule) => typed(rule as OptionTree))
}

const openBlkdebug: Open = async (options, defaults) => {
  const child = childOf(options, 'image', 'blkdebug')
  const { config, align, 'inject-error': inject, 'set-state': states, ...rest } = options
  refuseRest(rest, 'blkdebug')
  let fromFile: BlkdebugOptions = {}
  if (typeof config === 'string') {
    try {
      fromFile = parseBlkdebug(readFileSync(config, 'utf8'), `blkdebug config file '${config}'`)
    } catch (error) {
      if (error instanceof BlockError) throw error
      throw new Reason(errnoOf(error), `Could not read blkdebug config file: ${strerror(error)}`)
    }
  }
  const below = await openChild(child, { ...defaults, format: 'raw' })
  return asDevice(
    new Blkdebug(below, {
      injectError: [...(fromFile.injectError ?? []), ...rules(inject)],
      setState: [...(fromFile.setState ?? []), ...(rules(states) as never[])],
      ...(defaults.log === undefined ? {} : { log: defaults.log }),
      ...(align === undefined ? {} : { align: Number(parseSize(String(align))) }),
    }),
  )
}

/** Opens two children; a failure of the second closes the first. */
async function openTwo(
  first: OptionTree[string],
  second: OptionTree[string],
  defaults: NodeDefaults,
): Promise<[BlockDevice, BlockDevice]> {
  const one = await openChild(first, defaults)
  try {
    return [one, await openChild(second, { ...defaults, format: 'raw' })]
  } catch (error) {
    await one.close()
    throw error
  }
}

const special: Readonly<Record<string, Open>> = {
  file: openFile,
  host_device: openFile,
  nbd: openNbd,
  'null-co': async (options) => asDevice(new Null(typed(options))),
  blkdebug: openBlkdebug,
  blkverify: async (options, defaults) => {
    const [test, raw] = [childOf(options, 'test', 'blkverify'), childOf(options, 'raw', 'blkverify')]
    refuseRest(options, 'blkverify')
    return asDevice(new Blkverify(...(await openTwo(test, raw, { ...defaults, format: 'probe' }))))
  },
  blklogwrites: async (options, defaults) => {
    const [file, log] = [childOf(options, 'file', 'blklogwrites'), childOf(options, 'log', 'blklogwrites')]
    const devices = await openTwo(file, log, defaults)
    return asDevice(new Blklogwrites(...devices, typed(options)))
  },
  'copy-on-read': async (options, defaults) => {
    const file = childOf(options, 'file', 'copy-on-read')
    refuseRest(options, 'copy-on-read')
    return asDevice(new CopyOnRead(await openChild(file, defaults)))
  },
  throttle: async (options, defaults) => {
    const file = childOf(options, 'file', 'throttle')
    const { 'throttle-group': group, ...rest } = options
    refuseRest(rest, 'throttle')
    if (typeof group !== 'string') throw new BlockError('EINVAL', 'Please specify a throttle group')
    if (!defaults.objects?.has(group)) throw new BlockError('ENOENT', `Throttle group '${group}' does not exist`)
    const limits = limitsOf(objectOf(defaults.objects, group, 'throttle-group'))
    return asDevice(new Throttle(await openChild(file, defaults), limits))
  },
}

/** The limits of a throttle group: `limits` of its own as `limits.iops-total` or, the old way, `x-iops-total`. */
function limitsOf(group: OptionTree): ThrottleOptions {
  const limits: Record<string, unknown> = typed((group.limits ?? {}) as OptionTree)
  for (const [key, value] of Object.entries(group)) {
    if (key.startsWith('x-')) Object.assign(limits, typed({ [key.slice(2)]: value }))
  }
  refuseUnknown(limits, THROTTLE_OPTIONS, 'Cannot throttle', 'limit')
  return limits as ThrottleOptions
}
