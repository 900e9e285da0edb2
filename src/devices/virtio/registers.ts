/** A block of registers from a table, for structures that are not on the fast path. */

/** One little-endian register of 1, 2 or 4 bytes at offset `at`. */
export interface Register {
  readonly at: number
  readonly bytes: 1 | 2 | 4
  read(): number
  write?(value: number): void
}

/** The registers of a structure. An access may cover several of them; what covers one in part reads it and writes nothing. */
export class Registers {
  readonly #rows: readonly Register[]
  readonly #at = new Map<number, Register>()

  constructor(rows: readonly Register[]) {
    this.#rows = rows
    for (const row of rows) this.#at.set(row.at, row)
  }

  /** Reads 1, 2 or 4 bytes, unsigned; what is no register reads as 0. */
  read(offset: number, width: number): number {
    const exact = this.#at.get(offset)
    if (exact?.bytes === width) return exact.read() >>> 0
    let value = 0
    for (const row of this.#rows) {
      const shift = row.at - offset
      if (shift >= width || shift <= -row.bytes) continue
      const part = row.read()
      value |= shift >= 0 ? part << (8 * shift) : part >>> (-8 * shift)
    }
    return (width === 4 ? value : value & ((1 << (8 * width)) - 1)) >>> 0
  }

  /** Writes 1, 2 or 4 bytes. */
  write(offset: number, width: number, value: number): void {
    for (const row of this.#rows) {
      if (row.at < offset || row.at + row.bytes > offset + width) continue
      const part = value >>> (8 * (row.at - offset))
      row.write?.(row.bytes === 4 ? part : part & ((1 << (8 * row.bytes)) - 1))
    }
  }
}

/** Reads 1, 2 or 4 bytes of `bytes`, unsigned; past its end are zeroes. */
export function readBytes(bytes: Uint8Array, offset: number, width: number): number {
  let value = 0
  for (let i = width - 1; i >= 0; i--) value = value * 256 + (bytes[offset + i] ?? 0)
  return value
}
