/** Uses of host clusters, counted anew; and a refcount structure made of them, beside the old one. */
import type { BlockDevice } from '../../device.ts'
import { BlockError } from '../../error.ts'
import { bytesVec } from '../../iovec.ts'
import { readPadded } from '../../mover.ts'
import { type Header, MAX_REFCOUNT_TABLE_BYTES } from './header.ts'
import { maxCount, readCount, writeCount } from './refcounts.ts'

const CHUNK = 256
/** Memory of a chunk with what leads to it, bytes. */
const CHUNK_COST = 760
/** Memory of an entry of a map or a set, bytes. */
export const ENTRY_COST = 40
const LEAST_LIMIT = 32 << 20
const MOST_LIMIT = 2 ** 31
/** What of metadata is told from a hole, bytes. */
const PIECE = 4096
/**
 * Memory that a byte of metadata earns. An L2 table of 4 KiB leads to four chunks of uses and counts, a refcount block of 4 KiB with
 * 16 bits each to 16: mostly that is less than it earns, and what an image can take stays in proportion to what it really has.
 */
const EARNINGS = 4

/** Memory, bytes, that may be taken for an image whose file takes `allocated` bytes, before any metadata is read: see {@link Budget}. */
export function tallyLimit(allocated: number): number {
  return Math.min(MOST_LIMIT / 2, Math.max(LEAST_LIMIT, allocated / 1024))
}

/**
 * Memory that some tallies share: a sum for all images, and more for each piece of metadata that is there. So a large image may take
 * much, but a small one that only says that it is large may not.
 */
export class Budget {
  readonly #earned = new Set<number>()
  #limit: number
  #left: number

  /** `limit` is the most memory that they take before any is earned, bytes; EFBIG is thrown where that is too little. */
  constructor(limit: number) {
    this.#limit = limit
    this.#left = limit
  }

  take(bytes: number): void {
    this.#left -= bytes
    if (this.#left >= 0) return
    throw new BlockError(
      'EFBIG',
      `Cannot count clusters: they lie too far apart for ${Math.floor(this.#limit / 2 ** 20)} MiB of memory`,
    )
  }

  /** More may be taken for the metadata `bytes` that were read at `offset`: once for each piece of the file, and not for zeroes. */
  earn(offset: number, bytes: Uint8Array): void {
    for (let from = 0, to = 0; from < bytes.length && this.#limit < MOST_LIMIT; from = to) {
      const piece = Math.floor((offset + from) / PIECE)
      to = (piece + 1) * PIECE - offset
      if (this.#earned.has(piece) || !bytes.subarray(from, to).some((byte) => byte !== 0)) continue
      this.#earned.add(piece)
      this.#limit += PIECE * EARNINGS - ENTRY_COST
      this.#left += PIECE * EARNINGS - ENTRY_COST
    }
  }
}

/** A sparse array of counts, two bytes each where they are small. */
export class Tally {
  readonly budget: Budget
  readonly #chunks = new Map<number, Uint16Array>()
  readonly #large = new Map<number, number>()
  #end = 0

  constructor(budget: Budget) {
    this.budget = budget
  }

  /** One more than the last cluster that was counted. */
  get end(): number {
    return this.#end
  }

  get(cluster: number): number {
    const count = this.#chunks.get(Math.floor(cluster / CHUNK))?.[cluster % CHUNK] ?? 0
    return count === 0xffff ? this.#large.get(cluster)! : count
  }

  set(cluster: number, count: number): void {
    const key = Math.floor(cluster / CHUNK)
    let chunk = this.#chunks.get(key)
    if (chunk === undefined) {
      if (count === 0) return
      this.budget.take(CHUNK_COST)
      this.#chunks.set(key, (chunk = new Uint16Array(CHUNK)))
    }
    if (count >= 0xffff) {
      if (!this.#large.has(cluster)) this.budget.take(ENTRY_COST)
      this.#large.set(cluster, count)
    }
    chunk[cluster % CHUNK] = Math.min(count, 0xffff)
    if (count > 0 && cluster >= this.#end) this.#end = cluster + 1
  }

  add(cluster: number, uses = 1): void {
    this.set(cluster, this.get(cluster) + uses)
  }

  /** Calls `visit` with every cluster whose count is not 0, in no order. */
  forEach(visit: (cluster: number, count: number) => void): void {
    for (const [key, chunk] of this.#chunks) {
      for (let index = 0; index < CHUNK; index++) {
        if (chunk[index] !== 0) visit(key * CHUNK + index, this.get(key * CHUNK + index))
      }
    }
  }

  /** The clusters that this or `other` counts, in their order. */
  *either(other: Tally): Generator<number> {
    const keys = new Set([...this.#chunks.keys(), ...other.#chunks.keys()])
    for (const key of Float64Array.from(keys).sort()) {
      const one = this.#chunks.get(key)
      const two = other.#chunks.get(key)
      for (let index = 0; index < CHUNK; index++) {
        if ((one !== undefined && one[index] !== 0) || (two !== undefined && two[index] !== 0))
          yield key * CHUNK + index
      }
    }
  }
}

/** Adds to `counts` what the image's own refcounts say. Blocks that cannot be read as such are left out. */
export async function loadCounts(file: BlockDevice, header: Header, counts: Tally): Promise<{ blocks: number[] }> {
  const clusterSize = 2 ** header.clusterBits
  const perBlock = (clusterSize * 8) / 2 ** header.refcountOrder
  const table = new Uint8Array(header.refcountTableClusters * clusterSize)
  await readPadded(file, header.refcountTableOffset, bytesVec(table))
  const view = new DataView(table.buffer)
  const blocks: number[] = []
  const seen = new Set<number>()
  for (let index = 0; index * 8 < table.length; index++) {
    const high = view.getUint32(index * 8)
    const offset = high * 2 ** 32 + view.getUint32(index * 8 + 4)
    if (offset === 0) continue
    if (offset % clusterSize !== 0 || offset >= file.size || seen.has(offset)) continue
    seen.add(offset)
    blocks.push(offset)
    await loadBlock(file, header, offset, index * perBlock, counts)
  }
  return { blocks }
}

/** Adds to `counts` what the refcount block at `offset` says, whose first cluster is `first`. */
export async function loadBlock(
  file: BlockDevice,
  header: Header,
  offset: number,
  first: number,
  counts: Tally,
): Promise<void> {
  const clusterSize = 2 ** header.clusterBits
  const length = Math.min(clusterSize, file.size - offset)
  const extent = await file.status(offset, length)
  if (extent.kind !== 'data' && extent.length >= length) return
  const bytes = new Uint8Array(clusterSize)
  await readPadded(file, offset, bytesVec(bytes))
  counts.budget.earn(offset, bytes)
  const most = (clusterSize * 8) / 2 ** header.refcountOrder
  for (let index = 0; index < most; index++) {
    const count = readCount(bytes, header.refcountOrder, index)
    if (count !== 0) counts.set(first + index, count)
  }
}

/** Clusters after the file's end that may be counted, as a crash leaves them. */
const MAX_BEYOND = 1 << 16

/** The first cluster after all that are in use. EIO if counts lie far after the end of the file. */
export function endOfUse(name: string, file: BlockDevice, header: Header, counts: Tally): number {
  const end = Math.ceil(file.size / 2 ** header.clusterBits)
  if (counts.end > end + MAX_BEYOND) {
    throw new BlockError(
      'EIO',
      `${name} is corrupt: cluster ${counts.end - 1} is counted, far after the end of the file`,
    )
  }
  return Math.max(end, counts.end)
}

/** A refcount structure that is on the medium, but that no header shows yet. */
export interface NewRefcounts {
  readonly refcountTableOffset: number
  readonly refcountTableClusters: number
  /** End of the structure, bytes. */
  readonly end: number
}

/**
 * Writes a whole refcount structure for `counts`, which must not count any refcount structure, from cluster `first` on, after
 * all that is in use. EFBIG if a count has too many bits or the table would pass its limit. Not yet durable.
 */
export async function writeCounts(
  name: string,
  file: BlockDevice,
  header: Header,
  counts: Tally,
  first: number,
): Promise<NewRefcounts> {
  const clusterSize = 2 ** header.clusterBits
  const { refcountOrder } = header
  const perBlock = (clusterSize * 8) / 2 ** refcountOrder
  const used = new Set<number>()
  const most = maxCount(refcountOrder)
  let entries = 0
  const use = (block: number) => {
    if ((block + 1) * 8 > MAX_REFCOUNT_TABLE_BYTES) {
      throw new BlockError('EFBIG', `Cannot count the clusters of ${name}: its refcount table would pass 8 MiB`)
    }
    used.add(block)
    entries = Math.max(entries, block + 1)
  }
  counts.forEach((cluster, count) => {
    if (count > most) {
      throw new BlockError(
        'EFBIG',
        `Cannot count the clusters of ${name}: ${count} uses are too many for its refcounts`,
      )
    }
    use(Math.floor(cluster / perBlock))
  })
  let tableClusters = 1
  for (;;) {
    const total = tableClusters + used.size
    const last = first + total - 1
    let grown = false
    for (let block = Math.floor(first / perBlock); block <= Math.floor(last / perBlock); block++) {
      if (used.has(block)) continue
      use(block)
      grown = true
    }
    const needed = Math.ceil((entries * 8) / clusterSize)
    if (needed > tableClusters) {
      tableClusters = needed
      grown = true
    }
    if (!grown) break
  }
  const blocks = [...used].sort((a, b) => a - b)
  const end = first + tableClusters + blocks.length
  const table = new Uint8Array(tableClusters * clusterSize)
  const view = new DataView(table.buffer)
  if (file.size < end * clusterSize) await file.resize(end * clusterSize)
  const bytes = new Uint8Array(clusterSize)
  for (const [order, block] of blocks.entries()) {
    const place = first + tableClusters + order
    view.setUint32(block * 8, Math.floor((place * clusterSize) / 2 ** 32))
    view.setUint32(block * 8 + 4, (place * clusterSize) >>> 0)
    for (let index = 0; index < perBlock; index++) {
      const cluster = block * perBlock + index
      const own = cluster >= first && cluster < end ? 1 : 0
      writeCount(bytes, refcountOrder, index, counts.get(cluster) + own)
    }
    await file.write(place * clusterSize, bytesVec(bytes))
  }
  await file.write(first * clusterSize, bytesVec(table))
  return { refcountTableOffset: first * clusterSize, refcountTableClusters: tableClusters, end: end * clusterSize }
}
