/** Which parts of a disk a job has still to copy: a bit for each granule. */
import { BlockError } from '../error.ts'

/** A set of granules, in order; ranges are bytes of the disk. */
export class Granules {
  /** Bytes of a granule. */
  readonly unit: number
  readonly #bits: Uint8Array
  readonly #size: number
  #count = 0

  constructor(size: number, unit: number) {
    if (!Number.isInteger(Math.log2(unit)) || unit < 512 || unit > 64 << 20) {
      throw new BlockError('EINVAL', `The granularity is ${unit}, must be a power of two from 512 to 67108864`)
    }
    this.unit = unit
    this.#size = size
    this.#bits = new Uint8Array(Math.ceil(Math.ceil(size / unit) / 8))
  }

  /** Bytes that are in the set. */
  get bytes(): number {
    return this.#count * this.unit
  }

  get empty(): boolean {
    return this.#count === 0
  }

  /** Adds every granule that the range touches. */
  add(at: number, length: number): void {
    const { start, end } = this.#touched(at, length)
    for (let index = start; index < end; index++) {
      const mask = 1 << (index & 7)
      if (this.#bits[index >> 3]! & mask) continue
      this.#bits[index >> 3]! |= mask
      this.#count++
    }
  }

  /** Takes out the granules that lie wholly in the range; the disk's last may be shorter. */
  remove(at: number, length: number): void {
    const start = Math.ceil(at / this.unit)
    const end = at + length >= this.#size ? Math.ceil(this.#size / this.unit) : Math.floor((at + length) / this.unit)
    for (let index = start; index < end; index++) {
      const mask = 1 << (index & 7)
      if (!(this.#bits[index >> 3]! & mask)) continue
      this.#bits[index >> 3]! &= ~mask
      this.#count--
    }
  }

  /** Whether one of the granules that the range touches is in the set. */
  touches(at: number, length: number): boolean {
    if (this.#count === 0) return false
    const { start, end } = this.#touched(at, length)
    for (let index = start; index < end; index++) if (this.#has(index)) return true
    return false
  }

  /** The first stretch of granules at or after `at`, at most `most` bytes of it (at least a granule), or undefined. */
  next(at: number, most: number): { at: number; length: number } | undefined {
    if (this.#count === 0) return undefined
    const all = Math.ceil(this.#size / this.unit)
    let index = Math.floor(at / this.unit)
    while (index < all && !this.#has(index)) index += (index & 7) === 0 && this.#bits[index >> 3] === 0 ? 8 : 1
    if (index >= all) return undefined
    const limit = Math.min(all, index + Math.max(1, Math.floor(most / this.unit)))
    let end = index + 1
    while (end < limit && this.#has(end)) end++
    const start = index * this.unit
    return { at: start, length: Math.min(end * this.unit, this.#size) - start }
  }

  /** The range, made whole granules of. */
  whole(at: number, length: number): { at: number; length: number } {
    const { start, end } = this.#touched(at, length)
    return { at: start * this.unit, length: Math.min(end * this.unit, this.#size) - start * this.unit }
  }

  #has(index: number): boolean {
    return (this.#bits[index >> 3]! & (1 << (index & 7))) !== 0
  }

  #touched(at: number, length: number): { start: number; end: number } {
    return { start: Math.floor(at / this.unit), end: Math.ceil(Math.min(at + length, this.#size) / this.unit) }
  }
}
