/** The NBD protocol (proto.md): our client against our server, and raw bytes against each. */
import net from 'node:net'
import { afterEach, describe, expect, test } from 'vitest'
import { asDevice, type BlockDriver } from '../../../src/block/device.ts'
import { BlockError } from '../../../src/block/error.ts'
import { Overlay } from '../../../src/block/filters/overlay.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { NbdClient, type NbdClientOptions } from '../../../src/block/protocols/nbd/client.ts'
import { listExports } from '../../../src/block/protocols/nbd/negotiate.ts'
import { type NbdExport, serveNbd } from '../../../src/block/protocols/nbd/server.ts'
import { parseNbdUri } from '../../../src/block/protocols/nbd/uri.ts'
import * as wire from '../../../src/block/protocols/nbd/wire.ts'
import { dial, SocketStream } from '../../../src/block/protocols/node/tcp.ts'

const MiB = 1 << 20
const closers: (() => unknown)[] = []

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

async function listen(accept: (socket: net.Socket) => void): Promise<number> {
  const server = net.createServer(accept)
  const sockets = new Set<net.Socket>()
  server.on('connection', (socket) => sockets.add(socket))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  closers.push(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return (server.address() as net.AddressInfo).port
}

async function serve(exports: NbdExport[]): Promise<{ port: number; ends: Promise<string | undefined>[] }> {
  const ends: Promise<string | undefined>[] = []
  const port = await listen((socket) => ends.push(serveNbd(new SocketStream(socket, 'client'), { exports })))
  return { port, ends }
}

async function connect(port: number, exportName = '', options: NbdClientOptions = {}): Promise<NbdClient> {
  const client = await NbdClient.connect('nbd', () => dial({ host: '127.0.0.1', port }), { exportName }, options)
  closers.push(() => client.close())
  return client
}

/** Sends raw bytes and collects what comes back until the peer is done or `until` bytes are there. */
async function raw(
  port: number,
  ...pieces: Uint8Array[]
): Promise<{ until(length: number): Promise<Buffer>; closed: Promise<void> }> {
  const socket = net.connect(port, '127.0.0.1')
  closers.push(() => socket.destroy())
  let got = Buffer.alloc(0)
  let wake = () => {}
  socket.on('data', (piece) => {
    got = Buffer.concat([got, piece])
    wake()
  })
  socket.on('error', () => {})
  const closed = new Promise<void>((resolve) => socket.on('close', () => resolve()))
  for (const piece of pieces) socket.write(piece)
  return {
    closed,
    until: async (length) => {
      while (got.length < length) await new Promise<void>((resolve) => (wake = resolve))
      return got
    },
  }
}

const pattern = (length: number, seed = 1) => {
  const bytes = new Uint8Array(length)
  for (let i = 0; i < length; i++) bytes[i] = i * 7 + seed * 13 + (i >> 8)
  return bytes
}

describe('client and server', () => {
  test('carry reads, writes, zeroes, trims and flushes', async () => {
    const memory = new Memory(4 * MiB)
    const { port } = await serve([{ name: 'disk', device: asDevice(memory) }])
    const client = asDevice(await connect(port, 'disk'))
    expect(client.size).toBe(4 * MiB)
    const bytes = pattern(100_000)
    await client.write(12345, bytesVec(bytes), { fua: true })
    const back = new Uint8Array(100_000)
    await client.read(12345, bytesVec(back.subarray(0, 30_000), back.subarray(30_000)))
    expect(Buffer.compare(back, bytes)).toBe(0)
    await client.zero(12345, 50_000)
    await client.discard(2 * MiB, MiB)
    await client.flush()
    await client.read(12345, bytesVec(back))
    expect(back.subarray(0, 50_000).every((byte) => byte === 0)).toBe(true)
    expect(Buffer.compare(back.subarray(50_000), bytes.subarray(50_000))).toBe(0)
  })

  test('keep many requests in flight and match replies that come in another order', async () => {
    const content = pattern(MiB)
    const memory = Memory.from(content)
    let release = () => {}
    const others = new Promise<void>((resolve) => {
      release = resolve
    })
    const slow: BlockDriver = {
      name: 'slow',
      size: MiB,
      read: async (at, into) => {
        if (at === 0) await others
        memory.read(at, into)
      },
    }
    const { port } = await serve([{ name: '', device: asDevice(slow) }])
    const client = await connect(port)
    const order: number[] = []
    const targets = Array.from({ length: 64 }, () => new Uint8Array(4096))
    await Promise.all(
      targets.map(async (target, i) => {
        await client.read(i * 4096, bytesVec(target))
        order.push(i)
        if (order.length === targets.length - 1) release()
      }),
    )
    expect(order.at(-1)).toBe(0)
    expect(Buffer.compare(Buffer.concat(targets), content.subarray(0, 64 * 4096))).toBe(0)
  })

  test('split what is larger than the largest payload', async () => {
    const size = wire.MAX_PAYLOAD + MiB
    const memory = new Memory(size)
    const { port } = await serve([{ name: '', device: asDevice(memory) }])
    const client = await connect(port)
    const bytes = pattern(size)
    await client.write(0, bytesVec(bytes))
    const back = new Uint8Array(size)
    await client.read(0, bytesVec(back))
    expect(Buffer.compare(back, bytes)).toBe(0)
  })

  test('tell data from holes by base:allocation', async () => {
    const memory = new Memory(4 * MiB)
    memory.write(MiB, bytesVec(pattern(MiB)))
    const { port } = await serve([{ name: '', device: asDevice(memory) }])
    const client = await connect(port)
    expect(await client.status(0, 4 * MiB)).toEqual({ length: MiB, kind: 'hole' })
    expect(await client.status(MiB, 3 * MiB)).toEqual({ length: MiB, kind: 'data' })
    await client.write(0, bytesVec(pattern(4096)))
    expect((await client.status(0, 4 * MiB)).kind).toBe('data')
  })

  test('see through the holes of an image what its backing layer has', async () => {
    const base = Memory.from(new Uint8Array(MiB).fill(5))
    const over = new Overlay(asDevice(base), asDevice(new Memory(0)))
    const { port } = await serve([{ name: '', device: asDevice(over) }])
    const client = await connect(port)
    expect(await client.status(0, MiB)).toEqual({ length: MiB, kind: 'data' })
    await client.write(65536, bytesVec(new Uint8Array(4096).fill(6)))
    const back = new Uint8Array(MiB)
    await client.read(0, bytesVec(back))
    expect([back[0], back[65536], back[MiB - 1]]).toEqual([5, 6, 5])
  })

  test('carry the errno of a failed request, and go on after it', async () => {
    const failing: BlockDriver = {
      name: 'failing',
      size: MiB,
      read: (at) => {
        if (at >= 4096) throw new BlockError('ENOSPC', 'no room at all')
      },
      write: () => Promise.reject(new BlockError('EIO', 'the disk is gone')),
    }
    const { port } = await serve([{ name: '', device: asDevice(failing) }])
    const client = await connect(port)
    const target = bytesVec(new Uint8Array(512))
    await expect(client.read(4096, target)).rejects.toMatchObject({ code: 'ENOSPC', message: /no room at all/ })
    await expect(client.write(0, target)).rejects.toMatchObject({ code: 'EIO' })
    await client.read(0, target)
  })

  test('know exports by name, list them, and refuse the unknown', async () => {
    const device = asDevice(new Memory(MiB))
    const { port } = await serve([
      { name: 'a', device, description: 'first' },
      { name: 'b', device, readOnly: true },
    ])
    expect(await listExports(await dial({ host: '127.0.0.1', port }))).toMatchObject([
      { name: 'a', description: 'first' },
      { name: 'b', description: '' },
    ])
    expect((await connect(port, 'a')).description).toBe('first')
    expect((await connect(port, 'b')).readOnly).toBe(true)
    await expect(connect(port, 'c')).rejects.toMatchObject({ code: 'ENOENT', message: /no export 'c'/ })
    await expect(connect(port, 'b', { readOnly: false })).rejects.toMatchObject({ code: 'EROFS' })
  })

  test('refuse a write to a read-only export even from a client that ignores the flag', async () => {
    const { port } = await serve([{ name: '', device: asDevice(new Memory(MiB)), readOnly: true }])
    const client = await connect(port)
    await expect(client.write(0, bytesVec(new Uint8Array(512)))).rejects.toMatchObject({ code: 'EPERM' })
  })
})

describe('reconnect', () => {
  test('inside reconnectDelay replays what was in flight on a new connection', async () => {
    const memory = new Memory(MiB)
    const sockets: net.Socket[] = []
    let gate = () => {}
    const held: BlockDriver = {
      name: 'held',
      size: MiB,
      read: (at, into) => memory.read(at, into),
      write: async (at, from) => {
        if (sockets.length === 1) await new Promise<void>((resolve) => (gate = resolve))
        memory.write(at, from)
      },
    }
    const port = await listen((socket) => {
      sockets.push(socket)
      void serveNbd(new SocketStream(socket, 'client'), { exports: [{ name: '', device: asDevice(held) }] })
    })
    const client = await connect(port, '', { reconnectDelay: 10 })
    const written = client.write(512, bytesVec(pattern(512)))
    await new Promise((resolve) => setTimeout(resolve, 50))
    sockets[0]!.destroy()
    await written
    gate()
    const back = new Uint8Array(512)
    await client.read(512, bytesVec(back))
    expect(back).toEqual(pattern(512))
    expect(sockets.length).toBe(2)
  })

  test('writes again what was not flushed and a server that died has lost', async () => {
    const stable = new Memory(MiB)
    /** What is written is lost with the connection, but for what was flushed. */
    const volatile = () => {
      let cached: { at: number; bytes: Uint8Array }[] = []
      const content = new Uint8Array(MiB)
      stable.read(0, bytesVec(content))
      const memory = Memory.from(content)
      const driver: BlockDriver = {
        name: 'volatile',
        size: MiB,
        read: (at, into) => memory.read(at, into),
        write: (at, from) => {
          const bytes = from.gather()
          cached.push({ at, bytes })
          memory.write(at, bytesVec(bytes))
        },
        flush: () => {
          for (const { at, bytes } of cached) stable.write(at, bytesVec(bytes))
          cached = []
        },
      }
      return asDevice(driver)
    }
    const sockets: net.Socket[] = []
    const port = await listen((socket) => {
      sockets.push(socket)
      void serveNbd(new SocketStream(socket, 'client'), { exports: [{ name: '', device: volatile() }] })
    })
    const client = await connect(port, '', { reconnectDelay: 30 })
    await client.write(0, bytesVec(pattern(4096, 1)), { fua: true })
    await client.write(0, bytesVec(pattern(4096, 2)))
    await client.write(2048, bytesVec(pattern(4096, 3)))
    await client.write(8192, bytesVec(pattern(512, 4)))
    sockets.at(-1)!.destroy()
    const back = new Uint8Array(512)
    await client.read(2048, bytesVec(back))
    expect(Buffer.compare(back, pattern(512, 3))).toBe(0)
    await client.flush()
    const kept = (at: number, length: number) => {
      const bytes = new Uint8Array(length)
      stable.read(at, bytesVec(bytes))
      return bytes
    }
    expect(Buffer.compare(kept(0, 2048), pattern(4096, 2).subarray(0, 2048))).toBe(0)
    expect(Buffer.compare(kept(2048, 4096), pattern(4096, 3))).toBe(0)
    expect(Buffer.compare(kept(8192, 512), pattern(512, 4))).toBe(0)
    expect(sockets.length).toBe(2)
  })

  test.each([
    ['write', (client: NbdClient) => client.write(1024, bytesVec(pattern(2048, 2)), { fua: true }), pattern(2048, 2)],
    ['zeroing', (client: NbdClient) => client.zero(1024, 2048), new Uint8Array(2048)],
  ] as const)('does not bring back what a later %s, durable or not, had replaced', async (_, change, expected) => {
    const device = asDevice(new Memory(MiB))
    const sockets: net.Socket[] = []
    const port = await listen((socket) => {
      sockets.push(socket)
      void serveNbd(new SocketStream(socket, 'client'), { exports: [{ name: '', device }] })
    })
    const client = await connect(port, '', { reconnectDelay: 30 })
    await client.write(0, bytesVec(pattern(4096, 1)))
    await change(client)
    sockets.at(-1)!.destroy()
    const back = new Uint8Array(4096)
    await client.read(0, bytesVec(back))
    const model = pattern(4096, 1)
    model.set(expected, 1024)
    expect(Buffer.compare(back, model)).toBe(0)
    expect(sockets.length).toBe(2)
  })

  test('keeps no more unflushed writes than fit its memory: it flushes by itself', async () => {
    let flushes = 0
    const memory = new Memory(64 * MiB)
    const device = asDevice({
      name: 'counted',
      size: memory.size,
      read: (at, into) => memory.read(at, into),
      write: (at, from) => memory.write(at, from),
      flush: () => void flushes++,
    })
    const { port } = await serve([{ name: '', device }])
    const client = await connect(port, '', { reconnectDelay: 30 })
    const bytes = bytesVec(new Uint8Array(4 * MiB))
    for (let i = 0; i < 12; i++) await client.write(i * 4 * MiB, bytes)
    await client.read(0, bytesVec(new Uint8Array(512)))
    expect(flushes).toBe(1)
  })

  test('without it every request fails at once, and later ones too', async () => {
    const sockets: net.Socket[] = []
    const never: BlockDriver = { name: 'never', size: MiB, read: () => new Promise(() => {}) }
    const port = await listen((socket) => {
      sockets.push(socket)
      void serveNbd(new SocketStream(socket, 'client'), { exports: [{ name: '', device: asDevice(never) }] })
    })
    const client = await connect(port)
    const read = client.read(0, bytesVec(new Uint8Array(512)))
    await new Promise((resolve) => setTimeout(resolve, 20))
    sockets[0]!.destroy()
    await expect(read).rejects.toMatchObject({ code: 'ECONNRESET' })
    await expect(client.read(0, bytesVec(new Uint8Array(512)))).rejects.toBeInstanceOf(BlockError)
  })
})

describe('a hostile client', () => {
  const hello = wire.pack([4, 3])
  const option = (type: number, data: Uint8Array, length = data.length) =>
    wire.join(wire.pack([8, wire.OPTION_MAGIC], [4, type], [4, length]), data)
  const go = option(wire.OPT_GO, wire.join(wire.packString(''), wire.pack([2, 0])))
  const request = (command: number, at: number | bigint, length: number, flags = 0) =>
    wire.pack([4, wire.REQUEST_MAGIC], [2, flags], [2, command], [8, 1], [8, at], [4, length])
  const AFTER_GO = 18 + (20 + 14) + (20 + 12) + 20

  test('CVE-2017-15118: an export name longer than the protocol allows is an error reply, not a crash', async () => {
    const { port } = await serve([{ name: '', device: asDevice(new Memory(MiB)) }])
    const name = new Uint8Array(4097).fill(0x41)
    const info = wire.join(wire.pack([4, name.length]), name, wire.pack([2, 0]))
    const talk = await raw(port, hello, option(wire.OPT_INFO, info), go)
    const got = await talk.until(18 + 20)
    expect(got.readUInt32BE(18 + 12)).toBe(wire.REP_ERR_INVALID)
  })

  test('an option that claims more than it may is skipped and answered with NBD_REP_ERR_TOO_BIG', async () => {
    const { port } = await serve([{ name: '', device: asDevice(new Memory(MiB)) }])
    const talk = await raw(port, hello, option(99, new Uint8Array(70_000)), go)
    const got = await talk.until(18 + 20)
    expect(got.readUInt32BE(18 + 12)).toBe(wire.REP_ERR_TOO_BIG)
  })

  test.each([
    ['past the end', request(wire.CMD_READ, MiB - 100, 512)],
    ['at an offset near 2^64', request(wire.CMD_READ, 0xffff_ffff_ffff_fe00n, 512)],
    ['of an unknown type', request(77, 0, 0)],
    ['with unknown flags', request(wire.CMD_FLUSH, 0, 0, 0x8000)],
    ['for the status without a context', request(wire.CMD_BLOCK_STATUS, 0, 512)],
    ['for more than the largest payload', request(wire.CMD_READ, 0, 0xffff_ffff)],
  ])('a request %s is answered with EINVAL and the connection goes on', async (_, bad) => {
    const { port } = await serve([{ name: '', device: asDevice(new Memory(MiB)) }])
    const talk = await raw(port, hello, go, bad, request(wire.CMD_READ, 0, 16))
    const got = await talk.until(AFTER_GO + 16 + 16 + 16)
    expect(got.readUInt32BE(AFTER_GO)).toBe(wire.SIMPLE_REPLY_MAGIC)
    expect(got.readUInt32BE(AFTER_GO + 4)).toBe(22)
    expect(got.readUInt32BE(AFTER_GO + 16 + 4)).toBe(0)
  })

  test('a wrong request magic, or a write larger than can be skipped, ends the connection', async () => {
    const { port, ends } = await serve([{ name: '', device: asDevice(new Memory(MiB)) }])
    await (await raw(port, hello, go, new Uint8Array(28))).closed
    await (await raw(port, hello, go, request(wire.CMD_WRITE, 0, 0xffff_ffff))).closed
    expect(await Promise.all(ends)).toEqual([expect.stringMatching(/magic/), expect.stringMatching(/4294967295/)])
  })
})

describe('a hostile server', () => {
  const greeting = wire.pack([8, wire.INIT_MAGIC], [8, wire.OPTION_MAGIC], [2, 3])
  const reply = (option: number, type: number, data: Uint8Array = new Uint8Array()) =>
    wire.join(wire.pack([8, wire.OPTION_REPLY_MAGIC], [4, option], [4, type], [4, data.length]), data)
  const info = (size: bigint) => wire.pack([2, wire.INFO_EXPORT], [8, size], [2, 1])

  function accepted(size = BigInt(MiB)): Uint8Array {
    return wire.join(
      greeting,
      reply(wire.OPT_STRUCTURED_REPLY, wire.REP_ACK),
      reply(wire.OPT_SET_META_CONTEXT, wire.REP_ACK),
      reply(wire.OPT_GO, wire.REP_INFO, info(size)),
      reply(wire.OPT_GO, wire.REP_ACK),
    )
  }

  test.each([
    ['does not speak NBD', wire.pack([8, 1], [8, 2]), /not an NBD server/],
    ['tells a size past 2^53', accepted(1n << 60n), /1152921504606846976 bytes/],
    [
      'sends an endless option reply',
      wire.join(greeting, wire.pack([8, wire.OPTION_REPLY_MAGIC], [4, 8], [4, 1], [4, 0xffff_ffff])),
      /4294967295 bytes/,
    ],
  ])('that %s is refused', async (_, bytes, message) => {
    const port = await listen((socket) => void socket.write(bytes))
    await expect(connect(port)).rejects.toThrow(message)
  })

  test.each([
    ['data outside of the request', [wire.REPLY_OFFSET_DATA, wire.join(wire.pack([8, 4096]), new Uint8Array(512))]],
    ['a hole outside of the request', [wire.REPLY_OFFSET_HOLE, wire.pack([8, 0], [4, 0xffff_ffff])]],
    ['an unknown chunk', [77, new Uint8Array(3)]],
  ] as const)('that sends %s loses the connection, and memory stays untouched', async (_, [type, body]) => {
    const chunk = wire.join(
      wire.pack([4, wire.STRUCTURED_REPLY_MAGIC], [2, 1], [2, type], [8, 1], [4, body.length]),
      body,
    )
    const port = await listen((socket) => {
      socket.write(accepted())
      setTimeout(() => socket.write(chunk), 50)
    })
    const client = await connect(port)
    const target = new Uint8Array(512).fill(0xaa)
    await expect(client.read(0, bytesVec(target))).rejects.toMatchObject({ code: 'EIO' })
    expect(target.every((byte) => byte === 0xaa)).toBe(true)
  })

  test('that says done before all the data came fails the read', async () => {
    const chunk = wire.pack([4, wire.STRUCTURED_REPLY_MAGIC], [2, 1], [2, wire.REPLY_NONE], [8, 1], [4, 0])
    const port = await listen((socket) => {
      socket.write(accepted())
      setTimeout(() => socket.write(chunk), 50)
    })
    const client = await connect(port)
    await expect(client.read(0, bytesVec(new Uint8Array(512)))).rejects.toThrow(/sent 0 of 512 bytes/)
  })
})

describe('NBD URIs', () => {
  test.each([
    ['nbd://h', { socket: { host: 'h', port: 10809 }, exportName: '', tls: false }],
    ['nbd://h:80/a%20b', { socket: { host: 'h', port: 80 }, exportName: 'a b', tls: false }],
    ['nbds://[::1]:7/x', { socket: { host: '::1', port: 7 }, exportName: 'x', tls: true }],
    ['nbd+unix:///x?socket=/s', { socket: { path: '/s' }, exportName: 'x', tls: false }],
    ['nbd:h:7:exportname=x', { socket: { host: 'h', port: 7 }, exportName: 'x', tls: false }],
    ['nbd:unix:/s', { socket: { path: '/s' }, exportName: '', tls: false }],
  ])('%s', (uri, parts) => {
    expect(parseNbdUri(uri)).toMatchObject(parts)
  })

  test.each(['nbd+unix:///x', 'nbd://h?bogus=1', 'http://h', 'nbd:h'])('%s is refused', (uri) => {
    expect(() => parseNbdUri(uri)).toThrow(BlockError)
  })
})
