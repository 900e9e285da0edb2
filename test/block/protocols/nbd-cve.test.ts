/** Public vulnerabilities of NBD servers and clients elsewhere, each as a test of ours. */
import net from 'node:net'
import { afterEach, describe, expect, test } from 'vitest'
import { asDevice, type BlockDriver } from '../../../src/block/device.ts'
import { bytesVec, type IoVec } from '../../../src/block/iovec.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { NbdClient } from '../../../src/block/protocols/nbd/client.ts'
import { type NbdServerOptions, serveNbd } from '../../../src/block/protocols/nbd/server.ts'
import * as wire from '../../../src/block/protocols/nbd/wire.ts'
import { dial, SocketStream, tlsClient, tlsServer } from '../../../src/block/protocols/node/tcp.ts'

const MiB = 1 << 20
const closers: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

async function listen(accept: (socket: net.Socket) => void): Promise<number> {
  const sockets = new Set<net.Socket>()
  const server = net.createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    accept(socket)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  closers.push(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return (server.address() as net.AddressInfo).port
}

async function serve(options: Partial<NbdServerOptions> = {}, driver: BlockDriver = new Memory(MiB)) {
  const ends: Promise<string | undefined>[] = []
  const exports = [
    { name: 'one', device: asDevice(driver) },
    { name: 'two', device: asDevice(new Memory(2 * MiB)) },
  ]
  const port = await listen((socket) =>
    ends.push(serveNbd(new SocketStream(socket, 'client'), { exports, ...options })),
  )
  return { port, ends }
}

async function connect(port: number, exportName = 'one'): Promise<NbdClient> {
  const client = await NbdClient.connect('nbd', () => dial({ host: '127.0.0.1', port }), { exportName })
  closers.push(() => client.close())
  return client
}

/** The server still does for others what it should. */
async function works(port: number): Promise<void> {
  const client = await connect(port)
  await client.write(0, bytesVec(new Uint8Array(512).fill(7)))
  const back = new Uint8Array(512)
  await client.read(0, bytesVec(back))
  expect(back[511]).toBe(7)
}

/** A peer of raw bytes. */
function talk(port: number, bytes: Uint8Array) {
  const socket = net.connect(port, '127.0.0.1')
  closers.push(() => socket.destroy())
  let got = Buffer.alloc(0)
  let wake = () => {}
  socket.on('data', (piece) => {
    got = Buffer.concat([got, piece])
    wake()
  })
  socket.on('error', () => {})
  const closed = new Promise<Buffer>((resolve) => socket.on('close', () => resolve(got)))
  socket.write(bytes)
  const until = async (length: number) => {
    while (got.length < length) await new Promise<void>((resolve) => (wake = resolve))
    return got
  }
  return { socket, closed, until }
}

const hello = wire.pack([4, 3])
const option = (type: number, data: Uint8Array = new Uint8Array(), length = data.length) =>
  wire.join(wire.pack([8, wire.OPTION_MAGIC], [4, type], [4, length]), data)
const named = (type: number, name: string) => option(type, wire.join(wire.packString(name), wire.pack([2, 0])))
const request = (command: number, at: number, length: number, cookie = 1) =>
  wire.pack([4, wire.REQUEST_MAGIC], [2, 0], [2, command], [8, cookie], [8, at], [4, length])
const GREETING = 18
const AFTER_GO = GREETING + (20 + 14) + (20 + 12) + 20

describe('servers', () => {
  test('CVE-2017-7539, CVE-2017-9524: a client that leaves in the middle of a handshake or a request takes nothing down', async () => {
    const { port, ends } = await serve()
    const whole = wire.join(hello, named(wire.OPT_GO, 'one'), request(wire.CMD_WRITE, 0, 512), new Uint8Array(512))
    for (let length = 1; length < whole.length; length += 13) {
      const { socket, until } = talk(port, whole.subarray(0, length))
      await until(GREETING)
      socket.destroy()
    }
    await works(port)
    for (const end of ends.slice(0, -1)) await end
  })

  test('CVE-2017-10664: a client that is gone before its replies come is no SIGPIPE and no crash', async () => {
    const slow = new Memory(MiB)
    const read = (at: number, into: IoVec) =>
      new Promise<void>((resolve) => setTimeout(resolve, 5)).then(() => slow.read(at, into))
    const { port, ends } = await serve({}, { name: 'slow', size: MiB, read, write: (at, from) => slow.write(at, from) })
    const reads = Array.from({ length: 64 }, (_, i) => request(wire.CMD_READ, 0, 65536, i))
    const { socket, until } = talk(port, wire.join(hello, named(wire.OPT_GO, 'one'), ...reads))
    await until(AFTER_GO)
    socket.resetAndDestroy()
    await ends[0]
    await works(port)
  })

  test('CVE-2017-15119: what a client sends behind an option that is too long is dropped as it comes', async () => {
    const { port } = await serve()
    const { until, socket } = talk(port, wire.join(hello, option(wire.OPT_LIST, new Uint8Array(), 32 * MiB)))
    const piece = new Uint8Array(MiB)
    for (let i = 0; i < 32; i++) socket.write(piece)
    const got = await until(GREETING + 20)
    expect(got.readUInt32BE(GREETING + 12)).toBe(wire.REP_ERR_TOO_BIG)
    await works(port)
  })

  test('CVE-2020-10761: the text of an error reply is no longer than a string may be, whatever name it quotes', async () => {
    const { port } = await serve()
    const { until } = talk(port, wire.join(hello, named(wire.OPT_INFO, 'x'.repeat(4096))))
    const got = await until(GREETING + 20 + 4096)
    expect(got.readUInt32BE(GREETING + 12)).toBe(wire.REP_ERR_UNKNOWN)
    expect(got.readUInt32BE(GREETING + 16)).toBe(4096)
    await works(port)
  })

  test('CVE-2019-14851: asking about one export and going to another is served as what was gone to', async () => {
    const { port } = await serve()
    const asks = ['one', 'two', 'one', 'two', 'one'].map((name) => named(wire.OPT_INFO, name))
    const { until } = talk(
      port,
      wire.join(hello, ...asks, named(wire.OPT_GO, 'two'), request(wire.CMD_READ, 2 * MiB - 16, 16)),
    )
    const got = await until(GREETING + 6 * (AFTER_GO - GREETING) + 32)
    expect(got.readUInt32BE(GREETING + 6 * (AFTER_GO - GREETING) + 4)).toBe(0)
  })

  test('CVE-2021-3716: what comes in the clear behind STARTTLS is not taken for what the secured client says', async () => {
    const psk = Buffer.from('00112233445566778899aabbccddeeff', 'hex')
    const { port, ends } = await serve({ startTls: tlsServer({ pskCallback: () => psk, ciphers: 'PSK' }) })
    const injected = wire.join(hello, option(wire.OPT_STARTTLS), option(wire.OPT_LIST))
    expect((await talk(port, injected).closed).length).toBe(GREETING)
    expect(await ends[0]).toBe(undefined)
    const startTls = tlsClient({
      pskCallback: () => ({ psk, identity: 'a' }),
      ciphers: 'PSK',
      checkServerIdentity: () => undefined,
    })
    const client = await NbdClient.connect('nbds', () => dial({ host: '127.0.0.1', port }), {
      exportName: 'two',
      startTls,
    })
    closers.push(() => client.close())
    expect(client.size).toBe(2 * MiB)
  })

  test('CVE-2024-7409: a client that never chooses is let go', async () => {
    const { port, ends } = await serve({ handshakeSeconds: 0.05 })
    const idle = talk(port, hello)
    expect((await idle.closed).length).toBe(GREETING)
    await ends[0]
    const client = await connect(port)
    await new Promise((resolve) => setTimeout(resolve, 100))
    await client.read(0, bytesVec(new Uint8Array(512)))
  })
})

describe('clients', () => {
  const reply = (asked: number, type: number, data: Uint8Array = new Uint8Array()) =>
    wire.join(wire.pack([8, wire.OPTION_REPLY_MAGIC], [4, asked], [4, type], [4, data.length]), data)
  const context = wire.join(wire.pack([4, 5]), wire.utf8('base:allocation'))
  const accepted = wire.join(
    wire.pack([8, wire.INIT_MAGIC], [8, wire.OPTION_MAGIC], [2, 3]),
    reply(wire.OPT_STRUCTURED_REPLY, wire.REP_ACK),
    reply(wire.OPT_SET_META_CONTEXT, wire.REP_META_CONTEXT, context),
    reply(wire.OPT_SET_META_CONTEXT, wire.REP_ACK),
    reply(wire.OPT_GO, wire.REP_INFO, wire.pack([2, wire.INFO_EXPORT], [8, MiB], [2, 1])),
    reply(wire.OPT_GO, wire.REP_ACK),
  )
  const chunk = (type: number, cookie: number, body: Uint8Array) =>
    wire.join(wire.pack([4, wire.STRUCTURED_REPLY_MAGIC], [2, 1], [2, type], [8, cookie], [4, body.length]), body)

  /** A server that accepts and answers the first request with these bytes. */
  const answering = (bytes: Uint8Array) =>
    listen((socket) => {
      let seen = 0
      socket.write(accepted)
      socket.on('data', (piece) => {
        seen += piece.indexOf(Buffer.from([0x25, 0x60, 0x95, 0x13])) < 0 ? 0 : 1
        if (seen === 1) socket.write(bytes)
      })
    })

  test.each([
    [
      'CVE-2019-14842: data for no part of the request',
      chunk(wire.REPLY_OFFSET_DATA, 1, wire.join(wire.pack([8, 2 ** 40]), new Uint8Array(64))),
    ],
    ['CVE-2021-20286: a reply to no request', chunk(wire.REPLY_NONE, 99, new Uint8Array())],
    ['a plain reply with the data of a structured read', wire.pack([4, wire.SIMPLE_REPLY_MAGIC], [4, 0], [8, 1])],
  ])('%s loses the connection with an error, and no memory is touched', async (_, bytes) => {
    const client = await connect(await answering(bytes), '')
    const target = new Uint8Array(512).fill(0xaa)
    await expect(client.read(0, bytesVec(target))).rejects.toMatchObject({ code: 'EIO' })
    expect(target.every((byte) => byte === 0xaa)).toBe(true)
  })

  test.each([
    ['CVE-2023-5871: an empty run', wire.pack([4, 5], [4, 0], [4, 0])],
    ['no run', wire.pack([4, 5])],
    ['half a run', wire.pack([4, 5], [4, 512])],
  ])('a block status of %s is an error, not an endless loop', async (_, body) => {
    const client = await connect(await answering(chunk(wire.REPLY_BLOCK_STATUS, 1, body)), '')
    await expect(Promise.resolve(client.status(0, MiB))).rejects.toThrow()
  })

  test('a block status of more than was asked is cut to the disk', async () => {
    const body = wire.pack([4, 5], [4, 0xffff_ffff], [4, 3])
    const client = await connect(await answering(chunk(wire.REPLY_BLOCK_STATUS, 1, body)), '')
    expect(await client.status(0, MiB)).toEqual({ length: MiB, kind: 'hole' })
  })
})
