/**
 * What a driver must not do (2.7.4 to 2.7.6, 2.8.5 to 2.8.19). The device asks for a reset (2.1.2), tells so by a configuration
 * change interrupt, touches nothing any more, and works again after the reset.
 */
import { describe, expect, test } from 'vitest'
import { DRIVER_OK, Driver, F, FACES, NEEDS_RESET, OK, pattern, T } from './driver.ts'
import { INDIRECT, NEXT, type PackedDriver, type SplitDriver, WRITE, writeDescriptor } from './rings.ts'

const ISR_CONFIG = 2

function expectBroken(driver: Driver, reason: RegExp): void {
  expect(driver.fault).toMatch(reason)
  expect(driver.status & NEEDS_RESET).toBe(NEEDS_RESET)
  expect(driver.bus.intxLevel).toBe(true)
  expect(driver.isr() & ISR_CONFIG).toBe(ISR_CONFIG)
  const before = driver.bus.memory.ram.slice()
  driver.notify()
  expect(Buffer.compare(driver.bus.memory.ram, before)).toBe(0)
  driver.status |= DRIVER_OK
  expect(driver.status & NEEDS_RESET).toBe(NEEDS_RESET)
  driver.initialize()
  expect(driver.needsReset).toBe(false)
  expect(driver.fault).toBeUndefined()
  expect(driver.write(0, pattern(512)).status).toBe(OK)
}

describe.each(FACES)('a malformed buffer, $name', (face) => {
  const header = (driver: Driver, type: number = T.IN) => driver.build(type, 0).elements[0]!

  test('a descriptor past the end of RAM', () => {
    const driver = new Driver(face)
    driver.queue.add([header(driver), { at: driver.bus.memory.ram.length - 256, length: 513, write: true }])
    driver.notify()
    expectBroken(driver, /outside RAM/)
  })

  test('a descriptor at the last 64-bit addresses', () => {
    const driver = new Driver(face)
    driver.queue.add([header(driver), { at: 0, length: 513, write: true }])
    const at = driver.queue.descriptors + 16
    driver.bus.memory.data.setBigUint64(at, 0xffff_ffff_ffff_fff0n, true)
    driver.notify()
    expectBroken(driver, /outside RAM/)
  })

  test('2.7.5.2: a descriptor of 4 GiB (CVE-2016-7422)', () => {
    const driver = new Driver(face)
    driver.queue.add([header(driver), { at: 0x200000, length: 0xffffffff, write: true }])
    driver.notify()
    expectBroken(driver, /outside RAM/)
  })

  test('a descriptor at a device: the registers of this one, the VGA, the ROM (CVE-2024-3446, CVE-2023-0330)', () => {
    for (const at of [0xa0000, 0x9ff00, 0xfd000000, 0xfffffe00]) {
      const driver = new Driver(face)
      driver.queue.add([header(driver), { at, length: 513, write: true }])
      driver.notify()
      expectBroken(driver, /outside RAM/)
    }
  })

  test('2.7.4.2, 2.8.18: a readable element after a writable one', () => {
    const driver = new Driver(face)
    const request = driver.build(T.IN, 0, { input: 512 })
    driver.queue.add([request.elements[1]!, request.elements[0]!, request.elements[2]!])
    driver.notify()
    expectBroken(driver, /readable descriptor follows/)
  })

  test('a header shorter than 16 bytes', () => {
    const driver = new Driver(face)
    const request = driver.build(T.IN, 0, { input: 512 })
    request.elements[0]!.length = 15
    driver.add(request)
    driver.notify()
    expectBroken(driver, /shorter than its header/)
  })

  test('nothing but a writable element, nothing but a readable one', () => {
    for (const write of [false, true]) {
      const driver = new Driver(face)
      driver.queue.add([{ at: driver.alloc(64), length: 64, write }])
      driver.notify()
      expectBroken(driver, write ? /shorter than its header/ : /no writable status/)
    }
  })

  test('a status byte that the device may not write', () => {
    const driver = new Driver(face)
    const request = driver.build(T.OUT, 0, { output: pattern(512) })
    request.elements.at(-1)!.write = false
    driver.add(request)
    driver.notify()
    expectBroken(driver, /no writable status/)
    expect(request.status).toBe(0xee)
  })

  test('a buffer of empty elements', () => {
    const driver = new Driver(face)
    driver.queue.add([
      { at: 0, length: 0 },
      { at: 0, length: 0, write: true },
    ])
    driver.notify()
    expectBroken(driver, /shorter than its header/)
  })

  test('buffers before it are used, those after it are not', () => {
    const driver = new Driver(face)
    const good = driver.add(driver.build(T.IN, 0, { input: 512 }))
    driver.queue.add([{ at: driver.alloc(8), length: 8 }])
    const never = driver.add(driver.build(T.IN, 0, { input: 512 }))
    driver.notify()
    expect(driver.used()).toEqual([{ id: good.id, length: 513 }])
    expect([good.status, never.status]).toEqual([OK, 0xee])
    expect(driver.isr()).toBe(3)
  })

  test('2.7.5.3.1: an indirect table that was not negotiated', () => {
    const driver = new Driver({ ...face, refuse: [F.INDIRECT_DESC] })
    driver.add(driver.build(T.IN, 0, { input: 512 }), { indirect: true })
    driver.notify()
    expectBroken(driver, /not negotiated/)
  })

  test('an indirect table of no whole number of descriptors, or none', () => {
    for (const length of [0, 8, 47]) {
      const driver = new Driver(face)
      driver.add(driver.build(T.IN, 0, { input: 512 }), { indirect: true })
      driver.bus.memory.data.setUint32(driver.queue.descriptors + 8, length, true)
      driver.notify()
      expectBroken(driver, /whole number/)
    }
  })

  test('an indirect table outside RAM', () => {
    const driver = new Driver(face)
    driver.add(driver.build(T.IN, 0, { input: 512 }), { indirect: true })
    driver.bus.memory.data.setUint32(driver.queue.descriptors, driver.bus.memory.ram.length - 16, true)
    driver.notify()
    expectBroken(driver, /table is outside RAM/)
  })

  test('an indirect table longer than the device takes (2.7.5.3.1, 2.8.19)', () => {
    const driver = new Driver({ ...face, device: { queueSize: 8 } })
    const request = driver.build(T.IN, 0, { input: 512 })
    const [first, room, status] = request.elements
    request.elements.splice(0, 3, first!)
    for (let i = 0; i < 8; i++) request.elements.push({ at: room!.at + i, length: 1, write: true })
    request.elements.push(status!)
    driver.add(request, { indirect: true })
    driver.notify()
    expectBroken(driver, /longer than the queue|more elements/)
  })

  test('a ring outside RAM', () => {
    const driver = new Driver({ ...face, start: false })
    driver.status = 1
    driver.status |= 2
    driver.negotiate()
    driver.status |= DRIVER_OK
    if (face.face === 'legacy') {
      driver.slot.out16(driver.legacy(14), 0)
      driver.slot.out32(driver.legacy(8), 0xfffff)
    } else {
      driver.setCommon16(0x16, 0)
      driver.setCommon64(0x20, 0x1000)
      driver.setCommon64(0x28, 0xfffff0000)
      driver.setCommon64(0x30, 0x8000)
      driver.setCommon16(0x1c, 1)
    }
    expectBroken(driver, /not in RAM/)
  })
})

describe.each(FACES.filter(({ ring }) => ring === 'split'))('a malformed split virtqueue, $name', (face) => {
  test('2.7.5.2: a loop', () => {
    const driver = new Driver(face)
    const { memory } = driver.bus
    const header = driver.build(T.IN, 0).elements[0]!
    for (let i = 0; i < 2; i++) writeDescriptor(memory, driver.queue.descriptors + 16 * i, header, NEXT, 1 - i)
    ;(driver.queue as SplitDriver).offer(0)
    driver.notify()
    expectBroken(driver, /loop/)
  })

  test('a loop inside an indirect table', () => {
    const driver = new Driver(face)
    const table = driver.alloc(32)
    const element = { at: driver.alloc(16), length: 16 }
    for (let i = 0; i < 2; i++) writeDescriptor(driver.bus.memory, table + 16 * i, element, NEXT, 1 - i)
    writeDescriptor(driver.bus.memory, driver.queue.descriptors, { at: table, length: 32 }, INDIRECT, 0)
    ;(driver.queue as SplitDriver).offer(0)
    driver.notify()
    expectBroken(driver, /loop/)
  })

  test('a head outside the table', () => {
    const driver = new Driver(face)
    ;(driver.queue as SplitDriver).offer(driver.queue.size)
    driver.notify()
    expectBroken(driver, /head is outside/)
  })

  test('a next index outside the table, also of an indirect one', () => {
    const direct = new Driver(face)
    const element = { at: direct.alloc(16), length: 16 }
    writeDescriptor(direct.bus.memory, direct.queue.descriptors, element, NEXT, direct.queue.size)
    ;(direct.queue as SplitDriver).offer(0)
    direct.notify()
    expectBroken(direct, /next index is outside/)
    const indirect = new Driver(face)
    const table = indirect.alloc(32)
    writeDescriptor(indirect.bus.memory, table, element, NEXT, 2)
    writeDescriptor(indirect.bus.memory, indirect.queue.descriptors, { at: table, length: 32 }, INDIRECT, 0)
    ;(indirect.queue as SplitDriver).offer(0)
    indirect.notify()
    expectBroken(indirect, /next index is outside/)
  })

  test('2.7.6.1: an available index that is ahead by more than the queue holds', () => {
    const driver = new Driver(face)
    driver.bus.memory.data.setUint16(driver.queue.driver + 2, driver.queue.size + 1, true)
    driver.notify()
    expectBroken(driver, /available index/)
  })

  test('2.7.5.3.1: a table in a table, a table that has a next one', () => {
    const driver = new Driver(face)
    const table = driver.alloc(16)
    writeDescriptor(driver.bus.memory, table, { at: table, length: 16 }, INDIRECT, 0)
    writeDescriptor(driver.bus.memory, driver.queue.descriptors, { at: table, length: 16 }, INDIRECT, 0)
    ;(driver.queue as SplitDriver).offer(0)
    driver.notify()
    expectBroken(driver, /refers to another/)
    const other = new Driver(face)
    writeDescriptor(other.bus.memory, other.queue.descriptors, { at: table, length: 16 }, INDIRECT | NEXT, 1)
    ;(other.queue as SplitDriver).offer(0)
    other.notify()
    expectBroken(other, /has a next one/)
  })

  test('2.7: a size that is no power of two', () => {
    if (face.face === 'legacy') return
    const driver = new Driver({ ...face, start: false, queueSize: 7 })
    driver.initialize()
    expect(driver.needsReset).toBe(true)
    expect(driver.fault).toMatch(/not in RAM|size/)
  })
})

describe('a malformed packed virtqueue', () => {
  const face = { face: 'modern', ring: 'packed' } as const

  test('2.8.18: a list without an end', () => {
    const driver = new Driver({ ...face, queueSize: 8 })
    const element = { at: driver.alloc(16), length: 16 }
    ;(driver.queue as PackedDriver).offer(
      Array.from({ length: 8 }, () => element),
      0,
      NEXT,
    )
    driver.notify()
    expectBroken(driver, /longer than the queue/)
  })

  test('2.8.19: a table in a list', () => {
    for (const [first, second] of [
      [INDIRECT | NEXT, 0],
      [NEXT, INDIRECT],
    ]) {
      const driver = new Driver(face)
      driver.add(driver.build(T.IN, 0, { input: 512 }))
      const table = driver.store(new Uint8Array(16))
      for (const [i, flags] of [first!, second!].entries()) {
        const at = driver.queue.descriptors + 16 * i
        const { data } = driver.bus.memory
        if (flags & INDIRECT) {
          data.setUint32(at, table, true)
          data.setUint32(at + 8, 16, true)
        }
        data.setUint16(at + 14, (data.getUint16(at + 14, true) & ~(WRITE | NEXT)) | flags, true)
      }
      driver.notify()
      expectBroken(driver, /in a list/)
    }
  })

  test('2.8.7: flags other than WRITE in a table are ignored', () => {
    const driver = new Driver(face)
    const request = driver.build(T.IN, 0, { input: 512 })
    const table = driver.alloc(48)
    request.id = driver.queue.add(request.elements, table)
    for (let i = 0; i < 3; i++) {
      const { data } = driver.bus.memory
      data.setUint16(table + 16 * i + 14, data.getUint16(table + 16 * i + 14, true) | NEXT | INDIRECT, true)
    }
    driver.notify()
    expect(driver.used()).toEqual([{ id: request.id, length: 513 }])
  })
})
