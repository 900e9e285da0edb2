/** Task sets, task management and resets [SAM-5] 6, 7, 8. */
import { describe, expect, test } from 'vitest'
import { bytesVec } from '../../../src/block/iovec.ts'
import type { Task } from '../../../src/devices/scsi/index.ts'
import { diskTarget, finish, type Sending, turn } from './initiator.ts'

const READ = '28 00 00 00 00 00 00 00 01'
const WRITE = '2a 00 00 00 00 00 00 00 01'

/** A target whose host holds everything, so that tasks stay where they are. */
async function held(options: Parameters<typeof diskTarget>[0] = {}) {
  const all = await diskTarget(options)
  await all.initiator.ready(0, 1)
  all.faulty.hold()
  const start = (cdb: string, sending: Sending = {}): Task => {
    const task = all.initiator.submit(cdb, sending)
    if (task.phase === 'in') void task.moveAll(bytesVec(new Uint8Array(512)))
    if (task.phase === 'out') void task.moveAll(bytesVec(new Uint8Array(512)))
    return task
  }
  return { ...all, start }
}

/** The tasks that have reached the medium. */
const begun = (tasks: readonly Task[]) => tasks.map(({ phase }) => phase)

describe('[SAM-5] 8.8 the order of tasks', () => {
  test('simple tasks run side by side', async () => {
    const { start, faulty } = await held()
    const tasks = [start(READ), start(READ), start(READ)]
    expect(faulty.held).toBe(3)
    faulty.release('lifo')
    await turn()
    expect(begun(tasks)).toEqual(['status', 'status', 'status'])
  })

  test('an ordered task waits for all older ones, and all newer ones wait for it', async () => {
    const { initiator, start, faulty } = await held()
    const first = start(READ)
    const ordered = initiator.submit(READ, { attribute: 'ordered' })
    const last = initiator.submit(READ)
    expect(begun([first, ordered, last])).toEqual(['in', 'busy', 'busy'])
    faulty.release()
    await turn()
    expect(begun([first, ordered, last])).toEqual(['status', 'in', 'busy'])
    await finish(ordered)
    expect(begun([ordered, last])).toEqual(['status', 'in'])
  })

  test('a head-of-queue task begins at once, before those that wait', async () => {
    const { initiator, start, faulty } = await held()
    const first = start(READ)
    const ordered = initiator.submit(READ, { attribute: 'ordered' })
    const head = start(READ, { attribute: 'head' })
    expect(begun([first, ordered, head])).toEqual(['in', 'busy', 'in'])
    expect(faulty.held).toBe(2)
    const late = initiator.submit(READ)
    expect(late.phase).toBe('busy')
    faulty.release()
    await turn()
    expect(begun([first, ordered, head, late])).toEqual(['status', 'in', 'status', 'busy'])
  })

  test('several heads of queue run together; simple tasks wait for all of them', async () => {
    const { initiator, start, faulty } = await held()
    const heads = [start(READ, { attribute: 'head' }), start(READ, { attribute: 'head' })]
    const simple = initiator.submit(READ)
    expect(begun([...heads, simple])).toEqual(['in', 'in', 'busy'])
    faulty.release()
    await turn()
    expect(simple.phase).toBe('in')
  })

  test('a thousand dormant tasks that complete at once take no stack', async () => {
    const { initiator, start, faulty } = await held()
    const first = start(READ, { attribute: 'ordered' })
    const waiting = Array.from({ length: 255 }, (_, i) =>
      initiator.submit('00', { attribute: i % 2 === 0 ? 'ordered' : 'simple' }),
    )
    faulty.release()
    await turn()
    expect([first, ...waiting].every(({ phase }) => phase === 'status')).toBe(true)
  })

  test('COMPARE AND WRITE runs alone, whatever its attribute', async () => {
    const { initiator, start, faulty } = await held()
    const before = start(WRITE)
    const alone = initiator.submit('89 00 00 00 00 00 00 00 00 00 00 00 00 01')
    const after = initiator.submit(READ)
    expect(begun([before, alone, after])).toEqual(['busy', 'busy', 'busy'])
    faulty.release()
    await turn()
    expect(begun([before, alone, after])).toEqual(['status', 'out', 'busy'])
  })

  test('an ACA task without ACA is an INVALID MESSAGE ERROR; NACA is an invalid field', async () => {
    const { initiator } = await diskTarget()
    expect(await initiator.send('00', { attribute: 'aca' })).toMatchObject({ status: 2, sense: '0b/49/00' })
    expect(await initiator.send('00 00 00 00 00 04')).toMatchObject({ sense: '05/24/00', field: 'cdb 5.2' })
  })
})

describe('[SAM-5] 7.2 ABORT TASK', () => {
  test('a read under way touches its memory no more, and completes when the host let go', async () => {
    const { initiator, target, faulty } = await diskTarget()
    faulty.hold()
    const task = initiator.submit(READ, { tag: 9 })
    const into = new Uint8Array(512).fill(0xaa)
    void task.moveAll(bytesVec(into))
    let done = false
    const aborted = Promise.resolve(target.manage({ function: 'abort task', initiator: 7, lun: 0, tag: 9 })).then(
      (response) => {
        done = true
        return response
      },
    )
    await turn()
    expect([done, task.phase]).toEqual([false, 'in'])
    faulty.release()
    expect(await aborted).toBe('complete')
    expect([task.phase, into.every((byte) => byte === 0xaa)]).toEqual(['aborted', true])
    expect(await task.next()).toBe('aborted')
  })

  test('a task that waits for its turn, or for data, is gone at once', async () => {
    const { initiator, target, start } = await held()
    start(READ, { tag: 1 })
    const ordered = initiator.submit(READ, { tag: 2, attribute: 'ordered' })
    const writing = initiator.submit(WRITE, { tag: 3, attribute: 'head' })
    expect(target.manage({ function: 'abort task', initiator: 7, lun: 0, tag: 2 })).toBe('complete')
    expect(target.manage({ function: 'abort task', initiator: 7, lun: 0, tag: 3 })).toBe('complete')
    expect([ordered.phase, writing.phase]).toEqual(['aborted', 'aborted'])
  })

  test('an ordered write that is aborted lets its follower begin only when the host let go of it', async () => {
    const { initiator, target, start, faulty } = await held()
    const write = start(WRITE, { tag: 1, attribute: 'ordered' })
    const next = initiator.submit(READ, { tag: 2 })
    void target.manage({ function: 'abort task', initiator: 7, lun: 0, tag: 1 })
    expect([write.phase, next.phase]).toEqual(['busy', 'busy'])
    faulty.release()
    await turn()
    expect([write.phase, next.phase]).toEqual(['aborted', 'in'])
  })

  test('without a tag it means the untagged task; another initiator port’s task of the same tag stays', async () => {
    const { target, start, initiator } = await held()
    const untagged = start(READ, { attribute: 'untagged', tag: 0 })
    const tagged = start(READ, { tag: 4 })
    const others = start(READ, { tag: 4, initiator: 1 })
    void target.manage({ function: 'abort task', initiator: 7, lun: 0 })
    void target.manage({ function: 'abort task', initiator: 7, lun: 0, tag: 4 })
    expect([untagged.isAborted, tagged.isAborted, others.isAborted]).toEqual([true, true, false])
    expect(initiator.target.manage({ function: 'abort task', initiator: 7, lun: 0, tag: 99 })).toBe('complete')
  })

  test('CVE-2022-0216: the same abort again and again is one abort', async () => {
    const { target, start, faulty } = await held()
    const task = start(READ, { tag: 1 })
    const request = { function: 'abort task', initiator: 7, lun: 0, tag: 1 } as const
    const responses = [target.manage(request), target.manage(request), target.manage(request)]
    faulty.release()
    expect(await Promise.all(responses)).toEqual(['complete', 'complete', 'complete'])
    expect(task.phase).toBe('aborted')
    expect(target.manage(request)).toBe('complete')
  })

  test.each([
    ['ABORT TASK', { function: 'abort task', initiator: 7, lun: 0, tag: 1 }],
    ['ABORT TASK SET', { function: 'abort task set', initiator: 7, lun: 0 }],
    ['TARGET RESET', { function: 'target reset', initiator: 7 }],
  ] as const)('a read ahead whose answer is lost does not keep %s from its end', async (_, request) => {
    const { initiator, target, faulty } = await held()
    const lost = initiator.submit(READ, { tag: 1 })
    void lost.prepare()
    await turn()
    expect(target.manage(request)).toBe('complete')
    expect(lost.phase).toBe('aborted')
    const late = faulty.held
    await initiator.ready()
    faulty.release()
    expect(late).toBe(1)
    const { data } = await initiator.send('28 00 00 00 00 00 00 00 01')
    expect(data.length).toBe(512)
  })

  test('a task that the error policy holds is dropped, and nothing of it happens later', async () => {
    const { initiator, target, faulty, disk } = await diskTarget({ disk: { werror: 'stop', rerror: 'stop' } })
    faulty.fail('write', 'EIO', 2)
    const write = initiator.submit(WRITE, { tag: 1 })
    void write.moveAll(bytesVec(new Uint8Array(512).fill(9)))
    const other = initiator.submit('2a 00 00 00 00 01 00 00 01', { tag: 2 })
    void other.moveAll(bytesVec(new Uint8Array(512).fill(7)))
    await turn()
    expect(disk.held).toBe(2)
    expect(await target.manage({ function: 'abort task', initiator: 7, lun: 0, tag: 1 })).toBe('complete')
    expect([write.phase, disk.held]).toEqual(['aborted', 1])
    disk.resume()
    await turn()
    expect([other.phase, other.status]).toEqual(['status', 0])
    const { data } = await initiator.send('28 00 00 00 00 00 00 00 02')
    expect([data[0], data[512]]).toEqual([0, 7])
  })

  test('a flush that is held for another task is sent again', async () => {
    const { initiator, target, faulty, disk } = await diskTarget({ disk: { werror: 'stop' } })
    faulty.fail('flush', 'EIO', 3)
    const [one, other] = [initiator.submit('35', { tag: 1 }), initiator.submit('35', { tag: 2 })]
    await turn()
    expect(disk.held).toBe(2)
    expect(await target.manage({ function: 'abort task', initiator: 7, lun: 0, tag: 1 })).toBe('complete')
    await turn()
    expect([one.phase, other.phase, disk.held]).toEqual(['aborted', 'busy', 1])
    disk.resume()
    await turn()
    expect([other.phase, other.status]).toEqual(['status', 0])
  })
})

describe('[SAM-5] 7.3 to 7.9 the other functions', () => {
  test('ABORT TASK SET ends the tasks of the nexus alone', async () => {
    const { target, start } = await held()
    const mine = [start(READ), start(WRITE)]
    const others = start(READ, { initiator: 1 })
    void target.manage({ function: 'abort task set', initiator: 7, lun: 0 })
    expect([...mine, others].map((task) => task.isAborted)).toEqual([true, true, false])
  })

  test('CLEAR TASK SET ends all; the other initiator port is told by a unit attention', async () => {
    const { target, initiator, start, faulty } = await held()
    const tasks = [start(READ), start(READ, { initiator: 1 })]
    const cleared = target.manage({ function: 'clear task set', initiator: 7, lun: 0 })
    faulty.release()
    expect(await cleared).toBe('complete')
    expect(begun(tasks)).toEqual(['aborted', 'aborted'])
    expect(await initiator.send('00', { initiator: 1 })).toMatchObject({ sense: '06/2f/00' })
    expect((await initiator.send('00')).status).toBe(0)
  })

  test('with TAS (SPC-4 7.5.10) the tasks of others end with TASK ABORTED instead', async () => {
    const { target, initiator, faulty } = await diskTarget()
    await initiator.ready(0, 1)
    const control = '00 00 00 00 0a 0a 02 10 00 40 00 00 00 00 00 00'
      .split(' ')
      .map((byte) => Number.parseInt(byte, 16))
    expect((await initiator.send('15 10 00 00 10', { out: Uint8Array.from(control) })).status).toBe(0)
    await initiator.ready(0, 1)
    faulty.hold()
    const mine = initiator.submit(READ)
    const others = initiator.submit(READ, { initiator: 1 })
    void mine.prepare()
    void others.prepare()
    const cleared = target.manage({ function: 'clear task set', initiator: 7, lun: 0 })
    faulty.release()
    await cleared
    expect([mine.phase, others.phase, others.status]).toEqual(['aborted', 'status', 0x40])
    expect((await initiator.send('00', { initiator: 1 })).status).toBe(0)
  })

  test('QUERY TASK and QUERY TASK SET find what is there', async () => {
    const { target, start } = await held()
    expect(target.manage({ function: 'query task', initiator: 7, lun: 0, tag: 3 })).toBe('complete')
    expect(target.manage({ function: 'query task set', initiator: 7, lun: 0 })).toBe('complete')
    start(READ, { tag: 3 })
    expect(target.manage({ function: 'query task', initiator: 7, lun: 0, tag: 3 })).toBe('succeeded')
    expect(target.manage({ function: 'query task set', initiator: 7, lun: 0 })).toBe('succeeded')
    expect(target.manage({ function: 'query task', initiator: 7, lun: 4, tag: 3 })).toBe('incorrect lun')
    expect(target.manage({ function: 'clear aca', initiator: 7, lun: 0 })).toBe('rejected')
  })

  test('LOGICAL UNIT RESET ends everything and tells everyone; persistent reservations stay', async () => {
    const { target, initiator, start, faulty } = await held()
    const tasks = [start(READ), start(WRITE), start(READ, { initiator: 1 })]
    const reset = target.manage({ function: 'logical unit reset', initiator: 7, lun: 0 })
    faulty.release()
    expect(await reset).toBe('complete')
    expect(begun(tasks)).toEqual(['aborted', 'aborted', 'aborted'])
    expect(await initiator.send('00')).toMatchObject({ sense: '06/29/03' })
    expect(await initiator.send('00', { initiator: 1 })).toMatchObject({ sense: '06/29/03' })
  })

  test('a reset drops what the error policy holds', async () => {
    const { initiator, target, faulty, disk } = await diskTarget({ disk: { werror: 'stop' } })
    faulty.fail('write', 'EIO', 1)
    faulty.fail('flush', 'EIO', 1)
    const write = initiator.submit(WRITE)
    void write.moveAll(bytesVec(new Uint8Array(512)))
    const flush = initiator.submit('35')
    await turn()
    expect(disk.held).toBe(2)
    await target.busReset()
    expect([write.phase, flush.phase, disk.held]).toEqual(['aborted', 'aborted', 0])
    expect(await initiator.send('00')).toMatchObject({ sense: '06/29/02' })
  })

  test('CVE-2023-5088: a write that a reset cuts off is not done later, at its place or at another', async () => {
    const { initiator, target, faulty } = await diskTarget()
    faulty.hold()
    const write = initiator.submit('2a 00 00 00 01 00 00 00 04')
    void write.moveAll(bytesVec(new Uint8Array(2048).fill(0xee)))
    const reset = target.manage({ function: 'target reset', initiator: 7 })
    faulty.release()
    await reset
    const { log } = faulty
    const writes = log.filter(({ operation }) => operation === 'write').length
    await initiator.ready()
    const { data } = await initiator.send('28 00 00 00 00 00 00 00 01')
    expect([write.phase, writes, data[0], data[4]]).toEqual(['aborted', 1, 0, 0])
    expect(log.filter(({ operation }) => operation === 'write').length).toBe(1)
  })

  test('I_T NEXUS RESET ends the tasks of one initiator port, which is told', async () => {
    const { target, initiator, start, faulty } = await held()
    const [mine, others] = [start(READ), start(READ, { initiator: 1 })]
    const reset = target.manage({ function: 'i_t nexus reset', initiator: 7 })
    faulty.release()
    await reset
    await turn()
    expect([mine.phase, others.phase]).toEqual(['aborted', 'status'])
    expect(await initiator.send('00')).toMatchObject({ sense: '06/29/07' })
    expect((await initiator.send('00', { initiator: 1 })).status).toBe(0)
  })
})

describe('[SPC-4] 7.5.10 QERR', () => {
  const control = (queue: number) => Uint8Array.of(0, 0, 0, 0, 0x0a, 0x0a, 2, queue, 0, 0, 0, 0, 0, 0, 0, 0)

  test.each([
    [0x10, [false, false]],
    [0x12, [true, true]],
    [0x16, [true, false]],
  ] as const)('%i: which tasks an error takes with it', async (queue, gone) => {
    const { initiator, faulty } = await diskTarget()
    await initiator.ready(0, 1)
    expect((await initiator.send('15 10 00 00 10', { out: control(queue) })).status).toBe(0)
    await initiator.ready(0, 1)
    faulty.hold()
    const tasks = [initiator.submit(READ), initiator.submit(READ, { initiator: 1 })]
    for (const task of tasks) void task.prepare()
    expect((await initiator.send('ff')).status).toBe(2)
    expect(tasks.map((task) => task.isAborted)).toEqual(gone)
    faulty.release()
    await turn()
  })

  test('10b is reserved', async () => {
    const { initiator } = await diskTarget()
    expect(await initiator.send('15 10 00 00 10', { out: control(0x14) })).toMatchObject({
      sense: '05/26/00',
      field: 'list 7.2',
    })
  })
})
