/** virtio 1.2, 2.6 to 2.8: virtqueues, the same tests on every face and ring. */
import { describe, expect, test } from 'vitest'
import { bytesVec } from '../../../src/block/iovec.ts'
import { microtasks } from '../machine.ts'
import { Slow } from '../slow.ts'
import { Driver, F, FACES, IOERR, OK, pattern, type Request, T } from './driver.ts'
import { PackedDriver } from './rings.ts'

describe.each(FACES)('virtqueue, $name', (face) => {
  test('2.7.13: several buffers behind one notification are all used, in one interrupt', () => {
    const driver = new Driver(face)
    const requests = [1, 2, 3].map((sector) =>
      driver.add(driver.build(T.OUT, sector, { output: pattern(512, sector) })),
    )
    driver.notify()
    expect(driver.used().map(({ id }) => id)).toEqual(requests.map(({ id }) => id))
    expect(requests.map(({ status }) => status)).toEqual([OK, OK, OK])
    expect(driver.bus.intxEdges).toBe(1)
    expect(driver.isr()).toBe(1)
    expect(driver.bus.intxLevel).toBe(false)
  })

  test('2.7.10: a notification without buffers does nothing', () => {
    const driver = new Driver(face)
    driver.notify()
    driver.notify()
    expect(driver.used()).toEqual([])
    expect(driver.bus.intxLevel).toBe(false)
    expect(driver.fault).toBeUndefined()
  })

  test('2.7.4: framing is independent of contents (any layout)', () => {
    const driver = new Driver(face)
    const bytes = pattern(1024)
    driver.write(4, bytes)
    const request = driver.build(T.IN, 4, { input: 1024 })
    const [header, room, status] = request.elements
    request.elements.splice(
      0,
      3,
      { at: header!.at, length: 3 },
      { at: header!.at + 3, length: 0 },
      { at: header!.at + 3, length: 13 },
      { at: room!.at, length: 1, write: true },
      { at: room!.at + 1, length: 1000, write: true },
      { at: room!.at + 1001, length: 23, write: true },
      { at: status!.at, length: 1, write: true },
    )
    expect(driver.send(request)).toEqual({ status: OK, length: 1025, data: bytes })
  })

  test('2.7.4: the status may be the last byte of the data descriptor, the data follow the header in its own', () => {
    const driver = new Driver(face)
    const header = driver.build(T.OUT, 9).elements[0]!
    const whole = driver.store([...driver.bytes(header.at, 16), ...pattern(512, 3)])
    const status = driver.store([0xee])
    driver.queue.add([
      { at: whole, length: 16 + 512 },
      { at: status, length: 1, write: true },
    ])
    const back = driver.alloc(513)
    driver.queue.add([
      { at: driver.build(T.IN, 9).elements[0]!.at, length: 16 },
      { at: back, length: 513, write: true },
    ])
    driver.notify()
    expect(driver.used().map(({ length }) => length)).toEqual([1, 513])
    expect(driver.bytes(back, 513)).toEqual(Uint8Array.from([...pattern(512, 3), OK]))
  })

  test('2.7.5.3, 2.8.7: a request in an indirect table', () => {
    const driver = new Driver(face)
    const bytes = pattern(2048)
    expect(driver.send(driver.build(T.OUT, 1, { output: bytes }), { indirect: true })).toMatchObject({ status: OK })
    const answer = driver.send(driver.build(T.IN, 1, { input: 2048 }), { indirect: true })
    expect(answer).toEqual({ status: OK, length: 2049, data: bytes })
  })

  test('2.7.5.3.2: the write flag of a descriptor that refers to a table is ignored', () => {
    const driver = new Driver(face)
    const request = driver.add(driver.build(T.IN, 0, { input: 512 }), { indirect: true })
    const { data } = driver.bus.memory
    const flags = driver.queue.descriptors + (face.ring === 'packed' ? 14 : 12)
    data.setUint16(flags, data.getUint16(flags, true) | 2, true)
    driver.notify()
    expect(request.status).toBe(OK)
  })

  test('2.7.8.2: used length counts what was written from the start of the writable part', () => {
    const driver = new Driver(face)
    expect(driver.write(0, pattern(512)).length).toBe(1)
    expect(driver.read(0, 512).length).toBe(513)
    expect(driver.send(driver.build(T.FLUSH, 0)).length).toBe(1)
    expect(driver.send(driver.build(T.GET_ID, 0, { input: 20 })).length).toBe(21)
    // Only the status, which comes last, was written: nothing from the start.
    const failed = driver.read(1 << 20, 512)
    expect(failed).toMatchObject({ status: IOERR, length: 0 })
  })

  test('2.7.7, 2.8.10: no interrupt while the driver wants none', () => {
    const driver = new Driver({ ...face, refuse: [F.EVENT_IDX, F.NOTIFY_ON_EMPTY] })
    driver.queue.interrupts(false)
    driver.write(0, pattern(512))
    expect(driver.bus.intxEdges).toBe(0)
    driver.queue.interrupts(true)
    driver.write(0, pattern(512))
    expect(driver.bus.intxEdges).toBe(1)
  })

  test('2.7.7, 2.8.10: with event index, an interrupt when the entry that was asked for is used, and not before', () => {
    const driver = new Driver(face)
    expect(driver.features.has(F.EVENT_IDX)).toBe(true)
    const entries = face.ring === 'packed' ? 2 : 1
    driver.queue.interruptAfter(2 * entries + 1)
    const edges = [0, 1, 2, 3].map(() => {
      driver.send(driver.build(T.FLUSH, 0))
      driver.isr()
      return driver.bus.intxEdges
    })
    expect(edges).toEqual([0, 0, 1, 1])
  })

  test('2.7.7, 2.8.10: with event index, a batch that passes the entry interrupts once', () => {
    const driver = new Driver(face)
    const entries = face.ring === 'packed' ? 2 : 1
    driver.queue.interruptAfter(2 * entries)
    for (let i = 0; i < 5; i++) driver.add(driver.build(T.FLUSH, 0))
    driver.notify()
    expect(driver.used()).toHaveLength(5)
    expect(driver.bus.intxEdges).toBe(1)
  })

  test('2.7.10: with event index, the device asks for a notification of every buffer that is next', () => {
    const driver = new Driver(face)
    for (let i = 0; i < 3; i++) {
      driver.add(driver.build(T.FLUSH, 0))
      expect(driver.queue.wantsKick()).toBe(true)
      driver.notify()
      driver.used()
    }
  })

  test('positions wrap: more requests than 16 bits count, or many laps', { timeout: 30_000 }, () => {
    const driver = new Driver({ ...face, device: { queueSize: 4 } })
    const request = driver.build(T.FLUSH, 0)
    const rounds = face.ring === 'split' ? 66_000 : 1000
    for (let i = 0; i < rounds; i++) {
      driver.bus.memory.ram[request.statusAt] = 0xee
      driver.send(request)
      if (request.status !== OK) expect(`request ${i}`).toBe('done')
    }
    expect(driver.fault).toBeUndefined()
  })

  test('a queue filled to its last entry', () => {
    const driver = new Driver({ ...face, device: { queueSize: 8 } })
    for (let round = 0; round < 3; round++) {
      for (let i = 0; i < 4; i++) driver.add(driver.build(T.FLUSH, 0))
      driver.notify()
      expect(driver.used()).toHaveLength(4)
    }
    const many = driver.build(T.IN, 0, { input: 6 * 512 })
    const [header, room, status] = many.elements
    many.elements.splice(0, 3, header!)
    for (let i = 0; i < 6; i++) many.elements.push({ at: room!.at + 512 * i, length: 512, write: true })
    many.elements.push(status!)
    expect(driver.send(many)).toMatchObject({ status: OK, length: 6 * 512 + 1 })
  })

  test('buffers end out of order, each with its own id', async () => {
    const slow = new Slow()
    const driver = new Driver({ ...face, on: slow })
    const requests = [0, 1, 2].map((sector) => driver.add(driver.build(T.IN, sector, { input: 512 })))
    driver.notify()
    slow.pending[2]!.complete()
    await microtasks()
    slow.pending[0]!.complete()
    await microtasks()
    expect(driver.used().map(({ id }) => id)).toEqual([requests[2]!.id, requests[0]!.id])
    await slow.settle()
    expect(driver.used().map(({ id }) => id)).toEqual([requests[1]!.id])
  })

  test('completions that come later interrupt by themselves', async () => {
    const slow = new Slow()
    const driver = new Driver({ ...face, on: slow })
    driver.add(driver.build(T.IN, 0, { input: 512 }))
    driver.notify()
    expect(driver.bus.intxLevel).toBe(false)
    await slow.settle()
    expect(driver.bus.intxLevel).toBe(true)
    expect(driver.used()).toHaveLength(1)
  })

  test('guest memory that moves while a request is under way is found again', async () => {
    const slow = new Slow()
    slow.memory.write(0, bytesVec(pattern(512)))
    const driver = new Driver({ ...face, on: slow })
    const request = driver.add(driver.build(T.IN, 0, { input: 512 }))
    driver.notify()
    driver.bus.memory.move()
    await slow.settle()
    expect(driver.used()).toEqual([{ id: request.id, length: 513 }])
    expect(request.data).toEqual(pattern(512))
  })

  test('all that the device writes is said to be dirty', () => {
    const driver = new Driver(face)
    const request = driver.build(T.IN, 0, { input: 512 })
    driver.bus.memory.dirtied.length = 0
    driver.send(request)
    expect(driver.bus.memory.isDirty(request.room, 512)).toBe(true)
    expect(driver.bus.memory.isDirty(request.statusAt, 1)).toBe(true)
    const ring = face.ring === 'packed' ? driver.queue.descriptors : driver.queue.device
    expect(driver.bus.memory.isDirty(ring, 16)).toBe(true)
  })

  test('several queues, each with its own ring', () => {
    const driver = new Driver({ ...face, device: { numQueues: 4 } })
    expect(driver.queues).toHaveLength(4)
    for (let queue = 0; queue < 4; queue++) {
      const output = pattern(512, queue)
      expect(driver.send(driver.build(T.OUT, queue, { output }), { queue })).toMatchObject({ status: OK })
    }
    expect(driver.read(3, 512).data).toEqual(pattern(512, 3))
    expect(driver.used(1)).toEqual([])
  })

  test('work per notification is bounded: the rest comes when the guest has had a turn', () => {
    const driver = new Driver({ ...face, ramSize: 32 << 20, refuse: [F.EVENT_IDX] })
    for (let i = 0; i < 10; i++) driver.add(driver.build(T.IN, 0, { input: 1 << 20 }))
    driver.notify()
    const first = driver.used().length
    expect(first).toBeLessThan(10)
    expect(driver.isr()).toBe(1)
    driver.bus.clock.turn()
    expect(first + driver.used().length).toBe(10)
    expect(driver.isr()).toBe(1)
    expect(driver.bus.clock.deferred).toBe(0)
  })

  test('many small requests behind one notification: a loop, not a recursion, and all at once', () => {
    const driver = new Driver({ ...face, device: { queueSize: 1024 } })
    // A FLUSH takes two descriptors, and legacy drivers get 256.
    const count = face.face === 'legacy' ? 128 : 512
    for (let i = 0; i < count; i++) driver.add(driver.build(T.FLUSH, 0))
    driver.notify()
    expect(driver.used()).toHaveLength(count)
    expect(driver.bus.intxEdges).toBe(1)
  })
})

describe('2.7 Split virtqueues', () => {
  test('2.7.5.3.2: normal descriptors followed by one that refers to a table', () => {
    const driver = new Driver()
    const request = driver.build(T.IN, 0, { input: 512 })
    const table = driver.alloc(32)
    const { data } = driver.bus.memory
    for (const [i, element] of request.elements.slice(1).entries()) {
      data.setBigUint64(table + 16 * i, BigInt(element.at), true)
      data.setUint32(table + 16 * i + 8, element.length, true)
      data.setUint16(table + 16 * i + 12, i === 0 ? 3 : 2, true)
      data.setUint16(table + 16 * i + 14, i + 1, true)
    }
    driver.queue.add([request.elements[0]!, { at: table, length: 32 }])
    const second = data.getUint16(driver.queue.descriptors + 14, true)
    data.setUint16(driver.queue.descriptors + 16 * second + 12, 4, true)
    driver.notify()
    expect(driver.used()).toEqual([{ id: 0, length: 513 }])
    expect(request.status).toBe(OK)
  })

  test('6.3: VIRTIO_F_NOTIFY_ON_EMPTY interrupts when the last buffer is used, whatever the driver says', () => {
    const driver = new Driver({ face: 'legacy', refuse: [F.EVENT_IDX] })
    expect(driver.features.has(F.NOTIFY_ON_EMPTY)).toBe(true)
    driver.queue.interrupts(false)
    driver.send(driver.build(T.FLUSH, 0))
    expect(driver.bus.intxEdges).toBe(1)
  })

  test('6.3: with it, no interrupt while buffers are left', async () => {
    const slow = new Slow()
    const driver = new Driver({ face: 'legacy', on: slow, refuse: [F.EVENT_IDX] })
    driver.queue.interrupts(false)
    driver.add(driver.build(T.IN, 0, { input: 512 }))
    driver.add(driver.build(T.IN, 0, { input: 512 }))
    driver.notify()
    slow.next()
    await microtasks()
    expect(driver.used()).toHaveLength(1)
    expect(driver.bus.intxEdges).toBe(0)
    await slow.settle()
    expect(driver.bus.intxEdges).toBe(1)
  })

  test('4.1.5.1.3: a smaller queue than the device offers', () => {
    const driver = new Driver({ queueSize: 16 })
    expect(driver.queue.size).toBe(16)
    for (let i = 0; i < 40; i++) expect(driver.send(driver.build(T.FLUSH, 0)).status).toBe(OK)
  })
})

describe('2.8 Packed virtqueues', () => {
  test('2.8.10.1: a size that is no power of two', () => {
    const driver = new Driver({ ring: 'packed', queueSize: 7 })
    expect(driver.queue.size).toBe(7)
    const bytes = pattern(512)
    for (let i = 0; i < 40; i++) {
      driver.write(i, bytes)
      expect(driver.read(i, 512)).toEqual({ status: OK, length: 513, data: bytes })
    }
  })

  test('2.8.5: lists that wrap around the end of the ring', () => {
    const driver = new Driver({ ring: 'packed', queueSize: 5 })
    for (let i = 0; i < 23; i++) {
      const output = pattern(512, i)
      expect(driver.send(driver.build(T.OUT, i, { output })).status).toBe(OK)
      expect(driver.send(driver.build(T.IN, i, { input: 512 }), { indirect: true }).data).toEqual(output)
    }
  })

  test('2.8.3: the write flag of a used descriptor says whether anything was written', () => {
    const driver = new Driver({ ring: 'packed' })
    driver.read(1 << 20, 512)
    expect(driver.bus.memory.data.getUint16(driver.queue.descriptors + 14, true) & 2).toBe(0)
  })

  test('2.8.10: an event in the lap that was is not waited for again', () => {
    const driver = new Driver({ ring: 'packed', queueSize: 8 })
    expect(driver.queue).toBeInstanceOf(PackedDriver)
    for (let i = 0; i < 4; i++) driver.send(driver.build(T.FLUSH, 0))
    driver.isr()
    const edges = driver.bus.intxEdges
    // The last entry of the lap that just ended.
    driver.bus.memory.data.setUint16(driver.queue.driver, 7 | (1 << 15), true)
    driver.bus.memory.data.setUint16(driver.queue.driver + 2, 2, true)
    driver.send(driver.build(T.FLUSH, 0))
    expect(driver.bus.intxEdges).toBe(edges)
  })
})

describe.each(FACES.filter(({ face }) => face === 'modern'))('VIRTIO_F_IN_ORDER, $name', (face) => {
  test('2.7.9, 2.8.8: buffers are used in the order in which they were made available', async () => {
    const slow = new Slow()
    const driver = new Driver({ ...face, on: slow, device: { inOrder: true } })
    expect(driver.features.has(F.IN_ORDER)).toBe(true)
    const requests: Request[] = [0, 1, 2].map((sector) => driver.add(driver.build(T.IN, sector, { input: 512 })))
    driver.notify()
    slow.pending[2]!.complete()
    slow.pending[1]!.complete()
    await microtasks()
    expect(driver.used()).toEqual([])
    expect(driver.bus.intxLevel).toBe(false)
    slow.next()
    await microtasks()
    expect(driver.used()).toEqual(requests.map(({ id }) => ({ id, length: 513 })))
    expect(driver.bus.intxEdges).toBe(1)
  })

  test('it is not offered unless asked for', () => {
    expect(new Driver(face).offered().has(F.IN_ORDER)).toBe(false)
  })
})
