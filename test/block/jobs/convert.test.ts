/** The copying jobs: what they read, write and leave out, how they fail and how they are ended. */
import { describe, expect, test } from 'vitest'
import { asDevice, type BlockDevice } from '../../../src/block/device.ts'
import { createQcow2 } from '../../../src/block/formats/qcow2/create.ts'
import { openQcow2 } from '../../../src/block/formats/qcow2/image.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { commit } from '../../../src/block/jobs/commit.ts'
import { convert } from '../../../src/block/jobs/convert.ts'
import { rebase } from '../../../src/block/jobs/rebase.ts'
import { ImageDevice } from '../../../src/block/mover.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import * as codecs from '../../../src/codecs/index.ts'
import { Faulty } from '../../conformance/faulty.ts'
import { random } from '../../random.ts'

const MIB = 1 << 20

async function filled(
  size: number,
  ...parts: readonly (readonly [at: number, bytes: Uint8Array])[]
): Promise<BlockDevice> {
  const device = asDevice(new Memory(size))
  for (const [at, bytes] of parts) await device.write(at, bytesVec(bytes))
  return device
}

async function bytesOf(device: BlockDevice): Promise<Uint8Array> {
  const bytes = new Uint8Array(device.size)
  await device.read(0, bytesVec(bytes))
  return bytes
}

/** Compares as one: matchers look at each byte by itself. */
async function expectBytes(device: BlockDevice, wanted: Uint8Array): Promise<void> {
  expect(Buffer.compare(await bytesOf(device), wanted)).toBe(0)
}

/** No zeroes, and no 4 KiB like those beside them. */
function striped(length: number): Uint8Array {
  const bytes = new Uint8Array(length)
  for (let at = 0; at < length; at += 4096) bytes.fill(1 + ((at >> 12) % 255), at, at + 4096)
  return bytes
}

async function qcow2(size: number, backing?: BlockDevice): Promise<BlockDevice> {
  const file = asDevice(new Memory(0))
  const header = await createQcow2(file, { name: 'image', size })
  const parts = { name: 'image', codecs, readOnly: false }
  return asDevice(new ImageDevice(await openQcow2(file, header, backing === undefined ? parts : { ...parts, backing })))
}

describe('convert', () => {
  const { bytes } = random(7)

  test('copies data, and leaves alone what the target has already as zeroes', async () => {
    const source = await filled(9 * MIB, [MIB, bytes(MIB)], [5 * MIB, bytes(100_000)])
    const target = new Faulty(asDevice(new Memory(9 * MIB)))
    await convert([{ device: source }], asDevice(target), { zeroFrom: 0 }).run()
    await expectBytes(asDevice(target), await bytesOf(source))
    expect(target.counts.zero).toBe(0)
    const written = target.log
      .filter(({ operation }) => operation === 'write')
      .reduce((sum, { length }) => sum + length, 0)
    expect(written).toBeLessThan(MIB + 100_000 + 3 * 4096)
  })

  test('overwrites what the target has, zeroes by requests to zero', async () => {
    const source = await filled(4 * MIB, [MIB, bytes(5000)])
    const target = new Faulty(await filled(4 * MIB, [0, new Uint8Array(4 * MIB).fill(9)]))
    await convert([{ device: source }], asDevice(target)).run()
    await expectBytes(asDevice(target), await bytesOf(source))
    expect(target.counts.zero).toBeGreaterThan(0)
  })

  test('puts windows of sources behind each other, at any byte', async () => {
    const [one, other] = [bytes(3 * MIB), bytes(MIB)]
    const target = asDevice(new Memory(one.length - 1000 + 777))
    await convert(
      [
        { device: await filled(one.length, [0, one]), offset: 1000 },
        { device: await filled(other.length, [0, other]), offset: 5, length: 777 },
      ],
      target,
    ).run()
    const wanted = new Uint8Array(target.size)
    wanted.set(one.subarray(1000))
    wanted.set(other.subarray(5, 782), one.length - 1000)
    await expectBytes(target, wanted)
  })

  test('zeroes in data are found where minSparse of them are together, and only there', async () => {
    const data = bytes(MIB)
    data.fill(0, 64 << 10, 80 << 10)
    const source = await filled(MIB, [0, data])
    for (const [minSparse, holes] of [
      [4096, 16 << 10],
      [16 << 10, 16 << 10],
      [32 << 10, 0],
      [0, 0],
    ] as const) {
      const target = new Faulty(asDevice(new Memory(MIB)))
      await convert([{ device: source }], asDevice(target), { minSparse, zeroFrom: 0 }).run()
      const written = target.log.reduce((sum, { operation, length }) => sum + (operation === 'write' ? length : 0), 0)
      expect(written).toBe(MIB - holes)
      await expectBytes(asDevice(target), data)
    }
  })

  test('never has more requests in flight than it may, writes in order, or out of order when told', async () => {
    for (const outOfOrder of [false, true]) {
      const source = new Faulty(await filled(32 * MIB, [0, striped(32 * MIB)]))
      source.later()
      const target = new Faulty(asDevice(new Memory(32 * MIB)))
      let reading = 0
      let most = 0
      const read = source.read.bind(source)
      source.read = async (at, into) => {
        most = Math.max(most, ++reading)
        for (let turns = (at / MIB) % 5; turns > 0; turns--) await new Promise((resolve) => setImmediate(resolve))
        await read(at, into)
        reading--
      }
      await convert([{ device: asDevice(source) }], asDevice(target), { inFlight: 4, outOfOrder }).run()
      expect(most).toBe(4)
      const places = target.log.filter(({ operation }) => operation === 'write').map(({ at }) => at)
      const sorted = [...places].sort((a, b) => a - b)
      if (outOfOrder) expect(places).not.toEqual(sorted)
      else expect(places).toEqual(sorted)
      await expectBytes(asDevice(target), await bytesOf(asDevice(source)))
    }
  })

  test('a request that fails ends it, when all others are over, and says where', async () => {
    const source = new Faulty(await filled(16 * MIB, [0, bytes(16 * MIB)]))
    const target = new Faulty(asDevice(new Memory(16 * MIB)))
    target.later()
    target.fail('write', 'ENOSPC')
    const job = convert([{ device: asDevice(source) }], asDevice(target))
    await expect(job.run()).rejects.toMatchObject({ code: 'ENOSPC', verb: 'writing', at: 0 })
    source.fail('read', 'EIO')
    await expect(convert([{ device: asDevice(source) }], asDevice(target)).run()).rejects.toMatchObject({
      code: 'EIO',
      verb: 'reading',
      at: 0,
    })
  })

  test('salvage puts zeroes where a sector cannot be read, and only there', async () => {
    const data = bytes(MIB)
    const source = new Faulty(await filled(MIB, [0, data]))
    const read = source.read.bind(source)
    source.read = (at, into) => {
      if (at <= 70_000 && at + into.byteLength > 70_000) source.fail('read', 'EIO')
      return read(at, into)
    }
    const lost: number[] = []
    const target = asDevice(new Memory(MIB))
    await convert([{ device: asDevice(source) }], target, { salvage: (at) => lost.push(at) }).run()
    expect(lost).toEqual([70_000 - (70_000 % 512)])
    data.fill(0, lost[0], lost[0]! + 512)
    await expectBytes(target, data)
  })

  test('compresses whole clusters into a qcow2 image', async () => {
    const data = new Uint8Array(3 * MIB + 512)
    for (let at = 0; at < data.length; at++) data[at] = (at >> 8) & 0xff
    data.fill(0, MIB, 2 * MIB)
    const source = await filled(data.length, [0, data])
    const target = await qcow2(data.length)
    await convert([{ device: source }], target, { compress: true, zeroFrom: 0 }).run()
    await expectBytes(target, data)
    const { image } = target.driver as ImageDevice
    for (const at of [0, 64 << 10, 2 * MIB, 3 * MIB]) expect((await image.map(at, 512)).kind).toBe('packed')
    expect((await image.map(MIB, 512)).kind).toBe('hole')
  })

  test('puts compressed clusters behind each other, across the clusters of the file', async () => {
    const data = bytes(64 * 65536)
    // Every other part of a cluster compresses to nothing: some 40 KiB of it are left.
    for (let at = 0; at < data.length; at += 65536) data.fill(7, at, at + 24_000)
    const target = await qcow2(data.length)
    await convert([{ device: await filled(data.length, [0, data]) }], target, { compress: true, zeroFrom: 0 }).run()
    await expectBytes(target, data)
    const { file } = (target.driver as ImageDevice).image
    await target.close()
    expect(file.size).toBeLessThan(64 * 42_000 + 8 * 65536)
  })

  test('ends at once when it is canceled, with nothing under way', async () => {
    const source = await filled(64 * MIB, [0, new Uint8Array(64 * MIB).fill(7)])
    const target = new Faulty(asDevice(new Memory(64 * MIB)))
    target.later()
    const controller = new AbortController()
    const job = convert([{ device: source }], asDevice(target), { inFlight: 2, signal: controller.signal })
    let last = 0
    for await (const { done } of job) {
      last = done
      if (done > 8 * MIB) controller.abort()
    }
    expect(job.status).toBe('concluded')
    expect(last).toBeLessThan(32 * MIB)
    const { length } = target.log
    await new Promise((resolve) => setTimeout(resolve, 10))
    expect(target.log.length).toBe(length)
  })

  test('keeps to its speed', async () => {
    let now = 0
    const waits: number[] = []
    const clock = {
      now: () => now,
      after(ms: number, callback: () => void) {
        waits.push(ms)
        now += ms
        queueMicrotask(callback)
      },
    }
    const source = await filled(8 * MIB, [0, bytes(8 * MIB)])
    await convert([{ device: source }], asDevice(new Memory(8 * MIB)), { speed: 2 * MIB, clock }).run()
    expect(now).toBeGreaterThan(3500)
    expect(now).toBeLessThan(4500)
    expect(waits.length).toBeGreaterThan(20)
  })
})

describe('commit and rebase', () => {
  const { bytes, below } = random(11)

  async function over(backing: BlockDevice, size: number, writes: number): Promise<BlockDevice> {
    const image = await qcow2(size, backing)
    for (let each = 0; each < writes; each++) {
      const at = below(size - 200_000)
      if (each % 3 === 0) await image.zero(at, below(200_000))
      else await image.write(at, bytesVec(bytes(1 + below(200_000))))
    }
    return image
  }

  test('a base shows what the chain above it showed', async () => {
    const base = await filled(6 * MIB, [0, bytes(6 * MIB)])
    const middle = await over(base, 6 * MIB, 9)
    const top = await over(middle, 8 * MIB, 9)
    const wanted = await bytesOf(top)
    await commit(top, base).run()
    expect(base.size).toBe(8 * MIB)
    await expectBytes(base, wanted)
  })

  test.each(['smaller', 'larger', 'none'])('over another base (%s) the disk is the same', async (which) => {
    const old = await filled(6 * MIB, [0, bytes(6 * MIB)], [MIB, new Uint8Array(MIB)])
    const size = which === 'smaller' ? 2 * MIB : 10 * MIB
    const same = (await bytesOf(old)).subarray(0, Math.min(size, MIB))
    const next = which === 'none' ? undefined : await filled(size, [0, same], [MIB + 5, bytes(700_000)])
    const top = await over(old, 8 * MIB, 9)
    const wanted = await bytesOf(top)
    await rebase(top, next).run()
    const { image } = top.driver as ImageDevice
    Object.assign(image, { backing: next })
    const fresh = new ImageDevice(image)
    await expectBytes(asDevice(fresh), wanted)
  })
})
