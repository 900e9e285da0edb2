/** Finds the zeroes in data that is to be copied. */
import { isAllZero } from '../../codecs/index.ts'

/** A stretch of bytes that holds data or is all zeroes. */
export interface Stretch {
  readonly start: number
  readonly end: number
  readonly zero: boolean
}

/** Units of equal kind together; they lie where those of the target do, at which `at` is: the first and the last may be parts of one. */
export function stretchesOf(at: number, bytes: Uint8Array, unit: number): Stretch[] {
  const { length } = bytes
  const found: Stretch[] = []
  let end = Math.min(unit - (at % unit), length)
  let zero = isZero(bytes, 0, end)
  for (let start = 0; start < length; ) {
    let next = zero
    while (end < length) {
      const last = Math.min(end + unit, length)
      next = isZero(bytes, end, last)
      if (next !== zero) break
      end = last
    }
    found.push({ start, end, zero })
    start = end
    end = Math.min(end + unit, length)
    zero = next
  }
  return found
}

/** Whether bytes are all zero; what is not says so in its first bytes, most of the time. */
export function isZero(bytes: Uint8Array, start: number, end: number): boolean {
  for (let at = start; at < Math.min(start + 16, end); at++) if (bytes[at] !== 0) return false
  return isAllZero(bytes.subarray(start, end))
}
