// Zstandard (RFC 8878), over every path. The reference tool's frames are in test/interop/codecs.test.ts.

import fc from 'fast-check'
import * as fzstd from 'fzstd'
import { beforeAll, describe, expect, test } from 'vitest'
import { CodecError, type CodecErrorCode } from '../../src/codecs/contract.ts'
import { ascii, diskLike, hex, paths } from './paths.ts'

const fails = (code: CodecErrorCode) => expect.objectContaining({ name: 'CodecError', code })
const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0
const disk = diskLike(400_000, 2)
const MAGIC = '28b52ffd'

describe.each(paths)('$name', ({ codecs, begin }) => {
  beforeAll(begin)

  test.each([1, 2, 3, 4, 5, 7, 9, 19])('level %i comes back, from us and from another decoder', (level) => {
    for (const length of [0, 1, 7, 63, 64, 300, 5000, 65536, 400_000]) {
      const input = disk.subarray(0, length)
      const packed = codecs.zstdCompress(input, { level })
      expect(same(codecs.zstdDecompress(packed, length), input)).toBe(true)
      expect(same(fzstd.decompress(packed), input)).toBe(true)
    }
  })

  test('any input comes back', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 3000 }), fc.integer({ min: 1, max: 9 }), (input, level) => {
        const packed = codecs.zstdCompress(input, { level })
        return same(codecs.zstdDecompress(packed, 3000), input) && same(fzstd.decompress(packed), input)
      }),
    )
  })

  test('inputs of few symbols, skewed in every way, come back', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 256 }),
        fc.integer({ min: 1, max: 12 }),
        fc.nat(),
        (symbols, skew, seed) => {
          const noise = diskLike(9000, seed)
          const input = noise.map((byte, at) =>
            Math.floor(((byte * ((at * 7919) % 256)) / 65536) ** (skew / 3) * symbols),
          )
          const packed = codecs.zstdCompress(input, { level: 1 + (seed % 9) })
          return same(codecs.zstdDecompress(packed, 9000), input) && same(fzstd.decompress(packed), input)
        },
      ),
    )
  })

  test('a frame of one byte repeated is a few bytes', () => {
    const packed = codecs.zstdCompress(new Uint8Array(1_000_000).fill(7))
    expect(packed.length).toBeLessThan(60)
    expect(codecs.zstdDecompress(packed, 1_000_000).every((byte) => byte === 7)).toBe(true)
  })

  test('noise is stored, with a few bytes more', () => {
    const noise = new Uint8Array(200_000)
    for (let at = 0; at < noise.length; at += 50_000) crypto.getRandomValues(noise.subarray(at, at + 50_000))
    const packed = codecs.zstdCompress(noise)
    expect(packed.length).toBeLessThan(noise.length + 32)
    expect(same(codecs.zstdDecompress(packed, noise.length), noise)).toBe(true)
  })

  test('RFC 8878, 3.1.1: a frame with a content checksum, which is verified', () => {
    const empty = hex(`${MAGIC} 24 00 010000 99e9d851`)
    expect(codecs.zstdDecompress(empty, 0)).toEqual(new Uint8Array(0))
    empty[empty.length - 1]! ^= 1
    expect(() => codecs.zstdDecompress(empty, 0)).toThrow(fails('EILSEQ'))
  })

  test('RFC 8878, 3.1.1.2: raw and RLE blocks', () => {
    const frame = hex(`${MAGIC} 20 08 180000 616263 2b0000 78`)
    expect(codecs.zstdDecompress(frame, 8)).toEqual(ascii('abcxxxxx'))
  })

  test('RFC 8878, 3.1.2: skippable frames are skipped; frames follow each other', () => {
    const skip = hex('5f2a4d18 03000000 ffffff')
    const [first, second] = [disk.subarray(0, 70_000), disk.subarray(70_000, 71_000)]
    const packed = Buffer.concat([skip, codecs.zstdCompress(first), skip, codecs.zstdCompress(second), skip])
    expect(same(codecs.zstdDecompress(packed, 71_000), disk.subarray(0, 71_000))).toBe(true)
    const output = new Uint8Array(71_000)
    expect(codecs.zstdDecompressInto(packed, output)).toBe(71_000)
    expect(same(output, disk.subarray(0, 71_000))).toBe(true)
  })

  test('what follows the frames is EILSEQ, but not once the output is full', () => {
    const packed = Buffer.concat([codecs.zstdCompress(disk.subarray(0, 65536)), Buffer.alloc(300, 0xee)])
    expect(() => codecs.zstdDecompress(packed, 65536)).toThrow(fails('EILSEQ'))
    const output = new Uint8Array(65536)
    expect(codecs.zstdDecompressInto(packed, output)).toBe(65536)
    expect(same(output, disk.subarray(0, 65536))).toBe(true)
  })

  test('zstdDecompressInto stops anywhere in a frame when the output is full', () => {
    const packed = codecs.zstdCompress(disk)
    for (const length of [0, 1, 2, 17, 100, 1000, 65536, 131072, 131073, 399_999]) {
      const output = new Uint8Array(length)
      expect(codecs.zstdDecompressInto(packed, output)).toBe(length)
      expect(same(output, disk.subarray(0, length))).toBe(true)
    }
  })

  test('a dictionary, a reserved bit, a reserved block and a wrong content size are EILSEQ', () => {
    for (const frame of [
      `${MAGIC} 21 05 03 190000 616263`,
      `${MAGIC} 28 03 190000 616263`,
      `${MAGIC} 20 03 1f0000 616263`,
      `${MAGIC} 20 04 190000 616263`,
    ])
      expect(() => codecs.zstdDecompress(hex(frame), 100), frame).toThrow(fails('EILSEQ'))
  })

  test('a bomb stops at the size given', () => {
    const bomb = codecs.zstdCompress(new Uint8Array(20_000_000))
    expect(() => codecs.zstdDecompress(bomb, 100_000)).toThrow(fails('EFBIG'))
  })

  test('a frame that ends early, anywhere, is EILSEQ', () => {
    const packed = codecs.zstdCompress(disk.subarray(0, 3000))
    for (let length = 1; length < packed.length; length += 7)
      expect(() => codecs.zstdDecompress(packed.subarray(0, length), 3000)).toThrow(fails('EILSEQ'))
  })

  test('a damaged frame gives bytes, EILSEQ or EFBIG, and nothing else', () => {
    const packed = codecs.zstdCompress(disk.subarray(0, 40_000), { level: 5 })
    fc.assert(
      fc.property(fc.nat(packed.length - 1), fc.integer({ min: 1, max: 255 }), (at, change) => {
        const damaged = new Uint8Array(packed)
        damaged[at]! ^= change
        try {
          codecs.zstdDecompress(damaged, 60_000)
        } catch (error) {
          return error instanceof CodecError && error.code !== 'ENOMEM'
        }
        return true
      }),
      { numRuns: 500 },
    )
  })

  test('noise behind a frame header gives bytes, EILSEQ or EFBIG, and nothing else', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 10, maxLength: 400 }), (noise) => {
        // A compressed block of all that follows.
        const size = noise.length
        const head = Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58, ((size << 3) | 5) & 255, size >> 5, size >> 13)
        try {
          codecs.zstdDecompress(Buffer.concat([head, noise]), 100_000)
        } catch (error) {
          return error instanceof CodecError && error.code !== 'ENOMEM'
        }
        return true
      }),
      { numRuns: 2000 },
    )
  })

  test('zstdCompressWithin gives undefined when it does not fit, and the same bytes when it just does', () => {
    const packed = codecs.zstdCompress(disk)
    expect(codecs.zstdCompressWithin(disk, packed.length - 1)).toBeUndefined()
    expect(same(codecs.zstdCompressWithin(disk, packed.length)!, packed)).toBe(true)
  })

  test('the same input gives the same bytes, whatever went before', () => {
    const first = codecs.zstdCompress(disk.subarray(0, 65536), { level: 3 })
    codecs.zstdCompress(disk.subarray(100_000), { level: 3 })
    codecs.zstdCompress(disk.subarray(1000, 5000), { level: 9 })
    expect(same(codecs.zstdCompress(disk.subarray(0, 65536), { level: 3 }), first)).toBe(true)
  })

  test('levels out of range are EINVAL', () => {
    for (const level of [0, 20, 1.5]) expect(() => codecs.zstdCompress(disk, { level })).toThrow(fails('EINVAL'))
  })
})
