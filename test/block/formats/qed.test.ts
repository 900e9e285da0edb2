/** QED and qcow: what every driver must do. */
import { describe, expect, test } from 'vitest'
import { BlockDevice, type BlockDriver } from '../../../src/block/device.ts'
import { createQcow, openQcow, readQcowHeader } from '../../../src/block/formats/qcow.ts'
import { checkQed } from '../../../src/block/formats/qed/check.ts'
import { createQed, openQed, readQedHeader } from '../../../src/block/formats/qed/index.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { ImageDevice } from '../../../src/block/mover.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { driverConformance } from '../../conformance/driver.ts'

const name = 'test'

async function qed(medium: BlockDriver, backing?: BlockDevice): Promise<ImageDevice> {
  const file = new BlockDevice(medium)
  return new ImageDevice(await openQed(file, await readQedHeader(name, file), backing ? { name, backing } : { name }))
}

async function qcow(medium: BlockDriver, backing?: BlockDevice): Promise<ImageDevice> {
  const file = new BlockDevice(medium)
  return new ImageDevice(await openQcow(file, await readQcowHeader(name, file), backing ? { name, backing } : { name }))
}

for (const shape of [{}, { clusterSize: 4096, tableSize: 1 }, { clusterSize: 1 << 20 }]) {
  describe(`QED with ${JSON.stringify(shape)}`, () => {
    let last = new Memory(0)
    driverConformance({
      name: 'qed',
      async make(size) {
        last = new Memory(0)
        await createQed(new BlockDevice(last), { name, size, ...shape })
        return qed(last)
      },
      reopen: () => qed(last),
      async over(below, size) {
        await createQed(below, { name, size, ...shape })
        return qed(below)
      },
    })
  })
}

describe('QED over a backing file', () => {
  driverConformance({
    name: 'qed',
    async make(size) {
      const medium = new Memory(0)
      await createQed(new BlockDevice(medium), { name, size, clusterSize: 4096, backingFile: 'b' })
      return qed(medium, new BlockDevice(new Memory(size - 12800)))
    },
  })
})

describe('qcow', () => {
  let last = new Memory(0)
  driverConformance({
    name: 'qcow',
    async make(size) {
      last = new Memory(0)
      await createQcow(new BlockDevice(last), { name, size })
      return qcow(last)
    },
    reopen: () => qcow(last),
    async over(below, size) {
      await createQcow(below, { name, size })
      return qcow(below)
    },
  })
})

describe('qcow over a backing file', () => {
  driverConformance({
    name: 'qcow',
    async make(size) {
      const medium = new Memory(0)
      await createQcow(new BlockDevice(medium), { name, size, backingFile: 'b' })
      return qcow(medium, new BlockDevice(new Memory(size - 12800)))
    },
  })
})

describe('a new QED image', () => {
  test.for([
    [65536, 4, 4],
    [16384, 16, 16],
    [1 << 20, 4, 1],
    [4096, 4, 1],
    [65536, 1, 1],
  ] as const)(
    'of clusters of %i bytes and tables of %i has a header of %i clusters',
    async ([clusterSize, tableSize, clusters]) => {
      const medium = new Memory(0)
      const file = new BlockDevice(medium)
      await createQed(file, { name, size: 1 << 30, clusterSize, tableSize })
      const header = await readQedHeader(name, file)
      expect(header.headerSize).toBe(clusters)
      expect(header.l1Offset).toBe(clusters * clusterSize)
      const { image } = await qed(medium)
      await new BlockDevice(new ImageDevice(image)).write(0, bytesVec(new Uint8Array(256 << 10)))
      const found = await image.map(0, 4096)
      // Where a table keeps to 256 KiB, so do the data behind it.
      if ((clusterSize * tableSize) % (256 << 10) === 0) expect((found as { at: number }).at % (256 << 10)).toBe(0)
      await image.close!()
      expect(await checkQed(name, file, await readQedHeader(name, file))).toMatchObject({ corruptions: 0, leaks: 0 })
    },
  )
})
