/** Block commands of a disk: moving, comparing, capacity, errors [SBC-3] 4, 5. */
import { describe, expect, test } from 'vitest'
import { bytesVec, type IoVec } from '../../../../src/block/iovec.ts'
import { Memory } from '../../../../src/block/protocols/memory.ts'
import { diskTarget, firstDifference, numbered, SIZE, turn } from '../initiator.ts'

const BLOCKS = SIZE / 512
const pattern = (blocks: number, value = 0x5a) => new Uint8Array(512 * blocks).fill(value)

describe('[SBC-3] 5.8 to 5.12 READ, 5.32 to 5.36 WRITE', () => {
  test.each([
    ['08 00 00 05 02', '0a 00 00 05 02'],
    ['28 00 00 00 00 05 00 00 02', '2a 00 00 00 00 05 00 00 02'],
    ['a8 00 00 00 00 05 00 00 00 02', 'aa 00 00 00 00 05 00 00 00 02'],
    ['88 00 00 00 00 00 00 00 00 05 00 00 00 02', '8a 00 00 00 00 00 00 00 00 05 00 00 00 02'],
  ])('%s and %s', async (read, write) => {
    const { initiator } = await diskTarget()
    const before = await initiator.send(read)
    expect(firstDifference(before.data, numbered(SIZE).subarray(5 * 512, 7 * 512))).toBe(-1)
    expect(await initiator.send(write, { out: pattern(2) })).toMatchObject({ status: 0, transferred: 1024 })
    expect(firstDifference((await initiator.send(read)).data, pattern(2))).toBe(-1)
    const around = await initiator.send('28 00 00 00 00 04 00 00 04')
    expect(around.data[511]).toBe(numbered(SIZE)[5 * 512 - 1])
  })

  test('a transfer length of 0 is 256 blocks in 6 bytes, and nothing in the others', async () => {
    const { initiator } = await diskTarget()
    expect((await initiator.send('08 00 00 00 00')).transferred).toBe(256 * 512)
    expect(await initiator.send('28 00 00 00 00 00 00 00 00')).toMatchObject({ status: 0, transferred: 0 })
    expect(await initiator.send('2a 00 00 00 00 00 00 00 00')).toMatchObject({ status: 0, transferred: 0 })
  })

  test.each([
    ['the block after the last one', '28 00 00 00 08 00 00 00 01'],
    ['a range that begins on the medium', '28 00 00 00 07 ff 00 00 02'],
    ['the last LBA of 32 bits', '28 00 ff ff ff ff 00 00 01'],
    ['the last LBA of 64 bits', '88 00 ff ff ff ff ff ff ff ff 00 00 00 01'],
    ['a length that wraps around', '88 00 00 00 00 00 00 00 00 01 ff ff ff ff'],
    ['a write', '8a 00 ff ff ff ff ff ff ff ff ff ff ff ff'],
    ['LBA beyond the capacity with no length', '28 00 00 00 08 01 00 00 00'],
  ])('CVE-2020-29443, CVE-2008-0928: %s is out of range, and moves nothing', async (_, cdb) => {
    const { initiator, faulty } = await diskTarget()
    const outcome = await initiator.send(cdb, { out: new Uint8Array(1024) })
    expect(outcome).toMatchObject({ status: 2, sense: '05/21/00', transferred: 0 })
    expect([faulty.counts.read, faulty.counts.write]).toEqual([0, 0])
  })

  test('FUA makes a write durable before its status, and a read come from the medium', async () => {
    const { initiator, faulty } = await diskTarget()
    await initiator.send('2a 00 00 00 00 00 00 00 01', { out: pattern(1) })
    expect(faulty.log.at(-1)).toMatchObject({ operation: 'write', fua: false })
    await initiator.send('2a 08 00 00 00 00 00 00 01', { out: pattern(1) })
    expect(faulty.log.at(-1)).toMatchObject({ operation: 'write', fua: true })
    expect(faulty.counts.flush).toBe(0)
    expect((await initiator.send('28 18 00 00 00 00 00 00 01')).status).toBe(0)
    expect(faulty.counts.flush).toBe(1)
  })

  test('without dpofua both bits are invalid fields', async () => {
    const { initiator } = await diskTarget({ unit: { dpofua: false } })
    expect((await initiator.send('1a 08 08 00 ff')).data[2]).toBe(0)
    expect(await initiator.send('28 08 00 00 00 00 00 00 01')).toMatchObject({ sense: '05/24/00', field: 'cdb 1.3' })
    expect(await initiator.send('2a 10 00 00 00 00 00 00 01')).toMatchObject({ sense: '05/24/00', field: 'cdb 1.4' })
  })

  test('RDPROTECT and WRPROTECT: the medium has no protection information', async () => {
    const { initiator } = await diskTarget()
    expect(await initiator.send('28 20 00 00 00 00 00 00 01')).toMatchObject({ sense: '05/24/00', field: 'cdb 1.5' })
    expect(await initiator.send('8a e0')).toMatchObject({ sense: '05/24/00', field: 'cdb 1.7' })
  })

  test('blocks of 4096 bytes', async () => {
    const { initiator } = await diskTarget({ disk: { logicalBlockSize: 4096 } })
    const { view } = await initiator.send('25')
    expect([view.getUint32(0), view.getUint32(4)]).toEqual([255, 4096])
    const { data } = await initiator.send('28 00 00 00 00 01 00 00 01')
    expect(firstDifference(data, numbered(SIZE).subarray(4096, 8192))).toBe(-1)
    for (const piece of [100, 4096]) {
      expect((await initiator.send('2a 00 00 00 00 01 00 00 02', { out: pattern(16), piece })).status).toBe(0)
    }
    expect(await initiator.send('28 00 00 00 01 00 00 00 01')).toMatchObject({ sense: '05/21/00' })
  })

  test('a write to a read-only medium is DATA PROTECT before any data moves', async () => {
    const { initiator } = await diskTarget({ driver: new Memory(SIZE, { readOnly: true }) })
    for (const cdb of [
      '2a 00 00 00 00 00 00 00 01',
      '42 00 00 00 00 00 00 00 18',
      '93 01 00 00 00 00 00 00 00 00 00 00 00 01',
      '04',
      '48 02',
    ]) {
      expect(await initiator.send(cdb, { out: pattern(1) })).toMatchObject({
        status: 2,
        sense: cdb.startsWith('42') ? '05/20/00' : '07/27/00',
        transferred: 0,
      })
    }
    expect((await initiator.send('35')).status).toBe(0)
  })

  test('a transfer of 40 MiB is split into requests of 16 MiB', async () => {
    const { initiator, faulty } = await diskTarget({ driver: new Memory(64 << 20) })
    const outcome = await initiator.send('28 00 00 00 00 00 00 ff ff', { room: 40 << 20 })
    expect([outcome.status, outcome.transferred]).toEqual([0, 65535 * 512])
    expect(faulty.counts.read).toBe(2)
  })
})

describe('[SBC-3] 4.18 errors of the medium', () => {
  /** A medium on which some blocks cannot be read or written. */
  class Scratched extends Memory {
    readonly bad = new Set<number>()
    code: 'EIO' | 'ENOSPC' = 'EIO'
    override read(at: number, into: Parameters<Memory['read']>[1]): void {
      this.#check(at, into.byteLength)
      super.read(at, into)
    }
    override write(at: number, from: Parameters<Memory['write']>[1]): void {
      this.#check(at, from.byteLength)
      super.write(at, from)
    }
    #check(at: number, length: number): void {
      for (const lba of this.bad) {
        if (lba * 512 < at + length && lba * 512 + 512 > at)
          throw Object.assign(new Error('scratch'), { code: this.code })
      }
    }
  }

  async function scratched(...bad: number[]) {
    const driver = new Scratched(SIZE)
    const all = await diskTarget({ driver, disk: { werror: 'report' } })
    for (const lba of bad) driver.bad.add(lba)
    return { ...all, driver }
  }

  test.each([[0], [1], [99], [255]])(
    'the INFORMATION field has the first block that cannot be read: %i',
    async (lba) => {
      for (const piece of [undefined, 4096]) {
        const { initiator } = await scratched(lba, 300)
        const outcome = await initiator.send('28 00 00 00 00 00 00 01 00', piece === undefined ? {} : { piece })
        expect(outcome).toMatchObject({ status: 2, sense: '03/11/00', information: lba, transferred: lba * 512 })
      }
    },
  )

  test('the first block that cannot be written, with what kind of error', async () => {
    const { initiator, driver } = await scratched(20)
    const out = pattern(64)
    expect(await initiator.send('2a 00 00 00 00 00 00 00 40', { out })).toMatchObject({
      sense: '03/0c/00',
      information: 20,
    })
    driver.code = 'ENOSPC'
    expect(await initiator.send('2a 00 00 00 00 00 00 00 40', { out })).toMatchObject({
      sense: '07/27/07',
      information: 20,
    })
  })

  test('a failure that does not come again is none', async () => {
    const { initiator, faulty } = await diskTarget()
    faulty.fail('read', 'EIO')
    const { data, status } = await initiator.send('28 00 00 00 00 00 00 00 10')
    expect([status, firstDifference(data, numbered(SIZE).subarray(0, 8192))]).toEqual([0, -1])
  })

  test.each([
    ['EROFS', '07/27/00'],
    ['ENOSPC', '07/27/07'],
    ['ENOMEM', '0b/55/03'],
    ['ETIMEDOUT', '04/3e/02'],
    ['ECONNRESET', '04/08/00'],
    ['EIO', '03/0c/00'],
  ] as const)('the host’s %s is %s', async (code, sense) => {
    const { initiator, faulty } = await diskTarget({ disk: { werror: 'report' } })
    faulty.fail('write', code, 100)
    expect(await initiator.send('2a 00 00 00 00 00 00 00 01', { out: pattern(1) })).toMatchObject({ status: 2, sense })
  })

  test('an LBA of more than 32 bits fits descriptor format only', async () => {
    const { initiator, faulty } = await diskTarget({ driver: new Memory(2 ** 43) })
    faulty.fail('read', 'EIO', 100)
    const cdb = '88 00 00 00 00 02 00 00 00 00 00 00 00 01'
    expect(await initiator.send(cdb)).toMatchObject({ sense: '03/11/00', information: undefined })
    await initiator.send('15 10 00 00 10', { out: Uint8Array.of(0, 0, 0, 0, 10, 10, 6, 0x10, 0, 0, 0, 0, 0, 0, 0, 0) })
    faulty.fail('read', 'EIO', 100)
    expect(await initiator.send(cdb)).toMatchObject({ sense: '03/11/00', information: 2 ** 33 })
  })
})

describe('[SBC-3] 5.15, 5.16 capacity', () => {
  test('10 and 16 bytes, with the physical block exponent and thin provisioning', async () => {
    const { initiator } = await diskTarget({ disk: { physicalBlockSize: 4096 } })
    expect((await initiator.send('25')).view.getUint32(0)).toBe(BLOCKS - 1)
    const { data, view } = await initiator.send('9e 10 00 00 00 00 00 00 00 00 00 00 00 20')
    expect([view.getBigUint64(0), view.getUint32(8), data[12], data[13], data[14]]).toEqual([
      BigInt(BLOCKS - 1),
      512,
      0,
      3,
      0xc0,
    ])
  })

  test('FFFFFFFFh of a medium that is too large for 10 bytes', async () => {
    const { initiator } = await diskTarget({ driver: new Memory(2 ** 43) })
    expect((await initiator.send('25')).view.getUint32(0)).toBe(0xffffffff)
    const { view } = await initiator.send('9e 10 00 00 00 00 00 00 00 00 00 00 00 20')
    expect(view.getBigUint64(0)).toBe(2n ** 34n - 1n)
  })
})

describe('[SBC-3] 5.22, 5.23 SYNCHRONIZE CACHE', () => {
  test.each(['35', '91'])('%s completes when all is durable, with IMMED at once', async (opcode) => {
    const { initiator, faulty } = await diskTarget()
    expect((await initiator.send(opcode)).status).toBe(0)
    expect(faulty.counts.flush).toBe(1)
    faulty.hold()
    expect(initiator.submit(`${opcode} 02`).status).toBe(0)
    expect(faulty.held).toBe(1)
    const waits = initiator.submit(opcode)
    expect(waits.phase).toBe('busy')
    faulty.release()
    expect(await waits.next()).toBe('status')
  })

  test('its range must be on the medium', async () => {
    const { initiator } = await diskTarget()
    expect(await initiator.send('35 00 00 00 08 00 00 00 01')).toMatchObject({ sense: '05/21/00' })
  })
})

describe('[SBC-3] 5.24 to 5.26 VERIFY', () => {
  test.each([
    ['2f 00 00 00 00 02 00 00 04', '2f 02 00 00 00 02 00 00 04', '2f 06 00 00 00 02 00 00 04'],
    ['af 00 00 00 00 02 00 00 00 04', 'af 02 00 00 00 02 00 00 00 04', 'af 06 00 00 00 02 00 00 00 04'],
    [
      '8f 00 00 00 00 00 00 00 00 02 00 00 00 04',
      '8f 02 00 00 00 00 00 00 00 02 00 00 00 04',
      '8f 06 00 00 00 00 00 00 00 02 00 00 00 04',
    ],
  ])('%s reads the medium, %s compares it, %s with one block', async (medium, all, one) => {
    const { initiator, faulty } = await diskTarget()
    expect(await initiator.send(medium)).toMatchObject({ status: 0, wanted: 0 })
    expect(faulty.counts.read).toBe(1)
    const right = numbered(SIZE).slice(1024, 3072)
    expect(await initiator.send(all, { out: right })).toMatchObject({ status: 0, transferred: 2048 })
    expect(await initiator.send(all, { out: right, piece: 100 })).toMatchObject({ status: 0 })
    right[1030]! ^= 1
    expect(await initiator.send(all, { out: right })).toMatchObject({ sense: '0e/1d/00', information: 4 })
    await initiator.send('2a 00 00 00 00 02 00 00 04', { out: pattern(4) })
    expect(await initiator.send(one, { out: pattern(1) })).toMatchObject({ status: 0, transferred: 512 })
    await initiator.send('2a 00 00 00 00 04 00 00 01', { out: pattern(1, 1) })
    expect(await initiator.send(one, { out: pattern(1) })).toMatchObject({ sense: '0e/1d/00', information: 4 })
  })

  test('a medium error while verifying; BYTCHK 10b is reserved', async () => {
    const { initiator, faulty } = await diskTarget()
    faulty.fail('read', 'EIO', 100)
    expect(await initiator.send('2f 00 00 00 00 02 00 00 04')).toMatchObject({ sense: '03/11/00', information: 2 })
    expect(await initiator.send('2f 04 00 00 00 02 00 00 04')).toMatchObject({ sense: '05/24/00', field: 'cdb 1.2' })
  })

  test('a terabyte lets the event loop turn, and an abort stops it', async () => {
    let reads = 0
    const driver = {
      name: 'endless',
      size: 2 ** 40,
      read(_: number, into: IoVec) {
        reads++
        into.fill(0)
      },
      write() {},
    }
    const { initiator, target } = await diskTarget({ driver })
    reads = 0
    const task = initiator.submit('8f 00 00 00 00 00 00 00 00 00 7f ff ff ff', { tag: 1 })
    expect([task.phase, reads]).toEqual(['busy', 16])
    await turn()
    expect(reads).toBeGreaterThan(16)
    await target.manage({ function: 'abort task', initiator: 7, lun: 0, tag: 1 })
    expect(task.phase).toBe('aborted')
    const done = reads
    await turn()
    expect(reads).toBe(done)
  })

  test('5.39 WRITE AND VERIFY writes, makes it durable and reads it back', async () => {
    const { initiator, faulty } = await diskTarget()
    for (const cdb of [
      '2e 00 00 00 00 02 00 00 04',
      'ae 02 00 00 00 02 00 00 00 04',
      '8e 02 00 00 00 00 00 00 00 02 00 00 00 04',
    ]) {
      faulty.log.length = 0
      expect(await initiator.send(cdb, { out: pattern(4, 0x33) })).toMatchObject({ status: 0, transferred: 2048 })
      expect(faulty.log.map(({ operation }) => operation)).toEqual(['write', 'flush', 'read'])
    }
    expect((await initiator.send('28 00 00 00 00 02 00 00 04')).data.every((byte) => byte === 0x33)).toBe(true)
  })
})

describe('[SBC-3] 5.2 COMPARE AND WRITE', () => {
  const cdb = (count: number, lba = 2) => `89 00 00 00 00 00 00 00 00 0${lba} 00 00 00 ${count.toString(16)}`

  test('writes where the medium is as expected', async () => {
    const { initiator } = await diskTarget()
    const out = new Uint8Array(2048)
    out.set(numbered(SIZE).subarray(1024, 2048))
    out.fill(0x77, 1024)
    expect(await initiator.send(cdb(2), { out })).toMatchObject({ status: 0, transferred: 2048 })
    expect((await initiator.send('28 00 00 00 00 02 00 00 02')).data.every((byte) => byte === 0x77)).toBe(true)
  })

  test('otherwise leaves it, and INFORMATION is the offset of the first difference', async () => {
    const { initiator } = await diskTarget()
    const out = new Uint8Array(2048)
    out.set(numbered(SIZE).subarray(1024, 2048))
    out[700]! ^= 0x80
    expect(await initiator.send(cdb(2), { out })).toMatchObject({ sense: '0e/1d/00', information: 700 })
    expect((await initiator.send('28 00 00 00 00 02 00 00 01')).data[0]).toBe(2)
  })

  test('two at once: one wins, the other sees its blocks', async () => {
    const { initiator, faulty } = await diskTarget()
    faulty.later()
    const send = (value: number) => {
      const out = new Uint8Array(1024)
      out.set(numbered(SIZE).subarray(1024, 1536))
      out.fill(value, 512)
      return initiator.send(cdb(1), { out })
    }
    const outcomes = await Promise.all([send(1), send(2)])
    expect(outcomes.map(({ sense }) => sense)).toEqual(['', '0e/1d/00'])
  })

  test('more blocks than MAXIMUM COMPARE AND WRITE LENGTH are an invalid field; none are fine', async () => {
    const { initiator } = await diskTarget()
    expect(await initiator.send(cdb(129))).toMatchObject({ sense: '05/24/00', field: 'cdb 13.7' })
    expect((await initiator.send(cdb(0))).status).toBe(0)
  })
})

test('[SBC-3] 5.5 ORWRITE sets the bits that the data has', async () => {
  const { initiator } = await diskTarget()
  await initiator.send('2a 00 00 00 00 02 00 00 02', { out: pattern(2, 0x0f) })
  const cdb = '8b 00 00 00 00 00 00 00 00 02 00 00 00 02'
  for (const piece of [undefined, 300]) {
    expect((await initiator.send(cdb, { out: pattern(2, 0x81), ...(piece && { piece }) })).status).toBe(0)
  }
  expect((await initiator.send('28 00 00 00 00 02 00 00 02')).data.every((byte) => byte === 0x8f)).toBe(true)
})

describe('[SBC-3] 5.6, 5.7 PRE-FETCH', () => {
  test('CONDITION MET if all blocks were fetched, GOOD if they are too many', async () => {
    const { initiator, faulty } = await diskTarget({ driver: new Memory(32 << 20) })
    expect((await initiator.send('34 00 00 00 00 00 00 00 10')).status).toBe(4)
    expect(faulty.counts.read).toBe(1)
    expect((await initiator.send('34')).status).toBe(0)
    expect((await initiator.send('90 00 00 00 00 00 00 00 00 00 00 00 00 10')).status).toBe(4)
  })

  test('IMMED does not wait', async () => {
    const { initiator, faulty } = await diskTarget()
    faulty.hold()
    expect(initiator.submit('34 02 00 00 00 00 00 00 10').status).toBe(4)
    faulty.release()
    await turn()
    expect(faulty.counts.read).toBe(1)
  })
})

test('[SBC-3] 5.17, 5.18 READ DEFECT DATA: no defects, in the format that was asked for', async () => {
  const { initiator } = await diskTarget()
  expect([...(await initiator.send('37 00 0d 00 00 00 00 00 ff')).data]).toEqual([0, 0x0d, 0, 0])
  expect([...(await initiator.send('b7 0d 00 00 00 00 00 00 00 ff')).data]).toEqual([0, 0x0d, 0, 0, 0, 0, 0, 0])
})

test('[SBC-2] SEEK, 6 and 10: the block must be on the medium', async () => {
  const { initiator } = await diskTarget()
  expect((await initiator.send('0b 00 07 ff')).status).toBe(0)
  expect(await initiator.send('0b 00 08 00')).toMatchObject({ sense: '05/21/00' })
  expect((await initiator.send('2b 00 00 00 07 ff')).status).toBe(0)
  expect(await initiator.send('2b 00 00 00 08 00')).toMatchObject({ sense: '05/21/00' })
})

test('a request that answers at once costs one request, whatever the buffer is made of', async () => {
  const { initiator, faulty } = await diskTarget()
  const task = initiator.submit('28 00 00 00 00 00 00 00 08')
  const pages = Array.from({ length: 64 }, () => new Uint8Array(64))
  expect(task.moveAll(bytesVec(...pages))).toBeUndefined()
  expect([task.phase, faulty.counts.read]).toEqual(['status', 1])
})
