// The ways that a codec can go: the module's two builds, and what this host really uses.

import type { Codecs } from '../../src/codecs/contract.ts'
import { codecs } from '../../src/codecs/index.ts'
import { wasm } from '../../src/codecs/wasm/index.ts'
import { type Flavour, use } from '../../src/codecs/wasm/module.ts'

/** A way, by its name; `begin` before the tests that go it. */
export interface Path {
  readonly name: string
  readonly codecs: Codecs
  begin(): void
}

const built = (flavour: Flavour): Path => ({ name: `${flavour} build`, codecs: wasm, begin: () => use(flavour) })

/** Every way; the tests of a codec run over all of them. */
export const paths: readonly Path[] = [
  built('plain'),
  built('simd'),
  { name: 'this host', codecs, begin: () => use('simd') },
]

/** Bytes of a hexadecimal text, spaces allowed. */
export const hex = (text: string): Uint8Array => new Uint8Array(Buffer.from(text.replace(/\s/g, ''), 'hex'))

/** The hexadecimal text of bytes. */
export const toHex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

/** The bytes of a text. */
export const ascii = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, 'latin1'))

/** `length` bytes like those of a disk: text, repeated structures, zeroes and noise, the same for the same seed. */
export function diskLike(length: number, seed: number): Uint8Array {
  let state = seed | 1
  const next = (): number => {
    state = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d)
    state = Math.imul(state ^ (state >>> 12), 0x297a2d39)
    state ^= state >>> 15
    return state >>> 0
  }
  const bytes = new Uint8Array(length)
  for (let at = 0; at < length; ) {
    const run = Math.min(length - at, 1 + (next() % 700))
    const kind = next() % 5
    const step = 1 + (next() % 40)
    for (let index = 0; index < run; index++) {
      if (kind === 1) bytes[at + index] = 97 + (next() % 6)
      else if (kind === 2) bytes[at + index] = next()
      else if (kind === 3) bytes[at + index] = at + index >= step ? bytes[at + index - step]! : 7
      else if (kind === 4) bytes[at + index] = at > 5000 ? bytes[at + index - 5000]! : (index / 4) & 255
    }
    at += run
  }
  return bytes
}
