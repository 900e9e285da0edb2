/** Guest memory as scatter-gather lists. */
import { type Grant, type IoVec, sliceBounds, VecBase } from '../block/iovec.ts'
import type { GuestMemory } from './machine.ts'

/** A list of ranges of guest RAM. Build it with {@link add}; the ranges must be RAM, so ask the memory first. */
export class GuestVec extends VecBase {
  readonly #memory: GuestMemory
  readonly #at: number[] = []
  readonly #length: number[] = []
  #byteLength = 0

  constructor(memory: GuestMemory, grant?: Grant) {
    super(grant)
    this.#memory = memory
  }

  get byteLength(): number {
    return this.#byteLength
  }

  /** Appends `length` bytes at guest physical address `at`; a range that continues the last one becomes one with it. */
  add(at: number, length: number): this {
    if (length === 0) return this
    const last = this.#at.length - 1
    if (last >= 0 && this.#at[last]! + this.#length[last]! === at) this.#length[last]! += length
    else {
      this.#at.push(at)
      this.#length.push(length)
    }
    this.#byteLength += length
    return this
  }

  views(): readonly Uint8Array[] {
    this.held()
    const ram = this.#memory.ram
    const views: Uint8Array[] = new Array(this.#at.length)
    for (let i = 0; i < views.length; i++) views[i] = ram.subarray(this.#at[i]!, this.#at[i]! + this.#length[i]!)
    return views
  }

  slice(start: number, end = this.#byteLength): IoVec {
    sliceBounds(this.#byteLength, start, end)
    if (start === 0 && end === this.#byteLength) return this
    const part = new GuestVec(this.#memory, this.grant)
    let at = 0
    for (let i = 0; i < this.#at.length && at < end; i++) {
      const from = Math.max(start - at, 0)
      const to = Math.min(end - at, this.#length[i]!)
      if (from < to) part.add(this.#at[i]! + from, to - from)
      at += this.#length[i]!
    }
    return part
  }

  filled(): void {
    if (this.grant.revoked) return
    for (let i = 0; i < this.#at.length; i++) this.#memory.dirty(this.#at[i]!, this.#length[i]!)
  }
}
