// Checksums, hashes and keys from passwords, against the vectors of their standards and Node's own, over every path.

import crypto from 'node:crypto'
import { createBLAKE3 } from 'hash-wasm'
import { beforeAll, describe, expect, test } from 'vitest'
import type { CodecErrorCode, HashName } from '../../src/codecs/contract.ts'
import { ascii, diskLike, paths, toHex } from './paths.ts'

const fails = (code: CodecErrorCode) => expect.objectContaining({ name: 'CodecError', code })
const disk = diskLike(700_001, 3)
const check = ascii('123456789')

describe.each(paths)('$name', ({ codecs, begin }) => {
  beforeAll(begin)

  test('the check values of CRC-32, CRC-32C and Adler-32', () => {
    expect(codecs.crc32(check)).toBe(0xcbf43926)
    expect(codecs.crc32c(check)).toBe(0xe3069283)
    expect(codecs.adler32(check)).toBe(0x091e01de)
    expect([codecs.crc32, codecs.crc32c, codecs.adler32].map((sum) => sum(new Uint8Array(0)))).toEqual([0, 0, 1])
  })

  test('RFC 3720, B.4: CRC-32C of 32 bytes', () => {
    expect(codecs.crc32c(new Uint8Array(32))).toBe(0x8a9136aa)
    expect(codecs.crc32c(new Uint8Array(32).fill(255))).toBe(0x62a8ab43)
    expect(codecs.crc32c(Uint8Array.from({ length: 32 }, (_, at) => at))).toBe(0x46dd794e)
    expect(codecs.crc32c(Uint8Array.from({ length: 32 }, (_, at) => 31 - at))).toBe(0x113fdb5c)
  })

  test('a checksum goes on where another ended, at any length', () => {
    for (const sum of [codecs.crc32, codecs.crc32c, codecs.adler32]) {
      const whole = sum(disk)
      for (const at of [0, 1, 15, 16, 17, 31, 33, 5551, 5553, 262_144, 262_145, disk.length])
        expect(sum(disk.subarray(at), sum(disk.subarray(0, at)))).toBe(whole)
    }
  })

  test('Adler-32 of bytes that are all 255 does not overflow (RFC 1950, 9)', () => {
    const bytes = new Uint8Array(100_000).fill(255)
    let [low, high] = [1, 0]
    for (const byte of bytes) {
      low = (low + byte) % 65521
      high = (high + low) % 65521
    }
    expect(codecs.adler32(bytes)).toBe(high * 65536 + low)
  })

  test('isAllZero sees a single byte anywhere', () => {
    for (const length of [0, 1, 7, 255, 256, 257, 4096, 65536, 300_000]) {
      const bytes = new Uint8Array(length)
      expect(codecs.isAllZero(bytes)).toBe(true)
      for (const at of [0, 1, length >> 1, length - 2, length - 1]) {
        if (at < 0 || at >= length) continue
        bytes[at] = 1
        expect(codecs.isAllZero(bytes), `${at} of ${length}`).toBe(false)
        bytes[at] = 0
      }
    }
  })

  test('FIPS 180-4 examples, and RIPEMD-160 of "abc"', () => {
    const vectors: Record<HashName, string> = {
      sha1: 'a9993e364706816aba3e25717850c26c9cd0d89d',
      sha224: '23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7',
      sha256: 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad',
      sha384: 'cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7',
      sha512:
        'ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f',
      ripemd160: '8eb208f7e05d987a9b044a8e98c6b087f15a0bfc',
    }
    for (const [name, hash] of Object.entries(vectors))
      expect(toHex(codecs.digest(name as HashName, ascii('abc')))).toBe(hash)
  })

  test('hashes of any length are those of OpenSSL', () => {
    for (const name of ['sha1', 'sha224', 'sha256', 'sha384', 'sha512'] as const)
      for (const length of [0, 55, 56, 63, 64, 111, 112, 128, 1023, 1024, 5000, 262_144, 700_001]) {
        const input = disk.subarray(0, length)
        expect(toHex(codecs.digest(name, input))).toBe(crypto.createHash(name).update(input).digest('hex'))
      }
  })

  test('BLAKE3: its own test vectors', () => {
    const vectors: Record<number, string> = {
      0: 'af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262',
      1: '2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213',
      1024: '42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7',
      1025: 'd00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444',
    }
    for (const [length, hash] of Object.entries(vectors)) {
      const input = Uint8Array.from({ length: Number(length) }, (_, at) => at % 251)
      expect(toHex(codecs.blake3(input))).toBe(hash)
    }
  })

  test('BLAKE3 of any length is that of hash-wasm, alone and each of many', async () => {
    const other = await createBLAKE3()
    const expected = (input: Uint8Array) => other.init().update(input).digest('hex')
    for (const length of [63, 64, 65, 1023, 2048, 2049, 65536, 262_145, 700_001])
      expect(toHex(codecs.blake3(disk.subarray(0, length)))).toBe(expected(disk.subarray(0, length)))
    for (const size of [512, 4096, 65536, 262_144, 300_000]) {
      const hashes = codecs.blake3Each(disk, size)
      expect(hashes.length).toBe(Math.ceil(disk.length / size) * 32)
      for (let at = 0; at * size < disk.length; at++)
        expect(toHex(hashes.subarray(at * 32, at * 32 + 32))).toBe(expected(disk.subarray(at * size, (at + 1) * size)))
    }
    expect(() => codecs.blake3Each(disk, 0)).toThrow(fails('EINVAL'))
  })

  test('RFC 6070: PBKDF2 with HMAC-SHA-1', () => {
    const derive = (password: string, salt: string, iterations: number, length: number) =>
      toHex(codecs.pbkdf2('sha1', ascii(password), ascii(salt), iterations, length))
    expect(derive('password', 'salt', 1, 20)).toBe('0c60c80f961f0e71f3a9b524af6012062fe037a6')
    expect(derive('password', 'salt', 4096, 20)).toBe('4b007901b765489abead49d926f721d065a429c1')
    expect(derive('passwordPASSWORDpassword', 'saltSALTsaltSALTsaltSALTsaltSALTsalt', 4096, 25)).toBe(
      '3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038',
    )
    expect(derive('pass\0word', 'sa\0lt', 4096, 16)).toBe('56fa6aa75548099dcc37d7f03425e0c3')
  })

  test('RFC 7914, 11: PBKDF2 with HMAC-SHA-256', () => {
    expect(toHex(codecs.pbkdf2('sha256', ascii('passwd'), ascii('salt'), 1, 64))).toBe(
      '55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783',
    )
    expect(toHex(codecs.pbkdf2('sha256', ascii('Password'), ascii('NaCl'), 80000, 64))).toBe(
      '4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56a1d425a1225833549adb841b51c9b3176a272bdebba1d078478f62b397f33c8d',
    )
  })

  test('PBKDF2 with every hash, with keys shorter and longer than a block, is that of OpenSSL', () => {
    for (const name of ['sha1', 'sha224', 'sha256', 'sha384', 'sha512', 'ripemd160'] as const)
      for (const length of [0, 5, 64, 65, 128, 129, 200]) {
        const password = disk.subarray(0, length)
        const key = codecs.pbkdf2(name, password, ascii('salty'), 3, 150)
        expect(toHex(key), name).toBe(crypto.pbkdf2Sync(password, 'salty', 3, 150, name).toString('hex'))
      }
    expect(() => codecs.pbkdf2('sha1', check, check, 0, 20)).toThrow(fails('EINVAL'))
  })

  test('RFC 9106, 5: Argon2d, Argon2i and Argon2id', () => {
    const hash = (kind: 'argon2d' | 'argon2i' | 'argon2id') =>
      toHex(
        codecs.argon2({
          kind,
          password: new Uint8Array(32).fill(1),
          salt: new Uint8Array(16).fill(2),
          secret: new Uint8Array(8).fill(3),
          data: new Uint8Array(12).fill(4),
          iterations: 3,
          memory: 32,
          lanes: 4,
          length: 32,
        }),
      )
    expect(hash('argon2d')).toBe('512b391b6f1162975371d30919734294f868e3be3984f3c1a13a4db9fabe4acb')
    expect(hash('argon2i')).toBe('c814d9d1dc7f37aa13f0d77f2494bda1c8de6b016dd388d29952a4c4672b6ce8')
    expect(hash('argon2id')).toBe('0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659')
  })

  test('Argon2 refuses what RFC 9106, 3.1 does not allow', () => {
    const fine = {
      kind: 'argon2id',
      password: check,
      salt: new Uint8Array(16),
      iterations: 1,
      memory: 64,
      lanes: 1,
      length: 32,
    } as const
    expect(codecs.argon2(fine).length).toBe(32)
    for (const wrong of [{ memory: 7 }, { iterations: 0 }, { lanes: 0 }, { length: 3 }, { salt: new Uint8Array(7) }])
      expect(() => codecs.argon2({ ...fine, ...wrong })).toThrow(fails('EINVAL'))
  })
})
