import { describe, expect, test } from 'vitest'
import { bytesVec } from '../../../src/block/iovec.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { AtapiDrive } from '../../../src/devices/ide/atapi.ts'
import { identityOf } from '../../../src/devices/ide/identity.ts'
import { DiskUnit, ScsiTarget } from '../../../src/devices/scsi/index.ts'
import { microtasks } from '../machine.ts'
import { Slow } from '../slow.ts'
import { ABRT, BM_ACTIVE, BM_INTERRUPT, BSY, DRQ, diskOf, Host, machine, pattern, READY } from './host.ts'

const CD = 1
const IO = 2

/** A removable disk of the kind that takes packets: it has data in both directions. */
function packetDisk(driver: Memory | Slow): Host {
  const slot = machine([])
  const target = new ScsiTarget().attach(0, new DiskUnit(diskOf(driver), {}))
  const identity = identityOf({}, { model: 'A packet device', serial: 'P1', ultra: false })
  slot.device.channels[0].attach(0, (cable) => new AtapiDrive(cable, 0, target, identity))
  return new Host(slot)
}

function cdb(...bytes: number[]): Uint8Array {
  const packet = new Uint8Array(12)
  packet.set(bytes)
  return packet
}

const TEST_UNIT_READY = cdb(0)
const REQUEST_SENSE = cdb(0x03, 0, 0, 0, 18)
const INQUIRY = cdb(0x12, 0, 0, 0, 36)
const read10 = (lba: number, count: number) =>
  cdb(0x28, 0, lba >>> 24, lba >>> 16, lba >>> 8, lba, 0, count >>> 8, count)
const write10 = (lba: number, count: number) =>
  cdb(0x2a, 0, lba >>> 24, lba >>> 16, lba >>> 8, lba, 0, count >>> 8, count)

/** Writes PACKET with a byte count limit, and the packet in its own DRQ block, which comes without an interrupt. */
function packet(host: Host, command: Uint8Array, { limit = 0xfffe, features = 0 } = {}): void {
  host.select(0)
  host.out(1, features)
  host.out(4, limit & 0xff)
  host.out(5, limit >>> 8)
  host.out(7, 0xa0)
  expect([host.intrq, host.alt & (BSY | DRQ), host.in(2) & 3]).toEqual([false, DRQ, CD])
  host.outsw(command)
}

/** Takes DRQ blocks until the status comes; what they were. */
function dataIn(host: Host): { data: Uint8Array; blocks: number[] } {
  const blocks: number[] = []
  const data: number[] = []
  for (;;) {
    expect(host.intrq).toBe(true)
    if ((host.status & DRQ) === 0) return { data: Uint8Array.from(data), blocks }
    expect(host.in(2) & 3).toBe(IO)
    const count = host.in(4) | (host.in(5) << 8)
    blocks.push(count)
    data.push(...host.insw((count + 1) & ~1).subarray(0, count))
  }
}

function good(host: Host): void {
  expect([host.alt, host.in(2) & 3]).toEqual([READY, CD | IO])
}

/** The end of a packet command with CHECK CONDITION and this sense key. */
function check(host: Host, key: number): void {
  expect([host.intrq, host.status & (BSY | DRQ | 1), host.in(2) & 3, host.error >>> 4]).toEqual([true, 1, CD | IO, key])
}

function ready(host: Host): Host {
  packet(host, TEST_UNIT_READY)
  check(host, 6)
  packet(host, TEST_UNIT_READY)
  expect(dataIn(host).blocks).toEqual([])
  good(host)
  return host
}

const filled = () => Memory.from(pattern(0, 2048))

describe('ATA/ATAPI-7 volume 2, 9.8: PACKET without data and by PIO', () => {
  test('the signature of a PACKET device, and DRDY clear until its first command', () => {
    const host = packetDisk(filled())
    expect([2, 3, 4, 5].map((register) => host.in(register))).toEqual([1, 1, 0x14, 0xeb])
    expect([host.status, host.error]).toEqual([0, 1])
  })

  test('non-data: the packet, then the status with an interrupt', () => {
    const host = ready(packetDisk(filled()))
    expect(host.intrq).toBe(false)
  })

  test('data come in blocks of at most the byte count limit, which is even unless it ends the data', () => {
    const host = ready(packetDisk(filled()))
    for (const [limit, blocks] of [
      [0xffff, [2048]],
      [0xfffe, [2048]],
      [1000, [1000, 1000, 48]],
      [1001, [1000, 1000, 48]],
      [2048, [2048]],
    ] as const) {
      packet(host, read10(3, 4), { limit })
      const result = dataIn(host)
      expect(result.blocks).toEqual(blocks)
      expect(result.data).toEqual(pattern(3, 4))
      good(host)
    }
  })

  test('an odd number of bytes ends in half a word', () => {
    const host = ready(packetDisk(filled()))
    packet(host, cdb(0x12, 0, 0, 0, 7), { limit: 7 })
    const { data, blocks } = dataIn(host)
    expect([blocks, data.length]).toEqual([[7], 7])
    good(host)
  })

  test('a limit of zero with data to move is aborted (word 125)', () => {
    const host = ready(packetDisk(filled()))
    packet(host, INQUIRY, { limit: 0 })
    host.failed(ABRT)
    packet(host, TEST_UNIT_READY, { limit: 0 })
    expect(host.status).toBe(READY)
  })

  test('data go out with an interrupt before each block', () => {
    const memory = filled()
    const host = ready(packetDisk(memory))
    packet(host, write10(7, 4), { limit: 600 })
    const data = pattern(300, 4)
    for (const [at, length] of [
      [0, 600],
      [600, 600],
      [1200, 600],
      [1800, 248],
    ] as const) {
      expect([host.intrq, host.status & DRQ, host.in(2) & 3, host.in(4) | (host.in(5) << 8)]).toEqual([
        true,
        DRQ,
        0,
        length,
      ])
      host.outsw(data.subarray(at, at + length))
    }
    expect(host.intrq).toBe(true)
    expect(host.status).toBe(READY)
    good(host)
    const written = new Uint8Array(2048)
    memory.read(7 * 512, bytesVec(written))
    expect(written).toEqual(data)
  })

  test('CHECK CONDITION puts the sense key into Error; REQUEST SENSE tells the rest, once', () => {
    const host = ready(packetDisk(filled()))
    packet(host, read10(5000, 1))
    check(host, 5)
    packet(host, REQUEST_SENSE)
    expect([...dataIn(host).data].filter((_, i) => [0, 2, 12].includes(i))).toEqual([0x70, 5, 0x21])
    packet(host, REQUEST_SENSE)
    expect(dataIn(host).data[2]).toBe(0)
  })

  test('overlapped commands are not offered', () => {
    const host = packetDisk(filled())
    host.out(1, 2)
    host.out(7, 0xa0)
    host.failed(ABRT)
  })
})

describe('ATA/ATAPI-7 volume 2, 9.9: PACKET by DMA', () => {
  test('data in and out, in one interrupt each', () => {
    const memory = filled()
    const host = ready(packetDisk(memory))
    const edges = host.edges
    host.prd([[0x8000, 1024]])
    packet(host, read10(9, 2), { features: 1 })
    expect(host.alt & (BSY | DRQ)).toBe(DRQ)
    host.start(true)
    expect(host.masterStatus & 7).toBe(BM_INTERRUPT)
    expect(host.status).toBe(READY)
    good(host)
    expect(host.ram(0x8000, 1024)).toEqual(pattern(9, 2))
    host.stop()
    packet(host, write10(100, 2), { features: 1 })
    host.start(false)
    expect(host.status).toBe(READY)
    const written = new Uint8Array(1024)
    memory.read(100 * 512, bytesVec(written))
    expect(written).toEqual(pattern(9, 2))
    expect(host.edges).toBe(edges + 2)
  })

  test('a list that is longer than the data leaves the bus master active', () => {
    const host = ready(packetDisk(filled()))
    host.prd([[0x8000, 4096]])
    packet(host, INQUIRY, { features: 1 })
    host.start(true)
    expect(host.masterStatus & 7).toBe(BM_ACTIVE | BM_INTERRUPT)
    good(host)
  })

  test('a list that is shorter may be followed by another', () => {
    const host = ready(packetDisk(filled()))
    host.prd([[0x8000, 700]])
    packet(host, read10(1, 2), { features: 1 })
    host.start(true)
    expect(host.masterStatus & 7).toBe(0)
    host.stop()
    host.prd([[0x8000 + 700, 324]])
    host.start(true)
    expect(host.status).toBe(READY)
    expect(host.ram(0x8000, 1024)).toEqual(pattern(1, 2))
  })

  test('a command that fails moves nothing and says so', () => {
    const host = ready(packetDisk(filled()))
    host.prd([[0x8000, 512]])
    host.start(true)
    packet(host, read10(2 ** 30, 1), { features: 1 })
    expect(host.masterStatus & 7).toBe(BM_ACTIVE | BM_INTERRUPT)
    check(host, 5)
  })
})

describe('ATA/ATAPI-7 volume 1, 4.3: the ATA commands of a PACKET device', () => {
  test('IDENTIFY PACKET DEVICE', () => {
    const host = packetDisk(filled())
    host.out(7, 0xa1)
    const words = new DataView(host.pioIn(512).buffer)
    expect([0, 49, 82, 125].map((word) => words.getUint16(2 * word, true))).toEqual([0x85c0, 0x0f00, 0x4218, 0])
  })

  test('IDENTIFY DEVICE and READ SECTOR(S) show the signature and abort', () => {
    const host = packetDisk(filled())
    for (const opcode of [0xec, 0x20]) {
      host.issue(opcode, { lba: 0x123456, count: 7 })
      host.failed(ABRT)
      expect([2, 3, 4, 5].map((register) => host.in(register))).toEqual([1, 1, 0x14, 0xeb])
    }
  })

  test('SET FEATURES takes transfer modes; power management; NOP and everything else is aborted', () => {
    const host = packetDisk(filled())
    host.issue(0xef, { features: 3, count: 0x22 })
    host.done()
    host.issue(0xef, { features: 2 })
    host.failed(ABRT)
    for (const opcode of [0xe0, 0xe1, 0xe5]) {
      host.issue(opcode)
      host.done()
    }
    // CVE-2015-6855: no disk command reaches a drive without sectors
    for (let opcode = 0; opcode < 256; opcode++) {
      if ([0x08, 0x20, 0x90, 0xa0, 0xa1, 0xe0, 0xe1, 0xe5, 0xe6, 0xec, 0xef].includes(opcode)) continue
      host.issue(opcode, { count: 1, features: 0xd0 })
      host.failed(ABRT)
    }
  })

  test('DEVICE RESET is taken while BSY is set, takes the command back, and brings the signature without an interrupt', async () => {
    const slow = new Slow(1 << 20)
    const host = ready(packetDisk(slow))
    host.prd([[0x8000, 512]])
    packet(host, read10(1, 1), { features: 1 })
    host.start(true)
    expect([host.alt & BSY, slow.pending.length]).toEqual([BSY, 1])
    const edges = host.edges
    host.out(7, 0x08)
    expect(host.alt & BSY).toBe(BSY)
    await slow.settle()
    await microtasks()
    expect([host.status, host.in(4), host.in(5), host.edges]).toEqual([0, 0x14, 0xeb, edges])
    expect(host.ram(0x8000, 512)).toEqual(new Uint8Array(512))
    host.stop()
    packet(host, TEST_UNIT_READY)
    check(host, 6)
  })
})

describe('a saved state', () => {
  function moved(from: Host, driver: Memory | Slow): Host {
    const to = ready(packetDisk(driver))
    to.bus.memory.ram.set(from.bus.memory.ram)
    to.slot.device.restore(structuredClone(from.slot.device.save()))
    return to
  }

  test('between packet and data, in the middle of a block, between blocks', () => {
    for (const taken of [0, 6, 100, 1000, 1002, 2000]) {
      const first = ready(packetDisk(filled()))
      packet(first, read10(3, 4), { limit: 1000 })
      const begin: number[] = []
      let left = taken
      while (left > 0) {
        first.status
        const count = Math.min(left, first.in(4) | (first.in(5) << 8))
        begin.push(...first.insw(count))
        left -= count
      }
      const second = moved(first, filled())
      second.bus.clock.turn()
      const rest: number[] = []
      while ((second.status & DRQ) !== 0) rest.push(...second.insw(2))
      expect(Uint8Array.from([...begin, ...rest])).toEqual(pattern(3, 4))
      good(second)
    }
  })

  test('after PIO in blocks of any length, and after a reset in the middle of one', () => {
    const first = ready(packetDisk(filled()))
    packet(first, read10(3, 4), { limit: 0xfffe })
    expect(dataIn(first).data).toEqual(pattern(3, 4))
    const second = moved(first, filled())
    packet(second, read10(5, 1), { limit: 0xfffe })
    expect(dataIn(second).data).toEqual(pattern(5, 1))
    packet(first, read10(3, 4), { limit: 0xfffe })
    first.insw(1000)
    first.softReset()
    expect(moved(first, filled()).in(4)).toBe(0x14)
  })

  test('with a read under way, by DMA and by PIO', async () => {
    for (const features of [0, 1]) {
      const first = packetDisk(new Slow(1 << 20))
      packet(first, TEST_UNIT_READY)
      first.prd([[0x8000, 512]])
      packet(first, read10(5, 1), { features })
      if (features === 1) first.start(true)
      expect(first.alt & BSY).toBe(BSY)
      const second = packetDisk(filled())
      packet(second, TEST_UNIT_READY)
      second.bus.memory.ram.set(first.bus.memory.ram)
      second.slot.device.restore(structuredClone(first.slot.device.save()))
      second.bus.clock.turn()
      await microtasks()
      if (features === 1) {
        expect(second.status).toBe(READY)
        expect(second.ram(0x8000, 512)).toEqual(pattern(5, 1))
      } else expect(dataIn(second).data).toEqual(pattern(5, 1))
    }
  })
})
