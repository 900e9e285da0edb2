/** Provisioning, FORMAT UNIT and SANITIZE [SBC-3] 4.7, 4.11, 5.3, 5.28, 5.30, 5.44 to 5.46. */
import { describe, expect, test } from 'vitest'
import { Memory } from '../../../../src/block/protocols/memory.ts'
import type { Saved } from '../../../../src/devices/machine.ts'
import { diskTarget, firstDifference, hex, numbered, SIZE, turn } from '../initiator.ts'

const CHUNK = 65536 / 512

/** The parameter list of UNMAP. */
function ranges(...list: readonly (readonly [lba: number, count: number])[]): Uint8Array {
  const bytes = new Uint8Array(8 + 16 * list.length)
  const view = new DataView(bytes.buffer)
  view.setUint16(0, bytes.length - 2)
  view.setUint16(2, 16 * list.length)
  list.forEach(([lba, count], i) => {
    view.setBigUint64(8 + 16 * i, BigInt(lba))
    view.setUint32(16 + 16 * i, count)
  })
  return bytes
}

const unmap = (length: number, flags = '00') =>
  `42 ${flags} 00 00 00 00 00 ${(length >>> 8).toString(16)} ${(length & 0xff).toString(16)}`

const thin = () => diskTarget({ disk: { discardGranularity: 65536 } })

describe('[SBC-3] 5.28 UNMAP', () => {
  test('several descriptors free whole units, which then read as zeroes', async () => {
    const { initiator, faulty } = await thin()
    const out = ranges([0, CHUNK], [2 * CHUNK, 2 * CHUNK])
    expect((await initiator.send(unmap(out.length), { out })).status).toBe(0)
    const zeroes = faulty.log.filter(({ operation }) => operation === 'zero')
    expect(zeroes.map(({ at, length }) => [at, length])).toEqual([
      [0, 65536],
      [131072, 131072],
    ])
    const { data } = await initiator.send('28 00 00 00 00 00 00 08 00')
    expect(data.subarray(0, 65536).some((byte) => byte !== 0)).toBe(false)
    expect(firstDifference(data.subarray(65536, 131072), numbered(SIZE).subarray(65536, 131072))).toBe(-1)
  })

  test('what is less than a unit stays as it is', async () => {
    const { initiator, faulty } = await thin()
    const out = ranges([1, CHUNK], [CHUNK + 1, CHUNK - 2])
    expect((await initiator.send(unmap(out.length), { out })).status).toBe(0)
    expect(faulty.counts.zero).toBe(0)
    expect(firstDifference((await initiator.send('28 00 00 00 00 00 00 08 00')).data, numbered(SIZE))).toBe(-1)
  })

  test('no list, and a list with no descriptors, unmap nothing', async () => {
    const { initiator } = await thin()
    expect((await initiator.send(unmap(0))).status).toBe(0)
    expect((await initiator.send(unmap(8), { out: ranges() })).status).toBe(0)
  })

  test.each([
    ['a range past the end, after a good one', ranges([0, CHUNK], [2000, 100]), '05/21/00'],
    ['an LBA of 64 bits', hex('00 16 00 10 00 00 00 00 ff ff ff ff ff ff ff ff 00 00 00 01 00 00 00 00'), '05/21/00'],
    ['a list shorter than its header', new Uint8Array(7), '05/1a/00'],
  ])('%s is refused, and nothing is unmapped', async (_, out, sense) => {
    const { initiator, faulty } = await thin()
    expect(await initiator.send(unmap(out.length), { out })).toMatchObject({ status: 2, sense })
    expect(faulty.counts.zero).toBe(0)
  })

  test('a descriptor that is cut off is none; a length beyond the list is the list', async () => {
    const { initiator, faulty } = await thin()
    const out = ranges([0, CHUNK], [CHUNK, CHUNK]).slice(0, 8 + 24)
    new DataView(out.buffer).setUint16(2, 0xffff)
    expect((await initiator.send(unmap(out.length), { out })).status).toBe(0)
    expect(faulty.counts.zero).toBe(1)
  })

  test('more descriptors or blocks than the limits in VPD page B0h are invalid fields', async () => {
    const { initiator } = await diskTarget({ driver: new Memory(4 * 2 ** 30) })
    expect(await initiator.send(unmap(8 + 16 * 257))).toMatchObject({ sense: '05/24/00', field: 'cdb 7.7' })
    const many = ranges(...Array.from({ length: 256 }, () => [0, 1] as const))
    expect(await initiator.send(unmap(many.length), { out: many })).toMatchObject({
      sense: '05/26/00',
      field: 'list 2',
    })
    const large = ranges([0, 0x200000], [0, 1])
    expect(await initiator.send(unmap(large.length), { out: large })).toMatchObject({
      sense: '05/26/00',
      field: 'list 32',
    })
  })

  test('ANCHOR is refused as advertised; without provisioning there is no UNMAP', async () => {
    const { initiator } = await thin()
    expect(await initiator.send(unmap(24, '01'))).toMatchObject({ sense: '05/24/00', field: 'cdb 1.0' })
    const thick = await diskTarget({ disk: { discard: 'ignore' } })
    expect(await thick.initiator.send(unmap(24))).toMatchObject({ sense: '05/20/00' })
    expect(await thick.initiator.send('93 08 00 00 00 00 00 00 00 00 00 00 00 01')).toMatchObject({ field: 'cdb 1.3' })
  })

  test('an abort between two descriptors leaves the second', async () => {
    const { initiator, target, faulty } = await thin()
    faulty.hold()
    const out = ranges([0, CHUNK], [CHUNK, CHUNK])
    const task = initiator.submit(unmap(out.length), { tag: 3 })
    const { bytesVec } = await import('../../../../src/block/iovec.ts')
    void task.moveAll(bytesVec(out))
    const aborted = target.manage({ function: 'abort task', initiator: 7, lun: 0, tag: 3 })
    faulty.release()
    await aborted
    expect([task.phase, faulty.counts.zero]).toEqual(['aborted', 1])
  })
})

describe('[SBC-3] 5.44, 5.46 WRITE SAME', () => {
  const same16 = (flags: string, lba: number, count: number) =>
    `93 ${flags} 00 00 00 00 00 00 ${(lba >>> 8).toString(16)} ${(lba & 0xff).toString(16)} 00 ${(count >>> 16).toString(16)} ${((count >>> 8) & 0xff).toString(16)} ${(count & 0xff).toString(16)}`

  test('a block of data goes to every block', async () => {
    const { initiator } = await thin()
    const block = Uint8Array.from({ length: 512 }, (_, i) => i & 0xff)
    for (const [cdb, lba] of [
      ['41 00 00 00 00 03 00 00 05', 3],
      [same16('00', 100, 1000), 100],
    ] as const) {
      expect(await initiator.send(cdb, { out: block })).toMatchObject({ status: 0, transferred: 512 })
      const { data } = await initiator.send(`28 00 00 00 00 ${(lba + 4).toString(16)} 00 00 01`)
      expect(firstDifference(data, block)).toBe(-1)
    }
    const outside = await initiator.send('28 00 00 00 00 02 00 00 01')
    expect(outside.data[0]).toBe(2)
  })

  test('zeroes are made, not written; with UNMAP they may be freed', async () => {
    const { initiator, faulty, disk } = await thin()
    const allocated = Number(await disk.device.allocated())
    expect((await initiator.send(same16('08', 0, CHUNK), { out: new Uint8Array(512) })).status).toBe(0)
    expect([faulty.counts.write, faulty.counts.zero]).toEqual([0, 1])
    expect(Number(await disk.device.allocated())).toBe(allocated - 65536)
    expect((await initiator.send('28 00 00 00 00 00 00 00 01')).data.some((byte) => byte !== 0)).toBe(false)
  })

  test('NDOB has no data-out: zeroes', async () => {
    const { initiator, faulty } = await thin()
    expect(await initiator.send(same16('01', 5, 3))).toMatchObject({ status: 0, wanted: 0 })
    expect(faulty.counts.zero).toBe(1)
    expect((await initiator.send('28 00 00 00 00 05 00 00 03')).data.some((byte) => byte !== 0)).toBe(false)
  })

  test('data that is not zero is written although UNMAP is set', async () => {
    const { initiator } = await thin()
    expect((await initiator.send(same16('08', 0, 2), { out: new Uint8Array(512).fill(1) })).status).toBe(0)
    expect((await initiator.send('28 00 00 00 00 01 00 00 01')).data[0]).toBe(1)
  })

  test('ANCHOR, no blocks (WSNZ) and too many are invalid fields', async () => {
    const { initiator } = await diskTarget({ driver: new Memory(4 * 2 ** 30) })
    expect(await initiator.send(same16('10', 0, 1))).toMatchObject({ sense: '05/24/00', field: 'cdb 1.4' })
    expect(await initiator.send(same16('00', 0, 0))).toMatchObject({ sense: '05/24/00', field: 'cdb 10.7' })
    expect(await initiator.send(same16('00', 0, 0x200001))).toMatchObject({ sense: '05/24/00', field: 'cdb 10.7' })
    expect(await initiator.send('41')).toMatchObject({ sense: '05/24/00', field: 'cdb 7.7' })
  })

  test('CVE-2014-0222 and its kin: a long pattern takes no more memory than a slice, and lets others run', async () => {
    const { initiator, faulty } = await diskTarget({ size: 8 << 20 })
    faulty.log.length = 0
    const task = initiator.send(same16('00', 0, 16384), { out: new Uint8Array(512).fill(9) })
    await turn()
    expect((await initiator.send('00')).status).toBe(0)
    expect((await task).status).toBe(0)
    expect(faulty.log.filter(({ operation }) => operation === 'write').every(({ length }) => length === 1 << 20)).toBe(
      true,
    )
  })
})

describe('[SBC-3] 5.3 GET LBA STATUS', () => {
  const status = async ({ initiator }: Awaited<ReturnType<typeof thin>>, lba = 0, allocation = 0xf8) => {
    const { data, view, ...rest } = await initiator.send(
      `9e 12 00 00 00 00 00 00 ${(lba >>> 8).toString(16)} ${(lba & 0xff).toString(16)} 00 00 00 ${allocation.toString(16)}`,
    )
    const found: string[] = []
    for (let at = 8; at + 16 <= data.length; at += 16) {
      found.push(`${view.getBigUint64(at)}+${view.getUint32(at + 8)} ${data[at + 12]! & 15}`)
    }
    return { ...rest, found, length: data.length < 4 ? 0 : view.getUint32(0) }
  }

  test('runs of mapped and of deallocated blocks', async () => {
    const all = await thin()
    const out = ranges([CHUNK, 2 * CHUNK])
    await all.initiator.send(unmap(out.length), { out })
    expect((await status(all)).found).toEqual(['0+128 0', '128+256 1', '384+1664 0'])
    expect((await status(all, 200)).found).toEqual(['200+184 1', '384+1664 0'])
  })

  test('one descriptor at least; no more than there is room for', async () => {
    const all = await thin()
    const out = ranges([CHUNK, CHUNK])
    await all.initiator.send(unmap(out.length), { out })
    expect(await status(all, 0, 24)).toMatchObject({ found: ['0+128 0'], length: 20 })
    expect(await status(all, 0, 4)).toMatchObject({ status: 0, length: 20 })
    expect(await status(all, 2048)).toMatchObject({ sense: '05/21/00' })
  })

  test('CVE-2020-1711: a medium in a thousand pieces is answered with 256 descriptors', async () => {
    const driver = new Memory(128 << 20)
    const all = await diskTarget({ driver })
    const { bytesVec } = await import('../../../../src/block/iovec.ts')
    for (let at = 0; at < driver.size; at += 131072) driver.write(at, bytesVec(new Uint8Array(512)))
    const { data } = await all.initiator.send('9e 12 00 00 00 00 00 00 00 00 00 ff ff ff')
    expect(data.length).toBe(8 + 16 * 256)
  })
})

describe('[SBC-3] 4.7.3.8 provisioning thresholds', () => {
  /** Sets threshold 0 (used, increasing) and 1 (available, decreasing) in MiB, and turns their events on. */
  async function armed(used: number, available: number, flags = 0) {
    const all = await diskTarget({ driver: new Memory(64 << 20) })
    await all.initiator.ready(0, 1)
    const descriptor = (arming: number, resource: number, count: number) => [
      (count > 0 ? 0x80 : 0) | arming,
      resource,
      0,
      0,
      ...hex(count.toString(16).padStart(8, '0').replace(/(..)/g, '$1 ')),
    ]
    const lbp = [
      0x5c,
      2,
      0,
      44,
      flags,
      ...new Array<number>(11).fill(0),
      ...descriptor(1, 2, used),
      ...descriptor(0, 1, available),
      ...descriptor(1, 2, 0),
      ...descriptor(0, 1, 0),
    ]
    const recovery = [0x01, 10, 0xc0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0]
    const out = Uint8Array.of(0, 0, 0, 0, ...recovery, ...lbp)
    expect(await all.initiator.send(`15 10 00 00 ${out.length.toString(16)}`, { out })).toMatchObject({ status: 0 })
    await all.initiator.ready(0, 1)
    const fill = (mebibyte: number, initiator = 7) =>
      all.initiator.send(
        `2a 00 00 ${(mebibyte >> 5).toString(16)} ${((mebibyte << 3) & 0xff).toString(16)} 00 00 08 00`,
        {
          out: new Uint8Array(1 << 20).fill(1),
          initiator,
        },
      )
    return { ...all, fill }
  }

  test('THIN PROVISIONING SOFT THRESHOLD REACHED when the used blocks rise to it, once, at every initiator port', async () => {
    const { initiator, fill } = await armed(3, 0)
    for (const mebibyte of [0, 1]) expect((await fill(mebibyte)).status).toBe(0)
    expect((await initiator.send('00')).status).toBe(0)
    expect((await fill(2)).status).toBe(0)
    expect(await initiator.send('00')).toMatchObject({ sense: '06/38/07' })
    expect(await initiator.send('00', { initiator: 1 })).toMatchObject({ sense: '06/38/07' })
    expect((await fill(3)).status).toBe(0)
    expect((await initiator.send('00')).status).toBe(0)
  })

  test('SITUA tells only the port whose command did it', async () => {
    const { initiator, fill } = await armed(1, 0, 1)
    await fill(0)
    expect(await initiator.send('00')).toMatchObject({ sense: '06/38/07' })
    expect((await initiator.send('00', { initiator: 1 })).status).toBe(0)
  })

  test('when what is left falls to it; and again after it was freed', async () => {
    const { initiator, fill } = await armed(0, 62)
    await fill(0)
    expect((await initiator.send('00')).status).toBe(0)
    await fill(1)
    expect(await initiator.send('00')).toMatchObject({ sense: '06/38/07' })
    const out = ranges([0, 4096])
    await initiator.send(unmap(out.length), { out })
    expect((await initiator.send('00')).status).toBe(0)
    await fill(0)
    await fill(1)
    expect(await initiator.send('00')).toMatchObject({ sense: '06/38/07' })
  })

  test('a threshold of a resource that cannot go that way is an invalid field', async () => {
    const { initiator } = await diskTarget()
    const { data } = await initiator.send('5a 08 1c 02 00 00 00 00 ff')
    data.fill(0, 0, 8)
    data[8]! &= 0x7f
    data.set([0x81, 1], 24)
    expect(await initiator.send('55 10 00 00 00 00 00 00 38', { out: data })).toMatchObject({
      sense: '05/26/00',
      field: 'list 25.7',
    })
  })

  test('log page 0Ch counts what is used and what is left', async () => {
    const { initiator, fill } = await armed(0, 0)
    await fill(0)
    const { view, data } = await initiator.send('4d 00 4c 00 00 00 00 00 ff')
    expect([data.length, view.getUint16(4), view.getUint32(8), view.getUint16(16), view.getUint32(20)]).toEqual([
      28, 1, 63, 2, 1,
    ])
  })

  test('a full host is SPACE ALLOCATION FAILED with the block', async () => {
    const { initiator, faulty } = await diskTarget({ disk: { werror: 'report' } })
    faulty.fail('write', 'ENOSPC', 10)
    expect(await initiator.send('2a 00 00 00 00 07 00 00 01', { out: new Uint8Array(512) })).toMatchObject({
      sense: '07/27/07',
      information: 7,
    })
  })
})

describe('[SBC-3] 5.3 FORMAT UNIT, 5.30 SANITIZE', () => {
  const read = '28 00 00 00 00 05 00 00 01'

  test.each([
    ['FORMAT UNIT', '04', undefined],
    ['FORMAT UNIT with a list', '04 10', hex('0 0 0 0')],
    ['FORMAT UNIT with a long list', '04 30', hex('0 0 0 0 0 0 0 0')],
    ['BLOCK ERASE', '48 02', undefined],
  ])('%s zeroes the medium', async (_, cdb, out) => {
    const { initiator } = await diskTarget()
    expect((await initiator.send(cdb, out ? { out } : {})).status).toBe(0)
    expect((await initiator.send('28 00 00 00 00 00 00 08 00')).data.some((byte) => byte !== 0)).toBe(false)
  })

  test('OVERWRITE writes its pattern in every block, as often as it says, inverting by turns', async () => {
    const { initiator, faulty } = await diskTarget({ size: (1 << 20) + 512 })
    const out = hex('83 00 00 03 aa bb cc')
    expect(await initiator.send('48 01 00 00 00 00 00 00 07', { out })).toMatchObject({ status: 0 })
    expect(faulty.counts.write).toBeGreaterThanOrEqual(6)
    const { data } = await initiator.send('28 00 00 00 08 00 00 00 01')
    expect([...data.subarray(0, 4), ...data.subarray(510, 512)]).toEqual([0xaa, 0xbb, 0xcc, 0xaa, 0xaa, 0xbb])
  })

  test.each([
    ['no passes', '48 01 00 00 00 00 00 00 05', hex('00 00 00 01 aa'), '05/26/00'],
    ['no pattern', '48 01 00 00 00 00 00 00 05', hex('01 00 00 00 aa'), '05/26/00'],
    ['a pattern longer than a block', '48 01 00 00 00 00 00 00 05', hex('01 00 02 01 aa'), '05/26/00'],
    ['a pattern cut off', '48 01 00 00 00 00 00 00 05', hex('01 00 00 02 aa'), '05/1a/00'],
    ['no list', '48 01', undefined, '05/24/00'],
    ['a list for BLOCK ERASE', '48 02 00 00 00 00 00 00 05', undefined, '05/24/00'],
    ['CRYPTOGRAPHIC ERASE', '48 03', undefined, '05/24/00'],
    ['a defect list', '04 10', hex('00 00 00 08'), '05/26/00'],
    ['an initialization pattern', '04 10', hex('00 08 00 00'), '05/26/00'],
  ])('%s is refused', async (_, cdb, out, sense) => {
    const { initiator, faulty } = await diskTarget()
    expect(await initiator.send(cdb, out ? { out } : {})).toMatchObject({ status: 2, sense })
    expect([faulty.counts.write, faulty.counts.zero]).toEqual([0, 0])
  })

  test.each([
    ['FORMAT UNIT', '04 10', hex('00 02 00 00'), '02/04/04'],
    ['SANITIZE', '48 82', undefined, '02/04/1b'],
  ])('%s with IMMED: others are told how far it is, a reset does not stop it', async (_, cdb, out, sense) => {
    const { initiator, target, unit } = await diskTarget({ size: 4 << 20 })
    expect((await initiator.send(cdb, out ? { out } : {})).status).toBe(0)
    expect(await initiator.send(read)).toMatchObject({ sense })
    const { data } = await initiator.send('03 00 00 00 12')
    expect([data[2], data[12], data[15]! & 0x80]).toEqual([2, 4, 0x80])
    expect((await initiator.send('12 00 00 00 24')).status).toBe(0)
    await target.reset()
    expect(unit.occupation).toBeDefined()
    while (unit.occupation !== undefined) await turn()
    await initiator.ready()
    expect((await initiator.send(read)).data[0]).toBe(0)
  })

  test('an abort of the command that waits is not an abort of the work', async () => {
    const { initiator, target, unit, faulty } = await diskTarget()
    faulty.hold()
    const task = initiator.submit('48 02', { tag: 1 })
    expect(await target.manage({ function: 'abort task', initiator: 7, lun: 0, tag: 1 })).toBe('complete')
    expect([task.phase, unit.occupation !== undefined]).toEqual(['aborted', true])
    faulty.release()
    while (unit.occupation !== undefined) await turn()
    expect((await initiator.send(read)).data[0]).toBe(0)
  })

  test('a SANITIZE that failed keeps the medium closed until EXIT FAILURE MODE or a better one', async () => {
    const { initiator, faulty } = await diskTarget()
    faulty.fail('zero', 'EIO')
    expect(await initiator.send('48 02')).toMatchObject({ sense: '03/31/03' })
    expect(await initiator.send(read)).toMatchObject({ sense: '03/31/03' })
    expect((await initiator.send('48 02')).status).toBe(0)
    expect((await initiator.send(read)).status).toBe(0)
    faulty.fail('zero', 'EIO')
    expect((await initiator.send('48 a2')).status).toBe(0)
    await turn()
    expect((await initiator.send('00')).bytes[0]).toBe(0x71)
    expect((await initiator.send('48 9f')).status).toBe(0)
    expect((await initiator.send(read)).status).toBe(0)
  })

  test('without AUSE only a SANITIZE without AUSE that goes well ends the failure [SBC-3] 4.11.3', async () => {
    const { initiator, faulty, target } = await diskTarget()
    faulty.fail('zero', 'EIO')
    expect(await initiator.send('48 02')).toMatchObject({ sense: '03/31/03' })
    expect(await initiator.send('48 1f')).toMatchObject({ sense: '05/24/00', field: 'cdb 1.4' })
    expect(await initiator.send('48 22')).toMatchObject({ sense: '05/24/00', field: 'cdb 1.5' })
    const second = await diskTarget()
    await second.target.restore(structuredClone(target.save()) as Saved)
    expect(await second.initiator.send('48 1f')).toMatchObject({ sense: '05/24/00' })
    expect((await initiator.send('48 02')).status).toBe(0)
    expect((await initiator.send(read)).status).toBe(0)
  })
})
