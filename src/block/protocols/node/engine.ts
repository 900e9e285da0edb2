/** The ways by which a request that cannot be answered at once reaches the kernel. */
import type { IoVec } from '../../iovec.ts'
import type { Now } from '../../now.ts'

/** Does requests on one open file; all of a request, or an error whose message begins with what was tried. */
export interface Engine {
  readonly name: 'threads' | 'io_uring'
  /** `lone`: nothing else is under way or about to come, so that a quick answer may be waited for. */
  read(at: number, into: IoVec, lone?: boolean): Now<void>
  /** Whether `write` can do without a sync after it. */
  readonly durableWrites: boolean
  /** `durable`, only where {@link durableWrites}: completes when the data, and what leads to it, is on stable storage. */
  write(at: number, from: IoVec, durable: boolean, lone?: boolean): Now<void>
  /** Hands in what was collected, for an engine that collects; else that happens when the turn of the event loop ends. */
  submit?(): void
  /** fdatasync. */
  sync(): Promise<void>
}
