/** Whole sectors of a data track, mode 1, as a CD's surface has them (ECMA-130 14, 15 and annex A). */
import { BLOCK, msfOf } from './address.ts'

/** Bytes of a sector: sync, header, user data, EDC, 8 zeroes, ECC. */
export const SECTOR = 2352
export const SYNC = 12
export const HEADER = 4
export const AUXILIARY = 288

const EDC_AT = SYNC + HEADER + BLOCK
const P_AT = EDC_AT + 12
const Q_AT = P_AT + 172

// ECMA-130 14.3: x^32 + x^31 + x^16 + x^15 + x^4 + x^3 + x + 1, least significant bit first
const EDC = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte
  for (let i = 0; i < 8; i++) value = (value >>> 1) ^ (value & 1 ? 0xd8018001 : 0)
  return value
})

// Annex A: multiplication by alpha in the field of x^8 + x^4 + x^3 + x^2 + 1, and division by (1 + alpha)
const TIMES = Uint8Array.from({ length: 256 }, (_, value) => (value << 1) ^ (value & 0x80 ? 0x11d : 0))
const DIVIDED = new Uint8Array(256)
for (let value = 0; value < 256; value++) DIVIDED[value ^ TIMES[value]!] = value

/** Parity of `count` vectors of `length` bytes, which step by `step` and start `next` apart, two bytes each. */
function parity(sector: Uint8Array, count: number, length: number, next: number, step: number, at: number): void {
  const size = count * length
  for (let vector = 0; vector < count; vector++) {
    let index = (vector >>> 1) * next + (vector & 1)
    let one = 0
    let other = 0
    for (let i = 0; i < length; i++) {
      const byte = sector[SYNC + index]!
      index += step
      if (index >= size) index -= size
      one = TIMES[one ^ byte]!
      other ^= byte
    }
    one = DIVIDED[TIMES[one]! ^ other]!
    sector[at + vector] = one
    sector[at + count + vector] = one ^ other
  }
}

const bcd = (value: number): number => (Math.floor(value / 10) << 4) | (value % 10)

/** Makes a sector of 2352 bytes in `sector` around the user data of block `lba`. */
export function encodeSector(lba: number, data: Uint8Array, sector: Uint8Array): void {
  sector.fill(0xff, 0, SYNC)
  sector[0] = 0
  sector[SYNC - 1] = 0
  const [minute, second, frame] = msfOf(lba)
  sector.set([bcd(minute), bcd(second), bcd(frame), 1], SYNC)
  sector.set(data, SYNC + HEADER)
  let edc = 0
  for (let i = 0; i < EDC_AT; i++) edc = EDC[(edc ^ sector[i]!) & 0xff]! ^ (edc >>> 8)
  sector.set([edc & 0xff, (edc >>> 8) & 0xff, (edc >>> 16) & 0xff, edc >>> 24], EDC_AT)
  sector.fill(0, EDC_AT + 4, P_AT)
  parity(sector, 86, 24, 2, 86, P_AT)
  parity(sector, 52, 43, 86, 88, Q_AT)
}
