import { describe, expect, test } from 'vitest'
import { asDevice, BlockDevice } from '../../../src/block/device.ts'
import { CopyOnRead } from '../../../src/block/filters/copy-on-read.ts'
import { DetectZeroes, isZero } from '../../../src/block/filters/detect-zeroes.ts'
import { Overlay } from '../../../src/block/filters/overlay.ts'
import { type Clock, Throttle } from '../../../src/block/filters/throttle.ts'
import { raw } from '../../../src/block/formats/raw.ts'
import { closedGate } from '../../../src/block/gate.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { driverConformance, readBytes, same, writeBytes } from '../../conformance/driver.ts'
import { Faulty } from '../../conformance/faulty.ts'

const memory = (size: number) => asDevice(new Memory(size))
const open = (file: BlockDevice) => raw.open(file, { name: 'raw', readOnly: false, gate: closedGate, options: {} })
const window = (file: BlockDevice, size: number) =>
  raw.open(file, { name: 'raw', readOnly: false, gate: closedGate, options: { offset: 777, size } })

driverConformance({ name: 'raw', make: (size) => open(memory(size)), over: open })
driverConformance({ name: 'a window in raw', make: (size) => window(memory(size + 5000), size) })
driverConformance({
  name: 'an overlay',
  make: (size) => new Overlay(memory(size), memory(0)),
  over: (below, size) => new Overlay(memory(size), below),
  skip: [{ reason: 'the store is there from the start', tests: [] }],
})
for (const unmap of [false, true]) {
  driverConformance({
    name: `detect-zeroes=${unmap ? 'unmap' : 'on'}`,
    make: (size) => new DetectZeroes(memory(size), unmap),
    over: (below) => new DetectZeroes(below, unmap),
  })
}
driverConformance({
  name: 'copy-on-read',
  make: (size) => new CopyOnRead(memory(size)),
  over: (below) => new CopyOnRead(below),
})
driverConformance({
  name: 'throttle',
  make: (size) => new Throttle(memory(size), { iopsTotal: 1e9, bpsWrite: 1e12 }),
  over: (below) => new Throttle(below, {}),
})

describe('detect-zeroes', () => {
  test('finds the one byte that is not zero, whatever the alignment', () => {
    const bytes = new Uint8Array(100)
    for (let start = 0; start < 9; start++) {
      for (let end = start; end < 40; end++) {
        expect(isZero(bytes.subarray(start, end))).toBe(true)
        for (let at = start; at < end; at++) {
          bytes[at] = 1
          expect(isZero(bytes.subarray(start, end))).toBe(false)
          bytes[at] = 0
        }
      }
    }
  })

  test('a forced write of zeroes is durable when it completes', () => {
    const below = new Faulty(memory(65536))
    const disk = asDevice(new DetectZeroes(asDevice(below), true))
    disk.write(0, bytesVec(new Uint8Array(512)), { fua: true })
    expect(below.log.map(({ operation }) => operation)).toEqual(['zero', 'flush'])
  })
})

describe('copy-on-read', () => {
  /** An image over a backing file: holes show the backing bytes. */
  function image(size: number) {
    const backing = new Faulty(asDevice(Memory.from(new Uint8Array(size).fill(5))))
    const top = new Overlay(asDevice(backing), memory(0))
    return { backing, disk: asDevice(new CopyOnRead(asDevice(top))) }
  }

  test('reads the backing file once', async () => {
    const { backing, disk } = image(1 << 20)
    same(await readBytes(disk, 10_000, 50_000), new Uint8Array(50_000).fill(5))
    const reads = backing.counts.read
    same(await readBytes(disk, 10_000, 50_000), new Uint8Array(50_000).fill(5))
    expect(backing.counts.read).toBe(reads)
  })

  test('a write under way at the same time is never undone by the copy', async () => {
    const { backing, disk } = image(1 << 20)
    backing.hold()
    const read = readBytes(disk, 0, 65536)
    const write = writeBytes(disk, 4096, new Uint8Array(4096).fill(6))
    backing.release()
    await Promise.all([read, write])
    same(await readBytes(disk, 4096, 4096), new Uint8Array(4096).fill(6))
    same(await readBytes(disk, 0, 4096), new Uint8Array(4096).fill(5))
  })

  test('a copy that fails does not fail the read', async () => {
    const store = new Faulty(memory(0))
    const top = new Overlay(asDevice(Memory.from(new Uint8Array(65536).fill(5))), asDevice(store))
    const disk = asDevice(new CopyOnRead(asDevice(top)))
    store.fail('write', 'ENOSPC', 100)
    same(await readBytes(disk, 0, 65536), new Uint8Array(65536).fill(5))
  })
})

describe('an overlay', () => {
  test('shows the base until it is written, zeroes where it was discarded, and never writes to the base', async () => {
    const base = Memory.from(new Uint8Array(100_000).fill(3))
    const below = new Faulty(asDevice(base))
    const disk = asDevice(new Overlay(asDevice(below), memory(0)))
    await writeBytes(disk, 5000, new Uint8Array(100).fill(4))
    await disk.discard(8192, 4096)
    const expected = new Uint8Array(100_000).fill(3)
    expected.fill(4, 5000, 5100)
    expected.fill(0, 8192, 12288)
    same(await readBytes(disk, 0, 100_000), expected)
    expect([below.counts.write, below.counts.zero, below.counts.discard]).toEqual([0, 0, 0])
    expect(disk.backing).toBeInstanceOf(BlockDevice)
  })

  test('a terabyte of base costs nothing', async () => {
    const disk = asDevice(new Overlay(memory(2 ** 40), memory(0)))
    await writeBytes(disk, 2 ** 39, new Uint8Array(4096).fill(1))
    let extents = 0
    for (let at = 0; at < disk.size; extents++) at += (await disk.status(at, disk.size - at)).length
    expect(extents).toBe(3)
  })
})

describe('throttling', () => {
  /** Time that passes only when told. */
  class Ticks implements Clock {
    time = 0
    readonly #alarms: { at: number; ring: () => void }[] = []
    now = () => this.time
    after = (ms: number, ring: () => void) => void this.#alarms.push({ at: this.time + ms, ring })

    async pass(ms: number): Promise<void> {
      for (const end = this.time + ms; this.time < end; ) {
        this.time++
        for (const alarm of [...this.#alarms]) {
          if (alarm.at > this.time) continue
          this.#alarms.splice(this.#alarms.indexOf(alarm), 1)
          alarm.ring()
        }
        await Promise.resolve()
        await Promise.resolve()
      }
    }
  }

  function rate(options: ConstructorParameters<typeof Throttle>[1], kind: 'read' | 'write' = 'read', length = 512) {
    const clock = new Ticks()
    const disk = asDevice(new Throttle(memory(1 << 20), options, clock))
    let done = 0
    const one = async () => {
      await disk[kind](0, bytesVec(new Uint8Array(length)))
      done++
    }
    for (let i = 0; i < 5000; i++) void one()
    return { clock, done: () => done }
  }

  test.each([
    [{ iopsTotal: 100 }, 'read', 512, 100],
    [{ iopsRead: 100 }, 'read', 512, 100],
    [{ iopsWrite: 100 }, 'write', 512, 100],
    [{ bpsTotal: 1 << 20 }, 'write', 4096, 256],
    [{ bpsRead: 1 << 20, iopsTotal: 1000 }, 'read', 4096, 256],
    [{ iopsTotal: 100, iopsSize: 4096 }, 'read', 8192, 50],
  ] as const)('%o gives about its rate for %s of %d bytes', async (options, kind, length, perSecond) => {
    const { clock, done } = rate(options, kind, length)
    await clock.pass(1000)
    const first = done()
    await clock.pass(3000)
    expect((done() - first) / 3 / perSecond).toBeCloseTo(1, 1)
    expect(first / perSecond).toBeLessThan(1.3)
  })

  test('limits on writes leave reads alone', async () => {
    const { done } = rate({ iopsWrite: 1, bpsWrite: 1 }, 'read')
    await new Promise((resolve) => setImmediate(resolve))
    expect(done()).toBe(5000)
  })

  test('a burst goes at its rate for its time, then at the plain rate', async () => {
    const { clock, done } = rate({ iopsTotal: 100, iopsTotalMax: 500, iopsTotalMaxLength: 2 })
    await clock.pass(1000)
    const first = done()
    expect(first).toBeGreaterThan(450)
    expect(first).toBeLessThan(600)
    await clock.pass(4000)
    const later = done()
    await clock.pass(1000)
    expect(done() - later).toBeGreaterThan(90)
    expect(done() - later).toBeLessThan(115)
  })

  test('requests of one direction stay in order, and flushes are never held', async () => {
    const clock = new Ticks()
    const below = new Faulty(memory(1 << 20))
    const disk = asDevice(new Throttle(asDevice(below), { iopsWrite: 10 }, clock))
    for (let i = 0; i < 8; i++) void disk.write(i * 512, bytesVec(new Uint8Array(512)))
    expect(disk.flush()).toBeUndefined()
    await clock.pass(2000)
    expect(below.log.filter(({ operation }) => operation === 'write').map(({ at }) => at / 512)).toEqual([
      0, 1, 2, 3, 4, 5, 6, 7,
    ])
  })

  test.each([
    [{ iopsTotal: -1 }, /iopsTotal is -1/],
    [{ bpsTotal: 1, bpsRead: 1 }, /exclude each other/],
    [{ iopsTotalMax: 5 }, /iopsTotalMax without iopsTotal/],
    [{ iopsTotal: 10, iopsTotalMax: 5 }, /below/],
    [{ iopsTotal: 10, iopsTotalMaxLength: 5 }, /MaxLength without/],
  ])('refuses %o', (options, message) => {
    expect(() => new Throttle(memory(512), options)).toThrow(message)
  })
})
