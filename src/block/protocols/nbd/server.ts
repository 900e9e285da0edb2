/** The NBD transmission phase, server side: requests of one connection run side by side, replies go out as they complete. */
import type { Extent, Place } from '../../device.ts'
import { BlockError, errnoOf, messageOf } from '../../error.ts'
import { bytesVec } from '../../iovec.ts'
import { after, type Now, settle } from '../../now.ts'
import type { ByteStream } from '../stream.ts'
import { BLOCK_SIZES, contents, isReadOnly, type MetaContext } from './export.ts'
import { handshake, type NbdServerOptions, type ServerSession } from './handshake.ts'
import * as wire from './wire.ts'

export type { MetaContext, NbdExport } from './export.ts'
export type { NbdServerOptions } from './handshake.ts'

/** Payload bytes and requests that one connection may have in flight; past them, no more is read. */
const MAX_BYTES = 2 * wire.MAX_PAYLOAD
const MAX_REQUESTS = 128
/** Replies that wait to be sent, bytes; past them, no read is begun: what cannot be sent at once is copied, and out of the caches when it is. */
const MAX_UNSENT = 0
/** Replies from so many bytes on may go without passing through here; to find out whether they can costs as much as copying less. */
const FORWARD_MIN = 32 << 10
/** Memory that a connection keeps for its next replies, bytes, and of how many different lengths. */
const MAX_KEPT = 2 << 20
const MAX_KEPT_LENGTHS = 16
/** Extents in one reply to NBD_CMD_BLOCK_STATUS, per context. */
const MAX_RUNS = 4096

/** Serves one connection to its end; never throws for what a client does. Resolves to why it ended, undefined if in good order. */
export async function serveNbd(stream: ByteStream, options: NbdServerOptions): Promise<string | undefined> {
  let secured = stream
  try {
    const session = await handshake(stream, options)
    if (session === undefined) return undefined
    secured = session.stream
    return await new Transmission(session).run()
  } catch (error) {
    return messageOf(error)
  } finally {
    secured.close()
  }
}

interface Request {
  readonly cookie: bigint
  readonly command: number
  readonly flags: number
  readonly at: number
  readonly length: number
}

/** Memory for replies that is used again: fresh memory costs more than what is copied into it. */
class Buffers {
  readonly #kept = new Map<number, Uint8Array[]>()
  #bytes = 0

  take(length: number): Uint8Array {
    const found = this.#kept.get(length)?.pop()
    if (found === undefined) return new Uint8Array(length)
    this.#bytes -= length
    return found
  }

  give(bytes: Uint8Array): void {
    const { length } = bytes
    if (length === 0 || this.#bytes + length > MAX_KEPT) return
    const kept = this.#kept.get(length)
    if (kept === undefined && this.#kept.size >= MAX_KEPT_LENGTHS) return
    this.#bytes += length
    if (kept === undefined) this.#kept.set(length, [bytes])
    else kept.push(bytes)
  }
}

class Transmission {
  readonly #session: ServerSession
  /** Of this client alone: what it was sent before is all that a driver that reads nothing could show it. */
  readonly #buffers = new Buffers()
  readonly #readOnly: boolean
  #requests = 0
  #bytes = 0
  #unsent = 0
  #wake: (() => void) | undefined

  constructor(session: ServerSession) {
    this.#session = session
    this.#readOnly = isReadOnly(session.item)
  }

  async run(): Promise<string | undefined> {
    let unsent = Infinity
    try {
      return await this.#receive()
    } catch (error) {
      // Who sends no more may still take what it asked for; whether it does is the stream's to see.
      unsent = 0
      throw error
    } finally {
      await this.#room(0, 0, unsent)
    }
  }

  async #receive(): Promise<string | undefined> {
    const { reader } = this.#session
    reader.hasten()
    for (;;) {
      const bytes = reader.read(28)
      const head = wire.viewOf(bytes instanceof Promise ? await bytes : bytes)
      if (head.getUint32(0) !== wire.REQUEST_MAGIC) return 'a request has a wrong magic number'
      const request: Request = {
        flags: head.getUint16(4),
        command: head.getUint16(6),
        cookie: head.getBigUint64(8),
        at: Number(head.getBigUint64(16)),
        length: head.getUint32(24),
      }
      if (request.command === wire.CMD_DISC) return undefined
      const holds = request.command === wire.CMD_READ || request.command === wire.CMD_WRITE
      const tooLong = holds && request.length > BLOCK_SIZES.maximum
      if (tooLong && request.command === wire.CMD_WRITE) return `a write has ${request.length} bytes`
      const cost = holds && !tooLong ? request.length : 0
      const unsent = request.command === wire.CMD_READ ? MAX_UNSENT : Infinity
      const room = this.#room(MAX_BYTES - cost, MAX_REQUESTS - 1, unsent)
      if (room !== undefined) await room
      let payload: Uint8Array | undefined
      if (request.command === wire.CMD_WRITE) {
        payload = this.#buffers.take(request.length)
        const filled = reader.fill(bytesVec(payload))
        if (filled instanceof Promise) await filled
      }
      this.#start(request, cost, payload)
    }
  }

  /** Waits until at most so many bytes and requests are in flight, and so many bytes unsent. */
  #room(bytes: number, requests: number, unsent: number): Promise<void> | undefined {
    const full = () => this.#bytes > bytes || this.#requests > requests || this.#unsent > unsent
    if (!full()) return undefined
    return new Promise<void>((resolve) => {
      this.#wake = () => {
        if (full()) return
        this.#wake = undefined
        resolve()
      }
    })
  }

  #start(request: Request, cost: number, payload: Uint8Array | undefined): void {
    this.#requests++
    this.#bytes += cost
    const end = () => {
      this.#requests--
      this.#bytes -= cost
      if (payload !== undefined) this.#buffers.give(payload)
      this.#wake?.()
    }
    settle(
      () => this.#execute(request, payload),
      end,
      (error) => settle(() => this.#error(request, error), end, end),
    )
  }

  #execute(request: Request, payload: Uint8Array | undefined): void | Promise<void> {
    const { device } = this.#session.item
    const { at, length, flags, command } = request
    const refused = this.#refusal(request)
    if (refused !== undefined) throw refused
    const fua = (flags & wire.CMD_FLAG_FUA) !== 0
    const done = () => this.#done(request)
    const durable = async (work: void | Promise<void>) => {
      await work
      if (fua) await device.flush()
      await done()
    }
    switch (command) {
      case wire.CMD_READ:
        return this.#read(request)
      case wire.CMD_WRITE: {
        const written = device.write(at, bytesVec(payload!), fua ? { fua } : undefined)
        return written instanceof Promise ? written.then(done) : done()
      }
      case wire.CMD_FLUSH:
        return Promise.resolve(device.flush()).then(done)
      case wire.CMD_TRIM:
        return durable(device.discard(at, length))
      case wire.CMD_WRITE_ZEROES:
        return durable(device.zero(at, length, { unmap: (flags & wire.CMD_FLAG_NO_HOLE) === 0 }))
      case wire.CMD_CACHE:
        return this.#cache(request)
      default:
        return this.#blockStatus(request)
    }
  }

  #refusal({ command, flags, at, length }: Request): BlockError | undefined {
    const { item, contexts } = this.#session
    const allowed = FLAGS[command]
    if (allowed === undefined) return new BlockError('EINVAL', `request type ${command} is not known`)
    if ((flags & ~allowed) !== 0)
      return new BlockError('EINVAL', `flags ${flags} are not known for request type ${command}`)
    if (command === wire.CMD_READ && length > BLOCK_SIZES.maximum)
      return new BlockError('EINVAL', `a request may have ${BLOCK_SIZES.maximum} bytes at most`)
    if (command === wire.CMD_FLUSH) return undefined
    const writes = command === wire.CMD_WRITE || command === wire.CMD_TRIM || command === wire.CMD_WRITE_ZEROES
    if (writes && this.#readOnly) return new BlockError('EPERM', 'the export is read-only')
    if (command === wire.CMD_BLOCK_STATUS && contexts.length === 0)
      return new BlockError('EINVAL', 'no metadata context was selected')
    if (command === wire.CMD_BLOCK_STATUS && length === 0) return new BlockError('EINVAL', 'the range is empty')
    if (command === wire.CMD_WRITE_ZEROES && flags & wire.CMD_FLAG_FAST_ZERO && item.device.driver.zero === undefined) {
      return new BlockError('ENOTSUP', 'zeroes would have to be written')
    }
    if (!(at + length <= item.device.size)) {
      return new BlockError(
        writes ? 'ENOSPC' : 'EINVAL',
        `the range passes the end of the export, ${item.device.size} bytes`,
      )
    }
    return undefined
  }

  #read(request: Request): Now<void> {
    const { item, structured } = this.#session
    const { at, length, flags } = request
    if (structured && (flags & wire.CMD_FLAG_DF) === 0 && length > BLOCK_SIZES.preferred) {
      const first = contents(item.device, at, length)
      if (first instanceof Promise || first.kind !== 'data' || first.length < length)
        return this.#readSparse(request, first)
    }
    if (length === 0) return this.#done(request)
    const head = structured ? dataHead(request.cookie, wire.REPLY_FLAG_DONE, at, length) : simple(request.cookie, 0)
    return this.#answer(head, at, length)
  }

  /** Sends the bytes of a range behind a head. */
  #answer(head: Uint8Array, at: number, length: number): Now<void> {
    const { item, stream } = this.#session
    if (length >= FORWARD_MIN && stream.forward !== undefined) {
      const place = item.device.placed(at, length)
      if (place?.length === length && this.#forward(head, place)) return
    }
    const data = this.#buffers.take(length)
    return after(item.device.read(at, bytesVec(data)), () => this.#writeData([head, data]))
  }

  /** Sends data and holes as they are; `first` is what the range begins with. */
  async #readSparse(request: Request, first: Now<Extent>): Promise<void> {
    const { device } = this.#session.item
    const end = request.at + request.length
    for (let at = request.at, answer = first; at < end; ) {
      const extent = answer instanceof Promise ? await answer : answer
      const flags = at + extent.length === end ? wire.REPLY_FLAG_DONE : 0
      if (extent.kind === 'data') {
        const room = this.#answer(dataHead(request.cookie, flags, at, extent.length), at, extent.length)
        if (room instanceof Promise) await room
      } else
        await this.#write([chunk(request, flags, wire.REPLY_OFFSET_HOLE, 12), wire.pack([8, at], [4, extent.length])])
      at += extent.length
      if (at < end) answer = contents(device, at, end - at)
    }
  }

  async #cache({ at, length, ...request }: Request): Promise<void> {
    const { device } = this.#session.item
    const piece = bytesVec(new Uint8Array(Math.min(length, 1 << 20)))
    for (let done = 0; done < length; done += piece.byteLength) {
      await device.read(at + done, piece.slice(0, Math.min(piece.byteLength, length - done)))
    }
    return this.#done({ at, length, ...request })
  }

  async #blockStatus(request: Request): Promise<void> {
    const { contexts } = this.#session
    for (const [index, context] of contexts.entries()) {
      const runs = await collect(context, request)
      const flags = index === contexts.length - 1 ? wire.REPLY_FLAG_DONE : 0
      const body = new Uint8Array(4 + 8 * runs.length)
      const view = wire.viewOf(body)
      view.setUint32(0, index + 1)
      for (const [i, run] of runs.entries()) {
        view.setUint32(4 + 8 * i, run.length)
        view.setUint32(8 + 8 * i, run.flags)
      }
      await this.#write([chunk(request, flags, wire.REPLY_BLOCK_STATUS, body.length), body])
    }
  }

  #done(request: Request): void | Promise<void> {
    if (!this.#session.structured) return this.#write([simple(request.cookie, 0)])
    return this.#write([
      request.command === wire.CMD_READ
        ? chunk(request, wire.REPLY_FLAG_DONE, wire.REPLY_NONE, 0)
        : simple(request.cookie, 0),
    ])
  }

  #error(request: Request, error: unknown): void | Promise<void> {
    const number = wire.errorNumber(errnoOf(error))
    const structured =
      this.#session.structured && (request.command === wire.CMD_READ || request.command === wire.CMD_BLOCK_STATUS)
    if (!structured) return this.#write([simple(request.cookie, number)])
    const message = wire.utf8(messageOf(error)).subarray(0, wire.MAX_STRING)
    const head = chunk(request, wire.REPLY_FLAG_DONE, wire.REPLY_ERROR, 6 + message.length)
    return this.#write([head, wire.pack([4, number], [2, message.length]), message])
  }

  #forward(head: Uint8Array, place: Place): boolean {
    const sent = this.#sending(place.length)
    const forwarded = this.#session.stream.forward!(head, place, sent)
    if (!forwarded) sent()
    return forwarded
  }

  /** Sends pieces of which the last is one of {@link Buffers}. */
  #writeData(pieces: readonly Uint8Array[]): void | Promise<void> {
    const data = pieces.at(-1)!
    const sent = this.#sending(data.length)
    return this.#session.stream.write(pieces, () => {
      this.#buffers.give(data)
      sent()
    })
  }

  /** Counts bytes that wait to be sent, until what it gives is called. */
  #sending(length: number): () => void {
    this.#unsent += length
    return () => {
      this.#unsent -= length
      this.#wake?.()
    }
  }

  #write(pieces: readonly Uint8Array[]): void | Promise<void> {
    return this.#session.stream.write(pieces)
  }
}

const FLAGS: Readonly<Record<number, number>> = {
  [wire.CMD_READ]: wire.CMD_FLAG_DF | wire.CMD_FLAG_FUA,
  [wire.CMD_WRITE]: wire.CMD_FLAG_FUA,
  [wire.CMD_FLUSH]: wire.CMD_FLAG_FUA,
  [wire.CMD_TRIM]: wire.CMD_FLAG_FUA,
  [wire.CMD_CACHE]: wire.CMD_FLAG_FUA,
  [wire.CMD_WRITE_ZEROES]: wire.CMD_FLAG_FUA | wire.CMD_FLAG_NO_HOLE | wire.CMD_FLAG_FAST_ZERO,
  [wire.CMD_BLOCK_STATUS]: wire.CMD_FLAG_REQ_ONE | wire.CMD_FLAG_FUA,
}

/** Runs of a context over the request's range: neighbours of equal flags joined, at least one, as many as a reply may have. */
async function collect(
  context: MetaContext,
  { at, length, flags }: Request,
): Promise<{ length: number; flags: number }[]> {
  const runs: { length: number; flags: number }[] = []
  const most = flags & wire.CMD_FLAG_REQ_ONE ? 1 : MAX_RUNS
  for (let done = 0; done < length; ) {
    const run = await context.status(at + done, length - done)
    const last = runs.at(-1)
    if (last !== undefined && last.flags === run.flags) last.length += run.length
    else if (runs.length === most) break
    else runs.push({ ...run })
    done += run.length
  }
  return runs
}

/** What goes before the data of a chunk: the one head that is made as often as data is read. */
function dataHead(cookie: bigint, flags: number, at: number, length: number): Uint8Array {
  const head = new Uint8Array(28)
  const view = wire.viewOf(head)
  view.setUint32(0, wire.STRUCTURED_REPLY_MAGIC)
  view.setUint16(4, flags)
  view.setUint16(6, wire.REPLY_OFFSET_DATA)
  view.setBigUint64(8, cookie)
  view.setUint32(16, 8 + length)
  view.setBigUint64(20, BigInt(at))
  return head
}

function simple(cookie: bigint, error: number): Uint8Array {
  return wire.pack([4, wire.SIMPLE_REPLY_MAGIC], [4, error], [8, cookie])
}

function chunk(request: Request, flags: number, type: number, length: number): Uint8Array {
  return wire.pack([4, wire.STRUCTURED_REPLY_MAGIC], [2, flags], [2, type], [8, request.cookie], [4, length])
}
