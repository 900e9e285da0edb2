// The anti-forensic splitter (LUKS1 On-Disk Format, 2.4). Real key slots are merged in test/interop/codecs.test.ts.

import crypto from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { splitter } from '../../src/codecs/af.ts'
import { codecs } from '../../src/codecs/index.ts'
import { ascii } from './paths.ts'

const { afMerge, afSplit } = splitter(codecs.digest)

describe.each(['sha1', 'sha256', 'sha512', 'ripemd160'] as const)('%s', (hash) => {
  test('a key of any length comes back from its stripes, and from no fewer', () => {
    for (const length of [16, 20, 32, 33, 64, 100]) {
      const key = new Uint8Array(crypto.randomBytes(length))
      for (const stripes of [1, 2, 40]) {
        const material = afSplit(hash, key, stripes, crypto.randomBytes(length * (stripes - 1)))
        expect(material.length).toBe(length * stripes)
        expect(afMerge(hash, material, stripes)).toEqual(key)
        if (stripes === 1) continue
        material[0]! ^= 1
        expect(afMerge(hash, material, stripes)).not.toEqual(key)
      }
    }
  })
})

test('diffusion: each piece is the hash of its number and itself, the last cut short', () => {
  const random = ascii('a stripe of forty bytes, more than SHA-1.')
  const number = (value: number) => Uint8Array.of(0, 0, 0, value)
  const sha1 = (...parts: Uint8Array[]) => crypto.createHash('sha1').update(Buffer.concat(parts)).digest()
  const pieces = [0, 1, 2].map((at) => sha1(number(at), random.subarray(at * 20, at * 20 + 20)))
  const key = new Uint8Array(random.length)
  expect(Buffer.from(afSplit('sha1', key, 2, random).subarray(random.length))).toEqual(
    Buffer.concat(pieces).subarray(0, random.length),
  )
})

test('wrong lengths are EINVAL', () => {
  const wrong = expect.objectContaining({ code: 'EINVAL' })
  expect(() => afSplit('sha1', new Uint8Array(16), 4, new Uint8Array(16))).toThrow(wrong)
  expect(() => afSplit('sha1', new Uint8Array(16), 0, new Uint8Array(0))).toThrow(wrong)
  expect(() => afMerge('sha1', new Uint8Array(33), 2)).toThrow(wrong)
})
