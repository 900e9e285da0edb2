/** The QED header, with every bound checked. All numbers are little-endian. */
import { BlockError } from '../../error.ts'
import { bits64, layout, type Of, u32, u64 } from '../../layout.ts'

/** "QED\0" */
const MAGIC = 0x00444551

/** The image names a backing file. */
export const FEATURE_BACKING = 1n << 0n
/** The image was not closed properly: check it before use. */
export const FEATURE_NEED_CHECK = 1n << 1n
/** The backing file is raw: do not probe it. */
export const FEATURE_BACKING_RAW = 1n << 2n
const KNOWN = FEATURE_BACKING | FEATURE_NEED_CHECK | FEATURE_BACKING_RAW

const Fixed = layout('le', {
  magic: u32,
  clusterSize: u32,
  /** Clusters of an L1 or L2 table. */
  tableSize: u32,
  /** Clusters of the header. */
  headerSize: u32,
  features: bits64,
  compatFeatures: bits64,
  autoclearFeatures: bits64,
  l1Offset: u64,
  size: u64,
  backingOffset: u32,
  backingSize: u32,
})

const MAX_NAME = 1023

/** A header and the name of its backing file. */
export interface QedHeader extends Omit<Of<typeof Fixed>, 'magic'> {
  backingFile?: string | undefined
}

/** Bytes of the header without the name. */
export const HEADER_SIZE = Fixed.size

/** Whether bytes from an image's start are those of a QED image. */
export function isQed(head: Uint8Array): boolean {
  return head.length >= 4 && new DataView(head.buffer, head.byteOffset).getUint32(0, true) === MAGIC
}

/** Entries of a table. */
export function tableEntries({ clusterSize, tableSize }: QedHeader): number {
  return (clusterSize * tableSize) / 8
}

/** Largest disk for such tables, bytes. */
export function largestDisk(header: QedHeader): number {
  const entries = tableEntries(header)
  return Math.min(entries * entries * header.clusterSize, Number.MAX_SAFE_INTEGER - (Number.MAX_SAFE_INTEGER % 512))
}

/** Says what is wrong with a header, or nothing. */
export function flaw(header: QedHeader): string | undefined {
  const { clusterSize, tableSize, size } = header
  if (!(clusterSize >= 4096 && clusterSize <= 64 << 20) || (clusterSize & (clusterSize - 1)) !== 0) {
    return `the cluster size is ${clusterSize}, must be a power of two from 4096 to 67108864`
  }
  if (!(tableSize >= 1 && tableSize <= 16) || (tableSize & (tableSize - 1)) !== 0) {
    return `the table size is ${tableSize} clusters, must be 1, 2, 4, 8 or 16`
  }
  if (!Number.isSafeInteger(size) || size > largestDisk(header)) return `its size is ${size} bytes, too large`
  if (size % 512 !== 0) return `its size is ${size} bytes, no multiple of 512`
  return undefined
}

/** Reads a header from an image's first bytes; `length` is the file's. */
export function readHeader(name: string, head: Uint8Array, length: number): QedHeader {
  const refuse = (why: string, code: 'EINVAL' | 'ENOTSUP' = 'EINVAL') =>
    new BlockError(code, `Cannot open ${name}: ${why}`)
  if (!isQed(head) || head.length < Fixed.size) throw refuse('it is no QED image')
  const { magic: _, ...header }: Of<typeof Fixed> = Fixed.read(head)
  if ((header.features & ~KNOWN) !== 0n) {
    throw refuse(`it needs features 0x${(header.features & ~KNOWN).toString(16)}, not known`, 'ENOTSUP')
  }
  const wrong = flaw(header)
  if (wrong !== undefined) throw refuse(wrong)
  const { clusterSize, tableSize, headerSize, l1Offset } = header
  if (headerSize === 0 || headerSize > 0x7fffffff / clusterSize) throw refuse(`its header has ${headerSize} clusters`)
  if (!Number.isSafeInteger(l1Offset) || l1Offset % clusterSize !== 0 || l1Offset < headerSize * clusterSize) {
    throw refuse(`its L1 table is at ${l1Offset}, which cannot be`)
  }
  if (l1Offset + clusterSize * tableSize > Math.ceil(length / clusterSize) * clusterSize) {
    throw refuse(`its L1 table is at ${l1Offset}, after the end of the file`)
  }
  if ((header.features & FEATURE_BACKING) === 0n) return header
  const { backingOffset, backingSize } = header
  if (backingSize > MAX_NAME || backingOffset + backingSize > Math.min(headerSize * clusterSize, head.length)) {
    throw refuse('the name of its backing file is too long')
  }
  const text = new TextDecoder().decode(head.subarray(backingOffset, backingOffset + backingSize))
  return { ...header, backingFile: text }
}

/** The header's bytes with the name behind them. */
export function headerBytes(name: string, header: QedHeader): Uint8Array {
  const text = new TextEncoder().encode(header.backingFile ?? '')
  if (text.length > MAX_NAME)
    throw new BlockError('EINVAL', `Cannot create ${name}: the backing file's name is too long`)
  const bytes = new Uint8Array(Fixed.size + text.length)
  Fixed.write(bytes, {
    ...header,
    magic: MAGIC,
    backingOffset: text.length === 0 ? 0 : Fixed.size,
    backingSize: text.length,
  })
  bytes.set(text, Fixed.size)
  return bytes
}

/** The fixed part alone: what an update in place writes. */
export function fixedBytes(header: QedHeader): Uint8Array {
  return Fixed.bytes({ ...header, magic: MAGIC })
}
