/** The ways by which a request that cannot be answered at once reaches the kernel. */
import type { IoVec } from '../../iovec.ts'
import type { Now } from '../../now.ts'

/**
 * Hears how a request ended: exactly one of the two is called, once, before the call that began the request returns or later.
 * A promise for each layer that a request passes would cost more than the request.
 */
export interface Waiter {
  done(): void
  failed(error: unknown): void
}

/**
 * Does requests on one open file; all of a request, or an error whose message begins with what was tried. What goes wrong is
 * told to the waiter, never thrown.
 */
export interface Engine {
  readonly name: 'threads' | 'io_uring'
  /** `lone`: nothing else is under way or about to come, so that a quick answer may be waited for. */
  read(at: number, into: IoVec, waiter: Waiter, lone?: boolean): void
  /** Whether `write` can do without a sync after it. */
  readonly durableWrites: boolean
  /** `durable`, only where {@link durableWrites}: completes when the data, and what leads to it, is on stable storage. */
  write(at: number, from: IoVec, durable: boolean, waiter: Waiter, lone?: boolean): void
  /** Hands in what was collected, for an engine that collects; else that happens when the turn of the event loop ends. */
  submit?(): void
  /** fdatasync. */
  sync(): Promise<void>
}

/** The waiter at the end of the way: makes of what it hears what a driver answers. */
export class Ticket implements Waiter {
  readonly #ended: ((error?: unknown) => void) | undefined
  #over = false
  #error: unknown
  #resolve: (() => void) | undefined
  #reject: ((error: unknown) => void) | undefined

  /** `ended` hears of the end first. */
  constructor(ended?: (error?: unknown) => void) {
    this.#ended = ended
  }

  done(): void {
    this.#over = true
    this.#ended?.()
    this.#resolve?.()
  }

  failed(error: unknown): void {
    this.#over = true
    this.#error = error
    this.#ended?.(error)
    this.#reject?.(error)
  }

  /** How it ended, or will; asked for once. */
  outcome(): Now<void> {
    if (!this.#over) {
      return new Promise((resolve, reject) => {
        this.#resolve = resolve
        this.#reject = reject
      })
    }
    if (this.#error !== undefined) throw this.#error
  }
}

/** A request to an engine as a value that is here or comes later. */
export function asked(begin: (waiter: Waiter) => void): Now<void> {
  const ticket = new Ticket()
  begin(ticket)
  return ticket.outcome()
}
