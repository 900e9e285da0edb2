// Unpacks the module itself, which is deflated (RFC 1951): slow and small, and only for a stream known to be whole.

/** RFC 1951, 3.2.5: base values and extra bits of length codes from 257, and of distance codes. */
const LENGTH_EXTRA = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0]
const DISTANCE_EXTRA = Array.from({ length: 30 }, (_, code) => Math.max(0, (code >> 1) - 1))
const LENGTH_BASE = bases(LENGTH_EXTRA, 3)
const DISTANCE_BASE = bases(DISTANCE_EXTRA, 1)
/** RFC 1951, 3.2.7. */
const ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]
const FIXED_LENGTHS: readonly number[] = Array.from({ length: 288 }, (_, symbol) =>
  symbol < 144 ? 8 : symbol < 256 ? 9 : symbol < 280 ? 7 : 8,
)

function bases(extra: readonly number[], first: number): number[] {
  const values: number[] = []
  let value = first
  for (const bits of extra) {
    values.push(value)
    value += 1 << bits
  }
  if (first === 3) values[28] = 258
  return values
}

/** RFC 1951, 3.2.6. */
const FIXED_DISTANCES: readonly number[] = Array(30).fill(5)

/** A code as a table of 2^15: what the next 15 bits begin with, as symbol and length. */
function table(lengths: readonly number[]): Uint16Array {
  const made = new Uint16Array(1 << 15)
  let code = 0
  for (let length = 1; length <= 15; length++) {
    for (let symbol = 0; symbol < lengths.length; symbol++) {
      if (lengths[symbol] !== length) continue
      let reversed = 0
      for (let bit = 0; bit < length; bit++) reversed |= ((code >> bit) & 1) << (length - 1 - bit)
      for (let place = reversed; place < made.length; place += 1 << length) made[place] = (symbol << 4) | length
      code++
    }
    code <<= 1
  }
  return made
}

/** The `size` bytes that the raw deflate stream `input` holds. */
export function unpack(input: Uint8Array, size: number): Uint8Array<ArrayBuffer> {
  const output = new Uint8Array(size)
  let at = 0
  let to = 0
  let word = 0
  let count = 0
  const peek = (bits: number): number => {
    for (; count < bits; count += 8) word |= (input[at++] ?? 0) << count
    return word & ((1 << bits) - 1)
  }
  const take = (bits: number): number => {
    const value = peek(bits)
    word >>>= bits
    count -= bits
    return value
  }
  const symbol = (codes: Uint16Array): number => {
    const entry = codes[peek(15)]!
    take(entry & 15)
    return entry >> 4
  }
  for (let last = 0; last === 0; ) {
    last = take(1)
    const kind = take(2)
    if (kind === 0) {
      take(count & 7)
      const length = take(16)
      take(16)
      for (let left = length; left > 0; left--) output[to++] = take(8)
      continue
    }
    let literals = FIXED_LENGTHS
    let distances: readonly number[] = FIXED_DISTANCES
    if (kind === 2) {
      const literalCount = take(5) + 257
      const distanceCount = take(5) + 1
      const own: number[] = Array(19).fill(0)
      const orderCount = take(4) + 4
      for (const place of ORDER.slice(0, orderCount)) own[place] = take(3)
      const codes = table(own)
      const all: number[] = []
      while (all.length < literalCount + distanceCount) {
        const next = symbol(codes)
        if (next < 16) all.push(next)
        else {
          const value = next === 16 ? all[all.length - 1]! : 0
          const times = next === 16 ? 3 + take(2) : next === 17 ? 3 + take(3) : 11 + take(7)
          for (let left = times; left > 0; left--) all.push(value)
        }
      }
      literals = all.slice(0, literalCount)
      distances = all.slice(literalCount)
    }
    const literalCodes = table(literals)
    const distanceCodes = table(distances)
    for (let next = symbol(literalCodes); next !== 256; next = symbol(literalCodes)) {
      if (next < 256) {
        output[to++] = next
        continue
      }
      const length = LENGTH_BASE[next - 257]! + take(LENGTH_EXTRA[next - 257]!)
      const code = symbol(distanceCodes)
      const distance = DISTANCE_BASE[code]! + take(DISTANCE_EXTRA[code]!)
      for (let left = length; left > 0; left--, to++) output[to] = output[to - distance]!
    }
  }
  return output
}
