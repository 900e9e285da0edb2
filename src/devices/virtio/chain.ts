/** One buffer of a virtqueue: the elements that the driver chained together, as guest addresses (2.7.4, 2.8.5). */
import { GuestVec } from '../dma.ts'
import type { GuestMemory } from '../machine.ts'

/** A buffer that the driver made available. It is used again for later buffers, so nothing keeps it past its end. */
export class Chain {
  /** What the driver knows the buffer by: its head's index (split) or its buffer ID (packed). */
  id = 0
  /** Entries of the ring that it takes. */
  slots = 1
  /** Addresses of the elements; the readable ones come first. Only the first {@link count} are of this buffer. */
  readonly at: number[] = []
  /** Lengths of the elements, bytes, never 0. */
  readonly length: number[] = []
  count = 0
  /** How many elements, from the first, the device may read; it may write the others. */
  readable = 0
  readableBytes = 0
  writableBytes = 0
  /** The queue was reset: the buffer is the driver's again, and the device must not touch it. */
  abandoned = false
  /** Bytes written, once the device is done with it but not yet allowed to say so (2.7.9); else -1. */
  written = -1

  /** Makes it an empty buffer. */
  begin(): void {
    this.count = 0
    this.readable = 0
    this.readableBytes = 0
    this.writableBytes = 0
    this.abandoned = false
    this.written = -1
  }

  /** Says that it is the driver's again. */
  abandon(): void {
    this.abandoned = true
  }

  /** Appends an element; answers what is wrong with it, if anything is. */
  add(memory: GuestMemory, at: number, length: number, writable: boolean): string | undefined {
    if (length === 0) return
    if (!memory.contains(at, length)) return 'a descriptor points outside RAM'
    if (writable) this.writableBytes += length
    else {
      if (this.readable !== this.count) return 'a device-readable descriptor follows a device-writable one'
      this.readable++
      this.readableBytes += length
    }
    this.at[this.count] = at
    this.length[this.count] = length
    this.count++
  }

  /** Bytes `start` to `end` of the readable part. */
  readableVec(memory: GuestMemory, start: number, end: number): GuestVec {
    return this.#vec(memory, 0, this.readable, start, end)
  }

  /** Bytes `start` to `end` of the writable part. */
  writableVec(memory: GuestMemory, start: number, end: number): GuestVec {
    return this.#vec(memory, this.readable, this.count, start, end)
  }

  #vec(memory: GuestMemory, first: number, last: number, start: number, end: number): GuestVec {
    const vec = new GuestVec(memory)
    let skip = start
    let left = end - start
    for (let i = first; i < last && left > 0; i++) {
      const length = this.length[i]!
      if (skip >= length) {
        skip -= length
        continue
      }
      const step = Math.min(length - skip, left)
      vec.add(this.at[i]! + skip, step)
      left -= step
      skip = 0
    }
    return vec
  }
}
