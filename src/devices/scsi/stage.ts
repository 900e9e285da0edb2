/** Buffers between an adapter that moves data in pieces and a medium that wants few requests. */

const LARGE = 256 << 10
const SMALL = 16 << 10
const MANY = 32
const KEPT = 8

/** A staging buffer. */
export class Stage {
  /** Bytes of it that its task may use. */
  size = 0
  /** Bytes that are in it, from the start on. */
  filled = 0
  /** Those of them that were moved on. */
  taken = 0
  /** Whether a request reads into it. */
  reading = false
  readonly #bytes: Uint8Array

  constructor(length: number) {
    this.#bytes = new Uint8Array(length)
  }

  /** Bytes that it has room for. */
  get capacity(): number {
    return this.#bytes.length
  }

  part(start: number, end: number): Uint8Array {
    return this.#bytes.subarray(start, end)
  }
}

/** A bounded supply of staging buffers: 256 KiB for a task, 16 KiB when 32 tasks hold one already. */
export class Stages {
  readonly #free: Stage[] = []
  #out = 0

  /** Bytes that a buffer for `length` bytes in blocks of `block` will have. */
  size(length: number, block = 1): number {
    const most = Math.max(this.#out < MANY ? LARGE : SMALL, block)
    return Math.min(length, most - (most % block))
  }

  /** An empty buffer of {@link size} bytes; what its bytes are is left from others. */
  take(length: number, block = 1): Stage {
    const size = this.size(length, block)
    const stage = this.#fitting(size)
    this.#out++
    stage.size = size
    stage.filled = 0
    stage.taken = 0
    return stage
  }

  #fitting(size: number): Stage {
    if (size > LARGE) return new Stage(size)
    const free = this.#free.pop()
    return free !== undefined && free.capacity >= size ? free : new Stage(size > SMALL ? LARGE : SMALL)
  }

  /** Counts a buffer out that a request may still fill. */
  lose(): void {
    this.#out--
  }

  /** Gives a buffer back. */
  give(stage: Stage): void {
    this.#out--
    const { capacity } = stage
    if ((capacity === LARGE || capacity === SMALL) && this.#free.length < KEPT) this.#free.push(stage)
  }
}
