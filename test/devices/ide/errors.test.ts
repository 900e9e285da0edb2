import { describe, expect, test } from 'vitest'
import { asDevice, type WriteOptions } from '../../../src/block/device.ts'
import { BlockError, type Errno } from '../../../src/block/error.ts'
import { Filter } from '../../../src/block/filter.ts'
import { bytesVec, type IoVec } from '../../../src/block/iovec.ts'
import type { Now } from '../../../src/block/now.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { microtasks } from '../machine.ts'
import { Slow } from '../slow.ts'
import {
  ABRT,
  BM_ACTIVE,
  BM_INTERRUPT,
  BSY,
  DRQ,
  diskOf,
  Host,
  harddisk,
  host,
  machine,
  pattern,
  READY,
  UNC,
} from './host.ts'

/** A medium with sectors that cannot be read, or not be written. */
class Damaged extends Filter {
  readonly name = 'damaged'
  readonly unreadable = new Set<number>()
  readonly unwritable = new Set<number>()
  code: Errno = 'EIO'
  later = false

  #go(bad: Set<number>, at: number, length: number, go: () => Now<void>): Now<void> {
    const check = () => {
      for (const lba of bad)
        if (lba * 512 < at + length && lba * 512 + 512 > at) throw new BlockError(this.code, 'damaged')
      return go()
    }
    return this.later ? Promise.resolve().then(check) : check()
  }

  override read(at: number, into: IoVec): Now<void> {
    return this.#go(this.unreadable, at, into.byteLength, () => this.next.read(at, into))
  }

  override write(at: number, from: IoVec, options?: WriteOptions): Now<void> {
    return this.#go(this.unwritable, at, from.byteLength, () => this.next.write(at, from, options))
  }

  override flush(): Now<void> {
    if (this.unwritable.size > 0) throw new BlockError(this.code, 'damaged')
    return this.next.flush()
  }
}

function damaged(): { medium: Damaged; memory: Memory; ata: Host } {
  const memory = Memory.from(pattern(0, 2048))
  const medium = new Damaged(asDevice(memory))
  return { medium, memory, ata: host(medium, { werror: 'report' }) }
}

describe.each([false, true])('ATA8-ACS 6.3: errors of the medium (host answers later: %s)', (later) => {
  test('READ SECTOR(S) gives the sectors before the bad one, then UNC with its address', async () => {
    const { medium, ata } = damaged()
    medium.later = later
    medium.unreadable.add(45)
    ata.issue(0x20, { lba: 40, count: 10 })
    await microtasks()
    for (let lba = 40; lba < 45; lba++) {
      expect(ata.status & DRQ, `sector ${lba}`).toBe(DRQ)
      expect(ata.insw(512)).toEqual(pattern(lba, 1))
      await microtasks()
    }
    ata.failed(UNC)
    expect([ata.lba28, ata.in(2)]).toEqual([45, 5])
  })

  test('READ DMA EXT ends with UNC, the address in the registers, the bus master still active', async () => {
    const { medium, ata } = damaged()
    medium.later = later
    medium.unreadable.add(1234)
    medium.unreadable.add(1300)
    ata.prd([
      [0x10_0000, 0],
      [0x11_0000, 0],
    ])
    ata.issueExt(0x25, { lba: 1200, count: 256 })
    ata.start(true)
    await microtasks()
    expect(ata.masterStatus & 7).toBe(BM_ACTIVE | BM_INTERRUPT)
    ata.failed(UNC)
    expect(ata.lba48).toBe(1234)
    expect(ata.ram(0x10_0000, 34 * 512)).toEqual(pattern(1200, 34))
    ata.stop()
    medium.unreadable.clear()
    medium.later = false
    ata.dma(() => ata.issueExt(0x25, { lba: 1234, count: 1 }), [[0x8000, 512]], true)
  })

  test('READ VERIFY names the first bad sector', async () => {
    const { medium, ata } = damaged()
    medium.later = later
    medium.unreadable.add(99)
    ata.issue(0x40, { lba: 3, count: 200 })
    await microtasks()
    ata.failed(UNC)
    expect(ata.lba28).toBe(99)
  })

  test('WRITE SECTOR(S) and WRITE DMA end with ABRT and the address; what came before is written', async () => {
    const { medium, memory, ata } = damaged()
    medium.later = later
    medium.unwritable.add(13)
    ata.issue(0x30, { lba: 10, count: 6 })
    ata.outsw(pattern(500, 6))
    await microtasks()
    ata.failed(ABRT)
    expect(ata.lba28).toBe(13)
    const bytes = new Uint8Array(6 * 512)
    memory.read(10 * 512, bytesVec(bytes))
    expect(bytes.subarray(0, 1536)).toEqual(pattern(500, 3))
    ata.ram(0x8000, 4096).set(pattern(600, 8))
    ata.prd([[0x8000, 4096]])
    ata.issue(0xca, { lba: 10, count: 8 })
    ata.start(false)
    await microtasks()
    ata.failed(ABRT)
    expect(ata.lba28).toBe(13)
  })

  test('FLUSH CACHE that fails is aborted', async () => {
    const { medium, ata } = damaged()
    medium.unwritable.add(0)
    ata.issue(0xe7)
    ata.failed(ABRT)
    medium.unwritable.clear()
    ata.issue(0xea)
    ata.done()
  })
})

test('ATA8-APT 9.6: READ MULTIPLE leaves out the block with the bad sector', () => {
  const { medium, ata } = damaged()
  medium.unreadable.add(20)
  ata.issue(0xc4, { lba: 0, count: 40 })
  expect(ata.status & DRQ).toBe(DRQ)
  expect(ata.insw(16 * 512)).toEqual(pattern(0, 16))
  ata.failed(UNC)
  expect(ata.lba28).toBe(20)
})

test('werror=stop holds the request: BSY until the host goes on, and then all is well', async () => {
  const medium = new Damaged(asDevice(Memory.from(pattern(0, 64))))
  const disk = diskOf(medium, { werror: 'enospc' })
  const ata = new Host(machine([{ media: 'disk', disk }]))
  medium.code = 'ENOSPC'
  medium.unwritable.add(5)
  ata.issue(0x30, { lba: 5, count: 1 })
  ata.outsw(pattern(9, 1))
  await microtasks()
  expect([ata.alt & BSY, disk.held]).toEqual([BSY, 1])
  medium.unwritable.clear()
  disk.resume()
  await microtasks()
  ata.done()
})

test('rerror=ignore reads as if nothing were wrong', () => {
  const medium = new Damaged(asDevice(Memory.from(pattern(0, 64))))
  medium.unreadable.add(1)
  const ata = host(medium, { rerror: 'ignore' })
  ata.issue(0x20, { lba: 0, count: 2 })
  ata.pioIn(1024)
})

test('ATA8-ACS 6.3: a disk that cannot be written aborts every write, and flushes without a word', () => {
  const ata = host(Memory.from(pattern(0, 64), { readOnly: true }))
  for (const opcode of [0x30, 0xca, 0xc5]) {
    ata.issue(opcode, { lba: 0, count: 1 })
    ata.failed(ABRT)
  }
  ata.issue(0xe7)
  ata.done()
})

describe('ATA8-APT 9.3: a reset during a transfer', () => {
  const channels = (driver: Slow) => new Host(machine([harddisk(driver)]))

  test('CVE-2023-5088: a write is taken back; it is done neither later nor at LBA 0', async () => {
    const slow = new Slow(1 << 20)
    const ata = channels(slow)
    ata.ram(0x8000, 512).fill(0xbd)
    ata.prd([[0x8000, 512]])
    ata.issue(0xca, { lba: 77, count: 1 })
    ata.start(false)
    expect(slow.pending.length).toBe(1)
    ata.softReset()
    expect(ata.alt).toBe(BSY)
    await slow.settle()
    await microtasks()
    expect(ata.status).toBe(READY)
    expect(slow.pending.length).toBe(0)
    const bytes = new Uint8Array(1 << 20)
    slow.memory.read(0, bytesVec(bytes))
    expect(bytes.every((byte) => byte === 0)).toBe(true)
    expect(ata.edges).toBe(0)
  })

  test('a read does not touch memory any more, and BSY is held until the host has let go', async () => {
    const slow = new Slow(1 << 20)
    const ata = channels(slow)
    slow.memory.write(0, bytesVec(pattern(0, 8)))
    ata.prd([[0x8000, 512]])
    ata.issue(0xc8, { lba: 1, count: 1 })
    ata.start(true)
    ata.slot.out8(ata.control, 0x04)
    ata.slot.out8(ata.control, 0x00)
    expect(ata.alt).toBe(BSY)
    ata.ram(0x8000, 512).fill(0x55)
    slow.next()
    expect(ata.alt).toBe(BSY)
    await microtasks()
    expect([ata.status, ata.error]).toEqual([READY, 1])
    expect(ata.ram(0x8000, 512)).toEqual(new Uint8Array(512).fill(0x55))
  })

  test('of a PIO transfer forgets the data', async () => {
    const slow = new Slow(1 << 20)
    const ata = channels(slow)
    ata.issue(0x20, { lba: 1, count: 1 })
    ata.softReset()
    await slow.settle()
    expect(ata.status).toBe(READY)
    expect(ata.slot.in16(ata.command)).toBe(0)
    slow.direct = true
    slow.memory.write(0, bytesVec(pattern(0, 4)))
    ata.issue(0x20, { lba: 2, count: 1 })
    expect(ata.pioIn(512)).toEqual(pattern(2, 1))
  })

  test('RST# completes when the host let go', async () => {
    const slow = new Slow(1 << 20)
    const ata = channels(slow)
    ata.issue(0xe7)
    let done = false
    const reset = Promise.resolve(ata.slot.device.reset()).then(() => {
      done = true
    })
    await microtasks()
    expect(done).toBe(false)
    await slow.settle()
    await reset
    ata.slot.device.config.write(4, 2, 5)
    expect(ata.status).toBe(READY)
  })

  test('does not let a search for the bad sector go on', async () => {
    const slow = new Slow(1 << 20)
    const ata = channels(slow)
    ata.issue(0x20, { lba: 0, count: 64 })
    slow.pending[0]!.fail(new BlockError('EIO', 'broken'))
    await microtasks()
    expect(slow.pending.length).toBe(1)
    ata.softReset()
    await slow.settle()
    expect([slow.pending.length, ata.status]).toEqual([0, READY])
  })
})
