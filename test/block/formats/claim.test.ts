/** The shortest way to space: first writes that need look at nothing but memory. */
import { describe, expect, test } from 'vitest'
import { BlockDevice } from '../../../src/block/device.ts'
import { createQcow, openQcow, readQcowHeader } from '../../../src/block/formats/qcow.ts'
import { checkQcow2 } from '../../../src/block/formats/qcow2/check.ts'
import { readImageHeader } from '../../../src/block/formats/qcow2/image.ts'
import { checkQed } from '../../../src/block/formats/qed/check.ts'
import { createQed, openQed, readQedHeader } from '../../../src/block/formats/qed/index.ts'
import type { Image } from '../../../src/block/image.ts'
import { ImageDevice } from '../../../src/block/mover.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { readBytes, writeBytes } from '../../conformance/driver.ts'
import { makeImage } from './images.ts'

const CLUSTER = 4096
const SIZE = 64 * CLUSTER
const name = 'test'

interface Made {
  readonly image: Image
  readonly medium: Memory
  readonly disk: BlockDevice
}

const formats: readonly [string, (backing?: BlockDevice) => Promise<Made>][] = [
  [
    'qcow2',
    async (backing) => {
      const medium = new Memory(0)
      const shape = { size: SIZE, clusterSize: CLUSTER, ...(backing ? { backingFile: 'b' } : {}) }
      const { image, disk } = await makeImage(medium, shape, backing ? { backing } : {})
      return { image, medium, disk }
    },
  ],
  [
    'QED',
    async (backing) => {
      const medium = new Memory(0)
      const file = new BlockDevice(medium)
      await createQed(file, { name, size: SIZE, clusterSize: CLUSTER, ...(backing ? { backingFile: 'b' } : {}) })
      const image = await openQed(file, await readQedHeader(name, file), backing ? { name, backing } : { name })
      return { image, medium, disk: new BlockDevice(new ImageDevice(image)) }
    },
  ],
  [
    'qcow',
    async (backing) => {
      const medium = new Memory(0)
      const file = new BlockDevice(medium)
      await createQcow(file, { name, size: SIZE, ...(backing ? { backingFile: 'b' } : {}) })
      const image = await openQcow(file, await readQcowHeader(name, file), backing ? { name, backing } : { name })
      return { image, medium, disk: new BlockDevice(new ImageDevice(image)) }
    },
  ],
]

/** What the format's check finds, if it has one. */
async function flaws(format: string, medium: Memory): Promise<object> {
  const file = new BlockDevice(medium)
  if (format === 'qcow2') return checkQcow2(name, file, await readImageHeader(name, file))
  if (format === 'QED') return checkQed(name, file, await readQedHeader(name, file))
  return { corruptions: 0, leaks: 0 }
}

/** Counts the claims that succeed. */
function count(image: Image): { claims: number } {
  const counted = { claims: 0 }
  const claim = image.claim!.bind(image)
  image.claim = (at, length) => {
    const place = claim(at, length)
    if (place >= 0) counted.claims++
    return place
  }
  return counted
}

for (const [format, make] of formats) {
  describe(format, () => {
    test('what is claimed is mapped there, once', async () => {
      const { image, disk } = await make()
      const { clusterSize } = image
      expect(image.claim!(0, 512)).toBe(-1) // no table is there
      await writeBytes(disk, 0, new Uint8Array(512).fill(1))
      expect(image.claim!(512, 512)).toBe(-1) // the cluster has its place
      expect(image.claim!(clusterSize - 512, 1024)).toBe(-1) // one of the two has
      expect(image.claim!(clusterSize, 40 * clusterSize)).toBe(-1) // the file ends before
      const place = image.claim!(5 * clusterSize + 512, 1024)
      expect(place).toBeGreaterThan(0)
      expect(await image.map(5 * clusterSize + 512, 1024)).toMatchObject({ kind: 'raw', at: place, inPlace: true })
      expect(image.claim!(5 * clusterSize, 512)).toBe(-1)
      expect(await readBytes(disk, 5 * clusterSize, clusterSize)).toEqual(new Uint8Array(clusterSize))
      expect(image.claim!(4 * clusterSize, 2 * clusterSize)).toBe(-1)
      const three = image.claim!(7 * clusterSize - 512, clusterSize + 1024)
      expect(await image.map(6 * clusterSize, 3 * clusterSize)).toMatchObject({
        kind: 'raw',
        at: three + 512 - clusterSize,
        length: 3 * clusterSize,
        inPlace: true,
      })
      expect(await readBytes(disk, 6 * clusterSize, 3 * clusterSize)).toEqual(new Uint8Array(3 * clusterSize))
    })

    test('first writes are claimed, kept over a close, and leave neither leaks nor damage', async () => {
      const { image, medium, disk } = await make()
      const { clusterSize } = image
      const counted = count(image)
      for (let each = 0; each < 20; each++)
        await writeBytes(disk, each * 3 * clusterSize, new Uint8Array(512).fill(each + 1))
      expect(counted.claims).toBeGreaterThan(10)
      await disk.flush()
      for (let each = 0; each < 20; each++) {
        const expected = new Uint8Array(clusterSize).fill(each + 1, 0, 512)
        expect(await readBytes(disk, each * 3 * clusterSize, clusterSize)).toEqual(expected)
      }
      await image.close!()
      expect(await flaws(format, medium)).toMatchObject({ corruptions: 0, leaks: 0 })
    })

    test('writes of several clusters are claimed, and leave neither leaks nor damage', async () => {
      const { image, medium, disk } = await make()
      const counted = count(image)
      const bytes = new Uint8Array(24 * 1024)
      for (let at = 0; at + bytes.length <= SIZE; at += bytes.length)
        await writeBytes(disk, at, bytes.fill(1 + at / 1024))
      expect(counted.claims).toBeGreaterThan(2)
      for (let at = 0; at + bytes.length <= SIZE; at += bytes.length)
        expect(await readBytes(disk, at, bytes.length)).toEqual(bytes.fill(1 + at / 1024))
      await image.close!()
      expect(await flaws(format, medium)).toMatchObject({ corruptions: 0, leaks: 0 })
    })

    test('over a backing file only what lies behind its end is claimed', async () => {
      const { clusterSize } = (await make(new BlockDevice(new Memory(0)))).image
      const behind = 10 * clusterSize
      const { image, disk } = await make(new BlockDevice(Memory.from(new Uint8Array(behind + 256).fill(9))))
      const counted = count(image)
      for (const at of [0, 3, 9, 10]) await writeBytes(disk, at * clusterSize, new Uint8Array(512).fill(1))
      expect(counted.claims).toBe(0)
      for (const at of [12, 20]) await writeBytes(disk, at * clusterSize, new Uint8Array(512).fill(1))
      expect(counted.claims).toBe(2)
      for (const at of [0, 3, 9, 10, 12, 20]) {
        const expected = new Uint8Array(clusterSize)
        expected.fill(9, 0, Math.max(0, Math.min(clusterSize, behind + 256 - at * clusterSize)))
        expected.fill(1, 0, 512)
        expect(await readBytes(disk, at * clusterSize, clusterSize)).toEqual(expected)
      }
    })

    test('what was given back is used before new space is claimed', async () => {
      const { image, disk } = await make()
      const { clusterSize } = image
      for (const at of [0, 1, 2]) await writeBytes(disk, at * clusterSize, new Uint8Array(clusterSize).fill(1))
      const found = await image.map(clusterSize, clusterSize)
      await disk.discard(clusterSize, clusterSize)
      await disk.flush()
      await image.traffic!.grace()
      expect(image.claim!(7 * clusterSize, 512)).toBe(-1)
      await writeBytes(disk, 7 * clusterSize, new Uint8Array(512).fill(2))
      expect(await image.map(7 * clusterSize, 512)).toMatchObject({ at: (found as { at: number }).at })
      const expected = new Uint8Array(clusterSize).fill(2, 0, 512)
      expect(await readBytes(disk, 7 * clusterSize, clusterSize)).toEqual(expected)
      expect(image.claim!(8 * clusterSize, 512)).toBeGreaterThan(0)
    })
  })
}
