/** Keeps requests that overlap from running together, when one of them must have its range to itself. */
import { isLater, type Now } from './now.ts'

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
 * costs one entry of a list.
 */
export class RangeLock {
  /** In the order of their coming. */
  readonly #claims: Claim[] = []
  #exclusive = 0
  #waiting = 0

  /** Whether there are no claims at all. */
  get idle(): boolean {
    return this.#claims.length === 0
  }

  /** Runs `body` while no exclusive claim holds a byte of the range. */
  shared<T>(at: number, length: number, body: () => Now<T>): Now<T> {
    return this.#run({ start: at, end: at + length, exclusive: false, running: false }, body)
  }

  /** Runs `body` while no other claim holds a byte of the range. */
  exclusive<T>(at: number, length: number, body: () => Now<T>): Now<T> {
    return this.#run({ start: at, end: at + length, exclusive: true, running: false }, body)
  }

  #run<T>(claim: Claim, body: () => Now<T>): Now<T> {
    const blocked = this.#claims.length > 0 && this.#blocked(claim)
    this.#claims.push(claim)
    if (claim.exclusive) this.#exclusive++
    if (!blocked) return this.#admitted(claim, body)
    this.#waiting++
    return new Promise<void>((resolve) => {
      claim.admit = resolve
    }).then(() => this.#admitted(claim, body))
  }

  #admitted<T>(claim: Claim, body: () => Now<T>): Now<T> {
    claim.running = true
    let value: Now<T>
    try {
      value = body()
    } catch (error) {
      this.#release(claim)
      throw error
    }
    if (isLater(value)) {
      const release = () => this.#release(claim)
      value.then(release, release)
    } else this.#release(claim)
    return value
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
    const index = this.#claims.lastIndexOf(claim)
    if (index === this.#claims.length - 1) this.#claims.pop()
    else this.#claims.splice(index, 1)
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
