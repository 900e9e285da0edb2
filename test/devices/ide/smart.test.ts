import { describe, expect, test } from 'vitest'
import { asDevice } from '../../../src/block/device.ts'
import { BlockError } from '../../../src/block/error.ts'
import { Filter } from '../../../src/block/filter.ts'
import type { IoVec } from '../../../src/block/iovec.ts'
import type { Now } from '../../../src/block/now.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { ABRT, BSY, DRQ, type Host, host, READY, type TaskFile, UNC } from './host.ts'

/** A medium with one bad sector, until it is written. */
class OneBad extends Filter {
  readonly name = 'one bad'
  bad: number | undefined

  override read(at: number, into: IoVec): Now<void> {
    const { bad } = this
    if (bad !== undefined && bad * 512 >= at && bad * 512 < at + into.byteLength) throw new BlockError('EIO', 'bad')
    return this.next.read(at, into)
  }

  override write(at: number, from: IoVec): Now<void> {
    this.bad = undefined
    return this.next.write(at, from)
  }
}

function withBad(bad?: number, size = 1 << 20): { ata: Host; medium: OneBad } {
  const medium = new OneBad(asDevice(new Memory(size)))
  medium.bad = bad
  return { medium, ata: host(medium) }
}

function smart(ata: Host, features: number, { lba = 0, count = 0 }: TaskFile = {}): void {
  ata.issue(0xb0, { features, count, lba: 0xc24f00 | lba })
}

function read(ata: Host, features: number, taskFile: TaskFile = {}): DataView {
  smart(ata, features, taskFile)
  const bytes = ata.pioIn(512 * (taskFile.count ?? 1))
  return new DataView(bytes.buffer)
}

function sum(page: DataView): number {
  let total = 0
  for (let i = 0; i < 512; i++) total += page.getUint8(i)
  return total & 0xff
}

const data = (ata: Host) => read(ata, 0xd0)
const log = (ata: Host, address: number) => read(ata, 0xd5, { lba: address, count: 1 })
const general = (ata: Host, address: number, page = 0) => {
  ata.issueExt(0x2f, { lba: address | (page << 8), count: 1 })
  return new DataView(ata.pioIn(512).buffer)
}

/** Value, raw value of an attribute. */
function attribute(ata: Host, id: number): readonly [number, number] {
  const page = data(ata)
  for (let at = 2; at < 362; at += 12)
    if (page.getUint8(at) === id) return [page.getUint8(at + 3), page.getUint32(at + 5, true)]
  throw new Error(`no attribute ${id}`)
}

function runAll(ata: Host): void {
  for (let i = 0; i < 10_000 && ata.bus.clock.deferred > 0; i++) ata.bus.clock.turn()
}

describe('ATA8-ACS 7.53: SMART', () => {
  test('without its key in LBA Mid and High, or with an unknown subcommand, it is aborted', () => {
    const ata = host()
    ata.issue(0xb0, { features: 0xd0 })
    ata.failed(ABRT)
    for (const features of [0x00, 0xd7, 0xdc, 0xff]) {
      smart(ata, features)
      ata.failed(ABRT)
    }
  })

  test('DISABLE OPERATIONS aborts all but ENABLE; IDENTIFY word 85 shows it', () => {
    const ata = host()
    smart(ata, 0xd9)
    ata.done()
    expect(ata.identify().getUint16(170, true) & 1).toBe(0)
    smart(ata, 0xd0)
    ata.failed(ABRT)
    smart(ata, 0xd8)
    ata.done()
    data(ata)
  })

  test('READ DATA and READ THRESHOLDS are sealed, and name the same attributes', () => {
    const ata = host()
    const values = data(ata)
    const thresholds = read(ata, 0xd1)
    expect([sum(values), sum(thresholds)]).toEqual([0, 0])
    for (let at = 2; at < 362; at += 12) expect(thresholds.getUint8(at)).toBe(values.getUint8(at))
    expect([values.getUint16(368, true), values.getUint8(370)]).toEqual([3, 1])
  })

  test('the attributes are what happened: hours, sectors written and read, unreadable sectors', () => {
    const { ata, medium } = withBad()
    ata.issue(0x30, { lba: 0, count: 3 })
    ata.pioOut(new Uint8Array(3 * 512))
    ata.issue(0x20, { lba: 0, count: 2 })
    ata.pioIn(1024)
    ata.bus.clock.advance(5 * 3_600_000)
    expect([attribute(ata, 9)[1], attribute(ata, 241)[1], attribute(ata, 242)[1]]).toEqual([5, 3, 2])
    medium.bad = 7
    ata.issue(0x20, { lba: 7, count: 1 })
    ata.failed(UNC)
    expect([attribute(ata, 197)[1], attribute(ata, 187), attribute(ata, 5)[1]]).toEqual([1, [99, 1], 0])
    ata.issue(0x30, { lba: 7, count: 1 })
    ata.pioOut(new Uint8Array(512))
    expect([attribute(ata, 197)[1], attribute(ata, 5)[1]]).toEqual([0, 1])
  })

  test('RETURN STATUS says that the drive is well, until an attribute falls to its threshold', () => {
    const { ata } = withBad(1)
    smart(ata, 0xda)
    ata.done()
    expect([ata.in(4), ata.in(5)]).toEqual([0x4f, 0xc2])
    for (let i = 0; i < 95; i++) ata.issue(0x20, { lba: 1, count: 1 })
    smart(ata, 0xda)
    ata.done()
    expect([ata.in(4), ata.in(5)]).toEqual([0xf4, 0x2c])
  })

  test('autosave and save of values', () => {
    const ata = host()
    for (const [features, count] of [
      [0xd2, 0xf1],
      [0xd2, 0],
      [0xd3, 0],
    ] as const) {
      smart(ata, features, { count })
      ata.done()
    }
  })
})

describe('ATA8-ACS 7.53.5: self-tests', () => {
  const execute = (ata: Host, test: number) => smart(ata, 0xd4, { lba: test })
  const status = (ata: Host) => data(ata).getUint8(363)

  test('off-line tests run while the host does other things, and their result goes to the log', () => {
    const { ata } = withBad()
    execute(ata, 2)
    ata.done()
    expect(status(ata) >>> 4).toBe(0xf)
    ata.bus.clock.turn()
    ata.identify()
    runAll(ata)
    expect(status(ata)).toBe(0)
    const page = log(ata, 6)
    expect([sum(page), page.getUint8(508), page.getUint8(2), page.getUint8(3)]).toEqual([0, 1, 2, 0])
  })

  test('an extended test reads everything, and stops at the first sector that cannot be read', () => {
    const { ata } = withBad(1777)
    execute(ata, 2)
    runAll(ata)
    expect(status(ata) >>> 4).toBe(7)
    const page = log(ata, 6)
    expect([page.getUint8(3) >>> 4, page.getUint32(7, true)]).toEqual([7, 1777])
    const extended = general(ata, 7)
    expect([extended.getUint8(4), extended.getUint8(5) >>> 4, extended.getUint32(9, true)]).toEqual([2, 7, 1777])
    expect(attribute(ata, 197)[1]).toBe(1)
  })

  test('a short test of a terabyte takes few reads', () => {
    const { ata } = withBad(undefined, 2 ** 40)
    execute(ata, 1)
    let turns = 0
    for (; ata.bus.clock.deferred > 0; turns++) ata.bus.clock.turn()
    expect(turns).toBeLessThan(100)
    expect(status(ata)).toBe(0)
  })

  test('a captive test holds BSY, and fails its command if the drive is bad', () => {
    const { ata, medium } = withBad()
    execute(ata, 0x81)
    expect(ata.alt & BSY).toBe(BSY)
    runAll(ata)
    ata.done()
    medium.bad = 3
    execute(ata, 0x82)
    runAll(ata)
    ata.failed(ABRT)
    expect([ata.in(4), ata.in(5)]).toEqual([0xf4, 0x2c])
  })

  test('the host aborts a test with 7Fh; a reset interrupts it', () => {
    const { ata } = withBad()
    execute(ata, 2)
    execute(ata, 0x7f)
    expect(status(ata) >>> 4).toBe(1)
    execute(ata, 2)
    ata.softReset()
    expect(status(ata) >>> 4).toBe(2)
    runAll(ata)
    expect(log(ata, 6).getUint8(508)).toBe(2)
  })

  test('a selective test reads the spans of its log', () => {
    const { ata, medium } = withBad(500)
    const spans = new Uint8Array(512)
    const view = new DataView(spans.buffer)
    view.setUint16(0, 1, true)
    view.setBigUint64(2, 10n, true)
    view.setBigUint64(10, 20n, true)
    view.setBigUint64(18, 600n, true)
    view.setBigUint64(26, 700n, true)
    smart(ata, 0xd6, { lba: 9, count: 1 })
    ata.pioOut(spans)
    execute(ata, 4)
    runAll(ata)
    expect(status(ata)).toBe(0)
    medium.bad = 650
    execute(ata, 4)
    runAll(ata)
    expect(log(ata, 6).getUint32(2 + 24 + 5, true)).toBe(650)
    expect(log(ata, 9).getBigUint64(18, true)).toBe(600n)
  })

  test('CVE-2014-2894: no self-test number leads out of the tables', () => {
    const ata = host()
    for (let number = 0; number < 256; number++) {
      execute(ata, number)
      runAll(ata)
      expect(ata.status & (BSY | DRQ)).toBe(0)
      data(ata)
      log(ata, 6)
    }
    for (let i = 0; i < 50; i++) {
      execute(ata, 1)
      runAll(ata)
    }
    expect([log(ata, 6).getUint8(508), general(ata, 7).getUint16(2, true)]).toEqual([21, 19])
  })
})

describe('ATA8-ACS annex A: logs', () => {
  test('the directories name what there is, for SMART READ LOG and for READ LOG EXT', () => {
    const ata = host()
    const bySmart = log(ata, 0)
    const byGeneral = general(ata, 0)
    expect([bySmart.getUint16(0, true), byGeneral.getUint16(0, true)]).toEqual([1, 1])
    for (let address = 1; address < 256; address++) {
      for (const [directory, ext] of [
        [bySmart, false],
        [byGeneral, true],
      ] as const) {
        const pages = directory.getUint16(2 * address, true)
        const ask = (count: number) => {
          if (ext) ata.issueExt(0x2f, { lba: address, count })
          else smart(ata, 0xd5, { lba: address, count })
        }
        ask(pages + 1)
        ata.failed(ABRT)
        if (pages === 0) continue
        ask(pages)
        ata.pioIn(512 * pages)
      }
    }
  })

  test('A.16: the summary error log keeps the last five errors with the commands before them', () => {
    const { ata } = withBad(9)
    ata.issue(0xe5)
    ata.issue(0xec)
    ata.insw(512)
    for (let i = 0; i < 7; i++) {
      ata.issue(0x20, { lba: 8, count: 2 })
      ata.insw(512)
      expect(ata.status & 1).toBe(1)
    }
    const page = log(ata, 1)
    expect([sum(page), page.getUint8(0), page.getUint8(1), page.getUint16(452, true)]).toEqual([0, 1, 2, 7])
    const newest = 2 + 90
    expect([page.getUint8(newest + 61), page.getUint8(newest + 63), page.getUint8(newest + 67)]).toEqual([UNC, 9, 0x51])
    expect([page.getUint8(newest + 48 + 7), page.getUint8(newest + 36 + 7)]).toEqual([0x20, 0x20])
  })

  test('A.7: the extended log has 48-bit addresses', () => {
    const { ata } = withBad(2 ** 30, 2 ** 41)
    ata.issueExt(0x24, { lba: 2 ** 30, count: 1 })
    ata.failed(UNC)
    const page = general(ata, 3)
    expect([sum(page), page.getUint16(2, true), page.getUint16(500, true)]).toEqual([0, 1, 1])
    const error = 4 + 90
    expect([page.getUint8(error + 1), page.getUint8(error + 5), page.getUint8(error + 11)]).toEqual([UNC, 0x40, 0x51])
    expect(page.getUint8(4 + 72 + 12)).toBe(0x24)
  })

  test('A.5: device statistics', () => {
    const ata = host()
    ata.issue(0x20, { lba: 0, count: 5 })
    ata.pioIn(5 * 512)
    expect([...new Uint8Array(general(ata, 4, 0).buffer).subarray(8, 12)]).toEqual([4, 0, 1, 4])
    const page = general(ata, 4, 1)
    expect([page.getUint16(2, true), page.getUint32(40, true), page.getUint8(47)]).toEqual([1, 5, 0xc0])
  })

  test('ACS-3 A.12: IDENTIFY DEVICE data', () => {
    const ata = host(1 << 20, { serial: 'ABCD' })
    const identify = new Uint8Array(ata.identify().buffer)
    expect(new Uint8Array(general(ata, 0x30, 1).buffer)).toEqual(identify)
    expect(general(ata, 0x30, 2).getBigUint64(8, true)).toBe((1n << 63n) | 2048n)
    const strings = general(ata, 0x30, 5)
    expect(String.fromCharCode(...new Uint8Array(strings.buffer).subarray(8, 12))).toBe('BADC')
  })

  test('host logs 80h to 9Fh keep what is written, by PIO and by DMA, from any page', () => {
    const ata = host()
    const pages = Uint8Array.from({ length: 1024 }, (_, i) => i * 11)
    ata.issueExt(0x3f, { lba: 0x85 | (3 << 8), count: 2 })
    ata.pioOut(pages)
    expect(new Uint8Array(general(ata, 0x85, 4).buffer)).toEqual(pages.subarray(512))
    expect(new Uint8Array(general(ata, 0x85, 5).buffer)).toEqual(new Uint8Array(512))
    ata.ram(0x8000, 512).fill(0x77)
    ata.dma(() => ata.issueExt(0x57, { lba: 0x9f, count: 1 }), [[0x8000, 512]], false)
    ata.dma(() => ata.issueExt(0x47, { lba: 0x9f, count: 1 }), [[0x9000, 512]], true)
    expect(ata.ram(0x9000, 512)).toEqual(new Uint8Array(512).fill(0x77))
    smart(ata, 0xd6, { lba: 0x80, count: 1 })
    ata.pioOut(pages.subarray(0, 512))
    expect(new Uint8Array(log(ata, 0x80).buffer)).toEqual(pages.subarray(0, 512))
  })

  test('what cannot be read or written is aborted', () => {
    const ata = host()
    for (const [opcode, lba, count] of [
      [0x2f, 0x80 | (15 << 8), 2],
      [0x2f, 0x01, 1],
      [0x2f, 0x00, 0],
      [0x3f, 0x03, 1],
      [0x3f, 0x80 | (16 << 8), 1],
      [0x47, 0x80, 0xffff],
    ] as const) {
      ata.issueExt(opcode, { lba, count })
      ata.failed(ABRT)
    }
    expect(ata.status).toBe(READY | 1)
  })
})
