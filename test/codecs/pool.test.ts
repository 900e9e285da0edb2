// The pool: small jobs at once, large ones on workers, with the same results.

import { afterAll, describe, expect, test } from 'vitest'
import { codecs } from '../../src/codecs/index.ts'
import { codecPool } from '../../src/codecs/pool.ts'
import { ascii, diskLike } from './paths.ts'

const disk = diskLike(300_000, 7)

describe('with two workers', () => {
  const pool = codecPool({ workers: 2 })
  afterAll(() => pool.close())

  test('a small job is done at once, without a promise', () => {
    expect(pool.deflate(disk.subarray(0, 1000))).toEqual(codecs.deflate(disk.subarray(0, 1000)))
    expect(pool.blake3(disk.subarray(0, 1000))).toEqual(codecs.blake3(disk.subarray(0, 1000)))
  })

  test('large jobs come later, and as they would have at once', async () => {
    const jobs = [
      [pool.deflate(disk, { level: 3 }), codecs.deflate(disk, { level: 3 })],
      [pool.zstdCompress(disk), codecs.zstdCompress(disk)],
      [pool.deflateWithin(disk, 10), undefined],
      [pool.blake3(disk), codecs.blake3(disk)],
      [pool.blake3Each(disk, 65536), codecs.blake3Each(disk, 65536)],
      [pool.digest('sha256', disk), codecs.digest('sha256', disk)],
      [pool.pbkdf2('sha256', ascii('a'), ascii('b'), 10, 20), codecs.pbkdf2('sha256', ascii('a'), ascii('b'), 10, 20)],
    ] as const
    for (const [job, expected] of jobs) {
      expect(job).toBeInstanceOf(Promise)
      expect(await job).toEqual(expected)
    }
  })

  test('many at once all come back, each to its caller', async () => {
    const parts = Array.from({ length: 40 }, (_, at) => disk.subarray(at * 1000, at * 1000 + 70_000))
    const packed = await Promise.all(parts.map((part) => pool.zstdCompress(part, { level: 1 })))
    parts.forEach((part, at) => {
      expect(Buffer.compare(codecs.zstdDecompress(packed[at]!, part.length), part)).toBe(0)
    })
  })

  test('the input stays the caller’s', async () => {
    const input = disk.slice()
    await pool.deflate(input)
    expect(Buffer.compare(input, disk)).toBe(0)
  })

  test('an error comes back as the error it was', async () => {
    const noise = disk.slice()
    await expect(pool.zstdDecompress(noise, 10)).rejects.toMatchObject({ name: 'CodecError', code: 'EILSEQ' })
    await expect(pool.deflate(disk, { level: 11 })).rejects.toMatchObject({ name: 'CodecError', code: 'EINVAL' })
  })
})

test('a threshold decides what is small', async () => {
  const pool = codecPool({ workers: 1, threshold: 2000 })
  expect(pool.deflate(disk.subarray(0, 1999))).toBeInstanceOf(Uint8Array)
  const job = pool.deflate(disk.subarray(0, 2000))
  expect(job).toBeInstanceOf(Promise)
  await job
  pool.close()
})

test('without workers everything is done at once', () => {
  const pool = codecPool({ workers: 0 })
  expect(pool.deflate(disk)).toEqual(codecs.deflate(disk))
})

test('closing ends the jobs under way, and no more are taken', async () => {
  const pool = codecPool({ workers: 1 })
  const job = pool.zstdCompress(disk, { level: 19 })
  pool.close()
  await expect(job).rejects.toMatchObject({ code: 'ENOMEM' })
  expect(() => pool.zstdCompress(disk)).toThrow(expect.objectContaining({ code: 'EINVAL' }))
})
