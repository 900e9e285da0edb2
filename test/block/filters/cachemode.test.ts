/** Cache and discard modes of devices that no disk stands in front of. */
import { expect, test } from 'vitest'
import { asDevice, type BlockDriver } from '../../../src/block/device.ts'
import { withModes } from '../../../src/block/filters/cachemode.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { driverConformance } from '../../conformance/driver.ts'

const MiB = 1 << 20
for (const mode of ['writethrough', 'directsync'] as const) {
  driverConformance({ name: mode, make: (size) => withModes(asDevice(new Memory(size)), mode, 'unmap').driver })
}

/** A disk that counts what becomes durable how. */
function counted() {
  const counts = { fua: 0, flush: 0, discard: 0, unmap: 0 }
  const memory = new Memory(MiB)
  const driver: BlockDriver = {
    name: 'counted',
    size: MiB,
    fua: true,
    read: (at, into) => memory.read(at, into),
    write: (at, from, options) => {
      if (options?.fua) counts.fua++
      memory.write(at, from)
    },
    zero: (at, length, options) => {
      if (options?.unmap) counts.unmap++
      memory.zero(at, length)
    },
    flush: () => void counts.flush++,
    discard: () => void counts.discard++,
  }
  return { device: asDevice(driver), counts }
}

test.each([
  ['writeback', 'unmap', { fua: 0, flush: 1, discard: 1, unmap: 1 }],
  ['writethrough', 'unmap', { fua: 1, flush: 2, discard: 1, unmap: 1 }],
  ['unsafe', 'unmap', { fua: 0, flush: 0, discard: 1, unmap: 1 }],
  ['none', 'ignore', { fua: 0, flush: 1, discard: 0, unmap: 0 }],
] as const)('%s, discard=%s', async (cache, discard, expected) => {
  const { device, counts } = counted()
  const moded = withModes(device, cache, discard)
  await moded.write(0, bytesVec(new Uint8Array(512)))
  await moded.zero(0, 512, { unmap: true })
  await moded.discard(0, 4096)
  await moded.flush()
  expect(counts).toEqual(expected)
  expect(moded.canDiscard).toBe(discard === 'unmap')
})
