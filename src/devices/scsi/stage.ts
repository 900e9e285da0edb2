/** Buffers between an adapter that moves data in pieces and a medium that wants few requests. */

const LARGE = 256 << 10
const SMALL = 16 << 10
const MANY = 32
const KEPT = 8

/** A bounded supply of staging buffers: 256 KiB for a task, 16 KiB when 32 tasks hold one already. */
export class Stages {
  readonly #free: Uint8Array[] = []
  #out = 0

  /** Bytes that a buffer for `length` bytes in blocks of `block` will have. */
  size(length: number, block = 1): number {
    const most = Math.max(this.#out < MANY ? LARGE : SMALL, block)
    return Math.min(length, most - (most % block))
  }

  /** A buffer of {@link size} bytes; what is in it is left from others. */
  take(length: number, block = 1): Uint8Array {
    const size = this.size(length, block)
    this.#out++
    if (size > LARGE) return new Uint8Array(size)
    const whole = this.#free.pop() ?? (size > SMALL ? new Uint8Array(LARGE) : new Uint8Array(SMALL))
    return whole.length >= size ? whole.subarray(0, size) : new Uint8Array(LARGE).subarray(0, size)
  }

  /** Counts a buffer out that a request may still fill. */
  lose(): void {
    this.#out--
  }

  /** Gives a buffer back. */
  give(buffer: Uint8Array): void {
    this.#out--
    const { byteLength } = buffer.buffer
    if ((byteLength === LARGE || byteLength === SMALL) && this.#free.length < KEPT) {
      this.#free.push(new Uint8Array(buffer.buffer as ArrayBuffer))
    }
  }
}
