/** Filters that make slow media bearable: read-ahead, and gathered discards. */
import { describe, expect, test } from 'vitest'
import { asDevice } from '../../../src/block/device.ts'
import { GatherDiscards } from '../../../src/block/filters/gather-discards.ts'
import { ReadAhead } from '../../../src/block/filters/readahead.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { driverConformance, outcome, readBytes, same, writeBytes } from '../../conformance/driver.ts'
import { Faulty } from '../../conformance/faulty.ts'
import { seeded } from '../../random.ts'

const SIZE = 8 << 20
const memory = (size: number) => asDevice(new Memory(size))
const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

driverConformance({
  name: 'readahead',
  make: (size) => new ReadAhead(memory(size)),
  over: (below) => new ReadAhead(below),
})
driverConformance({
  name: 'gather-discards',
  make: (size) => new GatherDiscards(memory(size), { granularity: 4096 }),
  over: (below) => new GatherDiscards(below),
})

describe('read-ahead', () => {
  function make() {
    const content = new Uint8Array(SIZE).map((_, i) => (i >> 12) ^ i)
    const below = new Faulty(asDevice(Memory.from(content)))
    below.later()
    return { content, below, disk: asDevice(new ReadAhead(asDevice(below))) }
  }

  test('a reader in order asks the medium in large pieces, and finds them answered', async () => {
    const { content, below, disk } = make()
    for (let at = 0; at < SIZE; at += 4096) {
      same(await readBytes(disk, at, 4096), content.subarray(at, at + 4096), `at ${at}`)
    }
    expect(below.counts.read).toBeLessThan(130)
    expect(below.log.slice(-20).every(({ length }) => length === 128 << 10)).toBe(true)
  })

  test('a reader out of order causes no reads but its own', async () => {
    const { below, disk } = make()
    for (let i = 0; i < 200; i++) await readBytes(disk, ((i * 7919) % 2000) * 4096, 4096)
    expect(below.log.every(({ length }) => length === 4096)).toBe(true)
  })

  test('what is written is what is read, also when it was on its way here', async () => {
    await seeded(async (random) => {
      const { content, disk } = make()
      for (let at = 0; at < SIZE; at += 8192) {
        const read = readBytes(disk, at, 8192)
        const place = Math.min(at + 8192 + random.below(1 << 20), SIZE - 512)
        const bytes = random.bytes(512)
        await writeBytes(disk, place, bytes)
        same(await read, content.subarray(at, at + 8192), `at ${at}`)
        content.set(bytes, place)
      }
      same(await readBytes(disk, 0, SIZE), content)
    })
  })

  test('an error ahead is nobody’s until it is asked for', async () => {
    const { below, content, disk } = make()
    await readBytes(disk, 0, 4096)
    await readBytes(disk, 4096, 4096)
    below.fail('read', 'EIO', 1)
    const reads = [await outcome(() => readBytes(disk, 8192, 4096)), await outcome(() => readBytes(disk, 12288, 4096))]
    expect(reads.filter((code) => code !== 'none' && code !== 'EIO')).toEqual([])
    same(await readBytes(disk, 16384, 300_000), content.subarray(16384, 316_384))
  })

  test('keeps to its memory', () => {
    expect(() => new ReadAhead(memory(SIZE), { window: 1000 })).toThrow(/at least 128 KiB/)
    expect(() => new ReadAhead(memory(SIZE), { window: 1 << 20, memory: 1 << 20 })).toThrow(/twice/)
  })
})

describe('gathered discards', () => {
  function make(options: ConstructorParameters<typeof GatherDiscards>[1] = { granularity: 4096 }) {
    const below = new Faulty(asDevice(Memory.from(new Uint8Array(SIZE).fill(1))))
    return { below, disk: asDevice(new GatherDiscards(asDevice(below), options)) }
  }
  const discards = (below: Faulty) =>
    below.log.filter(({ operation }) => operation === 'discard').map(({ at, length }) => [at, length])

  test('small neighbours become one hole of the minimum size, in any order', () => {
    const { below, disk } = make()
    for (const i of [3, 1, 0, 2, 7, 5, 4, 6, 15, 14, 13, 12, 11, 10, 9]) disk.discard(i * 4096, 4096)
    expect(discards(below)).toEqual([])
    disk.discard(8 * 4096, 4096)
    expect(discards(below)).toEqual([[0, 65536]])
  })

  test('a large discard goes at once, and its ends are remembered', () => {
    const { below, disk } = make()
    disk.discard(1000, 1 << 20)
    expect(discards(below)).toEqual([[4096, (1 << 20) - 4096]])
    disk.discard(0, 1000)
    disk.close()
    expect(below.counts.discard).toBe(2)
  })

  test('a write into a range that waits takes it out: its bytes are never discarded', async () => {
    const { below, disk } = make()
    disk.discard(0, 8 * 4096)
    await writeBytes(disk, 4096, new Uint8Array(4096).fill(2))
    disk.discard(8 * 4096, 60 * 4096)
    await disk.close()
    for (const [at, length] of discards(below)) expect(at! >= 8192 || at! + length! <= 4096).toBe(true)
  })

  test('a write into a hole that is being made waits for it', async () => {
    const { below, disk } = make()
    below.hold()
    disk.discard(0, 1 << 20)
    const write = writeBytes(disk, 4096, new Uint8Array(4096).fill(2))
    await turn()
    expect(below.counts.write).toBe(0)
    below.release()
    await write
    same(await readBytes(disk, 4096, 4096), new Uint8Array(4096).fill(2))
  })

  test('a flush waits for the holes under way', async () => {
    const { below, disk } = make()
    below.hold()
    disk.discard(0, 1 << 20)
    const flush = Promise.resolve(disk.flush())
    await turn()
    expect(below.counts.flush).toBe(0)
    below.release()
    await flush
    expect(below.counts.flush).toBe(1)
  })

  test('a hole that cannot be made is no error', async () => {
    const { below, disk } = make()
    below.fail('discard', 'EIO')
    expect(await outcome(() => disk.discard(0, 1 << 20))).toBe('none')
    expect(await outcome(() => disk.write(0, bytesVec(new Uint8Array(512))))).toBe('none')
  })

  test('remembers no more ranges than it may', () => {
    const { disk } = make({ granularity: 512, minimum: 1 << 20 })
    for (let i = 0; i < SIZE / 1024; i++) disk.discard(i * 1024, 512)
    expect(disk.size).toBe(SIZE)
  })

  test('any mix of discards and writes keeps what was written', async () => {
    await seeded(async (random) => {
      const { disk } = make()
      const model: (number | undefined)[] = new Array(SIZE / 512).fill(1)
      for (let i = 0; i < 3000; i++) {
        const at = random.below(SIZE / 512)
        const count = Math.min(random.between(1, 200), SIZE / 512 - at)
        if (random.below(3) > 0) {
          disk.discard(at * 512, count * 512)
          model.fill(undefined, at, at + count)
        } else {
          const value = random.between(1, 255)
          await writeBytes(disk, at * 512, new Uint8Array(count * 512).fill(value))
          model.fill(value, at, at + count)
        }
      }
      const bytes = await readBytes(disk, 0, SIZE)
      model.forEach((value, i) => {
        if (value !== undefined && bytes[i * 512] !== value)
          throw new Error(`sector ${i} is ${bytes[i * 512]}, not ${value}`)
      })
    })
  })
})
