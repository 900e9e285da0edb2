/** Clients of an NBD server that send no more, on sockets as they are: what they still take they get, and those that take nothing go. */
import net from 'node:net'
import { afterAll, afterEach, expect, test, vi } from 'vitest'
import { asDevice } from '../../../src/block/device.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { serveNbd } from '../../../src/block/protocols/nbd/server.ts'
import * as wire from '../../../src/block/protocols/nbd/wire.ts'
import { SocketStream, tlsServer } from '../../../src/block/protocols/node/tcp.ts'
import type { ByteStream } from '../../../src/block/protocols/stream.ts'
import { temporaryFolder } from '../../tools.ts'

const MiB = 1 << 20
const READS = 8
const GREETING = 18 + 10
const folder = temporaryFolder()
const closers: (() => unknown)[] = []
afterEach(() => {
  for (const close of closers.splice(0).reverse()) close()
  vi.useRealTimers()
})
afterAll(() => folder.remove())

let count = 0
const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

/** A client that asks for more than sockets hold, and then ends its half of the connection. */
async function halfOpen(hastens: boolean) {
  const path = folder.file(`${count++}`)
  const device = asDevice(new Memory(READS * MiB))
  let ended: string | undefined | null = null
  const server = net.createServer((socket) => {
    const stream = new SocketStream(socket, 'client')
    if (!hastens) Object.defineProperty(stream, 'hasten', { value: undefined })
    void serveNbd(stream, { exports: [{ name: '', device }] }).then((why) => {
      ended = why
    })
  })
  await new Promise<void>((resolve) => server.listen(path, resolve))
  closers.push(() => server.close())
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
  const client = net.connect({ path, allowHalfOpen: true })
  closers.push(() => client.destroy())
  const option = wire.join(wire.pack([8, wire.OPTION_MAGIC], [4, wire.OPT_EXPORT_NAME], [4, 0]))
  const read = (at: number) =>
    wire.pack([4, wire.REQUEST_MAGIC], [2, 0], [2, wire.CMD_READ], [8, at], [8, at * MiB], [4, MiB])
  client.write(wire.join(wire.pack([4, 3]), option, ...Array.from({ length: READS }, (_, at) => read(at))))
  client.end()
  while (vi.getTimerCount() === 0) await turn()
  return { client, ended: () => ended }
}

/** Lets the longest time pass that a stream waits for a client which takes nothing. */
async function patience(): Promise<void> {
  for (let i = 0; i < 20; i++) await turn()
  vi.advanceTimersByTime(10_000)
}

test.each([
  ['by system calls', true],
  ['by Node', false],
])('one that takes nothing is let go after a while (%s)', async (_, hastens) => {
  const { ended } = await halfOpen(hastens)
  await patience()
  expect(ended()).toBe(null)
  await patience()
  while (ended() === null) await turn()
  expect(vi.getTimerCount()).toBe(0)
})

test.each([
  ['by system calls', true],
  ['by Node', false],
])('one that takes a little at a time gets all of it (%s)', async (_, hastens) => {
  const { client, ended } = await halfOpen(hastens)
  let length = 0
  let waited = 0
  while (length < GREETING + READS * (16 + MiB)) {
    const piece: Buffer | null = client.read()
    if (piece === null) await new Promise((resolve) => client.once('readable', resolve))
    length += piece?.length ?? 0
    if (Math.floor(length / MiB) === waited) continue
    waited++
    await patience()
  }
  expect(length).toBe(GREETING + READS * (16 + MiB))
  expect(waited).toBe(READS)
  while (ended() === null) await turn()
})

test.each([
  ['by system calls', true],
  ['by Node', false],
])('one that takes less than makes room for more is no less alive (%s)', async (_, hastens) => {
  const { client, ended } = await halfOpen(hastens)
  await patience()
  for (let round = 0; round < 3; round++) {
    for (let length = 0; length < 64 << 10; ) {
      const piece: Buffer | null = client.read()
      if (piece === null) await new Promise((resolve) => client.once('readable', resolve))
      length += piece?.length ?? 0
    }
    await patience()
  }
  for (let i = 0; i < 20; i++) await turn()
  expect(ended()).toBe(null)
})

test.each([
  ['before it is there', true],
  ['after that', false],
])('one that asks for TLS and sends no more leaves nothing behind (%s)', async (_, before) => {
  const path = folder.file(`${count++}`)
  let ended = false
  let accepted: net.Socket | undefined
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] })
  const server = net.createServer((socket) => {
    accepted = socket
    const startTls = async (stream: ByteStream) => {
      for (let i = 0; before && i < 20; i++) await turn()
      return tlsServer({})(stream)
    }
    void serveNbd(new SocketStream(socket, 'client'), { exports: [], startTls }).then(() => {
      ended = true
    })
  })
  await new Promise<void>((resolve) => server.listen(path, resolve))
  closers.push(() => server.close())
  const client = net.connect({ path, allowHalfOpen: true })
  closers.push(() => client.destroy())
  client.resume()
  client.write(wire.join(wire.pack([4, 1]), wire.pack([8, wire.OPTION_MAGIC], [4, wire.OPT_STARTTLS], [4, 0])))
  if (!before) for (let i = 0; i < 50; i++) await turn()
  client.end()
  for (let second = 0; second < 30; second++) {
    for (let i = 0; i < 20; i++) await turn()
    vi.advanceTimersByTime(1000)
  }
  for (let i = 0; i < 20; i++) await turn()
  expect([ended, accepted?.destroyed, vi.getTimerCount()]).toEqual([true, true, 0])
})
