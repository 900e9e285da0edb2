/** qcow2: what every driver must do, in every shape that an image can have. */
import { describe, expect, test } from 'vitest'
import { BlockDevice } from '../../../src/block/device.ts'
import { checkQcow2 } from '../../../src/block/formats/qcow2/check.ts'
import type { Qcow2CreateOptions } from '../../../src/block/formats/qcow2/create.ts'
import type { IoVec } from '../../../src/block/iovec.ts'
import type { Now } from '../../../src/block/now.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { driverConformance, readBytes, writeBytes } from '../../conformance/driver.ts'
import { makeImage, openImage } from './images.ts'

const shapes: readonly Partial<Qcow2CreateOptions>[] = [
  {},
  { compat: '0.10' },
  { clusterSize: 512 },
  { clusterSize: 4096, refcountBits: 1 },
  { clusterSize: 2 << 20 },
  { extendedL2: true, clusterSize: 16384 },
  { extendedL2: true },
]

for (const shape of shapes) {
  describe(`qcow2 with ${JSON.stringify(shape)}`, () => {
    let last = new Memory(0)
    driverConformance({
      name: 'qcow2',
      async make(size) {
        last = new Memory(0)
        return (await makeImage(last, { ...shape, size })).disk.driver
      },
      async reopen() {
        return (await openImage(last)).disk.driver
      },
      async over(below, size) {
        return (await makeImage(below, { ...shape, size })).disk.driver
      },
    })
  })
}

describe('qcow2 over a backing file', () => {
  driverConformance({
    name: 'qcow2',
    async make(size) {
      const backing = new BlockDevice(new Memory(size - 12800))
      return (await makeImage(new Memory(0), { size, clusterSize: 4096, backingFile: 'b' }, { backing })).disk.driver
    },
  })
})

test('subclusters are added to a cluster in which the file ends, as another program may leave it', async () => {
  const file = new Memory(0)
  const { disk } = await makeImage(file, { size: 1 << 20, extendedL2: true })
  await writeBytes(disk, 0, new Uint8Array(2048).fill(1))
  await disk.close()
  file.resize(file.size - 65536 + 2048)
  const again = (await openImage(file)).disk
  await writeBytes(again, 20_000, new Uint8Array(30_000).fill(2))
  const bytes = await readBytes(again, 0, 65536)
  expect([bytes[0], bytes[2047], bytes[2048], bytes[19_999], bytes[20_000], bytes[49_999], bytes[50_000]]).toEqual([
    1, 1, 0, 0, 2, 2, 0,
  ])
  await again.close()
})

describe.each([{ extendedL2: false }, { extendedL2: true }])(
  'with an external data file, $extendedL2',
  ({ extendedL2 }) => {
    test('a cluster that was zeroed and kept is written where the data is, and nowhere in the image', async () => {
      const [file, data] = [new Memory(0), new Memory(0)]
      const shape = { size: 1 << 20, dataFile: 'data', extendedL2, clusterSize: 16384 }
      const { disk } = await makeImage(file, shape, { dataFile: new BlockDevice(data) })
      await writeBytes(disk, 3 * 16384, new Uint8Array(16384).fill(1))
      await disk.zero(3 * 16384, 16384, { unmap: false })
      await writeBytes(disk, 3 * 16384, new Uint8Array(16384).fill(2))
      expect(await readBytes(new BlockDevice(data), 3 * 16384, 16384)).toEqual(new Uint8Array(16384).fill(2))
      await disk.flush()
      const again = await openImage(file, { dataFile: new BlockDevice(data) })
      expect(await readBytes(again.disk, 3 * 16384, 16384)).toEqual(new Uint8Array(16384).fill(2))
    })
  },
)

test('a write that waited for another of the same new cluster goes into it in place', async () => {
  const lengths: number[] = []
  class Slow extends Memory {
    override write(at: number, from: IoVec): Now<void> {
      lengths.push(from.byteLength)
      return new Promise<void>((resolve) => setImmediate(resolve)).then(() => super.write(at, from))
    }
  }
  const backing = new BlockDevice(new Memory(1 << 20))
  await writeBytes(backing, 0, new Uint8Array(65536).fill(1))
  const { disk } = await makeImage(new Slow(0), { size: 1 << 20, backingFile: 'b' }, { backing })
  lengths.length = 0
  await Promise.all([
    writeBytes(disk, 0, new Uint8Array(512).fill(2)),
    writeBytes(disk, 1024, new Uint8Array(512).fill(3)),
  ])
  expect(lengths).toEqual([65536, 512])
  const bytes = await readBytes(disk, 0, 2048)
  expect([bytes[0], bytes[512], bytes[1024], bytes[1536]]).toEqual([2, 1, 3, 1])
})

test('long writes go to aligned space once a file is no longer short, and what that leaves out is used for less', async () => {
  const { image, disk } = await makeImage(new Memory(0), { size: 16 << 20 })
  const long = 256 << 10
  for (let at = 0; at < 20 * long; at += long) await writeBytes(disk, at, new Uint8Array(long).fill(1))
  const place = (index: number) => image.locate(index * long, long)
  expect(place(0) % long).toBe(65536)
  expect([17, 18, 19].map((index) => place(index) % long)).toEqual([0, 0, 0])
  const { end } = image.allocator
  await writeBytes(disk, 8 << 20, new Uint8Array(512).fill(2))
  expect(image.locate(8 << 20, 512)).toBeLessThan(place(19))
  expect(image.allocator.end).toBe(end)
  for (let i = 0; i < 40; i++) await writeBytes(disk, (9 << 20) + i * 65536, new Uint8Array(65536).fill(i))
  await disk.flush()
  const { leaks, corruptions } = await checkQcow2('test', image.file, image.header)
  expect({ leaks, corruptions }).toEqual({ leaks: 0, corruptions: 0 })
  for (let i = 0; i < 20; i++) expect((await readBytes(disk, (i + 1) * long - 1, 1))[0]).toBe(1)
  for (let i = 0; i < 40; i++) expect((await readBytes(disk, (9 << 20) + i * 65536, 1))[0]).toBe(i)
})
