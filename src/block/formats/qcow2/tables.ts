/** The L1 table and the L2 tables of an image: in memory by slices, made, and handed to a commit. */
import { bytesVec } from '../../iovec.ts'
import { readPadded } from '../../mover.ts'
import { after, type Now } from '../../now.ts'
import { MAX_PAGE, PageCache, type Patch, patchesOf, settlePages } from '../../pages.ts'
import { l2EntrySize } from './header.ts'
import { type MapParts, type Pending, takeSpace } from './parts.ts'
import { Slice } from './slice.ts'

/** What a commit must write of the tables. */
export interface TablePatches {
  readonly patches: readonly Patch[]
  settle(written: boolean): void
}

/** The tables of the active map. */
export class Tables {
  /** Entries of an L2 table, and of a slice. */
  readonly perTable: number
  readonly perSlice: number
  readonly #parts: MapParts
  readonly #pending: Pending
  readonly #clusterSize: number
  readonly #extended: boolean
  readonly #slicesPerTable: number
  readonly #sliceBytes: number
  readonly #cache: PageCache<Slice>
  readonly #l1: Uint8Array
  readonly #l1View: DataView
  #l1Dirty = new Set<number>()
  /** Tables that read as zeroes where no slice is in memory: new, and not yet committed. */
  readonly #fresh = new Set<number>()
  readonly #making = new Map<number, Promise<void>>()

  constructor(parts: MapParts, pending: Pending, l1: Uint8Array) {
    this.#parts = parts
    this.#pending = pending
    const { header } = parts
    const entrySize = l2EntrySize(header)
    this.#clusterSize = 2 ** header.clusterBits
    this.#extended = entrySize === 16
    this.#sliceBytes = Math.min(this.#clusterSize, MAX_PAGE)
    this.perTable = this.#clusterSize / entrySize
    this.perSlice = this.#sliceBytes / entrySize
    this.#slicesPerTable = this.perTable / this.perSlice
    this.#cache = new PageCache(Math.max(parts.limit, 4 * MAX_PAGE))
    this.#l1 = l1
    this.#l1View = new DataView(l1.buffer, l1.byteOffset, l1.length)
  }

  /** Memory in use, bytes. */
  get cost(): number {
    return this.#cache.cost + this.#l1.length
  }

  /** Whether a commit would make room. */
  get pressed(): boolean {
    return this.#cache.cost > this.#parts.limit
  }

  /** Whether the medium lacks something. */
  get dirty(): boolean {
    return this.#l1Dirty.size > 0 || this.#cache.dirty
  }

  /** The slice `key`, if it is in memory. */
  at(key: number): Slice | undefined {
    return this.#cache.get(key)
  }

  /** Whether the table of slice `key` may be changed where it is. */
  isOwnAt(key: number): boolean {
    return this.#isOwn(Math.floor(key / this.#slicesPerTable))
  }

  /** Host offset of L2 table `index`; 0 if there is none. */
  table(index: number): number {
    const at = index * 8
    if (at >= this.#l1.length) return 0
    const high = this.#l1View.getUint32(at) & 0x00ffffff
    const low = (this.#l1View.getUint32(at + 4) & 0xfffffe00) >>> 0
    if (high === 0 && low === 0) return 0
    if ((low & (this.#clusterSize - 1)) !== 0 || high > 0x1fffff) {
      throw this.#parts.corrupt(
        `L2 table ${index} is at 0x${(high * 2 ** 32 + low).toString(16)}, no multiple of the cluster size`,
      )
    }
    return high * 2 ** 32 + low
  }

  /** Whether the L2 table's refcount is 1. */
  #isOwn(index: number): boolean {
    return (this.#l1[index * 8]! & 0x80) !== 0
  }

  #setTable(index: number, offset: number): void {
    const at = index * 8
    this.#l1View.setUint32(at, (Math.floor(offset / 2 ** 32) | 0x80000000) >>> 0)
    this.#l1View.setUint32(at + 4, offset >>> 0)
    this.#l1Dirty.add(at >> 9)
  }

  /** The slice of a cluster, in a table of our own that may be changed. */
  writable(cluster: number): Now<Slice> {
    const table = Math.floor(cluster / this.perTable)
    if (this.table(table) === 0 || !this.#isOwn(table)) {
      return after(this.#makeTable(table), () => after(this.writable(cluster), (page) => this.#cache.hold(page)))
    }
    const slice = this.slice(Math.floor(cluster / this.perSlice))
    return slice instanceof Promise ? slice.then((slice) => this.open(slice)) : this.open(slice)
  }

  /** Makes room in memory for changes of a slice. */
  open(slice: Slice): Slice {
    if (slice.compact) {
      slice.bytes()
      this.#cache.recount(slice)
    }
    return slice
  }

  #makeTable(index: number): Now<void> {
    const making = this.#making.get(index)
    if (making !== undefined) return making
    const value = this.table(index) === 0 ? this.#newTable(index) : this.#copyTable(index)
    if (!(value instanceof Promise)) return
    const promise = value.finally(() => this.#making.delete(index))
    this.#making.set(index, promise)
    return promise
  }

  #newTable(index: number): Now<void> {
    return after(takeSpace(this.#parts, 1), (space) => {
      const at = space.cluster * this.#clusterSize
      return after(space.zeroed ? undefined : this.#parts.file.zero(at, this.#clusterSize), () => {
        this.#setTable(index, at)
        this.#fresh.add(at)
        this.#parts.placed.add(at)
        this.#pending.links = true
      })
    })
  }

  /** A snapshot shares the table: from now on the active map has its own. */
  #copyTable(index: number): Now<void> {
    const old = this.table(index)
    const bytes = new Uint8Array(this.#clusterSize)
    const { file } = this.#parts
    const read = after(file.debug?.event('l2_alloc_cow_read'), () => readPadded(file, old, bytesVec(bytes)))
    return after(read, () =>
      after(takeSpace(this.#parts, 1), (space) => {
        const at = space.cluster * this.#clusterSize
        const written = after(file.debug?.event('l2_alloc_write'), () => file.write(at, bytesVec(bytes)))
        return after(written, () => {
          this.#setTable(index, at)
          this.#parts.placed.add(at)
          this.#pending.free(old / this.#clusterSize)
          this.#pending.links = true
        })
      }),
    )
  }

  /** Host offset of the slice `key`, whose table there is. */
  #place(key: number): number {
    return this.table(Math.floor(key / this.#slicesPerTable)) + (key % this.#slicesPerTable) * this.#sliceBytes
  }

  /** The slice `key`, read if it is not in memory. */
  slice(key: number): Now<Slice> {
    return this.#cache.load(key, () => {
      const table = this.table(Math.floor(key / this.#slicesPerTable))
      const bytes = new Uint8Array(this.#sliceBytes)
      if (this.#fresh.has(table))
        return new Slice(key, bytes, this.#extended, this.#parts.dataFile !== undefined, this.#clusterSize)
      const at = this.#place(key)
      const { file } = this.#parts
      const read = after(file.debug?.event('l2_load'), () => readPadded(file, at, bytesVec(bytes)))
      return after(read, () => {
        const slice = new Slice(key, bytes, this.#extended, this.#parts.dataFile !== undefined, this.#clusterSize)
        slice.stretches((offset, count) => {
          if (this.#parts.placed.overlaps(offset, count * this.#clusterSize)) slice.suspect = true
        })
        if (!slice.suspect) slice.shrink()
        return slice
      })
    })
  }

  /** What a commit must write; changes from now on belong to the next. */
  collect(): TablePatches {
    const { pages, patches } = this.#cache.takeDirty(({ key }) => this.#place(key))
    const sectors = this.#l1Dirty
    const fresh = [...this.#fresh]
    const l1 = patchesOf(this.#l1, this.#parts.header.l1Offset, (sector) => sectors.has(sector))
    this.#l1Dirty = new Set()
    return {
      patches: [...patches, ...l1],
      settle: (written) => {
        settlePages(pages, written)
        if (written) {
          for (const table of fresh) this.#fresh.delete(table)
          this.#cache.relax()
        } else for (const sector of sectors) this.#l1Dirty.add(sector)
      },
    }
  }
}
