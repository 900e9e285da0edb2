/** The qcow2 header and its extensions: read with every bound checked, written back with what is unknown kept. */
import { BlockError } from '../../error.ts'
import { bits64, layout, type Of, u8, u32, u64 } from '../../layout.ts'

/** "QFI\xfb" */
export const MAGIC = 0x514649fb

// Incompatible features: a reader that does not know a set bit must not open the image.
export const INCOMPATIBLE_DIRTY = 1n << 0n // refcounts may be wrong: lazy refcounts and no clean close
export const INCOMPATIBLE_CORRUPT = 1n << 1n // metadata is known to be damaged: no writes until repaired
export const INCOMPATIBLE_DATA_FILE = 1n << 2n
export const INCOMPATIBLE_COMPRESSION = 1n << 3n // the compression type is not deflate
export const INCOMPATIBLE_EXTENDED_L2 = 1n << 4n
export const COMPATIBLE_LAZY_REFCOUNTS = 1n << 0n
// Autoclear features: a writer that does not know a set bit clears it, for it cannot keep the feature's data consistent.
export const AUTOCLEAR_BITMAPS = 1n << 0n
export const AUTOCLEAR_DATA_FILE_RAW = 1n << 1n

const EXTENSION_END = 0
const EXTENSION_BACKING_FORMAT = 0xe2792aca
const EXTENSION_FEATURE_NAMES = 0x6803f857
const EXTENSION_BITMAPS = 0x23852875
const EXTENSION_DATA_FILE = 0x44415441

const KNOWN_INCOMPATIBLE =
  INCOMPATIBLE_DIRTY |
  INCOMPATIBLE_CORRUPT |
  INCOMPATIBLE_DATA_FILE |
  INCOMPATIBLE_COMPRESSION |
  INCOMPATIBLE_EXTENDED_L2

/** Most bytes that an L1 table may take: what other implementations accept. */
export const MAX_L1_BYTES = 32 << 20
/** Most bytes that the refcount table may take. */
export const MAX_REFCOUNT_TABLE_BYTES = 8 << 20
/** Most snapshots of an image. */
export const MAX_SNAPSHOTS = 65536
const MAX_BACKING_NAME = 1023

const Fixed2 = layout('be', {
  magic: u32,
  version: u32,
  backingOffset: u64,
  backingSize: u32,
  clusterBits: u32,
  size: u64,
  cryptMethod: u32,
  l1Size: u32,
  l1Offset: u64,
  refcountTableOffset: u64,
  refcountTableClusters: u32,
  snapshotCount: u32,
  snapshotsOffset: u64,
})
const Fixed3 = layout('be', {
  incompatible: bits64,
  compatible: bits64,
  autoclear: bits64,
  refcountOrder: u32,
  headerLength: u32,
})
const CompressionType = layout('be', { compressionType: u8 })
const ExtensionHead = layout('be', { type: u32, length: u32 })
const BitmapsExtension = layout('be', { count: u32, reserved: u32, directorySize: u64, directoryOffset: u64 })

/** Where the bitmap directory is; {@link https://qemu.org docs/interop/qcow2.txt}, "Bitmaps extension". */
export type BitmapsExtension = Of<typeof BitmapsExtension>

/** A header extension that is kept as it is. */
export interface Extension {
  readonly type: number
  readonly data: Uint8Array
}

/** A header with its extensions. Counts, offsets and sizes are bounded; what they point at is not yet checked. */
export interface Header {
  version: 2 | 3
  /** Where the name of the backing file is; 0 without one. */
  backingOffset: number
  backingSize: number
  clusterBits: number
  /** Size of the disk, bytes. */
  size: number
  cryptMethod: number
  /** Entries of the active L1 table. */
  l1Size: number
  l1Offset: number
  refcountTableOffset: number
  refcountTableClusters: number
  snapshotCount: number
  snapshotsOffset: number
  incompatible: bigint
  compatible: bigint
  autoclear: bigint
  /** A refcount has 2^refcountOrder bits. */
  refcountOrder: number
  headerLength: number
  compressionType: 'zlib' | 'zstd'
  /** Header bytes after what is known of version 3, kept. */
  rest: Uint8Array
  backingFile?: string | undefined
  backingFormat?: string | undefined
  dataFile?: string | undefined
  bitmaps?: BitmapsExtension | undefined
  /** Extensions that are not known, in their order. */
  unknown: Extension[]
}

const text = new TextDecoder()
const ascii = new TextEncoder()

/** Whether bytes from an image's start are those of a qcow2 image. */
export function isQcow2(head: Uint8Array): boolean {
  if (head.length < 8) return false
  const view = new DataView(head.buffer, head.byteOffset)
  return view.getUint32(0) === MAGIC && (view.getUint32(4) === 2 || view.getUint32(4) === 3)
}

/** Says why an image cannot be opened. */
function refuse(name: string, why: string, code: 'EINVAL' | 'ENOTSUP' = 'EINVAL'): BlockError {
  return new BlockError(code, `Cannot open ${name}: ${why}`)
}

/** Bytes of the cluster that holds the header, given its first bytes; EINVAL if they are not a qcow2 header's. */
export function headerClusterSize(name: string, head: Uint8Array): number {
  if (head.length < Fixed2.size || new DataView(head.buffer, head.byteOffset).getUint32(0) !== MAGIC) {
    throw refuse(name, 'it is no qcow2 image')
  }
  const { version, clusterBits } = Fixed2.read(head)
  if (version !== 2 && version !== 3) throw refuse(name, `its qcow2 version is ${version}, must be 2 or 3`, 'ENOTSUP')
  if (clusterBits < 9 || clusterBits > 21) throw refuse(name, `cluster_bits is ${clusterBits}, must be 9 to 21`)
  return 2 ** clusterBits
}

/** Reads the header from the image's first cluster. */
export function readHeader(name: string, cluster: Uint8Array): Header {
  const clusterSize = headerClusterSize(name, cluster)
  const fixed = Fixed2.read(cluster)
  const header: Header = {
    version: fixed.version as 2 | 3,
    backingOffset: fixed.backingOffset,
    backingSize: fixed.backingSize,
    clusterBits: fixed.clusterBits,
    size: fixed.size,
    cryptMethod: fixed.cryptMethod,
    l1Size: fixed.l1Size,
    l1Offset: fixed.l1Offset,
    refcountTableOffset: fixed.refcountTableOffset,
    refcountTableClusters: fixed.refcountTableClusters,
    snapshotCount: fixed.snapshotCount,
    snapshotsOffset: fixed.snapshotsOffset,
    incompatible: 0n,
    compatible: 0n,
    autoclear: 0n,
    refcountOrder: 4,
    headerLength: Fixed2.size,
    compressionType: 'zlib',
    rest: new Uint8Array(0),
    unknown: [],
  }
  if (header.version === 3) {
    if (cluster.length < Fixed2.size + Fixed3.size) throw refuse(name, 'the file ends inside the header')
    Object.assign(header, Fixed3.read(cluster, Fixed2.size))
    readVersion3(name, cluster, clusterSize, header)
  }
  const { backingOffset, backingSize } = fixed
  if (backingOffset !== 0) {
    if (backingOffset > clusterSize)
      throw refuse(name, `backing_file_offset is ${backingOffset}, past the first cluster`)
    if (backingSize > Math.min(MAX_BACKING_NAME, clusterSize - backingOffset)) {
      throw refuse(name, `backing_file_size is ${backingSize}, too long`)
    }
    if (backingOffset + backingSize > cluster.length) throw refuse(name, 'the file ends inside the backing file name')
    if (backingSize > 0) header.backingFile = text.decode(cluster.subarray(backingOffset, backingOffset + backingSize))
  }
  readExtensions(name, cluster, header, backingOffset === 0 ? cluster.length : Math.min(backingOffset, cluster.length))
  checkHeader(name, header)
  return header
}

function readVersion3(name: string, cluster: Uint8Array, clusterSize: number, header: Header): void {
  const { headerLength } = header
  const known = Fixed2.size + Fixed3.size
  if (headerLength < known || headerLength > clusterSize || headerLength > cluster.length) {
    throw refuse(name, `header_length is ${headerLength}, must be ${known} to ${clusterSize}`)
  }
  const type = headerLength > known ? CompressionType.read(cluster, known).compressionType : 0
  if (type > 1) throw refuse(name, `its compression type is ${type}, not known`, 'ENOTSUP')
  header.compressionType = type === 1 ? 'zstd' : 'zlib'
  header.rest = cluster.slice(Math.min(known + 8, headerLength), headerLength)
  if ((type !== 0) !== ((header.incompatible & INCOMPATIBLE_COMPRESSION) !== 0n)) {
    throw refuse(name, `its compression type is ${type}, but its incompatible features say otherwise`)
  }
}

function readExtensions(name: string, cluster: Uint8Array, header: Header, end: number): void {
  let features: Uint8Array | undefined
  for (let at = header.headerLength; at + ExtensionHead.size <= end; ) {
    const { type, length } = ExtensionHead.read(cluster, at)
    at += ExtensionHead.size
    if (type === EXTENSION_END) break
    if (length > end - at)
      throw refuse(name, `header extension 0x${type.toString(16)} is ${length} bytes long, too long`)
    const data = cluster.slice(at, at + length)
    at += Math.ceil(length / 8) * 8
    if (type === EXTENSION_BACKING_FORMAT) header.backingFormat = text.decode(data)
    else if (type === EXTENSION_DATA_FILE) header.dataFile = text.decode(data)
    else if (type === EXTENSION_FEATURE_NAMES) features = data
    else if (type === EXTENSION_BITMAPS && header.version === 3) {
      if (length !== BitmapsExtension.size)
        throw refuse(name, `its bitmaps extension is ${length} bytes long, must be 24`)
      header.bitmaps = BitmapsExtension.read(data)
    } else header.unknown.push({ type, data })
  }
  const strange = header.incompatible & ~KNOWN_INCOMPATIBLE
  if (strange !== 0n) throw refuse(name, `it needs ${featureNames(strange, features)}, not known`, 'ENOTSUP')
}

/** Names of incompatible features from the image's own table (type, bit, name of 46 bytes). */
function featureNames(bits: bigint, table: Uint8Array | undefined): string {
  const names: string[] = []
  for (let bit = 0; bit < 64; bit++) {
    if (((bits >> BigInt(bit)) & 1n) === 0n) continue
    let found = `incompatible feature bit ${bit}`
    for (let at = 0; table !== undefined && at + 48 <= table.length; at += 48) {
      if (table[at] !== 0 || table[at + 1] !== bit) continue
      const name = text.decode(table.subarray(at + 2, at + 48)).replace(/\0.*$/s, '')
      if (name !== '') found = `"${name.replace(/[^\x20-\x7e]/g, '?')}"`
    }
    names.push(found)
  }
  return names.join(', ')
}

function checkHeader(name: string, header: Header): void {
  const clusterSize = 2 ** header.clusterBits
  const { incompatible, l1Size, refcountTableClusters } = header
  const placed = (what: string, offset: number) => {
    if (!Number.isSafeInteger(offset) || offset % clusterSize !== 0) {
      throw refuse(name, `${what} is ${offset}, must be a multiple of the cluster size`)
    }
  }
  if (header.cryptMethod !== 0) {
    if (header.cryptMethod > 2) throw refuse(name, `crypt_method is ${header.cryptMethod}, not known`)
    throw refuse(name, `it is encrypted (${header.cryptMethod === 1 ? 'AES' : 'LUKS'}), not supported`, 'ENOTSUP')
  }
  if (header.refcountOrder > 6) throw refuse(name, `refcount_order is ${header.refcountOrder}, must be 0 to 6`)
  if (!Number.isSafeInteger(header.size)) throw refuse(name, `its size is ${header.size} bytes, too large`)
  if ((incompatible & INCOMPATIBLE_EXTENDED_L2) !== 0n && header.clusterBits < 14) {
    throw refuse(name, `cluster_bits is ${header.clusterBits}, but extended L2 entries need at least 14`)
  }
  placed('refcount_table_offset', header.refcountTableOffset)
  if (header.refcountTableOffset === 0) throw refuse(name, 'it has no refcount table')
  if (refcountTableClusters === 0 || refcountTableClusters * clusterSize > MAX_REFCOUNT_TABLE_BYTES) {
    throw refuse(name, `its refcount table takes ${refcountTableClusters} clusters, must be 1 to 8 MiB`)
  }
  placed('l1_table_offset', header.l1Offset)
  if (l1Size * 8 > MAX_L1_BYTES) throw refuse(name, `its L1 table has ${l1Size} entries, too many`)
  if (l1Size < l1EntriesFor(header, header.size)) throw refuse(name, `its L1 table of ${l1Size} entries is too small`)
  placed('snapshots_offset', header.snapshotsOffset)
  if (header.snapshotCount > MAX_SNAPSHOTS) throw refuse(name, `it has ${header.snapshotCount} snapshots, too many`)
}

/** Bytes of an L2 entry. */
export function l2EntrySize(header: Header): number {
  return (header.incompatible & INCOMPATIBLE_EXTENDED_L2) !== 0n ? 16 : 8
}

/** Entries of an L1 table for a disk of `size` bytes. */
export function l1EntriesFor(header: Header, size: number): number {
  const clusterSize = 2 ** header.clusterBits
  return Math.ceil(size / (clusterSize * (clusterSize / l2EntrySize(header))))
}

/** The fixed part of the header, without extensions: what an update in place writes. It lies within one 512-byte sector. */
export function fixedBytes(header: Header): Uint8Array {
  const fixed = Fixed2.bytes({ ...header, magic: MAGIC })
  if (header.version === 2) return fixed
  const bytes = new Uint8Array(header.headerLength)
  bytes.set(fixed)
  Fixed3.write(bytes, header, Fixed2.size)
  const known = Fixed2.size + Fixed3.size
  if (header.headerLength > known) {
    CompressionType.write(bytes, { compressionType: header.compressionType === 'zstd' ? 1 : 0 }, known)
    bytes.set(header.rest, known + 8)
  }
  return bytes
}

const FEATURES: readonly (readonly [type: 0 | 1 | 2, bit: number, name: string])[] = [
  [0, 0, 'dirty bit'],
  [0, 1, 'corrupt bit'],
  [0, 2, 'external data file'],
  [0, 3, 'compression type'],
  [0, 4, 'extended L2 entries'],
  [1, 0, 'lazy refcounts'],
  [2, 0, 'bitmaps'],
  [2, 1, 'raw external data'],
]

function featureTable(): Uint8Array {
  const table = new Uint8Array(FEATURES.length * 48)
  FEATURES.forEach(([type, bit, name], index) => {
    table[index * 48] = type
    table[index * 48 + 1] = bit
    table.set(ascii.encode(name), index * 48 + 2)
  })
  return table
}

/** What a power cut does not tear, bytes. */
export const SECTOR = 512

/**
 * The header's whole cluster: fixed part, extensions, backing file name, whose place it notes in `header`. All but a long name is
 * in the first 512 bytes, which a power cut does not tear; such a name avoids the place of the one that `header` has. `end` is
 * where the extensions end.
 */
export function headerCluster(name: string, header: Header): { cluster: Uint8Array; end: number } {
  const cluster = new Uint8Array(2 ** header.clusterBits)
  const extensions: Extension[] = []
  if (header.bitmaps !== undefined) {
    extensions.push({ type: EXTENSION_BITMAPS, data: BitmapsExtension.bytes(header.bitmaps) })
  }
  if (header.backingFormat !== undefined) {
    extensions.push({ type: EXTENSION_BACKING_FORMAT, data: ascii.encode(header.backingFormat) })
  }
  if (header.dataFile !== undefined) extensions.push({ type: EXTENSION_DATA_FILE, data: ascii.encode(header.dataFile) })
  extensions.push(...header.unknown)
  const backing = ascii.encode(header.backingFile ?? '')
  const needed = (list: readonly Extension[]) =>
    list.reduce((sum, { data }) => sum + ExtensionHead.size + Math.ceil(data.length / 8) * 8, ExtensionHead.size)
  if (header.version === 3) {
    // Names for people; an image that needs the room for other things does without.
    const features = { type: EXTENSION_FEATURE_NAMES, data: featureTable() }
    if (header.headerLength + needed([...extensions, features]) + backing.length <= SECTOR) extensions.push(features)
  }
  const end = header.headerLength + needed(extensions)
  const at = nameOffset(header, end, backing.length, cluster.length)
  if (backing.length > MAX_BACKING_NAME || end > cluster.length || at === undefined) {
    throw new BlockError('EINVAL', `Cannot write the header of ${name}: its names are too long`)
  }
  let next = header.headerLength
  for (const { type, data } of extensions) {
    ExtensionHead.write(cluster, { type, length: data.length }, next)
    cluster.set(data, next + ExtensionHead.size)
    next += ExtensionHead.size + Math.ceil(data.length / 8) * 8
  }
  cluster.set(backing, at)
  header.backingOffset = backing.length === 0 ? 0 : at
  header.backingSize = backing.length
  cluster.set(fixedBytes(header))
  return { cluster, end }
}

/** Where a backing file's name goes: with the rest if it fits there, else where the present one is not. */
function nameOffset(header: Header, end: number, length: number, limit: number): number | undefined {
  if (end + length <= SECTOR) return end
  const first = Math.max(end, SECTOR)
  const used = header.backingOffset
  const clear = (at: number) => at + length <= used || at >= used + header.backingSize
  return [first, used + header.backingSize, end].find((at) => at >= end && clear(at) && at + length <= limit)
}
