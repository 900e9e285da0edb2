/** Keeps requests that overlap from running together, when one of them must have its range to itself. */
import { always, isLater, type Now } from './now.ts'

interface Claim {
  readonly start: number
  readonly end: number
  readonly exclusive: boolean
  running: boolean
  /** Starts the claim's body once nothing older is in its way. */
  admit?: () => void
}

/**
 * A lock over byte ranges: shared claims overlap each other, an exclusive one overlaps nothing. Claims that overlap run in
 * the order of their coming, so none starves. A claim with nothing in its way runs at once and, if its body answers at once,
 * costs one entry of a set.
 */
export class RangeLock {
  readonly #claims = new Set<Claim>()
  #exclusive = 0
  #waiting = 0

  /** Runs `body` while no exclusive claim holds a byte of the range. */
  shared<T>(at: number, length: number, body: () => Now<T>): Now<T> {
    return this.#run({ start: at, end: at + length, exclusive: false, running: false }, body)
  }

  /** Runs `body` while no other claim holds a byte of the range. */
  exclusive<T>(at: number, length: number, body: () => Now<T>): Now<T> {
    return this.#run({ start: at, end: at + length, exclusive: true, running: false }, body)
  }

  #run<T>(claim: Claim, body: () => Now<T>): Now<T> {
    this.#claims.add(claim)
    if (claim.exclusive) this.#exclusive++
    const release = () => this.#release(claim)
    if (!this.#blocked(claim)) {
      claim.running = true
      return always(body, release)
    }
    this.#waiting++
    return new Promise<void>((resolve) => {
      claim.admit = resolve
    }).then(() => {
      const value = always(body, release)
      return isLater(value) ? value : Promise.resolve(value)
    })
  }

  #blocked(claim: Claim): boolean {
    if (!claim.exclusive && this.#exclusive === 0) return false
    for (const other of this.#claims) {
      if (other === claim) return false
      if (other.start < claim.end && claim.start < other.end && (other.exclusive || claim.exclusive)) return true
    }
    return false
  }

  #release(claim: Claim): void {
    this.#claims.delete(claim)
    if (claim.exclusive) this.#exclusive--
    if (this.#waiting === 0) return
    for (const other of this.#claims) {
      if (!other.running && !this.#blocked(other)) {
        other.running = true
        this.#waiting--
        other.admit?.()
      }
    }
  }
}
