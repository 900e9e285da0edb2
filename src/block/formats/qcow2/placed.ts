/** Where metadata is: so that no data is written over it. */

const MOST = 1 << 18

/** Host offsets of clusters with metadata, sorted; at most 262144 of them, a check for more is left out. */
export class Placed {
  readonly #clusterSize: number
  #offsets: Float64Array
  #count = 0

  constructor(clusterSize: number, offsets: readonly number[]) {
    this.#clusterSize = clusterSize
    const sorted = offsets.slice(0, MOST).sort((a, b) => a - b)
    this.#offsets = new Float64Array(Math.max(16, sorted.length))
    this.#offsets.set(sorted)
    this.#count = sorted.length
  }

  /** Whether some metadata lies in the range. */
  overlaps(offset: number, length: number): boolean {
    const index = this.#after(offset - this.#clusterSize)
    return index < this.#count && this.#offsets[index]! < offset + length
  }

  add(offset: number): void {
    if (this.#count >= MOST) return
    if (this.#count === this.#offsets.length) {
      const more = new Float64Array(2 * this.#count)
      more.set(this.#offsets)
      this.#offsets = more
    }
    const index = this.#after(offset)
    this.#offsets.copyWithin(index + 1, index, this.#count)
    this.#offsets[index] = offset
    this.#count++
  }

  remove(offset: number): void {
    const index = this.#after(offset) - 1
    if (index < 0 || this.#offsets[index] !== offset) return
    this.#offsets.copyWithin(index, index + 1, this.#count)
    this.#count--
  }

  /** Index of the first offset greater than `offset`. */
  #after(offset: number): number {
    let low = 0
    let high = this.#count
    while (low < high) {
      const middle = (low + high) >> 1
      if (this.#offsets[middle]! <= offset) low = middle + 1
      else high = middle
    }
    return low
  }
}
