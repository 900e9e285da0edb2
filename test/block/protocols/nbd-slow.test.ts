/** A client that sends no more and takes its last reply slowly. */
import fs from 'node:fs'
import net from 'node:net'
import { afterAll, afterEach, expect, test, vi } from 'vitest'
import { asDevice } from '../../../src/block/device.ts'
import { serveNbd } from '../../../src/block/protocols/nbd/server.ts'
import * as wire from '../../../src/block/protocols/nbd/wire.ts'
import { openFile } from '../../../src/block/protocols/node/files.ts'
import { SocketStream } from '../../../src/block/protocols/node/tcp.ts'
import { temporaryFolder } from '../../tools.ts'

const MiB = 1 << 20
const READS = 8
const GREETING = 18 + 10
const folder = temporaryFolder()
const closers: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
  vi.useRealTimers()
})
afterAll(() => folder.remove())
const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

test('the last reply, forwarded from a file, has as much time as those before', async () => {
  const image = folder.file('image')
  fs.writeFileSync(image, Buffer.alloc(MiB, 7))
  const device = asDevice(await openFile(image))
  closers.push(() => device.close())
  const path = folder.file('socket')
  let served = false
  const server = net.createServer((socket) => {
    void serveNbd(new SocketStream(socket, 'client'), { exports: [{ name: '', device }] }).then(() => {
      served = true
    })
  })
  await new Promise<void>((resolve) => server.listen(path, resolve))
  closers.push(() => server.close())
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] })
  const client = net.connect({ path, allowHalfOpen: true })
  closers.push(() => client.destroy())
  const option = wire.join(wire.pack([8, wire.OPTION_MAGIC], [4, wire.OPT_EXPORT_NAME], [4, 0]))
  const read = wire.pack([4, wire.REQUEST_MAGIC], [2, 0], [2, wire.CMD_READ], [8, 1], [8, 0], [4, MiB])
  client.write(wire.join(wire.pack([4, 3]), option, ...Array.from({ length: READS }, () => read)))
  client.end()
  let length = 0
  let ended = false
  client.on('end', () => {
    ended = true
  })
  while (!served && !ended) {
    length += (client.read() as Buffer | null)?.length ?? 0
    for (let i = 0; i < 10; i++) await turn()
  }
  vi.advanceTimersByTime(5000)
  for (let i = 0; i < 20; i++) await turn()
  client.on('data', (piece) => {
    length += piece.length
  })
  while (!ended) await turn()
  expect(length).toBe(GREETING + READS * (16 + MiB))
})
