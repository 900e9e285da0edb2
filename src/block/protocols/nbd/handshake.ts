/** The server's half of the NBD handshake: fixed newstyle, every option answered. */
import { ByteReader, type ByteStream } from '../stream.ts'
import { BLOCK_SIZES, contextsOf, type MetaContext, type NbdExport, transmissionFlags } from './export.ts'
import * as wire from './wire.ts'

export interface NbdServerOptions {
  readonly exports: readonly NbdExport[]
  /** Upgrades a stream after NBD_OPT_STARTTLS; absent, TLS is not offered. With it, nothing else is answered before it. */
  readonly startTls?: (stream: ByteStream) => Promise<ByteStream>
  /** Seconds that a client may take until it has chosen an export; default 10, 0: for ever. */
  readonly handshakeSeconds?: number
  /** Called when a client has chosen an export. */
  readonly onExport?: (item: NbdExport) => void
}

/** What the transmission phase needs to know. */
export interface ServerSession {
  readonly stream: ByteStream
  readonly reader: ByteReader
  readonly item: NbdExport
  readonly structured: boolean
  /** Contexts that the client selected, in the order of their ids, which start at 1. */
  readonly contexts: readonly MetaContext[]
}

/** Options that a client may try before it is thrown out. */
const MAX_OPTIONS = 10_000
const MAX_OPTION_BYTES = 65536
const NOTHING = new Uint8Array()

/** Serves the handshake; resolves to undefined when the client left without choosing an export. */
export async function handshake(stream: ByteStream, options: NbdServerOptions): Promise<ServerSession | undefined> {
  const shake = new Handshake(stream, options)
  const seconds = options.handshakeSeconds ?? 10
  if (seconds === 0) return shake.run()
  // One that never chooses must not take the place of one that would.
  const timer = setTimeout(() => shake.stream.close(), seconds * 1000)
  try {
    return await shake.run()
  } finally {
    clearTimeout(timer)
  }
}

class Handshake {
  readonly #options: NbdServerOptions
  #stream: ByteStream
  #reader: ByteReader
  #secure = false
  #structured = false
  #noZeroes = false
  #contexts: readonly MetaContext[] = []
  #contextExport: string | undefined

  get stream(): ByteStream {
    return this.#stream
  }

  constructor(stream: ByteStream, options: NbdServerOptions) {
    this.#stream = stream
    this.#options = options
    this.#reader = new ByteReader(stream)
  }

  async run(): Promise<ServerSession | undefined> {
    const offered = wire.FLAG_FIXED_NEWSTYLE | wire.FLAG_NO_ZEROES
    await this.#stream.write([wire.pack([8, wire.INIT_MAGIC], [8, wire.OPTION_MAGIC], [2, offered])])
    const flags = wire.viewOf(await this.#reader.read(4)).getUint32(0)
    if ((flags & ~offered) !== 0) return undefined
    this.#noZeroes = (flags & wire.FLAG_NO_ZEROES) !== 0
    for (let count = 0; count < MAX_OPTIONS; count++) {
      const head = wire.viewOf(await this.#reader.read(16))
      if (head.getBigUint64(0) !== wire.OPTION_MAGIC) return undefined
      const option = head.getUint32(8)
      const length = head.getUint32(12)
      if (length > MAX_OPTION_BYTES) {
        await this.#reader.skip(length)
        await this.#reply(option, wire.REP_ERR_TOO_BIG, wire.utf8(`option ${option} has ${length} bytes`))
        continue
      }
      const item = await this.#option(option, await this.#reader.read(length))
      if (item === 'end') return undefined
      if (item !== undefined) return this.#session(item)
    }
    return undefined
  }

  #session(item: NbdExport): ServerSession {
    const contexts = this.#contextExport === item.name ? this.#contexts : []
    this.#options.onExport?.(item)
    return { stream: this.#stream, reader: this.#reader, item, structured: this.#structured, contexts }
  }

  async #option(option: number, data: Uint8Array): Promise<NbdExport | 'end' | undefined> {
    if (option === wire.OPT_ABORT) {
      await this.#reply(option, wire.REP_ACK)
      return 'end'
    }
    if (this.#options.startTls !== undefined && !this.#secure && option !== wire.OPT_STARTTLS) {
      if (option === wire.OPT_EXPORT_NAME) return 'end'
      await this.#reply(option, wire.REP_ERR_TLS_REQD, wire.utf8('this server requires TLS'))
      return undefined
    }
    switch (option) {
      case wire.OPT_EXPORT_NAME:
        return this.#exportName(wire.text(data))
      case wire.OPT_LIST:
        return this.#list(data)
      case wire.OPT_STARTTLS:
        return this.#startTls(data)
      case wire.OPT_INFO:
      case wire.OPT_GO:
        return this.#info(option, data)
      case wire.OPT_STRUCTURED_REPLY:
        if (data.length > 0) return this.#invalid(option)
        this.#structured = true
        return this.#reply(option, wire.REP_ACK)
      case wire.OPT_LIST_META_CONTEXT:
      case wire.OPT_SET_META_CONTEXT:
        return this.#metaContext(option, data)
      default:
        return this.#reply(option, wire.REP_ERR_UNSUP, wire.utf8(`option ${option} is not known`))
    }
  }

  async #exportName(name: string): Promise<NbdExport | 'end'> {
    const item = this.#find(name)
    if (item === undefined) return 'end'
    const head = wire.pack([8, item.device.size], [2, transmissionFlags(item, this.#structured)])
    await this.#stream.write(this.#noZeroes ? [head] : [head, new Uint8Array(124)])
    return item
  }

  async #list(data: Uint8Array): Promise<undefined> {
    if (data.length > 0) return this.#invalid(wire.OPT_LIST)
    for (const item of this.#options.exports) {
      const entry = wire.join(wire.packString(item.name), wire.utf8(item.description ?? ''))
      await this.#reply(wire.OPT_LIST, wire.REP_SERVER, entry)
    }
    return this.#reply(wire.OPT_LIST, wire.REP_ACK)
  }

  async #startTls(data: Uint8Array): Promise<'end' | undefined> {
    const upgrade = this.#options.startTls
    if (data.length > 0) return this.#invalid(wire.OPT_STARTTLS)
    if (upgrade === undefined)
      return this.#reply(wire.OPT_STARTTLS, wire.REP_ERR_POLICY, wire.utf8('this server has no TLS'))
    if (this.#secure) return this.#invalid(wire.OPT_STARTTLS)
    // What came in the clear behind the request would be taken for what the secured client says.
    if (this.#reader.buffered > 0) return 'end'
    await this.#reply(wire.OPT_STARTTLS, wire.REP_ACK)
    this.#stream = await upgrade(this.#stream)
    this.#reader = new ByteReader(this.#stream)
    this.#secure = true
    this.#structured = false
    this.#contexts = []
    return undefined
  }

  async #info(option: number, data: Uint8Array): Promise<NbdExport | undefined> {
    const parsed = readString(data, 0)
    if (parsed === undefined || parsed.end + 2 > data.length) return this.#invalid(option)
    const view = wire.viewOf(data)
    const count = view.getUint16(parsed.end)
    if (parsed.end + 2 + 2 * count !== data.length) return this.#invalid(option)
    const asked = new Set<number>()
    for (let i = 0; i < count; i++) asked.add(view.getUint16(parsed.end + 2 + 2 * i))
    const item = this.#find(parsed.value)
    if (item === undefined) {
      return this.#reply(option, wire.REP_ERR_UNKNOWN, wire.utf8(`export '${parsed.value}' not present`))
    }
    if (asked.has(wire.INFO_NAME)) {
      await this.#reply(option, wire.REP_INFO, wire.join(wire.pack([2, wire.INFO_NAME]), wire.utf8(item.name)))
    }
    if (asked.has(wire.INFO_DESCRIPTION) && item.description) {
      await this.#reply(
        option,
        wire.REP_INFO,
        wire.join(wire.pack([2, wire.INFO_DESCRIPTION]), wire.utf8(item.description)),
      )
    }
    const { minimum, preferred, maximum } = BLOCK_SIZES
    const sizes = wire.pack([2, wire.INFO_BLOCK_SIZE], [4, minimum], [4, preferred], [4, maximum])
    await this.#reply(option, wire.REP_INFO, sizes)
    const flags = transmissionFlags(item, this.#structured)
    await this.#reply(option, wire.REP_INFO, wire.pack([2, wire.INFO_EXPORT], [8, item.device.size], [2, flags]))
    await this.#reply(option, wire.REP_ACK)
    return option === wire.OPT_GO ? item : undefined
  }

  async #metaContext(option: number, data: Uint8Array): Promise<undefined> {
    if (!this.#structured) return this.#invalid(option)
    const set = option === wire.OPT_SET_META_CONTEXT
    if (set) {
      this.#contexts = []
      this.#contextExport = undefined
    }
    const name = readString(data, 0)
    if (name === undefined || name.end + 4 > data.length) return this.#invalid(option)
    const count = wire.viewOf(data).getUint32(name.end)
    const queries: string[] = []
    let at = name.end + 4
    for (let i = 0; i < count; i++) {
      const query = readString(data, at)
      if (query === undefined) return this.#invalid(option)
      queries.push(query.value)
      at = query.end
    }
    if (at !== data.length) return this.#invalid(option)
    const item = this.#find(name.value)
    if (item === undefined)
      return this.#reply(option, wire.REP_ERR_UNKNOWN, wire.utf8(`export '${name.value}' not present`))
    const chosen = contextsOf(item).filter((context) => {
      if (!set && queries.length === 0) return true
      return queries.some((query) => query === context.name || (!set && isPrefix(query, context.name)))
    })
    for (const [index, context] of chosen.entries()) {
      const id = set ? index + 1 : 0
      await this.#reply(option, wire.REP_META_CONTEXT, wire.join(wire.pack([4, id]), wire.utf8(context.name)))
    }
    if (set) {
      this.#contexts = chosen
      this.#contextExport = item.name
    }
    return this.#reply(option, wire.REP_ACK)
  }

  #find(name: string): NbdExport | undefined {
    const { exports } = this.#options
    return exports.find((item) => item.name === name) ?? (name === '' ? exports[0] : undefined)
  }

  async #invalid(option: number): Promise<undefined> {
    return this.#reply(option, wire.REP_ERR_INVALID, wire.utf8(`option ${option} has invalid data`))
  }

  async #reply(option: number, type: number, bytes: Uint8Array = NOTHING): Promise<undefined> {
    const data = type >= wire.REP_ERROR ? bytes.subarray(0, wire.MAX_STRING) : bytes
    await this.#stream.write([wire.pack([8, wire.OPTION_REPLY_MAGIC], [4, option], [4, type], [4, data.length]), data])
    return undefined
  }
}

/** Wildcards of NBD_OPT_LIST_META_CONTEXT: a namespace with its colon, or qemu's `qemu:dirty-bitmap:`. */
function isPrefix(query: string, name: string): boolean {
  return query.endsWith(':') && name.startsWith(query)
}

function readString(data: Uint8Array, at: number): { value: string; end: number } | undefined {
  if (at + 4 > data.length) return undefined
  const length = wire.viewOf(data).getUint32(at)
  const end = at + 4 + length
  if (length > wire.MAX_STRING || end > data.length) return undefined
  return { value: wire.text(data.subarray(at + 4, end)), end }
}
