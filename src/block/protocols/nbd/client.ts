/** An NBD export as a block driver: many requests in flight, replies straight into the caller's vector, reconnect with replay. */
import type { BlockDriver, Extent, WriteOptions, ZeroOptions } from '../../device.ts'
import { BlockError, blockError, messageOf } from '../../error.ts'
import { bytesVec, type IoVec } from '../../iovec.ts'
import { all, type Now } from '../../now.ts'
import type { ByteStream } from '../stream.ts'
import { Journal, type Written } from './journal.ts'
import { type NbdSession, type NbdWish, negotiate } from './negotiate.ts'
import { Replies, type Request, type StatusRun } from './replies.ts'
import * as wire from './wire.ts'

export interface NbdClientOptions {
  readonly readOnly?: boolean
  /**
   * Seconds for which requests are kept and tried again after the connection broke; 0 (default) fails them at once. What
   * completed and was not flushed is then written again too: a server that died may have lost it.
   */
  readonly reconnectDelay?: number
  /** Dirty bitmap to read instead of base:allocation, as its context name. */
  readonly context?: string
}

/** Opens a fresh stream to the server. */
export type Dial = () => Promise<ByteStream>

const RETRY_MS = 250
/** Memory that unflushed writes may take, bytes; then they are flushed. */
const MAX_JOURNAL = 32 << 20
const LARGEST_RANGE = 1 << 30
/** What a server may lose before it is flushed. */
const KEPT: readonly number[] = [wire.CMD_WRITE, wire.CMD_WRITE_ZEROES]

/** A connected export. */
export class NbdClient implements BlockDriver {
  readonly name: string
  readonly size: number
  readonly readOnly: boolean
  readonly align: number
  readonly fua: boolean
  readonly #dial: Dial
  readonly #wish: NbdWish
  readonly #reconnectMs: number
  readonly #requests = new Map<number, Request>()
  readonly #context: string
  readonly #replies: Replies
  #session: NbdSession | undefined
  /** New requests may be sent: what came before them has been. */
  #ready = false
  readonly #journal: Journal | undefined
  #trimming = false
  #first: NbdSession
  #nextCookie = 1
  #runs: StatusRun[] = []
  #closing = false
  #dead: BlockError | undefined

  private constructor(name: string, session: NbdSession, dial: Dial, wish: NbdWish, options: NbdClientOptions) {
    this.name = name
    this.#first = session
    this.size = session.size
    this.align = session.minimum
    this.readOnly = options.readOnly === true || (session.flags & wire.FLAG_READ_ONLY) !== 0
    this.fua = (session.flags & wire.FLAG_SEND_FUA) !== 0
    this.#dial = dial
    this.#wish = wish
    this.#reconnectMs = (options.reconnectDelay ?? 0) * 1000
    this.#context = options.context ?? wire.BASE_ALLOCATION
    this.#replies = new Replies(name, session.size, this.#context, this.#requests, (cookie, request) =>
      this.#complete(cookie, request),
    )
    // A server without a flush has nothing that it could lose.
    if (this.#reconnectMs > 0 && session.flags & wire.FLAG_SEND_FLUSH && !this.readOnly) this.#journal = new Journal()
    this.#begin(session)
  }

  /** Connects to export `exportName` of the server that `dial` reaches. */
  static async connect(
    name: string,
    dial: Dial,
    wish: Partial<NbdWish> = {},
    options: NbdClientOptions = {},
  ): Promise<NbdClient> {
    const whole: NbdWish = { exportName: '', contexts: [options.context ?? wire.BASE_ALLOCATION], ...wish }
    const session = await negotiate(await dial(), whole)
    if (options.readOnly === false && session.flags & wire.FLAG_READ_ONLY) {
      session.stream.close()
      throw new BlockError('EROFS', `Cannot open ${name} for writing: the server exports it read-only`)
    }
    return new NbdClient(name, session, dial, whole, options)
  }

  /** What the server says of the export in words. */
  get description(): string {
    return this.#first.description
  }

  read(at: number, into: IoVec): Now<void> {
    const { maximum } = this.#first
    if (into.byteLength <= maximum)
      return this.#send({ command: wire.CMD_READ, flags: 0, at, length: into.byteLength, into })
    return this.#inPieces(at, into.byteLength, maximum, (start, length) =>
      this.#send({
        command: wire.CMD_READ,
        flags: 0,
        at: start,
        length,
        into: into.slice(start - at, start - at + length),
      }),
    )
  }

  write(at: number, from: IoVec, options?: WriteOptions): Now<void> {
    const flags = options?.fua && this.fua ? wire.CMD_FLAG_FUA : 0
    return this.#inPieces(at, from.byteLength, this.#first.maximum, (start, length) => {
      const payload = from.slice(start - at, start - at + length).gather()
      return this.#send({ command: wire.CMD_WRITE, flags, at: start, length, payload })
    })
  }

  flush(): Now<void> {
    if ((this.#first.flags & wire.FLAG_SEND_FLUSH) === 0) return
    return this.#send({ command: wire.CMD_FLUSH, flags: 0, at: 0, length: 0 })
  }

  zero(at: number, length: number, options?: ZeroOptions): Now<void> {
    if ((this.#first.flags & wire.FLAG_SEND_WRITE_ZEROES) === 0) {
      const zeroes = new Uint8Array(Math.min(length, this.#first.maximum))
      return this.#inPieces(at, length, zeroes.length, (start, size) =>
        this.write(start, bytesVec(zeroes.subarray(0, size))),
      )
    }
    const flags = options?.unmap ? 0 : wire.CMD_FLAG_NO_HOLE
    return this.#inPieces(at, length, LARGEST_RANGE, (start, size) =>
      this.#send({ command: wire.CMD_WRITE_ZEROES, flags, at: start, length: size }),
    )
  }

  discard(at: number, length: number): Now<void> {
    if ((this.#first.flags & wire.FLAG_SEND_TRIM) === 0) return
    return this.#inPieces(at, length, LARGEST_RANGE, (start, size) =>
      this.#send({ command: wire.CMD_TRIM, flags: 0, at: start, length: size }),
    )
  }

  status(at: number, length: number): Now<Extent> {
    if (![...this.#first.contexts.values()].includes(this.#context)) return { length, kind: 'data' }
    const known = this.#runs.find((run) => run.at <= at && at < run.at + run.length)
    if (known !== undefined) return extentOf(known, at, length)
    const asked = Math.min(length, LARGEST_RANGE)
    return this.#request({ command: wire.CMD_BLOCK_STATUS, flags: 0, at, length: asked }).then((request) => {
      this.#runs = request.extents ?? []
      const run = this.#runs[0]
      if (run === undefined)
        throw new BlockError('EINVAL', `${this.name}: the server told no status of ${asked} bytes at ${at}`)
      return extentOf(run, at, length)
    })
  }

  async close(): Promise<void> {
    this.#closing = true
    const session = this.#session
    this.#session = undefined
    if (session !== undefined) {
      await session.stream.write([header(wire.CMD_DISC, 0, 0, 0, 0)])
      session.stream.close()
    }
    this.#fail(new BlockError('ESHUTDOWN', `${this.name} is closed`))
  }

  #inPieces(at: number, length: number, largest: number, send: (at: number, length: number) => Now<void>): Now<void> {
    if (length <= largest) return send(at, length)
    const step = largest - (largest % this.align)
    const sent: Now<void>[] = []
    for (let done = 0; done < length; done += step) sent.push(send(at + done, Math.min(step, length - done)))
    return all(sent)
  }

  #send(parts: Omit<Request, 'resolve' | 'reject' | 'came'>): Promise<void> {
    if (parts.command !== wire.CMD_READ && parts.command !== wire.CMD_FLUSH) this.#runs = []
    return this.#request(parts).then(() => {})
  }

  #request(parts: Omit<Request, 'resolve' | 'reject' | 'came'>): Promise<Request> {
    if (this.#dead !== undefined) return Promise.reject(this.#dead)
    return new Promise((resolve, reject) => {
      const request: Request = { ...parts, came: 0, resolve: () => resolve(request), reject }
      if (parts.command === wire.CMD_FLUSH && this.#journal !== undefined) request.mark = this.#journal.mark()
      const cookie = this.#nextCookie++
      this.#requests.set(cookie, request)
      if (this.#session !== undefined && (this.#ready || parts.again)) this.#transmit(this.#session, cookie, request)
    })
  }

  #transmit(session: NbdSession, cookie: number, request: Request): void {
    const head = header(request.command, request.flags, cookie, request.at, request.length)
    void session.stream.write(request.payload === undefined ? [head] : [head, request.payload])
  }

  #begin(session: NbdSession): void {
    this.#session = session
    this.#runs = []
    session.reader.hasten()
    this.#replies.receive(session).catch((error) => this.#broken(session, error))
    if (this.#journal === undefined || this.#journal.bytes === 0) this.#goOn(session)
    else this.#writeAgain(session, this.#journal)
  }

  /** Sends what waits for an answer. */
  #goOn(session: NbdSession): void {
    if (this.#session !== session) return
    this.#ready = true
    for (const [cookie, request] of this.#requests) {
      request.came = 0
      delete request.error
      delete request.extents
      this.#transmit(session, cookie, request)
    }
  }

  /** Does again what the server may have lost, and then what waits. */
  async #writeAgain(session: NbdSession, journal: Journal): Promise<void> {
    try {
      for (const batch of journal.batches()) {
        await Promise.all(batch.map((written) => this.#request({ ...written, again: true })))
      }
    } catch (error) {
      if (this.#session === session) this.#fail(blockError(error, `Lost writes of ${this.name}`))
      return
    }
    this.#goOn(session)
  }

  /** Keeps what was written until it is flushed. */
  #noteWritten(journal: Journal, written: Written): void {
    const { command, flags, at, length, payload } = written
    journal.add({ command, flags, at, length, ...(payload === undefined ? {} : { payload }) })
    if (journal.bytes <= MAX_JOURNAL || this.#trimming) return
    this.#trimming = true
    const trimmed = () => {
      this.#trimming = false
    }
    this.#request({ command: wire.CMD_FLUSH, flags: 0, at: 0, length: 0 }).then(trimmed, trimmed)
  }

  #complete(cookie: number, request: Request): void {
    this.#requests.delete(cookie)
    if (request.error !== undefined) request.reject(request.error)
    else if (request.into !== undefined && this.#session?.structured && request.came !== request.length) {
      request.reject(new BlockError('EIO', `${this.name}: the server sent ${request.came} of ${request.length} bytes`))
    } else {
      const journal = this.#journal
      if (journal !== undefined && !request.again) {
        const { command, flags, mark } = request
        if (mark !== undefined) journal.forget(mark)
        else if (KEPT.includes(command) && ((flags & wire.CMD_FLAG_FUA) === 0 || journal.meets(request)))
          this.#noteWritten(journal, request)
      }
      request.resolve()
    }
  }

  #broken(session: NbdSession, error: unknown): void {
    if (this.#session !== session) return
    this.#session = undefined
    this.#ready = false
    session.stream.close()
    for (const [cookie, request] of this.#requests) {
      if (!request.again) continue
      this.#requests.delete(cookie)
      request.reject(error)
    }
    if (this.#reconnectMs <= 0) this.#fail(blockError(error, `Lost ${this.name}`))
    else void this.#reconnect(error)
  }

  async #reconnect(cause: unknown): Promise<void> {
    const until = Date.now() + this.#reconnectMs
    let last = cause
    while (!this.#closing) {
      try {
        const session = await negotiate(await this.#dial(), this.#wish)
        if (this.#closing) return session.stream.close()
        if (
          session.size !== this.size ||
          session.flags !== this.#first.flags ||
          session.minimum !== this.#first.minimum
        ) {
          session.stream.close()
          return this.#fail(
            new BlockError('EIO', `Lost ${this.name}: after reconnecting, the server's export is another`),
          )
        }
        this.#first = session
        return this.#begin(session)
      } catch (error) {
        last = error
      }
      if (Date.now() + RETRY_MS > until) {
        const seconds = this.#reconnectMs / 1000
        return this.#fail(
          new BlockError('EIO', `Lost ${this.name}, and could not reconnect in ${seconds} s: ${messageOf(last)}`, {
            cause: last,
          }),
        )
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS))
    }
  }

  #fail(error: BlockError): void {
    this.#dead = error
    const requests = [...this.#requests.values()]
    this.#requests.clear()
    for (const request of requests) request.reject(error)
  }
}

function header(command: number, flags: number, cookie: number, at: number, length: number): Uint8Array {
  return wire.pack([4, wire.REQUEST_MAGIC], [2, flags], [2, command], [8, cookie], [8, at], [4, length])
}

function extentOf(run: StatusRun, at: number, length: number): Extent {
  const zero = (run.flags & wire.STATE_ZERO) !== 0
  const kind = !zero ? 'data' : run.flags & wire.STATE_HOLE ? 'hole' : 'zero'
  return { length: Math.min(run.at + run.length - at, length), kind }
}
