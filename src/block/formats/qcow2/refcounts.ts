/** The refcount table and its blocks: how many uses each host cluster has. */
import type { BlockDevice } from '../../device.ts'
import { BlockError } from '../../error.ts'
import { bytesVec } from '../../iovec.ts'
import { readPadded } from '../../mover.ts'
import { after, type Now, repeat } from '../../now.ts'
import { MAX_PAGE, Page, PageCache, type Patch, patchesOf, settlePages } from '../../pages.ts'
import { type Header, MAX_REFCOUNT_TABLE_BYTES } from './header.ts'

/** Reads refcount `index` of `bytes`, 2^order bits each; below a byte, the first is in the lowest bits. */
export function readCount(bytes: Uint8Array, order: number, index: number): number {
  switch (order) {
    case 3:
      return bytes[index]!
    case 4:
      return (bytes[index * 2]! << 8) | bytes[index * 2 + 1]!
    case 5:
      return word(bytes, index * 4)
    case 6:
      return word(bytes, index * 8) * 2 ** 32 + word(bytes, index * 8 + 4)
    default: {
      const bit = index << order
      return (bytes[bit >> 3]! >> (bit & 7)) & ((1 << (1 << order)) - 1)
    }
  }
}

/** Writes refcount `index`. */
export function writeCount(bytes: Uint8Array, order: number, index: number, count: number): void {
  switch (order) {
    case 3:
      bytes[index] = count
      return
    case 4:
      bytes[index * 2] = count >> 8
      bytes[index * 2 + 1] = count
      return
    case 5:
      putWord(bytes, index * 4, count)
      return
    case 6:
      putWord(bytes, index * 8, Math.floor(count / 2 ** 32))
      putWord(bytes, index * 8 + 4, count >>> 0)
      return
    default: {
      const bit = index << order
      const mask = ((1 << (1 << order)) - 1) << (bit & 7)
      bytes[bit >> 3] = (bytes[bit >> 3]! & ~mask) | (count << (bit & 7))
    }
  }
}

function word(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0
}

function putWord(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24
  bytes[at + 1] = value >>> 16
  bytes[at + 2] = value >>> 8
  bytes[at + 3] = value
}

/** Largest refcount of 2^order bits. */
export function maxCount(order: number): number {
  return order === 6 ? Number.MAX_SAFE_INTEGER : 2 ** (2 ** order) - 1
}

/** A page of a refcount block. */
export class CountPage extends Page {
  readonly #bytes: Uint8Array

  constructor(key: number, bytes: Uint8Array) {
    super(key)
    this.#bytes = bytes
  }

  bytes(): Uint8Array {
    return this.#bytes
  }

  get cost(): number {
    return this.#bytes.length + 128
  }
}

/** What a commit must write of the refcounts, in this order. */
export interface CountPatches {
  readonly pages: readonly CountPage[]
  readonly blocks: readonly Patch[]
  /** Blocks among them are new: durable before the table shows them. */
  readonly fresh: boolean
  readonly table: readonly Patch[]
  /** The table has moved: durable before the header shows it. */
  readonly moved: boolean
  readonly tableOffset: number
  readonly tableClusters: number
  /** Says how it ended. */
  settle(written: boolean): void
}

/** Host clusters that follow each other. */
export interface Run {
  readonly cluster: number
  count: number
}

function append(runs: Run[], cluster: number): void {
  const last = runs.at(-1)
  if (last !== undefined && last.cluster + last.count === cluster) last.count++
  else runs.push({ cluster, count: 1 })
}

/** All refcounts of an image. */
export class Refcounts {
  readonly order: number
  readonly clusterBits: number
  /** Host clusters that one refcount block counts. */
  readonly perBlock: number
  readonly #file: BlockDevice
  readonly #name: string
  /** Marks the image as damaged and gives the error to throw. */
  readonly corrupt: (what: string) => BlockError
  readonly #cache: PageCache<CountPage>
  readonly #pageSize: number
  readonly #perPage: number
  #table: Uint8Array
  #tableOffset: number
  #tableDirty = new Set<number>()
  #moved = false
  /** Host offsets of blocks that the table on the medium does not show yet. */
  #fresh = new Set<number>()

  constructor(
    name: string,
    file: BlockDevice,
    header: Header,
    table: Uint8Array,
    limit: number,
    corrupt: (what: string) => BlockError,
  ) {
    this.#name = name
    this.#file = file
    this.corrupt = corrupt
    this.order = header.refcountOrder
    this.clusterBits = header.clusterBits
    this.#pageSize = Math.min(2 ** header.clusterBits, MAX_PAGE)
    this.#perPage = (this.#pageSize * 8) / 2 ** header.refcountOrder
    this.perBlock = (2 ** header.clusterBits * 8) / 2 ** header.refcountOrder
    this.#cache = new PageCache(Math.max(limit, 4 * MAX_PAGE))
    this.#table = table
    this.#tableOffset = header.refcountTableOffset
  }

  /** Where the table is, bytes; changes when it grows. */
  get tableOffset(): number {
    return this.#tableOffset
  }

  get tableClusters(): number {
    return this.#table.length / 2 ** this.clusterBits
  }

  /** Blocks that the table has room for. */
  get capacity(): number {
    return this.#table.length / 8
  }

  /** Memory in use, bytes. */
  get cost(): number {
    return this.#cache.cost + this.#table.length
  }

  /** Whether a commit would make room. */
  get pressed(): boolean {
    return this.#cache.cost > this.#cache.limit
  }

  /** Host offset of refcount block `index`; 0 if there is none. */
  block(index: number): number {
    if (index >= this.capacity) return 0
    const at = index * 8
    const offset = word(this.#table, at) * 2 ** 32 + word(this.#table, at + 4)
    if (offset === 0) return 0
    if (offset % 2 ** this.clusterBits !== 0 || !Number.isSafeInteger(offset)) {
      throw this.corrupt(`refcount block ${index} is at ${offset}, no multiple of the cluster size`)
    }
    return offset
  }

  /** Makes the cluster at `offset`, which reads as zeroes, refcount block `index`. */
  addBlock(index: number, offset: number): void {
    const at = index * 8
    putWord(this.#table, at, Math.floor(offset / 2 ** 32))
    putWord(this.#table, at + 4, offset >>> 0)
    this.#tableDirty.add(at >> 9)
    this.#fresh.add(offset)
  }

  /** Moves the table to `clusters` new clusters at `offset`; gives the place of the old. */
  moveTable(offset: number, clusters: number): { offset: number; clusters: number } {
    const old = { offset: this.#tableOffset, clusters: this.tableClusters }
    const table = new Uint8Array(clusters * 2 ** this.clusterBits)
    table.set(this.#table)
    this.#table = table
    this.#tableOffset = offset
    this.#moved = true
    return old
  }

  /** Clusters for a table with room for block `index`, with some to spare. */
  tableClustersFor(index: number): number {
    const clusterSize = 2 ** this.clusterBits
    const most = Math.floor(MAX_REFCOUNT_TABLE_BYTES / clusterSize)
    const least = Math.ceil(((index + 1) * 8) / clusterSize)
    if (least > most) throw new BlockError('EFBIG', `Cannot grow ${this.#name}: its refcount table would pass 8 MiB`)
    return Math.min(most, Math.max(least, Math.ceil(this.tableClusters * 1.5)))
  }

  /** Refcount of a host cluster. */
  count(cluster: number): Now<number> {
    return after(this.#page(cluster), (page) =>
      page === undefined ? 0 : readCount(page.bytes(), this.order, cluster % this.#perPage),
    )
  }

  /** Calls `found` with the runs of refcount 0 from `cluster` to the end of its page, and with where the next page begins. */
  freeRuns(cluster: number, end: number, found: (runs: Run[], next: number) => void): Now<void> {
    const next = (Math.floor(cluster / this.#perPage) + 1) * this.#perPage
    return after(this.#page(cluster), (page) => {
      const runs: Run[] = []
      if (page === undefined) return found(runs, (Math.floor(cluster / this.perBlock) + 1) * this.perBlock)
      const bytes = page.bytes()
      const base = next - this.#perPage
      for (let at = cluster; at < Math.min(next, end); at++) {
        if (readCount(bytes, this.order, at - base) === 0) append(runs, at)
      }
      found(runs, next)
    })
  }

  /** How many of the first `end` clusters have uses; counting stops at `most`. */
  used(end: number, most: number): Now<number> {
    let used = 0
    let next = 0
    return after(
      repeat(() => {
        if (next >= end || used >= most) return false
        const index = Math.floor(next / this.perBlock)
        if (this.block(index) === 0) {
          next = (index + 1) * this.perBlock
          return true
        }
        return after(
          this.freeRuns(next, end, (runs, following) => {
            used += Math.min(following, end) - next
            for (const run of runs) used -= run.count
            next = following
          }),
          () => true,
        )
      }),
      () => Math.min(used, most),
    )
  }

  /** The runs of clusters that have one use. */
  singles(cluster: number, count: number): Now<Run[]> {
    const runs: Run[] = []
    let at = cluster
    return after(
      this.#each(cluster, count, (page, index) => {
        if (readCount(page.bytes(), this.order, index) === 1) append(runs, at)
        at++
        return true
      }),
      () => runs,
    )
  }

  /** Sets the counts of free clusters to 1; gives how many of the first were free. The blocks must exist. */
  claim(cluster: number, count: number): Now<number> {
    const base = cluster - (cluster % this.#perPage)
    const page = this.#cache.get(base / this.#perPage)
    if (page !== undefined && cluster + count <= base + this.#perPage) return this.#claimIn(page, cluster - base, count)
    let done = 0
    return after(
      this.#each(cluster, count, (page, index) => {
        const claimed = this.#claimIn(page, index, 1)
        done += claimed
        return claimed === 1
      }),
      () => done,
    )
  }

  /** Sets the counts of free clusters to 1, if they are on one page that is at hand; says whether it did, for all of them. */
  claimAll(cluster: number, count: number): boolean {
    const key = Math.floor(cluster / this.#perPage)
    const page = this.#cache.get(key)
    const index = cluster - key * this.#perPage
    if (page === undefined || index + count > this.#perPage) return false
    for (let each = 0; each < count; each++) if (readCount(page.bytes(), this.order, index + each) !== 0) return false
    this.#claimIn(page, index, count)
    return true
  }

  #claimIn(page: CountPage, index: number, count: number): number {
    for (let done = 0; done < count; done++) {
      if (readCount(page.bytes(), this.order, index + done) !== 0) return done
      this.#set(page, index + done, 1)
    }
    return count
  }

  /** Adds one use to each cluster; EINVAL (and nothing more counted) where the count's bits do not suffice. */
  raise(cluster: number, count: number): Now<void> {
    return this.#each(cluster, count, (page, index) => {
      const uses = readCount(page.bytes(), this.order, index)
      if (uses >= maxCount(this.order)) {
        throw new BlockError('EFBIG', `Cannot share a cluster of ${this.#name}: its refcounts have too few bits`)
      }
      this.#set(page, index, uses + 1)
      return true
    })
  }

  /** Takes one use from each cluster; `freed` hears of each that has none left. */
  lower(cluster: number, count: number, freed: (cluster: number) => void): Now<void> {
    let at = cluster
    return this.#each(cluster, count, (page, index) => {
      const uses = readCount(page.bytes(), this.order, index)
      if (uses === 0) throw this.corrupt(`cluster ${at} is given back, but its refcount is 0`)
      this.#set(page, index, uses - 1)
      if (uses === 1) freed(at)
      at++
      return true
    })
  }

  /** Whether the medium lacks something. */
  get dirty(): boolean {
    return this.#moved || this.#tableDirty.size > 0 || this.#cache.dirty
  }

  /** What a commit must write. */
  collect(): CountPatches {
    const { pages, patches: blocks } = this.#cache.takeDirty(({ key }) => {
      const cluster = key * this.#perPage
      const within = ((cluster % this.perBlock) / this.#perPage) * this.#pageSize
      return this.block(Math.floor(cluster / this.perBlock)) + within
    })
    const sectors = this.#tableDirty
    const moved = this.#moved
    const fresh = this.#fresh
    this.#tableDirty = new Set()
    this.#moved = false
    this.#fresh = new Set()
    return {
      pages,
      blocks,
      fresh: fresh.size > 0,
      table: patchesOf(this.#table, this.#tableOffset, (sector) => moved || sectors.has(sector)),
      moved,
      tableOffset: this.#tableOffset,
      tableClusters: this.tableClusters,
      settle: (written) => {
        settlePages(pages, written)
        if (written) return this.#cache.relax()
        for (const sector of sectors) this.#tableDirty.add(sector)
        for (const offset of fresh) this.#fresh.add(offset)
        this.#moved ||= moved
      },
    }
  }

  #set(page: CountPage, index: number, count: number): void {
    writeCount(page.bytes(), this.order, index, count)
    page.touch((index * 2 ** this.order) >> 3, Math.max(1, (2 ** this.order) >> 3))
  }

  /** Visits the counts of a run until `visit` answers false. */
  #each(cluster: number, count: number, visit: (page: CountPage, index: number) => boolean): Now<void> {
    let at = cluster
    const end = cluster + count
    return repeat(() => {
      if (at >= end) return false
      return after(this.#page(at), (page) => {
        if (page === undefined) throw this.corrupt(`cluster ${at} is in use, but has no refcount block`)
        const base = at - (at % this.#perPage)
        const last = Math.min(end, base + this.#perPage)
        for (; at < last; at++) if (!visit(page, at - base)) return false
        return at < end
      })
    })
  }

  #page(cluster: number): Now<CountPage | undefined> {
    const key = Math.floor(cluster / this.#perPage)
    const here = this.#cache.get(key)
    if (here !== undefined) return here
    const offset = this.block(Math.floor(cluster / this.perBlock))
    if (offset === 0) return undefined
    return this.#cache.load(key, () => {
      const bytes = new Uint8Array(this.#pageSize)
      if (this.#fresh.has(offset)) return new CountPage(key, bytes)
      const within = ((key * this.#perPage) % this.perBlock) / this.#perPage
      const at = offset + within * this.#pageSize
      return after(
        after(this.#file.debug?.event('refblock_load'), () => readPadded(this.#file, at, bytesVec(bytes))),
        () => new CountPage(key, bytes),
      )
    })
  }
}
