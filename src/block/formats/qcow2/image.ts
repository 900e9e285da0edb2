/** An open qcow2 image: its parts put together, without any data movement of its own. */
import type { BlockDevice } from '../../device.ts'
import { BlockError } from '../../error.ts'
import type { Allocation, Image, Mapping, PackedAllocation } from '../../image.ts'
import { bytesVec } from '../../iovec.ts'
import { readPadded } from '../../mover.ts'
import { after, type Now, rescue } from '../../now.ts'
import { Traffic } from '../../traffic.ts'
import { Allocator } from './allocator.ts'
import { ClusterMap } from './clusters.ts'
import { type Barrier, Commit } from './commit.ts'
import {
  AUTOCLEAR_BITMAPS,
  AUTOCLEAR_DATA_FILE_RAW,
  type Header,
  headerClusterSize,
  INCOMPATIBLE_CORRUPT,
  INCOMPATIBLE_DATA_FILE,
  readHeader,
} from './header.ts'
import { type ClusterCodecs, Packer } from './packed.ts'
import { Placed } from './placed.ts'
import { Refcounts } from './refcounts.ts'

/** Memory for metadata unless an option says otherwise, bytes. */
export const DEFAULT_METADATA_LIMIT = 32 << 20

/** What an image is opened with. */
export interface Qcow2Options {
  /** What messages call the image. */
  readonly name: string
  readonly readOnly?: boolean
  /** The backing layer; closed with the image. */
  readonly backing?: BlockDevice
  /** The external data file; closed with the image. */
  readonly dataFile?: BlockDevice
  readonly codecs?: ClusterCodecs
  /** Most memory for metadata, bytes; 32 MiB unless given. */
  readonly metadataLimit?: number
  /** Whether clusters that are given back are punched out of the file; true unless given. */
  readonly punch?: boolean
  /** Takes the place of every barrier of a commit; for tests, which leave one out. */
  readonly barrier?: (barrier: Barrier, flush: () => Now<void>) => Now<void>
}

/** An open qcow2 image. */
export class Qcow2Image implements Image {
  readonly name: string
  readonly clusterSize: number
  readonly file: BlockDevice
  readonly backing?: BlockDevice
  readonly dataFile: BlockDevice | undefined
  readonly traffic = new Traffic()
  readonly header: Header
  readonly readOnly: boolean
  readonly counts: Refcounts
  readonly allocator: Allocator
  readonly clusters: ClusterMap
  readonly commit: Commit
  readonly #packer: Packer
  #damage: BlockError | undefined
  #marking: Now<void> = undefined

  constructor(file: BlockDevice, header: Header, l1: Uint8Array, table: Uint8Array, options: Qcow2Options) {
    this.name = options.name
    this.file = file
    this.header = header
    this.readOnly = options.readOnly ?? file.readOnly
    this.clusterSize = 2 ** header.clusterBits
    if (options.backing !== undefined) this.backing = options.backing
    this.dataFile = options.dataFile
    const limit = options.metadataLimit ?? DEFAULT_METADATA_LIMIT
    const corrupt = (what: string) => this.corrupt(what)
    this.counts = new Refcounts(this.name, file, header, table, limit / 4, corrupt)
    const placed = new Placed(this.clusterSize, placesOf(this.clusterSize, header, l1, table))
    this.allocator = new Allocator(this.name, file, this.counts, placed, { punch: options.punch ?? true })
    this.#packer = new Packer(this.name, file, header, options.codecs)
    this.clusters = new ClusterMap(
      {
        name: this.name,
        header,
        file,
        dataFile: this.dataFile,
        readOnly: this.readOnly,
        backingSize: this.backing?.size ?? 0,
        allocator: this.allocator,
        packer: this.#packer,
        placed,
        limit: (limit * 3) / 4,
        corrupt,
      },
      l1,
    )
    const { counts, clusters: map, allocator, traffic, dataFile } = this
    const { barrier } = options
    this.commit = new Commit({ file, dataFile, header, counts, map, allocator, traffic, barrier })
  }

  get size(): number {
    return this.header.size
  }

  /** Memory that metadata takes now, bytes. */
  get metadataCost(): number {
    return this.counts.cost + this.clusters.cost
  }

  map(at: number, length: number): Now<Mapping> {
    return this.clusters.map(at, length)
  }

  allocate(at: number, length: number): Now<Allocation> {
    return this.#writing(() => this.clusters.allocate(at, length))
  }

  pack(at: number, bytes: Uint8Array): Now<PackedAllocation | undefined> {
    return this.#writing(() => {
      if (this.dataFile !== undefined) return undefined
      let whole = bytes
      if (bytes.length < this.clusterSize) {
        whole = new Uint8Array(this.clusterSize)
        whole.set(bytes)
      }
      const packed = this.#packer.pack(whole)
      return packed === undefined ? undefined : this.clusters.allocatePacked(at, packed)
    })
  }

  zero(at: number, length: number, unmap: boolean): Now<boolean> {
    return this.#writing(() => this.clusters.zero(at, length, unmap))
  }

  discard(at: number, length: number): Now<void> {
    return this.#writing(() => this.clusters.discard(at, length))
  }

  flush(): Now<void> {
    if (this.readOnly) return
    return after(this.#marking, () => this.commit.flush())
  }

  async close(): Promise<void> {
    let failure: unknown
    const attempt = async (step: () => Now<void>) => {
      try {
        await step()
      } catch (error) {
        failure ??= error
      }
    }
    if (!this.readOnly) {
      await attempt(() => this.#marking)
      await attempt(() => this.commit.settle())
      await attempt(() => this.allocator.trim())
    }
    await attempt(() => this.file.close())
    await attempt(() => this.dataFile?.close())
    await attempt(() => this.backing?.close())
    if (failure !== undefined) throw failure
  }

  /** Notes that metadata is damaged: the image says so from now on, and takes no more writes. Gives the error to throw. */
  corrupt(what: string): BlockError {
    const error = new BlockError('EIO', `${this.name} is corrupt: ${what}`)
    if (this.#damage === undefined) {
      this.#damage = error
      if (!this.readOnly && this.header.version === 3) {
        this.header.incompatible |= INCOMPATIBLE_CORRUPT
        this.#marking = rescue(
          () => after(this.commit.writeHeader(), () => this.file.flush()),
          () => {}, // the mark is a courtesy to the next reader; this one knows
        )
      }
    }
    return error
  }

  /** Runs what changes the map, when there is room for what it makes dirty. */
  #writing<T>(body: () => Now<T>): Now<T> {
    if (this.#damage !== undefined) {
      throw new BlockError('EIO', `Cannot write ${this.name}: it is corrupt`, { cause: this.#damage })
    }
    if (this.clusters.pressed || this.counts.pressed) {
      return after(this.commit.flush(), body)
    }
    return body()
  }
}

function placesOf(clusterSize: number, header: Header, l1: Uint8Array, table: Uint8Array): number[] {
  const places = [0]
  const stretch = (offset: number, length: number) => {
    for (let at = 0; at < length; at += clusterSize) places.push(offset + at)
  }
  stretch(header.l1Offset, l1.length)
  stretch(header.refcountTableOffset, table.length)
  for (const bytes of [l1, table]) {
    const view = new DataView(bytes.buffer, bytes.byteOffset)
    for (let at = 0; at + 8 <= bytes.length; at += 8) {
      const low = view.getUint32(at + 4)
      const high = view.getUint32(at)
      if (high === 0 && low === 0) continue
      places.push((high & 0x00ffffff) * 2 ** 32 + ((low & 0xfffffe00) >>> 0))
      if (places.length > 1 << 18) return places
    }
  }
  return places
}

/** Reads what an image's first cluster says. */
export async function readImageHeader(name: string, file: BlockDevice): Promise<Header> {
  const head = new Uint8Array(Math.min(512, file.size))
  await file.read(0, bytesVec(head))
  const cluster = new Uint8Array(Math.min(headerClusterSize(name, head), file.size))
  await file.read(0, bytesVec(cluster))
  return readHeader(name, cluster)
}

/** Opens an image whose header has been read and whose other files have been opened. */
export async function openQcow2(file: BlockDevice, header: Header, options: Qcow2Options): Promise<Qcow2Image> {
  const { name } = options
  const readOnly = options.readOnly ?? file.readOnly
  if (!readOnly && (header.incompatible & INCOMPATIBLE_CORRUPT) !== 0n) {
    throw new BlockError('EACCES', `Cannot open ${name}: it is corrupt; repair it, or open it read-only`)
  }
  const external = (header.incompatible & INCOMPATIBLE_DATA_FILE) !== 0n
  if (external !== (options.dataFile !== undefined)) {
    throw new BlockError('EINVAL', `Cannot open ${name}: ${external ? 'it needs' : 'it has no'} external data file`)
  }
  const table = new Uint8Array(header.refcountTableClusters * 2 ** header.clusterBits)
  const l1 = new Uint8Array(header.l1Size * 8)
  for (const [what, offset, bytes] of [
    ['refcount table', header.refcountTableOffset, table],
    ['L1 table', header.l1Offset, l1],
  ] as const) {
    if (bytes.length > 0 && offset >= file.size) {
      throw new BlockError('EINVAL', `Cannot open ${name}: its ${what} is at ${offset}, after the end of the file`)
    }
    await readPadded(file, offset, bytesVec(bytes))
  }
  const image = new Qcow2Image(file, header, l1, table, { ...options, readOnly })
  const known = header.autoclear & (AUTOCLEAR_BITMAPS | AUTOCLEAR_DATA_FILE_RAW)
  if (!readOnly && known !== header.autoclear) {
    header.autoclear = known
    await image.commit.writeHeader()
    await file.flush()
  }
  return image
}
