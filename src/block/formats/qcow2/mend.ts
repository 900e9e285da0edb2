/** Mends an image in place: each write leaves it no worse than it was. */
import type { BlockDevice } from '../../device.ts'
import { bytesVec } from '../../iovec.ts'
import { readPadded } from '../../mover.ts'
import { type Census, COPIED_BIT, Entry, readL2, tableAt } from './census.ts'
import { hex } from './findings.ts'
import { type Header, INCOMPATIBLE_DATA_FILE, l2EntrySize } from './header.ts'
import { readCount, writeCount } from './refcounts.ts'
import type { Tally } from './tally.ts'

/** Bytes of the file to be changed: what changed of them is written at once. */
class Piece {
  readonly at: number
  readonly bytes: Uint8Array
  #from = Number.POSITIVE_INFINITY
  #to = 0

  constructor(at: number, bytes: Uint8Array) {
    this.at = at
    this.bytes = bytes
  }

  touch(at: number, length: number): void {
    this.#from = Math.min(this.#from, at)
    this.#to = Math.max(this.#to, at + length)
  }

  async write(file: BlockDevice): Promise<boolean> {
    if (this.#to === 0) return false
    await file.write(this.at + this.#from, bytesVec(this.bytes.subarray(this.#from, this.#to)))
    return true
  }
}

/** Sets refcounts in the blocks that there are; clusters must come in their order. */
export class CountWriter {
  readonly #file: BlockDevice
  readonly #order: number
  readonly #clusterSize: number
  readonly #perBlock: number
  readonly #blockAt: (index: number) => number
  #index = -1
  #piece: Piece | undefined

  /** `blockAt` tells where a block is. */
  constructor(file: BlockDevice, header: Header, blockAt: (index: number) => number) {
    this.#file = file
    this.#order = header.refcountOrder
    this.#clusterSize = 2 ** header.clusterBits
    this.#perBlock = (this.#clusterSize * 8) / 2 ** header.refcountOrder
    this.#blockAt = blockAt
  }

  async set(cluster: number, count: number): Promise<void> {
    const index = Math.floor(cluster / this.#perBlock)
    if (this.#piece === undefined || index !== this.#index) {
      await this.#piece?.write(this.#file)
      const bytes = new Uint8Array(this.#clusterSize)
      const at = this.#blockAt(index)
      await readPadded(this.#file, at, bytesVec(bytes))
      this.#piece = new Piece(at, bytes)
      this.#index = index
    }
    const within = cluster % this.#perBlock
    if (readCount(this.#piece.bytes, this.#order, within) === count) return
    writeCount(this.#piece.bytes, this.#order, within, count)
    this.#piece.touch((within * 2 ** this.#order) >> 3, Math.max(1, (2 ** this.#order) >> 3))
  }

  /** Writes what is left, and makes all of it durable. */
  async finish(): Promise<void> {
    await this.#piece?.write(this.#file)
    this.#piece = undefined
    await this.#file.flush()
  }
}

/** A COPIED flag that is not as its cluster's refcount says. */
export interface WrongFlag {
  /** What is wrong, in words. */
  readonly what: string
  /** Whether it can be changed: it lies in a table and in nothing else, and says no cluster to be its own that has more uses. */
  readonly changeable: boolean
}

/**
 * Visits the flags of the active map that are wrong, and changes those for which `visit` answers yes. The counts must be durable:
 * a flag that were set before the refcount is 1 would let a writer change a cluster that others use.
 */
export async function mendFlags(
  file: BlockDevice,
  header: Header,
  census: Census,
  counts: Tally,
  visit: (flag: WrongFlag) => boolean,
): Promise<void> {
  const { l1Offset, l1Size } = header
  const clusterSize = 2 ** header.clusterBits
  const seen = new Set<number>()
  const bytes = new Uint8Array(l1Size * 8)
  await readPadded(file, l1Offset, bytesVec(bytes))
  const l1 = new Piece(l1Offset, bytes)
  const view = new DataView(bytes.buffer)
  let written = false
  for (let index = 0; index < l1Size; index++) {
    const offset = tableAt(bytes, index)
    if (offset === 0) continue
    const cluster = Math.floor(offset / clusterSize)
    const count = counts.get(cluster)
    const high = view.getUint32(index * 8)
    if (((high & COPIED_BIT) !== 0) !== (count === 1)) {
      const what = `L2 cluster: l1_index=${index} l1_entry=${hex(high, view.getUint32(index * 8 + 4))} refcount=${count}`
      const own = Math.floor((l1Offset + index * 8) / clusterSize)
      const alone = census.metadata.get(own) === 1 && !census.tables.has(own)
      if (visit({ what, changeable: alone && !(count === 1 && census.overflown.has(cluster)) })) {
        bytes[index * 8]! ^= 0x80
        l1.touch(index * 8, 8)
      }
    }
    const shown = offset % clusterSize === 0 ? (census.tables.get(cluster) ?? 0) : 0
    if (shown === 0 || seen.has(cluster)) continue
    if (shown > 1) seen.add(cluster)
    if (await mendTable(file, header, offset, census, counts, visit)) written = true
  }
  if (await l1.write(file)) written = true
  if (written) await file.flush()
}

async function mendTable(
  file: BlockDevice,
  header: Header,
  table: number,
  census: Census,
  counts: Tally,
  visit: (flag: WrongFlag) => boolean,
): Promise<boolean> {
  const bytes = await readL2(file, header, table)
  if (bytes === undefined) return false
  const clusterSize = 2 ** header.clusterBits
  const size = l2EntrySize(header)
  const external = (header.incompatible & INCOMPATIBLE_DATA_FILE) !== 0n
  const alone = census.changeable(table)
  const piece = new Piece(table, bytes)
  const entry = new Entry(bytes, header)
  for (let index = 0; index < clusterSize / size; index++) {
    entry.look(index)
    if (entry.kind !== 'cluster') continue
    // What is in a data file has no refcount: nobody else can use it.
    const cluster = Math.floor(entry.offset / clusterSize)
    const count = external ? 1 : counts.get(cluster)
    if (((entry.high & COPIED_BIT) !== 0) === (count === 1)) continue
    const what = `data cluster: l2_entry=${hex(entry.high, entry.low)} refcount=${count}`
    const changeable = !(count === 1 && !external && census.overflown.has(cluster))
    if (!visit({ what, changeable: alone && changeable })) continue
    bytes[index * size]! ^= 0x80
    piece.touch(index * size, 8)
  }
  return piece.write(file)
}

/** Takes a preallocated cluster that is misplaced out of an L2 entry: it reads as zeroes, or as its subclusters say, as before. */
export async function dropCluster(file: BlockDevice, header: Header, at: number): Promise<void> {
  const bytes = new Uint8Array(8)
  if (l2EntrySize(header) === 8) bytes[7] = 1
  await file.write(at, bytesVec(bytes))
}
