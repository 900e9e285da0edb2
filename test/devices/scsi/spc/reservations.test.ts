/** Reservations [SPC-4] 5.13, 6.15, 6.16; [SPC-2] 7.21, 7.25. */
import { describe, expect, test } from 'vitest'
import { bytesVec } from '../../../../src/block/iovec.ts'
import { diskTarget, type Initiator } from '../initiator.ts'

const A = 1
const B = 2
const C = 3
const CONFLICT = 0x18
const READ = '28 00 00 00 00 00 00 00 01'
const WRITE = '2a 00 00 00 00 00 00 00 01'

// Types by their names in SPC-4 table 66
const WRITE_EXCLUSIVE = 1
const EXCLUSIVE_ACCESS = 3
const WRITE_EXCLUSIVE_RO = 5
const EXCLUSIVE_ACCESS_RO = 6
const WRITE_EXCLUSIVE_AR = 7
const EXCLUSIVE_ACCESS_AR = 8

/** The cluster's side: nodes A, B and C, that register with the keys 0xA, 0xB and 0xC. */
async function cluster() {
  const { initiator, target, faulty } = await diskTarget()
  for (const node of [A, B, C]) await initiator.ready(0, node)
  return { initiator, target, faulty, ...nodes(initiator) }
}

function nodes(initiator: Initiator) {
  const list = (key: number, next = 0, flags = 0) => {
    const bytes = new Uint8Array(24)
    bytes[7] = key
    bytes[15] = next
    bytes[20] = flags
    return bytes
  }
  const out = async (node: number, action: number, type: number, key: number, next = 0, flags = 0) =>
    initiator.send(`5f 0${action} 0${type} 00 00 00 00 00 18`, { initiator: node, out: list(key, next, flags) })
  const key = (node: number) => 9 + node
  return {
    out,
    register: (node: number) => out(node, 0, 0, 0, key(node)),
    reserve: (node: number, type: number) => out(node, 1, type, key(node)),
    release: (node: number, type: number) => out(node, 2, type, key(node)),
    send: (node: number, cdb: string) =>
      initiator.send(cdb, { initiator: node, ...(cdb === WRITE && { out: new Uint8Array(512) }) }),
    readKeys: async () => {
      const { data, view } = await initiator.send('5e 00 00 00 00 00 00 01 00')
      const keys = Array.from({ length: (data.length - 8) / 8 }, (_, i) => Number(view.getBigUint64(8 + 8 * i)))
      return { generation: view.getUint32(0), keys }
    },
    readReservation: async () => {
      const { data, view } = await initiator.send('5e 01 00 00 00 00 00 01 00')
      return data.length === 8 ? undefined : { key: Number(view.getBigUint64(8)), type: data[21]! }
    },
  }
}

describe('[SPC-4] 5.13.7 registering', () => {
  test('with no key yet, the list’s key must be 0; PRGENERATION counts', async () => {
    const { out, register, readKeys } = await cluster()
    expect((await register(A)).status).toBe(0)
    expect((await register(B)).status).toBe(0)
    expect(await readKeys()).toEqual({ generation: 2, keys: [10, 11] })
    expect((await out(C, 0, 0, 5, 12)).status).toBe(CONFLICT)
    expect((await out(A, 0, 0, 99, 13)).status).toBe(CONFLICT)
    expect((await out(A, 0, 0, 10, 13)).status).toBe(0)
    expect((await readKeys()).keys).toEqual([13, 11])
  })

  test('key 0 unregisters; IGNORE EXISTING KEY needs to know none', async () => {
    const { out, register, readKeys } = await cluster()
    await register(A)
    expect((await out(A, 6, 0, 77, 20)).status).toBe(0)
    expect((await out(B, 6, 0, 77, 21)).status).toBe(0)
    expect((await readKeys()).keys).toEqual([20, 21])
    expect((await out(A, 0, 0, 20, 0)).status).toBe(0)
    expect(await readKeys()).toEqual({ generation: 4, keys: [21] })
  })

  test('APTPL, SPEC_I_PT and ALL_TG_PT are refused as REPORT CAPABILITIES says', async () => {
    const { initiator, out } = await cluster()
    expect(await out(A, 0, 0, 0, 10, 0x01)).toMatchObject({ sense: '05/26/00', field: 'list 20.0' })
    expect(await out(A, 0, 0, 0, 10, 0x08)).toMatchObject({ sense: '05/26/00', field: 'list 20.3' })
    expect(await out(A, 0, 0, 0, 10, 0x04)).toMatchObject({ sense: '05/26/00', field: 'list 20.2' })
    const { data } = await initiator.send('5e 02 00 00 00 00 00 01 00')
    expect([...data]).toEqual([0, 8, 0, 0x90, 0xea, 0x01, 0, 0])
  })

  test('a parameter list of another length is an error, and so is an unknown action', async () => {
    const { initiator } = await cluster()
    expect(await initiator.send('5f 00 00 00 00 00 00 00 17', { out: new Uint8Array(23) })).toMatchObject({
      sense: '05/1a/00',
    })
    expect(await initiator.send('5f 00 00 00 00 ff ff ff ff')).toMatchObject({ sense: '05/1a/00' })
    expect(await initiator.send('5f 07 00 00 00 00 00 00 18')).toMatchObject({ sense: '05/24/00', field: 'cdb 1.4' })
  })
})

describe('[SPC-4] 5.13.9 reserving', () => {
  test('only a registered initiator port reserves, and a second reservation conflicts', async () => {
    const { register, reserve, readReservation } = await cluster()
    expect((await reserve(A, WRITE_EXCLUSIVE)).status).toBe(CONFLICT)
    await register(A)
    await register(B)
    expect((await reserve(A, WRITE_EXCLUSIVE)).status).toBe(0)
    expect((await reserve(A, WRITE_EXCLUSIVE)).status).toBe(0)
    expect((await reserve(A, EXCLUSIVE_ACCESS)).status).toBe(CONFLICT)
    expect((await reserve(B, WRITE_EXCLUSIVE)).status).toBe(CONFLICT)
    expect(await readReservation()).toEqual({ key: 10, type: WRITE_EXCLUSIVE })
  })

  test.each([
    [WRITE_EXCLUSIVE, { holder: 'rw', registered: 'r', other: 'r' }],
    [EXCLUSIVE_ACCESS, { holder: 'rw', registered: '', other: '' }],
    [WRITE_EXCLUSIVE_RO, { holder: 'rw', registered: 'rw', other: 'r' }],
    [EXCLUSIVE_ACCESS_RO, { holder: 'rw', registered: 'rw', other: '' }],
    [WRITE_EXCLUSIVE_AR, { holder: 'rw', registered: 'rw', other: 'r' }],
    [EXCLUSIVE_ACCESS_AR, { holder: 'rw', registered: 'rw', other: '' }],
  ])('type %i: who may read and write', async (type, rights) => {
    const { register, reserve, send } = await cluster()
    await register(A)
    await register(B)
    expect((await reserve(A, type)).status).toBe(0)
    const may = async (node: number) => {
      const [read, write] = [(await send(node, READ)).status, (await send(node, WRITE)).status]
      return `${read === 0 ? 'r' : ''}${write === 0 ? 'w' : ''}`
    }
    expect({ holder: await may(A), registered: await may(B), other: await may(C) }).toEqual(rights)
    expect((await send(C, '12 00 00 00 24')).status).toBe(0)
    expect((await send(C, '00')).status).toBe(0)
    expect((await send(C, '1a 00 08 00 ff')).status).toBe(CONFLICT)
  })

  test('scopes and types that do not exist are invalid fields', async () => {
    const { register, out } = await cluster()
    await register(A)
    for (const type of [0, 2, 4, 9])
      expect(await out(A, 1, type, 10)).toMatchObject({ sense: '05/24/00', field: 'cdb 2.3' })
  })
})

describe('[SPC-4] 5.13.11 releasing', () => {
  test('the holder releases with the same type; another registrant’s RELEASE changes nothing', async () => {
    const { register, reserve, release, readReservation } = await cluster()
    await register(A)
    await register(B)
    await reserve(A, WRITE_EXCLUSIVE)
    expect(await release(A, EXCLUSIVE_ACCESS)).toMatchObject({ sense: '05/26/04' })
    expect((await release(B, WRITE_EXCLUSIVE)).status).toBe(0)
    expect(await readReservation()).toBeDefined()
    expect((await release(C, WRITE_EXCLUSIVE)).status).toBe(CONFLICT)
    expect((await release(A, WRITE_EXCLUSIVE)).status).toBe(0)
    expect(await readReservation()).toBeUndefined()
  })

  test('the release of a type for registrants is told to the other registrants', async () => {
    const { register, reserve, release, send } = await cluster()
    await register(A)
    await register(B)
    await reserve(A, WRITE_EXCLUSIVE_RO)
    await release(A, WRITE_EXCLUSIVE_RO)
    expect(await send(B, '00')).toMatchObject({ sense: '06/2a/04' })
    expect((await send(C, '00')).status).toBe(0)
  })

  test('a reservation of all registrants lasts until the last of them unregisters', async () => {
    const { out, register, reserve, readReservation } = await cluster()
    await register(A)
    await register(B)
    await reserve(A, EXCLUSIVE_ACCESS_AR)
    expect(await readReservation()).toEqual({ key: 0, type: EXCLUSIVE_ACCESS_AR })
    await out(A, 0, 0, 10, 0)
    expect(await readReservation()).toEqual({ key: 0, type: EXCLUSIVE_ACCESS_AR })
    await out(B, 0, 0, 11, 0)
    expect(await readReservation()).toBeUndefined()
  })

  test('CLEAR takes everything away and tells the others', async () => {
    const { out, register, reserve, readKeys, readReservation, send } = await cluster()
    await register(A)
    await register(B)
    await reserve(A, EXCLUSIVE_ACCESS)
    expect((await out(B, 3, 0, 11)).status).toBe(0)
    expect([await readReservation(), (await readKeys()).keys]).toEqual([undefined, []])
    expect(await send(A, '00')).toMatchObject({ sense: '06/2a/03' })
  })
})

describe('[SPC-4] 5.13.11.4 preempting', () => {
  test('the holder’s key takes its reservation over, and its registration away', async () => {
    const { out, register, reserve, readKeys, readReservation, send } = await cluster()
    for (const node of [A, B, C]) await register(node)
    await reserve(A, WRITE_EXCLUSIVE_RO)
    expect((await out(B, 4, EXCLUSIVE_ACCESS_RO, 11, 10)).status).toBe(0)
    expect(await send(A, '00')).toMatchObject({ sense: '06/2a/05' })
    expect(await send(C, '00')).toMatchObject({ sense: '06/2a/04' })
    expect(await readReservation()).toEqual({ key: 11, type: EXCLUSIVE_ACCESS_RO })
    expect(await readKeys()).toEqual({ generation: 4, keys: [11, 12] })
  })

  test('another key only loses its registration; a key that nobody has conflicts', async () => {
    const { out, register, reserve, readKeys, readReservation } = await cluster()
    for (const node of [A, B, C]) await register(node)
    await reserve(A, WRITE_EXCLUSIVE_RO)
    expect((await out(B, 4, WRITE_EXCLUSIVE_RO, 11, 12)).status).toBe(0)
    expect((await readKeys()).keys).toEqual([10, 11])
    expect(await readReservation()).toEqual({ key: 10, type: WRITE_EXCLUSIVE_RO })
    expect((await out(B, 4, WRITE_EXCLUSIVE_RO, 11, 99)).status).toBe(CONFLICT)
    expect(await out(B, 4, WRITE_EXCLUSIVE_RO, 11, 0)).toMatchObject({ sense: '05/26/00' })
  })

  test('of all registrants, key 0 preempts everyone', async () => {
    const { out, register, reserve, readKeys, readReservation } = await cluster()
    for (const node of [A, B, C]) await register(node)
    await reserve(A, EXCLUSIVE_ACCESS_AR)
    expect((await out(C, 4, WRITE_EXCLUSIVE, 12, 0)).status).toBe(0)
    expect((await readKeys()).keys).toEqual([12])
    expect(await readReservation()).toEqual({ key: 12, type: WRITE_EXCLUSIVE })
  })

  test('PREEMPT AND ABORT ends the tasks of those who lost', async () => {
    const { initiator, faulty, out, register, reserve } = await cluster()
    for (const node of [A, B]) await register(node)
    await reserve(A, WRITE_EXCLUSIVE)
    faulty.hold()
    const task = initiator.submit(READ, { initiator: A })
    void task.moveAll(bytesVec(new Uint8Array(512)))
    const preempted = out(B, 5, WRITE_EXCLUSIVE, 11, 10)
    faulty.release()
    expect((await preempted).status).toBe(0)
    expect(task.phase).toBe('aborted')
  })
})

test('[SPC-4] 5.13.4 persistent reservations outlast a reset of the unit', async () => {
  const { initiator, target, register, reserve, readReservation } = await cluster()
  await register(A)
  await reserve(A, EXCLUSIVE_ACCESS)
  await target.manage({ function: 'logical unit reset', initiator: B, lun: 0 })
  for (const node of [A, B, 7]) await initiator.ready(0, node)
  expect(await readReservation()).toEqual({ key: 10, type: EXCLUSIVE_ACCESS })
})

test('[SPC-4] 6.15.5 READ FULL STATUS names every registrant and who holds', async () => {
  const { initiator, register, reserve } = await cluster()
  await register(A)
  await register(B)
  await reserve(B, WRITE_EXCLUSIVE)
  const { data, view } = await initiator.send('5e 03 00 00 00 00 00 01 00')
  expect([data.length, view.getUint32(4)]).toEqual([8 + 2 * 48, 96])
  const descriptors = [8, 56].map((at) => [
    Number(view.getBigUint64(at)),
    data[at + 12],
    data[at + 13],
    view.getUint32(at + 20),
    data[at + 24],
    view.getUint16(at + 26),
  ])
  expect(descriptors).toEqual([
    [10, 0, 0, 24, 1, A],
    [11, 1, WRITE_EXCLUSIVE, 24, 1, B],
  ])
})

describe('[SPC-2] 7.21, 7.25 RESERVE and RELEASE', () => {
  test.each([
    ['16', '17'],
    ['56', '57'],
  ])('%s keeps the others out until %s, or a reset', async (reserve, release) => {
    const { initiator, target, send } = await cluster()
    expect((await send(A, reserve)).status).toBe(0)
    expect((await send(A, READ)).status).toBe(0)
    for (const cdb of ['00', READ, '1a 00 08 00 ff', '25']) expect((await send(B, cdb)).status).toBe(CONFLICT)
    for (const cdb of ['12 00 00 00 24', '03 00 00 00 12', release]) expect((await send(B, cdb)).status).toBe(0)
    expect((await send(B, reserve)).status).toBe(CONFLICT)
    expect((await send(A, release)).status).toBe(0)
    expect((await send(B, READ)).status).toBe(0)
    await send(A, reserve)
    await target.busReset()
    await initiator.ready(0, B)
    expect((await send(B, READ)).status).toBe(0)
  })

  test('they and persistent registrations exclude each other', async () => {
    const { send, register, out } = await cluster()
    await register(A)
    expect((await send(B, '16')).status).toBe(CONFLICT)
    await out(A, 0, 0, 10, 0)
    expect((await send(B, '16')).status).toBe(0)
    expect((await register(B)).status).toBe(CONFLICT)
  })
})
