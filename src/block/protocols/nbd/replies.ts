/** What an NBD server answers, taken apart: data straight into the vector of who asked for it. */
import { BlockError } from '../../error.ts'
import type { IoVec } from '../../iovec.ts'
import type { NbdSession } from './negotiate.ts'
import * as wire from './wire.ts'

/** A request under way. */
export interface Request {
  readonly command: number
  readonly flags: number
  readonly at: number
  readonly length: number
  /** What is sent after the header. */
  readonly payload?: Uint8Array
  /** Where a read's data goes. */
  readonly into?: IoVec
  /** Bytes of a structured read that have come. */
  came: number
  /** Of a flush: what it makes durable. */
  mark?: number
  /** It was done on an earlier connection, and is done again. */
  readonly again?: boolean
  extents?: StatusRun[]
  error?: BlockError
  resolve(): void
  reject(error: unknown): void
}

/** One run of the context that is asked about. */
export interface StatusRun {
  readonly at: number
  readonly length: number
  readonly flags: number
}

/** Reads the replies of one export. */
export class Replies {
  readonly #name: string
  readonly #size: number
  readonly #context: string
  readonly #requests: ReadonlyMap<number, Request>
  readonly #complete: (cookie: number, request: Request) => void

  /** `requests` are those under way, by their cookies; `complete` takes one that has its whole answer. */
  constructor(
    name: string,
    size: number,
    context: string,
    requests: ReadonlyMap<number, Request>,
    complete: (cookie: number, request: Request) => void,
  ) {
    this.#name = name
    this.#size = size
    this.#context = context
    this.#requests = requests
    this.#complete = complete
  }

  /** Takes replies until the stream ends; rejects when it does, or is garbled. */
  async receive(session: NbdSession): Promise<never> {
    for (;;) {
      const waiting = session.reader.read(4)
      const magic = wire.viewOf(waiting instanceof Promise ? await waiting : waiting).getUint32(0)
      if (magic === wire.SIMPLE_REPLY_MAGIC) await this.#simpleReply(session)
      else if (magic === wire.STRUCTURED_REPLY_MAGIC && session.structured) await this.#chunk(session)
      else throw new BlockError('EIO', `the reply starts with ${magic.toString(16)}`)
    }
  }

  async #simpleReply(session: NbdSession): Promise<void> {
    const head = wire.viewOf(await session.reader.read(12))
    const error = head.getUint32(0)
    const [cookie, request] = this.#find(head.getBigUint64(4))
    if (error !== 0) request.error = this.#serverError(request, error, '')
    else if (request.into !== undefined) {
      if (session.structured) throw new BlockError('EIO', 'the reply to a read is not structured')
      await session.reader.fill(request.into)
    }
    this.#complete(cookie, request)
  }

  async #chunk(session: NbdSession): Promise<void> {
    const head = wire.viewOf(await session.reader.read(16))
    const flags = head.getUint16(0)
    const type = head.getUint16(2)
    const [cookie, request] = this.#find(head.getBigUint64(4))
    const length = head.getUint32(12)
    if (type === wire.REPLY_OFFSET_DATA) await this.#data(session, request, length)
    else {
      if (length > wire.MAX_PAYLOAD) throw new BlockError('EIO', `a reply chunk has ${length} bytes`)
      this.#take(session, request, type, await session.reader.read(length))
    }
    if (flags & wire.REPLY_FLAG_DONE) this.#complete(cookie, request)
  }

  async #data(session: NbdSession, request: Request, length: number): Promise<void> {
    if (length < 9) throw new BlockError('EIO', 'a data chunk is too short')
    const at = Number(wire.viewOf(await session.reader.read(8)).getBigUint64(0))
    await session.reader.fill(this.#target(request, at, length - 8))
    request.came += length - 8
  }

  #take(session: NbdSession, request: Request, type: number, bytes: Uint8Array): void {
    const view = wire.viewOf(bytes)
    if (type === wire.REPLY_NONE) return
    if (type === wire.REPLY_OFFSET_HOLE && bytes.length === 12) {
      const length = view.getUint32(8)
      this.#target(request, Number(view.getBigUint64(0)), length).fill(0)
      request.came += length
    } else if (type === wire.REPLY_BLOCK_STATUS && bytes.length >= 12 && (bytes.length - 4) % 8 === 0) {
      if (session.contexts.get(view.getUint32(0)) !== this.#context || request.command !== wire.CMD_BLOCK_STATUS) return
      request.extents = this.#statusRuns(request, view)
    } else if (type >= 0x8000 && bytes.length >= 6) {
      const text = wire.text(bytes.subarray(6, 6 + Math.min(view.getUint16(4), bytes.length - 6)))
      request.error = this.#serverError(request, view.getUint32(0), text)
    } else throw new BlockError('EIO', `a reply chunk of type ${type} has ${bytes.length} bytes`)
  }

  #statusRuns(request: Request, view: DataView): StatusRun[] {
    const runs: StatusRun[] = []
    let at = request.at
    for (let i = 4; i < view.byteLength && at < this.#size; i += 8) {
      const length = Math.min(view.getUint32(i), this.#size - at)
      if (length === 0) throw new BlockError('EIO', 'a block status extent is empty')
      runs.push({ at, length, flags: view.getUint32(i + 4) })
      at += length
    }
    return runs
  }

  #target(request: Request, at: number, length: number): IoVec {
    const start = at - request.at
    if (request.into === undefined || start < 0 || start + length > request.length) {
      throw new BlockError('EIO', `a reply has ${length} bytes at ${at}, which were not asked for`)
    }
    return request.into.slice(start, start + length)
  }

  #find(cookie: bigint): [number, Request] {
    const request = this.#requests.get(Number(cookie))
    if (request === undefined) throw new BlockError('EIO', `a reply is to no request (cookie ${cookie})`)
    return [Number(cookie), request]
  }

  #serverError(request: Request, number: number, text: string): BlockError {
    const what = ['read', 'write', 'disconnect', 'flush', 'trim', 'cache', 'zero', 'ask for the status of'][
      request.command
    ]
    const code = wire.errorCode(number)
    return new BlockError(
      code,
      `Cannot ${what} ${request.length} bytes at ${request.at} of ${this.#name}: ${text || `the server says ${code}`}`,
    )
  }
}
