/** What every driver, filter and format must do; one suite for all of them. */
import { describe, expect, test } from 'vitest'
import { asDevice, type BlockDevice, type BlockDriver } from '../../src/block/device.ts'
import type { Errno } from '../../src/block/error.ts'
import { bytesVec } from '../../src/block/iovec.ts'
import { Memory } from '../../src/block/protocols/memory.ts'
import { type Random, seeded } from '../random.ts'
import { Faulty } from './faulty.ts'

export interface DriverUnderTest {
  /** What the test report calls it. */
  readonly name: string
  /** A fresh writable driver of `size` bytes that reads as zeroes. */
  make(size: number): BlockDriver | Promise<BlockDriver>
  /** The same medium again, after what `make` gave was closed. */
  reopen?(closed: BlockDevice): BlockDriver | Promise<BlockDriver>
  /** A fresh driver whose medium is `below`, an empty device that may be resized: faults are injected there. */
  over?(below: BlockDevice, size: number): BlockDriver | Promise<BlockDriver>
  /** Disk sizes are multiples of this, bytes; default 512. */
  readonly sizeUnit?: number
  /** Size of the disks that are made, bytes, about 1 MiB. */
  readonly size?: number
  /** Operations of the property test; default 300. */
  readonly rounds?: number
  readonly skip?: readonly { reason: string; tests: readonly string[] }[]
}

/** The errno that a request fails with, or 'none'. */
export async function outcome(request: () => unknown): Promise<Errno | 'none'> {
  try {
    await request()
    return 'none'
  } catch (error) {
    return (error as { code?: Errno }).code ?? (`no code: ${error}` as Errno)
  }
}

/** Reads `length` bytes at `at`. */
export async function readBytes(device: BlockDriver, at: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length).fill(0xee)
  await device.read(at, bytesVec(bytes))
  return bytes
}

/** Writes `bytes` at `at`. */
export async function writeBytes(device: BlockDriver, at: number, bytes: Uint8Array): Promise<void> {
  await device.write!(at, bytesVec(bytes))
}

/** Throws with the first difference; far faster than comparing arrays by `toEqual`. */
export function same(actual: Uint8Array, expected: Uint8Array, what = 'bytes'): void {
  if (Buffer.compare(actual, expected) === 0) return
  if (actual.length !== expected.length) throw new Error(`${what}: ${actual.length} bytes, expected ${expected.length}`)
  const at = actual.findIndex((byte, i) => byte !== expected[i])
  throw new Error(`${what}: byte ${at} is ${actual[at]}, expected ${expected[at]}`)
}

/** Cuts `bytes` at random into a list of many pieces. */
function pieces(random: Random, bytes: Uint8Array): Uint8Array[] {
  const list: Uint8Array[] = []
  for (let at = 0; at < bytes.length; ) {
    const length = Math.min(bytes.length - at, random.pick([1, 3, 511, 512, 513, 4096, 9000]))
    list.push(bytes.subarray(at, at + length))
    at += length
  }
  return list
}

/** Defines the suite for one driver. */
export function driverConformance(driver: DriverUnderTest): void {
  const unit = driver.sizeUnit ?? 512
  const size = Math.ceil((driver.size ?? 1_050_112) / unit) * unit
  const skipped = new Map(driver.skip?.flatMap(({ reason, tests }) => tests.map((name) => [name, reason] as const)))
  const defined = new Set<string>()

  /** One test on a fresh device, which is closed afterwards whatever happens. */
  const on = (name: string, body: (device: BlockDevice) => Promise<void>) => {
    defined.add(name)
    const reason = skipped.get(name)
    if (reason !== undefined) test.skip(`${name} (${reason})`, () => {})
    else
      test(name, async () => {
        const device = asDevice(await driver.make(size))
        try {
          await body(device)
        } finally {
          await device.close()
        }
      })
  }

  describe(`${driver.name} as a driver`, () => {
    on('has the size that was asked for', async (device) => {
      expect(device.size).toBe(size)
      expect(device.readOnly).toBe(false)
    })

    on('a new disk reads as zeroes', async (device) => {
      same(await readBytes(device, 0, size), new Uint8Array(size))
    })

    on('reads back what was written, whatever its offset and length', async (device) => {
      await seeded(async (random) => {
        for (const at of [0, 1, 511, 512, 4095, 65535, 65536, size - 70000]) {
          for (const length of [1, 2, 511, 512, 513, 4096, 65537, 70000]) {
            const bytes = random.bytes(length)
            await writeBytes(device, at, bytes)
            same(await readBytes(device, at, length), bytes, `${length} bytes at ${at}`)
          }
        }
      })
    })

    on('gathers a write from many pieces and scatters a read into many', async (device) => {
      await seeded(async (random) => {
        const bytes = random.bytes(200_000)
        await device.write(1000, bytesVec(...pieces(random, bytes)))
        const target = new Uint8Array(bytes.length)
        await device.read(1000, bytesVec(...pieces(random, target)))
        same(target, bytes)
      })
    })

    on('takes more pieces than the host takes in one call', async (device) => {
      await seeded(async (random) => {
        const bytes = random.bytes(3000 * 64)
        const cut = (from: Uint8Array) => Array.from({ length: 3000 }, (_, i) => from.subarray(i * 64, i * 64 + 64))
        await device.write(512, bytesVec(...cut(bytes)))
        const target = new Uint8Array(bytes.length)
        await device.read(512, bytesVec(...cut(target)))
        same(target, bytes)
      })
    })

    on('the last byte is there, the next is not', async (device) => {
      await writeBytes(device, size - 1, Uint8Array.of(0x5a))
      expect([...(await readBytes(device, size - 2, 2))]).toEqual([0, 0x5a])
      expect(await outcome(() => readBytes(device, size - 1, 2))).toBe('EINVAL')
    })

    for (const [what, at, length] of [
      ['past the end', size, 512],
      ['across the end', size - 512, 1024],
      ['below zero', -512, 512],
      ['at no number', Number.NaN, 512],
      ['at no integer', 0.5, 512],
      ['beyond what a number counts', 2 ** 60, 512],
    ] as const) {
      on(`refuses a request ${what}, and nothing changes`, async (device) => {
        const bytes = new Uint8Array(length).fill(1)
        expect(await outcome(() => device.read(at, bytesVec(bytes)))).toBe('EINVAL')
        expect(await outcome(() => device.write(at, bytesVec(bytes)))).toBe('EINVAL')
        expect(await outcome(() => device.zero(at, length))).toBe('EINVAL')
        expect(await outcome(() => device.discard(at, length))).toBe('EINVAL')
        expect(await outcome(() => device.status(at, length))).toBe('EINVAL')
        expect(device.size).toBe(size)
        same(await readBytes(device, 0, size), new Uint8Array(size))
      })
    }

    on('an empty request does nothing', async (device) => {
      await device.read(size, bytesVec())
      await device.write(size, bytesVec())
      await device.zero(0, 0)
      await device.discard(0, 0)
      expect(await outcome(() => device.zero(0, 1.5))).toBe('EINVAL')
    })

    for (const unmap of [false, true]) {
      on(`zero${unmap ? ' with unmap' : ''} zeroes its range and nothing else`, async (device) => {
        await seeded(async (random) => {
          const model = random.bytes(size)
          await writeBytes(device, 0, model)
          for (const [at, length] of [
            [0, 512],
            [700, 3],
            [65536, 65536],
            [100_001, 150_003],
            [size - 1000, 1000],
          ] as const) {
            await device.zero(at, length, { unmap })
            model.fill(0, at, at + length)
          }
          same(await readBytes(device, 0, size), model)
        })
      })
    }

    on('zero takes the whole disk', async (device) => {
      await writeBytes(device, 12345, new Uint8Array(300_000).fill(7))
      await device.zero(0, size, { unmap: true })
      same(await readBytes(device, 0, size), new Uint8Array(size))
    })

    on('discard keeps what is outside its range, and the range takes new data', async (device) => {
      await seeded(async (random) => {
        const model = random.bytes(size)
        await writeBytes(device, 0, model)
        for (const [at, length] of [
          [0, 512],
          [70_001, 200_003],
          [size - 4096, 4096],
        ] as const) {
          await device.discard(at, length)
          const bytes = random.bytes(length)
          await writeBytes(device, at, bytes)
          model.set(bytes, at)
        }
        same(await readBytes(device, 0, size), model)
      })
    })

    on('a discarded range shows its old bytes or zeroes, never those of another', async (device) => {
      const old = new Uint8Array(size)
      for (let i = 0; i < size; i++) old[i] = 1 + (i % 251)
      await writeBytes(device, 0, old)
      await device.discard(65536, 4 * 65536)
      const now = await readBytes(device, 65536, 4 * 65536)
      expect(now.findIndex((byte, i) => byte !== 0 && byte !== old[65536 + i])).toBe(-1)
    })

    on('status covers the disk in order, and what is not data reads as zeroes', async (device) => {
      await seeded(async (random) => {
        for (let i = 0; i < 5; i++) await writeBytes(device, random.below(size - 40000), random.bytes(40000))
        await device.zero(300_000, 200_000, { unmap: true })
        let extents = 0
        for (let at = 0; at < size; extents++) {
          const asked = Math.min(random.between(1, 500_000), size - at)
          const extent = await device.status(at, asked)
          expect(extent.length).toBeGreaterThan(0)
          expect(extent.length).toBeLessThanOrEqual(asked)
          expect(['data', 'zero', 'hole']).toContain(extent.kind)
          if (extent.kind !== 'data') {
            same(await readBytes(device, at, extent.length), new Uint8Array(extent.length), `${extent.kind} at ${at}`)
          }
          at += extent.length
        }
        expect(extents).toBeGreaterThan(0)
        expect(await outcome(() => device.status(0, 0))).toBe('EINVAL')
      })
    })

    on('flush and forced writes complete, also with nothing to do and many at once', async (device) => {
      await device.flush()
      await device.write(0, bytesVec(new Uint8Array(512).fill(1)), { fua: true })
      await device.write(700, bytesVec(new Uint8Array(3).fill(2)), { fua: true })
      await device.write(0, bytesVec(), { fua: true })
      await Promise.all([device.flush(), writeBytes(device, 4096, new Uint8Array(4096).fill(3)), device.flush()])
      const bytes = await readBytes(device, 0, 703)
      expect([bytes[0], bytes[511], bytes[512], bytes[702]]).toEqual([1, 1, 0, 2])
    })

    on('grows with zeroes and shrinks for good', async (device) => {
      await writeBytes(device, 0, new Uint8Array(size).fill(9))
      if ((await outcome(() => device.resize(size + 128 * unit))) === 'ENOTSUP') return
      expect(device.size).toBe(size + 128 * unit)
      same(await readBytes(device, size, 128 * unit), new Uint8Array(128 * unit))
      const less = Math.ceil(size / 2 / unit) * unit
      if ((await outcome(() => device.resize(less))) === 'ENOTSUP') return
      expect(device.size).toBe(less)
      expect(await outcome(() => readBytes(device, less, 1))).toBe('EINVAL')
      await device.resize(size)
      same(await readBytes(device, less - 1, 1), Uint8Array.of(9))
      same(await readBytes(device, less, size - less), new Uint8Array(size - less))
      expect(await outcome(() => device.resize(-unit))).toBe('EINVAL')
      expect(await outcome(() => device.resize(0.5))).toBe('EINVAL')
    })

    on('writes that share a block at the same time all arrive', async (device) => {
      await seeded(async (random) => {
        const model = new Uint8Array(64 * 1024)
        const writes: Promise<void>[] = []
        const order = Array.from({ length: 600 }, (_, i) => i)
        for (let i = order.length - 1; i > 0; i--) {
          const j = random.below(i + 1)
          ;[order[i], order[j]] = [order[j]!, order[i]!]
        }
        for (const i of order) {
          const bytes = random.bytes(random.between(1, 107))
          model.set(bytes, i * 107)
          writes.push(writeBytes(device, i * 107, bytes))
        }
        await Promise.all(writes)
        same(await readBytes(device, 0, model.length), model)
      })
    })

    on('a write and a zero that share a block at the same time both arrive', async (device) => {
      await writeBytes(device, 0, new Uint8Array(16384).fill(0x11))
      await Promise.all([
        writeBytes(device, 100, new Uint8Array(50).fill(0x22)),
        device.zero(150, 8000),
        writeBytes(device, 8150, new Uint8Array(3).fill(0x33)),
        device.zero(8153, 1),
      ])
      const expected = new Uint8Array(16384).fill(0x11)
      expected.fill(0x22, 100, 150)
      expected.fill(0, 150, 8150)
      expected.fill(0x33, 8150, 8153)
      expected[8153] = 0
      same(await readBytes(device, 0, 16384), expected)
    })

    on('any sequence of requests leaves what an array would hold', async (device) => {
      await seeded(async (random) => {
        const model = new Uint8Array(size)
        /** Where zeroes are as good as what the model says: what was discarded and not written since. */
        const loose = new Uint8Array(size)
        const check = async (at: number, length: number, what?: string) => {
          const bytes = await readBytes(device, at, length)
          const expected = model.slice(at, at + length)
          const first = loose.subarray(at, at + length).indexOf(1)
          for (let i = first < 0 ? length : first; i < length; i++)
            if (bytes[i] === 0 && loose[at + i] === 1) expected[i] = 0
          same(bytes, expected, what)
        }
        const aligned = (limit: number) => (random.below(3) === 0 ? 1 : 512) * Math.floor(random.below(limit) / 512)
        for (let round = 0; round < (driver.rounds ?? 300); round++) {
          const at = aligned(size)
          const length = Math.min(size - at, random.pick([1, 512, 700, 4096, 65536, 131072, 250_000]))
          const kind = random.below(8)
          if (kind < 3) {
            const bytes = random.bytes(length)
            await device.write(
              at,
              bytesVec(...pieces(random, bytes)),
              random.below(20) === 0 ? { fua: true } : undefined,
            )
            model.set(bytes, at)
            loose.fill(0, at, at + length)
          } else if (kind < 6) await check(at, length, `round ${round}, ${length} at ${at}`)
          else if (kind === 6) {
            await device.zero(at, length, { unmap: random.below(2) === 0 })
            model.fill(0, at, at + length)
            loose.fill(0, at, at + length)
          } else if (random.below(2) === 0) {
            await device.discard(at, length)
            loose.fill(1, at, at + length)
          } else await device.flush()
        }
        await check(0, size)
      })
    })

    on('many requests at once, none over another, all arrive', async (device) => {
      await seeded(async (random) => {
        const model = new Uint8Array(size)
        for (let wave = 0; wave < 6; wave++) {
          const requests: Promise<unknown>[] = []
          for (let at = 0; at < size; ) {
            const length = Math.min(size - at, random.pick([1, 300, 512, 4096, 20_000, 70_000]))
            const start = at
            const kind = random.below(4)
            if (kind === 0) {
              const before = model.slice(start, start + length)
              requests.push(
                readBytes(device, start, length).then((bytes) =>
                  same(bytes, before, `wave ${wave}, ${length} at ${start}`),
                ),
              )
            } else if (kind === 1) {
              model.fill(0, start, start + length)
              requests.push(Promise.resolve(device.zero(start, length, { unmap: true })))
            } else {
              const bytes = random.bytes(length)
              model.set(bytes, start)
              requests.push(writeBytes(device, start, bytes))
            }
            if (random.below(30) === 0) requests.push(Promise.resolve(device.flush()))
            at += length
          }
          await Promise.all(requests)
        }
        same(await readBytes(device, 0, size), model)
      })
    })

    on('a request that was called back changes neither the disk nor the memory', async (device) => {
      await writeBytes(device, 0, new Uint8Array(8192).fill(0x44))
      const memory = new Uint8Array(3000).fill(0x55)
      const vector = bytesVec(memory)
      vector.revoke()
      expect(['ECANCELED', 'none']).toContain(await outcome(() => device.read(100, vector)))
      same(memory, new Uint8Array(3000).fill(0x55))
      expect(await outcome(() => device.write(100, vector))).toBe('ECANCELED')
      same(await readBytes(device, 0, 8192), new Uint8Array(8192).fill(0x44))
    })

    on('allocated tells a number of bytes', async (device) => {
      await writeBytes(device, 0, new Uint8Array(100_000).fill(1))
      expect(await device.allocated()).toBeGreaterThanOrEqual(0)
    })

    on('a closed disk refuses everything, and closes twice', async (device) => {
      await device.close()
      await device.close()
      const bytes = new Uint8Array(512)
      for (const request of [
        () => device.read(0, bytesVec(bytes)),
        () => device.write(0, bytesVec(bytes)),
        () => device.zero(0, 512),
        () => device.discard(0, 512),
        () => device.flush(),
        () => device.status(0, 512),
        () => device.resize(size),
      ])
        expect(await outcome(request)).toBe('ESHUTDOWN')
    })

    on('requests under way when it is closed complete or fail, and the close comes after them', async (device) => {
      const settled: string[] = []
      const writes = Array.from({ length: 20 }, (_, i) =>
        outcome(() => writeBytes(device, i * 10_001, new Uint8Array(5000).fill(i))).then(() => settled.push('write')),
      )
      await device.close()
      settled.push('close')
      await Promise.all(writes)
      expect(settled.indexOf('close')).toBeGreaterThanOrEqual(0)
    })

    if (driver.reopen !== undefined) {
      on('what was written is there after it is opened again', async (device) => {
        await seeded(async (random) => {
          const bytes = random.bytes(300_000)
          await writeBytes(device, 100_001, bytes)
          await device.zero(150_000, 1000)
          bytes.fill(0, 150_000 - 100_001, 151_000 - 100_001)
          await device.close()
          const again = asDevice(await driver.reopen!(device))
          try {
            expect(again.size).toBe(size)
            same(await readBytes(again, 100_001, bytes.length), bytes)
          } finally {
            await again.close()
          }
        })
      })
    }

    if (driver.over !== undefined) {
      for (const code of ['EIO', 'ENOSPC'] as const) {
        on(`${code} below reaches the caller by name, and the next request works`, async (fresh) => {
          await fresh.close()
          const below = new Faulty(asDevice(new Memory(size)))
          const device = asDevice(await driver.over!(asDevice(below), size))
          await writeBytes(device, 0, new Uint8Array(65536).fill(1))
          await device.flush()
          below.fail('read', 'EIO')
          const read = await outcome(() => readBytes(device, 0, 65536))
          expect(['EIO', 'none']).toContain(read)
          below.fail('read', 'EIO', 0)
          below.fail('write', code, 1000)
          const first = await outcome(() => writeBytes(device, 65536, new Uint8Array(300_000).fill(2)))
          const second = await outcome(() => device.flush())
          expect([first, second]).toContain(code)
          below.fail('write', code, 0)
          same(await readBytes(device, 0, 65536), new Uint8Array(65536).fill(1))
          await writeBytes(device, 65536, new Uint8Array(300_000).fill(3))
          same(await readBytes(device, 65536, 300_000), new Uint8Array(300_000).fill(3))
          await device.flush()
          await device.close()
        })
      }

      on('works the same when everything below answers later', async (fresh) => {
        await fresh.close()
        await seeded(async (random) => {
          const below = new Faulty(asDevice(new Memory(size)))
          below.later()
          const device = asDevice(await driver.over!(asDevice(below), size))
          const model = new Uint8Array(size)
          for (let wave = 0; wave < 5; wave++) {
            const requests: Promise<void>[] = []
            for (let at = random.below(2000); at < size; ) {
              const length = Math.min(size - at, random.pick([1, 512, 5000, 70_000]))
              const bytes = random.bytes(length)
              model.set(bytes, at)
              requests.push(writeBytes(device, at, bytes))
              at += length + random.below(3000)
            }
            await Promise.all(requests)
          }
          same(await readBytes(device, 0, size), model)
          await device.close()
        })
      })
    }

    test('every skip names a test', () => {
      expect([...skipped.keys()].filter((name) => !defined.has(name))).toEqual([])
    })
  })
}
