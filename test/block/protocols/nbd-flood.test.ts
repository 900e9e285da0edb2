/** Clients of an NBD server that send requests and take no replies: what they cost has an end. */
import { expect, test } from 'vitest'
import { asDevice } from '../../../src/block/device.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { serveNbd } from '../../../src/block/protocols/nbd/server.ts'
import * as wire from '../../../src/block/protocols/nbd/wire.ts'
import { Room } from '../../../src/block/protocols/room.ts'
import type { ByteStream } from '../../../src/block/protocols/stream.ts'

const HIGH_WATER = 64 << 10
const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

/** The server's end of a stream whose other end takes nothing before it is told to. */
class Unread implements ByteStream {
  readonly peer = 'client'
  onData: (piece: Uint8Array) => void = () => {}
  onEnd: (error?: Error) => void = () => {}
  readonly #room = new Room()
  #pieces: Uint8Array[] = []
  bytes = 0
  paused = false

  write(pieces: readonly Uint8Array[], sent?: () => void): void | Promise<void> {
    for (const piece of pieces) {
      this.#pieces.push(piece.slice())
      this.bytes += piece.length
    }
    sent?.()
    if (this.bytes > HIGH_WATER) return this.#room.wait()
  }

  /** Takes what was written. */
  take(): Uint8Array {
    const all = wire.join(...this.#pieces)
    this.#pieces = []
    this.bytes = 0
    this.#room.make()
    return all
  }

  pause(paused: boolean): void {
    this.paused = paused
  }

  close(): void {}
}

const option = (type: number, data: Uint8Array = new Uint8Array()) =>
  wire.join(wire.pack([8, wire.OPTION_MAGIC], [4, type], [4, data.length]), data)
const go = option(wire.OPT_GO, wire.join(wire.packString('one'), wire.pack([2, 0])))
const request = (command: number, length: number, cookie: number) =>
  wire.pack([4, wire.REQUEST_MAGIC], [2, 0], [2, command], [8, cookie], [8, 0], [4, length])

async function connect(...options: Uint8Array[]) {
  const stream = new Unread()
  const ended = serveNbd(stream, { exports: [{ name: 'one', device: asDevice(new Memory(1 << 20)) }] })
  await turn()
  stream.onData(wire.join(wire.pack([4, 3]), ...options, go))
  await turn()
  stream.take()
  return { stream, ended }
}

const SIMPLE = 16
const PIECE = 1000
const LAST = 7777
const PIECES = 100

test.each([
  ['requests of an unknown command', 99, 0],
  ['reads of more than a request may have', wire.CMD_READ, 0x7fff_ffff],
  ['reads past the end', wire.CMD_READ, 2 << 20],
  ['flushes', wire.CMD_FLUSH, 0],
])('%s are taken no more once their replies are not, and again when they are', async (_, command, length) => {
  const { stream, ended } = await connect()
  const many = wire.join(...Array.from({ length: PIECE }, (_, i) => request(command, length, i)))
  let pieces = 0
  for (; pieces < PIECES && !stream.paused; pieces++) {
    stream.onData(many.slice())
    await turn()
  }
  expect(pieces).toBeLessThan(PIECES)
  // 128 requests may be in flight
  expect(stream.bytes).toBeLessThan(HIGH_WATER + 130 * SIMPLE)

  stream.onData(request(wire.CMD_READ, 0, LAST))
  const replies = (pieces * PIECE + 1) * SIMPLE
  let got: Uint8Array = new Uint8Array()
  for (let i = 0; i < PIECES && got.length < replies; i++) {
    got = wire.join(got, stream.take())
    await turn()
  }
  expect(got.length).toBe(replies)
  expect(stream.paused).toBe(false)
  const view = wire.viewOf(got)
  const errors = new Map<number, number>()
  let last: number | undefined
  for (let at = 0; at < replies; at += SIMPLE) {
    const error = view.getUint32(at + 4)
    if (view.getBigUint64(at + 8) === BigInt(LAST)) last = error
    else errors.set(error, (errors.get(error) ?? 0) + 1)
  }
  expect(last).toBe(0)
  expect([...errors]).toEqual([[command === wire.CMD_FLUSH ? 0 : 22, pieces * PIECE]])
  stream.onData(request(wire.CMD_DISC, 0, 0))
  expect(await ended).toBe(undefined)
})

test('structured error replies count, too', async () => {
  const { stream } = await connect(option(wire.OPT_STRUCTURED_REPLY))
  const many = wire.join(...Array.from({ length: PIECE }, (_, i) => request(wire.CMD_READ, 0x7fff_ffff, i)))
  let pieces = 0
  for (; pieces < PIECES && !stream.paused; pieces++) {
    stream.onData(many.slice())
    await turn()
  }
  expect(pieces).toBeLessThan(PIECES)
  expect(stream.bytes).toBeLessThan(HIGH_WATER + 130 * 200)
})
