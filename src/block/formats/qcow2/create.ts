/** Makes an empty qcow2 image. */
import type { BlockDevice } from '../../device.ts'
import { BlockError } from '../../error.ts'
import { bytesVec } from '../../iovec.ts'
import {
  AUTOCLEAR_DATA_FILE_RAW,
  COMPATIBLE_LAZY_REFCOUNTS,
  type Header,
  headerCluster,
  INCOMPATIBLE_COMPRESSION,
  INCOMPATIBLE_DATA_FILE,
  INCOMPATIBLE_EXTENDED_L2,
  l1EntriesFor,
  MAX_L1_BYTES,
} from './header.ts'
import { maxCount, writeCount } from './refcounts.ts'

/** How an image is to be; each with the meaning and the default of the option of that name. */
export interface Qcow2CreateOptions {
  readonly name: string
  /** Size of the disk, bytes. */
  readonly size: number
  /** `1.1` (version 3, the default) or `0.10` (version 2). */
  readonly compat?: '0.10' | '1.1' | 'v2' | 'v3'
  /** Bytes of a cluster: a power of two from 512 to 2 MiB, default 65536. */
  readonly clusterSize?: number
  /** Bits of a refcount: a power of two from 1 to 64, default 16. */
  readonly refcountBits?: number
  readonly backingFile?: string
  readonly backingFmt?: string
  readonly dataFile?: string
  /** The data file alone is a complete image of the disk. */
  readonly dataFileRaw?: boolean
  readonly lazyRefcounts?: boolean
  readonly extendedL2?: boolean
  readonly compressionType?: 'zlib' | 'zstd'
}

const DEFAULT_CLUSTER = 65536

/** The header of an image that is to be made. EINVAL for what cannot be. */
export function plannedHeader(options: Qcow2CreateOptions): Header {
  const refuse = (why: string) => new BlockError('EINVAL', `Cannot create ${options.name}: ${why}`)
  const compat = options.compat ?? '1.1'
  const version = compat === '0.10' || compat === 'v2' ? 2 : 3
  const clusterSize = options.clusterSize ?? DEFAULT_CLUSTER
  const clusterBits = Math.log2(clusterSize)
  if (!Number.isInteger(clusterBits) || clusterBits < 9 || clusterBits > 21) {
    throw refuse(`the cluster size is ${clusterSize}, must be a power of two from 512 to 2097152`)
  }
  const refcountOrder = Math.log2(options.refcountBits ?? 16)
  if (!Number.isInteger(refcountOrder) || refcountOrder < 0 || refcountOrder > 6) {
    throw refuse(`the refcount width is ${options.refcountBits}, must be a power of two from 1 to 64`)
  }
  if (!Number.isSafeInteger(options.size) || options.size < 0) throw refuse(`its size is ${options.size} bytes`)
  if (version === 2) {
    const needs: readonly (readonly [boolean | undefined, string])[] = [
      [refcountOrder !== 4, 'a refcount width other than 16'],
      [options.lazyRefcounts, 'lazy refcounts'],
      [options.extendedL2, 'extended L2 entries'],
      [options.dataFile !== undefined, 'an external data file'],
      [options.compressionType === 'zstd', 'zstd compression'],
    ]
    for (const [wanted, what] of needs) if (wanted) throw refuse(`${what} needs compat=1.1`)
  }
  if (options.extendedL2 && clusterBits < 14) throw refuse('extended L2 entries need clusters of at least 16384 bytes')
  if (options.dataFileRaw && options.dataFile === undefined) throw refuse('data_file_raw needs data_file')
  if (options.dataFileRaw && options.backingFile !== undefined) throw refuse('data_file_raw cannot have a backing file')
  if (options.backingFmt !== undefined && options.backingFile === undefined) {
    throw refuse('a backing format needs a backing file')
  }
  const header: Header = {
    version,
    backingOffset: 0,
    backingSize: 0,
    clusterBits,
    size: options.size,
    cryptMethod: 0,
    l1Size: 0,
    l1Offset: 0,
    refcountTableOffset: clusterSize,
    refcountTableClusters: 1,
    snapshotCount: 0,
    snapshotsOffset: 0,
    incompatible:
      (options.dataFile === undefined ? 0n : INCOMPATIBLE_DATA_FILE) |
      (options.extendedL2 ? INCOMPATIBLE_EXTENDED_L2 : 0n) |
      (options.compressionType === 'zstd' ? INCOMPATIBLE_COMPRESSION : 0n),
    compatible: options.lazyRefcounts ? COMPATIBLE_LAZY_REFCOUNTS : 0n,
    autoclear: options.dataFileRaw ? AUTOCLEAR_DATA_FILE_RAW : 0n,
    refcountOrder,
    headerLength: version === 3 ? 112 : 72,
    compressionType: options.compressionType ?? 'zlib',
    rest: new Uint8Array(0),
    backingFile: options.backingFile,
    backingFormat: options.backingFmt,
    dataFile: options.dataFile,
    unknown: [],
  }
  header.l1Size = Math.max(1, l1EntriesFor(header, options.size))
  if (header.l1Size * 8 > MAX_L1_BYTES) {
    throw new BlockError(
      'EFBIG',
      `Cannot create ${options.name}: ${options.size} bytes are too many for clusters of ${clusterSize} bytes`,
    )
  }
  return header
}

/** Makes an empty image in `file`; it is durable when this completes. */
export async function createQcow2(file: BlockDevice, options: Qcow2CreateOptions): Promise<Header> {
  const header = plannedHeader(options)
  const clusterSize = 2 ** header.clusterBits
  const perBlock = (clusterSize * 8) / 2 ** header.refcountOrder
  const l1Clusters = Math.ceil((header.l1Size * 8) / clusterSize)
  let tableClusters = 1
  let blocks = 1
  for (;;) {
    const clusters = 1 + tableClusters + blocks + l1Clusters
    const needed = Math.ceil(clusters / perBlock)
    const table = Math.ceil((needed * 8) / clusterSize)
    if (needed <= blocks && table <= tableClusters) break
    blocks = Math.max(blocks, needed)
    tableClusters = Math.max(tableClusters, table)
  }
  const clusters = 1 + tableClusters + blocks + l1Clusters
  header.refcountTableClusters = tableClusters
  header.l1Offset = (1 + tableClusters + blocks) * clusterSize
  const table = new Uint8Array(tableClusters * clusterSize)
  const view = new DataView(table.buffer)
  const counts = new Uint8Array(blocks * clusterSize)
  for (let block = 0; block < blocks; block++) {
    view.setBigUint64(block * 8, BigInt((1 + tableClusters + block) * clusterSize))
    const bytes = counts.subarray(block * clusterSize, (block + 1) * clusterSize)
    const used = Math.min(perBlock, clusters - block * perBlock)
    for (let index = 0; index < used; index++)
      writeCount(bytes, header.refcountOrder, index, Math.min(1, maxCount(header.refcountOrder)))
  }
  await file.resize(clusters * clusterSize)
  await file.write(clusterSize, bytesVec(table, counts))
  await file.zero(header.l1Offset, l1Clusters * clusterSize)
  await file.flush()
  // The header last: a file that is cut off in the making is no image.
  await file.write(0, bytesVec(headerCluster(options.name, header).cluster))
  await file.flush()
  return header
}
