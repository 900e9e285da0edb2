/** Changes what kind of image an image is: its version, its refcounts' width, its backing file; and allocates ahead. */
import { BlockError } from '../../error.ts'
import { zeroVec } from '../../iovec.ts'
import type { ImageDevice } from '../../mover.ts'
import { AUTOCLEAR_BITMAPS, AUTOCLEAR_DATA_FILE_RAW, COMPATIBLE_LAZY_REFCOUNTS, INCOMPATIBLE_DIRTY } from './header.ts'
import type { Qcow2Image } from './image.ts'
import { HeaderLost, switchHeader, switchNames } from './switch.ts'
import { Budget, endOfUse, loadCounts, Tally, tallyLimit, writeCounts } from './tally.ts'

/** What may be changed; what is absent stays. */
export interface Qcow2AmendOptions {
  readonly compat?: '0.10' | '1.1' | 'v2' | 'v3'
  readonly lazyRefcounts?: boolean
  /** Bits of a refcount: a power of two from 1 to 64. */
  readonly refcountBits?: number
  readonly dataFileRaw?: boolean
}

/** Changes the image; a power cut leaves it as it was, or with some of the changes made. */
export async function amendQcow2(device: ImageDevice, options: Qcow2AmendOptions): Promise<void> {
  const image = device.image as Qcow2Image
  const { header, name } = image
  const refuse = (why: string, code: 'EINVAL' | 'ENOTSUP' = 'EINVAL') =>
    new BlockError(code, `Cannot amend ${name}: ${why}`)
  const { compat } = options
  const version = compat === undefined ? header.version : compat === '0.10' || compat === 'v2' ? 2 : 3
  const bits = options.refcountBits ?? 2 ** header.refcountOrder
  const order = Math.log2(bits)
  if (!Number.isInteger(order) || order < 0 || order > 6) throw refuse(`the refcount width is ${bits}`)
  if (version === 2 && options.lazyRefcounts) throw refuse('lazy refcounts need compat=1.1')
  if (version === 2 && bits !== 16) throw refuse('a refcount width other than 16 needs compat=1.1')
  if (options.dataFileRaw === true && (header.autoclear & AUTOCLEAR_DATA_FILE_RAW) === 0n) {
    throw refuse('data_file_raw cannot be set on an existing image')
  }
  if (version === 3 && header.version === 2) {
    await image.atRest(() => switchNames(name, image.file, header, { version: 3, headerLength: 112 }))
  }
  if (options.lazyRefcounts !== undefined && version === 3) {
    await image.atRest(async () => {
      const rest = header.compatible & ~COMPATIBLE_LAZY_REFCOUNTS
      const compatible = options.lazyRefcounts ? rest | COMPATIBLE_LAZY_REFCOUNTS : rest
      await switchHeader(name, image.file, header, { compatible })
    })
  }
  if (options.dataFileRaw === false) {
    await image.atRest(async () => {
      await switchHeader(name, image.file, header, { autoclear: header.autoclear & ~AUTOCLEAR_DATA_FILE_RAW })
    })
  }
  if (order !== header.refcountOrder) await image.atRest(() => widen(image, order))
  if (version === 2 && header.version === 3) await downgrade(device, refuse)
}

/** Names another backing file, or none, and does nothing else: what the disk shows may change. */
export async function changeBacking(image: Qcow2Image, file: string | undefined, format?: string): Promise<void> {
  await image.nameBacking(file, format)
}

/** Gives refcounts another width, in a new structure. */
async function widen(image: Qcow2Image, order: number): Promise<void> {
  const { header, file, name, clusterSize } = image
  const counts = new Tally(new Budget(tallyLimit(await file.allocated())))
  const { blocks } = await loadCounts(file, header, counts)
  for (const block of blocks) counts.add(block / clusterSize, -1)
  for (let each = 0; each < header.refcountTableClusters; each++) {
    counts.add(header.refcountTableOffset / clusterSize + each, -1)
  }
  const size = file.size
  const first = endOfUse(name, file, header, counts)
  try {
    const made = await writeCounts(name, file, { ...header, refcountOrder: order }, counts, first)
    await file.flush()
    const { refcountTableOffset, refcountTableClusters } = made
    await switchHeader(name, file, header, { refcountOrder: order, refcountTableOffset, refcountTableClusters })
  } catch (error) {
    if (!(error instanceof HeaderLost) && file.size > size) await file.resize(size)
    throw error
  }
}

async function downgrade(device: ImageDevice, refuse: (why: string, code?: 'ENOTSUP') => BlockError): Promise<void> {
  const image = device.image as Qcow2Image
  const { header } = image
  const incompatible = header.incompatible & ~INCOMPATIBLE_DIRTY
  if (incompatible !== 0n) throw refuse('it uses features that compat=0.10 does not have', 'ENOTSUP')
  if (header.refcountOrder !== 4) throw refuse('compat=0.10 needs refcounts of 16 bits', 'ENOTSUP')
  if (header.bitmaps !== undefined && (header.autoclear & AUTOCLEAR_BITMAPS) !== 0n) {
    throw refuse('it has bitmaps, which compat=0.10 does not have', 'ENOTSUP')
  }
  for (const { id } of await image.snapshots()) {
    const view = await image.snapshotView(id)
    for (let at = 0; at < view.size; ) {
      const found = await view.map(at, view.size - at)
      if (found.kind === 'zero')
        throw refuse(`snapshot ${id} has zero clusters, which compat=0.10 does not have`, 'ENOTSUP')
      at += found.length
    }
  }
  const backed = Math.min(image.backing?.size ?? 0, image.size)
  for (let at = 0; at < image.size; ) {
    const found = await image.map(at, Math.min(image.size - at, 1 << 20))
    if (found.kind === 'zero') {
      if (at < backed) await device.write(at, zeroVec(found.length))
      else await image.clusters.drop(at, found.length)
    }
    at += found.length
  }
  await image.atRest(() =>
    switchNames(image.name, image.file, header, {
      version: 2,
      headerLength: 72,
      compatible: 0n,
      autoclear: 0n,
      incompatible: 0n,
      rest: new Uint8Array(0),
    }),
  )
}

/** Allocates the whole disk ahead: its map alone, its space in the file too, or with zeroes written everywhere. */
export async function preallocate(device: ImageDevice, mode: 'metadata' | 'falloc' | 'full', from = 0): Promise<void> {
  const image = device.image as Qcow2Image
  for (let at = from - (from % image.clusterSize); at < image.size; ) {
    const found = await image.map(at, Math.min(image.size - at, 64 << 20))
    if (found.kind === 'raw') {
      at += found.length
      continue
    }
    const space = await image.allocate(at, found.length)
    const file = space.file ?? image.file
    if (mode === 'falloc') await file.zero(space.at, space.length)
    if (mode === 'full' || !space.zeroed) await file.write(space.at, zeroVec(space.length))
    await space.link()
    at = space.start + space.length
  }
  await device.flush()
}
