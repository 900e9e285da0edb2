/** QED: two levels of tables, no refcounts, and a bit that says that the image was not closed properly. */
import type { BlockDevice } from '../../device.ts'
import { BlockError } from '../../error.ts'
import type { FormatDriver } from '../../format.ts'
import { bytesVec } from '../../iovec.ts'
import { ImageDevice, readPadded } from '../../mover.ts'
import { after, rescue } from '../../now.ts'
import { TwoLevelImage } from '../../twolevel.ts'
import { checkQed } from './check.ts'
import {
  FEATURE_BACKING,
  FEATURE_BACKING_RAW,
  FEATURE_NEED_CHECK,
  fixedBytes,
  flaw,
  headerBytes,
  isQed,
  largestDisk,
  type QedHeader,
  readHeader,
  tableEntries,
} from './header.ts'

const DEFAULT_LIMIT = 32 << 20
const DEFAULT_CLUSTER = 65536
const DEFAULT_TABLE = 4
/**
 * Where tables are multiples of this, bytes, the header of a new image is one too, so that long writes go to the like: the host's
 * page cache takes an aligned write in one piece.
 */
const ALIGNED = 256 << 10

/** What an image is opened with. */
export interface QedOptions {
  readonly name: string
  readonly readOnly?: boolean
  readonly backing?: BlockDevice
  /** Most memory for tables, bytes; 32 MiB unless given. */
  readonly metadataLimit?: number
}

/** How an image is to be. */
export interface QedCreateOptions {
  readonly name: string
  /** Size of the disk, bytes, a multiple of 512. */
  readonly size: number
  /** Bytes of a cluster: a power of two from 4096 to 64 MiB, default 65536. */
  readonly clusterSize?: number
  /** Clusters of a table: 1, 2, 4, 8 or 16, default 4. */
  readonly tableSize?: number
  readonly backingFile?: string
  readonly backingFmt?: string
}

/** Reads an image's header. */
export async function readQedHeader(name: string, file: BlockDevice): Promise<QedHeader> {
  const head = new Uint8Array(Math.min(4096, file.size))
  await file.read(0, bytesVec(head))
  return readHeader(name, head, file.size)
}

/** Opens an image whose header has been read; one that was not closed properly is checked and repaired first. */
export async function openQed(file: BlockDevice, header: QedHeader, options: QedOptions): Promise<TwoLevelImage> {
  const { name } = options
  const readOnly = options.readOnly ?? file.readOnly
  if ((header.features & FEATURE_NEED_CHECK) !== 0n && !readOnly) {
    const found = await checkQed(name, file, header, 'all')
    if (found.corruptions > 0) {
      throw new BlockError('EIO', `Cannot open ${name}: it was not closed properly, and cannot be repaired`)
    }
  }
  const entries = tableEntries(header)
  const { clusterSize, l1Offset } = header
  const tables = (size: number) => Math.ceil(size / (entries * clusterSize))
  // The table may have room for far more than the disk needs; all that may ever be needed is a resize away.
  const l1 = new Uint8Array(Math.min(entries, Math.max(tables(header.size), 65536)) * 8)
  await readPadded(file, l1Offset, bytesVec(l1))
  const writeHeader = () => file.write(0, bytesVec(fixedBytes(header)))
  const format = {
    name,
    file,
    readOnly,
    order: 'le' as const,
    clusterSize,
    size: header.size,
    l1Offset,
    l1,
    l2Entries: entries,
    limit: options.metadataLimit ?? DEFAULT_LIMIT,
    decode(high: number, low: number) {
      if (high === 0 && low <= 1) return low === 0 ? ({ kind: 'hole' } as const) : ({ kind: 'zero' } as const)
      return { kind: 'raw', at: high * 2 ** 32 + low } as const
    },
    zeroEntry: 1,
    beforeLinks() {
      if ((header.features & FEATURE_NEED_CHECK) !== 0n) return
      header.features |= FEATURE_NEED_CHECK
      return rescue(writeHeader, (error) => {
        header.features &= ~FEATURE_NEED_CHECK
        throw error
      })
    },
    settled() {
      if ((header.features & FEATURE_NEED_CHECK) === 0n) return
      header.features &= ~FEATURE_NEED_CHECK
      return after(writeHeader(), () => file.flush())
    },
    resize(size: number) {
      const larger = { ...header, size }
      if (size < header.size) throw new BlockError('ENOTSUP', `Cannot shrink ${name}: QED images only grow`)
      const wrong = flaw(larger)
      if (wrong !== undefined || tables(size) * 8 > l1.length) {
        throw new BlockError('EINVAL', `Cannot resize ${name}: ${wrong ?? 'its L1 table is too small'}`)
      }
      header.size = size
      format.size = size
      return after(writeHeader(), () => file.flush())
    },
    async nameBacking(backingFile: string | undefined, backingFmt: string | undefined) {
      const before = { ...header }
      const rest = header.features & ~(FEATURE_BACKING | FEATURE_BACKING_RAW)
      const bytes = headerBytes(name, {
        ...header,
        features:
          rest | (backingFile === undefined ? 0n : FEATURE_BACKING) | (backingFmt === 'raw' ? FEATURE_BACKING_RAW : 0n),
        backingFile,
      })
      // A power cut tears what is longer than a sector.
      if (bytes.length > 512)
        throw new BlockError('ENOTSUP', `Cannot change the backing file of ${name}: its name is too long`)
      try {
        Object.assign(header, readHeader(name, bytes, file.size), { backingFile })
        await file.write(0, bytesVec(bytes))
        await file.flush()
      } catch (error) {
        Object.assign(header, before)
        throw error
      }
    },
  }
  const { backing } = options
  return new TwoLevelImage(backing === undefined ? format : Object.assign(format, { backing }))
}

/** Makes an empty image in `file`; it is durable when this completes. */
export async function createQed(file: BlockDevice, options: QedCreateOptions): Promise<void> {
  const { name, size, backingFile, backingFmt } = options
  const clusterSize = options.clusterSize ?? DEFAULT_CLUSTER
  const tableSize = options.tableSize ?? DEFAULT_TABLE
  const headerSize = (clusterSize * tableSize) % ALIGNED === 0 ? Math.max(1, ALIGNED / clusterSize) : 1
  const header: QedHeader = {
    clusterSize,
    tableSize,
    headerSize,
    features: (backingFile === undefined ? 0n : FEATURE_BACKING) | (backingFmt === 'raw' ? FEATURE_BACKING_RAW : 0n),
    compatFeatures: 0n,
    autoclearFeatures: 0n,
    l1Offset: headerSize * clusterSize,
    size,
    backingOffset: 0,
    backingSize: 0,
    backingFile,
  }
  const wrong = flaw(header)
  if (wrong !== undefined) {
    const most = Number.isFinite(largestDisk(header)) ? `, at most ${largestDisk(header)}` : ''
    throw new BlockError('EINVAL', `Cannot create ${name}: ${wrong}${wrong.includes('large') ? most : ''}`)
  }
  const bytes = headerBytes(name, header)
  await file.resize((headerSize + tableSize) * clusterSize)
  await file.zero(header.l1Offset, tableSize * clusterSize)
  await file.flush()
  await file.write(0, bytesVec(bytes))
  await file.flush()
}

export const qed = {
  name: 'qed',
  openOptions: ['metadataLimit'],
  createOptions: ['clusterSize', 'tableSize', 'backingFile', 'backingFmt'],
  probe: (head) => (isQed(head) ? 100 : 0),
  async open(file, { name, readOnly, gate, backing: given, options }) {
    const header = await readQedHeader(name, file)
    const { metadataLimit } = options
    if (metadataLimit !== undefined && !(typeof metadataLimit === 'number' && metadataLimit >= 0)) {
      throw new BlockError(
        'EINVAL',
        `Cannot open ${name}: metadataLimit is ${metadataLimit}, must be a number of bytes`,
      )
    }
    let backing = given
    if (backing === undefined && header.backingFile !== undefined) {
      const request = { purpose: 'backing file', readOnly: true } as const
      const raw = (header.features & FEATURE_BACKING_RAW) !== 0n
      backing = await gate.open(header.backingFile, raw ? { ...request, format: 'raw' } : request)
    }
    try {
      const parts = { name, readOnly, ...(metadataLimit === undefined ? {} : { metadataLimit }) }
      return new ImageDevice(await openQed(file, header, backing === undefined ? parts : { ...parts, backing }))
    } catch (error) {
      if (given === undefined) await backing?.close()
      throw error
    }
  },
  create: (file, { name, size, options }) => createQed(file, { ...options, name, size }),
} satisfies FormatDriver
