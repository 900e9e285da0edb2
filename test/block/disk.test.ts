import { describe, expect, test } from 'vitest'
import { asDevice } from '../../src/block/device.ts'
import { Disk, type DiskOptions, drainAll } from '../../src/block/disk.ts'
import type { BlockError } from '../../src/block/error.ts'
import { bytesVec } from '../../src/block/iovec.ts'
import { isLater } from '../../src/block/now.ts'
import { Memory } from '../../src/block/protocols/memory.ts'
import { outcome, readBytes } from '../conformance/driver.ts'
import { Faulty } from '../conformance/faulty.ts'

const SIZE = 1 << 20

function make(options: DiskOptions = {}, memory = new Memory(SIZE)) {
  const faulty = new Faulty(asDevice(memory))
  return { faulty, disk: new Disk(asDevice(faulty), { name: 'd', ...options }) }
}

const sector = (value = 1) => bytesVec(new Uint8Array(512).fill(value))
const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

describe('cache modes', () => {
  test.each([
    ['writeback', false, 1],
    ['none', false, 1],
    ['writethrough', true, 1],
    ['directsync', true, 1],
    ['unsafe', false, 0],
  ] as const)('%s: writes are forced %s, a flush reaches the image %d times', (cache, forced, flushes) => {
    const { faulty, disk } = make({ cache })
    expect(disk.writeCache).toBe(!forced)
    disk.write(0, sector())
    expect(faulty.log.map(({ operation, fua }) => [operation, fua])).toEqual([['write', forced]])
    disk.flush()
    expect(faulty.counts.flush).toBe(flushes)
  })

  test('a forced write is forced in every mode but unsafe', () => {
    for (const cache of ['writeback', 'none', 'writethrough', 'directsync', 'unsafe'] as const) {
      const { faulty, disk } = make({ cache })
      disk.write(0, sector(), { fua: true })
      expect(faulty.log[0]!.fua).toBe(cache !== 'unsafe')
    }
  })

  test('without a write cache zero and discard are durable when they complete', () => {
    const { faulty, disk } = make({ cache: 'writethrough' })
    disk.zero(0, 4096)
    disk.discard(0, 4096)
    expect(faulty.log.map(({ operation }) => operation)).toEqual(['zero', 'flush', 'discard', 'flush'])
  })

  test('the guest turns the write cache off: what was under way is flushed before it completes', async () => {
    const { faulty, disk } = make()
    faulty.hold()
    const write = disk.write(0, sector())
    const off = disk.setWriteCache(false)
    expect(disk.writeCache).toBe(false)
    expect(faulty.counts.flush).toBe(0)
    faulty.release()
    await Promise.all([write, off])
    expect(faulty.log.map(({ operation }) => operation)).toEqual(['write', 'flush'])
    disk.write(0, sector())
    expect(faulty.log.at(-1)).toMatchObject({ operation: 'write', fua: true })
    disk.setWriteCache(true)
    disk.write(0, sector())
    expect(faulty.log.at(-1)).toMatchObject({ operation: 'write', fua: false })
  })
})

describe('error policy', () => {
  test('report is the default for reads', async () => {
    const { faulty, disk } = make()
    faulty.fail('read', 'EIO')
    expect(await outcome(() => disk.read(0, sector()))).toBe('EIO')
    expect(disk.stats).toMatchObject({ reads: 0, errors: 1 })
    expect(await outcome(() => disk.read(0, sector()))).toBe('none')
  })

  test('ignore makes a failed request a good one', async () => {
    const { faulty, disk } = make({ rerror: 'ignore', werror: 'ignore' })
    faulty.fail('read', 'EIO')
    faulty.fail('write', 'ENOSPC')
    faulty.fail('flush', 'EIO')
    expect(await outcome(() => disk.read(0, sector()))).toBe('none')
    expect(await outcome(() => disk.write(0, sector()))).toBe('none')
    expect(await outcome(() => disk.flush())).toBe('none')
  })

  test('enospc, the default for writes, holds ENOSPC until resume and reports the rest', async () => {
    const { faulty, disk } = make()
    const stops: BlockError[] = []
    disk.onStop((error) => stops.push(error))
    faulty.fail('write', 'EIO')
    expect(await outcome(() => disk.write(0, sector()))).toBe('EIO')
    faulty.fail('write', 'ENOSPC', 2)
    let done = false
    const write = Promise.resolve(disk.write(0, sector(7))).then(() => {
      done = true
    })
    await turn()
    expect([done, disk.held, stops.length, stops[0]!.code]).toEqual([false, 1, 1, 'ENOSPC'])
    disk.resume()
    await turn()
    expect([done, disk.held, stops.length]).toEqual([false, 1, 2])
    disk.resume()
    await write
    expect((await readBytes(disk.device, 0, 1))[0]).toBe(7)
  })

  test('stop holds reads and flushes too, also those that fail later', async () => {
    const { faulty, disk } = make({ rerror: 'stop', werror: 'stop' })
    faulty.later()
    faulty.fail('read', 'EIO')
    faulty.fail('flush', 'EIO')
    const requests = [disk.read(0, sector()), disk.flush()]
    await turn()
    expect(disk.held).toBe(2)
    disk.resume()
    await Promise.all(requests)
    expect(disk.stats).toMatchObject({ reads: 1, flushes: 1, errors: 2 })
  })

  test('drain does not wait for held requests; cancel and close drop them', async () => {
    const { faulty, disk } = make({ werror: 'stop' })
    faulty.fail('write', 'EIO', 10)
    const write = outcome(() => disk.write(0, sector()))
    expect(disk.drain()).toBeUndefined()
    disk.cancel()
    expect(await write).toBe('ECANCELED')
    const another = outcome(() => disk.write(0, sector()))
    await disk.close()
    expect(await another).toBe('ECANCELED')
    expect(await outcome(() => disk.write(0, sector()))).toBe('ESHUTDOWN')
    expect(disk.held).toBe(0)
  })
})

describe('dropHeld', () => {
  test('takes back the held requests whose memory was revoked, and those without memory; the others stay', async () => {
    const { faulty, disk } = make({ werror: 'stop' })
    faulty.fail('write', 'EIO', 2)
    faulty.fail('flush', 'EIO')
    const revoked = sector(1)
    const gone = outcome(() => disk.write(0, revoked))
    const flush = outcome(() => disk.flush())
    const kept = outcome(() => disk.write(512, sector(2)))
    revoked.revoke()
    disk.dropHeld()
    expect([await gone, await flush, disk.held]).toEqual(['ECANCELED', 'ECANCELED', 1])
    disk.resume()
    expect(await kept).toBe('none')
  })
})

describe('cancel', () => {
  test('a read that was under way never touches its memory, and completes as canceled', async () => {
    const { faulty, disk } = make({}, Memory.from(new Uint8Array(SIZE).fill(9)))
    faulty.hold()
    const memory = new Uint8Array(512).fill(1)
    const read = outcome(() => disk.read(0, bytesVec(memory)))
    const canceled = disk.cancel()
    expect(isLater(canceled)).toBe(true)
    let reused = false
    const after = Promise.resolve(canceled).then(() => {
      reused = true
      memory.fill(2)
    })
    await turn()
    expect(reused).toBe(false)
    faulty.release()
    await after
    expect(await read).toBe('ECANCELED')
    expect(memory.every((byte) => byte === 2)).toBe(true)
  })

  test('a write that had not begun leaves the disk as it was', async () => {
    const { faulty, disk } = make({}, Memory.from(new Uint8Array(SIZE).fill(9)))
    faulty.hold()
    const write = outcome(() => disk.write(0, sector(1)))
    disk.cancel()
    faulty.release()
    expect(await write).toBe('ECANCELED')
    expect((await readBytes(disk.device, 0, 1))[0]).toBe(9)
  })

  test('with nothing under way it completes at once, and the disk goes on', async () => {
    const { disk } = make()
    expect(disk.cancel()).toBeUndefined()
    expect(await outcome(() => disk.write(0, sector()))).toBe('none')
  })
})

describe('close', () => {
  test('drains, then flushes, then closes', async () => {
    const { faulty, disk } = make()
    faulty.hold()
    const write = disk.write(0, sector())
    const closed = disk.close()
    faulty.release()
    await Promise.all([write, closed])
    expect(faulty.log.map(({ operation }) => operation)).toEqual(['write', 'flush'])
    expect(await outcome(() => disk.device.read(0, sector()))).toBe('ESHUTDOWN')
    await disk.close()
  })

  test('a flush that fails is reported, and the image is closed all the same', async () => {
    const { faulty, disk } = make()
    faulty.fail('flush', 'EIO')
    expect(await outcome(() => disk.close())).toBe('EIO')
    expect(await outcome(() => disk.device.read(0, sector()))).toBe('ESHUTDOWN')
  })
})

describe('the rest', () => {
  test('counts what completed', async () => {
    const { disk } = make()
    disk.read(0, bytesVec(new Uint8Array(4096)))
    disk.write(0, sector())
    disk.zero(0, 8192)
    disk.discard(0, 1024)
    disk.flush()
    expect(disk.stats).toEqual({
      reads: 1,
      writes: 1,
      flushes: 1,
      zeroes: 1,
      discards: 1,
      bytesRead: 4096,
      bytesWritten: 512,
      bytesZeroed: 8192,
      bytesDiscarded: 1024,
      errors: 0,
    })
  })

  test('says of memory that was read into that it changed', () => {
    const { disk } = make()
    let told = 0
    const vector = sector()
    vector.filled = () => void told++
    disk.read(0, vector)
    expect(told).toBe(1)
  })

  test('discard=ignore keeps discards, and unmap of zeroes, from the image', () => {
    const { faulty, disk } = make({ discard: 'ignore' })
    expect(disk.canDiscard).toBe(false)
    disk.discard(0, 4096)
    expect(faulty.counts.discard).toBe(0)
  })

  test('a resize reaches the listeners', async () => {
    const { disk } = make()
    const sizes: number[] = []
    const end = disk.onResize((size) => sizes.push(size))
    await disk.resize(2 * SIZE)
    end()
    await disk.resize(SIZE)
    expect(sizes).toEqual([2 * SIZE])
    expect(() => disk.resize(1000)).toThrow(/no multiple of 512/)
  })

  test('drainAll waits for all disks', async () => {
    const [a, b] = [make(), make()]
    a.faulty.hold()
    b.faulty.hold()
    a.disk.write(0, sector())
    b.disk.write(0, sector())
    let drained = false
    const wait = Promise.resolve(drainAll([a.disk, b.disk])).then(() => {
      drained = true
    })
    a.faulty.release()
    await turn()
    expect(drained).toBe(false)
    b.faulty.release()
    await wait
  })
})
