/** Reports, logs, buffers, diagnostics and reservations of the old kind [SPC-4] 6, 7. */
import { describe, expect, test } from 'vitest'
import { cdTarget, decodeSense, diskTarget, firstDifference, hex, turn } from '../initiator.ts'

describe('[SPC-4] 4.5 sense data', () => {
  test('REQUEST SENSE gives either format', async () => {
    const { initiator } = await diskTarget()
    const old = { autosense: false, attribute: 'untagged' } as const
    await initiator.send('12 01 55 00 ff', old)
    const fixed = await initiator.send('03 00 00 00 ff', old)
    expect(decodeSense(fixed.data)).toMatchObject({ sense: '05/24/00', field: 'cdb 2.7' })
    expect([fixed.data[0], fixed.data.length, fixed.data[7]]).toEqual([0x70, 18, 10])
    await initiator.send('12 01 55 00 ff', old)
    const descriptor = await initiator.send('03 01 00 00 ff', old)
    expect(decodeSense(descriptor.data)).toMatchObject({ sense: '05/24/00', field: 'cdb 2.7' })
    expect([descriptor.data[0], descriptor.data.length]).toEqual([0x72, 16])
  })

  test('a CDB with a bit set that its command does not look at is an invalid field, with the bit', async () => {
    const { initiator } = await diskTarget()
    expect(await initiator.send('00 00 00 01')).toMatchObject({ sense: '05/24/00', field: 'cdb 3.0' })
    expect(await initiator.send('28 20 00 00 00 00 00 00 01')).toMatchObject({ sense: '05/24/00', field: 'cdb 1.5' })
    expect(await initiator.send('28 00 00 00 00 00 00 00 01 01')).toMatchObject({ field: 'cdb 9.0' })
    expect((await initiator.send('28 00 00 00 00 00 00 00 01 c0')).status).toBe(0)
    expect(await initiator.send('9e 1f')).toMatchObject({ sense: '05/24/00', field: 'cdb 1.4' })
    expect(await initiator.send('c0')).toMatchObject({ sense: '05/20/00', field: '' })
  })

  test('[SCSI-2] 7.2.2: old initiators may repeat the LUN in byte 1', async () => {
    const { initiator, target, disk } = await diskTarget()
    const { DiskUnit } = await import('../../../../src/devices/scsi/index.ts')
    target.attach(2, new DiskUnit(disk))
    await initiator.ready(2)
    await initiator.ready()
    expect((await initiator.send('00 40', { lun: 2 })).status).toBe(0)
    expect(await initiator.send('00 40')).toMatchObject({ field: 'cdb 1.6' })
  })
})

describe('[SPC-4] 6.34 REPORT SUPPORTED OPERATION CODES', () => {
  test('the list has every command of the table once, with its CDB length', async () => {
    const { initiator } = await diskTarget()
    const { data, view } = await initiator.send('a3 0c 00 00 00 00 00 01 00 00')
    expect(view.getUint32(0)).toBe(data.length - 4)
    const found = new Map<string, number>()
    for (let at = 4; at < data.length; at += 8) {
      const action = (data[at + 5]! & 1) !== 0 ? `/${view.getUint16(at + 2).toString(16)}` : ''
      found.set(data[at]!.toString(16) + action, view.getUint16(at + 6))
    }
    expect(found.size).toBe((data.length - 4) / 8)
    expect([...found.keys()].join(' ')).toBe(
      '0 3 4 8 a b 12 15 16 17 1a 1b 1c 1d 1e 25 28 2a 2b 2e 2f 34 35 37 3b 3c 41 42 48/1 48/2 48/1f 4c 4d 55 56 57 5a ' +
        '5e/0 5e/1 5e/2 5e/3 5f/0 5f/1 5f/2 5f/3 5f/4 5f/5 5f/6 88 89 8a 8b 8e 8f 90 91 93 9e/10 9e/12 a0 a3/c a3/d ' +
        'a8 aa ae af b7',
    )
    expect([found.get('0'), found.get('28'), found.get('88'), found.get('a8'), found.get('9e/10')]).toEqual([
      6, 10, 16, 12, 16,
    ])
  })

  test('one command: supported or not, with usage data; the service action must be asked for where there is one', async () => {
    const { initiator } = await diskTarget()
    const one = async (options: number, opcode: string, action = '00 00') =>
      initiator.send(`a3 0c 0${options} ${opcode} ${action} 00 00 00 ff`)
    expect([...(await one(1, '28')).data]).toEqual([0, 3, 0, 10, ...hex('28 1c ff ff ff ff 1f ff ff 00')])
    expect([...(await one(1, '29')).data]).toEqual([0, 1, 0, 0])
    expect(await one(1, '9e')).toMatchObject({ sense: '05/24/00', field: 'cdb 2.2' })
    expect([...(await one(2, '9e', '00 10')).data.subarray(0, 6)]).toEqual([0, 3, 0, 16, 0x9e, 0x10])
    expect([...(await one(2, '9e', '00 11')).data]).toEqual([0, 1, 0, 0])
    expect(await one(2, '28')).toMatchObject({ sense: '05/24/00' })
    expect((await one(3, '28')).data[1]).toBe(3)
    expect((await one(3, '9e', '00 12')).data[1]).toBe(3)
    expect(await one(4, '28')).toMatchObject({ sense: '05/24/00', field: 'cdb 2.2' })
  })

  test('RCTD adds timeout descriptors that promise nothing', async () => {
    const { initiator } = await diskTarget()
    const { data } = await initiator.send('a3 0c 81 00 00 00 00 00 00 ff')
    expect([...data]).toEqual([0, 0x83, 0, 6, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
  })

  test('6.35 the task management functions', async () => {
    const { initiator } = await diskTarget()
    expect([...(await initiator.send('a3 0d 00 00 00 00 00 00 00 ff')).data]).toEqual([0xde, 3, 0, 0])
    expect((await initiator.send('a3 0d 80 00 00 00 00 00 00 ff')).data.length).toBe(16)
  })

  test('the usage data of every command fits its CDB length', async () => {
    const { initiator } = await diskTarget()
    const { data, view } = await initiator.send('a3 0c 00 00 00 00 00 01 00 00')
    const lengths = [6, 10, 10, 0, 16, 12]
    for (let at = 4; at < data.length; at += 8) expect(view.getUint16(at + 6)).toBe(lengths[data[at]! >> 5])
    const cd = await cdTarget()
    const list = await cd.initiator.send('a3 0c 00 00 00 00 00 01 00 00')
    for (let at = 4; at < list.data.length; at += 8) {
      expect(list.view.getUint16(at + 6)).toBe(lengths[list.data[at]! >> 5])
    }
  })
})

describe('[SPC-4] 6.6, 7.3 logs', () => {
  const page = (code: number, control = 1) => `4d 00 ${((control << 6) | code).toString(16)} 00 00 00 00 02 00`

  test('00h lists the pages; 00h/FFh the subpages', async () => {
    const { initiator } = await diskTarget({ unit: { rotationRate: 1 } })
    expect([...(await initiator.send(page(0))).data]).toEqual([
      0, 0, 0, 11, 0, 2, 3, 5, 6, 0x0c, 0x0d, 0x0e, 0x10, 0x11, 0x2f,
    ])
    const pairs = await initiator.send('4d 00 40 ff 00 00 00 02 00')
    expect([...pairs.data.subarray(0, 10)]).toEqual([0x40, 0xff, 0, 24, 0, 0, 0, 0xff, 2, 0])
  })

  test('the error counter pages count bytes and what could not be read', async () => {
    const { initiator, faulty } = await diskTarget()
    await initiator.send('28 00 00 00 00 00 00 00 10')
    faulty.fail('read', 'EIO', 100)
    await initiator.send('28 00 00 00 00 00 00 00 01')
    const { view, data } = await initiator.send(page(3))
    expect(data.length).toBe(4 + 7 * 12)
    expect([view.getBigUint64(4 + 5 * 12 + 4), view.getBigUint64(4 + 6 * 12 + 4)]).toEqual([8192n + 512n, 1n])
  })

  test('LOG SELECT with PCR clears them, and tells the others', async () => {
    const { initiator } = await diskTarget()
    await initiator.ready(0, 1)
    await initiator.send('28 00 00 00 00 00 00 00 10')
    expect((await initiator.send('4c 02 c0')).status).toBe(0)
    expect((await initiator.send(page(3))).view.getBigUint64(4 + 5 * 12 + 4)).toBe(0n)
    expect(await initiator.send('00', { initiator: 1 })).toMatchObject({ sense: '06/2a/02' })
  })

  test('the parameter pointer begins further on; past the last parameter it is an invalid field', async () => {
    const { initiator } = await diskTarget()
    const { data } = await initiator.send('4d 00 43 00 00 00 05 02 00')
    expect([data.length, data[5]]).toEqual([4 + 24, 5])
    expect(await initiator.send('4d 00 43 00 00 00 07 02 00')).toMatchObject({ sense: '05/24/00', field: 'cdb 5.7' })
    expect(await initiator.send('4d 00 7f 00 00 00 00 02 00')).toMatchObject({ field: 'cdb 2.5' })
    expect(await initiator.send('4d 01 43 00 00 00 00 02 00')).toMatchObject({ field: 'cdb 1.0' })
  })
})

describe('[SPC-4] 6.19, 6.53 READ BUFFER and WRITE BUFFER', () => {
  test('what was written can be read, anywhere in the 64 KiB', async () => {
    const { initiator } = await diskTarget()
    expect([...(await initiator.send('3c 03 00 00 00 00 00 00 04')).data]).toEqual([0, 1, 0, 0])
    const bytes = Uint8Array.from({ length: 4096 }, (_, i) => i & 0xff)
    expect((await initiator.send('3b 02 00 00 f0 00 00 10 00', { out: bytes })).status).toBe(0)
    expect(firstDifference((await initiator.send('3c 02 00 00 f0 00 00 10 00')).data, bytes)).toBe(-1)
    expect(await initiator.send('3b 02 00 00 f0 01 00 10 00', { out: bytes })).toMatchObject({ field: 'cdb 6.7' })
  })

  test('the echo buffer is every initiator port’s own', async () => {
    const { initiator } = await diskTarget()
    await initiator.ready(0, 1)
    expect([...(await initiator.send('3c 0b 00 00 00 00 00 00 04')).data]).toEqual([0, 0, 0x10, 0])
    expect(await initiator.send('3c 0a 00 00 00 00 00 00 04')).toMatchObject({ sense: '05/2c/00' })
    await initiator.send('3b 0a 00 00 00 00 00 00 04', { out: hex('1 2 3 4') })
    expect([...(await initiator.send('3c 0a 00 00 00 00 00 00 04')).data]).toEqual([1, 2, 3, 4])
    expect(await initiator.send('3c 0a 00 00 00 00 00 00 04', { initiator: 1 })).toMatchObject({ sense: '05/2c/00' })
  })

  test('microcode is not taken', async () => {
    const { initiator } = await diskTarget()
    for (const mode of ['04', '05', '06', '07', '0e']) {
      expect(await initiator.send(`3b ${mode} 00 00 00 00 00 00 10`, { out: new Uint8Array(16) })).toMatchObject({
        sense: '05/24/00',
        field: 'cdb 1.4',
      })
    }
  })
})

describe('[SPC-4] 5.15 self-tests', () => {
  test('the default self-test reads the medium and passes', async () => {
    const { initiator, faulty } = await diskTarget()
    expect((await initiator.send('1d 04')).status).toBe(0)
    expect(faulty.counts.read).toBe(1)
    const { data } = await initiator.send('4d 00 50 00 00 00 00 02 00')
    expect([data.length, data[8]]).toEqual([4 + 20 * 20, 0xa0])
  })

  test('a medium that fails fails it, and the log has the segment and the sense data', async () => {
    const { initiator, faulty } = await diskTarget()
    faulty.fail('read', 'EIO', 100)
    expect(await initiator.send('1d 04')).toMatchObject({ sense: '04/3e/03' })
    const { data } = await initiator.send('4d 00 50 00 00 00 00 02 00')
    expect([data[8], ...data.subarray(20, 23)]).toEqual([0xa7, 3, 0x11, 0])
  })

  test('in the background, it is polled by REQUEST SENSE and can be aborted', async () => {
    const { initiator, faulty } = await diskTarget({ size: 8 << 20 })
    faulty.hold()
    expect((await initiator.send('1d 40')).status).toBe(0)
    expect(await initiator.send('1d 20')).toMatchObject({ sense: '02/04/09' })
    const { data } = await initiator.send('03 00 00 00 12')
    expect([data[2], data[12], data[13]]).toEqual([2, 4, 9])
    const aborted = initiator.send('1d 80')
    faulty.release()
    expect((await aborted).status).toBe(0)
    expect((await initiator.send('4d 00 50 00 00 00 00 02 00')).data[8]).toBe(0x41)
    expect(await initiator.send('1d 80')).toMatchObject({ sense: '05/24/00' })
  })

  test('the only diagnostic page lists itself', async () => {
    const { initiator } = await diskTarget()
    expect([...(await initiator.send('1c 01 00 00 ff')).data]).toEqual([0, 0, 0, 1, 0])
    expect((await initiator.send('1d 10 00 00 04', { out: hex('0 0 0 0') })).status).toBe(0)
    expect(await initiator.send('1d 10 00 00 04', { out: hex('40 0 0 0') })).toMatchObject({ sense: '05/26/00' })
  })
})

test('[SPC-4] 6.14 a removable disk: PREVENT locks it in, and START STOP UNIT moves the tray', async () => {
  const { initiator, unit } = await diskTarget({ unit: { removable: true } })
  const moves: boolean[] = []
  unit.onTray = (open) => moves.push(open)
  expect((await initiator.send('1e 00 00 00 01')).status).toBe(0)
  expect(await initiator.send('1b 00 00 00 02')).toMatchObject({ sense: '05/53/02' })
  expect((await initiator.send('1e')).status).toBe(0)
  expect((await initiator.send('1b 00 00 00 02')).status).toBe(0)
  expect(await initiator.send('28 00 00 00 00 00 00 00 01')).toMatchObject({ sense: '02/3a/02' })
  expect((await initiator.send('1b 00 00 00 03')).status).toBe(0)
  expect(await initiator.send('00')).toMatchObject({ sense: '06/28/00' })
  expect([(await initiator.send('00')).status, moves]).toEqual([0, [true, false]])
})

test('[SBC-3] 5.20 a stopped disk needs START; stopping makes what was written durable', async () => {
  const { initiator, faulty } = await diskTarget()
  expect((await initiator.send('1b')).status).toBe(0)
  expect(faulty.counts.flush).toBe(1)
  expect(await initiator.send('28 00 00 00 00 00 00 00 01')).toMatchObject({ sense: '02/04/02' })
  expect((await initiator.send('1b 00 00 00 01')).status).toBe(0)
  expect((await initiator.send('28 00 00 00 00 00 00 00 01')).status).toBe(0)
  expect(await initiator.send('1b 00 00 00 02')).toMatchObject({ sense: '05/24/00', field: 'cdb 4.1' })
  expect(await initiator.send('1b 00 00 00 60')).toMatchObject({ sense: '05/24/00', field: 'cdb 4.7' })
})

test('[SPC-4] 4.5.6 an error of work that no command waited for is told as a deferred error', async () => {
  const { initiator, faulty } = await diskTarget()
  faulty.hold()
  expect((await initiator.send('35 02')).status).toBe(0)
  faulty.fail('flush', 'EIO')
  faulty.release()
  await turn()
  const outcome = await initiator.send('00')
  expect([outcome.status, outcome.bytes[0]! & 0x7f, outcome.sense]).toEqual([2, 0x71, '03/0c/00'])
  expect((await initiator.send('00')).status).toBe(0)
})
