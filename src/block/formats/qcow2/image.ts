/** An open qcow2 image: its parts put together, without any data movement of its own. */
import type { BlockDevice } from '../../device.ts'
import { BlockError, blockError, errnoOf } from '../../error.ts'
import type { Allocation, BackingFile, Image, Mapping, PackedAllocation, Tracker } from '../../image.ts'
import { bytesVec } from '../../iovec.ts'
import { readPadded } from '../../mover.ts'
import { after, type Now, rescue } from '../../now.ts'
import { Traffic } from '../../traffic.ts'
import { Allocator } from './allocator.ts'
import { Bitmaps } from './bitmaps.ts'
import { checkQcow2 } from './check.ts'
import { ClusterMap } from './clusters.ts'
import { type Barrier, Commit } from './commit.ts'
import {
  AUTOCLEAR_BITMAPS,
  AUTOCLEAR_DATA_FILE_RAW,
  type Header,
  headerClusterSize,
  INCOMPATIBLE_CORRUPT,
  INCOMPATIBLE_DATA_FILE,
  INCOMPATIBLE_DIRTY,
  l1EntriesFor,
  readHeader,
} from './header.ts'
import { type ClusterCodecs, Packer } from './packed.ts'
import { Placed } from './placed.ts'
import { Refcounts } from './refcounts.ts'
import { findSnapshot, type SnapshotOptions, Snapshots } from './snapshots.ts'
import { readSnapshots, type Snapshot } from './snapshottable.ts'
import { HeaderLost, switchNames } from './switch.ts'

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

interface Parts {
  readonly counts: Refcounts
  readonly allocator: Allocator
  readonly clusters: ClusterMap
  readonly commit: Commit
}

/** An open qcow2 image. */
export class Qcow2Image implements Image {
  readonly name: string
  readonly clusterSize: number
  readonly file: BlockDevice
  backing: BlockDevice | undefined
  readonly dataFile: BlockDevice | undefined
  readonly traffic = new Traffic()
  readonly header: Header
  readonly readOnly: boolean
  readonly #options: Qcow2Options
  readonly #packer: Packer
  #parts: Parts
  #bitmaps: Bitmaps | undefined
  #damage: BlockError | undefined
  #marking: Now<void> = undefined

  constructor(file: BlockDevice, header: Header, l1: Uint8Array, table: Uint8Array, options: Qcow2Options) {
    this.name = options.name
    this.file = file
    this.header = header
    this.readOnly = options.readOnly ?? file.readOnly
    this.clusterSize = 2 ** header.clusterBits
    this.backing = options.backing
    this.dataFile = options.dataFile
    this.#options = options
    this.#packer = new Packer(this.name, file, header, options.codecs)
    this.#parts = this.#assemble(l1, table)
  }

  /** Host clusters: who uses them. */
  get counts(): Refcounts {
    return this.#parts.counts
  }

  get allocator(): Allocator {
    return this.#parts.allocator
  }

  /** The active map. */
  get clusters(): ClusterMap {
    return this.#parts.clusters
  }

  get commit(): Commit {
    return this.#parts.commit
  }

  get size(): number {
    return this.header.size
  }

  /** With extended L2 entries, a subcluster. */
  get zeroUnit(): number {
    return this.clusters.zeroUnit
  }

  /** Memory that metadata takes now, bytes. */
  get metadataCost(): number {
    return this.#parts.counts.cost + this.#parts.clusters.cost
  }

  map(at: number, length: number): Now<Mapping> {
    return this.#parts.clusters.map(at, length)
  }

  locate(at: number, length: number): number {
    return this.#parts.clusters.locate(at, length)
  }

  claim(at: number, length: number): number {
    const { clusters, counts } = this.#parts
    return this.#damage !== undefined || clusters.pressed || counts.pressed ? -1 : clusters.claim(at, length)
  }

  allocate(at: number, length: number): Now<Allocation> {
    const ready = this.#ready()
    return ready instanceof Promise
      ? ready.then(() => this.#parts.clusters.allocate(at, length))
      : this.#parts.clusters.allocate(at, length)
  }

  pack(at: number, bytes: Uint8Array): Now<PackedAllocation | undefined> {
    if (this.dataFile !== undefined) return undefined
    let whole = bytes
    if (bytes.length < this.clusterSize) {
      whole = new Uint8Array(this.clusterSize)
      whole.set(bytes)
    }
    return after(this.#packer.pack(whole), (packed) =>
      packed === undefined ? undefined : this.#writing(() => this.clusters.allocatePacked(at, packed)),
    )
  }

  /** Judged as QEMU does: clearly more clusters are counted than the file has space for. */
  preallocated(): Now<boolean> {
    const { file, counts, clusterSize } = this
    return after(file.allocated(), (bytes) => {
      const there = Math.floor(bytes / clusterSize)
      const threshold = Math.max(Math.floor((there * 10) / 9), there + 2)
      return after(counts.used(Math.ceil(file.size / clusterSize), threshold), (used) => used >= threshold)
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
      if (this.#damage === undefined) await attempt(() => this.#bitmaps?.store())
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

  /** Changes the disk's size, while nothing is in flight; durable with the next flush. */
  resize(size: number): Now<void> {
    return this.#writing(() => {
      const bitmaps = this.#bitmaps
      const change = () => (size < this.size ? this.#shrink(size) : this.#grow(size))
      if (bitmaps === undefined || bitmaps.list.length === 0) return change()
      return after(bitmaps.loadAll(), () => after(change(), () => bitmaps.resized()))
    })
  }

  async changeBacking(backing: BackingFile | undefined): Promise<void> {
    await this.nameBacking(backing?.name, backing?.format)
    this.backing = backing?.device
  }

  /** Names another backing file, or none, durably, and does nothing else: what the disk shows when it is next opened may change. */
  nameBacking(backingFile: string | undefined, backingFormat: string | undefined): Promise<void> {
    const { name, file, header } = this
    return this.atRest(() =>
      switchNames(name, file, header, {
        backingFile,
        backingFormat: backingFile === undefined ? undefined : backingFormat,
      }),
    )
  }

  /** All internal snapshots. */
  async snapshots(): Promise<Snapshot[]> {
    return (await readSnapshots(this.name, this.file, this.header)).snapshots
  }

  /** Takes a snapshot of the disk as all completed requests left it. */
  createSnapshot(options: SnapshotOptions): Promise<Snapshot> {
    return this.#still((snapshots) => snapshots.create(options))
  }

  /** Deletes the snapshot with this id, or else with this name. */
  deleteSnapshot(key: string): Promise<void> {
    return this.#still((snapshots) => snapshots.delete(key))
  }

  /** Makes the disk what it was when the snapshot was taken. */
  applySnapshot(key: string): Promise<void> {
    return this.#still((snapshots) => snapshots.apply(key))
  }

  /** The disk as a snapshot has it, read-only; it shares this image's file and must not outlive it or the snapshot. */
  async snapshotView(key: string): Promise<Image> {
    const snapshot = findSnapshot(this.name, await this.snapshots(), key)
    if (snapshot.l1Offset + snapshot.l1Size * 8 > Math.ceil(this.file.size / this.clusterSize) * this.clusterSize) {
      throw new BlockError(
        'EINVAL',
        `Cannot open snapshot '${key}' of ${this.name}: its L1 table passes the end of the file`,
      )
    }
    const l1 = new Uint8Array(snapshot.l1Size * 8)
    await readPadded(this.file, snapshot.l1Offset, bytesVec(l1))
    const { name, file, clusterSize } = this
    const clusters = this.#map(l1, { ...this.header, l1Offset: snapshot.l1Offset }, this.#parts.allocator, true)
    const view: Image = {
      name,
      file,
      clusterSize,
      size: snapshot.diskSize ?? this.size,
      readOnly: true,
      map: (at, length) => clusters.map(at, length),
    }
    return this.backing === undefined ? view : { ...view, backing: this.backing }
  }

  /** Where the machine's state begins in the active map: behind the last table of the disk. */
  get machineStateOffset(): number {
    return l1EntriesFor(this.header, this.header.size) * this.clusters.tableSpan
  }

  /** Where a machine's state is kept, after the disk's end in the active map: an image of at most `length` bytes. */
  async machineState(length: number): Promise<Image> {
    const { name, file, clusterSize, traffic, header } = this
    const span = this.clusters.tableSpan
    const start = this.machineStateOffset
    const entries = (start + Math.ceil(length / span) * span) / span
    if (entries > header.l1Size) await this.#still((snapshots) => snapshots.growL1(entries))
    return {
      name,
      file,
      clusterSize,
      traffic,
      size: length,
      readOnly: this.readOnly,
      map: (at, most) => this.map(start + at, most),
      allocate: (at, most) =>
        after(this.allocate(start + at, most), (space) => ({ ...space, start: space.start - start })),
      discard: (at, most) => this.#writing(() => this.clusters.drop(start + at, most)),
      flush: () => this.flush(),
    }
  }

  #grow(size: number): Now<void> {
    const { header, clusterSize, clusters } = this
    const entries = l1EntriesFor(header, size)
    // A machine's state is kept behind the disk's end; and what a change of size that failed left there must not come back.
    const first = Math.ceil(header.size / clusterSize) * clusterSize
    const end = Math.min(Math.ceil(size / clusterSize) * clusterSize, header.l1Size * clusters.tableSpan)
    const behind = end - first
    return after(behind > 0 ? clusters.drop(first, behind) : undefined, () =>
      after(entries > header.l1Size ? this.#rest((snapshots) => snapshots.growL1(entries)) : undefined, () => {
        header.size = size
        this.commit.headerChanged()
      }),
    )
  }

  /**
   * The size first, and durable: a power cut in between leaves the disk whole, with the one size or the other. What is then still
   * mapped behind its end goes when the disk grows again. The other way round its end would be lost though its size is not, and
   * a backing file's bytes might show there.
   */
  async #shrink(size: number): Promise<void> {
    const { header, clusterSize, clusters, commit } = this
    const first = Math.ceil(size / clusterSize) * clusterSize
    const length = header.size - first
    header.size = size
    commit.headerChanged()
    await commit.flush()
    if (length > 0) await clusters.drop(first, length)
    await commit.flush()
  }

  /** Works on what is on the medium, while no request is in flight and all metadata is there. */
  atRest<T>(body: () => Promise<T>): Promise<T> {
    return this.#still(body)
  }

  /** Persistent bitmaps. */
  get bitmaps(): Bitmaps {
    if (this.#bitmaps === undefined)
      throw new BlockError('EIO', `Cannot use the bitmaps of ${this.name}: they are damaged`)
    return this.#bitmaps
  }

  /** Whoever must hear of writes before they happen. */
  get tracker(): Tracker | undefined {
    return this.#bitmaps?.following ? this.#bitmaps : undefined
  }

  /** Works on the snapshots while no request is in flight. */
  #still<T>(body: (snapshots: Snapshots) => Promise<T>): Promise<T> {
    return Promise.resolve(this.traffic.pause(() => this.#writing(() => this.#rest(body))))
  }

  /** Works on what is on the medium, once everything is; then goes on with what is there. */
  async #rest<T>(body: (snapshots: Snapshots) => Promise<T>): Promise<T> {
    if (this.readOnly) throw new BlockError('EROFS', `Cannot change ${this.name}: it is read-only`)
    await this.commit.settle()
    await this.allocator.trim()
    try {
      const { barrier } = this.#options
      const flush = () => this.file.flush()
      const shadow = barrier === undefined ? flush : () => barrier('shadow', flush)
      return await body(new Snapshots(this.name, this.file, this.header, shadow))
    } catch (error) {
      if (error instanceof HeaderLost) this.#damage ??= error
      throw error
    } finally {
      await this.#reassemble()
    }
  }

  /** Goes on with what is on the medium; where that cannot be read, the image takes no more writes. */
  async #reassemble(): Promise<void> {
    const read = () => readTables(this.name, this.file, this.header)
    try {
      const { l1, table } = await read().catch(read)
      this.#parts = this.#assemble(l1, table)
    } catch (error) {
      this.#damage ??= blockError(error, `Cannot go on with ${this.name}`)
      throw this.#damage
    }
  }

  #assemble(l1: Uint8Array, table: Uint8Array): Parts {
    const { name, file, header, dataFile, traffic } = this
    const limit = this.#options.metadataLimit ?? DEFAULT_METADATA_LIMIT
    const corrupt = (what: string) => this.corrupt(what)
    const counts = new Refcounts(name, file, header, table, limit / 4, corrupt)
    const placed = new Placed(this.clusterSize, placesOf(this.clusterSize, header, l1, table))
    const allocator = new Allocator(name, file, counts, placed, { punch: this.#options.punch ?? true })
    const clusters = this.#map(l1, header, allocator, this.readOnly, placed)
    const { barrier } = this.#options
    const commit = new Commit({ file, dataFile, header, counts, map: clusters, allocator, traffic, barrier })
    return { counts, allocator, clusters, commit }
  }

  #map(l1: Uint8Array, header: Header, allocator: Allocator, readOnly: boolean, placed?: Placed): ClusterMap {
    const { name, file, dataFile } = this
    const limit = this.#options.metadataLimit ?? DEFAULT_METADATA_LIMIT
    const image = this
    return new ClusterMap(
      {
        name,
        header,
        file,
        dataFile,
        readOnly,
        get backingSize() {
          return image.backing?.size ?? 0
        },
        allocator,
        packer: this.#packer,
        placed: placed ?? new Placed(this.clusterSize, []),
        limit: (limit * 3) / 4,
        corrupt: (what) => this.corrupt(what),
      },
      l1,
    )
  }

  /** Reads what the image says of its bitmaps; called once, after it was opened. */
  async loadBitmaps(): Promise<void> {
    try {
      this.#bitmaps = await Bitmaps.load(this)
    } catch (error) {
      if (errnoOf(error) !== 'EINVAL') throw error
      // Damaged bitmaps are no reason not to use the disk; but nobody may trust them once it has been written.
      if (this.readOnly) return
      this.header.autoclear &= ~AUTOCLEAR_BITMAPS
      await this.commit.writeHeader()
      await this.file.flush()
    }
  }

  /** Runs what changes the map, when there is room for what it makes dirty. */
  #writing<T>(body: () => Now<T>): Now<T> {
    return after(this.#ready(), body)
  }

  /** What a change must wait for: metadata that takes too much memory. EIO if the image takes no more writes. */
  #ready(): Now<void> {
    if (this.#damage !== undefined) {
      throw new BlockError('EIO', `Cannot write ${this.name}: ${this.#damage.message}`, { cause: this.#damage })
    }
    if (this.#parts.clusters.pressed || this.#parts.counts.pressed) return this.commit.flush()
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

async function readTables(
  name: string,
  file: BlockDevice,
  header: Header,
): Promise<{ l1: Uint8Array; table: Uint8Array }> {
  const clusterSize = 2 ** header.clusterBits
  const end = Math.ceil(file.size / clusterSize) * clusterSize
  for (const [what, offset, length] of [
    ['refcount table', header.refcountTableOffset, header.refcountTableClusters * clusterSize],
    ['L1 table', header.l1Offset, header.l1Size * 8],
  ] as const) {
    if (length > 0 && offset + length > end) {
      throw new BlockError('EINVAL', `Cannot open ${name}: its ${what} is at ${offset}, after the end of the file`)
    }
  }
  const table = new Uint8Array(header.refcountTableClusters * clusterSize)
  const l1 = new Uint8Array(header.l1Size * 8)
  await readPadded(file, header.refcountTableOffset, bytesVec(table))
  await readPadded(file, header.l1Offset, bytesVec(l1))
  return { l1, table }
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
  if (!readOnly && (header.incompatible & INCOMPATIBLE_DIRTY) !== 0n) {
    const { corruptions, ...found } = await checkQcow2(name, file, header, 'all')
    if (corruptions > 0 || found['check-errors'] > 0) {
      throw new BlockError('EIO', `Cannot open ${name}: it was not closed properly, and cannot be repaired`)
    }
  }
  const { l1, table } = await readTables(name, file, header)
  const image = new Qcow2Image(file, header, l1, table, { ...options, readOnly })
  const known = header.autoclear & (AUTOCLEAR_BITMAPS | AUTOCLEAR_DATA_FILE_RAW)
  await image.loadBitmaps()
  if (!readOnly && known !== header.autoclear) {
    header.autoclear = known
    await image.commit.writeHeader()
    await file.flush()
  }
  return image
}
