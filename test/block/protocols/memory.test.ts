import { expect, test } from 'vitest'
import { asDevice, type BlockDevice, type BlockDriver } from '../../../src/block/device.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { driverConformance, outcome, readBytes } from '../../conformance/driver.ts'
import { Faulty } from '../../conformance/faulty.ts'

driverConformance({ name: 'memory', make: (size) => new Memory(size) })
driverConformance({
  name: 'a filter',
  make: (size) => new Faulty(asDevice(new Memory(size))),
  over: (below) => new Faulty(below),
})

/** Memory that takes only multiples of `align`, answers later, and has nothing but read and write. */
class Blocks implements BlockDriver {
  readonly name = 'blocks'
  readonly align: number
  readonly below: BlockDevice

  constructor(below: BlockDevice, align: number) {
    this.below = below
    this.align = align
  }

  get size(): number {
    return this.below.size
  }

  #check(at: number, length: number): void {
    const end = at + length
    if (at % this.align !== 0 || (end % this.align !== 0 && end !== this.size))
      throw new Error(`misaligned: ${length} at ${at}`)
  }

  async read(at: number, into: Parameters<BlockDriver['read']>[1]): Promise<void> {
    this.#check(at, into.byteLength)
    await this.below.read(at, into)
  }

  async write(at: number, from: Parameters<BlockDriver['read']>[1]): Promise<void> {
    this.#check(at, from.byteLength)
    const bytes = from.gather()
    await new Promise((resolve) => setImmediate(resolve))
    await this.below.write(at, bytesVec(bytes))
  }
}

for (const align of [512, 4096, 65536]) {
  driverConformance({
    name: `a driver of ${align} byte blocks and nothing but read and write`,
    make: (size) => new Blocks(asDevice(new Memory(size)), align),
    over: (below) => new Blocks(below, align),
  })
}

test('a terabyte of memory disk takes no memory and its status no time', async () => {
  const disk = asDevice(new Memory(2 ** 40))
  expect(await disk.allocated()).toBe(0)
  let at = 0
  let asked = 0
  while (at < disk.size) {
    at += (await disk.status(at, disk.size - at)).length
    asked++
  }
  expect(asked).toBeLessThanOrEqual(4096)
  await disk.write(2 ** 40 - 512, bytesVec(new Uint8Array(512).fill(1)))
  expect(await disk.allocated()).toBe(65536)
})

test('a read-only disk refuses to be written with EROFS', async () => {
  const disk = asDevice(Memory.from(new Uint8Array(512).fill(7), { readOnly: true }))
  expect(await outcome(() => disk.write(0, bytesVec(new Uint8Array(512))))).toBe('EROFS')
  expect(await outcome(() => disk.zero(0, 512))).toBe('EROFS')
  expect(await outcome(() => disk.discard(0, 512))).toBe('EROFS')
  expect(await outcome(() => disk.resize(1024))).toBe('EROFS')
  expect((await readBytes(disk, 0, 512))[511]).toBe(7)
})
