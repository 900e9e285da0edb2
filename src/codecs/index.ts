// The codecs' public face: each function is the fastest of its kind on this host, chosen once.

import { native } from '#codecs-native'
import { splitter } from './af.ts'
import type { Codecs } from './contract.ts'
import { wasm } from './wasm/index.ts'

export * from './contract.ts'
export { ready } from './wasm/module.ts'

/** All of them in one object, for a caller that takes its codecs as an argument. */
export const codecs: Codecs = { ...wasm, ...native.codecs }

export const {
  inflate,
  inflateInto,
  deflate,
  deflateWithin,
  zstdDecompress,
  zstdDecompressInto,
  zstdCompress,
  zstdCompressWithin,
  crc32,
  crc32c,
  adler32,
  isAllZero,
  digest,
  blake3,
  blake3Each,
  pbkdf2,
  argon2,
  createCipher,
} = codecs

export const { afSplit, afMerge } = splitter(codecs.digest)
