/** INQUIRY and vital product data [SPC-4] 6.6, 7.8; [SBC-3] 6.5. */
import { describe, expect, test } from 'vitest'
import { asDevice } from '../../../../src/block/device.ts'
import { Disk } from '../../../../src/block/disk.ts'
import { Memory } from '../../../../src/block/protocols/memory.ts'
import { DiskUnit, ScsiTarget } from '../../../../src/devices/scsi/index.ts'
import { cdTarget, diskTarget, Initiator, SIZE } from '../initiator.ts'

const text = (bytes: Uint8Array) => String.fromCharCode(...bytes)
const page = (code: number) => `12 01 ${code.toString(16)} 04 00 00`

describe('[SPC-4] 6.6.2 standard data', () => {
  test('a disk: type, version, names in their fields', async () => {
    const { initiator } = await diskTarget({ unit: { vendor: 'ACME', product: 'Anvil', ver: '7' } })
    const { data } = await initiator.send('12 00 00 01 00')
    expect([...data.subarray(0, 8)]).toEqual([0, 0, 6, 0x12, 91, 0, 0, 0x02])
    expect(text(data.subarray(8, 36))).toBe('ACME    Anvil           7   ')
    expect(data.length).toBe(96)
  })

  test('RMB of a removable disk; type 5 of a CD-ROM', async () => {
    const { initiator } = await diskTarget({ unit: { removable: true } })
    expect((await initiator.send('12 00 00 00 05')).data[1]).toBe(0x80)
    const cd = await cdTarget()
    expect([...(await cd.initiator.send('12 00 00 00 05')).data]).toEqual([5, 0x80, 6, 0x12, 91])
  })

  test('what the port adds: wide and synchronous transfers, clocking; no queueing behind ATAPI', async () => {
    const { unit } = await diskTarget()
    const spi = new Initiator(new ScsiTarget({ portFlags: { byte7: 0x30, byte56: 0x0c } }).attach(0, unit))
    const { data } = await spi.send('12 00 00 00 60')
    expect([data[7], data[56]]).toEqual([0x32, 0x0c])
    const atapi = new Initiator(new ScsiTarget({ portFlags: { interface: 2 } }).attach(0, unit))
    expect((await atapi.send('12 00 00 00 60')).data[7]).toBe(0)
  })

  test('ALLOCATION LENGTH cuts it; zero is no error', async () => {
    const { initiator } = await diskTarget()
    expect((await initiator.send('12 00 00 00 05')).data.length).toBe(5)
    expect(await initiator.send('12 00 00 00 00')).toMatchObject({ status: 0, transferred: 0 })
  })

  test('a page code without EVPD, and a page that is not there, are invalid fields', async () => {
    const { initiator } = await diskTarget()
    expect(await initiator.send('12 00 80 00 ff')).toMatchObject({ sense: '05/24/00', field: 'cdb 2.7' })
    expect(await initiator.send('12 01 55 00 ff')).toMatchObject({ sense: '05/24/00', field: 'cdb 2.7' })
    expect(await initiator.send('12 02 00 00 ff')).toMatchObject({ sense: '05/24/00', field: 'cdb 1.1' })
  })

  test('names that do not fit are refused when the unit is made', () => {
    const disk = new Disk(asDevice(new Memory(SIZE)))
    expect(() => new DiskUnit(disk, { vendor: 'far too long' })).toThrow(/up to 8 printable/)
    expect(() => new DiskUnit(disk, { product: 'ä' })).toThrow(/printable ASCII/)
    expect(() => new DiskUnit(disk, { wwn: 1n << 64n })).toThrow(/64 bits/)
    expect(() => new DiskUnit(disk, { rotationRate: 2 })).toThrow(/rotation_rate/)
    expect(() => new DiskUnit(undefined)).toThrow(/not removable/)
  })
})

describe('[SPC-4] 7.8 pages', () => {
  test('00h lists the pages in ascending order', async () => {
    const { initiator } = await diskTarget({ disk: { serial: 'S1' } })
    const { data } = await initiator.send(page(0))
    expect([...data]).toEqual([0, 0, 0, 7, 0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2])
  })

  test('80h has the serial number of the disk, or the one given; without either it is absent', async () => {
    const fromDisk = await diskTarget({ disk: { serial: 'disk-1' } })
    expect(text((await fromDisk.initiator.send(page(0x80))).data.subarray(4))).toBe('disk-1')
    const given = await diskTarget({ disk: { serial: 'disk-1' }, unit: { serial: 'other' } })
    expect(text((await given.initiator.send(page(0x80))).data.subarray(4))).toBe('other')
    const none = await diskTarget()
    expect(await none.initiator.send(page(0x80))).toMatchObject({ status: 2, sense: '05/24/00' })
  })

  test('83h names the unit by wwn and by vendor, the port by its number and its wwn', async () => {
    const { initiator } = await diskTarget({
      unit: { deviceId: 'disk0', wwn: 0x5000c50012345678n, portWwn: 0x5000c50012345679n },
    })
    const { data } = await initiator.send(page(0x83))
    const found: string[] = []
    for (let at = 4; at < data.length; at += 4 + data[at + 3]!) {
      const value = data.subarray(at + 4, at + 4 + data[at + 3]!)
      found.push(
        `${data[at]} ${data[at + 1]!.toString(16)} ${data[at] === 2 ? text(value) : Buffer.from(value).toString('hex')}`,
      )
    }
    expect(found).toEqual([
      '1 3 5000c50012345678',
      '2 1 BLOCK86 HARDDISK        disk0',
      '1 13 5000c50012345679',
      '1 14 00000001',
    ])
  })

  test('B0h: limits of UNMAP, WRITE SAME, COMPARE AND WRITE; B1h: rotation; B2h: thin with zeroes', async () => {
    const { initiator } = await diskTarget({
      unit: { rotationRate: 1 },
      disk: { discardGranularity: 65536, minIoSize: 4096, optIoSize: 1 << 20 },
    })
    const { view: limits, data } = await initiator.send(page(0xb0))
    expect([data.length, data[4], data[5]]).toEqual([64, 1, 128])
    expect([limits.getUint16(6), limits.getUint32(12)]).toEqual([8, 2048])
    expect([limits.getUint32(20), limits.getUint32(24), limits.getUint32(28), limits.getUint32(32)]).toEqual([
      0x200000, 255, 128, 0x80000000,
    ])
    expect(limits.getBigUint64(36)).toBe(0x200000n)
    expect((await initiator.send(page(0xb1))).view.getUint16(4)).toBe(1)
    expect([...(await initiator.send(page(0xb2))).data.subarray(4)]).toEqual([11, 0xe4, 2, 0])
  })

  test.each([
    [{}, 1],
    [{ rotationRate: 0 }, 0],
    [{ rotationRate: 7200 }, 7200],
  ])('B1h of a disk with %j: it does not rotate unless that is said', async (unit, rate) => {
    const { initiator } = await diskTarget({ unit })
    expect((await initiator.send(page(0xb1))).view.getUint16(4)).toBe(rate)
  })

  test('B0h and B2h of a disk that ignores discards promise nothing', async () => {
    const { initiator } = await diskTarget({ disk: { discard: 'ignore' } })
    const { view } = await initiator.send(page(0xb0))
    expect([view.getUint32(20), view.getUint32(24), view.getUint32(28), view.getUint32(32)]).toEqual([0, 0, 0, 0])
    expect([...(await initiator.send(page(0xb2))).data.subarray(4)]).toEqual([0, 0, 0, 0])
  })

  test('86h says that there is a volatile cache while there is one', async () => {
    const { initiator } = await diskTarget()
    expect((await initiator.send(page(0x86))).data[6]).toBe(1)
    const safe = await diskTarget({ disk: { cache: 'writethrough' } })
    expect((await safe.initiator.send(page(0x86))).data[6]).toBe(0)
  })
})
