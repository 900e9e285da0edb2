/** A disk of nothing, for measuring what is above it: `null-co`. */
import type { BlockDriver } from '../device.ts'
import type { IoVec } from '../iovec.ts'
import type { Now } from '../now.ts'

export interface NullOptions {
  /** Bytes; default 1 GiB. */
  readonly size?: number
  /** Whether reads fill their memory with zeroes; default they leave it as it is. */
  readonly readZeroes?: boolean
  /** How long a request takes, ns; default it answers at once. */
  readonly latencyNs?: number
}

/** Takes every write and keeps none. */
export class Null implements BlockDriver {
  readonly name = 'null-co'
  readonly fua = true
  readonly size: number
  readonly #readZeroes: boolean
  readonly #latencyMs: number

  constructor(options: NullOptions = {}) {
    this.size = options.size ?? 1 << 30
    this.#readZeroes = options.readZeroes ?? false
    this.#latencyMs = (options.latencyNs ?? 0) / 1e6
  }

  read(_at: number, into: IoVec): Now<void> {
    if (this.#readZeroes) into.fill(0)
    return this.#wait()
  }

  write(): Now<void> {
    return this.#wait()
  }

  flush(): Now<void> {
    return this.#wait()
  }

  zero(): Now<void> {
    return this.#wait()
  }

  discard(): Now<void> {
    return this.#wait()
  }

  status(_at: number, length: number): { length: number; kind: 'zero' | 'data' } {
    return { length, kind: this.#readZeroes ? 'zero' : 'data' }
  }

  allocated(): number {
    return 0
  }

  #wait(): Now<void> {
    if (this.#latencyMs > 0) return new Promise((resolve) => setTimeout(resolve, this.#latencyMs))
  }
}
