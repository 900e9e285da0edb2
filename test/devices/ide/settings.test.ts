import { describe, expect, test } from 'vitest'
import { asDevice } from '../../../src/block/device.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { Faulty } from '../../conformance/faulty.ts'
import { ABRT, DRQ, diskOf, Host, harddisk, host, IDNF, machine, READY } from './host.ts'

function text(words: DataView, word: number, length: number): string {
  let result = ''
  for (let i = 0; i < length; i++) result += String.fromCharCode(words.getUint8(2 * word + (i ^ 1)))
  return result
}

describe('ATA8-ACS 7.16: IDENTIFY DEVICE', () => {
  const word = (words: DataView, index: number) => words.getUint16(2 * index, true)

  test('strings, sums and numbers come from the drive', () => {
    const ata = host(3 * 1024 * 1024, {
      model: 'A disk',
      serial: 'SN 1',
      firmware: 'v2',
      wwn: 0x5000c500a1b2c3d4n,
      rotationRate: 7200,
    })
    const words = ata.identify()
    expect([text(words, 10, 20), text(words, 23, 8), text(words, 27, 40)]).toEqual([
      'SN 1'.padEnd(20),
      'v2'.padEnd(8),
      'A disk'.padEnd(40),
    ])
    expect([108, 109, 110, 111].map((i) => word(words, i))).toEqual([0x5000, 0xc500, 0xa1b2, 0xc3d4])
    expect(word(words, 217)).toBe(7200)
    expect(words.getUint32(120, true)).toBe(6144)
    expect(words.getBigUint64(200, true)).toBe(6144n)
    expect([1, 3, 6].map((i) => word(words, i))).toEqual([6, 16, 63])
    let sum = 0
    for (let i = 0; i < 512; i++) sum += words.getUint8(i)
    expect(sum & 0xff).toBe(0)
    expect(words.getUint8(510)).toBe(0xa5)
  })

  test('words 60 and 61 stop at 2^28 - 1 sectors, words 100 to 103 do not, words 1, 3, 6 are 16383, 16, 63', () => {
    const words = host(new Memory(2 ** 41)).identify()
    expect(words.getUint32(120, true)).toBe(0x0fff_ffff)
    expect(words.getBigUint64(200, true)).toBe(2n ** 32n)
    expect([1, 3, 6].map((i) => word(words, i))).toEqual([16383, 16, 63])
  })

  test('what is offered in words 82 to 84 is enabled in 85 to 87, as far as it is', () => {
    const words = host().identify()
    // SMART, Security, power management, write cache, look-ahead, HPA, buffers, NOP
    expect(word(words, 82)).toBe(0x746b)
    expect(word(words, 85)).toBe(0x7469)
    // APM, SET MAX security, 48-bit, FLUSH CACHE, FLUSH CACHE EXT
    expect(word(words, 83)).toBe(0x7508)
    expect(word(words, 86)).toBe(0xb400)
    // error log, self-test, General Purpose Logging, FUA
    expect([word(words, 84), word(words, 87)]).toEqual([0x4063, 0x4063])
    expect([word(words, 49), word(words, 53), word(words, 80)]).toEqual([0x2f00, 7, 0x07f0])
  })

  test('a PIIX3 begins with multiword DMA 2, a PIIX4 with Ultra DMA 2; modes to 5 are offered (63, 88)', () => {
    const modes = (model: 'piix3' | 'piix4') => {
      const words = new Host(machine([harddisk(1 << 20)], model)).identify()
      return [word(words, 63), word(words, 64), word(words, 88)]
    }
    expect(modes('piix3')).toEqual([0x0407, 3, 0x003f])
    expect(modes('piix4')).toEqual([0x0007, 3, 0x043f])
  })

  test('106, 117, 118, 209: logical and physical sectors and their alignment', () => {
    const sizes = (logicalBlockSize: number, physicalBlockSize: number) => {
      const words = host(1 << 20, { logicalBlockSize, physicalBlockSize }).identify()
      return [word(words, 106), words.getUint32(2 * 117, true), word(words, 209)]
    }
    expect(sizes(512, 512)).toEqual([0x4000, 0, 0x4000])
    expect(sizes(512, 4096)).toEqual([0x6003, 0, 0x4000])
    expect(sizes(4096, 4096)).toEqual([0x5000, 2048, 0x4000])
  })

  test('69, 105, 169: TRIM is offered where the image can discard, with zeroes read after it', () => {
    const trim = (discard: 'unmap' | 'ignore') => {
      const words = host(1 << 20, { discard }).identify()
      return [word(words, 169) & 1, word(words, 69) & 0x4020, word(words, 105)]
    }
    expect(trim('unmap')).toEqual([1, 0x4020, 64])
    expect(trim('ignore')).toEqual([0, 0, 0])
  })

  test('93: the cable has 80 wires, and each device knows its number', () => {
    const ata = new Host(machine([harddisk(1 << 20), harddisk(1 << 20)]))
    expect([word(ata.identify(0), 93), word(ata.identify(1), 93)]).toEqual([0x600b, 0x6b00])
  })

  test('a resized image shows its new size', async () => {
    const disk = diskOf(1 << 20)
    const ata = new Host(machine([{ media: 'disk', disk }]))
    await disk.resize(2 << 20)
    expect(ata.identify().getUint32(120, true)).toBe(4096)
  })

  test('an identity that does not fit is refused by name', () => {
    const made = (options: object) => () => machine([harddisk(1 << 20, options)])
    expect(made({ model: 'x'.repeat(41) })).toThrow(/model .* 40 printable/)
    expect(made({ firmware: 'é' })).toThrow(/firmware/)
    expect(made({ wwn: 2n ** 64n })).toThrow(/64 bits/)
    expect(made({ rotationRate: 12 })).toThrow(/rotation_rate 12/)
    expect(made({ logicalBlockSize: 8192 })).toThrow(/8192 bytes/)
  })
})

describe('ATA8-ACS 7.50: SET FEATURES', () => {
  test('03h takes the modes that IDENTIFY offers, no others, and shows the one in use', () => {
    const ata = host()
    const set = (mode: number) => {
      ata.issue(0xef, { features: 3, count: mode })
      return ata.status & 1
    }
    const modes = () => {
      const words = ata.identify()
      return [words.getUint16(126, true) >>> 8, words.getUint16(176, true) >>> 8]
    }
    for (const mode of [0x00, 0x01, 0x08, 0x0c, 0x20, 0x22, 0x40, 0x45]) expect(set(mode), `mode ${mode}`).toBe(0)
    expect(modes()).toEqual([0, 1 << 5])
    for (const mode of [0x02, 0x0d, 0x10, 0x23, 0x46, 0x80]) expect(set(mode), `mode ${mode}`).toBe(1)
    set(0x21)
    expect(modes()).toEqual([1 << 1, 0])
  })

  test('02h and 82h are the disk’s own write cache; off flushes first', () => {
    const faulty = new Faulty(asDevice(new Memory(1 << 20)))
    const disk = diskOf(faulty)
    const ata = new Host(machine([{ media: 'disk', disk }]))
    const enabled = () => ata.identify().getUint16(170, true) & 0x20
    expect([enabled(), disk.writeCache]).toEqual([0x20, true])
    ata.issue(0xef, { features: 0x82 })
    ata.done()
    expect([enabled(), disk.writeCache, faulty.counts.flush]).toEqual([0, false, 1])
    ata.issue(0x30, { lba: 1, count: 1 })
    ata.pioOut(new Uint8Array(512))
    expect(faulty.log.at(-1)).toMatchObject({ operation: 'write', fua: true })
    ata.issue(0xef, { features: 0x02 })
    ata.done()
    expect([enabled(), disk.writeCache]).toEqual([0x20, true])
  })

  test('a disk with cache=writethrough begins without a volatile cache', () => {
    expect(
      host(1 << 20, { cache: 'writethrough' })
        .identify()
        .getUint16(170, true) & 0x20,
    ).toBe(0)
  })

  test('05h and 85h, 55h and AAh, and what is unknown', () => {
    const ata = host()
    const set = (features: number, count = 0) => {
      ata.issue(0xef, { features, count })
      return ata.status & 1
    }
    expect([set(0x05, 0), set(0x05, 0xff), set(0x05, 0x80)]).toEqual([1, 1, 0])
    expect([ata.identify().getUint16(172, true) & 8, ata.identify().getUint16(182, true)]).toEqual([8, 0x80])
    expect(set(0x85)).toBe(0)
    expect(ata.identify().getUint16(172, true) & 8).toBe(0)
    expect(set(0x55)).toBe(0)
    expect(ata.identify().getUint16(170, true) & 0x40).toBe(0)
    expect(set(0xaa)).toBe(0)
    expect(ata.identify().getUint16(170, true) & 0x40).toBe(0x40)
    for (const features of [0x00, 0x06, 0x10, 0x42, 0x5d, 0x90]) expect(set(features)).toBe(1)
  })
})

describe('ATA8-ACS 7.54: SET MULTIPLE MODE', () => {
  test('takes powers of two up to word 47; another count turns multiple mode off', () => {
    const ata = host()
    const multiple = () => ata.identify().getUint16(118, true) & 0x1ff
    expect([multiple(), ata.identify().getUint16(94, true)]).toEqual([0x110, 0x8010])
    for (const count of [1, 2, 4, 8, 16]) {
      ata.issue(0xc6, { count })
      ata.done()
      expect(multiple()).toBe(0x100 | count)
    }
    for (const count of [3, 32]) {
      ata.issue(0xc6, { count })
      ata.failed(ABRT)
      expect(multiple()).toBe(0)
    }
  })
})

describe('ATA8-ACS 7.10 and FUA: durability', () => {
  test('FLUSH CACHE and FLUSH CACHE EXT flush the image; FUA writes say so', () => {
    const faulty = new Faulty(asDevice(new Memory(1 << 20)))
    const ata = host(faulty)
    ata.issue(0xe7)
    ata.done()
    ata.issueExt(0xea)
    ata.done()
    expect(faulty.counts.flush).toBe(2)
    ata.dma(() => ata.issueExt(0x3d, { lba: 3, count: 1 }), [[0x8000, 512]], false)
    ata.dma(() => ata.issueExt(0x35, { lba: 3, count: 1 }), [[0x8000, 512]], false)
    ata.issueExt(0xce, { lba: 4, count: 1 })
    ata.pioOut(new Uint8Array(512), 512 * 16)
    expect(faulty.log.filter(({ operation }) => operation === 'write').map(({ fua }) => fua)).toEqual([
      true,
      false,
      true,
    ])
  })
})

describe('ACS-3 7.5: DATA SET MANAGEMENT, TRIM', () => {
  function trim(
    ata: Host,
    ranges: readonly (readonly [lba: number, count: number])[],
    blocks = Math.ceil(ranges.length / 64),
  ): void {
    const list = ata.ram(0x2_0000, blocks * 512).fill(0)
    const view = new DataView(list.buffer, list.byteOffset, list.length)
    ranges.forEach(([lba, count], i) => {
      view.setUint32(8 * i, lba % 2 ** 32, true)
      view.setUint16(8 * i + 4, Math.floor(lba / 2 ** 32), true)
      view.setUint16(8 * i + 6, count, true)
    })
    ata.prd([[0x2_0000, blocks * 512]])
    ata.issueExt(0x06, { features: 1, count: blocks })
    ata.start(false)
    ata.stop()
  }

  test('what is trimmed reads as zero; adjacent ranges are one request; empty ones none', () => {
    const memory = Memory.from(new Uint8Array(1 << 20).fill(0xff))
    const faulty = new Faulty(asDevice(memory))
    const ata = host(faulty)
    trim(ata, [
      [8, 8],
      [16, 16],
      [0, 0],
      [100, 1],
    ])
    ata.done()
    expect(faulty.log.map(({ operation, at, length }) => [operation, at, length])).toEqual([
      ['zero', 8 * 512, 24 * 512],
      ['zero', 100 * 512, 512],
    ])
    ata.issue(0x20, { lba: 7, count: 3 })
    const bytes = ata.pioIn(3 * 512)
    expect([bytes[511], bytes[512], bytes[1535]]).toEqual([0xff, 0, 0])
  })

  test('many ranges in many sectors', () => {
    const memory = Memory.from(new Uint8Array(8 << 20).fill(0xff))
    const ata = host(memory)
    trim(
      ata,
      Array.from({ length: 2000 }, (_, i) => [8 * i, 4] as const),
    )
    ata.done()
    const bytes = new Uint8Array(8 << 20)
    memory.read(0, bytesVec(bytes))
    expect([bytes[0], bytes[2048], bytes[1999 * 4096], bytes[1999 * 4096 + 2048], bytes[2000 * 4096]]).toEqual([
      0, 0xff, 0, 0xff, 0xff,
    ])
  })

  test('a range past the end is IDNF, and nothing is trimmed', () => {
    const faulty = new Faulty(asDevice(new Memory(1 << 20)))
    const ata = host(faulty)
    trim(ata, [
      [0, 8],
      [2040, 9],
    ])
    ata.failed(IDNF)
    trim(ata, [[2 ** 47, 1]])
    ata.failed(IDNF)
    expect(faulty.counts.zero + faulty.counts.discard).toBe(0)
  })

  test('no blocks, too many, or another function are aborted; so is TRIM on a disk that does not offer it', () => {
    const ata = host()
    for (const taskFile of [
      { features: 1, count: 0 },
      { features: 1, count: 65 },
      { features: 0, count: 1 },
    ]) {
      ata.issueExt(0x06, taskFile)
      ata.failed(ABRT)
    }
    const without = host(1 << 20, { discard: 'ignore' })
    without.issueExt(0x06, { features: 1, count: 1 })
    without.failed(ABRT)
  })
})

describe('ATA8-ACS 4.10: Host Protected Area', () => {
  test('READ NATIVE MAX, then SET MAX immediately after it, hides sectors until power-on', async () => {
    const ata = host(1 << 20)
    ata.issue(0xf8)
    ata.done()
    expect(ata.lba28).toBe(2047)
    ata.issue(0xf9, { lba: 999 })
    ata.done()
    expect(ata.identify().getUint32(120, true)).toBe(1000)
    ata.issue(0x20, { lba: 1000, count: 1 })
    ata.failed(IDNF)
    ata.softReset()
    expect(ata.identify().getUint32(120, true)).toBe(1000)
    await ata.slot.device.reset()
    ata.slot.device.config.write(4, 2, 5)
    expect(ata.identify().getUint32(120, true)).toBe(2048)
  })

  test('the EXT forms, kept over power-on with count bit 0, once', async () => {
    const ata = host(new Memory(2 ** 40))
    const set = (lba: number) => {
      ata.issueExt(0x27)
      ata.done()
      expect(ata.lba48).toBe(2 ** 31 - 1)
      ata.issueExt(0x37, { lba, count: 1 })
      return ata.status & 1
    }
    expect(set(2 ** 30 - 1)).toBe(0)
    expect(set(2 ** 20 - 1)).toBe(1)
    await ata.slot.device.reset()
    ata.slot.device.config.write(4, 2, 5)
    expect(ata.identify().getBigUint64(200, true)).toBe(2n ** 30n)
    expect(set(2 ** 31 - 1)).toBe(0)
    expect(ata.identify().getBigUint64(200, true)).toBe(2n ** 31n)
  })

  test('SET MAX without READ NATIVE MAX before it is aborted; an address that is not there is IDNF', () => {
    const ata = host(1 << 20)
    ata.issue(0xf9, { lba: 999 })
    ata.failed(ABRT)
    ata.issue(0xf8)
    ata.issue(0xe5)
    ata.issue(0xf9, { lba: 999 })
    ata.failed(ABRT)
    ata.issue(0xf8)
    ata.issue(0xf9, { lba: 2048 })
    ata.failed(IDNF)
    ata.issueExt(0x37, { lba: 5 })
    ata.failed(ABRT)
  })

  test('7.51.3: SET PASSWORD, LOCK, five attempts of UNLOCK, FREEZE LOCK', () => {
    const ata = host(1 << 20)
    const send = (features: number, password: number) => {
      ata.issue(0xf9, { features })
      if ((ata.alt & DRQ) === 0) return ata.status & 1
      const data = new Uint8Array(512)
      data.fill(password, 2, 34)
      ata.outsw(data)
      return ata.status & 1
    }
    expect(send(2, 0)).toBe(1)
    expect(send(1, 0x41)).toBe(0)
    expect(send(2, 0)).toBe(0)
    ata.issue(0xf8)
    ata.issue(0xf9, { lba: 999 })
    ata.failed(ABRT)
    ata.issue(0xe5)
    expect(send(3, 0x42)).toBe(1)
    expect(send(3, 0x41)).toBe(0)
    expect(send(2, 0)).toBe(0)
    for (let i = 0; i < 5; i++) expect(send(3, 0x42)).toBe(1)
    expect(send(3, 0x41)).toBe(1)
  })
})

describe('ATA8-ACS 4.11: power management', () => {
  test('CHECK POWER MODE tells active, idle and standby; a transfer wakes the drive', () => {
    const ata = host()
    const mode = () => {
      ata.issue(0xe5)
      ata.done()
      return ata.in(2)
    }
    expect(mode()).toBe(0xff)
    ata.issue(0xe1)
    ata.done()
    expect(mode()).toBe(0x80)
    ata.issue(0xe0)
    ata.done()
    expect(mode()).toBe(0)
    ata.issue(0x20, { count: 1 })
    ata.pioIn(512)
    expect(mode()).toBe(0xff)
  })

  test('the Standby timer of IDLE: 5 seconds a count up to 240, 30 minutes a count from 241', () => {
    const ata = host()
    const mode = () => {
      ata.issue(0xe5)
      return ata.in(2)
    }
    ata.issue(0xe3, { count: 2 })
    ata.bus.clock.advance(9_999)
    expect(mode()).toBe(0x80)
    ata.bus.clock.advance(1)
    expect(mode()).toBe(0)
    ata.issue(0xe3, { count: 242 })
    ata.bus.clock.advance(59 * 60_000)
    expect(mode()).toBe(0x80)
    ata.bus.clock.advance(60_000)
    expect(mode()).toBe(0)
  })

  test.each([
    ['STANDBY IMMEDIATE, STANDBY and SLEEP put the write cache on the medium', [0xe0, 0xe2, 0xe6]],
    ['and so do the second opcodes that they had in ATA-3', [0x94, 0x96, 0x99]],
  ])('%s', (_, opcodes) => {
    const faulty = new Faulty(asDevice(new Memory(1 << 20)))
    const ata = host(faulty)
    for (const opcode of opcodes) {
      ata.issue(opcode)
      ata.done()
    }
    expect(faulty.counts.flush).toBe(3)
    ata.issue(0xec)
    expect(ata.intrq).toBe(false)
  })

  test('IDLE IMMEDIATE, IDLE and CHECK POWER MODE have second opcodes, too', () => {
    const ata = host()
    for (const [opcode, count] of [
      [0x95, 0],
      [0x97, 2],
    ] as const) {
      ata.issue(opcode, { count })
      ata.done()
      ata.issue(0x98)
      ata.done()
      expect(ata.in(2)).toBe(0x80)
    }
    ata.bus.clock.advance(10_000)
    ata.issue(0x98)
    expect(ata.in(2)).toBe(0)
  })

  test('out of SLEEP only a reset leads', () => {
    const ata = host()
    ata.issue(0xe6)
    ata.done()
    const edges = ata.edges
    ata.issue(0xec)
    ata.issue(0x90)
    expect(ata.edges).toBe(edges)
    ata.softReset()
    expect(ata.status).toBe(READY)
    ata.identify()
  })
})

test('ATA8-ACS 7.22, 7.65: READ BUFFER gives what WRITE BUFFER brought, by PIO and by DMA', () => {
  const ata = host()
  const data = Uint8Array.from({ length: 512 }, (_, i) => i * 5)
  ata.issue(0xe8)
  ata.pioOut(data)
  ata.issue(0xe4)
  expect(ata.pioIn(512)).toEqual(data)
  ata.ram(0x8000, 512).set(data.map((byte) => ~byte))
  ata.dma(() => ata.issue(0xeb), [[0x8000, 512]], false)
  ata.dma(() => ata.issue(0xe9), [[0x9000, 512]], true)
  expect(ata.ram(0x9000, 512)).toEqual(data.map((byte) => ~byte))
})

test('ATA-3: RECALIBRATE and SEEK still end as they did', () => {
  const ata = host()
  ata.issue(0x10)
  ata.done()
  ata.issue(0x70, { lba: 5 })
  ata.done()
  ata.issue(0x70, { lba: 1 << 20 })
  ata.failed(IDNF)
})
