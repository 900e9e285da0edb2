/** One thing done for many who ask for it, one round at a time. */
import type { Now } from './now.ts'

/**
 * Runs `body` in rounds that never overlap. Who asks while one runs shares the next, which begins after that: so a round
 * covers all that was done before it was asked for.
 */
export class Rounds {
  readonly #body: () => Now<void>
  #running: Promise<void> | undefined
  #next: Promise<void> | undefined

  constructor(body: () => Now<void>) {
    this.#body = body
  }

  /** Whether a round is running or about to. */
  get busy(): boolean {
    return this.#running !== undefined || this.#next !== undefined
  }

  /** A whole round from now on. */
  run(): Now<void> {
    if (this.#next !== undefined) return this.#next
    if (this.#running === undefined) return this.#begin()
    const begin = () => {
      this.#next = undefined
      return this.#begin()
    }
    this.#next = this.#running.then(begin, begin) // how this round fails, its own askers hear
    return this.#next
  }

  #begin(): Now<void> {
    const value = this.#body()
    if (!(value instanceof Promise)) return
    this.#running = value.finally(() => {
      this.#running = undefined
    })
    return this.#running
  }
}
