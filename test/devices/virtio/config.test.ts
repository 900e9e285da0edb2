/** virtio 1.2, 5.2.3 to 5.2.5: features and configuration of a block device. */
import { describe, expect, test } from 'vitest'
import { asDevice } from '../../../src/block/device.ts'
import { Disk } from '../../../src/block/disk.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { virtioBlk } from '../../../src/devices/virtio/index.ts'
import { COMMON, Driver, F, FACES } from './driver.ts'

describe.each(FACES)('5.2.4 Device configuration layout, $name', (face) => {
  test('capacity in sectors of 512 bytes, whatever the block size', () => {
    expect(new Driver({ ...face, on: new Memory(3 << 20), disk: { logicalBlockSize: 4096 } }).capacity).toBe(6144)
  })

  test('a capacity that takes 64 bits', () => {
    expect(new Driver({ ...face, on: new Memory(4 * 2 ** 40) }).capacity).toBe(2 ** 33)
  })

  test('seg_max leaves two descriptors for header and status', () => {
    expect(new Driver(face).config(12, 4)).toBe(face.face === 'legacy' ? 254 : 510)
    expect(new Driver({ ...face, device: { queueSize: 64 } }).config(12, 4)).toBe(62)
  })

  test('blk_size and topology', () => {
    const driver = new Driver({
      ...face,
      disk: { logicalBlockSize: 512, physicalBlockSize: 4096, minIoSize: 4096, optIoSize: 65536 },
    })
    expect(driver.config(20, 4)).toBe(512)
    expect(driver.config(24, 1)).toBe(3)
    expect(driver.config(25, 1)).toBe(0)
    expect(driver.config(26, 2)).toBe(8)
    expect(driver.config(28, 4)).toBe(128)
  })

  test('geometry, made up or as told', () => {
    const driver = new Driver({ ...face, on: new Memory(504 << 20) })
    expect([driver.config(16, 2), driver.config(18, 1), driver.config(19, 1)]).toEqual([1024, 16, 63])
    const told = new Driver({ ...face, device: { cyls: 40, heads: 4, secs: 17 } })
    expect([told.config(16, 2), told.config(18, 1), told.config(19, 1)]).toEqual([40, 4, 17])
  })

  test('limits of discard and write zeroes are never 0 where offered, and whole units of the alignment', () => {
    for (const granularity of [512, 4096, 65536, 2 << 20]) {
      const driver = new Driver({ ...face, disk: { discardGranularity: granularity } })
      expect(driver.features.has(F.DISCARD)).toBe(true)
      expect(driver.config(44, 4)).toBe(granularity / 512)
      expect(driver.config(36, 4)).toBeGreaterThan(0)
      expect(driver.config(36, 4) % (granularity / 512)).toBe(0)
      expect(driver.config(36, 4) * 512).toBeLessThan(2 ** 31)
      expect(driver.config(40, 4)).toBeGreaterThan(1)
      expect(driver.config(48, 4)).toBeGreaterThan(0)
      expect(driver.config(52, 4)).toBeGreaterThan(1)
      expect(driver.config(56, 1)).toBe(1)
    }
  })

  test('a discard limit below the alignment is raised to it', () => {
    const driver = new Driver({ ...face, disk: { discardGranularity: 65536 }, device: { maxDiscardSectors: 1 } })
    expect(driver.config(36, 4)).toBe(128)
  })

  test('limits of secure erase are never 0 where offered', () => {
    const driver = new Driver({ ...face, device: { secureErase: true } })
    expect(driver.features.has(F.SECURE_ERASE)).toBe(true)
    for (const at of [60, 64, 68]) expect(driver.config(at, 4)).toBeGreaterThan(0)
  })

  test('5.2.6.2: write_zeroes_may_unmap is clear where nothing is unmapped', () => {
    expect(new Driver({ ...face, disk: { discard: 'ignore' } }).config(56, 1)).toBe(0)
  })

  test('5.2.5.2: padding is 0', () => {
    const driver = new Driver(face)
    expect([33, 57, 58, 59].map((at) => driver.config(at, 1))).toEqual([0, 0, 0, 0])
  })

  test('num_queues', () => {
    const driver = new Driver({ ...face, device: { numQueues: 3 } })
    expect(driver.config(34, 2)).toBe(3)
    expect(driver.features.has(F.MQ)).toBe(true)
    expect(driver.queues).toHaveLength(3)
  })

  test('the capacity changes: new value, new generation, configuration interrupt', async () => {
    const driver = new Driver(face)
    const generation = face.face === 'modern' ? driver.common8(COMMON.configGeneration) : 0
    await driver.disk.resize(2 << 20)
    expect(driver.capacity).toBe(4096)
    expect(driver.bus.intxLevel).toBe(true)
    expect(driver.isr()).toBe(2)
    if (face.face === 'modern') expect(driver.common8(COMMON.configGeneration)).not.toBe(generation)
    expect(driver.read(4095, 512).status).toBe(0)
    await driver.disk.resize(512)
    expect(driver.read(1, 512).status).toBe(1)
  })

  test('before DRIVER_OK a change interrupts nobody', async () => {
    const driver = new Driver({ ...face, start: false })
    await driver.disk.resize(2 << 20)
    expect(driver.bus.intxLevel).toBe(false)
    expect(driver.capacity).toBe(4096)
  })
})

describe('5.2.3 Feature bits', () => {
  const offered = (options = {}) => new Driver({ start: false, ...options }).offered()

  test('what is offered by default', () => {
    const bits = [F.SEG_MAX, F.GEOMETRY, F.BLK_SIZE, F.FLUSH, F.TOPOLOGY, F.CONFIG_WCE, F.DISCARD, F.WRITE_ZEROES]
    const rings = [F.INDIRECT_DESC, F.EVENT_IDX, F.VERSION_1, F.RING_RESET]
    expect([...offered()].sort((a, b) => a - b)).toEqual([...bits, ...rings])
  })

  test('what is not offered on a read-only disk', () => {
    const features = offered({ on: new Memory(512, { readOnly: true }) })
    expect(features.has(F.RO)).toBe(true)
    for (const bit of [F.DISCARD, F.WRITE_ZEROES, F.SECURE_ERASE]) expect(features.has(bit)).toBe(false)
  })

  test('discard follows the disk, unless told', () => {
    expect(offered({ disk: { discard: 'ignore' } }).has(F.DISCARD)).toBe(false)
    expect(offered({ device: { discard: false } }).has(F.DISCARD)).toBe(false)
    expect(offered({ disk: { discard: 'ignore' }, device: { discard: true } }).has(F.DISCARD)).toBe(true)
  })

  test.each([
    ['configWce', F.CONFIG_WCE],
    ['writeZeroes', F.WRITE_ZEROES],
    ['eventIdx', F.EVENT_IDX],
    ['indirectDesc', F.INDIRECT_DESC],
    ['ringReset', F.RING_RESET],
  ])('%s: false takes the feature back', (name, bit) => {
    expect(offered({ device: { [name]: false } }).has(bit)).toBe(false)
  })

  test.each([
    ['packed', true, F.RING_PACKED],
    ['inOrder', true, F.IN_ORDER],
    ['secureErase', true, F.SECURE_ERASE],
    ['sizeMax', 4096, F.SIZE_MAX],
    ['lifetime', { preEolInfo: 1, estimateA: 0, estimateB: 0 }, F.LIFETIME],
    ['numQueues', 2, F.MQ],
  ])('%s adds one', (name, value, bit) => {
    expect(offered().has(bit)).toBe(false)
    expect(offered({ device: { [name]: value } }).has(bit)).toBe(true)
  })

  test('5.2.5.2: FLUSH is offered wherever CONFIG_WCE is, also for a disk without a cache', () => {
    const features = offered({ disk: { cache: 'writethrough' } })
    expect(features.has(F.FLUSH)).toBe(true)
    expect(features.has(F.CONFIG_WCE)).toBe(true)
  })

  test('size_max', () => {
    expect(new Driver({ device: { sizeMax: 65536 } }).config(8, 4)).toBe(65536)
  })
})

describe('options that no device can have', () => {
  const make = (options: object) => () => virtioBlk(new Disk(asDevice(new Memory(512))), options)

  test.each([
    [{ queueSize: 3 }, 'queue-size is 3, must be from 4 to 1024'],
    [{ queueSize: 100 }, 'queue-size is 100, must be a power of two'],
    [{ queueSize: 2048 }, 'queue-size is 2048'],
    [{ numQueues: 0 }, 'num-queues is 0'],
    [{ numQueues: 1.5 }, 'num-queues is 1.5'],
    [{ sizeMax: 511 }, 'size-max is 511'],
    [{ maxDiscardSectors: 0 }, 'max-discard-sectors is 0'],
    [{ maxWriteZeroesSectors: -1 }, 'max-write-zeroes-sectors is -1'],
    [{ cyls: 100 }, 'heads is 0'],
    [{ cyls: 70000, heads: 1, secs: 1 }, 'cyls is 70000'],
    [{ lifetime: { preEolInfo: 4, estimateA: 0, estimateB: 0 } }, 'lifetime.preEolInfo is 4'],
    [{ lifetime: { preEolInfo: 0, estimateA: 12, estimateB: 0 } }, 'lifetime.estimateA is 12'],
  ])('%j', (options, message) => {
    expect(make(options)).toThrow(message)
  })
})
