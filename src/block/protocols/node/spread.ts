/** Writes past the page cache on whichever engine is quicker here: which one that is differs from host to host. */
import { performance } from 'node:perf_hooks'
import type { IoVec } from '../../iovec.ts'
import type { Engine, Waiter } from './engine.ts'

/** From so many writes under way on it matters which engine they take. */
const BUSY_MIN = 4
/** So many writes after a change are the other engine's business still, */
const SETTLE = 32
/** then so many are measured. */
const MEASURED = 128
/** So many measurements long the better one is used before the other is tried again. */
const STAY = 64
/** Threads must be so much quicker: one measurement is none, and what they cost in CPU is not in it. */
const MARGIN = 1.5

/**
 * Handing a write to the device is most of its work. The ring does that on the emulator's thread, for a whole batch in one go;
 * threads do it one by one, but beside each other. Measured with O_DIRECT writes of 4 KiB on ext4 over virtio-blk, 32 at a time:
 * on one host the ring did 10,000 to 19,000 a second and four threads 24,000 to 27,000, on another the ring 75,000 and the
 * threads 45,000. So both are tried. One at a time, and reads, were quicker through the ring on both.
 */
class Spread implements Engine {
  readonly name: Engine['name']
  readonly durableWrites: boolean
  readonly #engines: readonly [Engine, Engine]
  readonly #clock: () => number
  /** Time that a byte took when it was last measured, ms. */
  readonly #costs: [number, number] = [Number.NaN, Number.NaN]
  #used: 0 | 1 = 0
  #writing = 0
  #seen = 0
  #since = 0
  #bytes = 0
  /** Measurements until the other engine is tried. */
  #stay = 0

  constructor(ring: Engine, threads: Engine, clock: () => number) {
    this.name = ring.name
    this.durableWrites = ring.durableWrites
    this.#engines = [ring, threads]
    this.#clock = clock
  }

  read(...request: Parameters<Engine['read']>): void {
    this.#engines[0].read(...request)
  }

  write(at: number, from: IoVec, durable: boolean, waiter: Waiter, lone?: boolean): void {
    const engine = durable || this.#writing === 0 ? 0 : this.#used
    this.#writing++
    const bytes = from.byteLength
    const counted: Waiter = {
      done: () => {
        this.#ended(bytes)
        waiter.done()
      },
      failed: (error) => {
        this.#ended(bytes)
        waiter.failed(error)
      },
    }
    this.#engines[engine].write(at, from, durable, counted, lone)
  }

  sync(): Promise<void> {
    return this.#engines[0].sync()
  }

  submit(): void {
    this.#engines[0].submit?.()
  }

  #ended(bytes: number): void {
    if (this.#writing-- < BUSY_MIN) {
      this.#seen = 0
      return
    }
    this.#seen++
    this.#bytes += bytes
    if (this.#seen === SETTLE) {
      this.#since = this.#clock()
      this.#bytes = 0
    }
    if (this.#seen === SETTLE + MEASURED) this.#measured()
  }

  #measured(): void {
    const costs = this.#costs
    const other = this.#used === 0 ? 1 : 0
    costs[this.#used] = (this.#clock() - this.#since) / this.#bytes
    this.#seen = 0
    if (this.#stay > 0) {
      if (--this.#stay === 0) this.#used = other
    } else if (Number.isNaN(costs[other])) this.#used = other
    else {
      this.#used = costs[0] <= costs[1] * MARGIN ? 0 : 1
      this.#stay = STAY
    }
  }
}

/** Both engines as one; `clock` counts ms. */
export function spread(ring: Engine, threads: Engine, clock: () => number = () => performance.now()): Engine {
  return new Spread(ring, threads, clock)
}
