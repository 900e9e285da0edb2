/** qcow, version 1: two levels of tables, compression, no refcounts. All numbers are big-endian. */
import * as codecs from '../../codecs/index.ts'
import type { BlockDevice } from '../device.ts'
import { BlockError } from '../error.ts'
import type { FormatDriver } from '../format.ts'
import { bytesVec } from '../iovec.ts'
import { layout, type Of, u8, u16, u32, u64 } from '../layout.ts'
import { ImageDevice, readPadded } from '../mover.ts'
import type { Entry } from '../twolevel.ts'
import { TwoLevelImage } from '../twolevel.ts'

const MAGIC = 0x514649fb // "QFI\xfb"

const Fixed = layout('be', {
  magic: u32,
  version: u32,
  backingOffset: u64,
  backingSize: u32,
  mtime: u32,
  size: u64,
  clusterBits: u8,
  l2Bits: u8,
  padding: u16,
  cryptMethod: u32,
  l1Offset: u64,
})

const MAX_L1_BYTES = 32 << 20
const MAX_NAME = 1023
const WINDOW_BITS = 12
const DEFAULT_LIMIT = 32 << 20
const COMPRESSED_HIGH = 0x80000000

/** A header and the name of its backing file. */
export interface QcowHeader extends Of<typeof Fixed> {
  backingFile?: string
}

/** What an image is opened with. */
export interface QcowOptions {
  readonly name: string
  readonly readOnly?: boolean
  readonly backing?: BlockDevice
  /** Most memory for tables, bytes; 32 MiB unless given. */
  readonly metadataLimit?: number
}

/** How an image is to be. */
export interface QcowCreateOptions {
  readonly name: string
  /** Size of the disk, bytes. */
  readonly size: number
  readonly backingFile?: string
  readonly backingFmt?: string
}

function isQcow(head: Uint8Array): boolean {
  if (head.length < 8) return false
  const view = new DataView(head.buffer, head.byteOffset)
  return view.getUint32(0) === MAGIC && view.getUint32(4) === 1
}

function l1Entries(header: Pick<QcowHeader, 'size' | 'clusterBits' | 'l2Bits'>): number {
  return Math.ceil(header.size / 2 ** (header.clusterBits + header.l2Bits))
}

/** Reads an image's header, with every bound checked. */
export async function readQcowHeader(name: string, file: BlockDevice): Promise<QcowHeader> {
  const refuse = (why: string, code: 'EINVAL' | 'ENOTSUP' = 'EINVAL') =>
    new BlockError(code, `Cannot open ${name}: ${why}`)
  const head = new Uint8Array(Fixed.size)
  if (file.size < Fixed.size) throw refuse('it is no qcow image')
  await file.read(0, bytesVec(head))
  if (!isQcow(head)) throw refuse('it is no qcow image of version 1')
  const header: QcowHeader = Fixed.read(head)
  const { clusterBits, l2Bits, size, backingOffset, backingSize, l1Offset } = header
  if (size <= 1) throw refuse(`its size is ${size} bytes, too small`)
  if (clusterBits < 9 || clusterBits > 16) throw refuse(`cluster_bits is ${clusterBits}, must be 9 to 16`)
  // An L2 table of 512 bytes to 64 KiB
  if (l2Bits < 6 || l2Bits > 13) throw refuse(`l2_bits is ${l2Bits}, must be 6 to 13`)
  if (header.cryptMethod === 1) throw refuse('it is encrypted (AES), not supported', 'ENOTSUP')
  if (header.cryptMethod !== 0) throw refuse(`crypt_method is ${header.cryptMethod}, not known`)
  if (!Number.isSafeInteger(size) || l1Entries(header) * 8 > MAX_L1_BYTES)
    throw refuse(`its size is ${size} bytes, too large`)
  if (!Number.isSafeInteger(l1Offset) || l1Offset % 8 !== 0 || l1Offset === 0 || l1Offset >= file.size) {
    throw refuse(`its L1 table is at ${l1Offset}, which cannot be`)
  }
  if (backingOffset === 0) return header
  if (backingSize > MAX_NAME || !(backingOffset + backingSize <= file.size)) {
    throw refuse('the name of its backing file is too long')
  }
  if (backingSize === 0) return header
  const text = new Uint8Array(backingSize)
  await file.read(backingOffset, bytesVec(text))
  return { ...header, backingFile: new TextDecoder().decode(text) }
}

/** Opens an image whose header has been read. */
export async function openQcow(file: BlockDevice, header: QcowHeader, options: QcowOptions): Promise<TwoLevelImage> {
  const { name } = options
  const clusterSize = 2 ** header.clusterBits
  const l1 = new Uint8Array(l1Entries(header) * 8)
  await readPadded(file, header.l1Offset, bytesVec(l1))
  // Compressed: bit 63, then the length in cluster_bits bits, then the offset.
  const highBits = 31 - header.clusterBits
  return new TwoLevelImage({
    name,
    file,
    readOnly: options.readOnly ?? file.readOnly,
    order: 'be',
    clusterSize,
    size: header.size,
    l1Offset: header.l1Offset,
    l1,
    l2Entries: 2 ** header.l2Bits,
    limit: options.metadataLimit ?? DEFAULT_LIMIT,
    decode(high, low): Entry {
      if (high >>> 31 === 1) {
        const length = (high >>> highBits) & (clusterSize - 1)
        return { kind: 'packed', at: (high & (2 ** highBits - 1)) * 2 ** 32 + low, length }
      }
      return high === 0 && low === 0 ? { kind: 'hole' } : { kind: 'raw', at: high * 2 ** 32 + low }
    },
    packedEntry: (at, length) => ({
      high: (COMPRESSED_HIGH | (length << highBits) | Math.floor(at / 2 ** 32)) >>> 0,
      low: at >>> 0,
    }),
    unpack(bytes) {
      const cluster = new Uint8Array(clusterSize)
      if (codecs.inflateInto(bytes, cluster) !== clusterSize) throw new BlockError('EIO', 'it ends early')
      return cluster
    },
    pack: (bytes) => codecs.deflateWithin(bytes, clusterSize - 1, { windowBits: WINDOW_BITS }),
    ...(options.backing === undefined ? {} : { backing: options.backing }),
  })
}

/** Makes an empty image in `file`; it is durable when this completes. */
export async function createQcow(file: BlockDevice, options: QcowCreateOptions): Promise<void> {
  const { name, size, backingFile } = options
  const text = new TextEncoder().encode(backingFile ?? '')
  if (text.length > MAX_NAME)
    throw new BlockError('EINVAL', `Cannot create ${name}: the backing file's name is too long`)
  if (!Number.isSafeInteger(size) || size <= 1)
    throw new BlockError('EINVAL', `Cannot create ${name}: its size is ${size}`)
  const header: QcowHeader = {
    magic: MAGIC,
    version: 1,
    backingOffset: text.length === 0 ? 0 : Fixed.size,
    backingSize: text.length,
    mtime: 0,
    size: Math.ceil(size / 512) * 512,
    // Small clusters over a backing file, so that little is copied up.
    clusterBits: text.length === 0 ? 12 : 9,
    l2Bits: text.length === 0 ? 9 : 12,
    padding: 0,
    cryptMethod: 0,
    l1Offset: Math.ceil((Fixed.size + text.length) / 8) * 8,
  }
  if (l1Entries(header) * 8 > MAX_L1_BYTES)
    throw new BlockError('EFBIG', `Cannot create ${name}: ${size} bytes are too many`)
  const end = header.l1Offset + l1Entries(header) * 8
  await file.resize(Math.ceil(end / 512) * 512)
  await file.zero(0, file.size)
  const bytes = new Uint8Array(Fixed.size + text.length)
  Fixed.write(bytes, header)
  bytes.set(text, Fixed.size)
  await file.write(0, bytesVec(bytes))
  await file.flush()
}

export const qcow = {
  name: 'qcow',
  openOptions: ['metadataLimit'],
  createOptions: ['backingFile', 'backingFmt'],
  probe: (head) => (isQcow(head) ? 100 : 0),
  async open(file, { name, readOnly, gate, backing: given, options }) {
    const header = await readQcowHeader(name, file)
    const { metadataLimit } = options
    if (metadataLimit !== undefined && !(typeof metadataLimit === 'number' && metadataLimit >= 0)) {
      throw new BlockError(
        'EINVAL',
        `Cannot open ${name}: metadataLimit is ${metadataLimit}, must be a number of bytes`,
      )
    }
    let backing = given
    if (backing === undefined && header.backingFile !== undefined) {
      backing = await gate.open(header.backingFile, { purpose: 'backing file', readOnly: true })
    }
    try {
      const parts = { name, readOnly, ...(metadataLimit === undefined ? {} : { metadataLimit }) }
      return new ImageDevice(await openQcow(file, header, backing === undefined ? parts : { ...parts, backing }))
    } catch (error) {
      if (given === undefined) await backing?.close()
      throw error
    }
  },
  create: (file, { name, size, options }) => createQcow(file, { ...options, name, size }),
} satisfies FormatDriver
