/** Whether the answer to a lone request may be waited for: where the device is about as quick as handing the request off. */

/**
 * Longest wait, ns: a quick device has then answered 64 KiB too. It ends some 20 us late, and with the rest of the request that
 * stays below the 0.2 ms for which one request may hold the event loop.
 */
export const BRIEF = 120_000n
/** Longest request that is waited for, bytes. */
const LENGTH_MAX = 64 << 10
/** A wait that was too short counts so much, one that was long enough takes one off; at the limit they cease for a while. */
const FAILED = 3
const LIMIT = 12
/** So many requests are then not waited for; twice as many each time in a row. */
const SKIP_MIN = 64
const SKIP_MAX = 4096
/** A wait that took so long, ms, found the processor busy with something else when it was over; then waiting ceases for longer, */
const OVERSLEPT = 0.2
const REST_MIN = 128
const REST_MAX = 8192
/** and for twice as long each time, until so many waits in a row were good. */
const GOOD = 256

/**
 * A request that goes through the event loop costs a wake-up and the guest an interrupt: on a device that answers in 20 us that
 * is most of its time. Where more than every fourth answer takes longer than {@link BRIEF}, waiting ceases, and is tried again
 * later.
 */
export class Brief {
  #failures = 0
  #skip = 0
  #penalty = SKIP_MIN
  #rest = REST_MIN
  #good = 0

  /** Whether to wait for a request of `length` bytes. */
  worth(length: number): boolean {
    if (length > LENGTH_MAX) return false
    if (this.#skip === 0) return true
    this.#skip--
    return false
  }

  /** Takes note of a wait of `took` ms, and whether it was long enough. */
  did(answered: boolean, took = 0): void {
    if (took > OVERSLEPT) {
      this.#good = 0
      this.#skip = this.#rest
      this.#rest = Math.min(this.#rest * 2, REST_MAX)
      return
    }
    if (++this.#good === GOOD) this.#rest = REST_MIN
    if (answered) {
      if (this.#failures > 0 && --this.#failures === 0) this.#penalty = SKIP_MIN
      return
    }
    this.#failures += FAILED
    if (this.#failures < LIMIT) return
    this.#failures = LIMIT - FAILED
    this.#skip = this.#penalty
    this.#penalty = Math.min(this.#penalty * 2, SKIP_MAX)
  }
}
