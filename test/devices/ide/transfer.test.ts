import { describe, expect, test } from 'vitest'
import { bytesVec } from '../../../src/block/iovec.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import {
  ABRT,
  BM_ACTIVE,
  BM_INTERRUPT,
  BSY,
  Host,
  harddisk,
  host,
  IDNF,
  machine,
  pattern,
  READY,
  READY_DRQ,
} from './host.ts'

function filled(sectors = 2048): Memory {
  return Memory.from(pattern(0, sectors))
}

function bytesOf(memory: Memory, lba: number, sectors: number): Uint8Array {
  const bytes = new Uint8Array(512 * sectors)
  memory.read(512 * lba, bytesVec(bytes))
  return bytes
}

describe('ATA8-APT 9.6: PIO data-in', () => {
  test('READ SECTOR(S) gives every sector its own DRQ block and interrupt, and none after the last', () => {
    const ata = host(filled())
    ata.issue(0x20, { lba: 5, count: 3 })
    expect(ata.pioIn(3 * 512)).toEqual(pattern(5, 3))
    expect(ata.edges).toBe(3)
  })

  test('a count of zero is 256 sectors, and of a 48-bit command 65536', () => {
    const ata = host(filled(512))
    ata.issue(0x20, { lba: 1, count: 0 })
    expect(ata.pioIn(256 * 512)).toEqual(pattern(1, 256))
    for (const [sectors, found] of [
      [65536, true],
      [65535, false],
    ] as const) {
      const large = host(new Memory(sectors * 512))
      large.issueExt(0x42, { lba: 0, count: 0 })
      for (let i = 0; i < 40; i++) large.bus.clock.turn()
      if (found) large.done()
      else large.failed(IDNF)
    }
  })

  test('READ MULTIPLE moves as many sectors in a block as SET MULTIPLE MODE said, and the rest in a last one', () => {
    const ata = host(filled())
    ata.issue(0xc6, { count: 8 })
    ata.done()
    ata.issue(0xc4, { lba: 9, count: 20 })
    expect(ata.pioIn(20 * 512, 8 * 512)).toEqual(pattern(9, 20))
    ata.issueExt(0x29, { lba: 9, count: 16 })
    expect(ata.pioIn(16 * 512, 8 * 512)).toEqual(pattern(9, 16))
  })

  test('READ MULTIPLE is aborted while multiple mode is off', () => {
    const ata = host(filled())
    ata.issue(0xc6, { count: 0 })
    ata.done()
    ata.issue(0xc4, { count: 1 })
    ata.failed(ABRT)
    ata.issue(0x29, { count: 1 })
    ata.failed(ABRT)
  })

  test('the data port takes 8, 16 and 32 bits in any mixture', () => {
    const ata = host(filled())
    ata.issue(0x20, { lba: 7, count: 1 })
    const wanted = new DataView(pattern(7, 1).buffer)
    expect(ata.slot.in8(ata.command)).toBe(wanted.getUint8(0))
    expect(ata.slot.in16(ata.command)).toBe(wanted.getUint16(1, true))
    expect(ata.slot.in8(ata.command)).toBe(wanted.getUint8(3))
    for (let at = 4; at < 508; at += 4) expect(ata.slot.in32(ata.command)).toBe(wanted.getUint32(at, true))
    expect(ata.slot.in16(ata.command)).toBe(wanted.getUint16(508, true))
    expect(ata.slot.in32(ata.command)).toBe(wanted.getUint16(510, true))
    expect(ata.status).toBe(READY)
    expect(ata.slot.in32(ata.command)).toBe(0)
  })

  test('nIEN keeps INTRQ down; what is pending shows when it is cleared', () => {
    const ata = host(filled())
    ata.slot.out8(ata.control, 0x02)
    ata.issue(0x20, { lba: 0, count: 1 })
    expect(ata.intrq).toBe(false)
    expect(ata.alt).toBe(READY_DRQ)
    ata.slot.out8(ata.control, 0x00)
    expect(ata.intrq).toBe(true)
  })
})

describe('ATA8-APT 9.7: PIO data-out', () => {
  test('WRITE SECTOR(S) asks for the first block without an interrupt', () => {
    const memory = filled()
    const ata = host(memory)
    ata.issue(0x30, { lba: 100, count: 3 })
    ata.pioOut(pattern(900, 3))
    expect(bytesOf(memory, 100, 3)).toEqual(pattern(900, 3))
    expect(bytesOf(memory, 103, 1)).toEqual(pattern(103, 1))
  })

  test('WRITE SECTOR(S) EXT reaches past 2^28 sectors', () => {
    const memory = new Memory(2 ** 38)
    const ata = host(memory)
    const lba = 2 ** 28 + 12345
    ata.issueExt(0x34, { lba, count: 2 })
    ata.pioOut(pattern(3, 2))
    expect(bytesOf(memory, lba, 2)).toEqual(pattern(3, 2))
    expect(bytesOf(memory, 12345, 2)).toEqual(new Uint8Array(1024))
  })

  test('WRITE MULTIPLE, its 48-bit and its FUA form move whole blocks', () => {
    const memory = filled()
    const ata = host(memory)
    ata.issue(0xc5, { lba: 1, count: 18 })
    ata.pioOut(pattern(50, 18), 16 * 512)
    ata.issueExt(0x39, { lba: 40, count: 16 })
    ata.pioOut(pattern(60, 16), 16 * 512)
    ata.issueExt(0xce, { lba: 80, count: 1 })
    ata.pioOut(pattern(70, 1), 16 * 512)
    expect(bytesOf(memory, 1, 18)).toEqual(pattern(50, 18))
    expect(bytesOf(memory, 40, 16)).toEqual(pattern(60, 16))
    expect(bytesOf(memory, 80, 1)).toEqual(pattern(70, 1))
  })

  test('what is written past a block is lost', () => {
    const memory = filled()
    const ata = host(memory)
    ata.issue(0x30, { lba: 0, count: 1 })
    ata.outsw(pattern(30, 1))
    ata.slot.out16(ata.command, 0xdead)
    ata.done()
    expect(bytesOf(memory, 0, 2)).toEqual(new Uint8Array([...pattern(30, 1), ...pattern(1, 1)]))
  })
})

describe('ATA8-APT 9.11: DMA', () => {
  test('READ DMA waits with DRQ for the bus master, and interrupts when all is in memory', () => {
    const ata = host(filled())
    ata.prd([[0x8000, 1024]])
    ata.issue(0xc8, { lba: 4, count: 2 })
    expect(ata.alt).toBe(READY_DRQ)
    expect(ata.intrq).toBe(false)
    ata.start(true)
    expect(ata.masterStatus & 7).toBe(BM_INTERRUPT)
    expect(ata.intrq).toBe(true)
    expect(ata.status).toBe(READY)
    expect(ata.ram(0x8000, 1024)).toEqual(pattern(4, 2))
    expect(ata.bus.memory.isDirty(0x8000, 1024)).toBe(true)
  })

  test('the bus master may be started before the command', () => {
    const ata = host(filled())
    ata.prd([[0x8000, 512]])
    ata.start(true)
    expect(ata.masterStatus & 7).toBe(BM_ACTIVE)
    ata.issueExt(0x25, { lba: 9, count: 1 })
    expect(ata.masterStatus & 7).toBe(BM_INTERRUPT)
    expect(ata.ram(0x8000, 512)).toEqual(pattern(9, 1))
  })

  test('WRITE DMA, WRITE DMA EXT and WRITE DMA FUA EXT', () => {
    const memory = filled()
    const ata = host(memory)
    for (const [opcode, lba] of [
      [0xca, 20],
      [0x35, 30],
      [0x3d, 40],
    ] as const) {
      ata.bus.memory.ram.set(pattern(lba + 500, 2), 0x8000)
      const issue =
        opcode === 0xca ? () => ata.issue(opcode, { lba, count: 2 }) : () => ata.issueExt(opcode, { lba, count: 2 })
      ata.dma(issue, [[0x8000, 1024]], false)
      expect(bytesOf(memory, lba, 2)).toEqual(pattern(lba + 500, 2))
    }
  })
})

test('ATA-4 8: the forms without retry do the same', () => {
  const memory = filled()
  const ata = host(memory)
  ata.issue(0x21, { lba: 9, count: 2 })
  expect(ata.pioIn(1024)).toEqual(pattern(9, 2))
  ata.issue(0x31, { lba: 9, count: 2 })
  ata.pioOut(pattern(500, 2))
  expect(bytesOf(memory, 9, 2)).toEqual(pattern(500, 2))
  ata.issue(0x41, { lba: 9, count: 2 })
  ata.done()
  ata.dma(() => ata.issue(0xc9, { lba: 9, count: 2 }), [[0x8000, 1024]], true)
  expect(ata.ram(0x8000, 1024)).toEqual(pattern(500, 2))
  ata.ram(0x8000, 1024).set(pattern(600, 2))
  ata.dma(() => ata.issue(0xcb, { lba: 9, count: 2 }), [[0x8000, 1024]], false)
  expect(bytesOf(memory, 9, 2)).toEqual(pattern(600, 2))
})

describe('ATA8-ACS 4.1: addresses', () => {
  test('CHS is translated by the geometry of IDENTIFY words 54 to 56, and a bad one is not found', () => {
    const ata = host(filled(63 * 16 * 4))
    ata.issue(0x20, { cylinder: 1, head: 2, sector: 3, count: 1 })
    expect(ata.pioIn(512)).toEqual(pattern((1 * 16 + 2) * 63 + 2, 1))
    for (const bad of [
      { cylinder: 0, head: 0, sector: 0 },
      { cylinder: 0, head: 0, sector: 64 },
      { cylinder: 4, head: 0, sector: 1 },
    ]) {
      ata.issue(0x20, { ...bad, count: 1 })
      ata.failed(IDNF)
    }
  })

  test('ATA-5 8.16: INITIALIZE DEVICE PARAMETERS changes the translation', () => {
    const ata = host(filled(63 * 16 * 4))
    ata.issue(0x91, { cylinder: 0, head: 7, count: 17 })
    ata.done()
    const words = ata.identify()
    expect([54, 55, 56].map((word) => words.getUint16(2 * word, true))).toEqual([
      Math.floor((63 * 16 * 4) / 136),
      8,
      17,
    ])
    ata.issue(0x20, { cylinder: 3, head: 5, sector: 17, count: 1 })
    expect(ata.pioIn(512)).toEqual(pattern((3 * 8 + 5) * 17 + 16, 1))
    ata.issue(0x20, { cylinder: 0, head: 8, sector: 1, count: 1 })
    ata.failed(IDNF)
  })

  test('a range that ends at the last sector is read; one sector more is IDNF with the address that is not there', () => {
    const ata = host(filled(100))
    ata.issue(0x20, { lba: 98, count: 2 })
    expect(ata.pioIn(1024)).toEqual(pattern(98, 2))
    ata.issue(0x20, { lba: 98, count: 3 })
    ata.failed(IDNF)
    expect(ata.lba28).toBe(100)
    ata.issueExt(0x25, { lba: 2 ** 47, count: 1 })
    ata.failed(IDNF)
    expect(ata.lba48).toBe(2 ** 47)
  })

  test('at the end the registers hold the last sector, and a count of zero (ATA-3 7.1)', () => {
    const ata = host(filled())
    ata.issue(0x20, { lba: 5, count: 3 })
    ata.pioIn(3 * 512)
    expect([ata.lba28, ata.in(2)]).toEqual([7, 0])
  })
})

describe('ATA8-ACS 7.33: READ VERIFY SECTOR(S)', () => {
  test('moves no data, and interrupts when the medium was read', () => {
    const ata = host(filled())
    ata.issue(0x40, { lba: 1, count: 255 })
    ata.done()
    ata.issueExt(0x42, { lba: 1, count: 2000 })
    ata.done()
    ata.issueExt(0x42, { lba: 1000, count: 2000 })
    ata.failed(IDNF)
  })

  test('lets the guest run between the parts of a long range', () => {
    const ata = host(filled(8192))
    ata.issueExt(0x42, { lba: 0, count: 8192 })
    expect(ata.alt & BSY).toBe(BSY)
    for (let i = 0; i < 4; i++) ata.bus.clock.turn()
    ata.done()
  })
})

test('both channels transfer at once: neither is simplex (PIIX3 2.6.2)', () => {
  const slot = machine([harddisk(filled(64)), undefined, harddisk(Memory.from(pattern(700, 64)))])
  const first = new Host(slot, 0)
  const second = new Host(slot, 1)
  first.issue(0x20, { lba: 1, count: 1 })
  second.issue(0x20, { lba: 1, count: 1 })
  expect(second.pioIn(512)).toEqual(pattern(701, 1))
  expect(first.pioIn(512)).toEqual(pattern(1, 1))
  expect([first.edges, second.edges]).toEqual([1, 1])
})

test('sectors of 4096 bytes are the unit of addresses and of DRQ blocks (ATA8-ACS 7.16.7.61)', () => {
  const ata = host(filled(80), { logicalBlockSize: 4096 })
  ata.issue(0x20, { lba: 2, count: 2 })
  expect(ata.pioIn(8192, 4096)).toEqual(pattern(16, 16))
  ata.issue(0x20, { lba: 9, count: 2 })
  ata.failed(IDNF)
})
