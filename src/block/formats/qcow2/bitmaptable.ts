/** The directory of persistent dirty bitmaps, and their tables. */
import type { BlockDevice } from '../../device.ts'
import { BlockError } from '../../error.ts'
import { bytesVec } from '../../iovec.ts'
import { layout, u8, u16, u32, u64 } from '../../layout.ts'
import { readPadded } from '../../mover.ts'
import type { Header } from './header.ts'

const Fixed = layout('be', {
  tableOffset: u64,
  tableSize: u32,
  flags: u32,
  type: u8,
  granularityBits: u8,
  nameSize: u16,
  extraSize: u32,
})

/** The bitmap was not saved properly: what it says is not to be trusted. */
export const BITMAP_IN_USE = 1
/** The bitmap follows all writes. */
export const BITMAP_AUTO = 2
/** Extra data may be there that is not known. */
export const BITMAP_EXTRA_COMPATIBLE = 4
const TYPE_DIRTY_TRACKING = 1

const MAX_BITMAPS = 65535
const MAX_NAME = 1023
const MAX_TABLE_ENTRIES = 1 << 22
const MAX_DIRECTORY = 2 << 20

/** A persistent bitmap as its directory entry describes it. */
export interface BitmapEntry {
  tableOffset: number
  /** Entries of its table: one for each cluster of bits. */
  tableSize: number
  flags: number
  /** A bit stands for 2^granularityBits bytes of the disk. */
  granularityBits: number
  name: string
  /** Extra data, kept. */
  extra: Uint8Array
}

const text = new TextDecoder()
const utf8 = new TextEncoder()

/** Reads the bitmap directory. EINVAL if it is damaged. */
export async function readBitmaps(name: string, file: BlockDevice, header: Header): Promise<BitmapEntry[]> {
  const extension = header.bitmaps
  if (extension === undefined) return []
  const bad = (why: string) => new BlockError('EINVAL', `Cannot read the bitmaps of ${name}: ${why}`)
  const { count, directorySize, directoryOffset } = extension
  const clusterSize = 2 ** header.clusterBits
  if (count === 0 || count > MAX_BITMAPS) throw bad(`their number is ${count}`)
  if (directorySize > MAX_DIRECTORY || directoryOffset % clusterSize !== 0) {
    throw bad('their directory has no proper place')
  }
  if (!(directoryOffset + directorySize <= file.size)) throw bad('their directory passes the end of the file')
  const bytes = new Uint8Array(directorySize)
  await readPadded(file, directoryOffset, bytesVec(bytes))
  const entries: BitmapEntry[] = []
  for (let at = 0; at < bytes.length; ) {
    if (at + Fixed.size > bytes.length) throw bad('their directory ends inside an entry')
    const fixed = Fixed.read(bytes, at)
    const start = at + Fixed.size
    const end = start + fixed.extraSize + fixed.nameSize
    if (end > bytes.length) throw bad('their directory ends inside an entry')
    if (fixed.nameSize === 0 || fixed.nameSize > MAX_NAME) throw bad(`the name of bitmap ${entries.length} is too long`)
    if (fixed.type !== TYPE_DIRTY_TRACKING) throw bad(`bitmap ${entries.length} is of type ${fixed.type}, not known`)
    if (fixed.granularityBits < 9 || fixed.granularityBits > 31) {
      throw bad(`bitmap ${entries.length} has granularity_bits ${fixed.granularityBits}, must be 9 to 31`)
    }
    if (fixed.tableOffset % clusterSize !== 0 || fixed.tableSize === 0 || fixed.tableSize > MAX_TABLE_ENTRIES) {
      throw bad(`the table of bitmap ${entries.length} has no proper place`)
    }
    entries.push({
      tableOffset: fixed.tableOffset,
      tableSize: fixed.tableSize,
      flags: fixed.flags,
      granularityBits: fixed.granularityBits,
      name: text.decode(bytes.subarray(start + fixed.extraSize, end)),
      extra: bytes.slice(start, start + fixed.extraSize),
    })
    at = Math.ceil(end / 8) * 8
  }
  if (entries.length !== count) throw bad(`there are ${entries.length}, but the header says ${count}`)
  return entries
}

/** The bytes of a bitmap directory. */
export function bitmapDirectory(entries: readonly BitmapEntry[]): Uint8Array {
  const parts = entries.map((entry) => {
    const name = utf8.encode(entry.name)
    const bytes = new Uint8Array(Math.ceil((Fixed.size + entry.extra.length + name.length) / 8) * 8)
    Fixed.write(bytes, {
      ...entry,
      type: TYPE_DIRTY_TRACKING,
      nameSize: name.length,
      extraSize: entry.extra.length,
    })
    bytes.set(entry.extra, Fixed.size)
    bytes.set(name, Fixed.size + entry.extra.length)
    return bytes
  })
  const directory = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    directory.set(part, at)
    at += part.length
  }
  return directory
}

/** Reads a bitmap's table: host offset of each cluster of bits, 0 for none set, 1 for all set. */
export async function readBitmapTable(file: BlockDevice, entry: BitmapEntry): Promise<number[]> {
  const length = entry.tableSize * 8
  if (!(entry.tableOffset + length <= file.size)) {
    throw new BlockError('EINVAL', `Cannot read bitmap ${entry.name}: its table passes the end of the file`)
  }
  const bytes = new Uint8Array(length)
  await readPadded(file, entry.tableOffset, bytesVec(bytes))
  const view = new DataView(bytes.buffer)
  const table: number[] = []
  for (let at = 0; at < length; at += 8) {
    const low = view.getUint32(at + 4)
    const offset = (view.getUint32(at) & 0x00ffffff) * 2 ** 32 + ((low & 0xfffffe00) >>> 0)
    table.push(offset === 0 ? low & 1 : offset)
  }
  return table
}
