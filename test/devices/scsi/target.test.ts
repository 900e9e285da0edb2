/** The path of a command through the target: routing, data phases, status [SAM-5] 4, 5. */
import { describe, expect, test } from 'vitest'
import { bytesVec } from '../../../src/block/iovec.ts'
import { DiskUnit, execute, ScsiTarget } from '../../../src/devices/scsi/index.ts'
import { atOnce, diskTarget, firstDifference, hex, Initiator, numbered, SIZE, turn } from './initiator.ts'

describe('[SAM-5] 5.4.3 data phases', () => {
  test('a read answers at once where the medium does, straight into the buffer', async () => {
    const { initiator, faulty } = await diskTarget()
    const into = new Uint8Array(1024)
    const task = atOnce(execute(initiator.submit('28 00 00 00 00 05 00 00 02'), { in: bytesVec(into) }))
    expect(task).toMatchObject({ phase: 'status', status: 0, transferred: 1024, length: 1024 })
    expect(firstDifference(into, numbered(SIZE).subarray(5 * 512, 7 * 512))).toBe(-1)
    expect(faulty.counts.read).toBe(1)
  })

  test('pieces of any size move the same bytes, with one request for what fits a stage', async () => {
    const { initiator, faulty } = await diskTarget()
    for (const piece of [1, 7, 512, 4096, 65536, 1 << 20]) {
      faulty.counts.read = 0
      const { data, status } = await initiator.send('28 00 00 00 00 01 00 00 10', { piece: Math.max(piece, 64) })
      expect([status, data.length]).toEqual([0, 8192])
      expect(firstDifference(data, numbered(SIZE).subarray(512, 512 + 8192))).toBe(-1)
      expect(faulty.counts.read).toBe(1)
    }
  })

  test('a long transfer in pieces reads ahead 256 KiB at a time', async () => {
    const { initiator, faulty } = await diskTarget()
    const { data } = await initiator.send('28 00 00 00 00 00 00 08 00', { piece: 4096 })
    expect(firstDifference(data, numbered(SIZE))).toBe(-1)
    expect(faulty.counts.read).toBe(4)
  })

  test('writes in pieces and as a whole leave the same bytes', async () => {
    const bytes = Uint8Array.from({ length: 600 * 512 }, (_, i) => (i * 7) & 0xff)
    for (const piece of [undefined, 100, 512, 300 << 10]) {
      const { initiator, faulty, disk } = await diskTarget()
      const outcome = await initiator.send('2a 00 00 00 00 03 00 02 58', { out: bytes, ...(piece && { piece }) })
      expect(outcome).toMatchObject({ status: 0, transferred: bytes.length })
      expect(faulty.counts.write).toBe(piece === undefined ? 1 : 2)
      const back = new Uint8Array(bytes.length)
      await disk.read(3 * 512, bytesVec(back))
      expect(firstDifference(back, bytes)).toBe(-1)
    }
  })

  test('a buffer shorter than the data takes what fits; the residual is exact', async () => {
    const { initiator } = await diskTarget()
    const { status, transferred, wanted } = await initiator.send('28 00 00 00 00 00 00 00 04', { room: 1000 })
    expect([status, transferred, wanted]).toEqual([0, 1000, 2048])
  })

  test('data-out that ends too early writes nothing and is a DATA PHASE ERROR', async () => {
    const { initiator, faulty } = await diskTarget()
    const outcome = await initiator.send('2a 00 00 00 00 00 00 00 02', { out: new Uint8Array(1023) })
    expect([outcome.status, outcome.sense, faulty.counts.write]).toEqual([2, '0b/4b/00', 0])
  })

  test('a parameter list that ends too early is a PARAMETER LIST LENGTH ERROR', async () => {
    const { initiator } = await diskTarget()
    const outcome = await initiator.send('15 10 00 00 10 00', { out: new Uint8Array(8) })
    expect([outcome.status, outcome.sense]).toEqual([2, '05/1a/00'])
  })

  test('prepare answers later while the host reads, and the pieces then move at once', async () => {
    const { initiator, faulty } = await diskTarget()
    faulty.hold()
    const task = initiator.submit('28 00 00 00 00 02 00 00 08')
    expect(task.phase).toBe('in')
    const later = task.prepare()
    expect([later instanceof Promise, task.ready]).toEqual([true, 0])
    faulty.release()
    await later
    expect(task.ready).toBe(4096)
    const into = new Uint8Array(4096)
    atOnce(task.move(bytesVec(into)))
    expect(task.phase).toBe('status')
    expect(firstDifference(into, numbered(SIZE).subarray(1024, 1024 + 4096))).toBe(-1)
  })

  test('what is ready passes at once, as staged bytes, as an answer and as a parameter list', async () => {
    const { initiator, faulty } = await diskTarget()
    const write = initiator.submit('2a 00 00 00 00 02 00 00 02')
    const bytes = numbered(1024).map((byte) => byte ^ 0xff)
    expect(write.ready).toBe(1024)
    write.pass(bytes.subarray(0, 100))
    expect([write.ready, write.transferred, faulty.counts.write]).toEqual([924, 100, 0])
    write.pass(bytes.subarray(100))
    expect([write.phase, write.status, faulty.counts.write]).toEqual(['status', 0, 1])
    const read = initiator.submit('28 00 00 00 00 02 00 00 02')
    expect(read.ready).toBe(0)
    atOnce(read.prepare())
    const into = new Uint8Array(1024)
    read.pass(into.subarray(0, 1000))
    expect([read.phase, read.ready]).toEqual(['in', 24])
    read.pass(into.subarray(1000))
    expect([read.phase, firstDifference(into, bytes)]).toEqual(['status', -1])
    const inquiry = initiator.submit('12 00 00 00 24')
    const answer = new Uint8Array(inquiry.ready)
    inquiry.pass(answer)
    expect([inquiry.phase, inquiry.transferred, answer[4]]).toEqual(['status', 36, 0x5b])
    const select = initiator.submit('15 10 00 00 04 00')
    select.pass(Uint8Array.of(0, 0))
    select.pass(Uint8Array.of(0, 0))
    expect([select.phase, select.status]).toEqual(['status', 0])
  })

  test('the last piece of a write does not wait for the host: the status does', async () => {
    const { initiator, faulty } = await diskTarget()
    faulty.hold()
    const task = initiator.submit('2a 00 00 00 00 02 00 00 01')
    atOnce(task.move(bytesVec(new Uint8Array(512))))
    expect(task.phase).toBe('busy')
    faulty.release()
    expect(await task.next()).toBe('status')
  })
})

describe('[SPC-4] 5.11 commands for units that are not there', () => {
  test('INQUIRY says that there is nothing, REQUEST SENSE why, all else is LOGICAL UNIT NOT SUPPORTED', async () => {
    const { initiator } = await diskTarget()
    const inquiry = await initiator.send('12 00 00 00 24', { lun: 3 })
    expect([inquiry.status, inquiry.data[0]]).toEqual([0, 0x7f])
    const sense = await initiator.send('03 00 00 00 12', { lun: 3 })
    expect([sense.data[2]! & 15, sense.data[12]]).toEqual([5, 0x25])
    expect(await initiator.send('00', { lun: 3 })).toMatchObject({ status: 2, sense: '05/25/00' })
    expect(await initiator.send('28 00 00 00 00 00 00 00 01', { lun: 3 })).toMatchObject({ sense: '05/25/00' })
  })

  test('REPORT LUNS answers on any LUN, in both addressing methods', async () => {
    const { target, initiator, disk } = await diskTarget()
    target.attach(5, new DiskUnit(disk)).attach(300, new DiskUnit(disk))
    for (const lun of [0, 5, 9]) {
      const { data, view } = await initiator.send('a0 00 00 00 00 00 00 00 10 00', { lun })
      expect(view.getUint32(0)).toBe(24)
      expect([...data.subarray(8)]).toEqual([
        ...hex('00 00'),
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        5,
        0,
        0,
        0,
        0,
        0,
        0,
        0x41,
        0x2c,
        0,
        0,
        0,
        0,
        0,
        0,
      ])
    }
  })

  test('CVE-2013-4344: REPORT LUNS with more than 256 units is as long as it must be, and cut where there is no room', async () => {
    const { disk } = await diskTarget()
    const target = new ScsiTarget()
    for (let lun = 0; lun < 400; lun++) target.attach(lun, new DiskUnit(disk))
    const initiator = new Initiator(target)
    const whole = await initiator.send('a0 00 00 00 00 00 00 01 00 00')
    expect([whole.data.length, whole.view.getUint32(0)]).toEqual([8 + 3200, 3200])
    const cut = await initiator.send('a0 00 00 00 00 00 00 00 08 08')
    expect([cut.data.length, cut.view.getUint32(0)]).toEqual([2056, 3200])
  })

  test('a unit that comes or goes is announced to the others', async () => {
    const { target, initiator, disk, unit } = await diskTarget()
    target.attach(1, new DiskUnit(disk))
    expect(await initiator.send('00')).toMatchObject({ sense: '06/3f/0e' })
    await target.detach(1)
    expect(await initiator.send('00')).toMatchObject({ sense: '06/3f/0e' })
    target.attach(2, new DiskUnit(disk))
    unit.attention([6, 0x2a, 0x01])
    expect((await initiator.send('a0 00 00 00 00 00 00 00 00 10')).status).toBe(0)
    expect(await initiator.send('00')).toMatchObject({ sense: '06/2a/01' })
    expect((await initiator.send('00')).status).toBe(0)
    expect(() => target.attach(0, new DiskUnit(disk))).toThrow(/there is one/)
    expect(() => target.attach(16384, new DiskUnit(disk))).toThrow(/0 to 16383/)
  })
})

describe('[SAM-5] 5.14 unit attentions', () => {
  test('the first command of every initiator port is told of power on, once', async () => {
    const { initiator } = await diskTarget()
    expect(await initiator.send('00', { initiator: 1 })).toMatchObject({ status: 2, sense: '06/29/00' })
    expect(await initiator.send('00', { initiator: 1 })).toMatchObject({ status: 0 })
    expect(await initiator.send('00', { initiator: 2 })).toMatchObject({ sense: '06/29/00' })
  })

  test('INQUIRY and REPORT LUNS run beside it and leave it; REQUEST SENSE takes it as data', async () => {
    const { initiator } = await diskTarget()
    const from = { initiator: 1 }
    expect((await initiator.send('12 00 00 00 24', from)).status).toBe(0)
    expect((await initiator.send('a0 00 00 00 00 00 00 00 00 10', from)).status).toBe(0)
    const sense = await initiator.send('03 00 00 00 12', from)
    expect([sense.status, sense.data[2], sense.data[12]]).toEqual([0, 6, 0x29])
    expect((await initiator.send('00', from)).status).toBe(0)
  })

  test('they queue in their order', async () => {
    const { initiator, unit } = await diskTarget()
    unit.attention([6, 0x2a, 0x01])
    unit.attention([6, 0x2a, 0x09])
    unit.attention([6, 0x2a, 0x01])
    expect(await initiator.send('00')).toMatchObject({ sense: '06/2a/01' })
    expect(await initiator.send('00')).toMatchObject({ sense: '06/2a/09' })
    expect(await initiator.send('00')).toMatchObject({ status: 0 })
  })

  test('a resize of the disk is CAPACITY DATA HAS CHANGED', async () => {
    const { initiator, disk } = await diskTarget()
    await disk.resize(2 * SIZE)
    expect(await initiator.send('28 00 00 00 00 00 00 00 01')).toMatchObject({ sense: '06/2a/09' })
    expect((await initiator.send('25')).view.getUint32(0)).toBe(4095)
  })
})

describe('[SAM-2] 5.9.1 contingent allegiance, for ports without autosense', () => {
  test('sense data waits for REQUEST SENSE, once', async () => {
    const { initiator, unit } = await diskTarget()
    const old = { autosense: false, attribute: 'untagged' } as const
    expect((await initiator.send('ff', old)).status).toBe(2)
    expect(unit.hasSense(7)).toBe(true)
    const first = await initiator.send('03 00 00 00 12', old)
    expect([first.data[2], first.data[12]]).toEqual([5, 0x20])
    expect((await initiator.send('03 00 00 00 12', old)).data[2]).toBe(0)
  })

  test('any other command ends it', async () => {
    const { initiator } = await diskTarget()
    const old = { autosense: false, attribute: 'untagged' } as const
    await initiator.send('ff', old)
    expect((await initiator.send('00', old)).status).toBe(0)
    expect((await initiator.send('03 00 00 00 12', old)).data[2]).toBe(0)
  })

  test('another task that fails meanwhile waits with its status, so that no sense data is lost', async () => {
    const { initiator, faulty } = await diskTarget()
    faulty.hold()
    const old = { autosense: false }
    const slow = initiator.submit('28 00 00 00 00 00 00 00 01', old)
    const moved = slow.moveAll(bytesVec(new Uint8Array(512)))
    const bad = initiator.submit('ff', old)
    expect(bad.phase).toBe('status')
    faulty.fail('read', 'EIO')
    faulty.release()
    await moved
    await turn()
    expect(slow.phase).toBe('busy')
    const sense = await initiator.send('03 00 00 00 12', { ...old, attribute: 'untagged' })
    expect(sense.data[12]).toBe(0x20)
    expect([await slow.next(), slow.status]).toEqual(['status', 2])
    const next = await initiator.send('03 00 00 00 12', { ...old, attribute: 'untagged' })
    expect([next.data[2], next.data[12]]).toEqual([3, 0x11])
  })

  test('with autosense nothing waits', async () => {
    const { initiator, unit } = await diskTarget()
    expect(await initiator.send('ff')).toMatchObject({ status: 2, sense: '05/20/00' })
    expect(unit.hasSense(7)).toBe(false)
  })
})

describe('[SAM-5] 5.11 overlapped commands', () => {
  test('the same tag twice aborts the tasks of the nexus', async () => {
    const { initiator, faulty } = await diskTarget()
    faulty.hold()
    const first = initiator.submit('28 00 00 00 00 00 00 00 01', { tag: 5 })
    void first.prepare()
    const second = initiator.submit('00', { tag: 5 })
    expect([second.phase, second.status, second.sense[2], second.sense[12]]).toEqual(['status', 2, 0x0b, 0x4e])
    faulty.release()
    await turn()
    expect(first.phase).toBe('aborted')
  })

  test('the same tag of another initiator port or unit is another task', async () => {
    const { initiator, faulty } = await diskTarget()
    await initiator.ready(0, 1)
    faulty.hold()
    void initiator.submit('28 00 00 00 00 00 00 00 01', { tag: 5 }).prepare()
    expect(initiator.submit('00', { tag: 5, initiator: 1 }).status).toBe(0)
    faulty.release()
  })
})

test('[SAM-5] 5.3.1 a task set has room for 256 tasks; one more is TASK SET FULL', async () => {
  const { initiator, unit } = await diskTarget()
  const tasks = Array.from({ length: 256 }, () => initiator.submit('28 00 00 00 00 00 00 00 01'))
  expect(tasks.every(({ phase }) => phase === 'in')).toBe(true)
  expect(initiator.submit('00').status).toBe(0x28)
  expect(unit.tasks.length).toBe(256)
  for (const task of tasks) task.cut()
  expect(initiator.submit('00').status).toBe(0)
})
