import { describe, expect, test } from 'vitest'
import { bytesVec } from '../../../src/block/iovec.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import type { Saved } from '../../../src/devices/machine.ts'
import { random } from '../../random.ts'
import { Slow } from '../slow.ts'
import { ABRT, BM_ACTIVE, BM_INTERRUPT, BSY, DRQ, Host, harddisk, host, machine, pattern, READY } from './host.ts'

const filled = () => Memory.from(pattern(0, 2048))

/** The state as it is after a way through the host's disk. */
function copy(state: Saved): Saved {
  return structuredClone(state)
}

/** A second machine, with its own RAM and disk, that takes up the first one's state and RAM. */
function moved(from: Host, driver: Memory | Slow): Host {
  const to = host(driver)
  to.bus.memory.ram.set(from.bus.memory.ram)
  to.slot.device.restore(copy(from.slot.device.save()))
  return to
}

describe('a saved state', () => {
  test('in the middle of PIO data-in goes on with the next word', () => {
    const first = host(filled())
    first.issue(0x20, { lba: 3, count: 4 })
    const begin = first.insw(700)
    const second = moved(first, new Memory(1 << 20))
    second.bus.clock.turn()
    const bytes = new Uint8Array([...begin, ...second.insw(4 * 512 - 700)])
    expect(bytes).toEqual(pattern(3, 4))
    expect(second.status).toBe(READY)
  })

  test('in the middle of PIO data-out keeps what was given', () => {
    const first = host(filled())
    first.issueExt(0x34, { lba: 8, count: 2 })
    first.outsw(pattern(70, 2).subarray(0, 600))
    const memory = new Memory(1 << 20)
    const second = moved(first, memory)
    second.bus.clock.turn()
    second.outsw(pattern(70, 2).subarray(600))
    expect(second.status).toBe(READY)
    const bytes = new Uint8Array(1024)
    memory.read(8 * 512, bytesVec(bytes))
    expect(bytes).toEqual(pattern(70, 2))
  })

  test('while a stopped DMA transfer is being taken back', () => {
    const slow = new Slow(1 << 20)
    const first = host(slow)
    first.prd([[0x8000, 64 * 512]])
    first.issue(0xc8, { lba: 0, count: 64 })
    first.start(true)
    first.stop()
    expect(first.masterStatus & BM_ACTIVE).toBe(BM_ACTIVE)
    const second = moved(first, filled())
    expect(second.status & (BSY | DRQ)).toBe(DRQ)
    second.softReset()
    expect(second.status).toBe(READY)
  })

  test('after PIO of any length, whole or broken off by a reset', () => {
    const first = host(filled())
    first.issue(0x20, { lba: 3, count: 4 })
    first.pioIn(4 * 512)
    expect(moved(first, filled()).status).toBe(READY)
    first.issue(0x30, { lba: 3, count: 4 })
    first.outsw(new Uint8Array(1500))
    first.softReset()
    expect(moved(first, filled()).status).toBe(READY)
  })

  test('in the middle of a READ MULTIPLE that is shorter than its blocks', () => {
    const first = host(filled())
    first.issue(0xc6, { count: 16 })
    first.done()
    first.issue(0xc4, { lba: 3, count: 3 })
    const begin = first.insw(700)
    const second = moved(first, new Memory(1 << 20))
    second.bus.clock.turn()
    expect(new Uint8Array([...begin, ...second.insw(3 * 512 - 700)])).toEqual(pattern(3, 3))
    expect(second.status).toBe(READY)
  })

  test('with a DMA read under way asks for it again, when the bus runs, and not before', () => {
    const slow = new Slow(1 << 20)
    const first = host(slow)
    first.prd([
      [0x8000, 512],
      [0x9000, 1024],
    ])
    first.issue(0xc8, { lba: 7, count: 3 })
    first.start(true)
    expect(first.alt & BSY).toBe(BSY)
    const second = moved(first, filled())
    expect(second.alt).toBe(READY | DRQ)
    expect(second.ram(0x8000, 512)).toEqual(new Uint8Array(512))
    second.bus.clock.turn()
    expect(second.masterStatus & 7).toBe(BM_INTERRUPT)
    second.done()
    expect(second.ram(0x8000, 512)).toEqual(pattern(7, 1))
    expect(second.ram(0x9000, 1024)).toEqual(pattern(8, 2))
  })

  test('with the bus master waiting for a command', () => {
    const first = host(filled())
    first.prd([[0x8000, 512]])
    first.start(true)
    const second = moved(first, filled())
    second.bus.clock.turn()
    expect(second.masterStatus & 7).toBe(BM_ACTIVE)
    second.issue(0xc8, { lba: 1, count: 1 })
    second.done()
    expect(second.ram(0x8000, 512)).toEqual(pattern(1, 1))
  })

  test.each([
    ['READ SECTOR(S)', 0x20],
    ['FLUSH CACHE', 0xe7],
    ['READ VERIFY SECTOR(S)', 0x40],
    ['STANDBY IMMEDIATE', 0xe0],
  ])('with %s under way does it again', (_name, opcode) => {
    const first = host(new Slow(1 << 20))
    first.issue(opcode, { lba: 2, count: 1 })
    expect(first.alt & BSY).toBe(BSY)
    const second = moved(first, filled())
    second.bus.clock.turn()
    if (opcode === 0x20) expect(second.pioIn(512)).toEqual(pattern(2, 1))
    else second.done()
  })

  test('with the last block of a PIO write under way writes it again', () => {
    const first = host(new Slow(1 << 20))
    first.issue(0x30, { lba: 2, count: 3 })
    first.outsw(pattern(40, 3))
    expect(first.status & BSY).toBe(BSY)
    const memory = new Memory(1 << 20)
    const second = moved(first, memory)
    second.bus.clock.turn()
    second.done()
    const bytes = new Uint8Array(1536)
    memory.read(1024, bytesVec(bytes))
    expect(bytes).toEqual(pattern(40, 3))
  })

  test('of a drive that resets itself comes up reset', () => {
    const slow = new Slow(1 << 20)
    const first = host(slow)
    first.issue(0xe7)
    first.softReset()
    expect(first.alt).toBe(BSY)
    const second = moved(first, filled())
    expect([second.status, second.error]).toEqual([READY, 1])
  })

  test('carries settings, passwords, the protected area, logs, results of self-tests, and a sanitize operation', () => {
    const first = host(filled())
    first.issue(0xc6, { count: 8 })
    first.issue(0xef, { features: 0x82 })
    first.issue(0xf1)
    first.outsw(new Uint8Array(512))
    first.issue(0xf8)
    first.issue(0xf9, { lba: 999 })
    first.issue(0xb0, { features: 0xd4, lba: 0xc24f01 })
    for (let i = 0; i < 100; i++) first.bus.clock.turn()
    first.issueExt(0xb4, { features: 0x12, lba: 0x426b4572 })
    const second = moved(first, filled())
    const words = second.identify()
    expect([59, 85, 128].map((word) => words.getUint16(2 * word, true))).toEqual([0xdd08, 0x744b, 0x23])
    expect(words.getUint32(120, true)).toBe(1000)
    second.bus.clock.turn()
    second.bus.clock.turn()
    second.issueExt(0xb4)
    expect([second.status & 1, second.count48]).toEqual([0, 0x8000])
    second.issue(0xb0, { features: 0xd5, lba: 0xc24f06, count: 1 })
    expect(second.pioIn(512)[508]).toBe(1)
  })

  test('is taken up at most once: a reset in between forgets what was under way', () => {
    const first = host(new Slow(1 << 20))
    first.issue(0xe7)
    const second = moved(first, filled())
    second.slot.device.restore(copy(first.slot.device.save()))
    second.softReset()
    second.bus.clock.turn()
    expect([second.status, second.edges]).toEqual([READY, 0])
  })

  test('keeps the level of INTRQ', () => {
    const first = host(filled())
    first.issue(0xe5)
    const second = moved(first, filled())
    second.bus.clock.turn()
    expect(second.status).toBe(READY)
    expect(second.bus.irqLog.at(-1)).toEqual({ line: 14, asserted: false })
  })

  test('of another machine is refused, and leaves the controller reset', () => {
    const two = new Host(machine([harddisk(1 << 20), harddisk(1 << 20)]))
    const one = host(filled())
    one.issue(0xc6, { count: 8 })
    expect(() => one.slot.device.restore(two.slot.device.save())).toThrow(RangeError)
    one.slot.device.config.write(4, 2, 5)
    expect(one.identify().getUint16(118, true) & 0xff).toBe(16)
    one.issue(0xff)
    one.failed(ABRT)
  })

  test('whose drive wants more of its buffer moved than is left is refused', () => {
    const first = host(filled())
    first.issue(0xeb)
    expect(first.alt & (BSY | DRQ)).toBe(DRQ)
    const state = copy(first.slot.device.save())
    const grow = (value: Saved): void => {
      if (typeof value !== 'object' || value === null || value instanceof Uint8Array) return
      const fields = value as Record<string, Saved>
      if (fields.dmaWanted === 512) fields.dmaWanted = 1 << 20
      Object.values(fields).forEach(grow)
    }
    expect(() => host(filled()).slot.device.restore(state)).not.toThrow()
    grow(state)
    expect(() => host(filled()).slot.device.restore(state)).toThrow(RangeError)
  })

  test('that is damaged is refused or taken, and never harms', () => {
    const source = random(20260703)
    const first = host(new Slow(1 << 20))
    first.prd([[0x8000, 512]])
    first.issue(0xc8, { lba: 1, count: 2 })
    first.start(true)
    const state = first.slot.device.save()
    for (let round = 0; round < 200; round++) {
      const damaged = copy(state)
      const spots: (() => void)[] = []
      const walk = (value: Saved): void => {
        if (typeof value !== 'object' || value === null || value instanceof Uint8Array) return
        const fields = value as Record<string, Saved>
        for (const key of Object.keys(fields)) {
          const junk: Saved[] = [null, -1, 1.5, 2 ** 52, true, 'x', new Uint8Array(3), [], {}, source.below(300)]
          spots.push(() => {
            fields[key] = source.pick(junk)
          })
          walk(fields[key]!)
        }
      }
      walk(damaged)
      source.pick(spots)()
      const second = new Host(machine([harddisk(1 << 20)], undefined, 1 << 17))
      try {
        second.slot.device.restore(damaged)
      } catch (error) {
        expect(error).toBeInstanceOf(RangeError)
      }
      second.slot.device.config.write(4, 2, 5)
      for (let i = 0; i < 3; i++) second.bus.clock.turn()
      second.insw(2048)
      second.softReset()
      second.issue(0xec)
    }
  })
})
