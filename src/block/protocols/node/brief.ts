/** Whether the answer to a lone request may be waited for: where the device is about as quick as handing the request off. */

/**
 * Longest wait, ns. With the kernel's slack for timers (50 us) and the rest of the request that stays below the 0.2 ms for which
 * one request may hold the event loop.
 */
export const BRIEF = 60_000n
/** Longest request that is waited for, bytes. */
const LENGTH_MAX = 64 << 10
/** So many requests are not waited for after one that took longer; twice as many each time in a row. */
const SKIP_MIN = 32
const SKIP_MAX = 4096

/**
 * A request that goes through the event loop costs a wake-up and the guest an interrupt: on a device that answers in 20 us that
 * is most of its time. One that took too long is followed by requests that are not waited for, and then by another try.
 */
export class Brief {
  #skip = 0
  #penalty = SKIP_MIN

  /** Whether to wait for a request of `length` bytes. */
  worth(length: number): boolean {
    if (length > LENGTH_MAX) return false
    if (this.#skip === 0) return true
    this.#skip--
    return false
  }

  /** Takes note of a wait, and whether it was long enough. */
  did(answered: boolean): void {
    if (answered) {
      if (this.#penalty > SKIP_MIN) this.#penalty--
      return
    }
    this.#skip = this.#penalty
    this.#penalty = Math.min(this.#penalty * 2, SKIP_MAX)
  }
}
