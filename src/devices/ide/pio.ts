/** What passes through the Data register: a drive's buffer, cut into DRQ blocks [ATA8-APT 9.6, 9.7]. */
import type { PassingData, Saved } from '../machine.ts'
import { type Fields, takeBytes, takeNumber } from './saved.ts'

const UNIT = 512
/** Largest part of a transfer that the drive's own buffer holds, bytes. */
export const BUFFER_LIMIT = 128 << 10

export class PioData implements PassingData {
  bytes: Uint8Array<ArrayBuffer> = new Uint8Array(UNIT)
  view: DataView = new DataView(this.bytes.buffer)
  at = 0
  // One of them is 0, or both, so that one comparison answers a stray access
  inEnd = 0
  outEnd = 0
  /** Bytes that are presented, or asked for, in all. */
  length = 0
  #block = UNIT

  /** Makes the buffer at least `length` bytes long; what it held is lost if it must grow. */
  room(length: number): Uint8Array<ArrayBuffer> {
    if (this.bytes.length < length) this.#hold(new Uint8Array(length))
    return this.bytes
  }

  #hold(bytes: Uint8Array<ArrayBuffer>): void {
    this.bytes = bytes
    this.view = new DataView(bytes.buffer)
  }

  /** Presents the first `length` bytes of the buffer in blocks. */
  present(length: number, block: number): void {
    this.#begin(length, block)
    this.inEnd = this.#blockEnd()
  }

  /** Asks for `length` bytes in blocks. */
  ask(length: number, block: number): void {
    this.room(length)
    this.#begin(length, block)
    this.outEnd = this.#blockEnd()
  }

  #begin(length: number, block: number): void {
    this.at = 0
    this.length = length
    this.#block = block
  }

  #blockEnd(): number {
    return Math.min(this.at + this.#block, this.length)
  }

  /** After the end of a block: opens the next one; false if there is none. */
  nextIn(): boolean {
    this.inEnd = this.at < this.length ? this.#blockEnd() : 0
    return this.inEnd > 0
  }

  /** After the end of a block: opens the next one; false if there is none. */
  nextOut(): boolean {
    this.outEnd = this.at < this.length ? this.#blockEnd() : 0
    return this.outEnd > 0
  }

  /** Nothing passes any more. */
  close(): void {
    this.at = 0
    this.length = 0
    this.inEnd = 0
    this.outEnd = 0
  }

  /** Takes 1, 2 or 4 bytes of the block; what its end cuts off is zero. */
  take(width: number): number {
    const at = this.at
    const next = at + width
    if (next > this.inEnd) return this.#takeShort()
    this.at = next
    return width === 2 ? this.view.getUint16(at, true) : width === 4 ? this.view.getUint32(at, true) : this.bytes[at]!
  }

  /** Puts 1, 2 or 4 bytes into the block; what its end cuts off is lost. */
  put(width: number, value: number): void {
    const at = this.at
    const next = at + width
    if (next > this.outEnd) {
      this.#putShort(value)
      return
    }
    this.at = next
    if (width === 2) this.view.setUint16(at, value, true)
    else if (width === 4) this.view.setUint32(at, value, true)
    else this.bytes[at] = value
  }

  #takeShort(): number {
    let value = 0
    for (let shift = 0; this.at < this.inEnd; shift += 8) value |= this.bytes[this.at++]! << shift
    return value
  }

  #putShort(value: number): void {
    for (let shift = 0; this.at < this.outEnd; shift += 8) this.bytes[this.at++] = value >>> shift
  }

  /** The state; `whole` is whether the buffer holds what is still needed. */
  save(whole: boolean): Fields {
    return {
      buffer: whole ? this.bytes.slice() : this.bytes.slice(0, UNIT),
      at: this.at,
      inEnd: this.inEnd,
      outEnd: this.outEnd,
      windowEnd: this.length,
      block: this.#block,
    }
  }

  restore(state: Saved): void {
    const bytes = takeBytes(state, 'buffer', BUFFER_LIMIT)
    this.#hold(bytes.length < UNIT ? new Uint8Array(UNIT) : bytes)
    const size = this.bytes.length
    this.at = takeNumber(state, 'at', size)
    this.inEnd = takeNumber(state, 'inEnd', size)
    this.outEnd = takeNumber(state, 'outEnd', size)
    this.length = takeNumber(state, 'windowEnd', size)
    this.#block = Math.max(takeNumber(state, 'block', BUFFER_LIMIT), 1)
  }
}
