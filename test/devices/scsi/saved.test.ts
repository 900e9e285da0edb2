/** Saved states: a unit and its tasks go on where they were, in a target that was made anew. */
import { describe, expect, test } from 'vitest'
import { asDevice } from '../../../src/block/device.ts'
import { Disk } from '../../../src/block/disk.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import type { Saved } from '../../../src/devices/machine.ts'
import { CdUnit, ScsiTarget } from '../../../src/devices/scsi/index.ts'
import { seeded } from '../../random.ts'
import { cdTarget, diskTarget, finish, firstDifference, hex, Initiator, numbered, SIZE, turn } from './initiator.ts'

/** A second target with the same medium, that has taken up the state of the first. */
async function again(first: Awaited<ReturnType<typeof diskTarget>>) {
  const state = first.target.save()
  const second = await diskTarget({ driver: first.faulty })
  await second.target.restore(structuredClone(state) as Saved)
  return second
}

describe('units', () => {
  test('mode pages, reservations, attentions, sense data and the tray', async () => {
    const first = await diskTarget({ unit: { removable: true } })
    const { initiator, unit } = first
    const old = { autosense: false, attribute: 'untagged' } as const
    const list = (pages: string) => hex(`0 0 0 0 ${pages}`)
    await initiator.send('15 11 00 00 18', { out: list(`08 12 00 ${'00 '.repeat(17)}`) })
    await initiator.send('5f 00 00 00 00 00 00 00 18', { out: hex(`${'0 '.repeat(15)} 5 ${'0 '.repeat(8)}`) })
    await initiator.send('5f 01 03 00 00 00 00 00 18', { out: hex(`${'0 '.repeat(7)} 5 ${'0 '.repeat(16)}`) })
    await initiator.send('1e 00 00 00 01')
    await initiator.send('ff', old)
    unit.attention([6, 0x2a, 0x09])
    const state = first.target.save()
    const second = await diskTarget({ driver: first.faulty, unit: { removable: true } })
    await second.target.restore(structuredClone(state) as Saved)
    const sense = await second.initiator.send('03 00 00 00 12', old)
    expect([sense.data[2], sense.data[12]]).toEqual([5, 0x20])
    expect(await second.initiator.send('00')).toMatchObject({ sense: '06/2a/09' })
    expect(second.disk.writeCache).toBe(false)
    expect(await second.initiator.send('1b 00 00 00 02')).toMatchObject({ sense: '05/53/02' })
    await second.initiator.ready(0, 1)
    expect((await second.initiator.send('28 00 00 00 00 00 00 00 01', { initiator: 1 })).status).toBe(0x18)
    await second.target.reset()
    expect(second.disk.writeCache).toBe(false)
  })

  test('a SANITIZE in the background begins again', async () => {
    const first = await diskTarget()
    await first.initiator.send('48 82')
    const state = first.target.save()
    while (first.unit.occupation !== undefined) await turn()
    const second = await diskTarget()
    await second.target.restore(state)
    expect(second.unit.occupation).toBeDefined()
    while (second.unit.occupation !== undefined) await turn()
    expect((await second.initiator.send('28 00 00 00 00 05 00 00 01')).data[0]).toBe(0)
  })

  test('a CD-ROM: events, speed, and a disc that the guest has not seen', async () => {
    const { initiator, target, unit, disk } = await cdTarget()
    await initiator.send('bb 00 02 c2 ff ff')
    await unit.eject()
    unit.insert(disk)
    const copy = new CdUnit(disk)
    const second = new ScsiTarget().attach(0, copy)
    await second.restore(structuredClone(target.save()) as Saved)
    const other = new Initiator(second)
    expect((await other.send('4a 01 00 00 10 00 00 00 08')).data[4]).toBe(3)
    expect(await other.send('00')).toMatchObject({ sense: '02/3a/02' })
    expect(await other.send('00')).toMatchObject({ sense: '06/28/00' })
    expect(copy.speed).toBe(706)
  })

  test.each<[string, (state: Saved) => Saved]>([
    ['nothing', () => null],
    ['another number of units', () => []],
    [
      'another LUN',
      (state) => (state as readonly { lun: number; unit: Saved }[]).map(({ unit }) => ({ lun: 3, unit })),
    ],
    ['no unit', () => [{ lun: 0 }]],
    ['a field of another type', (state) => change(state, 'trayOpen', 1)],
    ['mode pages of another length', (state) => change(state, 'current', new Uint8Array(3))],
    ['reservations that are none', (state) => change(state, 'reservations', [1, 2])],
    ['initiator ports without end', (state) => change(state, 'nexuses', new Array(1000).fill(null))],
  ])('%s is a RangeError', async (_, spoil) => {
    const { target } = await diskTarget()
    expect(() => target.restore(spoil(target.save()))).toThrow(RangeError)
  })
})

function change(state: Saved, key: string, value: Saved): Saved {
  const [first] = state as readonly { lun: number; unit: { [key: string]: Saved } }[]
  return [{ lun: 0, unit: { ...first!.unit, [key]: value } }]
}

describe('tasks', () => {
  test('a read in pieces goes on at its byte', async () => {
    const first = await diskTarget()
    const task = first.initiator.submit('28 00 00 00 00 01 00 00 08', { tag: 5 })
    await task.move(bytesVec(new Uint8Array(1000)))
    const state = structuredClone(task.save()) as Saved
    const second = await again(first)
    const { status, data } = await finish(second.target.resume(state), {}).then((outcome) => ({
      ...outcome,
      data: outcome.data.subarray(0, 4096 - 1000),
    }))
    expect([status, firstDifference(data, numbered(SIZE).subarray(512 + 1000, 512 + 4096))]).toEqual([0, -1])
  })

  test('a write in pieces keeps what it has staged', async () => {
    const first = await diskTarget()
    const bytes = Uint8Array.from({ length: 4096 }, (_, i) => (i * 3) & 0xff)
    const task = first.initiator.submit('2a 00 00 00 00 01 00 00 08')
    await task.move(bytesVec(bytes.subarray(0, 700)))
    const state = structuredClone(task.save()) as Saved
    const second = await again(first)
    const resumed = second.target.resume(state)
    expect(await finish(resumed, { out: bytes.subarray(700) })).toMatchObject({ status: 0, transferred: 4096 })
    expect(firstDifference((await second.initiator.send('28 00 00 00 00 01 00 00 08')).data, bytes)).toBe(-1)
  })

  test('a parameter list keeps what has come of it', async () => {
    const first = await diskTarget()
    const list = hex(`0 0 0 0 08 12 00 ${'00 '.repeat(17)}`)
    const task = first.initiator.submit('15 10 00 00 18')
    await task.move(bytesVec(list.subarray(0, 10)))
    const state = structuredClone(task.save()) as Saved
    const second = await again(first)
    expect(await finish(second.target.resume(state), { out: list.subarray(10) })).toMatchObject({ status: 0 })
    expect(second.disk.writeCache).toBe(false)
  })

  test('an answer is not made twice: REQUEST SENSE took the sense data already', async () => {
    const first = await diskTarget()
    const old = { autosense: false, attribute: 'untagged' } as const
    await first.initiator.send('ff', old)
    const task = first.initiator.submit('03 00 00 00 12', old)
    const state = structuredClone(task.save()) as Saved
    const second = await again(first)
    const { data } = await finish(second.target.resume(state))
    expect([data[2], data[12]]).toEqual([5, 0x20])
  })

  test('a write that the error policy holds is done by the second target', async () => {
    const first = await diskTarget({ disk: { werror: 'stop' } })
    first.faulty.fail('write', 'EIO', 1)
    const task = first.initiator.submit('2a 00 00 00 00 02 00 00 01')
    await task.move(bytesVec(new Uint8Array(512).fill(7)))
    await turn()
    expect([task.phase, first.disk.held]).toEqual(['busy', 1])
    const state = structuredClone(task.save()) as Saved
    const second = await again(first)
    expect(await finish(second.target.resume(state))).toMatchObject({ status: 0 })
    expect((await second.initiator.send('28 00 00 00 00 02 00 00 01')).data[0]).toBe(7)
  })

  test('a write out of lent memory asks for it again', async () => {
    const first = await diskTarget()
    first.faulty.hold()
    const bytes = new Uint8Array(1024).fill(8)
    const task = first.initiator.submit('2a 00 00 00 00 02 00 00 02')
    void task.moveAll(bytesVec(bytes))
    const state = structuredClone(task.save()) as Saved
    first.faulty.release()
    const second = await again(first)
    const resumed = second.target.resume(state)
    expect([resumed.phase, resumed.transferred]).toEqual(['out', 0])
    expect(await finish(resumed, { out: bytes })).toMatchObject({ status: 0, transferred: 1024 })
  })

  test('one that waits for its turn waits again; one that has ended has its status', async () => {
    const first = await diskTarget()
    const ended = first.initiator.submit('ff', { tag: 3 })
    const writing = first.initiator.submit('2a 00 00 00 00 02 00 00 01', { tag: 1 })
    const waiting = first.initiator.submit('28 00 00 00 00 02 00 00 01', { tag: 2, attribute: 'ordered' })
    const states = [writing, waiting, ended].map((task) => structuredClone(task.save()) as Saved)
    const second = await again(first)
    const [write, wait, end] = states.map((state) => second.target.resume(state))
    expect([write!.phase, wait!.phase, end!.phase, end!.status, end!.sense.length]).toEqual([
      'out',
      'busy',
      'status',
      2,
      18,
    ])
    await finish(write!, { out: new Uint8Array(512) })
    expect(wait!.phase).toBe('in')
  })

  test('a state that is none is a RangeError, and leaves no task', async () => {
    const { target, initiator, unit } = await diskTarget()
    const state = initiator.submit('2a 00 00 00 00 02 00 00 01').save() as { [key: string]: Saved }
    for (const key of Object.keys(state)) {
      expect(() => target.resume({ ...state, [key]: 'x' })).toThrow(RangeError)
    }
    expect(unit.tasks.length).toBe(1)
  })

  test('wherever a transfer is cut, the bytes are the same', () =>
    seeded(async (random) => {
      for (let round = 0; round < 40; round++) {
        const driver = Memory.from(numbered(SIZE))
        const first = await diskTarget({ driver })
        const count = random.between(1, 900)
        const writes = random.below(2) === 0
        const bytes = random.bytes(count * 512)
        const cdb = `${writes ? '2a' : '28'} 00 00 00 00 03 00 ${(count >> 8).toString(16)} ${(count & 0xff).toString(16)}`
        const cut = random.below(bytes.length + 1)
        const task = first.initiator.submit(cdb)
        const into = new Uint8Array(bytes.length)
        await task.move(bytesVec((writes ? bytes : into).subarray(0, cut)))
        const state = structuredClone(task.save()) as Saved
        const second = await again(first)
        const rest = second.target.resume(state)
        if (rest.phase === 'in' || rest.phase === 'out')
          await rest.move(bytesVec((writes ? bytes : into).subarray(cut)))
        expect([await rest.next(), rest.status]).toEqual(['status', 0])
        const disk = new Disk(asDevice(driver))
        const back = new Uint8Array(bytes.length)
        await disk.read(3 * 512, bytesVec(back))
        expect(firstDifference(back, writes ? bytes : into)).toBe(-1)
      }
    }))
})
