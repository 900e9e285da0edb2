/** A disk that answers when the test says so: the host as it is when the page cache does not have it. */
import type { BlockDriver, WriteOptions, ZeroOptions } from '../../src/block/device.ts'
import type { IoVec } from '../../src/block/iovec.ts'
import { Memory } from '../../src/block/protocols/memory.ts'

/** One request that the host has. */
export interface Pending {
  readonly kind: 'read' | 'write' | 'flush' | 'zero' | 'discard'
  readonly at: number
  readonly length: number
  /** Carries it out. */
  complete(): void
  fail(error: Error): void
}

/** Memory whose answers wait in {@link pending}. */
export class Slow implements BlockDriver {
  readonly name = 'slow'
  readonly fua = true
  readonly memory: Memory
  readonly pending: Pending[] = []
  /** Answers at once while set. */
  direct = false

  constructor(size = 1 << 20) {
    this.memory = new Memory(size)
  }

  get size(): number {
    return this.memory.size
  }

  read(at: number, into: IoVec): void | Promise<void> {
    return this.#wait('read', at, into.byteLength, () => this.memory.read(at, into))
  }

  write(at: number, from: IoVec, _options?: WriteOptions): void | Promise<void> {
    return this.#wait('write', at, from.byteLength, () => this.memory.write(at, from))
  }

  flush(): void | Promise<void> {
    return this.#wait('flush', 0, 0, () => {})
  }

  zero(at: number, length: number, _options?: ZeroOptions): void | Promise<void> {
    return this.#wait('zero', at, length, () => this.memory.zero(at, length))
  }

  discard(at: number, length: number): void | Promise<void> {
    return this.#wait('discard', at, length, () => this.memory.discard(at, length))
  }

  resize(size: number): void {
    this.memory.resize(size)
  }

  /** Completes the oldest request. */
  next(): void {
    this.pending[0]!.complete()
  }

  /** Completes everything, oldest first, and what that brings. */
  async settle(): Promise<void> {
    while (this.pending.length > 0) {
      this.next()
      await new Promise((resolve) => setImmediate(resolve))
    }
  }

  #wait(kind: Pending['kind'], at: number, length: number, run: () => void): void | Promise<void> {
    if (this.direct) return run()
    return new Promise((resolve, reject) => {
      const leave = () => this.pending.splice(this.pending.indexOf(pending), 1)
      const pending: Pending = {
        kind,
        at,
        length,
        complete: () => {
          leave()
          try {
            run()
            resolve()
          } catch (error) {
            reject(error)
          }
        },
        fail: (error) => {
          leave()
          reject(error)
        },
      }
      this.pending.push(pending)
    })
  }
}
