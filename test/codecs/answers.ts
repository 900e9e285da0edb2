// One call of every codec, so that hosts can be compared.

import type { Codecs } from '../../src/codecs/contract.ts'
import { diskLike } from './paths.ts'

/** What the codecs answer, as byte strings; the first is their common input. */
export function answers(codecs: Codecs): Uint8Array[] {
  const data = diskLike(150_528, 11)
  const number = (value: number) => new Uint8Array(Float64Array.of(value).buffer)
  const key = codecs.digest('sha512', data)
  const inPlace = (work: (buffer: Uint8Array) => void): Uint8Array => {
    const copy = data.slice()
    work(copy)
    return copy
  }
  const sector = (options: Parameters<Codecs['createCipher']>[0]) => [
    inPlace((copy) => codecs.createCipher(options).encrypt(copy, 9)),
    inPlace((copy) => codecs.createCipher(options).decrypt(copy, 9)),
  ]
  const short = data.subarray(0, 20)
  return [
    data,
    ...[1, 6, 9].flatMap((level) => [
      codecs.deflate(data, { level, windowBits: 12 }),
      codecs.zstdCompress(data, { level }),
    ]),
    codecs.inflate(codecs.deflate(data, { framing: 'gzip' }), data.length, 'gzip'),
    codecs.zstdDecompress(codecs.zstdCompress(data), data.length),
    number(codecs.crc32(data)),
    number(codecs.crc32c(data)),
    number(codecs.adler32(data)),
    number(Number(codecs.isAllZero(data))),
    codecs.blake3(data),
    codecs.blake3Each(data, 4096),
    codecs.digest('ripemd160', data),
    codecs.pbkdf2('sha256', short, short, 10, 100),
    codecs.argon2({ kind: 'argon2id', password: short, salt: short, iterations: 2, memory: 64, lanes: 2, length: 40 }),
    ...sector({ mode: 'xts', key }),
    ...sector({ mode: 'cbc', iv: 'essiv', key: key.subarray(0, 32), sectorSize: 512 }),
    ...sector({ mode: 'ecb', key: key.subarray(0, 16) }),
  ]
}
