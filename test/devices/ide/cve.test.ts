/** The public vulnerabilities of other IDE controllers by their CVE numbers, as far as no other file has them. */
import { describe, expect, test } from 'vitest'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { Slow } from '../slow.ts'
import { BM_ACTIVE, BM_ERROR, BSY, DRQ, Host, host, machine, pattern, READY, READY_DRQ, type Region } from './host.ts'

const filled = () => Memory.from(pattern(0, 2048))

describe('bus master', () => {
  test('CVE-2014-9718: a table whose regions hold no whole sector neither loops nor leaks', () => {
    const ata = host(filled())
    const regions = Array.from({ length: 8192 }, (_, i): Region => [0x8_0000 + 4 * i, 2, false])
    ata.prd(regions, 0x10_0000)
    ata.issue(0xc8, { lba: 0, count: 0 })
    ata.start(true)
    expect(ata.masterStatus & 7).toBe(BM_ERROR)
    expect(ata.alt).toBe(READY_DRQ)
    expect([...ata.ram(0x8_0000, 4)]).toEqual([...pattern(0, 1).subarray(0, 2), 0, 0])
    ata.stop()
    ata.softReset()
    expect(ata.status).toBe(READY)
  })

  test('CVE-2019-20175: sizes that are no multiple of a sector stop nothing', () => {
    for (const size of [2, 510, 514, 65534]) {
      const ata = host(filled())
      ata.prd([[0x8000, size]])
      ata.issue(0xca, { lba: 0, count: 4 })
      ata.start(false)
      expect(ata.alt & (BSY | DRQ)).toBe(size >= 2048 ? 0 : DRQ)
      ata.stop()
      ata.softReset()
      expect(ata.status).toBe(READY)
    }
  })

  test('CVE-2020-25743: starting and stopping without a drive', () => {
    const empty = new Host(machine([]))
    empty.prd([[0x8000, 512]])
    empty.start(true)
    empty.issue(0xc8, { count: 1 })
    expect(empty.masterStatus & 7).toBe(BM_ACTIVE)
    empty.stop()
    expect(empty.masterStatus & 7).toBe(0)
    empty.softReset()
  })

  test('a table inside the regions that it names is read before they are written', () => {
    const ata = host(filled())
    ata.prd([
      [0x1000, 512],
      [0x8000, 512],
    ])
    ata.issue(0xc8, { lba: 1, count: 2 })
    ata.start(true)
    expect(ata.status).toBe(READY)
    expect(ata.ram(0x1000, 512)).toEqual(pattern(1, 1))
    expect(ata.ram(0x8000, 512)).toEqual(pattern(2, 1))
  })
})

describe('CVE-2015-6855: no drive, or no sectors', () => {
  test('every command to an empty channel is nothing', () => {
    const empty = new Host(machine([]))
    for (let opcode = 0; opcode < 256; opcode++) {
      for (const unit of [0, 1] as const) empty.issue(opcode, { count: 1, unit })
      empty.insw(512)
    }
    expect([empty.edges, empty.status]).toEqual([0, 0x7f])
  })

  test('a disk of no sectors divides by nothing', () => {
    const ata = host(new Memory(0))
    for (let opcode = 0; opcode < 256; opcode++) {
      if (opcode === 0xe6) continue
      ata.issue(opcode, { count: 1, features: 0xd0, lba: 0xc24f00 })
      for (let i = 0; i < 5; i++) ata.bus.clock.turn()
      ata.insw(512)
      ata.outsw(new Uint8Array(1024))
      ata.softReset()
      expect(ata.status).toBe(READY)
    }
  })
})

describe('CVE-2015-5154: PIO beyond the buffer', () => {
  test('a host that reads or writes on and on gets no more than the drive has', () => {
    const ata = host(filled())
    ata.issue(0x20, { lba: 0, count: 2 })
    for (let i = 0; i < 2000; i++) ata.slot.in32(ata.command)
    expect(ata.slot.in32(ata.command)).toBe(0)
    ata.issue(0xe8)
    for (let i = 0; i < 2000; i++) ata.slot.out32(ata.command, 0xffffffff)
    ata.issue(0xe4)
    expect(ata.insw(512)).toEqual(new Uint8Array(512).fill(0xff))
    expect(ata.status).toBe(READY)
  })

  test('while the drive has the task file, port accesses change nothing', async () => {
    const slow = new Slow(1 << 20)
    const ata = host(slow)
    ata.issue(0x20, { lba: 0, count: 1 })
    for (let i = 0; i < 1000; i++) ata.slot.out32(ata.command, 0xdeadbeef)
    ata.issue(0x30, { lba: 1, count: 9 })
    expect(slow.pending.map(({ kind, at, length }) => [kind, at, length])).toEqual([['read', 0, 512]])
    await slow.settle()
    expect(ata.pioIn(512)).toEqual(new Uint8Array(512))
  })
})
