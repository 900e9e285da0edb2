// What a cipher's options come to: the keys that are really used, checked. Shared by every implementation.

import { type CipherOptions, CodecError, type Codecs } from './contract.ts'

/** A sector cipher with its keys apart. */
export interface CipherPlan {
  readonly kind: 'xts' | 'ecb' | 'cbc-plain' | 'cbc-plain64' | 'cbc-essiv'
  /** The key of the data: 16, 24 or 32 bytes. */
  readonly key: Uint8Array
  /** The key of the tweak (XTS) or of the IV (ESSIV); else empty. */
  readonly second: Uint8Array
  readonly sectorSize: number
}

const isKeyLength = (length: number): boolean => length === 16 || length === 24 || length === 32

/** Checks the options and takes the keys apart; `digest` makes the key of ESSIV. */
export function planCipher(options: CipherOptions, digest: Codecs['digest']): CipherPlan {
  const { mode, iv = 'plain64', essivHash = 'sha256', key, sectorSize = 512 } = options
  const refuse = (why: string): CodecError =>
    new CodecError('EINVAL', `Cannot make an AES-${mode.toUpperCase()} cipher: ${why}`)
  if (![512, 1024, 2048, 4096].includes(sectorSize)) throw refuse(`the sector size is ${sectorSize}`)
  const length = mode === 'xts' ? key.length / 2 : key.length
  if (!isKeyLength(length)) throw refuse(`the key has ${key.length} bytes`)
  if (mode === 'xts') {
    if (iv !== 'plain64') throw refuse(`its IV is ${iv}, must be plain64`)
    return { kind: 'xts', key: key.slice(0, length), second: key.slice(length), sectorSize }
  }
  const none = new Uint8Array(0)
  if (mode === 'ecb') return { kind: 'ecb', key: key.slice(), second: none, sectorSize }
  if (iv !== 'essiv') return { kind: `cbc-${iv}`, key: key.slice(), second: none, sectorSize }
  const second = digest(essivHash, key)
  if (!isKeyLength(second.length)) throw refuse(`${essivHash} makes an ESSIV key of ${second.length} bytes`)
  return { kind: 'cbc-essiv', key: key.slice(), second, sectorSize }
}
