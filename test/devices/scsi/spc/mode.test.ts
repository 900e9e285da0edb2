/** MODE SENSE and MODE SELECT [SPC-4] 6.11 to 6.14, 7.5; [SBC-3] 6.4. */
import { describe, expect, test } from 'vitest'
import { cdTarget, diskTarget } from '../initiator.ts'

/** A parameter list of MODE SELECT(6): header, no block descriptor, pages. */
const list = (...pages: readonly number[]) => Uint8Array.of(0, 0, 0, 0, ...pages)
const select = (length: number, flags = '10') => `15 ${flags} 00 00 ${length.toString(16)} 00`
const caching = (flags: number) => [0x08, 18, flags, ...new Array<number>(17).fill(0)]

describe('[SPC-4] 6.11 MODE SENSE', () => {
  test('the header of a disk: length, WP, DPOFUA, one block descriptor', async () => {
    const { initiator } = await diskTarget()
    const { data, view } = await initiator.send('1a 00 08 00 ff')
    expect([...data.subarray(0, 4)]).toEqual([4 + 8 + 20 - 1, 0, 0x10, 8])
    expect([view.getUint32(4), view.getUint32(8)]).toEqual([2048, 512])
    const { data: long, view: longView } = await initiator.send('5a 10 08 00 00 00 00 00 ff')
    expect([longView.getUint16(0), long[4], longView.getUint16(6)]).toEqual([8 + 16 + 20 - 2, 1, 16])
    expect([longView.getBigUint64(8), longView.getUint32(20)]).toEqual([2048n, 512])
  })

  test('DBD leaves the descriptor out; a CD-ROM has none', async () => {
    const { initiator } = await diskTarget()
    expect((await initiator.send('1a 08 08 00 ff')).data.length).toBe(4 + 20)
    const cd = await cdTarget()
    const { data } = await cd.initiator.send('5a 00 2a 00 00 00 00 00 ff')
    expect([data[2], data[7], data[8]! & 0x3f, data.length]).toEqual([1, 0, 0x2a, 8 + 32])
  })

  test('3Fh gives every page in ascending order, 3Fh/FFh the subpages too', async () => {
    const { initiator } = await diskTarget()
    const codes = async (cdb: string) => {
      const { data } = await initiator.send(cdb)
      const found: string[] = []
      for (let at = 8; at < data.length; ) {
        const sub = (data[at]! & 0x40) !== 0
        found.push((data[at]! & 0x3f).toString(16) + (sub ? `/${data[at + 1]}` : ''))
        at += sub ? 4 + ((data[at + 2]! << 8) | data[at + 3]!) : 2 + data[at + 1]!
      }
      return found.join(' ')
    }
    expect(await codes('5a 08 3f 00 00 00 00 10 00')).toBe('1 2 3 4 5 8 a 1a 1c')
    expect(await codes('5a 08 3f ff 00 00 00 10 00')).toBe('1 2 3 4 5 8 a 1a 1c 1c/2')
    expect((await initiator.send('1a 00 3f 00 ff')).status).toBe(0)
  })

  test('the four kinds of values of the caching page', async () => {
    const { initiator } = await diskTarget()
    const wce = async (control: number) =>
      (await initiator.send(`1a 08 ${((control << 6) | 8).toString(16)} 00 ff`)).data[6]
    expect([await wce(0), await wce(1), await wce(2), await wce(3)]).toEqual([4, 4, 4, 4])
    await initiator.send(select(24), { out: list(...caching(0)) })
    expect([await wce(0), await wce(1), await wce(2), await wce(3)]).toEqual([0, 4, 4, 4])
  })

  test('a page that is not there is an invalid field, and so is a subpage', async () => {
    const { initiator } = await diskTarget()
    expect(await initiator.send('1a 00 2a 00 ff')).toMatchObject({ sense: '05/24/00', field: 'cdb 2.5' })
    expect(await initiator.send('1a 00 08 05 ff')).toMatchObject({ sense: '05/24/00', field: 'cdb 3.7' })
    expect(await initiator.send('1a 00 3f 01 ff')).toMatchObject({ sense: '05/24/00', field: 'cdb 3.7' })
  })

  test('WP of a read-only disk', async () => {
    const { Memory } = await import('../../../../src/block/protocols/memory.ts')
    const { initiator } = await diskTarget({ driver: new Memory(1 << 20, { readOnly: true }) })
    expect((await initiator.send('1a 08 08 00 ff')).data[2]).toBe(0x90)
  })
})

describe('[SPC-4] 6.9 MODE SELECT', () => {
  test('WCE turns the disk’s write cache off and on; off is durable first', async () => {
    const { initiator, disk, faulty } = await diskTarget()
    await initiator.send('2a 00 00 00 00 00 00 00 01', { out: new Uint8Array(512) })
    expect(await initiator.send(select(24), { out: list(...caching(0)) })).toMatchObject({ status: 0 })
    expect([disk.writeCache, faulty.counts.flush]).toEqual([false, 1])
    await initiator.send(select(24), { out: list(...caching(4)) })
    expect(disk.writeCache).toBe(true)
  })

  test('the other initiator ports are told: MODE PARAMETERS CHANGED', async () => {
    const { initiator } = await diskTarget()
    await initiator.ready(0, 1)
    await initiator.send(select(24), { out: list(...caching(0)) })
    expect((await initiator.send('00')).status).toBe(0)
    expect(await initiator.send('00', { initiator: 1 })).toMatchObject({ sense: '06/2a/01' })
    await initiator.send(select(24), { out: list(...caching(0)) })
    expect((await initiator.send('00', { initiator: 1 })).status).toBe(0)
  })

  test('SP saves the pages: a reset goes back to them, without it to what was saved before', async () => {
    const { initiator, target, disk, unit } = await diskTarget()
    let saves = 0
    unit.modes.onSaved = () => {
      saves++
    }
    await initiator.send(select(24, '11'), { out: list(...caching(0)) })
    await initiator.send(select(24), { out: list(...caching(4)) })
    expect([disk.writeCache, saves]).toEqual([true, 1])
    await target.reset()
    expect(disk.writeCache).toBe(false)
  })

  test('D_SENSE changes the format of sense data', async () => {
    const { initiator } = await diskTarget()
    expect((await initiator.send('ff')).bytes[0]).toBe(0x70)
    await initiator.send(select(16), { out: list(0x0a, 10, 0x06, 0x10, 0, 0, 0, 0, 0, 0, 0, 0) })
    const outcome = await initiator.send('ff')
    expect([outcome.bytes[0], outcome.sense]).toEqual([0x72, '05/20/00'])
    expect((await initiator.send('28 00 00 00 00 00 ff', {})).bytes.length).toBeLessThan(32)
  })

  test('SWP protects the medium', async () => {
    const { initiator } = await diskTarget()
    await initiator.send(select(16), { out: list(0x0a, 10, 0x02, 0x10, 0x08, 0, 0, 0, 0, 0, 0, 0) })
    expect(await initiator.send('2a 00 00 00 00 00 00 00 01')).toMatchObject({ sense: '07/27/00' })
    expect((await initiator.send('1a 08 08 00 ff')).data[2]).toBe(0x90)
  })

  test('a bit that cannot be changed is an invalid field of the list, and nothing of the list takes effect', async () => {
    const { initiator, disk } = await diskTarget()
    const pages = [...caching(0), 0x1a, 38, 1, ...new Array<number>(37).fill(0)]
    const outcome = await initiator.send(select(4 + pages.length), { out: list(...pages) })
    expect(outcome).toMatchObject({ sense: '05/26/00', field: 'list 26.0' })
    expect(disk.writeCache).toBe(true)
  })

  test('CVE-2021-3930: page 3Fh, which means all pages in MODE SENSE, is no page here', async () => {
    const { initiator } = await diskTarget()
    expect(await initiator.send(select(8), { out: list(0x3f, 2, 0, 0) })).toMatchObject({
      sense: '05/26/00',
      field: 'list 4.5',
    })
    const cd = await cdTarget()
    expect(await cd.initiator.send(select(8), { out: list(0x3f, 2, 0, 0) })).toMatchObject({ sense: '05/26/00' })
  })

  test.each([0, 1, 256, 513, 1024, 0xffffff])('CVE-2023-42467: a block length of %i is refused', async (length) => {
    const { initiator } = await diskTarget()
    const out = Uint8Array.of(0, 0, 0, 8, 0, 0, 0, 0, 0, length >>> 16, (length >>> 8) & 0xff, length & 0xff)
    expect(await initiator.send(select(12), { out })).toMatchObject({ sense: '05/26/00', field: 'list 9' })
    expect((await initiator.send('28 00 00 00 00 00 00 00 01')).status).toBe(0)
    const cd = await cdTarget()
    expect(await cd.initiator.send(select(12), { out })).toMatchObject({ sense: '05/26/00' })
  })

  test('the block descriptor that MODE SENSE gave is taken, and a count of 0', async () => {
    const { initiator } = await diskTarget()
    const { data } = await initiator.send('1a 00 08 00 ff')
    data[2] = 0
    data[12]! &= 0x3f
    expect((await initiator.send(select(data.length), { out: data })).status).toBe(0)
    data.fill(0, 4, 8)
    expect((await initiator.send(select(data.length), { out: data })).status).toBe(0)
    data[7] = 5
    expect(await initiator.send(select(data.length), { out: data })).toMatchObject({
      sense: '05/26/00',
      field: 'list 4',
    })
  })

  test.each([
    ['a header cut off', Uint8Array.of(0, 0, 0), '05/1a/00'],
    ['a descriptor cut off', Uint8Array.of(0, 0, 0, 8, 0, 0), '05/1a/00'],
    ['a page header cut off', list(0x08), '05/1a/00'],
    ['a page cut off', list(0x08, 18, 0), '05/1a/00'],
    ['a page of another length', list(0x08, 2, 0, 0), '05/26/00'],
    ['a page twice', list(...caching(4), ...caching(4)), '05/26/00'],
    ['a medium type that is not there', Uint8Array.of(0, 5, 0, 0), '05/26/00'],
  ])('%s is an error', async (_, out, sense) => {
    const { initiator } = await diskTarget()
    expect(await initiator.send(select(out.length), { out })).toMatchObject({ status: 2, sense })
  })

  test('an empty list is no error; a list without PF is', async () => {
    const { initiator } = await diskTarget()
    expect((await initiator.send(select(0))).status).toBe(0)
    expect(await initiator.send(select(24, '00'), { out: list(...caching(4)) })).toMatchObject({
      sense: '05/24/00',
      field: 'cdb 1.4',
    })
  })

  test('MODE SELECT(10) with the long header and a subpage', async () => {
    const { initiator } = await diskTarget()
    const { data } = await initiator.send('5a 08 1c 02 00 00 00 00 ff')
    data[8]! &= 0x7f
    data.fill(0, 0, 8)
    data.set([0x81, 2, 0, 0, 0, 0, 0, 9], 8 + 16)
    const length = data.length.toString(16)
    expect(await initiator.send(`55 10 00 00 00 00 00 00 ${length}`, { out: data })).toMatchObject({ status: 0 })
    const { data: after } = await initiator.send('5a 08 1c 02 00 00 00 00 ff')
    expect([...after.subarray(24, 32)]).toEqual([0x81, 2, 0, 0, 0, 0, 0, 9])
  })
})

describe('[SPC-4] 7.5.15 informational exceptions', () => {
  const page = (flags: number, method: number) => list(0x1c, 10, flags, method, 0, 0, 0, 0, 0, 0, 0, 0)

  test('TEST with method 2 is a unit attention, with method 6 it is told on request', async () => {
    const { initiator } = await diskTarget()
    await initiator.send(select(16), { out: page(4, 2) })
    expect(await initiator.send('00')).toMatchObject({ sense: '06/5d/ff' })
    await initiator.send(select(16), { out: page(4, 6) })
    const { data } = await initiator.send('03 00 00 00 12')
    expect([data[2], data[12], data[13]]).toEqual([0, 0x5d, 0xff])
    const log = await initiator.send('4d 00 6f 00 00 00 00 00 ff')
    expect([...log.data.subarray(8, 10)]).toEqual([0x5d, 0xff])
  })

  test('methods that it does not know are refused', async () => {
    const { initiator } = await diskTarget()
    expect(await initiator.send(select(16), { out: page(0, 1) })).toMatchObject({
      sense: '05/26/00',
      field: 'list 7.3',
    })
  })
})
