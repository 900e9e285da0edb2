/** Headers as values: one table reads, writes and types a structure on a medium. */

/** How one field lies in a structure. */
export interface Field<T> {
  /** Bytes that it takes. */
  readonly size: number
  read(view: DataView, at: number, little: boolean): T
  write(view: DataView, at: number, value: T, little: boolean): void
}

/** Unsigned, 8 bits. */
export const u8: Field<number> = {
  size: 1,
  read: (view, at) => view.getUint8(at),
  write: (view, at, value) => view.setUint8(at, value),
}

/** Unsigned, 16 bits. */
export const u16: Field<number> = {
  size: 2,
  read: (view, at, little) => view.getUint16(at, little),
  write: (view, at, value, little) => view.setUint16(at, value, little),
}

/** Unsigned, 32 bits. */
export const u32: Field<number> = {
  size: 4,
  read: (view, at, little) => view.getUint32(at, little),
  write: (view, at, value, little) => view.setUint32(at, value, little),
}

/** Signed, 32 bits. */
export const i32: Field<number> = {
  size: 4,
  read: (view, at, little) => view.getInt32(at, little),
  write: (view, at, value, little) => view.setInt32(at, value, little),
}

/** An unsigned offset or size of 64 bits as a number; above 2^53 it is rounded and no safe integer, which a reader must refuse. */
export const u64: Field<number> = {
  size: 8,
  read: (view, at, little) => {
    const first = view.getUint32(at, little)
    const second = view.getUint32(at + 4, little)
    return little ? second * 2 ** 32 + first : first * 2 ** 32 + second
  },
  write: (view, at, value, little) => {
    const high = Math.floor(value / 2 ** 32)
    view.setUint32(little ? at + 4 : at, high, little)
    view.setUint32(little ? at : at + 4, value >>> 0, little)
  },
}

/** 64 bits that are no number: flags. */
export const bits64: Field<bigint> = {
  size: 8,
  read: (view, at, little) => view.getBigUint64(at, little),
  write: (view, at, value, little) => view.setBigUint64(at, value, little),
}

/** `length` bytes as they are; a shorter value is padded with zeroes. */
export function bytes(length: number): Field<Uint8Array> {
  return {
    size: length,
    read: (view, at) => new Uint8Array(view.buffer, view.byteOffset + at, length).slice(),
    write: (view, at, value) => {
      const target = new Uint8Array(view.buffer, view.byteOffset + at, length)
      target.fill(0)
      target.set(value.subarray(0, length))
    },
  }
}

type Fields = Readonly<Record<string, Field<never> | Field<number> | Field<bigint> | Field<Uint8Array>>>
type ValueOf<F> = F extends Field<infer T> ? T : never

/** A structure: its fields follow each other without gaps. */
export interface Layout<T> {
  /** Bytes of all fields together. */
  readonly size: number
  /** Where each field begins, bytes. */
  readonly offsets: Readonly<Record<keyof T, number>>
  /** Reads the structure at `at` (default 0); a RangeError if `source` is too short. */
  read(source: Uint8Array, at?: number): T
  /** Writes the structure at `at` (default 0). */
  write(target: Uint8Array, value: Readonly<T>, at?: number): void
  /** The structure's bytes. */
  bytes(value: Readonly<T>): Uint8Array
}

/** The type of a layout's values. */
export type Of<L> = L extends Layout<infer T> ? T : never

/** A structure of `fields` in their order, big-endian or little-endian. */
export function layout<F extends Fields>(
  order: 'be' | 'le',
  fields: F,
): Layout<{ -readonly [K in keyof F]: ValueOf<F[K]> }> {
  type T = { -readonly [K in keyof F]: ValueOf<F[K]> }
  const little = order === 'le'
  const rows: { name: keyof F; field: Field<unknown>; at: number }[] = []
  const offsets = {} as Record<keyof F, number>
  let size = 0
  for (const [name, field] of Object.entries(fields)) {
    rows.push({ name, field: field as Field<unknown>, at: size })
    offsets[name as keyof F] = size
    size += field.size
  }
  const viewOf = (source: Uint8Array, at: number) => new DataView(source.buffer, source.byteOffset + at, size)
  return {
    size,
    offsets,
    read(source, at = 0) {
      if (at + size > source.length) throw new RangeError(`a structure of ${size} bytes at ${at} of ${source.length}`)
      const view = viewOf(source, at)
      const value = {} as T
      for (const row of rows) value[row.name] = row.field.read(view, row.at, little) as T[keyof F]
      return value
    },
    write(target, value, at = 0) {
      if (at + size > target.length) throw new RangeError(`a structure of ${size} bytes at ${at} of ${target.length}`)
      const view = viewOf(target, at)
      for (const row of rows) row.field.write(view, row.at, value[row.name], little)
    },
    bytes(value) {
      const target = new Uint8Array(size)
      this.write(target, value)
      return target
    },
  }
}
