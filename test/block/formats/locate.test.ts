/** The short way to plain data: it says what the map says, whatever has changed meanwhile. */
import { describe, expect, test } from 'vitest'
import { BlockDevice } from '../../../src/block/device.ts'
import { createQed, openQed, readQedHeader } from '../../../src/block/formats/qed/index.ts'
import type { Image } from '../../../src/block/image.ts'
import { ImageDevice } from '../../../src/block/mover.ts'
import { Page, PageCache } from '../../../src/block/pages.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { readBytes, writeBytes } from '../../conformance/driver.ts'
import { seeded } from '../../random.ts'
import { makeImage } from './images.ts'

const SIZE = 6 << 20

const images: readonly [string, () => Promise<Image>][] = [
  // Least memory for metadata: a slice of 512 bytes maps 32 KiB of the disk, so that many come and go.
  ['qcow2 with clusters of 512 bytes', async () => (await qcow2({ clusterSize: 512 })).image],
  ['qcow2 over a backing file', async () => (await qcow2({ clusterSize: 4096 }, true)).image],
  ['qcow2 with subclusters', async () => (await qcow2({ clusterSize: 16384, extendedL2: true })).image],
  [
    'QED',
    async () => {
      const file = new BlockDevice(new Memory(0))
      await createQed(file, { name: 'test', size: SIZE, clusterSize: 4096, tableSize: 1 })
      return openQed(file, await readQedHeader('test', file), { name: 'test' })
    },
  ],
]

function qcow2(shape: object, backed = false) {
  const backing = new BlockDevice(new Memory(SIZE))
  const options = backed ? { backingFile: 'b' } : {}
  return makeImage(
    new Memory(0),
    { size: SIZE, ...shape, ...options },
    { metadataLimit: 1, ...(backed ? { backing } : {}) },
  )
}

for (const [name, make] of images) {
  describe(name, () => {
    test('what is located is what the map says and what was written, after any change', () =>
      seeded(async (random) => {
        const image = await make()
        const disk = new BlockDevice(new ImageDevice(image))
        const model = new Uint8Array(SIZE)
        let located = 0
        for (let round = 0; round < 400; round++) {
          const at = random.below(SIZE / 512) * 512
          const length = Math.min(random.between(1, random.pick([8, 64, 256])) * 512, SIZE - at)
          const kind = random.below(8)
          if (kind < 5) {
            const bytes = random.bytes(length)
            await writeBytes(disk, at, bytes)
            model.set(bytes, at)
          } else if (kind === 5) {
            await disk.zero(at, length, { unmap: random.below(2) === 0 })
            model.fill(0, at, at + length)
          } else if (kind === 6) {
            await disk.discard(at, length)
            model.set(await readBytes(disk, at, length), at)
          } else await disk.flush()
          for (let look = 0; look < 8; look++) {
            const from = look === 0 ? at : random.below(SIZE / 512) * 512
            const most = Math.min(random.between(1, 64) * 512, SIZE - from)
            const place = image.locate!(from, most)
            const found = await image.map(from, most)
            const whole = found.kind === 'raw' && found.length === most ? found.at : -1
            if (place >= 0) {
              expect(place).toBe(whole)
              located++
            }
            const bytes = await readBytes(disk, from, most)
            expect(Buffer.compare(bytes, model.subarray(from, from + most))).toBe(0)
          }
        }
        expect(located).toBeGreaterThan(30)
      }))
  })
}

test('data in another file, or past the end of its own, are not located or read as what they are', async () => {
  const file = new Memory(0)
  const { image, disk } = await makeImage(file, { size: SIZE })
  await writeBytes(disk, 0, new Uint8Array(65536).fill(7))
  await disk.flush()
  const at = image.locate(0, 65536)
  expect(at).toBeGreaterThan(0)
  await image.file.resize(at + 512)
  expect(await readBytes(disk, 0, 1024)).toEqual(new Uint8Array(1024).fill(7, 0, 512))
})

test('a page that had to go is not found again as it was', () => {
  class Small extends Page {
    readonly cost = 100
    readonly #bytes = new Uint8Array(512)
    bytes(): Uint8Array {
      return this.#bytes
    }
  }
  const cache = new PageCache<Small>(1000)
  const first = cache.load(0, () => new Small(0)) as Small
  expect(cache.get(0)).toBe(first)
  for (let key = 1; key < 200; key++) cache.load(key, () => new Small(key))
  expect(cache.get(0)).toBeUndefined()
  const again = cache.load(0, () => new Small(0))
  expect(again).not.toBe(first)
  expect(cache.get(0)).toBe(again)
})
