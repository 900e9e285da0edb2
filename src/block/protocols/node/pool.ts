/** Page-aligned memory for O_DIRECT: all of it in one WebAssembly memory, whose pages are aligned and stay in place. */
import { type Grant, type IoVec, sliceBounds, VecBase } from '../../iovec.ts'

const PAGE = 65536
/** Largest buffer, bytes; longer requests go in steps of this. */
export const BUFFER_MAX = 1 << 20
/** All of the pool, bytes: who wants more waits. */
const POOL_MAX = 64 << 20
const SMALLEST = 4096

/** A range of a WebAssembly memory. Its views are fresh: growth of the memory takes the old ones' bytes away. */
class WasmVec extends VecBase {
  readonly #memory: WebAssembly.Memory
  readonly #at: number
  readonly byteLength: number

  constructor(memory: WebAssembly.Memory, at: number, byteLength: number, grant?: Grant) {
    super(grant)
    this.#memory = memory
    this.#at = at
    this.byteLength = byteLength
  }

  views(): readonly Uint8Array[] {
    this.held()
    return this.byteLength === 0 ? [] : [new Uint8Array(this.#memory.buffer, this.#at, this.byteLength)]
  }

  slice(start: number, end = this.byteLength): IoVec {
    sliceBounds(this.byteLength, start, end)
    return new WasmVec(this.#memory, this.#at + start, end - start, this.grant)
  }

  filled(): void {}
}

/** Buffers of powers of two from 4 KiB to {@link BUFFER_MAX}, each aligned to a page of 4 KiB. */
export class AlignedPool {
  readonly #memory = new WebAssembly.Memory({ initial: 16, maximum: POOL_MAX / PAGE })
  readonly #free = new Map<number, number[]>()
  readonly #waiting: (() => void)[] = []
  #used = 0

  /** Lends `length` bytes, at most {@link BUFFER_MAX}, to `body` until it is done; waits when all are lent. */
  async lend<T>(length: number, body: (buffer: IoVec) => Promise<T>): Promise<T> {
    const size = Math.max(SMALLEST, 2 ** Math.ceil(Math.log2(length)))
    let at = this.#take(size)
    while (at === undefined) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve))
      at = this.#take(size)
    }
    try {
      return await body(new WasmVec(this.#memory, at, length))
    } finally {
      this.#give(size, at)
      for (const wake of this.#waiting.splice(0)) wake()
    }
  }

  #take(size: number): number | undefined {
    const free = this.#free.get(size)?.pop()
    if (free !== undefined) return free
    const at = Math.ceil(this.#used / Math.min(size, PAGE)) * Math.min(size, PAGE)
    const missing = Math.ceil((at + size - this.#memory.buffer.byteLength) / PAGE)
    if (missing > 0) {
      if (at + size > POOL_MAX) return this.#split(size)
      this.#memory.grow(missing)
    }
    this.#used = at + size
    return at
  }

  /** When the pool is full, a part of a free buffer that is larger than what is wanted. */
  #split(size: number): number | undefined {
    for (let larger = size * 2; larger <= BUFFER_MAX; larger *= 2) {
      const at = this.#free.get(larger)?.pop()
      if (at === undefined) continue
      for (let part = at + size; part < at + larger; part += size) this.#give(size, part)
      return at
    }
  }

  #give(size: number, at: number): void {
    const free = this.#free.get(size)
    if (free === undefined) this.#free.set(size, [at])
    else free.push(at)
  }
}

let shared: AlignedPool | undefined

/** The pool that all files share. */
export function alignedPool(): AlignedPool {
  shared ??= new AlignedPool()
  return shared
}
