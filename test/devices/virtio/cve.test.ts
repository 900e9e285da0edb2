/** Public vulnerabilities of virtio devices elsewhere, each as the test that would have found it. */
import { describe, expect, test } from 'vitest'
import { bytesVec } from '../../../src/block/iovec.ts'
import { microtasks } from '../machine.ts'
import { Slow } from '../slow.ts'
import { COMMON, Driver, FACES, IOERR, OK, pattern, T, UNSUPP } from './driver.ts'
import type { PackedDriver, SplitDriver } from './rings.ts'

describe.each(FACES)('$name', (face) => {
  test('CVE-2011-1750: a request that is no multiple of a sector', () => {
    const driver = new Driver(face)
    const guard = driver.store(new Uint8Array(64).fill(0x55))
    expect(driver.read(0, 100)).toMatchObject({ status: IOERR, length: 0 })
    expect(driver.write(2047, pattern(513)).status).toBe(IOERR)
    expect(driver.bytes(guard, 64)).toEqual(new Uint8Array(64).fill(0x55))
  })

  test('CVE-2011-2512: a queue number below 0, or beyond the last', () => {
    const driver = new Driver(face)
    for (const queue of [-1, -32768, 1, 64, 0xffff]) {
      if (face.face === 'legacy') driver.notify(queue)
      else {
        driver.setCommon16(COMMON.queueSelect, queue)
        driver.slot.device.device.notify(queue)
      }
    }
    expect(driver.fault).toBeUndefined()
    expect(driver.read(0, 512).status).toBe(OK)
  })

  test('CVE-2013-4377: the disk is taken away while requests are under way', async () => {
    const slow = new Slow()
    const driver = new Driver({ ...face, on: slow })
    const request = driver.add(driver.build(T.IN, 0, { input: 512 }))
    driver.notify()
    const closed = driver.disk.close()
    await slow.settle()
    await closed
    expect(request.status).toBe(OK)
    driver.used()
    expect(driver.read(0, 512).status).toBe(IOERR)
    expect(driver.write(0, pattern(512)).status).toBe(IOERR)
    expect(driver.send(driver.build(T.FLUSH, 0)).status).toBe(IOERR)
    driver.initialize()
    expect(driver.send(driver.build(T.GET_ID, 0, { input: 20 })).status).toBe(OK)
  })

  test('CVE-2016-5403: the same buffers made available again and again while they are under way', async () => {
    const slow = new Slow()
    const driver = new Driver({ ...face, on: slow, device: { queueSize: 16 } })
    const request = driver.build(T.IN, 0, { input: 512 })
    driver.add(request)
    driver.notify()
    for (let i = 0; i < 10_000 && !driver.needsReset; i++) {
      if (driver.ring === 'packed') (driver.queue as PackedDriver).offer(request.elements, request.id)
      else (driver.queue as SplitDriver).offer(request.id)
      driver.notify()
    }
    expect(driver.needsReset).toBe(true)
    expect(slow.pending.length).toBeLessThanOrEqual(16)
    await slow.settle()
  })

  test('CVE-2016-7422: a descriptor longer than RAM', () => {
    const driver = new Driver(face)
    const request = driver.build(T.IN, 0, { input: 512 })
    request.elements[1]!.length = 0xffff_fe00
    driver.add(request)
    driver.notify()
    expect(driver.needsReset).toBe(true)
  })

  test('CVE-2023-5088: a reset while a write is under way moves it nowhere', async () => {
    const slow = new Slow()
    slow.memory.write(0, bytesVec(pattern(512, 1)))
    const driver = new Driver({ ...face, on: slow })
    driver.add(driver.build(T.OUT, 100, { output: pattern(512, 2) }))
    driver.notify()
    await Promise.all([driver.slot.device.reset(), slow.settle()])
    const first = new Uint8Array(512)
    slow.memory.read(0, bytesVec(first))
    expect(first).toEqual(pattern(512, 1))
  })

  test('CVE-2024-3446: the device’s own registers as the target of its DMA', () => {
    const driver = new Driver(face)
    const doorbell = driver.slot.base(face.face === 'legacy' ? 0 : 2)
    const request = driver.build(T.IN, 0, { input: 512 })
    request.elements[1]!.at = 0xfd000000 + doorbell
    driver.add(request)
    driver.notify()
    expect(driver.needsReset).toBe(true)
    expect(driver.used()).toEqual([])
  })

  test('CVE-2024-8612: the used length never counts what was not written', async () => {
    const driver = new Driver(face)
    const unwritten = [
      driver.build(T.IN, 1 << 30, { input: 4096 }),
      driver.build(T.IN, 0, { input: 4000 }),
      driver.build(99, 0, { input: 4096 }),
      driver.build(T.GET_LIFETIME, 0, { input: 4096 }),
      driver.build(T.FLUSH, 0, { input: 4096 }),
      driver.build(T.OUT, 0, { output: pattern(512), input: 4096 }),
    ]
    for (const request of unwritten) {
      driver.bus.memory.ram.fill(0x77, request.room, request.room + request.input)
      const answer = driver.send(request)
      expect(answer.length).toBe(0)
      expect(answer.data.every((byte) => byte === 0x77)).toBe(true)
    }
    expect(unwritten.map(({ status }) => status)).toEqual([IOERR, IOERR, UNSUPP, UNSUPP, OK, IOERR])
    await microtasks()
  })
})
