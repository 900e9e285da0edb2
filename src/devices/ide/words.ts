/** The words of IDENTIFY data, and the sums that seal pages of 512 bytes. */
import { MULTIWORD_LIMIT, PIO_LIMIT, type Settings, ULTRA_LIMIT } from './settings.ts'

/** Cycle time of PIO 4 and multiword DMA 2, ns. */
const CYCLE = 120

/** A word with these bits set; `false` stands for one that is not. */
export function bits(...set: readonly (number | false)[]): number {
  return set.reduce<number>((word, bit) => (bit === false ? word : word | (1 << bit)), 0)
}

/** All modes up to the highest; in the upper byte, the selected one. */
function modes(highest: number, selected: number | undefined): number {
  return ((1 << (highest + 1)) - 1) | (selected === undefined ? 0 : 0x100 << selected)
}

/** Words 53, 63 to 68 and 88: which words are valid, transfer modes and cycle times. */
export function putModes(words: DataView, settings: Settings): void {
  const word = (index: number, value: number) => words.setUint16(2 * index, value, true)
  word(53, bits(0, 1, 2)) // 54 to 58, 64 to 70, 88
  word(63, modes(MULTIWORD_LIMIT, settings.multiword))
  word(64, (1 << (PIO_LIMIT - 2)) - 1)
  for (const index of [65, 66, 67, 68]) word(index, CYCLE)
  word(88, modes(ULTRA_LIMIT, settings.ultra))
}

/** Word 93: a cable of 80 wires; the device knows its number by its jumper and passed its diagnostics. */
export function cableWord(unit: 0 | 1): number {
  return unit === 0 ? bits(14, 13, 3, 1, 0) : bits(14, 13, 11, 9, 8)
}

/** Words 108 to 111. */
export function putName(words: DataView, wwn: bigint): void {
  for (let i = 0; i < 4; i++) words.setUint16(2 * (108 + i), Number((wwn >> BigInt(48 - 16 * i)) & 0xffffn), true)
}

/** Writes ATA's kind of string: two characters to a word, the first in the upper byte, filled with spaces. */
export function putText(words: DataView, word: number, length: number, text: string): void {
  for (let i = 0; i < length; i++) words.setUint8(2 * word + (i ^ 1), i < text.length ? text.charCodeAt(i) : 0x20)
}

/** Sets the last word so that all 512 bytes add up to zero [ATA8-ACS 7.16.7.88]. */
export function sealIdentify(bytes: Uint8Array): void {
  bytes[510] = 0xa5
  sealSum(bytes)
}

/** Sets the last byte so that all bytes add up to zero. */
export function sealSum(bytes: Uint8Array): void {
  let sum = 0
  for (let i = 0; i < bytes.length - 1; i++) sum += bytes[i]!
  bytes[bytes.length - 1] = -sum & 0xff
}
