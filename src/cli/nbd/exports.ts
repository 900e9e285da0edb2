/** What `block86 nbd` serves: opens its images and puts in front of them what the options ask for. */
import { host } from '#host'
import { asDevice, type BlockDevice } from '../../block/device.ts'
import type { CacheMode } from '../../block/disk.ts'
import { messageOf } from '../../block/error.ts'
import { withModes } from '../../block/filters/cachemode.ts'
import { DetectZeroes } from '../../block/filters/detect-zeroes.ts'
import { Overlay } from '../../block/filters/overlay.ts'
import { BITMAP_IN_USE } from '../../block/formats/qcow2/bitmaptable.ts'
import { Qcow2Image } from '../../block/formats/qcow2/image.ts'
import { imageDriver } from '../../block/mover.ts'
import { openImage } from '../../block/open.ts'
import { allocationDepth, dirtyBitmap, type MetaContext } from '../../block/protocols/nbd/export.ts'
import type { NbdExport } from '../../block/protocols/nbd/server.ts'
import { type Parsed, UsageError } from '../getopt.ts'
import type { Console } from '../img/console.ts'
import { type Opened, openPlace, placeOf, warnOfRaw } from '../img/open.ts'
import { frontOf } from '../io/open.ts'
import { parseKeyValues } from '../node-options.ts'
import type { Objects } from '../objects.ts'

const CACHES = ['none', 'writeback', 'writethrough', 'directsync', 'unsafe'] as const

/** The modes among the options, checked. */
export interface Modes {
  readonly cache: CacheMode | undefined
  readonly aio: 'threads' | 'io_uring' | 'native' | undefined
  readonly discard: 'ignore' | 'unmap'
  readonly detectZeroes: 'off' | 'on' | 'unmap'
  readonly offset: number
}

/** Reads the modes; a wrong one is a UsageError. */
export function modesOf(args: Parsed): Modes {
  if (args.all('cache').length + args.all('nocache').length > 1)
    throw new UsageError('-n and --cache can only be specified once')
  if (args.all('aio').length > 1) throw new UsageError('--aio can only be specified once')
  const cache = args.has('nocache') ? 'none' : args.last('cache')
  const aio = args.last('aio')
  const discard = args.last('discard') ?? 'ignore'
  const zeroes = args.last('detect-zeroes') ?? 'off'
  const offset = args.last('offset') ?? '0'
  if (cache !== undefined && !(CACHES as readonly string[]).includes(cache === 'off' ? 'none' : cache))
    throw new UsageError(`Invalid cache mode \`${cache}'`)
  if (aio !== undefined && !['threads', 'native', 'io_uring'].includes(aio))
    throw new UsageError(`Invalid aio mode '${aio}'`)
  if (!['ignore', 'off', 'unmap', 'on'].includes(discard)) throw new UsageError(`Invalid discard mode \`${discard}'`)
  if (!['off', 'on', 'unmap'].includes(zeroes))
    throw new UsageError(`Failed to parse detect_zeroes mode: invalid parameter value: ${zeroes}`)
  const unmap = discard === 'unmap' || discard === 'on'
  if (zeroes === 'unmap' && !unmap)
    throw new UsageError('setting detect-zeroes to unmap is not allowed without setting discard operation to unmap')
  if (!/^(0x[0-9a-f]+|\d+)$/i.test(offset)) throw new UsageError(`Invalid offset '${offset}'`)
  return {
    cache: (cache === 'off' ? 'none' : cache) as Modes['cache'],
    aio: aio as Modes['aio'],
    discard: unmap ? 'unmap' : 'ignore',
    detectZeroes: zeroes as Modes['detectZeroes'],
    offset: Number(offset),
  }
}

/** One image, open, as it is exported. */
export interface Served {
  readonly item: NbdExport
  close(): Promise<void>
}

/** Opens `file` as the options say. */
export async function openServed(
  args: Parsed,
  objects: Objects,
  console: Console,
  file: string,
  { name, description }: { name: string; description: string | undefined },
): Promise<Served> {
  const modes = modesOf(args)
  const snapshot = args.last('load-snapshot')
  const readOnly = args.has('read-only') || args.has('snapshot') || snapshot !== undefined
  const place = placeOf(file, args.has('image-opts'))
  const opened = await open(args, objects, console, file, place, modes, readOnly)
  try {
    let device = snapshot === undefined ? frontOf(opened, place) : await snapshotOf(opened, snapshot)
    const image = opened.image
    const contexts: MetaContext[] = args.has('allocation-depth') ? [allocationDepth(device)] : []
    for (const bitmap of args.all('bitmap')) contexts.push(await bitmapOf(image, bitmap))
    if (modes.offset > 0) {
      if (modes.offset > device.size)
        throw new UsageError(`Offset (${modes.offset}) has to be smaller than the image size (${device.size})`)
      device = await openImage(device, { format: 'raw', offset: modes.offset, readOnly })
    }
    if (args.has('snapshot')) device = asDevice(new Overlay(device, asDevice(await host.temporaryFile())))
    if (modes.detectZeroes !== 'off') device = asDevice(new DetectZeroes(device, modes.detectZeroes === 'unmap'))
    device = withModes(device, modes.cache, modes.discard)
    const served = device
    return {
      item: {
        name,
        device,
        readOnly: args.has('read-only') || snapshot !== undefined,
        // Who may not come twice is not to be told that it may.
        multiConn: args.last('shared') !== undefined && args.last('shared') !== '1',
        ...(description === undefined ? {} : { description }),
        contexts,
      },
      async close() {
        if (!served.readOnly) await served.flush()
        await served.close()
        if (snapshot !== undefined) await opened.close()
      },
    }
  } catch (error) {
    await opened.close()
    throw error
  }
}

async function open(
  args: Parsed,
  objects: Objects,
  console: Console,
  file: string,
  place: ReturnType<typeof placeOf>,
  modes: Modes,
  readOnly: boolean,
): Promise<Opened> {
  const format = args.last('format')
  try {
    const opened = await openPlace(
      place,
      file,
      format,
      {
        readOnly,
        ...(modes.cache === undefined ? {} : { cache: modes.cache }),
        ...(modes.aio === undefined ? {} : { aio: modes.aio }),
        nodes: { objects },
      },
      [],
    )
    if (format === undefined && typeof place === 'string' && opened.format === 'raw' && !readOnly)
      warnOfRaw(console, file)
    return opened
  } catch (error) {
    throw new UsageError(`Failed to blk_new_open '${file}': ${messageOf(error)}`)
  }
}

/** The disk as the snapshot has it that `text` names: an ID or a name, or `snapshot.id=…,snapshot.name=…`. */
async function snapshotOf(opened: Opened, text: string): Promise<BlockDevice> {
  const { image } = opened
  if (!(image instanceof Qcow2Image)) {
    throw new UsageError(
      `Failed to load snapshot: Block format '${opened.format}' used by device '' does not support temporarily loading internal snapshots`,
    )
  }
  const wanted = text.startsWith('snapshot.') ? new Map(parseKeyValues(text)) : undefined
  for (const key of wanted?.keys() ?? []) {
    if (key !== 'snapshot.id' && key !== 'snapshot.name') throw new UsageError(`Invalid parameter '${key}'`)
  }
  const [id, name] = [wanted?.get('snapshot.id'), wanted?.get('snapshot.name')]
  const all = await image.snapshots()
  const found =
    wanted === undefined
      ? (all.find((each) => each.id === text) ?? all.find((each) => each.name === text))
      : all.find((each) => (id === undefined || each.id === id) && (name === undefined || each.name === name))
  if (found === undefined) throw new UsageError("Failed to load snapshot: Can't find snapshot")
  return asDevice(imageDriver(await image.snapshotView(found.id)))
}

async function bitmapOf(image: unknown, name: string): Promise<MetaContext> {
  const entry = image instanceof Qcow2Image ? image.bitmaps.list.find((each) => each.name === name) : undefined
  if (entry === undefined) throw new UsageError(`Bitmap '${name}' is not found`)
  if (entry.flags & BITMAP_IN_USE)
    throw new UsageError(
      `Bitmap '${name}' is inconsistent and cannot be used\nTry block-dirty-bitmap-remove to delete this bitmap from disk`,
    )
  const bits = await (image as Qcow2Image).bitmaps.bits(name)
  return dirtyBitmap(name, bits, 2 ** entry.granularityBits)
}
