/** The client's half of the NBD handshake: newstyle with options, with oldstyle as the fallback of very old servers. */
import { BlockError, type Errno } from '../../error.ts'
import { ByteReader, type ByteStream } from '../stream.ts'
import * as wire from './wire.ts'

/** What a client asks a server for. */
export interface NbdWish {
  /** Name of the export; '' is the server's default. */
  readonly exportName: string
  /** Metadata contexts to ask for, e.g. `base:allocation`. */
  readonly contexts: readonly string[]
  /** Turns the stream into a TLS one after NBD_OPT_STARTTLS; absent, the connection stays plain. */
  readonly startTls?: (stream: ByteStream) => Promise<ByteStream>
}

/** What was agreed: the transmission phase begins on `stream`. */
export interface NbdSession {
  readonly stream: ByteStream
  readonly reader: ByteReader
  readonly size: number
  /** Transmission flags. */
  readonly flags: number
  readonly structured: boolean
  /** Context names by the id that the server gave them. */
  readonly contexts: ReadonlyMap<number, string>
  /** Sizes of requests, bytes: all must be multiples of `minimum`, payloads at most `maximum`. */
  readonly minimum: number
  readonly preferred: number
  readonly maximum: number
  readonly description: string
}

interface OptionReply {
  readonly type: number
  readonly data: Uint8Array
}

/** One export as a server lists it. */
export interface NbdListed {
  readonly name: string
  readonly description: string
  /** What it says when asked about it, if it can be asked. */
  readonly details?: NbdDetails
}

/** What a server tells about an export. */
export interface NbdDetails {
  readonly size: number
  /** Transmission flags. */
  readonly flags: number
  /** Block sizes, if it tells them. */
  readonly sizes?: { readonly minimum: number; readonly preferred: number; readonly maximum: number }
  /** Metadata contexts. */
  readonly contexts: readonly string[]
}

class Negotiation {
  stream: ByteStream
  reader: ByteReader

  constructor(stream: ByteStream) {
    this.stream = stream
    this.reader = new ByteReader(stream)
  }

  /** Reads the greeting and answers it; resolves to the handshake flags, or to undefined for an oldstyle server. */
  async greet(): Promise<number | undefined> {
    const greeting = wire.viewOf(await this.reader.read(16))
    if (greeting.getBigUint64(0) !== wire.INIT_MAGIC) throw this.refuse('EINVAL', 'it is not an NBD server')
    const style = greeting.getBigUint64(8)
    if (style === wire.OLDSTYLE_MAGIC) return undefined
    if (style !== wire.OPTION_MAGIC) throw this.refuse('EINVAL', 'its greeting is of no known style')
    const flags = wire.viewOf(await this.reader.read(2)).getUint16(0)
    if ((flags & wire.FLAG_FIXED_NEWSTYLE) === 0) throw this.refuse('ENOTSUP', 'it lacks fixed newstyle negotiation')
    const agreed = flags & (wire.FLAG_FIXED_NEWSTYLE | wire.FLAG_NO_ZEROES)
    await this.stream.write([wire.pack([4, agreed])])
    return agreed
  }

  async ask(option: number, data: Uint8Array = new Uint8Array()): Promise<void> {
    await this.stream.write([wire.join(wire.pack([8, wire.OPTION_MAGIC], [4, option], [4, data.length]), data)])
  }

  async reply(option: number): Promise<OptionReply> {
    const head = wire.viewOf(await this.reader.read(20))
    if (head.getBigUint64(0) !== wire.OPTION_REPLY_MAGIC || head.getUint32(8) !== option) {
      throw this.refuse('EINVAL', `its reply to option ${option} is garbled`)
    }
    const length = head.getUint32(16)
    if (length > wire.MAX_PAYLOAD) throw this.refuse('EINVAL', `its reply to option ${option} has ${length} bytes`)
    return { type: head.getUint32(12), data: await this.reader.read(length) }
  }

  /** The final reply to an option; the replies before it go to `each`. Resolves to the type of an error reply, or REP_ACK. */
  async replies(option: number, each: (reply: OptionReply) => void = () => {}): Promise<OptionReply> {
    for (let count = 0; count < 65536; count++) {
      const reply = await this.reply(option)
      if (reply.type === wire.REP_ACK || reply.type >= wire.REP_ERROR) return reply
      each(reply)
    }
    throw this.refuse('EINVAL', `its reply to option ${option} has no end`)
  }

  async startTls(upgrade: (stream: ByteStream) => Promise<ByteStream>): Promise<void> {
    await this.ask(wire.OPT_STARTTLS)
    const { type } = await this.replies(wire.OPT_STARTTLS)
    if (type !== wire.REP_ACK) throw this.refuse('ENOTSUP', 'it offers no TLS')
    // What came in the clear behind the answer would be taken for what the secured server says.
    if (this.reader.buffered > 0) throw this.refuse('EACCES', 'it sent more before it was secured')
    this.stream = await upgrade(this.stream)
    this.reader = new ByteReader(this.stream)
  }

  refuse(code: Errno, why: string): BlockError {
    return new BlockError(code, `Cannot use the NBD server ${this.stream.peer}: ${why}`)
  }
}

const defaults = { minimum: 1, preferred: 4096, maximum: wire.MAX_PAYLOAD, description: '' }

/** Negotiates up to the transmission phase. The stream is closed when that fails. */
export async function negotiate(stream: ByteStream, wish: NbdWish): Promise<NbdSession> {
  const talk = new Negotiation(stream)
  try {
    const flags = await talk.greet()
    return flags === undefined ? await oldstyle(talk, wish) : await newstyle(talk, wish, flags)
  } catch (error) {
    talk.stream.close()
    throw error
  }
}

async function oldstyle(talk: Negotiation, wish: NbdWish): Promise<NbdSession> {
  if (wish.startTls) throw talk.refuse('ENOTSUP', 'it offers no TLS')
  if (wish.exportName !== '')
    throw talk.refuse('ENOTSUP', `it has no named exports, and '${wish.exportName}' was asked for`)
  const head = wire.viewOf(await talk.reader.read(12))
  await talk.reader.skip(124)
  return session(talk, wish, sizeOf(head, talk), head.getUint32(8) & 0xffff, false, new Map(), defaults)
}

async function newstyle(talk: Negotiation, wish: NbdWish, handshake: number): Promise<NbdSession> {
  if (wish.startTls) await talk.startTls(wish.startTls)
  await talk.ask(wire.OPT_STRUCTURED_REPLY)
  const structured = (await talk.replies(wire.OPT_STRUCTURED_REPLY)).type === wire.REP_ACK
  const contexts = structured ? await setContexts(talk, wish) : new Map<number, string>()

  const name = wire.utf8(wish.exportName)
  const wanted = wire.pack([2, 2], [2, wire.INFO_BLOCK_SIZE], [2, wire.INFO_DESCRIPTION])
  await talk.ask(wire.OPT_GO, wire.join(wire.pack([4, name.length]), name, wanted))
  const sizes = { ...defaults }
  let size: number | undefined
  let flags = 0
  const last = await talk.replies(wire.OPT_GO, ({ type, data }) => {
    if (type !== wire.REP_INFO || data.length < 2) return
    const view = wire.viewOf(data)
    const info = view.getUint16(0)
    if (info === wire.INFO_EXPORT && data.length === 12) {
      size = sizeOf(wire.viewOf(data.subarray(2)), talk)
      flags = view.getUint16(10)
    } else if (info === wire.INFO_BLOCK_SIZE && data.length === 14) {
      sizes.minimum = view.getUint32(2)
      sizes.preferred = view.getUint32(6)
      sizes.maximum = Math.min(view.getUint32(10), wire.MAX_PAYLOAD)
    } else if (info === wire.INFO_DESCRIPTION) sizes.description = wire.text(data.subarray(2))
  })
  if (last.type === wire.REP_ACK) {
    if (size === undefined) throw talk.refuse('EINVAL', 'it did not tell the size of the export')
    return session(talk, wish, size, flags, structured, contexts, sizes)
  }
  if (last.type !== wire.REP_ERR_UNSUP) throw refusal(talk, last, wish)
  return exportName(talk, wish, handshake, structured, contexts)
}

async function exportName(
  talk: Negotiation,
  wish: NbdWish,
  handshake: number,
  structured: boolean,
  contexts: ReadonlyMap<number, string>,
): Promise<NbdSession> {
  await talk.ask(wire.OPT_EXPORT_NAME, wire.utf8(wish.exportName))
  const head = wire.viewOf(await talk.reader.read(10))
  if ((handshake & wire.FLAG_NO_ZEROES) === 0) await talk.reader.skip(124)
  return session(talk, wish, sizeOf(head, talk), head.getUint16(8), structured, contexts, defaults)
}

async function setContexts(talk: Negotiation, wish: NbdWish): Promise<Map<number, string>> {
  const contexts = new Map<number, string>()
  if (wish.contexts.length === 0) return contexts
  const queries = wish.contexts.map(wire.packString)
  const data = wire.join(wire.packString(wish.exportName), wire.pack([4, queries.length]), ...queries)
  await talk.ask(wire.OPT_SET_META_CONTEXT, data)
  await talk.replies(wire.OPT_SET_META_CONTEXT, (reply) => {
    if (reply.type !== wire.REP_META_CONTEXT || reply.data.length < 4) return
    if (contexts.size >= wish.contexts.length)
      throw talk.refuse('EINVAL', 'it granted contexts that were not asked for')
    contexts.set(wire.viewOf(reply.data).getUint32(0), wire.text(reply.data.subarray(4)))
  })
  return contexts
}

function session(
  talk: Negotiation,
  wish: NbdWish,
  size: number,
  flags: number,
  structured: boolean,
  contexts: ReadonlyMap<number, string>,
  sizes: typeof defaults,
): NbdSession {
  const { minimum, maximum } = sizes
  if (minimum < 1 || minimum > 65536 || (minimum & (minimum - 1)) !== 0 || maximum < minimum) {
    throw talk.refuse('EINVAL', `the block sizes of '${wish.exportName}' are ${minimum} to ${maximum}`)
  }
  return { stream: talk.stream, reader: talk.reader, size, flags, structured, contexts, ...sizes }
}

function sizeOf(view: DataView, talk: Negotiation): number {
  const size = view.getBigUint64(0)
  if (size > BigInt(Number.MAX_SAFE_INTEGER)) throw talk.refuse('EFBIG', `the export has ${size} bytes`)
  return Number(size)
}

function refusal(talk: Negotiation, reply: OptionReply, wish: NbdWish): BlockError {
  const said = reply.data.length > 0 ? `: ${wire.text(reply.data.subarray(0, wire.MAX_STRING))}` : ''
  if (reply.type === wire.REP_ERR_UNKNOWN) return talk.refuse('ENOENT', `it has no export '${wish.exportName}'${said}`)
  if (reply.type === wire.REP_ERR_TLS_REQD) return talk.refuse('EACCES', `it requires TLS${said}`)
  if (reply.type === wire.REP_ERR_POLICY)
    return talk.refuse('EACCES', `its policy forbids export '${wish.exportName}'${said}`)
  return talk.refuse('EINVAL', `it refused export '${wish.exportName}' (reply ${reply.type - wire.REP_ERROR})${said}`)
}

async function detailsOf(talk: Negotiation, exportName: string, structured: boolean): Promise<NbdDetails | undefined> {
  const name = wire.utf8(exportName)
  const head = wire.join(wire.pack([4, name.length]), name)
  let found: { size: number; flags: number } | undefined
  let sizes: NbdDetails['sizes']
  await talk.ask(wire.OPT_INFO, wire.join(head, wire.pack([2, 1], [2, wire.INFO_BLOCK_SIZE])))
  const last = await talk.replies(wire.OPT_INFO, ({ type, data }) => {
    if (type !== wire.REP_INFO || data.length < 2) return
    const view = wire.viewOf(data)
    const info = view.getUint16(0)
    if (info === wire.INFO_EXPORT && data.length === 12)
      found = { size: sizeOf(wire.viewOf(data.subarray(2)), talk), flags: view.getUint16(10) }
    else if (info === wire.INFO_BLOCK_SIZE && data.length === 14)
      sizes = { minimum: view.getUint32(2), preferred: view.getUint32(6), maximum: view.getUint32(10) }
  })
  if (last.type !== wire.REP_ACK || found === undefined) return undefined
  const contexts: string[] = []
  if (structured) {
    await talk.ask(wire.OPT_LIST_META_CONTEXT, wire.join(head, wire.pack([4, 0])))
    await talk.replies(wire.OPT_LIST_META_CONTEXT, ({ type, data }) => {
      if (type === wire.REP_META_CONTEXT && data.length >= 4) contexts.push(wire.text(data.subarray(4)))
    })
  }
  return { ...found, ...(sizes === undefined ? {} : { sizes }), contexts }
}

/** The exports that a server lists, and what it tells about each. */
export async function listExports(stream: ByteStream, startTls?: NbdWish['startTls']): Promise<NbdListed[]> {
  const talk = new Negotiation(stream)
  try {
    if ((await talk.greet()) === undefined) return [{ name: '', description: '' }]
    if (startTls) await talk.startTls(startTls)
    await talk.ask(wire.OPT_STRUCTURED_REPLY)
    const structured = (await talk.replies(wire.OPT_STRUCTURED_REPLY)).type === wire.REP_ACK
    const listed: NbdListed[] = []
    await talk.ask(wire.OPT_LIST)
    const last = await talk.replies(wire.OPT_LIST, ({ type, data }) => {
      if (type !== wire.REP_SERVER || data.length < 4) return
      const length = wire.viewOf(data).getUint32(0)
      if (4 + length > data.length) throw talk.refuse('EINVAL', 'its list of exports is garbled')
      listed.push({ name: wire.text(data.subarray(4, 4 + length)), description: wire.text(data.subarray(4 + length)) })
    })
    if (last.type !== wire.REP_ACK) throw refusal(talk, last, { exportName: '', contexts: [] })
    const known: NbdListed[] = []
    for (const each of listed) {
      const details = await detailsOf(talk, each.name, structured)
      known.push(details === undefined ? each : { ...each, details })
    }
    await talk.ask(wire.OPT_ABORT)
    return known
  } finally {
    talk.stream.close()
  }
}
