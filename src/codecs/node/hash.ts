// Hashes and checksums by OpenSSL and zlib, which use the processor's own instructions.

import { createHash, pbkdf2Sync } from 'node:crypto'
import * as zlib from 'node:zlib'
import { CodecError, type Codecs, type HashName } from '../contract.ts'
import { hashes as module } from '../wasm/hash.ts'

/** Fewer bytes are hashed sooner by the module than a hash object is made. */
const FEW = 1024

/** OpenSSL does RIPEMD-160 at half the module's speed, and not at all where it was built without the legacy provider. */
const has = (hash: HashName): boolean => hash !== 'ripemd160'

const digest: Codecs['digest'] = (hash, bytes) => {
  if (bytes.length < FEW || !has(hash)) return module.digest(hash, bytes)
  return new Uint8Array(createHash(hash).update(bytes).digest())
}

const pbkdf2: Codecs['pbkdf2'] = (hash, password, salt, iterations, length) => {
  if (!has(hash)) return module.pbkdf2(hash, password, salt, iterations, length)
  // OpenSSL counts in 31 bits.
  if (!Number.isInteger(iterations) || iterations < 1 || iterations >= 2 ** 31)
    throw new CodecError('EINVAL', `Cannot derive a key: iterations is ${iterations}, must be 1 to 2147483647`)
  return new Uint8Array(pbkdf2Sync(password, salt, iterations, length, hash))
}

const zeroes = Buffer.alloc(64 * 1024)

/** By the C library's comparison with zeroes; a look at a few bytes spares most data even that. */
const isAllZero: Codecs['isAllZero'] = (bytes) => {
  const { length } = bytes
  if (length > 0 && (bytes[0]! | bytes[length >> 1]! | bytes[length - 1]!) !== 0) return false
  for (let done = 0; done < length; done += zeroes.length) {
    const count = Math.min(zeroes.length, length - done)
    if (zeroes.compare(bytes, done, done + count, 0, count) !== 0) return false
  }
  return true
}

/** zlib.crc32 came with Node 20.15 and 22.2. */
const { crc32 } = zlib as { crc32?: Codecs['crc32'] }

/** The hashes of Node that are faster. */
export const hashes: Partial<Codecs> = { digest, pbkdf2, isAllZero, ...(crc32 ? { crc32 } : {}) }
