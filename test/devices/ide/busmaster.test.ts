import { describe, expect, test } from 'vitest'
import { bytesVec } from '../../../src/block/iovec.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { kicks } from '../../../src/block/turn.ts'
import { Slow } from '../slow.ts'
import {
  BM_ACTIVE,
  BM_ERROR,
  BM_INTERRUPT,
  BSY,
  DRQ,
  Host,
  harddisk,
  host,
  machine,
  pattern,
  READY,
  READY_DRQ,
  type Region,
} from './host.ts'

const filled = () => Memory.from(pattern(0, 2048))

/** READ DMA of `count` sectors from LBA 1 into `regions`. */
function read(ata: Host, count: number, regions: readonly Region[]): number {
  ata.prd(regions)
  ata.issue(0xc8, { lba: 1, count })
  ata.start(true)
  return ata.masterStatus & 7
}

describe('PIIX3 3.5.2: the table of physical regions', () => {
  test('a list of many regions is one request to the medium', () => {
    const slow = new Slow(1 << 20)
    slow.memory.write(0, bytesVec(pattern(0, 2048)))
    const ata = host(slow)
    const regions = Array.from({ length: 64 }, (_, i): Region => [0x10_0000 + i * 0x3000, 512])
    ata.prd(regions)
    ata.issue(0xc8, { lba: 1, count: 64 })
    ata.start(true)
    expect(slow.pending.map(({ kind, at, length }) => [kind, at, length])).toEqual([['read', 512, 64 * 512]])
  })

  test('the request is handed in at once, for nothing can come behind it', () => {
    const ata = host(new Slow(1 << 20))
    ata.prd([[0x9000, 512]])
    ata.issue(0xc8, { lba: 1, count: 1 })
    const before = kicks()
    ata.start(true)
    expect(kicks()).toBeGreaterThan(before)
  })

  test('data go to the regions in their order, whatever their sizes', () => {
    const ata = host(filled())
    const regions: Region[] = [
      [0x9000, 2],
      [0x8000, 510],
      [0x20000, 1024],
      [0xa002, 512],
    ]
    expect(read(ata, 4, regions)).toBe(BM_INTERRUPT)
    const all = regions.flatMap(([at, count]) => [...ata.ram(at, count)])
    expect(Uint8Array.from(all)).toEqual(pattern(1, 4))
  })

  test('a count of zero is 64 KiB', () => {
    const ata = host(filled())
    expect(read(ata, 128, [[0x10_0000, 0]])).toBe(BM_INTERRUPT)
    expect(ata.ram(0x10_0000, 65536)).toEqual(pattern(1, 128))
  })

  test('a region that passes a 64 KiB boundary, which the table may not have, goes on in a straight line', () => {
    const ata = host(filled())
    expect(read(ata, 4, [[0x1_ff00, 2048]])).toBe(BM_INTERRUPT)
    expect(ata.ram(0x1_ff00, 2048)).toEqual(pattern(1, 4))
  })

  test('bit 0 of an address and of a count do not exist', () => {
    const ata = host(filled())
    expect(read(ata, 1, [[0x8001, 513]])).toBe(BM_INTERRUPT)
    expect(ata.ram(0x8000, 512)).toEqual(pattern(1, 1))
    ata.slot.out32(ata.master + 4, 0x1003)
    expect(ata.slot.in32(ata.master + 4)).toBe(0x1000)
  })

  test('a list that is longer than the transfer leaves the bus master active until it is stopped', () => {
    const ata = host(filled())
    expect(read(ata, 1, [[0x8000, 1024]])).toBe(BM_ACTIVE | BM_INTERRUPT)
    expect(ata.ram(0x8000, 512)).toEqual(pattern(1, 1))
    expect(ata.ram(0x8200, 2)).toEqual(new Uint8Array(2))
    ata.stop()
    expect(ata.masterStatus & 7).toBe(BM_INTERRUPT)
  })

  test('without an end mark, too, and no entry is read that is not needed', () => {
    const ata = host(filled())
    expect(read(ata, 1, [[0x8000, 512, false]])).toBe(BM_ACTIVE | BM_INTERRUPT)
    expect(ata.status).toBe(READY)
  })

  test('a list that is shorter ends the activity without an interrupt; the drive waits for the rest', () => {
    const ata = host(filled())
    expect(read(ata, 2, [[0x8000, 700]])).toBe(0)
    expect(ata.ram(0x8000, 700)).toEqual(pattern(1, 2).subarray(0, 700))
    expect(ata.alt).toBe(READY_DRQ)
    expect(ata.edges).toBe(0)
  })

  test('the host may bring the rest with a second list', () => {
    const memory = filled()
    const ata = host(memory)
    ata.ram(0x8000, 1024).set(pattern(77, 2))
    ata.prd([[0x8000, 700]])
    ata.issue(0xca, { lba: 1, count: 2 })
    ata.start(false)
    expect(ata.masterStatus & 7).toBe(0)
    ata.stop()
    ata.prd([[0x8000 + 700, 324]])
    ata.start(false)
    expect(ata.masterStatus & 7).toBe(BM_INTERRUPT)
    const bytes = new Uint8Array(1024)
    memory.read(512, bytesVec(bytes))
    expect(bytes).toEqual(pattern(77, 2))
  })

  test('of a short write only whole sectors reach the medium', () => {
    const memory = filled()
    const ata = host(memory)
    ata.ram(0x8000, 1024).fill(0xee)
    ata.prd([[0x8000, 700]])
    ata.issue(0xca, { lba: 1, count: 2 })
    ata.start(false)
    const bytes = new Uint8Array(1024)
    memory.read(512, bytesVec(bytes))
    expect(bytes.subarray(0, 512)).toEqual(new Uint8Array(512).fill(0xee))
    expect(bytes.subarray(512)).toEqual(pattern(2, 1))
  })

  test('a region that is no RAM is a master abort: Error, not Active, and what came before it was moved', () => {
    const ata = host(filled())
    const regions: Region[] = [
      [0x8000, 512],
      [0xf000_0000, 512],
    ]
    expect(read(ata, 2, regions)).toBe(BM_ERROR)
    expect(ata.ram(0x8000, 512)).toEqual(pattern(1, 1))
    expect(ata.alt).toBe(READY_DRQ)
    ata.stop()
    ata.softReset()
    expect(ata.status).toBe(READY)
    expect(read(ata, 1, [[0xa_0000, 512]])).toBe(BM_ERROR)
  })

  test('a table that is no RAM, or that passes a 64 KiB boundary, is one too', () => {
    const ata = host(filled())
    ata.slot.out32(ata.master + 4, 0xffff_fff0)
    ata.issue(0xc8, { lba: 1, count: 1 })
    ata.start(true)
    expect(ata.masterStatus & 7).toBe(BM_ERROR)
    ata.stop()
    ata.softReset()
    ata.prd(
      [
        [0x8000, 512],
        [0x9000, 512],
      ],
      0x1_fff8,
    )
    ata.issue(0xc8, { lba: 1, count: 2 })
    ata.start(true)
    expect(ata.masterStatus & 7).toBe(BM_ERROR)
  })

  test('the list is read where guest memory is now, not where it was', () => {
    const ata = host(filled())
    ata.prd([[0x8000, 512]])
    ata.issue(0xc8, { lba: 3, count: 1 })
    ata.bus.memory.move()
    ata.start(true)
    expect(ata.ram(0x8000, 512)).toEqual(pattern(3, 1))
  })
})

describe('PIIX3 2.6: the registers', () => {
  test('status bits 1 and 2 clear by writing ones, 5 and 6 are software’s, bit 0 and simplex are read-only', () => {
    const ata = host(filled())
    ata.slot.out8(ata.master + 2, 0xe1)
    expect(ata.masterStatus).toBe(0x60)
    expect(read(ata, 1, [[0x8000, 512]])).toBe(BM_INTERRUPT)
    ata.slot.out8(ata.master + 2, 0x00)
    expect(ata.masterStatus & BM_INTERRUPT).toBe(BM_INTERRUPT)
    ata.slot.out8(ata.master + 2, BM_INTERRUPT)
    expect(ata.masterStatus & BM_INTERRUPT).toBe(0)
  })

  test('the interrupt bit comes with every interrupt of the drive, PIO too', () => {
    const ata = host(filled())
    ata.issue(0xe5)
    expect(ata.masterStatus & 7).toBe(BM_INTERRUPT)
  })

  test('Command keeps START and direction; reserved bytes read as zero; any width goes', () => {
    const ata = host(filled())
    ata.slot.out32(ata.master, 0xffff_fff8)
    expect(ata.slot.in32(ata.master)).toBe(0x0060_0008)
    ata.slot.out32(ata.master + 12, 0x1234_5678)
    expect([ata.slot.in16(ata.master + 12), ata.slot.in8(ata.master + 15)]).toEqual([0x5678, 0x12])
    expect(ata.slot.in32(ata.master + 14)).toBe(0xffff_1234)
  })

  test('without the bus master bit of the PCI command register nothing moves until it is set', () => {
    const ata = host(filled())
    ata.slot.device.config.write(4, 2, 0x0001)
    expect(read(ata, 1, [[0x8000, 512]])).toBe(BM_ACTIVE)
    ata.slot.device.config.write(4, 2, 0x0005)
    expect(ata.masterStatus & 7).toBe(BM_INTERRUPT)
    expect(ata.ram(0x8000, 512)).toEqual(pattern(1, 1))
  })

  test('stopping in the middle of a transfer takes it back: only a reset helps the drive, and it is Active until the host let go', async () => {
    const slow = new Slow(1 << 20)
    const ata = host(slow)
    expect(read(ata, 1, [[0x8000, 512]])).toBe(BM_ACTIVE)
    expect(ata.alt & BSY).toBe(BSY)
    ata.stop()
    expect(ata.masterStatus & 7).toBe(BM_ACTIVE)
    ata.ram(0x8000, 512).fill(0x11)
    await slow.settle()
    expect(ata.masterStatus & 7).toBe(0)
    expect(ata.ram(0x8000, 512)).toEqual(new Uint8Array(512).fill(0x11))
    expect([ata.alt & (BSY | DRQ), ata.edges]).toEqual([DRQ, 0])
    ata.start(true)
    expect(ata.masterStatus & 7).toBe(BM_ACTIVE)
    ata.stop()
    ata.softReset()
    expect(ata.status).toBe(READY)
  })

  test('a second device that wants to move data while the first one does waits for it; stopping takes both back', async () => {
    for (const stop of [false, true]) {
      const slow = [new Slow(1 << 20), new Slow(1 << 20)] as const
      const ata = new Host(machine(slow.map((driver) => harddisk(driver))))
      ata.prd([
        [0x8000, 512, false],
        [0xa000, 512, true],
      ])
      ata.start(true)
      ata.issue(0xc8, { lba: 1, count: 1, unit: 0 })
      ata.issue(0xc8, { lba: 2, count: 1, unit: 1 })
      expect(slow.map(({ pending }) => pending.length)).toEqual([1, 0])
      if (stop) ata.stop()
      ata.ram(0x8000, 512).fill(0x11)
      ata.ram(0xa000, 512).fill(0x11)
      await slow[0].settle()
      await slow[1].settle()
      const moved = stop ? 0x11 : 0
      for (const at of [0x8000, 0xa000]) expect(ata.ram(at, 512)).toEqual(new Uint8Array(512).fill(moved))
      expect(ata.masterStatus & BM_ACTIVE).toBe(0)
      expect(slow.map(({ pending }) => pending.length)).toEqual([0, 0])
    }
  })

  test('RST# clears the registers', async () => {
    const ata = host(filled())
    read(ata, 1, [[0x8000, 1024]])
    await ata.slot.device.reset()
    ata.slot.device.config.setBar(4, ata.slot.base(4))
    ata.slot.device.config.write(4, 2, 5)
    expect([0, 4].map((at) => ata.slot.in32(ata.master + at))).toEqual([0, 0])
  })
})
