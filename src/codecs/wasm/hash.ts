// Checksums, hashes and keys from passwords by the module.

import { CodecError, type Codecs, type HashName } from '../contract.ts'
import type { Exports } from '../pkg/exports.ts'
import { instance, ownInstance, PIECE } from './module.ts'

/** The hashes by the numbers of crate/src/hash.rs. */
const KINDS: Record<HashName, number> = { sha1: 0, sha224: 1, sha256: 2, sha384: 3, sha512: 4, ripemd160: 5 }
const BLAKE3 = 6
const ARGON2 = { argon2d: 0, argon2i: 1, argon2id: 2 }

/** Shows `bytes` to the module piece by piece; `see` says whether to go on. */
function pieces(bytes: Uint8Array, see: (exports: Exports, at: number, length: number) => boolean): void {
  const it = instance(PIECE)
  for (let done = 0; done < bytes.length; done += PIECE) {
    const piece = done === 0 && bytes.length <= PIECE ? bytes : bytes.subarray(done, done + PIECE)
    const at = it.lend(PIECE)
    it.bytes.set(piece, at)
    if (!see(it.exports, at, piece.length)) return
  }
}

function hash(kind: number, bytes: Uint8Array): Uint8Array {
  const it = instance(PIECE)
  it.exports.hash_start(kind)
  pieces(bytes, (exports, at, length) => {
    exports.hash_update(at, length)
    return true
  })
  const at = it.lend(64)
  const length = it.exports.hash_finish(at)
  return it.bytes.slice(at, at + length)
}

const checksum =
  (name: 'crc32' | 'crc32c' | 'adler32', start: number) =>
  (bytes: Uint8Array, seed = start): number => {
    let sum = seed
    pieces(bytes, (exports, at, length) => {
      sum = exports[name](at, length, sum)
      return true
    })
    return sum >>> 0
  }

/** Lays byte strings end to end in the lent buffer and returns their addresses. */
function lay(it: { lend(length: number): number; bytes: Uint8Array }, room: number, ...parts: Uint8Array[]): number[] {
  const total = parts.reduce((sum, part) => sum + part.length, room)
  let at = it.lend(total)
  const addresses = [at]
  at += room
  for (const part of parts) {
    it.bytes.set(part, at)
    addresses.push(at)
    at += part.length
  }
  return addresses
}

const pbkdf2: Codecs['pbkdf2'] = (name, password, salt, iterations, length) => {
  if (!Number.isInteger(iterations) || iterations < 1 || iterations >= 2 ** 32)
    throw new CodecError('EINVAL', `Cannot derive a key: iterations is ${iterations}, must be 1 to 4294967295`)
  const it = instance(length + password.length + salt.length)
  const [to = 0, first = 0, second = 0] = lay(it, length, password, salt)
  it.exports.pbkdf2(KINDS[name], first, password.length, second, salt.length, iterations, to, length)
  return taken(it.bytes, to, length, length + password.length + salt.length)
}

/** Copies an answer out and wipes it and the secrets that it came from. */
function taken(bytes: Uint8Array, at: number, length: number, used: number): Uint8Array {
  const answer = bytes.slice(at, at + length)
  bytes.fill(0, at, at + used)
  return answer
}

const NONE = new Uint8Array(0)

const argon2: Codecs['argon2'] = (options) => {
  const { kind, password, salt, secret = NONE, data = NONE, iterations, memory, lanes, length } = options
  const it = ownInstance()
  const inputs = [password, salt, secret, data]
  const [to = 0, from = 0] = lay(it, length, ...inputs)
  const [first = 0, second = 0, third = 0, fourth = 0] = inputs.map((input) => input.length)
  const cost = [iterations, memory, lanes] as const
  if (it.exports.argon2(ARGON2[kind], from, first, second, third, fourth, ...cost, to, length) === 0)
    throw new CodecError(
      'EINVAL',
      `Cannot derive a key: Argon2 cannot do ${iterations} passes over ${memory} KiB in ${lanes} lanes here`,
    )
  return it.bytes.slice(to, to + length)
}

const blake3Each: Codecs['blake3Each'] = (bytes, size) => {
  if (!Number.isInteger(size) || size < 1) throw new CodecError('EINVAL', `Cannot hash every ${size} bytes`)
  const hashes = new Uint8Array(Math.ceil(bytes.length / size) * 32)
  if (size >= PIECE) {
    for (let index = 0; index * size < bytes.length; index++)
      hashes.set(hash(BLAKE3, bytes.subarray(index * size, (index + 1) * size)), index * 32)
    return hashes
  }
  const group = Math.floor(PIECE / size) * size
  for (let done = 0; done < bytes.length; done += group) {
    const piece = bytes.subarray(done, done + group)
    const count = Math.ceil(piece.length / size)
    const it = instance(2 * PIECE)
    const at = it.lend(piece.length + count * 32)
    it.bytes.set(piece, at)
    it.exports.blake3_each(at, piece.length, size, at + piece.length)
    hashes.set(it.bytes.subarray(at + piece.length, at + piece.length + count * 32), (done / size) * 32)
  }
  return hashes
}

/** Checksums, hashes and keys by the module. */
export const hashes = {
  crc32: checksum('crc32', 0),
  crc32c: checksum('crc32c', 0),
  adler32: checksum('adler32', 1),
  isAllZero: (bytes) => {
    let zero = true
    pieces(bytes, (exports, at, length) => {
      zero = exports.is_all_zero(at, length) !== 0
      return zero
    })
    return zero
  },
  digest: (name, bytes) => hash(KINDS[name], bytes),
  blake3: (bytes) => hash(BLAKE3, bytes),
  blake3Each,
  pbkdf2,
  argon2,
} satisfies Partial<Codecs>
