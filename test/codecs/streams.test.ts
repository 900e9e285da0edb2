// Deflate (RFC 1951), zlib (RFC 1950), gzip (RFC 1952): against Node's zlib both ways, over every path.

import zlib from 'node:zlib'
import fc from 'fast-check'
import { beforeAll, describe, expect, test } from 'vitest'
import { CodecError, type CodecErrorCode } from '../../src/codecs/contract.ts'
import { unpack } from '../../src/codecs/wasm/unpack.ts'
import { ascii, diskLike, hex, paths } from './paths.ts'

const fails = (code: CodecErrorCode) => expect.objectContaining({ name: 'CodecError', code })
const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0
const disk = diskLike(100_000, 1)
const framings = {
  raw: { pack: zlib.deflateRawSync, unpack: zlib.inflateRawSync },
  zlib: { pack: zlib.deflateSync, unpack: zlib.inflateSync },
  gzip: { pack: zlib.gzipSync, unpack: zlib.gunzipSync },
} as const
const names = ['raw', 'zlib', 'gzip'] as const

describe.each(paths)('$name', ({ codecs, begin }) => {
  beforeAll(begin)

  describe.each(names)('%s', (framing) => {
    test('what zlib deflates, at every level and window, inflates', () => {
      for (let level = 0; level <= 9; level++) {
        for (const windowBits of framing === 'raw' ? [9, 12, 15] : [15]) {
          const packed = framings[framing].pack(disk, { level, windowBits })
          expect(same(codecs.inflate(packed, disk.length, framing), disk)).toBe(true)
        }
      }
    })

    test('what is deflated at every level, zlib inflates with the same window', () => {
      for (let level = 0; level <= 9; level++) {
        for (const windowBits of framing === 'raw' ? [9, 12, 15] : [15]) {
          const packed = codecs.deflate(disk, { framing, level, windowBits })
          expect(same(framings[framing].unpack(packed, { windowBits }), disk)).toBe(true)
        }
      }
    })

    test('streams of no bytes and of one', () => {
      for (const input of [new Uint8Array(0), Uint8Array.of(65)]) {
        const packed = codecs.deflate(input, { framing })
        expect(same(framings[framing].unpack(packed), input)).toBe(true)
        expect(same(codecs.inflate(framings[framing].pack(input), 10, framing), input)).toBe(true)
      }
    })

    test('a stream that ends early, anywhere, is EILSEQ', () => {
      const packed = framings[framing].pack(disk.subarray(0, 3000))
      for (let length = 0; length < packed.length; length += 7)
        expect(() => codecs.inflate(packed.subarray(0, length), 3000, framing)).toThrow(fails('EILSEQ'))
    })

    test('bytes after the stream are ignored', () => {
      const packed = Buffer.concat([framings[framing].pack(disk), Buffer.alloc(500, 0xa5)])
      expect(same(codecs.inflate(packed, disk.length, framing), disk)).toBe(true)
    })

    test('any input deflates and comes back', () => {
      fc.assert(
        fc.property(fc.uint8Array({ maxLength: 2000 }), fc.integer({ min: 0, max: 9 }), (input, level) => {
          const packed = codecs.deflate(input, { framing, level, windowBits: 9 })
          return same(framings[framing].unpack(packed), input) && same(codecs.inflate(packed, 2000, framing), input)
        }),
      )
    })

    test('a damaged stream gives bytes or EILSEQ, and nothing else', () => {
      const packed = framings[framing].pack(disk.subarray(0, 20_000))
      fc.assert(
        fc.property(fc.nat(packed.length - 1), fc.integer({ min: 1, max: 255 }), (at, change) => {
          const damaged = new Uint8Array(packed)
          damaged[at]! ^= change
          try {
            codecs.inflate(damaged, 20_000, framing)
          } catch (error) {
            return error instanceof CodecError && error.code !== 'ENOMEM'
          }
          return true
        }),
        { numRuns: 300 },
      )
    })
  })

  test('the checksums of zlib and gzip are verified', () => {
    for (const framing of ['zlib', 'gzip'] as const) {
      const packed = new Uint8Array(framings[framing].pack(disk))
      packed[packed.length - 1]! ^= 1
      expect(() => codecs.inflate(packed, disk.length, framing)).toThrow(fails('EILSEQ'))
    }
  })

  test('a gzip header with extra field, name, comment and checksum is passed over (RFC 1952, 2.3.1)', () => {
    const plain = framings.gzip.pack(ascii('hello'))
    const head = Buffer.concat([hex('1f8b081e00000000 00ff'), hex('0300 414243'), ascii('name\0'), ascii('comment\0')])
    const sum = Buffer.alloc(2)
    sum.writeUInt16LE(codecs.crc32(head) & 0xffff)
    const packed = Buffer.concat([head, sum, plain.subarray(10)])
    expect(codecs.inflate(packed, 10, 'gzip')).toEqual(ascii('hello'))
    packed[head.length]! ^= 1
    expect(() => codecs.inflate(packed, 10, 'gzip')).toThrow(fails('EILSEQ'))
  })

  test('a zlib header with a preset dictionary or a wrong check is EILSEQ (RFC 1950, 2.2)', () => {
    const packed = new Uint8Array(zlib.deflateSync(disk, { dictionary: disk.subarray(0, 100) }))
    expect(() => codecs.inflate(packed, disk.length, 'zlib')).toThrow(fails('EILSEQ'))
    const wrong = new Uint8Array(zlib.deflateSync(disk))
    wrong[1]! ^= 1
    expect(() => codecs.inflate(wrong, disk.length, 'zlib')).toThrow(fails('EILSEQ'))
  })

  test('a bomb stops at the size given', () => {
    const bomb = zlib.deflateRawSync(Buffer.alloc(50_000_000), { level: 9 })
    expect(() => codecs.inflate(bomb, 1_000_000)).toThrow(fails('EFBIG'))
    expect(() => codecs.inflate(bomb, 0)).toThrow(fails('EFBIG'))
  })

  test('inflateInto fills the output and leaves the rest of the stream, as for a qcow2 cluster', () => {
    const cluster = disk.subarray(0, 65536)
    const packed = zlib.deflateRawSync(disk, { windowBits: 12 })
    const output = new Uint8Array(65536)
    expect(codecs.inflateInto(packed, output)).toBe(65536)
    expect(same(output, cluster)).toBe(true)
    // The stored length of a cluster may cut what comes after the last byte that counts.
    const exact = zlib.deflateRawSync(cluster, { windowBits: 12 })
    expect(codecs.inflateInto(exact.subarray(0, exact.length - 1), output)).toBe(65536)
    // A short stream fills a part.
    expect(codecs.inflateInto(zlib.deflateRawSync(cluster.subarray(0, 100)), output)).toBe(100)
    expect(() => codecs.inflateInto(packed.subarray(0, 1000), output)).toThrow(fails('EILSEQ'))
  })

  test('inflateInto stops in the middle of a match', () => {
    const packed = zlib.deflateRawSync(Buffer.alloc(1000, 1))
    for (const length of [1, 2, 3, 100, 258, 259, 260, 999]) {
      const output = new Uint8Array(length)
      expect(codecs.inflateInto(packed, output)).toBe(length)
      expect(output.every((byte) => byte === 1)).toBe(true)
    }
  })

  test('matches at every short distance come out right, whatever the end of the output', () => {
    for (let distance = 1; distance <= 40; distance++) {
      const input = Uint8Array.from({ length: 3000 }, (_, at) => (at % distance) + 1)
      const packed = zlib.deflateRawSync(input, { level: 9 })
      expect(same(codecs.inflate(packed, 3000), input)).toBe(true)
      expect(same(zlib.inflateRawSync(codecs.deflate(input)), input)).toBe(true)
    }
  })

  test('deflateWithin gives undefined when it does not fit, and the same bytes when it just does', () => {
    const packed = codecs.deflate(disk, { windowBits: 12 })
    expect(codecs.deflateWithin(disk, packed.length - 1, { windowBits: 12 })).toBeUndefined()
    expect(same(codecs.deflateWithin(disk, packed.length, { windowBits: 12 })!, packed)).toBe(true)
    const noise = diskLike(0, 0)
    expect(codecs.deflateWithin(noise, 0)).toBeUndefined()
  })

  test('settings out of range are EINVAL', () => {
    expect(() => codecs.deflate(disk, { level: 10 })).toThrow(fails('EINVAL'))
    expect(() => codecs.deflate(disk, { level: 1.5 })).toThrow(fails('EINVAL'))
    expect(() => codecs.deflate(disk, { windowBits: 8 })).toThrow(fails('EINVAL'))
    expect(() => codecs.inflate(disk, -1)).toThrow(fails('EINVAL'))
    expect(() => codecs.inflate(disk, Number.NaN)).toThrow(fails('EINVAL'))
  })

  test('an input that is a view into a larger buffer is taken as it is', () => {
    const packed = Buffer.concat([Buffer.alloc(13, 9), zlib.deflateRawSync(disk), Buffer.alloc(13, 9)])
    expect(same(codecs.inflate(packed.subarray(13, packed.length - 13), disk.length), disk)).toBe(true)
  })

  test('RFC 1951, 3.2.3 to 3.2.7: blocks that no encoder would write are EILSEQ', () => {
    const wrong = {
      'block type 3': '07',
      'stored length and its complement differ': '01 0500 0000',
      'a distance before the start, fixed codes': '03 02',
      'a literal/length code past 285': '1b 03',
      'a distance code past 29': '03 3e',
      'more than 286 literal codes': 'fd ff ff ff ff ff ff ff',
    }
    for (const [why, stream] of Object.entries(wrong))
      expect(() => codecs.inflate(Buffer.concat([hex(stream), Buffer.alloc(64)]), 100), why).toThrow(fails('EILSEQ'))
  })
})

test('the module can unpack what zlib deflates, as it does itself', () => {
  for (const level of [0, 1, 9]) {
    const packed = zlib.deflateRawSync(disk, { level })
    expect(same(unpack(packed, disk.length), disk)).toBe(true)
  }
  expect(unpack(zlib.deflateRawSync(ascii('aaaaaaaaaa'), { strategy: zlib.constants.Z_FIXED }), 10)).toEqual(
    ascii('aaaaaaaaaa'),
  )
})
