import { describe, expect, test } from 'vitest'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { BSY, DRQ, diskOf, Host, harddisk, machine, pattern, READY } from './host.ts'

const CD = 1
const IO = 2

/** A disc of so many blocks of 2048 bytes. */
const disc = (blocks = 400) => diskOf(Memory.from(pattern(0, 4 * blocks), { readOnly: true }))

/** A CD-ROM drive as secondary master. */
function cdrom(disk = disc()): Host {
  return new Host(machine([undefined, undefined, { media: 'cdrom', disk }]), 1)
}

function empty(): Host {
  return new Host(machine([undefined, undefined, { media: 'cdrom' }]), 1)
}

interface Answer {
  /** Sense key; 0 is success. */
  readonly key: number
  readonly data: Uint8Array
}

/** A packet command by PIO, from end to end. */
function packet(host: Host, bytes: readonly number[], out?: Uint8Array): Answer {
  host.select(0)
  host.out(1, 0)
  host.out(4, 0xff)
  host.out(5, 0xff)
  host.out(7, 0xa0)
  const command = new Uint8Array(12)
  command.set(bytes)
  host.outsw(command)
  const data: number[] = []
  for (;;) {
    const status = host.status
    if ((status & DRQ) === 0) {
      expect([status & BSY, host.in(2) & 3]).toEqual([0, CD | IO])
      return { key: status & 1 ? host.error >>> 4 : 0, data: Uint8Array.from(data) }
    }
    const count = host.in(4) | (host.in(5) << 8)
    if ((host.in(2) & IO) !== 0) data.push(...host.insw((count + 1) & ~1).subarray(0, count))
    else host.outsw(out!.subarray(0, count))
  }
}

/** Sense key and additional codes of REQUEST SENSE. */
function sense(host: Host): number[] {
  const { data } = packet(host, [0x03, 0, 0, 0, 18])
  return [data[2]! & 15, data[12]!, data[13]!]
}

/** TEST UNIT READY until it says the same twice: every unit attention on the way, and the last word. */
function attentions(host: Host): number[][] {
  const told: number[][] = []
  for (let i = 0; i < 8; i++) {
    const { key } = packet(host, [0])
    if (key === 0) return [...told, [0]]
    const now = sense(host)
    if (now[0] !== 6) return [...told, now]
    told.push(now)
  }
  throw new Error('unit attentions without end')
}

const tray = (host: Host) => host.slot.device.tray(2)!

describe('a CD-ROM drive behind PACKET (SFF-8020i, MMC-6)', () => {
  test('is found by its signature, and identifies itself', () => {
    const host = cdrom()
    expect([host.in(4), host.in(5)]).toEqual([0x14, 0xeb])
    host.out(7, 0xa1)
    const words = new DataView(host.pioIn(512).buffer)
    expect(words.getUint16(0, true)).toBe(0x85c0)
    attentions(host)
    const { data } = packet(host, [0x12, 0, 0, 0, 36])
    expect([data[0], data[1]! & 0x80, String.fromCharCode(...data.subarray(8, 32)).trim()]).toEqual([
      5,
      0x80,
      'BLOCK86 CD-ROM',
    ])
  })

  test('READ(10) and READ(12) by PIO, in blocks of the byte count limit', () => {
    const host = cdrom()
    attentions(host)
    expect(packet(host, [0x28, 0, 0, 0, 0, 7, 0, 0, 100, 0]).data).toEqual(pattern(28, 400))
    expect(packet(host, [0xa8, 0, 0, 0, 0, 9, 0, 0, 0, 2]).data).toEqual(pattern(36, 8))
    expect(packet(host, [0x25]).data).toEqual(Uint8Array.of(0, 0, 0x01, 0x8f, 0, 0, 8, 0))
  })

  test('READ(10) by DMA goes straight into guest memory', () => {
    const host = cdrom()
    attentions(host)
    host.prd([
      [0x8000, 1000],
      [0x20000, 3096],
    ])
    host.select(0)
    host.out(1, 1)
    host.out(7, 0xa0)
    host.outsw(Uint8Array.of(0x28, 0, 0, 0, 0, 5, 0, 0, 2, 0, 0, 0))
    host.start(true)
    expect(host.status).toBe(READY)
    expect(Uint8Array.from([...host.ram(0x8000, 1000), ...host.ram(0x20000, 3096)])).toEqual(pattern(20, 8))
  })

  test('READ CD with headers, READ TOC, GET CONFIGURATION, READ DISC and TRACK INFORMATION, MECHANISM STATUS', () => {
    const host = cdrom()
    attentions(host)
    expect(packet(host, [0xbe, 0, 0, 0, 0, 3, 0, 0, 1, 0x10]).data).toEqual(pattern(12, 4))
    expect(packet(host, [0xbe, 0, 0, 0, 0, 3, 0, 0, 1, 0xf8]).data.length).toBe(2352)
    for (const format of [0, 1, 2])
      expect(packet(host, [0x43, 0, format, 0, 0, 0, 0, 0xff, 0xff]).key, `TOC format ${format}`).toBe(0)
    for (const command of [
      [0x46, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
      [0x51, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
      [0x52, 1, 0, 0, 0, 1, 0, 0xff, 0xff],
      [0xbd, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
      [0x4a, 1, 0, 0, 0x10, 0, 0, 0, 0xff],
      [0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 0xff],
      [0x1a, 0, 0x2a, 0, 0xff],
    ]) {
      const { key, data } = packet(host, command)
      expect([key, data.length > 0], `opcode ${command[0]!.toString(16)}`).toEqual([0, true])
    }
    expect(packet(host, [0xbb, 0, 0xff, 0xff]).key).toBe(0)
  })

  test('MODE SELECT takes its list by PIO', () => {
    const host = cdrom()
    attentions(host)
    const page = packet(host, [0x5a, 8, 0x01, 0, 0, 0, 0, 0, 0xff]).data
    page.fill(0, 0, 2)
    const list = page.slice()
    list[8] = list[8]! & 0x3f
    expect(packet(host, [0x55, 0x10, 0, 0, 0, 0, 0, 0, list.length], list).key).toBe(0)
  })

  test('CVE-2020-29443: no LBA leads out of the disc', () => {
    const host = cdrom()
    attentions(host)
    for (const lba of [
      [0, 0, 1, 0x90],
      [0xff, 0xff, 0xff, 0xff],
      [0x80, 0, 0, 0],
      [0x7f, 0xff, 0xff, 0xff],
    ]) {
      for (const opcode of [0x28, 0xa8, 0xbe]) {
        const command =
          opcode === 0xa8
            ? [opcode, 0, ...lba, 0, 0, 0, 1]
            : opcode === 0x28
              ? [opcode, 0, ...lba, 0, 0, 1]
              : [opcode, 0, ...lba, 0, 0, 1, 0x10]
        const { key, data } = packet(host, command)
        expect([key, data.length]).toEqual([5, 0])
        expect(sense(host)).toEqual([5, 0x21, 0])
      }
    }
    expect(packet(host, [0x28, 0, 0, 0, 1, 0x8f, 0, 0, 2]).key).toBe(5)
  })

  test('CVE-2015-6855: a drive without a disc refuses what needs one, and all of ATA', () => {
    const host = empty()
    for (let opcode = 0; opcode < 256; opcode++) {
      packet(host, [opcode, 0, 0, 0, 0, 1, 0, 0, 1])
      host.softReset()
    }
    expect(attentions(host).at(-1)).toEqual([2, 0x3a, 1])
    for (const opcode of [0x28, 0xa8, 0x25, 0x43, 0x51, 0xbe])
      expect(packet(host, [opcode, 0, 0, 0, 0, 0, 0, 0, 1]).key).toBe(2)
    for (const opcode of [0x06, 0x25, 0x27, 0x35, 0xb0, 0xc8, 0xca, 0xf8, 0xf9]) {
      host.issue(opcode, { count: 1 })
      expect(host.status & 1).toBe(1)
    }
  })
})

describe('changing the medium', () => {
  test('the guest learns that the disc went, and that another one came', async () => {
    const host = cdrom()
    attentions(host)
    await tray(host).eject()
    expect(attentions(host)).toEqual([[2, 0x3a, 2]])
    tray(host).insert(disc(200))
    expect(attentions(host)).toEqual([[6, 0x28, 0], [0]])
    expect(packet(host, [0x25]).data[3]).toBe(199)
  })

  test('a guest that did not look in between is told both', async () => {
    const host = cdrom()
    attentions(host)
    await tray(host).eject()
    tray(host).insert(disc(200))
    expect(attentions(host)).toEqual([[2, 0x3a, 2]])
    expect(attentions(host)).toEqual([[6, 0x28, 0], [0]])
  })

  test('PREVENT keeps the disc in, and the guest is told of the wish; START STOP UNIT opens the tray', async () => {
    const host = cdrom()
    attentions(host)
    packet(host, [0x1e, 0, 0, 0, 1])
    expect(() => tray(host).eject()).toThrow(/locked/)
    expect(packet(host, [0x1b, 0, 0, 0, 2]).key).not.toBe(0)
    sense(host)
    attentions(host)
    packet(host, [0x1e, 0, 0, 0, 0])
    expect(packet(host, [0x1b, 0, 0, 0, 2]).key).toBe(0)
    expect(tray(host).trayOpen).toBe(true)
    expect(packet(host, [0x1b, 0, 0, 0, 3]).key).toBe(0)
    expect(attentions(host).at(-1)).toEqual([0])
    await tray(host).eject(true)
  })

  test('while a read is under way fails the read, which is not done later', async () => {
    const host = cdrom()
    attentions(host)
    expect(host.slot.device.tray(0)).toBeUndefined()
    host.prd([[0x8000, 2048]])
    host.select(0)
    host.out(1, 1)
    host.out(7, 0xa0)
    host.outsw(Uint8Array.of(0x28, 0, 0, 0, 0, 5, 0, 0, 1, 0, 0, 0))
    await tray(host).eject()
    host.start(true)
    expect(host.status & 1).toBe(1)
    expect(host.ram(0x8000, 2048)).toEqual(new Uint8Array(2048))
  })
})

test('disk and CD-ROM drive share a cable', () => {
  const slot = machine([harddisk(Memory.from(pattern(0, 64))), { media: 'cdrom', disk: disc() }])
  const host = new Host(slot)
  host.select(1)
  expect([host.in(4), host.in(5)]).toEqual([0x14, 0xeb])
  host.issue(0x20, { lba: 3, count: 1 })
  expect(host.pioIn(512)).toEqual(pattern(3, 1))
  host.issue(0x90)
  expect([host.intrq, host.status, host.error]).toEqual([true, READY, 1])
  host.select(1)
  expect([host.status, host.in(4)]).toEqual([0, 0x14])
  expect(() => machine([{ media: 'disk' }])).toThrow(/needs an image/)
})
