// Inflate, deflate and zstd: round trips, framings, bounds, and what an image's corrupt cluster does.

import zlib from 'node:zlib'
import { expect, test } from 'vitest'
import { CodecError, deflate, deflateWithin, inflate, inflateInto, zstdCompress, zstdDecompress } from '../../src/codecs/index.ts'

const text = new TextEncoder().encode('the quick brown fox jumps over the lazy dog, and the quick brown fox does it again. '.repeat(800))

test('raw deflate round trip', () => {
  for (const windowBits of [9, 12, 15]) {
    const packed = deflate(text, { windowBits })
    expect(Buffer.compare(zlib.inflateRawSync(packed, { windowBits }), text)).toBe(0)
    expect(Buffer.compare(inflate(packed, text.length), text)).toBe(0)
  }
})

test('zstd', () => {
  expect(Buffer.compare(zstdDecompress(zstdCompress(text), text.length), text)).toBe(0)
})

test('limits', () => {
  const packed = deflate(text)
  expect(() => inflate(packed, text.length - 1)).toThrow(CodecError)
  expect(deflateWithin(text, 10)).toBeUndefined()
  const part = new Uint8Array(100)
  expect(inflateInto(packed, part)).toBe(100)
})
