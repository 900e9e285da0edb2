/** A page of an L2 table. One whose clusters lie in order is held as a few runs instead of its bytes. */
import { Page } from '../../pages.ts'

// Bits of an L2 entry's upper half.
const COPIED_BIT = 0x80000000
const COMPRESSED_BIT = 0x40000000
const OFFSET_HIGH = 0x00ffffff
const OFFSET_LOW = 0xfffffe00

/** The entry reads as zeroes, whatever its offset. */
export const ZERO = 1
/** The refcount of the entry's cluster is 1: it may be overwritten. */
export const COPIED = 2
/** The entry describes compressed data. */
export const COMPRESSED = 4
/** The entry has a host cluster whose offset is no multiple of the cluster size. */
export const MISPLACED = 8
/** The entry has a host cluster. In an external data file that may be at offset 0. */
export const PRESENT = 16

/** So many entries are looked at, past those that are wanted, for how far their clusters follow each other. */
const LOOK_AHEAD = 16

/** Every subcluster has data. */
const ALL = 0xffffffff

/**
 * A page of an L2 table. {@link look} sets `offset`, `flags`, `allocated` and `zeroes` to what an entry says; without extended
 * entries, `allocated` and `zeroes` mean nothing.
 */
export class Slice extends Page {
  readonly #entryBits: 3 | 4
  readonly #external: boolean
  readonly #clusterSize: number
  readonly #entries: number
  #bytes: Uint8Array | undefined
  #view: DataView | undefined
  /** Runs: host offset of the first entry; and in `#heads` its index, with the flags above 16 bits. */
  #runs: Float64Array | undefined
  #heads: Uint32Array | undefined
  /** Some entry may point at metadata: each must be checked where it is used. */
  suspect = false

  /** Bytes of the disk, from the slice's first, that were found in one piece last; and how far behind that piece lies in the file. */
  #from = 0
  #to = 0
  #shift = 0

  /** Host offset of the cluster that was looked at; 0 if there is none. */
  offset = 0
  flags = 0
  /** Subclusters that have data, a bit each. */
  allocated = 0
  /** Subclusters that read as zeroes, a bit each. */
  zeroes = 0

  constructor(key: number, bytes: Uint8Array, extended: boolean, external: boolean, clusterSize: number) {
    super(key)
    this.#entryBits = extended ? 4 : 3
    this.#external = external
    this.#clusterSize = clusterSize
    this.#entries = bytes.length >> this.#entryBits
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  }

  bytes(): Uint8Array {
    if (this.#bytes === undefined) this.#expand()
    return this.#bytes!
  }

  get cost(): number {
    return (this.#bytes?.length ?? 0) + (this.#runs?.length ?? 0) * 12 + 320
  }

  /** Whether it is held as runs. */
  get compact(): boolean {
    return this.#bytes === undefined
  }

  look(index: number): void {
    const view = this.#view
    if (view === undefined) this.#lookRuns(index)
    else this.#lookBytes(view, index)
  }

  /** Host offset of `length` bytes from byte `within` of what the slice maps, if they are there in one piece as they are; else -1. */
  place(within: number, length: number): number {
    return within >= this.#from && within + length <= this.#to ? within + this.#shift : this.#placeAnew(within, length)
  }

  #placeAnew(within: number, length: number): number {
    const index = Math.floor(within / this.#clusterSize)
    this.look(index)
    const { flags, offset } = this
    if ((flags & ~COPIED) !== PRESENT) return -1
    if (this.#entryBits === 4 && (this.allocated !== ALL || this.zeroes !== 0)) return -1
    const start = index * this.#clusterSize
    const wanted = Math.ceil((within + length) / this.#clusterSize) - index
    const count =
      this.#view === undefined ? this.#runEnd(index) - index : this.#follow(this.#view, index, wanted + LOOK_AHEAD)
    if (count < wanted) return -1
    this.#from = start
    this.#to = start + count * this.#clusterSize
    this.#shift = offset - start
    return within + this.#shift
  }

  /** How many entries from that of plain data at `index`, at most `most`, have the clusters that follow its own, as plain data. */
  #follow(view: DataView, index: number, most: number): number {
    const bits = this.#entryBits
    const last = Math.min(index + most, this.#entries)
    const high = view.getUint32(index << bits)
    let low = view.getUint32((index << bits) + 4)
    let next = index + 1
    for (; next < last; next++) {
      const at = next << bits
      low += this.#clusterSize
      if (view.getUint32(at + 4) !== low || view.getUint32(at) !== high) break
      if (bits === 4 && (view.getUint32(at + 8) !== 0 || view.getUint32(at + 12) !== ALL)) break
    }
    return next - index
  }

  /** The descriptor of a compressed cluster, as two halves. */
  descriptor(index: number): { high: number; low: number } {
    this.bytes()
    const at = index << this.#entryBits
    return { high: this.#view!.getUint32(at) & 0x3fffffff, low: this.#view!.getUint32(at + 4) }
  }

  /** Sets a standard entry, or an extended one with all its subclusters alike. */
  set(index: number, offset: number, flags: number): void {
    this.setExtended(
      index,
      offset,
      flags & ~ZERO,
      (flags & (COPIED | ZERO)) === COPIED ? ALL : 0,
      flags & ZERO ? ALL : 0,
    )
    if (this.#entryBits === 3 && flags & ZERO) this.#view!.setUint32((index << 3) + 4, (offset | ZERO) >>> 0)
  }

  /** Sets an extended entry; of a standard one, its offset and flags but for {@link ZERO}. */
  setExtended(index: number, offset: number, flags: number, allocated: number, zeroes: number): void {
    this.bytes()
    const view = this.#view!
    const at = index << this.#entryBits
    view.setUint32(at, (Math.floor(offset / 2 ** 32) | (flags & COPIED ? COPIED_BIT : 0)) >>> 0)
    view.setUint32(at + 4, offset >>> 0)
    if (this.#entryBits === 4) {
      view.setUint32(at + 8, zeroes >>> 0)
      view.setUint32(at + 12, allocated >>> 0)
    }
    this.touch(at, 1 << this.#entryBits)
  }

  /** Sets whether an entry says that its cluster's refcount is 1. */
  recopy(index: number, copied: boolean): void {
    this.bytes()
    const at = index << this.#entryBits
    const high = this.#view!.getUint32(at)
    this.#view!.setUint32(at, (copied ? high | COPIED_BIT : high & ~COPIED_BIT) >>> 0)
    this.touch(at, 4)
  }

  /** Sets the entry of a compressed cluster. */
  setCompressed(index: number, high: number, low: number): void {
    this.bytes()
    const view = this.#view!
    const at = index << this.#entryBits
    view.setUint32(at, (high | COMPRESSED_BIT) >>> 0)
    view.setUint32(at + 4, low)
    if (this.#entryBits === 4) {
      view.setUint32(at + 8, 0)
      view.setUint32(at + 12, 0)
    }
    this.touch(at, 1 << this.#entryBits)
  }

  /** How many entries from `index`, at most `most`, go on as it begins: holes, zeroes, or data in one stretch. */
  stretch(index: number, most: number): number {
    const last = Math.min(index + most, this.#entries)
    this.look(index)
    const { flags, allocated, zeroes } = this
    let { offset } = this
    if (flags & (COMPRESSED | MISPLACED)) return 1
    const step = flags & PRESENT ? this.#clusterSize : 0
    let next = index + 1
    for (; next < last; next++) {
      this.look(next)
      offset += step
      if (this.offset !== offset || this.flags !== flags) break
      if (this.#entryBits === 4 && (this.allocated !== allocated || this.zeroes !== zeroes)) break
    }
    this.look(index)
    return next - index
  }

  /** Calls `visit` with every stretch of clusters in the image's file: host offset and count. */
  stretches(visit: (offset: number, count: number) => void): void {
    for (let index = 0; index < this.#entries; ) {
      const count = this.stretch(index, this.#entries)
      if (this.offset !== 0 && !(this.flags & (COMPRESSED | MISPLACED))) visit(this.offset, count)
      index += count
    }
  }

  override shrink(): boolean {
    const view = this.#view
    if (view === undefined || this.pinned) return false
    const most = this.#entries >> 2
    const runs: number[] = []
    const heads: number[] = []
    for (let index = 0; index < this.#entries; ) {
      const count = this.stretch(index, this.#entries)
      if (this.flags & (COMPRESSED | MISPLACED) || runs.length >= most) return false
      if (this.#entryBits === 4) {
        const plain = this.zeroes === 0 && this.allocated === (this.flags & PRESENT ? ALL : 0)
        if (!plain && !(this.zeroes === ALL && this.allocated === 0)) return false
        if (this.zeroes !== 0) this.flags |= ZERO
      }
      runs.push(this.offset)
      heads.push(index + this.flags * 65536)
      index += count
    }
    this.#runs = new Float64Array(runs)
    this.#heads = new Uint32Array(heads)
    this.#bytes = undefined
    this.#view = undefined
    return true
  }

  #lookBytes(view: DataView, index: number): void {
    const at = index << this.#entryBits
    const high = view.getUint32(at)
    const low = view.getUint32(at + 4)
    let flags = high & COPIED_BIT ? COPIED : 0
    if (high & COMPRESSED_BIT) flags = COMPRESSED
    else if ((low & OFFSET_LOW & (this.#clusterSize - 1)) !== 0 || (high & OFFSET_HIGH) > 0x1fffff) flags |= MISPLACED
    this.offset = flags & COMPRESSED ? 0 : (high & OFFSET_HIGH) * 2 ** 32 + ((low & OFFSET_LOW) >>> 0)
    if (this.offset !== 0 || (this.#external && flags & COPIED)) flags |= PRESENT
    if (this.#entryBits === 4) {
      this.zeroes = view.getUint32(at + 8)
      this.allocated = view.getUint32(at + 12)
    } else if ((low & 1) !== 0 && !(flags & COMPRESSED)) flags |= ZERO
    this.flags = flags
  }

  override touch(at: number, length: number): void {
    super.touch(at, length)
    const first = (at >> this.#entryBits) * this.#clusterSize
    const end = Math.ceil((at + length) / (1 << this.#entryBits)) * this.#clusterSize
    if (first < this.#to && end > this.#from) this.#to = 0
  }

  /** The run that has an entry. */
  #runOf(index: number): number {
    const heads = this.#heads!
    let low = 0
    let high = heads.length
    while (high - low > 1) {
      const middle = (low + high) >> 1
      if ((heads[middle]! & 0xffff) <= index) low = middle
      else high = middle
    }
    return low
  }

  /** The first entry after the run of another. */
  #runEnd(index: number): number {
    const next = this.#runOf(index) + 1
    return next < this.#heads!.length ? this.#heads![next]! & 0xffff : this.#entries
  }

  #lookRuns(index: number): void {
    const heads = this.#heads!
    const low = this.#runOf(index)
    const head = heads[low]!
    const offset = this.#runs![low]!
    this.flags = head >>> 16
    this.offset = this.flags & PRESENT ? offset + (index - (head & 0xffff)) * this.#clusterSize : 0
    if (this.#entryBits === 4) {
      this.zeroes = this.flags & ZERO ? ALL : 0
      this.allocated = (this.flags & (ZERO | PRESENT)) === PRESENT ? ALL : 0
      this.flags &= ~ZERO
    }
  }

  #expand(): void {
    const bytes = new Uint8Array(this.#entries << this.#entryBits)
    const view = new DataView(bytes.buffer)
    for (let index = 0; index < this.#entries; index++) {
      this.#lookRuns(index)
      const at = index << this.#entryBits
      view.setUint32(at, (Math.floor(this.offset / 2 ** 32) | (this.flags & COPIED ? COPIED_BIT : 0)) >>> 0)
      view.setUint32(at + 4, (this.offset | (this.flags & ZERO)) >>> 0)
      if (this.#entryBits === 4) {
        view.setUint32(at + 8, this.zeroes)
        view.setUint32(at + 12, this.allocated)
      }
    }
    this.#bytes = bytes
    this.#view = view
    this.#runs = undefined
    this.#heads = undefined
  }
}
