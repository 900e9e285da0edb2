/** qcow2: what every driver must do, in every shape that an image can have. */
import { describe } from 'vitest'
import { BlockDevice } from '../../../src/block/device.ts'
import type { Qcow2CreateOptions } from '../../../src/block/formats/qcow2/create.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { driverConformance } from '../../conformance/driver.ts'
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
