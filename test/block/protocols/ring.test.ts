import fs from 'node:fs'
import { afterAll, describe, expect, test } from 'vitest'
import { asDevice } from '../../../src/block/device.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { host } from '../../../src/block/protocols/node/index.ts'
import { ring, ringReason } from '../../../src/block/protocols/node/ring.ts'
import { kick } from '../../../src/block/turn.ts'
import { readBytes, same } from '../../conformance/driver.ts'
import { temporaryFolder } from '../../tools.ts'

const folder = temporaryFolder()
afterAll(() => folder.remove())
const content = new Uint8Array(1 << 20).map((_, i) => i ^ (i >> 8))
fs.writeFileSync(folder.file('image'), content)
const open = async () => asDevice(await host.openFile(folder.file('image'), { aio: 'io_uring', immediate: false }))
const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

if (ring() === undefined) test.skip(`io_uring ${ringReason()}`, () => {})

describe.skipIf(ring() === undefined)('the ring', () => {
  test('a whole batch goes in with one call at the end of the turn', async () => {
    const device = await open()
    const before = ring()!.enters
    const reads = Array.from({ length: 100 }, (_, i) => readBytes(device, i * 4096, 4096))
    expect(ring()!.enters).toBe(before)
    await turn()
    expect(ring()!.enters).toBe(before + 1)
    same((await Promise.all(reads))[99]!, content.subarray(99 * 4096, 100 * 4096))
    await device.close()
  })

  test('kick hands it in at once', async () => {
    const device = await open()
    const before = ring()!.enters
    const read = readBytes(device, 0, 4096)
    kick()
    expect(ring()!.enters).toBe(before + 1)
    kick()
    await read
    expect(ring()!.enters).toBe(before + 1)
    await device.close()
  })

  test('takes more requests than fit, and each completes once with its own bytes', async () => {
    const device = await open()
    const reads = Array.from({ length: 5000 }, (_, i) => readBytes(device, (i * 613) % 1_000_000, 512 + (i % 7)))
    const found = await Promise.all(reads)
    found.forEach((bytes, i) => {
      const at = (i * 613) % 1_000_000
      same(bytes, content.subarray(at, at + 512 + (i % 7)), `read ${i}`)
    })
    expect(ring()!.inFlight).toBe(0)
    await device.close()
  })

  test('takes vectors of more pieces than all of a batch', async () => {
    const device = await open()
    const reads = Array.from({ length: 40 }, async () => {
      const bytes = new Uint8Array(3000 * 32)
      await device.read(777, bytesVec(...Array.from({ length: 3000 }, (_, i) => bytes.subarray(i * 32, i * 32 + 32))))
      return bytes
    })
    for (const bytes of await Promise.all(reads)) same(bytes, content.subarray(777, 777 + 96_000))
    await device.close()
  })

  test('a request whose memory was taken back before it went in is not done', async () => {
    const device = await open()
    const memory = new Uint8Array(4096).fill(0xee)
    const vector = bytesVec(memory)
    const early = Array.from({ length: 2000 }, () => readBytes(device, 0, 4096))
    const read = device.read(0, vector)
    vector.revoke()
    await expect(Promise.resolve(read)).rejects.toMatchObject({ code: 'ECANCELED' })
    same(memory, new Uint8Array(4096).fill(0xee))
    await Promise.all(early)
    await device.close()
  })

  test('an idle ring does not keep the process alive', () => {
    expect(process.getActiveResourcesInfo().filter((name) => name.includes('Poll')).length).toBe(0)
  })
})
