/** aio=io_uring: requests through the process' ring. */
import { performance } from 'node:perf_hooks'
import { BlockError } from '../../error.ts'
import type { IoVec } from '../../iovec.ts'
import { BRIEF, Brief } from './brief.ts'
import type { Engine, Waiter } from './engine.ts'
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

/** What all transfers of an open file have in common. */
interface Way {
  readonly ring: Ring
  readonly addresses: Addresses
  readonly fd: number
  /** What messages call the file. */
  readonly name: string
}

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
  over = false
  readonly #way: Way
  readonly #write: boolean
  readonly #start: number
  readonly #vector: IoVec
  readonly #waiter: Waiter
  #views: readonly Uint8Array[] = []
  #done = 0

  constructor(way: Way, at: number, vector: IoVec, write: boolean, slow: boolean, flags: number, waiter: Waiter) {
    this.#way = way
    this.fd = way.fd
    this.at = this.#start = at
    this.#vector = vector
    this.#write = write
    this.flags = flags
    this.slow = slow
    this.#waiter = waiter
    way.ring.add(this)
  }

  fill(iov: Uint32Array): void {
    this.#way.addresses.fill(iov, this.#views, 0)
  }

  done(result: number): void {
    if (result > 0) {
      this.#done += result
      if (this.#done >= this.#vector.byteLength) this.#end()
      else this.#way.ring.add(this)
    } else if (result === -EINTR || result === -EAGAIN) this.#way.ring.add(this)
    else if (result === 0) this.#fail(new BlockError('EIO', `${this.#doing}: the file ends there`))
    else this.#fail(hostError(-result, this.#doing))
  }

  /** The memory may have moved, or been taken back, since the request was made. */
  prepare(): boolean {
    let views: readonly Uint8Array[]
    try {
      views = atMost(rest(this.#vector, this.#done).views(), IOV_MAX)
    } catch (error) {
      this.#fail(error)
      return false
    }
    this.at = this.#start + this.#done
    if (views.length === 1) {
      this.opcode = this.#write ? IORING_OP_WRITE : IORING_OP_READ
      this.address = this.#way.addresses.of(views[0]!)
      this.length = views[0]!.length
      this.pieces = 0
    } else {
      this.opcode = this.#write ? IORING_OP_WRITEV : IORING_OP_READV
      this.pieces = views.length
      this.#views = views
    }
    return true
  }

  #end(): void {
    this.over = true
    this.#waiter.done()
  }

  #fail(error: unknown): void {
    this.over = true
    this.#waiter.failed(error)
  }

  get #doing(): string {
    return `Cannot ${this.#write ? 'write' : 'read'} ${this.#vector.byteLength} bytes at ${this.#start} of ${this.#way.name}`
  }
}

/**
 * Longest read through the page cache that the submitter begins himself, bytes: what the cache lacks he would allocate and ask
 * the device for, in the event loop's time.
 */
const BEGIN_MAX = 64 << 10

/** The ring's engine for the open file `fd`, called `name` in messages; `cached`: it goes through the page cache. */
export function uring(ring: Ring, addresses: Addresses, fd: number, name: string, cached: boolean): Engine {
  const way = { ring, addresses, fd, name }
  const briefs = { read: new Brief(), write: new Brief() }
  const transfer = (at: number, vector: IoVec, write: boolean, flags: number, waiter: Waiter, lone: boolean): void => {
    const length = vector.byteLength
    const one = new Transfer(way, at, vector, write, cached && length > BEGIN_MAX, flags, waiter)
    if (!lone || one.over) return
    const brief = write ? briefs.write : briefs.read
    if (!brief.worth(length)) return
    const start = performance.now()
    ring.wait(BRIEF)
    brief.did(one.over, performance.now() - start)
  }
  return {
    name: 'io_uring',
    durableWrites: true,
    submit: () => ring.submit(),
    read: (at, into, waiter, lone = false) => transfer(at, into, false, 0, waiter, lone),
    write: (at, from, durable, waiter, lone = false) =>
      transfer(at, from, true, durable ? RWF_DSYNC : 0, waiter, lone && !durable),
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
