/** The map from the disk's clusters to the file's: what its tables say, changed, and handed to a commit. */
import type { BlockDevice } from '../../device.ts'
import type { BlockError } from '../../error.ts'
import type { Allocation, Mapping, PackedAllocation } from '../../image.ts'
import { after, type Now, repeat } from '../../now.ts'
import type { Patch } from '../../pages.ts'
import type { Space } from './allocator.ts'
import { l2EntrySize } from './header.ts'
import { PackedSpace } from './packedspace.ts'
import { type Clusters, type MapParts, Pending, takeSpace } from './parts.ts'
import { COMPRESSED, COPIED, MISPLACED, PRESENT, type Slice, ZERO } from './slice.ts'
import { Tables } from './tables.ts'

/** What a commit must write of the map. */
export interface MapPatches {
  readonly patches: readonly Patch[]
  /** Clusters that nothing on the medium shows any more once the patches are durable. */
  readonly frees: readonly Clusters[]
  /** There are links to new clusters: those must be durable first. */
  readonly links: boolean
  settle(written: boolean): void
}

/** The active map of an image. */
export class ClusterMap {
  readonly #parts: MapParts
  readonly #pending = new Pending()
  readonly #tables: Tables
  readonly #packed: PackedSpace
  readonly #clusterSize: number
  readonly #extended: boolean
  readonly #external: boolean
  readonly #subSize: number
  /** Entries of an L2 table, and of a slice. */
  readonly #perTable: number
  readonly #perSlice: number
  /** Bytes of the disk that a slice maps, and the inverse: powers of two. */
  readonly #span: number
  readonly #perSpan: number

  constructor(parts: MapParts, l1: Uint8Array) {
    this.#parts = parts
    this.#tables = new Tables(parts, this.#pending, l1)
    this.#packed = new PackedSpace(parts)
    const { header } = parts
    this.#clusterSize = 2 ** header.clusterBits
    this.#extended = l2EntrySize(header) === 16
    this.#external = parts.dataFile !== undefined
    this.#subSize = this.#extended ? this.#clusterSize / 32 : this.#clusterSize
    this.#perTable = this.#tables.perTable
    this.#perSlice = this.#tables.perSlice
    this.#span = this.#perSlice * this.#clusterSize
    this.#perSpan = 1 / this.#span
  }

  /** What can be zeroed by metadata alone, bytes. */
  get zeroUnit(): number {
    return this.#subSize
  }

  /** Bytes of the disk that one L2 table maps. */
  get tableSpan(): number {
    return this.#perTable * this.#clusterSize
  }

  /** Memory in use, bytes. */
  get cost(): number {
    return this.#tables.cost
  }

  /** Whether a commit would make room. */
  get pressed(): boolean {
    return this.#tables.pressed || this.#pending.pressed
  }

  /** Whether the medium lacks something. */
  get dirty(): boolean {
    return this.#pending.frees.length > 0 || this.#tables.dirty
  }

  map(at: number, length: number): Now<Mapping> {
    const cluster = Math.floor(at / this.#clusterSize)
    const slice = this.#tables.at(Math.floor(cluster / this.#perSlice))
    if (slice === undefined) return this.#mapLater(at, length, cluster)
    const within = at - cluster * this.#clusterSize
    const index = cluster - slice.key * this.#perSlice
    return this.#extended
      ? this.#mapExtended(slice, index, within, length)
      : this.#mapStandard(slice, index, within, length)
  }

  /** Where the range is in the image's file in one piece; -1 if it is not, or if more must be looked at to know. */
  locate(at: number, length: number): number {
    const key = Math.floor(at * this.#perSpan)
    const slice = this.#tables.at(key)
    return slice === undefined || slice.suspect || this.#external ? -1 : slice.place(at - key * this.#span, length)
  }

  #mapLater(at: number, length: number, cluster: number): Now<Mapping> {
    const table = Math.floor(cluster / this.#perTable)
    if (this.#tables.table(table) === 0) {
      let next = table + 1
      while (next * this.tableSpan < at + length && this.#tables.table(next) === 0) next++
      return { kind: 'hole', length: Math.min(length, next * this.tableSpan - at) }
    }
    return after(this.#tables.slice(Math.floor(cluster / this.#perSlice)), () => this.map(at, length))
  }

  #mapStandard(slice: Slice, index: number, within: number, length: number): Mapping {
    slice.look(index)
    const { flags } = slice
    if (flags & COMPRESSED) return this.#mapPacked(slice, index, within, length)
    if (flags & MISPLACED) throw this.#misplaced(slice)
    const count =
      within + length <= this.#clusterSize ? 1 : slice.stretch(index, Math.ceil((within + length) / this.#clusterSize))
    const covered = Math.min(length, count * this.#clusterSize - within)
    const { offset } = slice
    if (flags & ZERO)
      return flags & PRESENT
        ? { kind: 'zero', length: covered, at: offset + within }
        : { kind: 'zero', length: covered }
    if (!(flags & PRESENT)) return { kind: 'hole', length: covered }
    if (slice.suspect) this.#checkData(offset, count)
    return this.#raw(offset + within, covered, (flags & COPIED) !== 0)
  }

  #mapExtended(slice: Slice, index: number, within: number, length: number): Mapping {
    slice.look(index)
    const { flags, allocated, zeroes, offset } = slice
    if (flags & COMPRESSED) return this.#mapPacked(slice, index, within, length)
    if (flags & MISPLACED) throw this.#misplaced(slice)
    if ((allocated & zeroes) !== 0 || (allocated !== 0 && !(flags & PRESENT))) {
      throw this.#parts.corrupt('an L2 entry has impossible subclusters')
    }
    const first = Math.floor(within / this.#subSize)
    const state = subState(allocated, zeroes, first)
    let sub = first + 1
    while (sub < 32 && sub * this.#subSize < within + length && subState(allocated, zeroes, sub) === state) sub++
    let end = sub * this.#subSize
    let count = 1
    const uniform = allocated === 0xffffffff || zeroes === 0xffffffff || (allocated === 0 && zeroes === 0)
    if (uniform && end < within + length && sub === 32) {
      count = slice.stretch(index, Math.ceil((within + length) / this.#clusterSize))
      end = count * this.#clusterSize
    }
    const covered = Math.min(length, end - within)
    if (state !== 'data') {
      return flags & PRESENT ? { kind: state, length: covered, at: offset + within } : { kind: state, length: covered }
    }
    if (slice.suspect) this.#checkData(offset, count)
    return this.#raw(offset + within, covered, (flags & COPIED) !== 0)
  }

  #raw(at: number, length: number, copied: boolean): Mapping {
    const { dataFile, readOnly } = this.#parts
    const inPlace = copied && !readOnly
    return dataFile === undefined
      ? { kind: 'raw', length, at, inPlace }
      : { kind: 'raw', length, at, inPlace, file: dataFile }
  }

  #mapPacked(slice: Slice, index: number, within: number, length: number): Mapping {
    const { packer, dataFile, corrupt } = this.#parts
    if (dataFile !== undefined) throw corrupt('a cluster is compressed, but the data is in another file')
    const { high, low } = slice.descriptor(index)
    const place = packer.place(high, low)
    const covered = Math.min(length, this.#clusterSize - within)
    return {
      kind: 'packed',
      length: covered,
      unpack: () => after(packer.unpack(place), (bytes) => bytes.subarray(within, within + covered)),
    }
  }

  /** Space for a range of clusters that have none, taken and linked, if all that it takes is at hand; else -1. */
  claim(at: number, length: number): number {
    const key = Math.floor(at * this.#perSpan)
    const slice = this.#tables.at(key)
    if (slice === undefined || this.#extended || this.#external) return -1
    const within = at % this.#clusterSize
    const index = Math.floor((at - key * this.#span) / this.#clusterSize)
    const end = index + Math.ceil((within + length) / this.#clusterSize)
    if (end > this.#perSlice || !this.#tables.isOwnAt(key)) return -1
    for (let each = index; each < end; each++) {
      slice.look(each)
      if (slice.flags !== 0) return -1
    }
    const cluster = this.#parts.allocator.next(end - index)
    if (cluster < 0) return -1
    const place = cluster * this.#clusterSize
    this.#tables.open(slice)
    for (let each = index; each < end; each++) slice.set(each, place + (each - index) * this.#clusterSize, COPIED)
    this.#pending.links = true
    return place + within
  }

  /** New space from the cluster of `at`, which cannot be overwritten in place. */
  allocate(at: number, length: number): Now<Allocation> {
    const slice = this.#tables.writable(Math.floor(at / this.#clusterSize))
    return slice instanceof Promise
      ? slice.then((slice) => this.#allocateIn(slice, at, length))
      : this.#allocateIn(slice, at, length)
  }

  #allocateIn(slice: Slice, at: number, length: number): Now<Allocation> {
    const cluster = Math.floor(at / this.#clusterSize)
    const index = cluster - slice.key * this.#perSlice
    const within = at - cluster * this.#clusterSize
    slice.look(index)
    const { flags, offset, allocated, zeroes } = slice
    if (flags & MISPLACED) throw this.#misplaced(slice)
    const held = (flags & (PRESENT | COPIED | COMPRESSED)) === (PRESENT | COPIED)
    if (this.#extended && held) return this.#allocateSubs(cluster, offset, within, length, allocated, zeroes)
    const bare = !(flags & (PRESENT | COMPRESSED))
    if (this.#extended && bare && (within !== 0 || length < this.#clusterSize)) {
      return this.#allocateBare(cluster, within, length, zeroes)
    }
    const wanted = Math.ceil((within + length) / this.#clusterSize)
    const count = wanted === 1 ? 1 : slice.stretch(index, wanted)
    const zero = this.#extended ? zeroes === 0xffffffff : (flags & ZERO) !== 0
    const was = zero ? 'zero' : bare && zeroes === 0 ? 'hole' : bare && !this.#extended ? 'hole' : 'data'
    if (this.#parts.dataFile !== undefined) return this.#allocateData(cluster, count, was)
    if (held) return this.#allocation(cluster, count, offset, false, was)
    const space = takeSpace(this.#parts, count)
    return space instanceof Promise
      ? space.then((space) => this.#allocateAt(cluster, space, was))
      : this.#allocateAt(cluster, space, was)
  }

  #allocateAt(cluster: number, space: Space, was: Allocation['was']): Allocation {
    return this.#allocation(cluster, space.count, space.cluster * this.#clusterSize, space.zeroed, was, space)
  }

  /** Space for compressed bytes, right after the last if they still fit its cluster. */
  allocatePacked(at: number, bytes: Uint8Array): Now<PackedAllocation> {
    const cluster = Math.floor(at / this.#clusterSize)
    return after(this.#tables.writable(cluster), () =>
      after(this.#packed.take(bytes.length), (place) => {
        const { allocator, packer } = this.#parts
        const { high, low } = packer.descriptor(place, bytes.length)
        packer.forget(place) // a read of what was there before may have ended after that was given up
        return {
          at: place,
          bytes,
          link: () =>
            after(this.#tables.writable(cluster), (slice) => {
              const index = cluster - slice.key * this.#perSlice
              this.#freeOld(slice, index)
              slice.setCompressed(index, high, low)
              this.#pending.links = true
            }),
          abandon: () => {
            const uses = this.#packed.out(packer.place(high, low))
            return allocator.give(uses.cluster, uses.count)
          },
        }
      }),
    )
  }

  /** Makes clusters, or parts of one as the image has them, read as zeroes; false if it has no way to say that. */
  zero(at: number, length: number, unmap: boolean): Now<boolean> {
    const { header, backingSize, dataFile } = this.#parts
    const raw = (header.autoclear & 2n) !== 0n
    if (raw && dataFile !== undefined) return false
    // Version 2 can only give clusters up, which shows the backing layer, if there is one.
    if (header.version === 2) return backingSize > 0 ? false : after(this.discard(at, length), () => true)
    const end = at + length
    const within = at % this.#clusterSize
    if (within !== 0 || (length < this.#clusterSize && end !== header.size)) {
      const part = Math.min(length, this.#clusterSize - within)
      return after(this.#zeroSubs(at, part), (done) =>
        done && part < length ? this.zero(at + part, length - part, unmap) : done,
      )
    }
    const rest = end === header.size ? 0 : length % this.#clusterSize
    return after(this.#zeroWhole(at, length - rest, unmap), () =>
      rest === 0 ? true : this.#zeroSubs(end - rest, rest),
    )
  }

  #zeroWhole(at: number, length: number, unmap: boolean): Now<void> {
    return this.#change(at, length, true, (slice, index) => {
      slice.look(index)
      const { flags, offset } = slice
      const keep = !unmap && (flags & (PRESENT | COPIED | COMPRESSED)) === (PRESENT | COPIED)
      if (!keep) this.#freeOld(slice, index)
      this.#become(slice, index, keep ? offset : 0, (keep ? COPIED : 0) | ZERO)
    })
  }

  /** Makes subclusters of one cluster read as zeroes; false if it is compressed. */
  #zeroSubs(at: number, length: number): Now<boolean> {
    const cluster = Math.floor(at / this.#clusterSize)
    const first = (at % this.#clusterSize) / this.#subSize
    const count = Math.ceil(length / this.#subSize)
    const mask = count === 32 ? 0xffffffff : ((2 ** count - 1) << first) >>> 0
    return after(this.#tables.writable(cluster), (slice) => {
      const index = cluster % this.#perSlice
      slice.look(index)
      const { flags, offset, allocated, zeroes } = slice
      if (flags & COMPRESSED) return false
      slice.setExtended(index, offset, flags & COPIED, allocated & ~mask, zeroes | mask)
      return true
    })
  }

  /** Gives clusters back. What the backing layer has there stays hidden, or the cluster stays. */
  discard(at: number, length: number): Now<void> {
    const { header, dataFile, backingSize } = this.#parts
    if (dataFile !== undefined && (header.autoclear & 2n) !== 0n) return dataFile.discard(at, length)
    const backed = backingSize > 0
    if (backed && header.version === 2) return
    return this.#change(at, length, backed, (slice, index) => {
      slice.look(index)
      if (!backed && !(slice.flags & (PRESENT | COMPRESSED))) return
      this.#freeOld(slice, index)
      this.#become(slice, index, 0, header.version === 2 ? 0 : ZERO)
    })
  }

  /** Sets an entry, unless it is that already. */
  #become(slice: Slice, index: number, offset: number, flags: number): void {
    const same = slice.offset === offset && (slice.flags & ~PRESENT) === flags
    if (!same || (this.#extended && (flags & ZERO) !== 0 && slice.zeroes !== 0xffffffff))
      slice.set(index, offset, flags)
  }

  /** Gives clusters back, whatever the backing layer has there: they are after the disk's end. */
  drop(at: number, length: number): Now<void> {
    return this.#change(at, length, false, (slice, index) => {
      this.#freeOld(slice, index)
      if (slice.offset !== 0 || slice.flags !== 0 || this.#extended) slice.set(index, 0, 0)
    })
  }

  /** What a commit must write; changes from now on belong to the next. */
  collect(): MapPatches {
    const pending = this.#pending
    const { frees, links } = pending
    const tables = this.#tables.collect()
    pending.frees = []
    pending.links = false
    return {
      patches: tables.patches,
      frees,
      links,
      settle: (written) => {
        tables.settle(written)
        if (written) return
        pending.frees = [...frees, ...pending.frees]
        pending.links ||= links
      },
    }
  }

  #misplaced(slice: Slice): BlockError {
    return this.#parts.corrupt(`a data cluster is at 0x${slice.offset.toString(16)}, no multiple of the cluster size`)
  }

  #checkData(offset: number, count: number): void {
    if (this.#parts.dataFile === undefined && this.#parts.placed.overlaps(offset, count * this.#clusterSize)) {
      throw this.#parts.corrupt(`the data cluster at 0x${offset.toString(16)} overlaps metadata`)
    }
  }

  #allocation(
    cluster: number,
    count: number,
    offset: number,
    zeroed: boolean,
    was: Allocation['was'],
    space?: Space,
    file?: BlockDevice,
  ): Allocation {
    const found = {
      start: cluster * this.#clusterSize,
      length: count * this.#clusterSize,
      at: offset,
      zeroed,
      was,
      link: () => this.#link(cluster, count, offset),
      abandon: () => (space === undefined ? undefined : this.#parts.allocator.give(space.cluster, count)),
    }
    return file === undefined ? found : { ...found, file }
  }

  /** Lets `count` entries lead to the clusters from `offset` on. */
  #link(cluster: number, count: number, offset: number): Now<void> {
    const first = this.#tables.writable(cluster)
    let done = first instanceof Promise ? 0 : this.#linkIn(first, cluster, count, offset)
    if (done === count) return
    return repeat(() =>
      after(this.#tables.writable(cluster + done), (slice) => {
        done += this.#linkIn(slice, cluster + done, count - done, offset + done * this.#clusterSize)
        return done < count
      }),
    )
  }

  /** Links those that the slice has; answers how many. */
  #linkIn(slice: Slice, cluster: number, count: number, offset: number): number {
    const first = cluster - slice.key * this.#perSlice
    const taken = Math.min(count, this.#perSlice - first)
    for (let each = 0; each < taken; each++) {
      const place = offset + each * this.#clusterSize
      slice.look(first + each)
      if (slice.offset !== place && (slice.offset !== 0 || slice.flags !== 0)) this.#freeOld(slice, first + each)
      slice.set(first + each, place, COPIED)
    }
    this.#pending.links = true
    return taken
  }

  /** In an external data file, a cluster is where it is in the disk. */
  #allocateData(cluster: number, count: number, was: Allocation['was']): Now<Allocation> {
    const file = this.#parts.dataFile!
    const offset = cluster * this.#clusterSize
    const end = offset + count * this.#clusterSize
    const found = this.#allocation(cluster, count, offset, false, was, undefined, file)
    return after(file.grow(end), () => found)
  }

  /** Subclusters of a cluster that is there. */
  #allocateSubs(
    cluster: number,
    offset: number,
    within: number,
    length: number,
    allocated: number,
    zeroes: number,
  ): Now<Allocation> {
    const first = Math.floor(within / this.#subSize)
    const state = subState(allocated, zeroes, first)
    let last = first + 1
    while (last < 32 && last * this.#subSize < within + length && subState(allocated, zeroes, last) === state) last++
    const file = this.#parts.dataFile ?? this.#parts.file
    const end = offset + last * this.#subSize
    // Another program may have let the file end within the cluster, behind the subclusters that it wrote.
    return after(file.grow(end), () =>
      this.#subAllocation(cluster, first, last, offset, false, state === 'zero' ? 'zero' : 'hole', undefined),
    )
  }

  /** Subclusters of a cluster that has no place yet. */
  #allocateBare(cluster: number, within: number, length: number, zeroes: number): Now<Allocation> {
    const first = Math.floor(within / this.#subSize)
    const state = subState(0, zeroes, first)
    let last = first + 1
    while (last < 32 && last * this.#subSize < within + length && subState(0, zeroes, last) === state) last++
    const was = state === 'zero' ? 'zero' : 'hole'
    if (this.#parts.dataFile !== undefined) {
      const file = this.#parts.dataFile
      const offset = cluster * this.#clusterSize
      return after(file.grow(offset + this.#clusterSize), () =>
        this.#subAllocation(cluster, first, last, offset, false, was, undefined),
      )
    }
    return after(takeSpace(this.#parts, 1), (space) =>
      this.#subAllocation(cluster, first, last, space.cluster * this.#clusterSize, space.zeroed, was, space),
    )
  }

  #subAllocation(
    cluster: number,
    first: number,
    last: number,
    offset: number,
    zeroed: boolean,
    was: 'hole' | 'zero',
    space: Space | undefined,
  ): Allocation {
    const { allocator, dataFile } = this.#parts
    const mask = (last === 32 ? -1 : (1 << last) - 1) & ~((1 << first) - 1)
    const found = {
      start: cluster * this.#clusterSize + first * this.#subSize,
      length: (last - first) * this.#subSize,
      at: offset + first * this.#subSize,
      zeroed,
      was,
      link: () =>
        after(this.#tables.writable(cluster), (slice) => {
          const index = cluster - slice.key * this.#perSlice
          slice.look(index)
          slice.setExtended(index, offset, COPIED, slice.allocated | mask, slice.zeroes & ~mask)
          this.#pending.links = true
        }),
      abandon: () => (space === undefined ? undefined : allocator.give(space.cluster, 1)),
    }
    return dataFile === undefined ? found : { ...found, file: dataFile }
  }

  /** What the entry that was looked at held is given back after the next commit. */
  #freeOld(slice: Slice, index: number): void {
    const { packer, dataFile } = this.#parts
    slice.look(index)
    if (slice.flags & COMPRESSED) {
      const { high, low } = slice.descriptor(index)
      const place = packer.place(high, low)
      packer.forget(place.at)
      this.#pending.frees.push(this.#packed.out(place))
    } else if (slice.offset !== 0 && dataFile === undefined) {
      if (slice.flags & MISPLACED) throw this.#misplaced(slice)
      this.#pending.free(slice.offset / this.#clusterSize)
    }
  }

  /** Visits the entries of whole clusters; of those that have no table, only if one is to be made for them. */
  #change(at: number, length: number, make: boolean, visit: (slice: Slice, index: number) => void): Now<void> {
    let cluster = Math.floor(at / this.#clusterSize)
    const end = Math.ceil((at + length) / this.#clusterSize)
    return repeat(() => {
      if (cluster >= end) return false
      const table = Math.floor(cluster / this.#perTable)
      if (this.#tables.table(table) === 0 && !make) {
        cluster = (table + 1) * this.#perTable
        return true
      }
      return after(this.#tables.writable(cluster), (slice) => {
        const base = slice.key * this.#perSlice
        const last = Math.min(end, base + this.#perSlice)
        for (; cluster < last; cluster++) visit(slice, cluster - base)
        return true
      })
    })
  }
}

function subState(allocated: number, zeroes: number, sub: number): 'data' | 'zero' | 'hole' {
  if ((zeroes >>> sub) & 1) return 'zero'
  return (allocated >>> sub) & 1 ? 'data' : 'hole'
}
