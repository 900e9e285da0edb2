/** Replies that go from the page cache into the socket: the same bytes as by reading, and none around a filter. */
import fs from 'node:fs'
import net from 'node:net'
import { afterAll, afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { asDevice, type BlockDevice } from '../../../src/block/device.ts'
import { Filter } from '../../../src/block/filter.ts'
import { bytesVec, type IoVec } from '../../../src/block/iovec.ts'
import { after, type Now } from '../../../src/block/now.ts'
import { createImage, openImage } from '../../../src/block/open.ts'
import { NbdClient } from '../../../src/block/protocols/nbd/client.ts'
import { serveNbd } from '../../../src/block/protocols/nbd/server.ts'
import * as wire from '../../../src/block/protocols/nbd/wire.ts'
import { FileDriver } from '../../../src/block/protocols/node/file.ts'
import { libc } from '../../../src/block/protocols/node/libc.ts'
import { dial, SocketStream } from '../../../src/block/protocols/node/tcp.ts'
import { temporaryFolder } from '../../tools.ts'

const MiB = 1 << 20
const folder = temporaryFolder()
const closers: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
  vi.restoreAllMocks()
})
afterAll(() => folder.remove())

/** Bytes that tell where they are. */
function numbered(length: number, from = 0): Buffer {
  const bytes = Buffer.alloc(length)
  for (let at = 0; at < length; at += 4) bytes.writeUInt32LE(from + at, at)
  return bytes
}

async function serve(device: BlockDevice, path: string): Promise<void> {
  const server = net.createServer(
    (socket) => void serveNbd(new SocketStream(socket, 'client'), { exports: [{ name: '', device }] }),
  )
  await new Promise<void>((resolve) => server.listen(path, resolve))
  closers.push(() => server.close())
}

async function connect(path: string): Promise<NbdClient> {
  const client = await NbdClient.connect('nbd', () => dial({ path }))
  closers.push(() => client.close())
  return client
}

const calls = libc()
const works = calls !== undefined && calls.cached(fs.openSync('/proc/self/exe', 'r'), 0, 4096) >= 0

describe.skipIf(!works)('a reply from the page cache', () => {
  let count = 0
  let socket = ''
  beforeEach(() => {
    socket = folder.file(`s${count++}`)
  })

  test('has the bytes of a raw file, without a read', async () => {
    const name = folder.file('raw')
    fs.writeFileSync(name, numbered(4 * MiB))
    const device = await openImage(name, { format: 'raw', readOnly: true })
    closers.push(() => device.close())
    await serve(device, socket)
    const client = await connect(socket)
    const reads = vi.spyOn(FileDriver.prototype, 'read')
    const parts = Array.from({ length: 15 }, (_, i) => ({ at: i * 262_144 + 512, bytes: new Uint8Array(262_144) }))
    await Promise.all(parts.map(({ at, bytes }) => client.read(at, bytesVec(bytes))))
    for (const { at, bytes } of parts) expect(Buffer.compare(bytes, numbered(262_144, at))).toBe(0)
    expect(reads).not.toHaveBeenCalled()
  })

  test('has the bytes of a qcow2 image and of what is below it', async () => {
    const [base, top] = [folder.file('base.raw'), folder.file('top.qcow2')]
    fs.writeFileSync(base, numbered(2 * MiB))
    await createImage(top, 'qcow2', 2 * MiB, { backingFile: 'base.raw', backingFmt: 'raw' })
    const device = await openImage(top, { format: 'qcow2' })
    closers.push(() => device.close())
    const upper = new Uint8Array(MiB / 2).fill(7)
    await device.write(MiB, bytesVec(upper))
    await serve(device, socket)
    const client = await connect(socket)
    const bytes = new Uint8Array(2 * MiB)
    await client.read(0, bytesVec(bytes))
    const want = numbered(2 * MiB)
    want.set(upper, MiB)
    expect(Buffer.compare(bytes, want)).toBe(0)
  })

  test('is whole for a client that takes it slowly, and what follows is in order', async () => {
    const name = folder.file('slow')
    fs.writeFileSync(name, numbered(16 * MiB))
    const device = await openImage(name, { format: 'raw', readOnly: true })
    closers.push(() => device.close())
    await serve(device, socket)
    const client = net.connect(socket)
    closers.push(() => client.destroy())
    const option = wire.join(wire.pack([8, wire.OPTION_MAGIC], [4, wire.OPT_EXPORT_NAME], [4, 0]))
    client.write(wire.join(wire.pack([4, 3]), option))
    for (let i = 0; i < 16; i++)
      client.write(wire.pack([4, wire.REQUEST_MAGIC], [2, 0], [2, wire.CMD_READ], [8, i], [8, i * MiB], [4, MiB]))
    await new Promise((resolve) => setTimeout(resolve, 100))
    const greeting = 18 + 10
    let got = Buffer.alloc(0)
    const pieces: Buffer[] = []
    let length = 0
    while (length < greeting + 16 * (16 + MiB)) {
      const piece: Buffer | null = client.read(Math.min(client.readableLength, 300_000) || undefined)
      if (piece === null) await new Promise((resolve) => client.once('readable', resolve))
      else {
        pieces.push(piece)
        length += piece.length
      }
    }
    got = Buffer.concat(pieces).subarray(greeting)
    const seen = new Set<number>()
    for (let at = 0; at < got.length; at += 16 + MiB) {
      expect(got.readUInt32BE(at)).toBe(wire.SIMPLE_REPLY_MAGIC)
      const cookie = Number(got.readBigUInt64BE(at + 8))
      seen.add(cookie)
      expect(Buffer.compare(got.subarray(at + 16, at + 16 + MiB), numbered(MiB, cookie * MiB))).toBe(0)
    }
    expect(seen.size).toBe(16)
  })

  test('comes whole to a client that sends no more, and the server copies no long reply at once', async () => {
    const name = folder.file('half')
    fs.writeFileSync(name, numbered(16 * MiB))
    const device = await openImage(name, { format: 'raw', readOnly: true })
    closers.push(() => device.close())
    await serve(device, socket)
    const client = net.connect({ path: socket, allowHalfOpen: true })
    closers.push(() => client.destroy())
    const reads = vi.spyOn(FileDriver.prototype, 'read')
    const request = (type: number, length: number) =>
      wire.pack([4, wire.REQUEST_MAGIC], [2, 0], [2, type], [8, 1], [8, 0], [4, length])
    const option = wire.join(wire.pack([8, wire.OPTION_MAGIC], [4, wire.OPT_EXPORT_NAME], [4, 0]))
    client.write(wire.join(wire.pack([4, 3]), option))
    for (let i = 0; i < 3; i++) client.write(request(wire.CMD_READ, MiB))
    client.write(request(wire.CMD_READ, 8 * MiB))
    client.end()
    // The replies do not fit the socket when the server learns of the end.
    await new Promise((resolve) => setTimeout(resolve, 100))
    let length = 0
    for await (const piece of client) length += (piece as Buffer).length
    expect(length).toBe(18 + 10 + 4 * 16 + 11 * MiB)
    expect(reads).toHaveBeenCalledTimes(1)
  })

  test('does not go around a filter that changes what is read', async () => {
    class Inverted extends Filter {
      readonly name = 'inverted'
      override read(at: number, into: IoVec): Now<void> {
        return after(this.next.read(at, into), () => {
          for (const view of into.views()) for (let i = 0; i < view.length; i++) view[i]! ^= 0xff
        })
      }
    }
    const name = folder.file('filtered')
    fs.writeFileSync(name, numbered(MiB))
    const device = asDevice(new Inverted(await openImage(name, { format: 'raw', readOnly: true })))
    closers.push(() => device.close())
    await serve(device, socket)
    const client = await connect(socket)
    const bytes = new Uint8Array(MiB)
    await client.read(0, bytesVec(bytes))
    expect(
      Buffer.compare(
        bytes,
        numbered(MiB).map((byte) => byte ^ 0xff),
      ),
    ).toBe(0)
  })
})
