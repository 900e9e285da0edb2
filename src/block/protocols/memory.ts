/** A disk in memory: for tests, temporary overlays and small images. */
import type { BlockDriver, Extent } from '../device.ts'
import { BlockError } from '../error.ts'
import type { IoVec } from '../iovec.ts'

const CHUNK = 65536
/** Most that one answer of `status` covers, so that a sparse terabyte is not walked in one go. */
const STATUS_SPAN = 2 ** 28

/** A sparse disk of `size` bytes in memory that answers at once; it holds the 64 KiB chunks that were written. */
export class Memory implements BlockDriver {
  readonly name = 'memory'
  readonly fua = true
  readonly readOnly: boolean
  readonly #chunks = new Map<number, Uint8Array>()
  #size: number

  constructor(size: number, options: { readOnly?: boolean } = {}) {
    if (!Number.isSafeInteger(size) || size < 0)
      throw new BlockError('EINVAL', `Cannot make a memory disk of ${size} bytes`)
    this.#size = size
    this.readOnly = options.readOnly ?? false
  }

  /** A disk that holds a copy of `bytes`. */
  static from(bytes: Uint8Array, options: { readOnly?: boolean } = {}): Memory {
    const memory = new Memory(bytes.length, options)
    memory.#store(0, bytes)
    return memory
  }

  get size(): number {
    return this.#size
  }

  read(at: number, into: IoVec): void {
    let from = at
    for (const view of into.views()) {
      for (let done = 0; done < view.length; ) {
        const within = from % CHUNK
        const length = Math.min(CHUNK - within, view.length - done)
        const chunk = this.#chunks.get((from - within) / CHUNK)
        if (chunk === undefined) view.fill(0, done, done + length)
        else view.set(chunk.subarray(within, within + length), done)
        done += length
        from += length
      }
    }
  }

  write(at: number, from: IoVec): void {
    let to = at
    for (const view of from.views()) {
      this.#store(to, view)
      to += view.length
    }
  }

  flush(): void {}

  zero(at: number, length: number): void {
    for (let done = 0; done < length; ) {
      const within = (at + done) % CHUNK
      const step = Math.min(CHUNK - within, length - done)
      const index = (at + done - within) / CHUNK
      if (step === CHUNK) this.#chunks.delete(index)
      else this.#chunks.get(index)?.fill(0, within, within + step)
      done += step
    }
  }

  discard(at: number, length: number): void {
    this.zero(at, length)
  }

  status(at: number, length: number): Extent {
    const kind = this.#kind(at)
    const last = Math.min(at + length, at + STATUS_SPAN)
    let end = at + CHUNK - (at % CHUNK)
    while (end < last && this.#kind(end) === kind) end += CHUNK
    return { length: Math.min(end - at, length), kind }
  }

  resize(size: number): void {
    if (size < this.#size) {
      const within = size % CHUNK
      const index = (size - within) / CHUNK
      this.#chunks.get(index)?.fill(0, within)
      for (const key of this.#chunks.keys()) if (key * CHUNK >= size) this.#chunks.delete(key)
    }
    this.#size = size
  }

  allocated(): number {
    return this.#chunks.size * CHUNK
  }

  #kind(at: number): 'data' | 'hole' {
    return this.#chunks.has(Math.floor(at / CHUNK)) ? 'data' : 'hole'
  }

  #store(at: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const within = (at + done) % CHUNK
      const index = (at + done - within) / CHUNK
      let chunk = this.#chunks.get(index)
      if (chunk === undefined) this.#chunks.set(index, (chunk = new Uint8Array(CHUNK)))
      const length = Math.min(CHUNK - within, bytes.length - done)
      chunk.set(bytes.subarray(done, done + length), within)
      done += length
    }
  }
}
