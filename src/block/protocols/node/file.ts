/** An open file or host block device as a driver. */
import fs from 'node:fs'
import { performance } from 'node:perf_hooks'
import { promisify } from 'node:util'
import type { BlockDriver, Extent, Loan, WriteOptions, ZeroOptions } from '../../device.ts'
import { BlockError, errnoOf } from '../../error.ts'
import type { IoVec } from '../../iovec.ts'
import { after, type Now } from '../../now.ts'
import { type Engine, Ticket, type Waiter } from './engine.ts'
import { EAGAIN, ENOSYS, EOPNOTSUPP, EPERM, nodeError } from './failure.ts'
import type { Lent } from './lent.ts'
import { type Libc, RWF_NOWAIT } from './libc.ts'
import { MAPPED_MIN, type Mapped } from './mapped.ts'
import type { Medium } from './medium.ts'
import { Pace } from './pace.ts'
import { type Addresses, IOV_MAX, rest } from './vector.ts'

/** Longest read that is tried at once unless an option says otherwise, bytes: copying more would hold up the guest's CPU for too long. */
export const READ_MAX = 1 << 20
/**
 * A read is tried in steps of this, bytes: where the page cache lacks something, the kernel begins to read ahead in the caller's
 * time, and the more the longer the call.
 */
const READ_STEP = 128 << 10
/** Most that one call of the kernel copies between files, bytes, so that it ends when it is wanted. */
const COPY_STEP = 16 << 20

const PAGE = 4096

/** What a kernel, a file system or a sandbox answers that does not have a call, or not for us. */
const FORBIDDEN: readonly number[] = [ENOSYS, EOPNOTSUPP, EPERM]

const statLater = promisify(fs.fstat)
const closeLater = promisify(fs.close)

/** One for all files: what makes a writer wait is the host's. */
let pace: Pace | undefined

/** A way through the page cache beside one that bypasses it; opened when it is first needed. */
export interface Tail {
  engine(): Engine
  close(): Promise<void>
}

/** What an open file consists of. */
export interface FileParts {
  readonly path: string
  readonly fd: number
  readonly medium: Medium
  readonly readOnly: boolean
  readonly engine: Engine
  /** Of offsets and lengths, bytes. */
  readonly align: number
  /** For the file's last bytes when they are no whole unit of `align`. */
  readonly tail: Tail
  /** Answers at once from and into the page cache; absent, every request goes to the engine. */
  readonly immediate?: { readonly libc: Libc; readonly addresses: Addresses } | undefined
  /** A quicker way to long reads of what the page cache has. */
  readonly mapped?: Mapped | undefined
  /** Lends what the page cache has; absent if the file is written to from here. */
  readonly lent?: Lent | undefined
  readonly libc: Libc | undefined
  /** Longest read that is tried at once, bytes. */
  readonly readMax: number
}

export class FileDriver implements BlockDriver {
  readonly name: string
  readonly fua = true
  readonly readOnly: boolean
  readonly align: number
  readonly discardGranularity: number
  readonly canDiscard: boolean
  readonly parts: FileParts
  readonly #iov = new Uint32Array(4 * IOV_MAX)
  #size: number
  #readsNow: boolean
  #writesNow: boolean
  /** Changes that completed, and how many of them the last sync that succeeded covers; the file's past counts as one. */
  #changed = 1
  #synced = 0
  #syncing: { covers: number; done: Promise<void> } | undefined
  /** After a sync has failed the kernel may have dropped what it could not write: nothing is durable until it is opened anew. */
  #broken: BlockError | undefined
  /** The data extent that was found last; the file's own writes only add to it. */
  #data = { start: 0, end: 0 }
  #busy = 0
  #idle: (() => void) | undefined

  constructor(parts: FileParts) {
    this.parts = parts
    this.name = parts.medium.kind
    this.readOnly = parts.readOnly
    this.align = parts.align
    this.#size = parts.medium.size
    this.canDiscard = parts.medium.space !== undefined
    this.discardGranularity = Math.max(parts.medium.space?.granularity ?? 1, parts.align)
    this.#readsNow = parts.immediate !== undefined
    this.#writesNow = parts.immediate !== undefined
  }

  get size(): number {
    return this.#size
  }

  read(at: number, into: IoVec): Now<void> {
    const done = this.#readsNow && into.byteLength <= this.parts.readMax ? this.#readSteps(at, into) : 0
    if (done === into.byteLength) return
    this.#busy++
    const ticket = new Ticket(this.#ended)
    const odd = into.byteLength % this.align !== 0
    if (odd) this.#split(at + done, rest(into, done), ticket, (engine, start, part, to) => engine.read(start, part, to))
    else this.parts.engine.read(at + done, rest(into, done), ticket)
    return ticket.outcome()
  }

  write(at: number, from: IoVec, options?: WriteOptions): Now<void> {
    this.#check()
    const durable = options?.fua === true
    let done = 0
    if (this.#writesNow && !durable && this.#syncing === undefined) {
      done = this.#writeNow(at, from)
      if (done > 0) this.#changed++
      if (done === from.byteLength) return
    }
    const atOnce = durable && this.parts.engine.durableWrites
    this.#busy++
    const ticket = new Ticket(atOnce ? this.#endedDurable : this.#endedWrite)
    const odd = from.byteLength % this.align !== 0
    if (odd) {
      this.#split(at + done, rest(from, done), ticket, (engine, start, part, to) =>
        engine.write(start, part, atOnce, to),
      )
    } else this.parts.engine.write(at + done, rest(from, done), atOnce, ticket)
    if (!durable || atOnce) return ticket.outcome()
    return this.#track(after(ticket.outcome(), () => this.flush()))
  }

  flush(): Now<void> {
    this.#check()
    const covers = this.#changed
    if (covers === this.#synced) return
    if (this.#syncing?.covers === covers) return this.#syncing.done
    const done = this.#track(
      this.parts.engine.sync().then(
        () => {
          if (this.#syncing?.done === done) this.#syncing = undefined
          this.#check()
          if (covers > this.#synced) this.#synced = covers
        },
        (error) => {
          this.#broken = nodeError(error, `Cannot flush ${this.parts.path}`)
          throw error
        },
      ),
    )
    this.#syncing = { covers, done }
    return done
  }

  zero(at: number, length: number, options?: ZeroOptions): Promise<void> {
    const { space } = this.parts.medium
    if (space === undefined) throw new BlockError('ENOTSUP', `Cannot zero ${this.parts.path} without the C library`)
    return this.#change(space.zero(at, length, options?.unmap === true))
  }

  discard(at: number, length: number): Now<void> {
    const { space } = this.parts.medium
    if (space === undefined)
      throw new BlockError('ENOTSUP', `Cannot discard in ${this.parts.path} without the C library`)
    const unit = this.discardGranularity
    const start = Math.ceil(at / unit) * unit
    const end = at + length === this.#size ? this.#size : Math.floor((at + length) / unit) * unit
    if (end > start) return this.#change(space.discard(start, end - start))
  }

  status(at: number, length: number): Now<Extent> {
    const { space } = this.parts.medium
    if (space === undefined) return { length, kind: 'data' }
    if (at >= this.#data.start && at < this.#data.end)
      return { length: Math.min(length, this.#data.end - at), kind: 'data' }
    const asked = this.#changed
    // All of it is asked for, whatever is wanted now: where readers take turns, each would forget what the other was told.
    return this.#track(
      space.status(at, Math.max(length, this.#size - at)).then((extent) => {
        if (extent.kind === 'data' && asked === this.#changed) this.#data = { start: at, end: at + extent.length }
        return { ...extent, length: Math.min(extent.length, length) }
      }),
    )
  }

  resize(size: number): Now<void> {
    this.#check()
    if (this.parts.medium.kind !== 'file') {
      throw new BlockError('ENOTSUP', `Cannot resize ${this.parts.path}: a device has the size it has`)
    }
    try {
      fs.ftruncateSync(this.parts.fd, size)
    } catch (error) {
      throw nodeError(error, `Cannot resize ${this.parts.path} to ${size} bytes`)
    }
    this.#size = size
    this.#forget()
  }

  async allocated(): Promise<number> {
    return this.parts.medium.kind === 'file' ? (await statLater(this.parts.fd)).blocks * 512 : this.#size
  }

  /** Copies inside the host, without a byte passing through here; answers how many bytes, 0 if it cannot. */
  async copyTo(at: number, to: BlockDriver, toAt: number, length: number): Promise<number> {
    const { libc } = this.parts
    if (!(to instanceof FileDriver) || libc === undefined || to.parts.medium.kind !== 'file') return 0
    const wanted = Math.min(length, COPY_STEP)
    const copied = this.#track(libc.copyFileRange(this.parts.fd, at, to.parts.fd, toAt, wanted))
    await to.#change(copied.then(() => {}))
    return Math.max(await copied, 0)
  }

  lend(at: number, length: number): Loan | undefined {
    return this.parts.lent?.lend(at, length)
  }

  get unseen(): boolean {
    return this.align === 1
  }

  /** The descriptor, if the page cache has all of the range. */
  cached(at: number, length: number): number | undefined {
    const { immediate, fd, medium } = this.parts
    if (immediate === undefined || medium.kind !== 'file' || at + length > this.#size) return undefined
    const pages = Math.ceil((at + length) / PAGE) - Math.floor(at / PAGE)
    return immediate.libc.cached(fd, at, length) === pages ? fd : undefined
  }

  async close(): Promise<void> {
    if (this.#busy > 0) {
      await new Promise<void>((resolve) => {
        this.#idle = resolve
      })
    }
    this.parts.mapped?.close()
    this.parts.lent?.close()
    await this.parts.tail.close()
    await closeLater(this.parts.fd)
  }

  #readSteps(at: number, into: IoVec): number {
    const length = into.byteLength
    if (length < MAPPED_MIN) return this.#readNow(at, into)
    for (let from = this.parts.mapped?.read(at, into) ?? 0; from < length; ) {
      const wanted = Math.min(READ_STEP, length - from)
      const read = this.#readNow(at + from, into.slice(from, from + wanted))
      from += read
      if (read < wanted) return from
    }
    return length
  }

  /** Reads what the page cache has, from the start on, and answers how many bytes that were. */
  #readNow(at: number, into: IoVec): number {
    const { libc, addresses } = this.parts.immediate!
    const views = into.views()
    let done = 0
    for (let first = 0; first < views.length; first += IOV_MAX) {
      const count = Math.min(views.length - first, IOV_MAX)
      const wanted = addresses.fill(this.#iov, views, first)
      const result = libc.preadv2(this.parts.fd, this.#iov, count, at + done, RWF_NOWAIT)
      if (result < 0) {
        if (result !== -EAGAIN) this.#readsNow = false
        return done
      }
      done += result
      if (result < wanted) return done
    }
    return done
  }

  /** Writes into the page cache if that is sure to be quick, and answers how many bytes; errors are left to the engine to meet. */
  #writeNow(at: number, from: IoVec): number {
    const length = from.byteLength
    const start = performance.now()
    const { libc, addresses } = this.parts.immediate!
    pace ??= new Pace(libc.sleeps)
    if (!pace.allows(length, start)) return 0
    const views = from.views()
    if (views.length > IOV_MAX) return 0
    addresses.fill(this.#iov, views, 0)
    const result = libc.pwritev2(this.parts.fd, this.#iov, views.length, at, 0)
    pace.did(length, start, performance.now())
    if (result < 0 && FORBIDDEN.includes(-result)) this.#writesNow = false
    return Math.max(result, 0)
  }

  /** Sends all that is whole units to the engine, and the rest of a file's last unit through the page cache. */
  #split(
    at: number,
    vector: IoVec,
    waiter: Waiter,
    go: (engine: Engine, at: number, part: IoVec, to: Waiter) => void,
  ): void {
    const whole = vector.byteLength - (vector.byteLength % this.align)
    const tail = () => {
      let engine: Engine
      try {
        engine = this.parts.tail.engine()
      } catch (error) {
        waiter.failed(nodeError(error, `Cannot reach the end of ${this.parts.path}`))
        return
      }
      go(engine, at + whole, vector.slice(whole), waiter)
    }
    if (whole === 0) tail()
    else go(this.parts.engine, at, vector.slice(0, whole), { done: tail, failed: (error) => waiter.failed(error) })
  }

  #change(request: Promise<void>): Promise<void> {
    this.#check()
    this.#forget()
    return this.#track(request.finally(() => this.#forget()))
  }

  /** Counts a change that may have taken data away. */
  #forget(): void {
    this.#changed++
    this.#data = { start: 0, end: 0 }
  }

  #check(): void {
    if (this.#broken === undefined) return
    throw new BlockError(
      'EIO',
      `${this.parts.path} failed to flush before, so what was written to it may be lost; close it and check the host's disk (${this.#broken.message})`,
    )
  }

  #track<T>(request: Promise<T>): Promise<T>
  #track<T>(request: Now<T>): Now<T>
  #track<T>(request: Now<T>): Now<T> {
    if (!(request instanceof Promise)) return request
    this.#busy++
    request.then(this.#ended, this.#ended)
    return request
  }

  readonly #ended = (): void => {
    if (--this.#busy === 0) this.#idle?.()
  }

  readonly #endedWrite = (): void => {
    this.#changed++
    this.#ended()
  }

  readonly #endedDurable = (error?: unknown): void => {
    if (error !== undefined) {
      this.#changed++
      if (errnoOf(error) === 'EIO') this.#broken = nodeError(error, `Cannot write to ${this.parts.path}`)
    }
    this.#ended()
  }
}
