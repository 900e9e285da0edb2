/** virtio 1.2, 4.1: virtio over PCI. */
import { describe, expect, test } from 'vitest'
import { asDevice } from '../../../src/block/device.ts'
import { Disk } from '../../../src/block/disk.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { virtioBlk } from '../../../src/devices/virtio/index.ts'
import { plug, testBus } from '../machine.ts'
import { ACKNOWLEDGE, COMMON, DRIVER, DRIVER_OK, Driver, F, FACES, FEATURES_OK, OK, pattern, T } from './driver.ts'

const idle = (device = {}) => new Driver({ start: false, device })

describe('4.1.2 PCI device discovery', () => {
  test('a transitional device has the transitional ID, revision 0, and the virtio ID as subsystem ID', () => {
    const { config } = idle().slot.device
    expect(config.read(0x00, 4)).toBe(0x10011af4)
    expect(config.read(0x08, 1)).toBe(0)
    expect(config.read(0x2c, 4)).toBe(0x00021af4)
  })

  test('a non-transitional device has ID 1042h, revision 1 or higher, and a subsystem ID of 40h or higher', () => {
    const { config } = idle({ disableLegacy: true }).slot.device
    expect(config.read(0x00, 4)).toBe(0x10421af4)
    expect(config.read(0x08, 1)).toBe(1)
    expect(config.read(0x2e, 2)).toBeGreaterThanOrEqual(0x40)
  })

  test('a legacy device has no capabilities', () => {
    const driver = new Driver({ face: 'legacy', device: { disableModern: true } })
    expect(driver.slot.device.config.read(0x00, 4)).toBe(0x10011af4)
    expect(driver.structures.size).toBe(0)
    expect(driver.write(0, pattern(512)).status).toBe(OK)
  })

  test('a SCSI controller to PCI, on INTA#', () => {
    const { config } = idle().slot.device
    expect(config.read(0x09, 1)).toBe(0)
    expect(config.read(0x0a, 2)).toBe(0x0100)
    expect(config.read(0x3d, 1)).toBe(1)
  })

  test('a device with neither interface is refused', () => {
    const disk = new Disk(asDevice(new Memory(512)))
    expect(() => virtioBlk(disk, { disableLegacy: true, disableModern: true })).toThrow(/disable-legacy/)
  })
})

describe('4.1.4 Virtio structure PCI capabilities', () => {
  test('every structure is there, inside an I/O BAR of at most 256 bytes, where its alignment wants it', () => {
    const driver = idle({ numQueues: 4 })
    const { config } = driver.slot.device
    expect([...driver.structures.keys()]).toEqual([1, 2, 3, 4, 5])
    for (const [type, { bar, offset, length }] of driver.structures) {
      if (type === 5) continue
      const found = config.bars.find(({ index }) => index === bar)!
      expect(found.space).toBe('io')
      expect(found.size).toBeLessThanOrEqual(256)
      expect(offset + length).toBeLessThanOrEqual(found.size)
      expect(offset % (type === 3 ? 1 : type === 2 ? 2 : 4)).toBe(0)
    }
  })

  test('structures do not overlap', () => {
    const ranges = [...idle({ numQueues: 48 }).structures].filter(([type]) => type !== 5)
    ranges.sort(([, a], [, b]) => a.offset - b.offset)
    for (const [i, [, { offset }]] of ranges.entries()) {
      if (i > 0) expect(offset).toBeGreaterThanOrEqual(ranges[i - 1]![1].offset + ranges[i - 1]![1].length)
    }
  })

  test('cap_len covers the whole of each structure', () => {
    const { config } = idle().slot.device
    const lengths: number[] = []
    for (let at = config.read(0x34, 1); at !== 0; at = config.read(at + 1, 1)) lengths.push(config.read(at + 2, 1))
    expect(lengths).toEqual([16, 20, 16, 16, 20])
  })

  test('4.1.4.4.1: the notification structure holds every queue', () => {
    const driver = new Driver({ device: { numQueues: 48 } })
    const { extra, length } = driver.structures.get(2)!
    for (let queue = 0; queue < 48; queue++) {
      driver.setCommon16(COMMON.queueSelect, queue)
      expect(driver.common16(COMMON.queueNotifyOff) * extra + 2).toBeLessThanOrEqual(length)
    }
    expect(driver.send(driver.build(T.FLUSH, 0), { queue: 47 }).status).toBe(OK)
  })

  test('more queues than have room are refused', () => {
    const disk = new Disk(asDevice(new Memory(512)))
    expect(() => plug(testBus(), virtioBlk(disk, { numQueues: 49 }))).toThrow(/49 queues, at most 48/)
  })

  test('all of the capability list is read-only, but for the access capability', () => {
    const driver = idle()
    const { config } = driver.slot.device
    const before = config.bytes.slice(0x40, 0x40 + 16 + 20 + 16 + 16)
    for (let at = 0x40; at < 0x40 + before.length; at += 4) config.write(at, 4, 0xffffffff)
    expect(config.bytes.slice(0x40, 0x40 + before.length)).toEqual(before)
  })
})

describe('4.1.4.3 Common configuration structure', () => {
  test('features of words that there are not read as 0', () => {
    const driver = idle()
    driver.setCommon32(COMMON.deviceFeatureSelect, 2)
    expect(driver.common32(COMMON.deviceFeature)).toBe(0)
    driver.setCommon32(COMMON.deviceFeatureSelect, 0xffffffff)
    expect(driver.common32(COMMON.deviceFeature)).toBe(0)
  })

  test('what the driver wrote it reads back: selectors, features, places', () => {
    const driver = idle()
    driver.setCommon32(COMMON.deviceFeatureSelect, 1)
    driver.setCommon32(COMMON.driverFeatureSelect, 1)
    driver.setCommon32(COMMON.driverFeature, 0x00000101)
    driver.setCommon32(COMMON.driverFeatureSelect, 0)
    driver.setCommon32(COMMON.driverFeature, 0x200)
    expect(driver.common32(COMMON.deviceFeatureSelect)).toBe(1)
    expect(driver.common32(COMMON.driverFeature)).toBe(0x200)
    driver.setCommon32(COMMON.driverFeatureSelect, 1)
    expect(driver.common32(COMMON.driverFeature)).toBe(0x101)
    driver.setCommon32(COMMON.queueDesc + 4, 0x12)
    driver.setCommon32(COMMON.queueDesc, 0xfedcba90)
    expect(driver.common32(COMMON.queueDesc)).toBe(0xfedcba90)
    expect(driver.common32(COMMON.queueDesc + 4)).toBe(0x12)
  })

  test('no MSI-X: the vectors read NO_VECTOR', () => {
    const driver = idle()
    driver.setCommon16(COMMON.configMsixVector, 1)
    driver.setCommon16(COMMON.queueMsixVector, 1)
    expect(driver.common16(COMMON.configMsixVector)).toBe(0xffff)
    expect(driver.common16(COMMON.queueMsixVector)).toBe(0xffff)
  })

  test('a queue that there is not has size 0, and writes to it go nowhere (CVE-2011-2512)', () => {
    const driver = new Driver()
    for (const queue of [1, 0x7fff, 0x8000, 0xffff]) {
      driver.setCommon16(COMMON.queueSelect, queue)
      expect(driver.common16(COMMON.queueSize)).toBe(0)
      driver.setCommon16(COMMON.queueSize, 8)
      driver.setCommon64(COMMON.queueDesc, 0x1000)
      driver.setCommon16(COMMON.queueEnable, 1)
      driver.setCommon16(COMMON.queueReset, 1)
      expect(driver.common16(COMMON.queueEnable)).toBe(0)
      expect(driver.common16(COMMON.queueReset)).toBe(0)
      expect(driver.common32(COMMON.queueDesc)).toBe(0)
    }
    expect(driver.needsReset).toBe(false)
  })

  test('queue_size: at most what the device offers, never 0', () => {
    const driver = idle({ queueSize: 64 })
    expect(driver.common16(COMMON.queueSize)).toBe(64)
    driver.setCommon16(COMMON.queueSize, 32)
    expect(driver.common16(COMMON.queueSize)).toBe(32)
    driver.setCommon16(COMMON.queueSize, 0)
    driver.setCommon16(COMMON.queueSize, 128)
    expect(driver.common16(COMMON.queueSize)).toBe(32)
  })

  test('an enabled queue stays where it is', () => {
    const driver = new Driver()
    const { descriptors, size } = driver.queue
    driver.setCommon16(COMMON.queueSelect, 0)
    driver.setCommon64(COMMON.queueDesc, 0x1000)
    driver.setCommon16(COMMON.queueSize, 2)
    expect(driver.common32(COMMON.queueDesc)).toBe(descriptors)
    expect(driver.common16(COMMON.queueSize)).toBe(size)
    expect(driver.read(0, 512).status).toBe(OK)
  })

  test('a queue is not enabled before FEATURES_OK, and 0 does not disable it', () => {
    const driver = idle()
    driver.setCommon16(COMMON.queueEnable, 1)
    expect(driver.common16(COMMON.queueEnable)).toBe(0)
    driver.initialize()
    driver.setCommon16(COMMON.queueEnable, 0)
    expect(driver.common16(COMMON.queueEnable)).toBe(1)
  })

  test('accesses of other widths than the field: a wide read sees both fields, a narrow write changes nothing', () => {
    const driver = idle()
    expect(driver.common32(COMMON.numQueues - 2)).toBe(0x0001ffff)
    expect(driver.common8(COMMON.queueSize + 1)).toBe(2)
    driver.setCommon8(COMMON.queueSize, 8)
    expect(driver.common16(COMMON.queueSize)).toBe(512)
  })

  test('bytes of the BAR that belong to no structure read as 0 and take no writes', () => {
    const driver = new Driver()
    const base = driver.slot.base(2)
    for (const offset of [0x3c, 0x41, 0x90, 0x9c]) {
      driver.slot.out32(base + offset, 0xffffffff)
      expect(driver.slot.in32(base + offset)).toBe(0)
    }
    expect(driver.fault).toBeUndefined()
  })
})

describe('3.1 Device initialization', () => {
  test('2.2.2: FEATURES_OK stays clear for features that were not offered', () => {
    const driver = idle()
    driver.status = ACKNOWLEDGE | DRIVER
    driver.accept(new Set([F.VERSION_1, F.ANY_LAYOUT]))
    driver.status |= FEATURES_OK
    expect(driver.status & FEATURES_OK).toBe(0)
  })

  test('6.1: FEATURES_OK stays clear without VIRTIO_F_VERSION_1', () => {
    const driver = idle()
    driver.status = ACKNOWLEDGE | DRIVER
    driver.accept(new Set([F.FLUSH]))
    driver.status |= FEATURES_OK
    expect(driver.status & FEATURES_OK).toBe(0)
  })

  test('features do not change after FEATURES_OK', () => {
    const driver = new Driver({ accept: [F.FLUSH] })
    driver.setCommon32(COMMON.driverFeatureSelect, 0)
    driver.setCommon32(COMMON.driverFeature, 0)
    expect(driver.common32(COMMON.driverFeature)).toBe(1 << F.FLUSH)
  })

  test('3.1.1: no buffer is consumed before DRIVER_OK', () => {
    const driver = idle()
    driver.status = ACKNOWLEDGE | DRIVER
    driver.negotiate()
    driver.setUpQueues()
    driver.add(driver.build(T.FLUSH, 0))
    driver.notify()
    expect(driver.used()).toEqual([])
    driver.status |= DRIVER_OK
    driver.notify()
    expect(driver.used()).toHaveLength(1)
  })

  test('a legacy driver may use the disk before DRIVER_OK', () => {
    const driver = new Driver({ face: 'legacy', start: false })
    driver.status = ACKNOWLEDGE | DRIVER
    driver.negotiate()
    driver.setUpQueues()
    expect(driver.write(0, pattern(512)).status).toBe(OK)
  })

  test('a driver that gave up (FAILED) gets nothing', () => {
    const driver = new Driver()
    driver.status |= 128
    driver.add(driver.build(T.FLUSH, 0))
    driver.notify()
    expect(driver.used()).toEqual([])
  })

  test('without bus mastering the device does not touch memory, and catches up when it is turned on', () => {
    const driver = new Driver()
    driver.slot.device.config.write(0x04, 2, 0x0003)
    driver.add(driver.build(T.FLUSH, 0))
    driver.notify()
    expect(driver.used()).toEqual([])
    driver.slot.device.config.write(0x04, 2, 0x0007)
    expect(driver.used()).toHaveLength(1)
  })

  test('the oldest legacy drivers never turn bus mastering on', () => {
    const driver = new Driver({ face: 'legacy' })
    driver.slot.device.config.write(0x04, 2, 0x0001)
    expect(driver.write(0, pattern(512)).status).toBe(OK)
  })
})

describe('4.1.4.5 ISR status', () => {
  test.each(FACES)('reading clears it and releases the interrupt, $name', (face) => {
    const driver = new Driver(face)
    driver.send(driver.build(T.FLUSH, 0))
    expect(driver.bus.intxLevel).toBe(true)
    expect(driver.isr()).toBe(1)
    expect(driver.bus.intxLevel).toBe(false)
    expect(driver.isr()).toBe(0)
  })

  test('it collects: queue interrupts in bit 0, configuration changes in bit 1', async () => {
    const driver = new Driver()
    driver.send(driver.build(T.FLUSH, 0))
    await driver.disk.resize(2 << 20)
    expect(driver.bus.intxEdges).toBe(1)
    expect(driver.isr()).toBe(3)
  })
})

describe('4.1.4.9 PCI configuration access capability', () => {
  const access = (driver: Driver) => {
    const { config } = driver.slot.device
    let at = config.read(0x34, 1)
    while (config.read(at + 3, 1) !== 5) at = config.read(at + 1, 1)
    return at
  }
  const select = (driver: Driver, bar: number, offset: number, length: number) => {
    const { config } = driver.slot.device
    const at = access(driver)
    config.write(at + 4, 1, bar)
    config.write(at + 8, 4, offset)
    config.write(at + 12, 4, length)
    return at + 16
  }

  test('reads and writes of pci_cfg_data reach the structures', () => {
    const driver = new Driver()
    const { config } = driver.slot.device
    expect(config.read(select(driver, 2, COMMON.deviceStatus, 1), 1)).toBe(0x0f)
    expect(config.read(select(driver, 2, COMMON.numQueues, 2), 2)).toBe(1)
    config.write(select(driver, 2, COMMON.queueSelect, 2), 2, 5)
    expect(driver.common16(COMMON.queueSelect)).toBe(5)
    config.write(select(driver, 2, COMMON.deviceStatus, 1), 1, 0)
    expect(driver.status).toBe(0)
  })

  test('a request can be notified, and its interrupt acknowledged, without any BAR', () => {
    const driver = new Driver()
    const { config } = driver.slot.device
    driver.add(driver.build(T.FLUSH, 0))
    config.write(select(driver, 2, driver.structures.get(2)!.offset, 2), 2, 0)
    expect(driver.used()).toHaveLength(1)
    expect(config.read(select(driver, 2, driver.structures.get(3)!.offset, 1), 1)).toBe(1)
    expect(driver.bus.intxLevel).toBe(false)
  })

  test('what points nowhere does nothing: another BAR, past its end, misaligned, another length', () => {
    const driver = new Driver()
    const { config } = driver.slot.device
    for (const [bar, offset, length] of [
      [1, 0, 4],
      [6, 0, 4],
      [255, 0, 4],
      [2, 256, 4],
      [2, 0xfffffffc, 4],
      [2, 2, 4],
      [2, 0x14, 3],
      [2, 0x14, 0],
    ] as const) {
      const at = select(driver, bar, offset, length)
      config.write(at, 4, 0)
      config.read(at, 4)
    }
    expect(driver.status).toBe(0x0f)
    expect(driver.fault).toBeUndefined()
  })

  test('other accesses to configuration space have no effect on the device', () => {
    const driver = new Driver()
    driver.send(driver.build(T.FLUSH, 0))
    const { config } = driver.slot.device
    select(driver, 2, driver.structures.get(3)!.offset, 1)
    for (let at = 0; at < access(driver) + 16; at += 4) config.read(at, 4)
    expect(driver.isr()).toBe(1)
  })
})

describe('4.1.4.10 Legacy interface', () => {
  const legacy = () => new Driver({ face: 'legacy' })

  test('features, queue size and page number where a legacy driver looks for them', () => {
    const driver = legacy()
    expect(driver.slot.in32(driver.legacy(0))).toBe(driver.slot.device.device.offeredLegacy.word(0))
    driver.slot.out16(driver.legacy(14), 1)
    expect(driver.slot.in16(driver.legacy(12))).toBe(0)
    driver.slot.out16(driver.legacy(14), 0)
    expect(driver.slot.in16(driver.legacy(14))).toBe(0)
    expect(driver.slot.in16(driver.legacy(12))).toBe(256)
    expect(driver.slot.in32(driver.legacy(8))).toBe(driver.queue.descriptors / 4096)
  })

  test('the device configuration follows at 20, for there is no MSI-X', () => {
    expect(legacy().capacity).toBe(2048)
  })

  test('page number 0 takes a queue away', () => {
    const driver = legacy()
    driver.slot.out16(driver.legacy(14), 0)
    driver.slot.out32(driver.legacy(8), 0)
    expect(driver.slot.in32(driver.legacy(8))).toBe(0)
    driver.add(driver.build(T.FLUSH, 0))
    driver.notify()
    expect(driver.used()).toEqual([])
    expect(driver.fault).toBeUndefined()
  })

  test('features that were not offered are not taken', () => {
    const driver = legacy()
    driver.slot.out32(driver.legacy(4), 0xffffffff)
    expect(driver.slot.in32(driver.legacy(4))).toBe(driver.slot.in32(driver.legacy(0)))
  })

  test('it neither shows nor takes features beyond 31, and those of the legacy interface show only there', () => {
    expect([...new Driver().offered()]).not.toEqual(expect.arrayContaining([F.NOTIFY_ON_EMPTY]))
    expect([...new Driver().offered()]).not.toEqual(expect.arrayContaining([F.ANY_LAYOUT]))
    expect([...legacy().offered()]).toEqual(expect.arrayContaining([F.NOTIFY_ON_EMPTY, F.ANY_LAYOUT]))
  })

  test('a notification of a queue that there is not (CVE-2011-2512)', () => {
    const driver = legacy()
    for (const queue of [1, 255, 0x8000, 0xffff]) driver.notify(queue)
    expect(driver.fault).toBeUndefined()
  })

  test('a modern driver may follow a legacy one, and the other way round', () => {
    const driver = legacy()
    driver.write(0, pattern(512))
    const { slot } = driver
    slot.out8(driver.legacy(18), 0)
    expect(driver.common8(COMMON.deviceStatus)).toBe(0)
    driver.setCommon8(COMMON.deviceStatus, ACKNOWLEDGE | DRIVER)
    expect(slot.in8(driver.legacy(18))).toBe(ACKNOWLEDGE | DRIVER)
  })
})

test('a reset of the bus brings back power-on state', async () => {
  const driver = new Driver()
  driver.send(driver.build(T.FLUSH, 0))
  await driver.slot.device.reset()
  expect(driver.bus.intxLevel).toBe(false)
  expect(driver.slot.device.config.command).toBe(0)
  expect(driver.slot.device.device.status).toBe(0)
  expect(driver.slot.device.config.barAddress(2)).toBe(0)
})
