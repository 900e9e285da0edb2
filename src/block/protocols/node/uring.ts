/** aio=io_uring: requests through the process' ring. */
import { BlockError } from '../../error.ts'
import type { IoVec } from '../../iovec.ts'
import type { Engine } from './engine.ts'
import { EAGAIN, EINTR, hostError } from './failure.ts'
import { RWF_DSYNC } from './libc.ts'
import {
  IORING_FSYNC_DATASYNC,
  IORING_OP_FSYNC,
  IORING_OP_READ,
  IORING_OP_READV,
  IORING_OP_WRITE,
  IORING_OP_WRITEV,
  type Operation,
  type Ring,
} from './ring.ts'
import { type Addresses, atMost, IOV_MAX, rest } from './vector.ts'

/** A read or write of one vector, in as many operations as the kernel wants; it is its own operation. */
class Transfer implements Operation {
  opcode = 0
  address = 0
  length = 0
  pieces = 0
  readonly fd: number
  readonly flags: number
  readonly slow: boolean
  at: number
  readonly #ring: Ring
  readonly #addresses: Addresses
  readonly #write: boolean
  readonly #start: number
  readonly #vector: IoVec
  #views: readonly Uint8Array[] = []
  #done = 0
  readonly #doing: () => string
  readonly #resolve: () => void
  readonly #reject: (error: unknown) => void

  constructor(
    engine: { ring: Ring; addresses: Addresses; fd: number },
    request: { at: number; vector: IoVec; write: boolean; slow: boolean; flags: number; doing: () => string },
    resolve: () => void,
    reject: (error: unknown) => void,
  ) {
    this.#ring = engine.ring
    this.#addresses = engine.addresses
    this.fd = engine.fd
    this.at = this.#start = request.at
    this.#vector = request.vector
    this.#write = request.write
    this.flags = request.flags
    this.slow = request.slow
    this.#doing = request.doing
    this.#resolve = resolve
    this.#reject = reject
    this.#ring.add(this)
  }

  fill(iov: Uint32Array): void {
    this.#addresses.fill(iov, this.#views, 0)
  }

  done(result: number): void {
    if (result > 0) {
      this.#done += result
      if (this.#done >= this.#vector.byteLength) this.#resolve()
      else this.#ring.add(this)
    } else if (result === -EINTR || result === -EAGAIN) this.#ring.add(this)
    else if (result === 0) this.#reject(new BlockError('EIO', `${this.#doing()}: the file ends there`))
    else this.#reject(hostError(-result, this.#doing()))
  }

  /** The memory may have moved, or been taken back, since the request was made. */
  prepare(): boolean {
    let views: readonly Uint8Array[]
    try {
      views = atMost(rest(this.#vector, this.#done).views(), IOV_MAX)
    } catch (error) {
      this.#reject(error)
      return false
    }
    this.at = this.#start + this.#done
    if (views.length === 1) {
      this.opcode = this.#write ? IORING_OP_WRITE : IORING_OP_READ
      this.address = this.#addresses.of(views[0]!)
      this.length = views[0]!.length
      this.pieces = 0
    } else {
      this.opcode = this.#write ? IORING_OP_WRITEV : IORING_OP_READV
      this.pieces = views.length
      this.#views = views
    }
    return true
  }
}

/**
 * Longest read through the page cache that the submitter begins himself, bytes: what the cache lacks he would allocate and ask
 * the device for, in the event loop's time.
 */
const BEGIN_MAX = 64 << 10

/** The ring's engine for the open file `fd`, called `name` in messages; `cached`: it goes through the page cache. */
export function uring(ring: Ring, addresses: Addresses, fd: number, name: string, cached: boolean): Engine {
  const engine = { ring, addresses, fd }
  const transfer = (at: number, vector: IoVec, write: boolean, flags: number) =>
    new Promise<void>((resolve, reject) => {
      const doing = () => `Cannot ${write ? 'write' : 'read'} ${vector.byteLength} bytes at ${at} of ${name}`
      const slow = cached && vector.byteLength > BEGIN_MAX
      new Transfer(engine, { at, vector, write, slow, flags, doing }, resolve, reject)
    })
  return {
    name: 'io_uring',
    durableWrites: true,
    submit: () => ring.submit(),
    read: (at, into) => transfer(at, into, false, 0),
    write: (at, from, durable) => transfer(at, from, true, durable ? RWF_DSYNC : 0),
    sync: () =>
      new Promise((resolve, reject) => {
        ring.add({
          opcode: IORING_OP_FSYNC,
          fd,
          at: 0,
          address: 0,
          length: 0,
          flags: IORING_FSYNC_DATASYNC,
          pieces: 0,
          done: (result) => (result < 0 ? reject(hostError(-result, `Cannot flush ${name}`)) : resolve()),
        })
      }),
  }
}
