// The anti-forensic splitter of LUKS (LUKS1 On-Disk Format 1.2.3, 2.4): a key is spread over many stripes, so that losing
// any part of them loses the key.

import { CodecError, type Codecs, type HashName } from './contract.ts'

type Digest = Codecs['digest']

/** Diffusion: each digest-sized piece becomes the hash of its index (big-endian) and itself; the last may be shorter. */
function diffuse(digest: Digest, hash: HashName, block: Uint8Array): void {
  let index = 0
  for (let at = 0; at < block.length; index++) {
    const input = new Uint8Array(4 + Math.min(block.length - at, digestLength(hash)))
    new DataView(input.buffer).setUint32(0, index)
    input.set(block.subarray(at, at + input.length - 4), 4)
    block.set(digest(hash, input).subarray(0, input.length - 4), at)
    at += input.length - 4
  }
}

const LENGTHS: Record<HashName, number> = { sha1: 20, sha224: 28, sha256: 32, sha384: 48, sha512: 64, ripemd160: 20 }
const digestLength = (hash: HashName): number => LENGTHS[hash]

function xorInto(block: Uint8Array, stripe: Uint8Array): void {
  for (let at = 0; at < block.length; at++) block[at]! ^= stripe[at]!
}

function check(length: number, stripes: number): void {
  if (!Number.isInteger(stripes) || stripes < 1 || length < 1 || !Number.isInteger(length))
    throw new CodecError('EINVAL', `Cannot split a key of ${length} bytes into ${stripes} stripes`)
}

/** The two directions of the splitter over the given hash function; the face binds them to its own. */
export function splitter(digest: Digest) {
  return {
    /** Splits `key` into `stripes` times its length; `random` must be as many random bytes less one stripe. */
    afSplit(hash: HashName, key: Uint8Array, stripes: number, random: Uint8Array): Uint8Array {
      check(key.length, stripes)
      if (random.length !== key.length * (stripes - 1))
        throw new CodecError(
          'EINVAL',
          `Cannot split a key with ${random.length} random bytes, not ${key.length * (stripes - 1)}`,
        )
      const material = new Uint8Array(key.length * stripes)
      material.set(random)
      const block = new Uint8Array(key.length)
      for (let at = 0; at < random.length; at += key.length) {
        xorInto(block, random.subarray(at, at + key.length))
        diffuse(digest, hash, block)
      }
      xorInto(block, key)
      material.set(block, random.length)
      return material
    },

    /** The key that was split into `stripes` stripes of `material`. */
    afMerge(hash: HashName, material: Uint8Array, stripes: number): Uint8Array {
      const length = material.length / stripes
      check(length, stripes)
      const block = new Uint8Array(length)
      for (let stripe = 0; stripe < stripes - 1; stripe++) {
        xorInto(block, material.subarray(stripe * length, (stripe + 1) * length))
        diffuse(digest, hash, block)
      }
      xorInto(block, material.subarray((stripes - 1) * length))
      return block
    },
  }
}
