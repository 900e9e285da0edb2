/** Knows which requests of an image are in flight, so that a cluster is not used again while one may still touch it. */
import { after, all, type Now } from './now.ts'

interface Generation {
  count: number
  empty?: () => void
}

/** The requests in flight, in generations. A request that completes at once is never counted. */
export class Traffic {
  #generation: Generation = { count: 0 }
  #older: Promise<void> | undefined
  #gate: Promise<void> | undefined

  /** Set while {@link pause} holds new requests back: what they wait for. */
  get gate(): Promise<void> | undefined {
    return this.#gate
  }

  /** Counts a request until it completes. */
  track<T>(value: Now<T>): Now<T> {
    if (!(value instanceof Promise)) return value
    const generation = this.#generation
    generation.count++
    const done = () => {
      if (--generation.count === 0) generation.empty?.()
    }
    value.then(done, done)
    return value
  }

  /** Completes when every request that is in flight now has completed. */
  grace(): Now<void> {
    const last = this.#generation
    if (last.count === 0) return this.#older
    const emptied = new Promise<void>((resolve) => {
      last.empty = resolve
    })
    this.#generation = { count: 0 }
    const older = (all([this.#older, emptied]) as Promise<void>).then(() => {
      if (this.#older === older) this.#older = undefined
    })
    this.#older = older
    return older
  }

  /** Runs `body` while no request is in flight and new ones wait. */
  pause<T>(body: () => Now<T>): Now<T> {
    if (this.#gate !== undefined) return this.#gate.then(() => this.pause(body))
    const calm = this.grace()
    let open = () => {}
    this.#gate = new Promise((resolve) => {
      open = resolve
    })
    const reopen = () => {
      this.#gate = undefined
      open()
    }
    let value: Now<T>
    try {
      value = after(calm, body)
    } catch (error) {
      reopen()
      throw error
    }
    if (value instanceof Promise) return value.finally(reopen)
    reopen()
    return value
  }
}
