/** Resets, draining, saved states, and what is under way meanwhile: virtio 1.2, 2.1.1, 2.4, 2.6.1; 4.1.4.3. */
import { describe, expect, test } from 'vitest'
import { BlockError } from '../../../src/block/error.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import type { Saved } from '../../../src/devices/machine.ts'
import { microtasks } from '../machine.ts'
import { Slow } from '../slow.ts'
import { COMMON, Driver, F, FACES, NEEDS_RESET, OK, pattern, T } from './driver.ts'
import type { SplitDriver } from './rings.ts'

describe.each(FACES)('2.4 Device reset, $name', (face) => {
  test('writing 0 resets everything that the driver had set', () => {
    const driver = new Driver({ ...face, device: { numQueues: 2 } })
    driver.send(driver.build(T.FLUSH, 0))
    driver.status = 0
    expect(driver.status).toBe(0)
    expect(driver.bus.intxLevel).toBe(false)
    expect(driver.isr()).toBe(0)
    if (face.face === 'modern') {
      expect(driver.common32(COMMON.driverFeatureSelect)).toBe(0)
      expect(driver.common32(COMMON.driverFeature)).toBe(0)
      for (const queue of [0, 1]) {
        driver.setCommon16(COMMON.queueSelect, queue)
        expect(driver.common16(COMMON.queueEnable)).toBe(0)
        expect(driver.common32(COMMON.queueDesc)).toBe(0)
        expect(driver.common16(COMMON.queueSize)).toBe(512)
      }
    } else {
      expect(driver.slot.in32(driver.legacy(4))).toBe(0)
      expect(driver.slot.in32(driver.legacy(8))).toBe(0)
    }
    driver.notify()
    driver.initialize()
    expect(driver.read(0, 512).status).toBe(OK)
  })

  test('what was under way never completes, in memory or in the ring (CVE-2023-5088)', async () => {
    const slow = new Slow()
    const driver = new Driver({ ...face, on: slow })
    driver.add(driver.build(T.IN, 0, { input: 512 }))
    driver.add(driver.build(T.OUT, 9, { output: pattern(512) }))
    driver.notify()
    driver.status = 0
    const { ram } = driver.bus.memory
    ram.fill(0xaa, 0x100000)
    await slow.settle()
    expect(ram.subarray(0x100000).every((byte) => byte === 0xaa)).toBe(true)
    const sector = new Uint8Array(512)
    slow.memory.read(9 * 512, bytesVec(sector))
    expect(sector).toEqual(new Uint8Array(512))
    expect(driver.bus.intxEdges).toBe(0)
  })

  test('requests of the new driver wait until the host has let go of the old ones', async () => {
    const slow = new Slow()
    const driver = new Driver({ ...face, on: slow })
    driver.add(driver.build(T.IN, 0, { input: 512 }))
    driver.notify()
    driver.initialize()
    const request = driver.add(driver.build(T.IN, 1, { input: 512 }))
    driver.notify()
    expect(slow.pending.map(({ at }) => at)).toEqual([0])
    slow.next()
    await microtasks()
    expect(slow.pending.map(({ at }) => at)).toEqual([512])
    slow.next()
    await microtasks()
    expect(driver.used()).toEqual([{ id: request.id, length: 513 }])
  })

  test('a reset over and over again while the host is busy costs nothing', async () => {
    const slow = new Slow()
    const driver = new Driver({ ...face, on: slow, device: { queueSize: 64 }, ramSize: 8 << 20 })
    for (let i = 0; i < 50; i++) {
      for (let j = 0; j < 20; j++) driver.add(driver.build(T.IN, 0, { input: 512 }))
      driver.notify()
      driver.initialize()
    }
    expect(slow.pending).toHaveLength(20)
    await slow.settle()
    slow.direct = true
    expect(driver.write(0, pattern(512)).status).toBe(OK)
  })

  test('a reset of the machine completes when the host has let go', async () => {
    const slow = new Slow()
    const driver = new Driver({ ...face, on: slow })
    driver.add(driver.build(T.IN, 0, { input: 512 }))
    driver.notify()
    let done = false
    const reset = Promise.resolve(driver.slot.device.reset()).then(() => (done = true))
    await microtasks()
    expect(done).toBe(false)
    slow.next()
    await reset
    expect(done).toBe(true)
  })

  test('with nothing under way a reset of the machine is done at once', () => {
    expect(new Driver(face).slot.device.reset()).toBeUndefined()
  })

  test('a request that the error policy holds is dropped by a reset', async () => {
    const slow = new Slow()
    const driver = new Driver({ ...face, on: slow, disk: { werror: 'stop' } })
    driver.add(driver.build(T.OUT, 0, { output: pattern(512) }))
    driver.notify()
    slow.pending[0]!.fail(new BlockError('ENOSPC', 'Cannot write'))
    await microtasks()
    expect(driver.disk.held).toBe(1)
    driver.status = 0
    await microtasks()
    expect(driver.disk.held).toBe(0)
    driver.initialize()
    slow.direct = true
    expect(driver.read(0, 512).status).toBe(OK)
  })

  test('with the policy `stop` a request waits, and completes when resumed', async () => {
    const slow = new Slow()
    const driver = new Driver({ ...face, on: slow, disk: { werror: 'stop' } })
    const request = driver.add(driver.build(T.OUT, 0, { output: pattern(512) }))
    driver.notify()
    slow.pending[0]!.fail(new BlockError('ENOSPC', 'Cannot write'))
    await microtasks()
    expect(request.status).toBe(0xee)
    driver.disk.resume()
    await slow.settle()
    expect(request.status).toBe(OK)
    expect(driver.used()).toHaveLength(1)
  })
})

describe('2.1.2: reading the status during a reset', () => {
  test('it stays what it was until the host has let go', async () => {
    const slow = new Slow()
    const driver = new Driver({ on: slow })
    driver.add(driver.build(T.IN, 0, { input: 512 }))
    driver.notify()
    driver.status = 0
    expect(driver.status).toBe(0x0f)
    driver.status = 0
    expect(driver.status).toBe(0x0f)
    slow.next()
    await microtasks()
    expect(driver.status).toBe(0)
  })

  test('a legacy driver, which does not wait but adds bits to what it reads, finds 0', () => {
    const slow = new Slow()
    const driver = new Driver({ face: 'legacy', on: slow })
    driver.add(driver.build(T.IN, 0, { input: 512 }))
    driver.notify()
    driver.status = 0
    expect(driver.status).toBe(0)
  })

  test('a reset after DEVICE_NEEDS_RESET waits as well', async () => {
    const slow = new Slow()
    const driver = new Driver({ on: slow })
    driver.add(driver.build(T.IN, 0, { input: 512 }))
    driver.queue.add([{ at: 0, length: 1 }])
    driver.notify()
    expect(driver.status & NEEDS_RESET).toBe(NEEDS_RESET)
    driver.status = 0
    expect(driver.status).not.toBe(0)
    slow.next()
    await microtasks()
    expect(driver.status).toBe(0)
    expect(driver.used()).toEqual([])
  })
})

describe.each(FACES.filter(({ face }) => face === 'modern'))('2.6.1 Virtqueue reset, $name', (face) => {
  const resetQueue = (driver: Driver, queue = 0) => {
    driver.setCommon16(COMMON.queueSelect, queue)
    driver.setCommon16(COMMON.queueReset, 1)
  }
  const state = (driver: Driver) => [driver.common16(COMMON.queueReset), driver.common16(COMMON.queueEnable)]

  test('an idle queue is reset at once and may be placed elsewhere, with another size', () => {
    const driver = new Driver({ ...face, device: { numQueues: 2 } })
    driver.send(driver.build(T.FLUSH, 0))
    resetQueue(driver)
    expect(state(driver)).toEqual([0, 0])
    expect(driver.common16(COMMON.queueSize)).toBe(512)
    driver.setCommon16(COMMON.queueSize, 32)
    driver.queues[0] = driver.setUpQueue(0)
    expect(driver.queue.size).toBe(32)
    expect(driver.send(driver.build(T.FLUSH, 0)).status).toBe(OK)
    expect(driver.send(driver.build(T.FLUSH, 0), { queue: 1 }).status).toBe(OK)
  })

  test('queue_reset reads 1 until the queue’s requests have ended, and none of them is used', async () => {
    const slow = new Slow()
    const driver = new Driver({ ...face, on: slow, device: { numQueues: 2 } })
    const lost = driver.add(driver.build(T.IN, 0, { input: 512 }))
    driver.notify()
    const other = driver.add(driver.build(T.IN, 1, { input: 512 }), { queue: 1 })
    driver.notify(1)
    resetQueue(driver)
    expect(state(driver)).toEqual([1, 1])
    driver.setCommon16(COMMON.queueEnable, 1)
    slow.pending[1]!.complete()
    await microtasks()
    expect(state(driver)).toEqual([1, 1])
    expect(driver.used(1)).toEqual([{ id: other.id, length: 513 }])
    slow.next()
    await microtasks()
    expect(state(driver)).toEqual([0, 0])
    expect(lost.status).toBe(0xee)
    expect(driver.used()).toEqual([])
  })

  test('it does nothing unless it was negotiated', () => {
    const driver = new Driver({ ...face, refuse: [F.RING_RESET] })
    resetQueue(driver)
    expect(state(driver)).toEqual([0, 1])
    expect(driver.send(driver.build(T.FLUSH, 0)).status).toBe(OK)
  })

  test('what a bounded doorbell left over does not come back after it', () => {
    const driver = new Driver({ ...face, ramSize: 32 << 20 })
    for (let i = 0; i < 12; i++) driver.add(driver.build(T.IN, 0, { input: 1 << 20 }))
    driver.notify()
    const used = driver.used().length
    resetQueue(driver)
    driver.bus.clock.turn()
    expect(driver.used()).toEqual([])
    expect(used).toBeLessThan(12)
  })
})

test('4.1.4.10: a legacy driver that places a queue anew waits for what was in the old one', async () => {
  const slow = new Slow()
  const driver = new Driver({ face: 'legacy', on: slow })
  for (let round = 0; round < 10; round++) {
    for (let i = 0; i < 20; i++) driver.add(driver.build(T.IN, 0, { input: 512 }))
    driver.notify()
    driver.queues = [driver.setUpQueue(0)]
  }
  expect(slow.pending).toHaveLength(20)
  const request = driver.add(driver.build(T.IN, 0, { input: 512 }))
  driver.notify()
  await slow.settle()
  expect(driver.used()).toEqual([{ id: request.id, length: 513 }])
})

describe('drain', () => {
  test('is done at once when nothing is under way', () => {
    expect(new Driver().slot.device.drain()).toBeUndefined()
  })

  test('completes when every request was answered and shown', async () => {
    const slow = new Slow()
    const driver = new Driver({ on: slow })
    driver.add(driver.build(T.IN, 0, { input: 512 }))
    driver.add(driver.build(T.FLUSH, 0))
    driver.notify()
    let done = false
    const drained = Promise.resolve(driver.slot.device.drain()).then(() => (done = true))
    slow.next()
    await microtasks()
    expect(done).toBe(false)
    slow.next()
    await drained
    expect(driver.used()).toHaveLength(2)
  })

  test('does not wait for a request that the error policy holds', async () => {
    const slow = new Slow()
    const driver = new Driver({ on: slow, disk: { werror: 'stop' } })
    driver.add(driver.build(T.OUT, 0, { output: pattern(512) }))
    driver.notify()
    const drained = driver.slot.device.drain()
    slow.pending[0]!.fail(new BlockError('ENOSPC', 'Cannot write'))
    await drained
    expect(driver.disk.held).toBe(1)
    expect(driver.slot.device.drain()).toBeUndefined()
  })
})

describe.each(FACES)('save and restore, $name', (face) => {
  /** Another machine with the same RAM, whose device takes up the state. */
  const resume = (from: Driver, state: Saved, on = from.options.on) => {
    const options = { ...from.options, ...(on && { on }), start: false }
    const to = new Driver(options)
    to.bus.memory.ram.set(from.bus.memory.ram)
    to.slot.device.restore(structuredClone(state) as Saved)
    return to
  }

  test('a driver goes on where it was: features, rings, positions, interrupt, cache mode', () => {
    const driver = new Driver({ ...face, device: { numQueues: 2 } })
    for (let i = 0; i < 5; i++) driver.send(driver.build(T.FLUSH, 0), { queue: 1 })
    driver.setConfig8(32, 0)
    const state = driver.slot.device.save()
    const ram = driver.bus.memory.ram.slice()
    driver.isr()
    driver.send(driver.build(T.FLUSH, 0), { queue: 1 })
    driver.status = 0

    driver.bus.memory.ram.set(ram)
    driver.slot.device.restore(state)
    expect(driver.bus.intxLevel).toBe(true)
    expect(driver.isr()).toBe(1)
    expect(driver.disk.writeCache).toBe(false)
    expect(driver.slot.device.save()).toEqual({ ...(state as object), device: expect.anything() })
    const { statusAt } = driver.build(T.FLUSH, 0)
    expect(driver.bus.memory.ram[statusAt]).toBe(0xee)
    driver.add(driver.build(T.FLUSH, 0))
    driver.notify()
    expect(driver.used()).toHaveLength(1)
  })

  test('requests under way are issued again, once the bus runs', async () => {
    const slow = new Slow()
    const driver = new Driver({ ...face, on: slow })
    const read = driver.add(driver.build(T.IN, 3, { input: 512 }), { indirect: true })
    const write = driver.add(driver.build(T.OUT, 5, { output: pattern(512) }))
    driver.notify()
    const state = driver.slot.device.save()

    const other = new Slow()
    other.memory.write(3 * 512, bytesVec(pattern(512, 8)))
    other.direct = true
    const to = resume(driver, state, other)
    expect(to.bus.memory.ram[read.statusAt]).toBe(0xee)
    to.bus.clock.turn()
    expect([to.bus.memory.ram[read.statusAt], to.bus.memory.ram[write.statusAt]]).toEqual([OK, OK])
    expect(to.bytes(read.room, 512)).toEqual(pattern(512, 8))
    const sector = new Uint8Array(512)
    other.memory.read(5 * 512, bytesVec(sector))
    expect(sector).toEqual(pattern(512))
    expect(to.bus.intxLevel).toBe(true)
    await slow.settle()
  })

  test('a doorbell that comes first starts them first', () => {
    const slow = new Slow()
    const driver = new Driver({ ...face, on: slow })
    driver.add(driver.build(T.IN, 3, { input: 512 }))
    driver.notify()
    const other = new Slow()
    const to = resume(driver, driver.slot.device.save(), other)
    to.notify()
    expect(other.pending.map(({ at }) => at)).toEqual([3 * 512])
    to.bus.clock.turn()
    expect(other.pending).toHaveLength(1)
  })

  test('what a bounded doorbell left over is done after a restore', () => {
    const driver = new Driver({ ...face, ramSize: 32 << 20 })
    for (let i = 0; i < 12; i++) driver.add(driver.build(T.IN, 0, { input: 1 << 20 }))
    driver.notify()
    const first = driver.used().length
    driver.slot.device.restore(driver.slot.device.save())
    expect(first + driver.used().length).toBeLessThan(12)
    driver.bus.clock.turn()
    driver.bus.clock.turn()
    expect(first + driver.used().length).toBe(12)
  })

  test('what was under way before a restore lands nowhere', async () => {
    const slow = new Slow()
    const driver = new Driver({ ...face, on: slow })
    const state = driver.slot.device.save()
    const ram = driver.bus.memory.ram.slice()
    driver.add(driver.build(T.IN, 3, { input: 512 }))
    driver.notify()
    driver.bus.memory.ram.set(ram)
    driver.slot.device.restore(state)
    await slow.settle()
    expect(Buffer.compare(driver.bus.memory.ram, ram)).toBe(0)
    expect(driver.bus.intxLevel).toBe(false)
  })

  test('a restored request that is reset before the bus runs is gone', () => {
    const slow = new Slow()
    const driver = new Driver({ ...face, on: slow })
    driver.add(driver.build(T.IN, 3, { input: 512 }))
    driver.notify()
    const other = new Slow()
    const to = resume(driver, driver.slot.device.save(), other)
    expect(to.slot.device.drain()).toBeUndefined()
    to.status = 0
    expect(to.status).toBe(0)
    to.bus.clock.turn()
    expect(other.pending).toEqual([])
  })

  test('a restored request whose queue is taken away before the bus runs is gone, and the queue can be used again', () => {
    const slow = new Slow()
    const driver = new Driver({ ...face, on: slow, device: { numQueues: 2 } })
    driver.add(driver.build(T.IN, 3, { input: 512 }))
    driver.add(driver.build(T.IN, 4, { input: 512 }), { queue: 1 })
    driver.notify()
    driver.notify(1)
    const other = new Slow()
    const to = resume(driver, driver.slot.device.save(), other)
    if (to.face === 'legacy') {
      to.slot.out16(to.legacy(14), 0)
      to.slot.out32(to.legacy(8), 0)
    } else {
      to.setCommon16(COMMON.queueSelect, 0)
      to.setCommon16(COMMON.queueReset, 1)
      expect(to.common16(COMMON.queueReset)).toBe(0)
    }
    to.bus.clock.turn()
    expect(other.pending.map(({ at }) => at)).toEqual([4 * 512])
    other.direct = true
    to.queues[0] = to.setUpQueue(0)
    expect(to.send(to.build(T.IN, 5, { input: 512 })).status).toBe(OK)
  })

  test('a state can be saved again before the bus runs', () => {
    const slow = new Slow()
    const driver = new Driver({ ...face, on: slow })
    driver.add(driver.build(T.IN, 3, { input: 512 }))
    driver.notify()
    const state = driver.slot.device.save()
    const to = resume(driver, state, new Slow())
    expect((to.slot.device.save() as { device: unknown }).device).toEqual((state as { device: unknown }).device)
  })

  test('a restore into less RAM is refused, and the device is reset', () => {
    const driver = new Driver({ ...face, ramSize: 4 << 20 })
    driver.alloc(2 << 20)
    driver.initialize()
    const small = new Driver({ ...face, ramSize: 2 << 20 })
    expect(() => small.slot.device.restore(driver.slot.device.save())).toThrow(/Cannot restore virtio-blk/)
    expect(small.slot.device.device.status).toBe(0)
  })

  test('what is no state is refused, and the device is reset', async () => {
    const slow = new Slow()
    const driver = new Driver({ ...face, on: slow, device: { numQueues: 2 } })
    driver.add(driver.build(T.IN, 3, { input: 512 }))
    driver.notify()
    const state = driver.slot.device.save()
    driver.status = 0
    await slow.settle()
    // Every value of the state in turn becomes something that it cannot be.
    const spoiled: Saved[] = [null, 5, 'state', [], {}]
    const spoil = (value: Saved, replace: (by: Saved) => Saved): void => {
      for (const by of [null, 'x', -1, 1.5, 2 ** 40, []]) {
        if (typeof value === 'boolean' || typeof value === 'number' || value === null || Array.isArray(value)) {
          if (JSON.stringify(by) !== JSON.stringify(value)) spoiled.push(replace(by))
        }
      }
      if (typeof value !== 'object' || value === null || value instanceof Uint8Array) return
      for (const [key, part] of Object.entries(value)) {
        spoil(part, (by) =>
          replace(Array.isArray(value) ? value.with(Number(key), by) : { ...(value as object), [key]: by }),
        )
      }
    }
    spoil(state, (by) => by)
    expect(spoiled.length).toBeGreaterThan(100)
    for (const bad of spoiled) {
      try {
        driver.slot.device.restore(bad)
      } catch (error) {
        expect(error).toBeInstanceOf(BlockError)
        expect(driver.slot.device.device.status).toBe(0)
      }
      driver.bus.clock.turn()
      driver.slot.device.device.notify(0)
      await slow.settle()
    }
    driver.slot.device.reset()
    for (const { index } of driver.slot.device.config.bars)
      driver.slot.device.config.setBar(index, driver.slot.base(index))
    driver.slot.device.config.write(4, 2, 7)
    slow.direct = true
    driver.initialize()
    expect(driver.read(0, 512).status).toBe(OK)
  })
})

test('2.7.9: in-order buffers that are done and wait for an older one are issued again after a restore', async () => {
  const slow = new Slow()
  const driver = new Driver({ on: slow, device: { inOrder: true } })
  const requests = [0, 1].map((sector) => driver.add(driver.build(T.IN, sector, { input: 512 })))
  driver.notify()
  slow.pending[1]!.complete()
  await microtasks()
  const state = driver.slot.device.save()
  driver.status = 0
  await slow.settle()
  slow.direct = true
  driver.slot.device.restore(state)
  driver.bus.clock.turn()
  expect((driver.queue as SplitDriver).used()).toEqual(requests.map(({ id }) => ({ id, length: 513 })))
})
