/** CD-ROM drives [MMC-6] 5 to 7. */
import { describe, expect, test } from 'vitest'
import { asDevice } from '../../../../src/block/device.ts'
import { Disk } from '../../../../src/block/disk.ts'
import { Memory } from '../../../../src/block/protocols/memory.ts'
import { CdUnit, ScsiTarget } from '../../../../src/devices/scsi/index.ts'
import { cdDisc, cdTarget, firstDifference, hex, Initiator, numbered } from '../initiator.ts'

const BLOCKS = 64
const bytes = (data: Uint8Array) => Buffer.from(data).toString('hex')

describe('[MMC-6] 6.15, 6.16 READ, 6.19 READ CD', () => {
  test.each([
    '08 00 00 05 02',
    '28 00 00 00 00 05 00 00 02',
    'a8 00 00 00 00 05 00 00 00 02',
    'be 00 00 00 00 05 00 00 02 10',
  ])('%s gives blocks of 2048 bytes', async (cdb) => {
    const { initiator } = await cdTarget()
    for (const piece of [undefined, 700]) {
      const { data, status } = await initiator.send(cdb, piece === undefined ? {} : { piece })
      expect([status, firstDifference(data, numbered(BLOCKS * 2048).subarray(5 * 2048, 7 * 2048))]).toEqual([0, -1])
    }
  })

  test.each([
    '28 00 00 00 00 40 00 00 01',
    'a8 00 ff ff ff ff 00 00 00 01',
    'be 00 00 00 00 3f 00 00 02 10',
    'be 00 ff ff ff ff ff ff ff f8',
    'b9 00 00 00 02 00 ff ff ff 10',
    '2b 00 00 00 00 40',
    '44 00 ff ff ff ff 00 00 08',
    '52 00 00 00 00 40 00 00 24',
    'a7 00 00 00 00 40',
  ])('CVE-2020-29443: %s reaches past the medium', async (cdb) => {
    const { initiator } = await cdTarget()
    expect(await initiator.send(cdb)).toMatchObject({ status: 2, sense: '05/21/00', transferred: 0 })
  })

  test('a whole sector: sync, header, data, EDC and ECC as ECMA-130 has them', async () => {
    const { initiator } = await cdTarget()
    const { data } = await initiator.send('be 08 00 00 00 05 00 00 01 f8')
    expect(data.length).toBe(2352)
    expect(bytes(data.subarray(0, 16))).toBe('00ffffffffffffffffffff0000020501')
    expect(firstDifference(data.subarray(16, 2064), numbered(BLOCKS * 2048).subarray(5 * 2048, 6 * 2048))).toBe(-1)
    expect(bytes(data.subarray(2068, 2076))).toBe('0000000000000000')
    // Annex A: every P and Q code word of a right sector has two syndromes that are 0
    expect(syndromes(data)).toEqual([])
    data[100]! ^= 1
    expect(syndromes(data).length).toBeGreaterThan(0)
  })

  test('the EDC is the remainder that ECMA-130 14.3 defines', async () => {
    const { initiator } = await cdTarget()
    const { data, view } = await initiator.send('be 00 00 00 00 00 00 00 01 f8')
    expect(view.getUint32(2064, true)).toBe(remainder(data.subarray(0, 2064)))
  })

  test.each([
    ['10', 2048],
    ['20', 4],
    ['30', 2052],
    ['38', 2340],
    ['b0', 2064],
    ['b8', 2352],
    ['f8', 2352],
    ['18', 2336],
    ['80', 12],
    ['00', 0],
  ])('main channel %s is %i bytes of a sector', async (flags, length) => {
    const { initiator } = await cdTarget()
    for (const piece of [undefined, 1000]) {
      const outcome = await initiator.send(`be 00 00 00 00 02 00 00 03 ${flags}`, piece === undefined ? {} : { piece })
      expect([outcome.status, outcome.transferred]).toEqual([0, 3 * length])
    }
  })

  test('parts with a gap, C2 pointers, sub-channels and other sector types are refused', async () => {
    const { initiator } = await cdTarget()
    expect(await initiator.send('be 00 00 00 00 00 00 00 01 90')).toMatchObject({ sense: '05/24/00', field: 'cdb 9.7' })
    expect(await initiator.send('be 00 00 00 00 00 00 00 01 12')).toMatchObject({ sense: '05/24/00', field: 'cdb 9.2' })
    expect(await initiator.send('be 00 00 00 00 00 00 00 01 10 02')).toMatchObject({ field: 'cdb 10.2' })
    expect(await initiator.send('be 04 00 00 00 00 00 00 01 10')).toMatchObject({ sense: '05/64/00' })
  })

  test('6.20 READ CD MSF: from a minute, second and frame to another', async () => {
    const { initiator } = await cdTarget()
    const { data } = await initiator.send('b9 00 00 00 02 05 00 02 07 10')
    expect(firstDifference(data, numbered(BLOCKS * 2048).subarray(5 * 2048, 7 * 2048))).toBe(-1)
    expect(await initiator.send('b9 00 00 00 02 07 00 02 05 10')).toMatchObject({ sense: '05/24/00', field: 'cdb 6.7' })
    expect(await initiator.send('b9 00 00 00 00 00 00 02 05 10')).toMatchObject({ sense: '05/24/00', field: 'cdb 3.7' })
  })

  test('a scratched disc has the block in the sense data', async () => {
    class Scratched extends Memory {
      override read(at: number, into: Parameters<Memory['read']>[1]): void {
        if (at + into.byteLength > 9 * 2048) throw Object.assign(new Error('scratch'), { code: 'EIO' })
        super.read(at, into)
      }
    }
    const unit = new CdUnit(new Disk(asDevice(new Scratched(BLOCKS * 2048, { readOnly: true }))))
    const initiator = new Initiator(new ScsiTarget().attach(0, unit))
    await initiator.ready()
    expect(await initiator.send('28 00 00 00 00 05 00 00 08')).toMatchObject({
      sense: '03/11/00',
      information: 9,
      transferred: 4 * 2048,
    })
    expect(await initiator.send('be 00 00 00 00 05 00 00 08 f8')).toMatchObject({ sense: '03/11/00', information: 9 })
  })
})

/** Vectors whose syndromes are not 0; the code words are counted in 16-bit words from byte 12, as annex A does. */
function syndromes(sector: Uint8Array): string[] {
  const multiply = (a: number, b: number): number => {
    let product = 0
    for (let i = 0; i < 8; i++) {
      if ((b >> i) & 1) product ^= a << i
    }
    for (let i = 14; i >= 8; i--) if ((product >> i) & 1) product ^= 0x11d << (i - 8)
    return product
  }
  const wrong: string[] = []
  const check = (name: string, words: readonly number[]) => {
    for (const plane of [0, 1]) {
      let [sum, weighted] = [0, 0]
      for (const word of words) {
        const value = sector[12 + 2 * word + plane]!
        sum ^= value
        weighted = multiply(weighted, 2) ^ value
      }
      if (sum !== 0 || weighted !== 0) wrong.push(`${name}.${plane}`)
    }
  }
  for (let n = 0; n < 43; n++)
    check(
      `P${n}`,
      Array.from({ length: 26 }, (_, m) => n + 43 * m),
    )
  for (let n = 0; n < 26; n++) {
    check(`Q${n}`, [...Array.from({ length: 43 }, (_, m) => (44 * m + 43 * n) % 1118), 1118 + n, 1144 + n])
  }
  return wrong
}

/** The 32-bit remainder, bit by bit. */
function remainder(data: Uint8Array): number {
  let register = 0
  for (const byte of data) {
    register ^= byte
    for (let i = 0; i < 8; i++) register = (register >>> 1) ^ (register & 1 ? 0xd8018001 : 0)
  }
  return register >>> 0
}

describe('[MMC-6] 6.25 READ TOC/PMA/ATIP', () => {
  test.each([
    ['0: tracks', '43 00 00 00 00 00 00 00 ff', '00120101' + '0014010000000000' + '0014aa0000000040'],
    ['0: tracks, MSF', '43 02 00 00 00 00 00 00 ff', '00120101' + '0014010000000200' + '0014aa0000000240'],
    ['0: the lead-out', '43 00 00 00 00 00 aa 00 ff', '000a0101' + '0014aa0000000040'],
    ['1: sessions', '43 00 01 00 00 00 00 00 ff', '000a0101' + '0014010000000000'],
    ['1: as SFF-8020i has it', '43 00 00 00 00 00 00 00 ff 40', '000a0101' + '0014010000000000'],
    [
      '2: all of it',
      '43 02 02 00 00 00 00 00 ff',
      '002e0101' +
        '011400a000000000010000' +
        '011400a100000000010000' +
        '011400a200000000000240' +
        '0114000100000000000200',
    ],
  ])('format %s', async (_, cdb, expected) => {
    const { initiator } = await cdTarget()
    expect(bytes((await initiator.send(cdb)).data)).toBe(expected)
  })

  test('a start track that is not there and the other formats are refused', async () => {
    const { initiator } = await cdTarget()
    expect(await initiator.send('43 00 00 00 00 00 02 00 ff')).toMatchObject({ sense: '05/24/00', field: 'cdb 6.7' })
    for (const format of ['03', '04', '05']) {
      expect(await initiator.send(`43 00 ${format} 00 00 00 00 00 ff`)).toMatchObject({ field: 'cdb 2.3' })
    }
  })
})

describe('[MMC-6] 6.5 GET CONFIGURATION', () => {
  const config = async (initiator: Initiator, cdb: string) => {
    const { data, view } = await initiator.send(cdb)
    const found: string[] = []
    for (let at = 8; at < data.length; at += 4 + data[at + 3]!) {
      found.push(view.getUint16(at).toString(16) + ((data[at + 2]! & 1) !== 0 ? '*' : ''))
    }
    return { profile: view.getUint16(6), length: view.getUint32(0), found: found.join(' ') }
  }

  test('profiles and features follow the medium: none, a CD, a DVD', async () => {
    const all = '46 00 00 00 00 00 00 02 00'
    const none = await cdTarget({ empty: true })
    expect(await config(none.initiator, all)).toMatchObject({ profile: 0, found: '0* 1* 2* 3* 10 1d 1e 1f 100* 105*' })
    const cd = await cdTarget()
    expect(await config(cd.initiator, all)).toMatchObject({ profile: 8, found: '0* 1* 2* 3* 10* 1d* 1e* 1f 100* 105*' })
    const dvd = await cdTarget({ blocks: 400_000, unit: { serial: 'DVD1' } })
    expect(await config(dvd.initiator, all)).toMatchObject({
      profile: 16,
      found: '0* 1* 2* 3* 10* 1d 1e 1f* 100* 105* 108*',
    })
  })

  test('RT: the current ones, one alone; a start; a list that is cut', async () => {
    const { initiator } = await cdTarget()
    expect((await config(initiator, '46 01 00 03 00 00 00 02 00')).found).toBe('3* 10* 1d* 1e* 100* 105*')
    expect((await config(initiator, '46 02 00 1e 00 00 00 02 00')).found).toBe('1e*')
    expect(await config(initiator, '46 02 00 20 00 00 00 02 00')).toMatchObject({ length: 4, found: '' })
    expect(await initiator.send('46 03 00 00 00 00 00 02 00')).toMatchObject({ sense: '05/24/00' })
    const { view, transferred } = await initiator.send('46 00 00 00 00 00 00 00 08')
    expect([transferred, view.getUint32(0) > 8]).toEqual([8, true])
  })

  test('the core feature names the physical interface', async () => {
    const unit = new CdUnit()
    const atapi = new Initiator(new ScsiTarget({ portFlags: { interface: 2 } }).attach(0, unit))
    expect((await atapi.send('46 02 00 01 00 00 00 00 ff')).view.getUint32(12)).toBe(2)
    const { initiator } = await cdTarget()
    expect((await initiator.send('46 02 00 01 00 00 00 00 ff')).view.getUint32(12)).toBe(1)
  })
})

describe('[MMC-6] 6.6 GET EVENT STATUS NOTIFICATION', () => {
  const media = '4a 01 00 00 10 00 00 00 08'

  test('a new medium, then nothing; a removed one', async () => {
    const { initiator, unit, disk } = await cdTarget({ empty: true })
    expect(bytes((await initiator.send(media)).data)).toBe('0006045600000000')
    unit.insert(disk)
    expect(bytes((await initiator.send(media)).data)).toBe('0006045602020000')
    expect(bytes((await initiator.send(media)).data)).toBe('0006045600020000')
    await unit.eject()
    expect(bytes((await initiator.send(media)).data)).toBe('0006045603010000')
  })

  test('an eject that the guest has locked out is an eject request', async () => {
    const { initiator, unit } = await cdTarget()
    await initiator.send('1e 00 00 00 01')
    expect(() => unit.eject()).toThrow(/locked/)
    expect(bytes((await initiator.send(media)).data)).toBe('0006045601020000')
    expect(await initiator.send('00')).toMatchObject({ sense: '06/5a/01' })
    expect(await unit.eject(true)).toBeDefined()
  })

  test('an event is not lost on a host that asks only for the header', async () => {
    const { initiator, unit, disk } = await cdTarget({ empty: true })
    unit.insert(disk)
    expect(bytes((await initiator.send('4a 01 00 00 10 00 00 00 04')).data)).toBe('00060456')
    expect((await initiator.send(media)).data[4]).toBe(2)
  })

  test('of several classes, one with an event; unknown classes; asynchronous operation is refused', async () => {
    const { initiator, unit, disk } = await cdTarget({ empty: true })
    unit.insert(disk)
    expect((await initiator.send('4a 01 00 00 7e 00 00 00 08')).data[2]).toBe(4)
    expect(bytes((await initiator.send('4a 01 00 00 7e 00 00 00 08')).data)).toBe('0006015600000000')
    expect(bytes((await initiator.send('4a 01 00 00 04 00 00 00 08')).data)).toBe('0006025600010000')
    expect(bytes((await initiator.send('4a 01 00 00 80 00 00 00 08')).data)).toBe('00028056')
    expect(await initiator.send('4a 00 00 00 10 00 00 00 08')).toMatchObject({ sense: '05/24/00', field: 'cdb 1.0' })
  })
})

describe('[MMC-6] 6.42 the tray', () => {
  test('the guest ejects and loads; it may not while it is locked', async () => {
    const { initiator, unit } = await cdTarget()
    const moves: boolean[] = []
    unit.onTray = (open) => moves.push(open)
    await initiator.send('1e 00 00 00 01')
    expect(await initiator.send('1b 00 00 00 02')).toMatchObject({ sense: '05/53/02' })
    await initiator.send('1e')
    expect((await initiator.send('1b 00 00 00 02')).status).toBe(0)
    expect(await initiator.send('00')).toMatchObject({ sense: '02/3a/02' })
    expect((await initiator.send('bd 00 00 00 00 00 00 00 00 08')).data[1]).toBe(0x10)
    expect((await initiator.send('1b 00 00 00 03')).status).toBe(0)
    expect(await initiator.send('00')).toMatchObject({ sense: '06/28/00' })
    expect([(await initiator.send('00')).status, moves]).toEqual([0, [true, false]])
  })

  test('a stopped disc spins up when it is read', async () => {
    const { initiator } = await cdTarget()
    expect((await initiator.send('1b')).status).toBe(0)
    expect((await initiator.send('28 00 00 00 00 00 00 00 01')).status).toBe(0)
  })

  test('an exchanged disc: first NOT READY, then the medium may have changed, then the new disc', async () => {
    const { initiator, unit, disk } = await cdTarget()
    expect(await unit.eject()).toBe(disk)
    unit.insert(cdDisc(32))
    expect(await initiator.send('28 00 00 00 00 00 00 00 01')).toMatchObject({ sense: '02/3a/02' })
    expect(await initiator.send('28 00 00 00 00 00 00 00 01')).toMatchObject({ sense: '06/28/00' })
    expect((await initiator.send('25')).view.getUint32(0)).toBe(31)
  })

  test('a guest that has seen the empty drive is only told of the new disc', async () => {
    const { initiator, unit, disk } = await cdTarget()
    await unit.eject()
    expect(await initiator.send('00')).toMatchObject({ sense: '02/3a/02' })
    unit.insert(disk)
    expect(await initiator.send('00')).toMatchObject({ sense: '06/28/00' })
    expect((await initiator.send('00')).status).toBe(0)
  })

  test('a drive with a disc takes no other', async () => {
    const { unit, disk } = await cdTarget()
    expect(() => unit.insert(disk)).toThrow(/is in the drive/)
  })

  test('CVE-2020-25743, CVE-2015-6855: every command to an empty drive is answered', async () => {
    const { initiator } = await cdTarget({ empty: true })
    for (let opcode = 0; opcode < 256; opcode++) {
      const outcome = await initiator.send(`${opcode.toString(16)} 00 00 00 ff 00 00 00 ff`, {
        out: new Uint8Array(65536),
      })
      expect([0, 2]).toContain(outcome.status)
    }
    for (const cdb of [
      '00',
      '25',
      '28 00 00 00 00 00 00 00 01',
      '43 00 00 00 00 00 00 00 ff',
      '51 00 00 00 00 00 00 00 ff',
    ]) {
      expect((await initiator.send(cdb)).sense).toMatch(/^02\/3a/)
    }
  })
})

describe('[MMC-6] the other reports', () => {
  test('6.21 READ DISC INFORMATION, 6.26 READ TRACK INFORMATION', async () => {
    const { initiator } = await cdTarget()
    const disc = await initiator.send('51 00 00 00 00 00 00 00 ff')
    expect([disc.data.length, disc.data[2], disc.data[6]]).toEqual([34, 0x0e, 1])
    for (const cdb of ['52 00 00 00 00 05', '52 01 00 00 00 01', '52 02 00 00 00 01']) {
      const { data, view } = await initiator.send(`${cdb} 00 00 ff`)
      expect([data.length, data[2], data[3], data[5]! & 0xf, view.getUint32(24)]).toEqual([36, 1, 1, 4, BLOCKS])
    }
    expect(await initiator.send('52 01 00 00 00 02 00 00 ff')).toMatchObject({ sense: '05/24/00' })
  })

  test('6.22 READ DVD STRUCTURE of a DVD; a CD has none', async () => {
    const { initiator } = await cdTarget({ blocks: 400_000 })
    const { data, view } = await initiator.send('ad 00 00 00 00 00 00 00 10 00')
    expect([data.length, view.getUint16(0), view.getUint32(8), view.getUint32(12)]).toEqual([
      2052,
      2050,
      0x30000,
      0x30000 + 399_999,
    ])
    expect((await initiator.send('ad 00 00 00 00 00 00 01 10 00')).data.length).toBe(8)
    expect(await initiator.send('ad 00 00 00 00 00 00 77 10 00')).toMatchObject({ sense: '05/24/00', field: 'cdb 7.7' })
    const cd = await cdTarget()
    expect(await cd.initiator.send('ad 00 00 00 00 00 00 00 10 00')).toMatchObject({ sense: '05/30/02' })
  })

  test('6.37 SET CD SPEED shows in page 2Ah; the lock does, too', async () => {
    const { initiator } = await cdTarget()
    await initiator.send('bb 00 02 c2 ff ff')
    await initiator.send('1e 00 00 00 01')
    const { data, view } = await initiator.send('5a 00 2a 00 00 00 00 00 ff')
    expect([view.getUint16(8 + 14), data[8 + 6]! & 2]).toEqual([706, 2])
  })

  test('6.23 READ FORMAT CAPACITIES, MMC-3 6.20 READ SUB-CHANNEL, READ HEADER', async () => {
    const { initiator } = await cdTarget()
    expect(bytes((await initiator.send('23 00 00 00 00 00 00 00 ff')).data)).toBe('000000080000004002000800')
    expect(bytes((await initiator.send('42 00 40 01 00 00 00 00 ff')).data)).toBe(
      '0015000c0114010100000000' + '00000000',
    )
    expect(bytes((await initiator.send('42 00 00 01 00 00 00 00 ff')).data)).toBe('00150000')
    expect(bytes((await initiator.send('44 02 00 00 00 05 00 00 ff')).data)).toBe('0100000000000205')
  })

  test('mode pages as drivers ask for them; the header’s medium type', async () => {
    const { initiator, unit } = await cdTarget()
    for (const page of ['01', '0d', '0e', '1a', '1d', '2a', '3f']) {
      expect((await initiator.send(`5a 00 ${page} 00 00 00 00 01 00`)).status).toBe(0)
    }
    const audio = hex('00 00 00 00 00 00 00 00 0e 0e 04 00 00 00 00 4b 01 80 02 80 00 00 00 00')
    expect((await initiator.send('55 10 00 00 00 00 00 00 18', { out: audio })).status).toBe(0)
    expect((await initiator.send('5a 00 0e 00 00 00 00 00 ff')).data[17]).toBe(0x80)
    unit.moveTray(true)
    await initiator.ready()
    expect((await initiator.send('5a 00 0e 00 00 00 00 00 ff')).data[2]).toBe(0x71)
  })

  test('reserved bits that old drivers set are not looked at', async () => {
    const { initiator } = await cdTarget()
    expect((await initiator.send('25 e0')).status).toBe(0)
    expect((await initiator.send('00 00 00 00 01')).status).toBe(0)
    expect((await initiator.send('00 00 00 00 00 c0')).status).toBe(0)
  })
})
