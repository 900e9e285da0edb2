// Sector ciphers, over every path: the vectors of IEEE 1619 and FIPS 197, and OpenSSL sector by sector.

import crypto from 'node:crypto'
import { beforeAll, describe, expect, test } from 'vitest'
import type { CipherOptions, CodecErrorCode } from '../../src/codecs/contract.ts'
import { diskLike, hex, paths, toHex } from './paths.ts'

const fails = (code: CodecErrorCode) => expect.objectContaining({ name: 'CodecError', code })
const count = (length: number): Uint8Array => Uint8Array.from({ length }, (_, at) => at & 255)
const disk = diskLike(200 * 1024, 4)

/** A key without repetitions: OpenSSL refuses XTS with two equal halves. */
const keyOf = (length: number): Uint8Array =>
  new Uint8Array(crypto.createHash('shake128', { outputLength: length }).update('key').digest())

/** What dm-crypt would store, one sector at a time by OpenSSL. */
function reference(options: CipherOptions, data: Uint8Array, firstSector: number): Uint8Array {
  const { mode, iv = 'plain64', key, sectorSize = 512 } = options
  const bits = (mode === 'xts' ? key.length / 2 : key.length) * 8
  const output: Buffer[] = []
  for (let at = 0; at < data.length; at += sectorSize) {
    const number = Buffer.alloc(16)
    const sector = BigInt(firstSector + at / 512)
    number.writeBigUInt64LE(iv === 'plain' ? sector & 0xffffffffn : sector)
    let vector = number
    if (iv === 'essiv') {
      const salt = crypto.createHash('sha256').update(key).digest()
      vector = Buffer.from(crypto.createCipheriv('aes-256-ecb', salt, null).setAutoPadding(false).update(number))
    }
    const name = `aes-${bits}-${mode}`
    const cipher = crypto.createCipheriv(name, key, mode === 'ecb' ? null : vector).setAutoPadding(false)
    output.push(cipher.update(data.subarray(at, at + sectorSize)), cipher.final())
  }
  return Buffer.concat(output)
}

describe.each(paths)('$name', ({ codecs, begin }) => {
  beforeAll(begin)

  test('FIPS 197, appendix C: AES-128, AES-192 and AES-256', () => {
    const cyphertexts = {
      16: '69c4e0d86a7b0430d8cdb78070b4c55a',
      24: 'dda97ca4864cdfe06eaf70a0ec0d7191',
      32: '8ea2b7ca516745bfeafc49904b496089',
    }
    const plain = hex('00112233445566778899aabbccddeeff')
    for (const [length, cyphertext] of Object.entries(cyphertexts)) {
      const cipher = codecs.createCipher({ mode: 'ecb', key: count(Number(length)) })
      for (const sectors of [1, 16]) {
        const data = Uint8Array.from({ length: 512 * sectors }, (_, at) => plain[at % 16]!)
        cipher.encrypt(data, 0)
        expect(toHex(data)).toBe(cyphertext.repeat(32 * sectors))
        cipher.decrypt(data, 0)
        expect(toHex(data)).toBe(toHex(plain).repeat(32 * sectors))
      }
    }
  })

  test('IEEE 1619, annex B, vectors 4 to 6: XTS-AES-128 over 512 bytes, one after the other', () => {
    const key = hex('27182818284590452353602874713526 31415926535897932384626433832795')
    const cipher = codecs.createCipher({ mode: 'xts', key })
    const data = count(512)
    cipher.encrypt(data, 0)
    expect(toHex(data.subarray(0, 32))).toBe('27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89c')
    cipher.encrypt(data, 1)
    expect(toHex(data.subarray(0, 32))).toBe('264d3ca8512194fec312c8c9891f279fefdd608d0c027b60483a3fa811d65ee5')
  })

  test('IEEE 1619, annex B, vector 10: XTS-AES-256, data unit ffh', () => {
    const key = hex(
      '2718281828459045235360287471352662497757247093699959574966967627 3141592653589793238462643383279502884197169399375105820974944592',
    )
    const data = count(512)
    codecs.createCipher({ mode: 'xts', key }).encrypt(data, 0xff)
    expect(toHex(data.subarray(0, 32))).toBe('1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b')
  })

  const specs: readonly [string, Omit<CipherOptions, 'key'>][] = [
    ['xts-plain64', { mode: 'xts' }],
    ['cbc-plain', { mode: 'cbc', iv: 'plain' }],
    ['cbc-plain64', { mode: 'cbc' }],
    ['cbc-essiv:sha256', { mode: 'cbc', iv: 'essiv' }],
    ['ecb', { mode: 'ecb' }],
  ]
  const lengths = [128, 192, 256].flatMap((bits) => specs.map(([name, spec]) => ({ bits, name, spec })))

  test.each(lengths)('aes-$name, $bits bits: as OpenSSL does it, for runs of any length', ({ bits, spec }) => {
    if (spec.mode === 'xts' && bits === 192) {
      // OpenSSL has no XTS-AES-192; our own parts are the same as for the others.
      const cipher = codecs.createCipher({ ...spec, key: keyOf(48) })
      const data = disk.slice()
      cipher.encrypt(data, 5)
      cipher.decrypt(data, 5)
      expect(Buffer.compare(data, disk)).toBe(0)
      return
    }
    const key = keyOf((bits / 8) * (spec.mode === 'xts' ? 2 : 1))
    for (const sectorSize of [512, 4096]) {
      const options = { ...spec, key, sectorSize }
      const cipher = codecs.createCipher(options)
      for (const sectors of [1, 2, 7, 8, 9, 16, 17, 25, 47]) {
        // Around where 32 bits end; past them XTS and plain64 go on and plain begins again.
        const first = 2 ** 32 - 40
        const data = disk.slice(0, sectors * sectorSize)
        cipher.encrypt(data, first)
        expect(Buffer.compare(data, reference(options, disk.subarray(0, data.length), first))).toBe(0)
        cipher.decrypt(data, first)
        expect(Buffer.compare(data, disk.subarray(0, data.length))).toBe(0)
      }
      cipher.close()
    }
  })

  test('a run longer than any piece, at a sector number past 2^40', () => {
    const key = keyOf(64)
    const long = diskLike(700_416, 5)
    const options: CipherOptions = { mode: 'xts', key }
    const cipher = codecs.createCipher(options)
    const data = long.slice()
    cipher.encrypt(data, 2 ** 40 + 3)
    expect(Buffer.compare(data, reference(options, long, 2 ** 40 + 3))).toBe(0)
    cipher.decrypt(data, 2 ** 40 + 3)
    expect(Buffer.compare(data, long)).toBe(0)
  })

  test('a buffer that is a view into a larger one is worked on in place, and nothing beside it', () => {
    const around = diskLike(10_000, 6)
    const before = around.slice()
    const cipher = codecs.createCipher({ mode: 'xts', key: keyOf(32) })
    cipher.encrypt(around.subarray(100, 100 + 8192), 1)
    expect(Buffer.compare(around.subarray(0, 100), before.subarray(0, 100))).toBe(0)
    expect(Buffer.compare(around.subarray(8292), before.subarray(8292))).toBe(0)
    cipher.decrypt(around.subarray(100, 100 + 8192), 1)
    expect(Buffer.compare(around, before)).toBe(0)
  })

  test('no sectors are no work', () => {
    codecs.createCipher({ mode: 'xts', key: keyOf(32) }).encrypt(new Uint8Array(0), 0)
  })

  test('a key is copied: changing it later changes nothing', () => {
    const key = keyOf(32)
    const cipher = codecs.createCipher({ mode: 'xts', key })
    key.fill(0)
    const data = disk.slice(0, 8192)
    cipher.encrypt(data, 0)
    const expected = reference({ mode: 'xts', key: keyOf(32) }, disk.subarray(0, 8192), 0)
    expect(Buffer.compare(data, expected)).toBe(0)
  })

  test('wrong keys, IVs, sectors and runs are EINVAL', () => {
    const key = keyOf(32)
    const wrong: CipherOptions[] = [
      { mode: 'cbc', key: keyOf(15) },
      { mode: 'xts', key: keyOf(16) },
      { mode: 'xts', key, iv: 'plain' },
      { mode: 'cbc', key, iv: 'essiv', essivHash: 'sha1' },
      { mode: 'xts', key, sectorSize: 500 },
      { mode: 'xts', key, sectorSize: 8192 },
    ]
    for (const options of wrong) expect(() => codecs.createCipher(options)).toThrow(fails('EINVAL'))
    const cipher = codecs.createCipher({ mode: 'xts', key })
    for (const length of [511, 4097]) expect(() => cipher.encrypt(new Uint8Array(length), 0)).toThrow(fails('EINVAL'))
    for (const sector of [-1, 0.5, Number.NaN, 2 ** 53])
      for (const length of [512, 8192])
        expect(() => cipher.decrypt(new Uint8Array(length), sector)).toThrow(fails('EINVAL'))
    cipher.close()
    cipher.close()
    for (const length of [512, 8192]) expect(() => cipher.encrypt(new Uint8Array(length), 0)).toThrow(fails('EINVAL'))
  })
})
