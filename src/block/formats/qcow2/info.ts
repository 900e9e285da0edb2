/** What tools tell about a qcow2 image; the names are those of `qemu-img info`, `snapshot` and `measure --output=json`. */
import type { BlockDevice } from '../../device.ts'
import { BITMAP_AUTO, BITMAP_IN_USE, type BitmapEntry, readBitmaps } from './bitmaptable.ts'
import { plannedHeader, type Qcow2CreateOptions } from './create.ts'
import {
  AUTOCLEAR_BITMAPS,
  AUTOCLEAR_DATA_FILE_RAW,
  COMPATIBLE_LAZY_REFCOUNTS,
  type Header,
  INCOMPATIBLE_CORRUPT,
  INCOMPATIBLE_DIRTY,
  l2EntrySize,
} from './header.ts'
import { readSnapshots, type Snapshot } from './snapshottable.ts'

/** A persistent bitmap as tools show it. */
export interface BitmapInfo {
  flags: ('in-use' | 'auto')[]
  name: string
  granularity: number
}

/** A snapshot as tools show it. */
export interface SnapshotInfo {
  id: string
  name: string
  'vm-state-size': number
  'date-sec': number
  'date-nsec': number
  'vm-clock-sec': number
  'vm-clock-nsec': number
  icount?: number
}

/** What is particular to the image. */
export interface Qcow2Info {
  'virtual-size': number
  'cluster-size': number
  'dirty-flag': boolean
  'backing-filename'?: string
  'backing-filename-format'?: string
  snapshots?: SnapshotInfo[]
  'format-specific': {
    type: 'qcow2'
    data: {
      compat: '0.10' | '1.1'
      'compression-type': 'zlib' | 'zstd'
      'lazy-refcounts'?: boolean
      'refcount-bits': number
      corrupt?: boolean
      'extended-l2'?: boolean
      'data-file'?: string
      'data-file-raw'?: boolean
      bitmaps?: BitmapInfo[]
    }
  }
}

/** Tells about the image in `file`. */
export async function infoQcow2(name: string, file: BlockDevice, header: Header): Promise<Qcow2Info> {
  const info: Qcow2Info = {
    'virtual-size': header.size,
    'cluster-size': 2 ** header.clusterBits,
    'dirty-flag': (header.incompatible & INCOMPATIBLE_DIRTY) !== 0n,
    'format-specific': {
      type: 'qcow2',
      data: {
        compat: header.version === 2 ? '0.10' : '1.1',
        'compression-type': header.compressionType,
        'refcount-bits': 2 ** header.refcountOrder,
      },
    },
  }
  if (header.backingFile !== undefined) info['backing-filename'] = header.backingFile
  if (header.backingFormat !== undefined) info['backing-filename-format'] = header.backingFormat
  const { snapshots } = await readSnapshots(name, file, header)
  if (snapshots.length > 0) info.snapshots = snapshots.map(snapshotInfo)
  if (header.version === 2) return info
  const { data } = info['format-specific']
  data['lazy-refcounts'] = (header.compatible & COMPATIBLE_LAZY_REFCOUNTS) !== 0n
  data.corrupt = (header.incompatible & INCOMPATIBLE_CORRUPT) !== 0n
  data['extended-l2'] = l2EntrySize(header) === 16
  if (header.dataFile !== undefined) {
    data['data-file'] = header.dataFile
    data['data-file-raw'] = (header.autoclear & AUTOCLEAR_DATA_FILE_RAW) !== 0n
  }
  if (header.bitmaps !== undefined && (header.autoclear & AUTOCLEAR_BITMAPS) !== 0n) {
    data.bitmaps = (await readBitmaps(name, file, header)).map(bitmapInfo)
  }
  return info
}

/** A bitmap as tools show it. */
export function bitmapInfo({ flags, name, granularityBits }: BitmapEntry): BitmapInfo {
  const shown: BitmapInfo['flags'] = []
  if (flags & BITMAP_IN_USE) shown.push('in-use')
  if (flags & BITMAP_AUTO) shown.push('auto')
  return { flags: shown, name, granularity: 2 ** granularityBits }
}

/** A snapshot as tools show it. */
export function snapshotInfo(snapshot: Snapshot): SnapshotInfo {
  const info: SnapshotInfo = {
    id: snapshot.id,
    name: snapshot.name,
    'vm-state-size': snapshot.vmStateSize,
    'date-sec': snapshot.dateSec,
    'date-nsec': snapshot.dateNsec,
    'vm-clock-sec': Math.floor(snapshot.vmClockNsec / 1e9),
    'vm-clock-nsec': snapshot.vmClockNsec % 1e9,
  }
  if (snapshot.extra.length >= 8) {
    const count = new DataView(snapshot.extra.buffer, snapshot.extra.byteOffset).getBigUint64(0)
    if (count !== 0xffff_ffff_ffff_ffffn) info.icount = Number(count)
  }
  return info
}

/** How large a file will get. */
export interface Measurement {
  /** Bytes for the data there is, and all metadata. */
  required: number
  /** Bytes once everything has been written. */
  'fully-allocated': number
}

/** How large the file of a new image gets that is to hold `data` bytes of data (default none), in whole clusters. */
export function measureQcow2(options: Qcow2CreateOptions, data = 0): Measurement {
  const header = plannedHeader(options)
  const clusterSize = 2 ** header.clusterBits
  const up = (value: number, unit: number) => Math.ceil(value / unit) * unit
  const size = up(header.size, clusterSize)
  const entrySize = l2EntrySize(header)
  const entries = up(size / clusterSize, clusterSize / entrySize)
  const tables = up((entries * entrySize) / clusterSize, clusterSize / 8)
  const mapped = clusterSize + entries * entrySize + tables * 8
  const external = options.dataFile !== undefined
  const clusters = (mapped + (external ? 0 : size)) / clusterSize
  const perBlock = (clusterSize * 8) / 2 ** header.refcountOrder
  let table = 0
  let blocks = 0
  for (let last = -1; last !== table + blocks; ) {
    last = table + blocks
    blocks = Math.ceil((clusters + table + blocks) / perBlock)
    table = Math.ceil(blocks / (clusterSize / 8))
  }
  const metadata = mapped + (blocks + table) * clusterSize
  return external
    ? { required: metadata, 'fully-allocated': metadata }
    : { required: metadata + data, 'fully-allocated': metadata + size }
}
