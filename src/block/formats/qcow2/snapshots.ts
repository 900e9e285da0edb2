/** Internal snapshots: each change is made beside the old metadata and shown by one write of the header. */
import type { BlockDevice } from '../../device.ts'
import { BlockError } from '../../error.ts'
import { bytesVec } from '../../iovec.ts'
import { readPadded } from '../../mover.ts'
import type { Now } from '../../now.ts'
import { type Header, INCOMPATIBLE_DATA_FILE, l2EntrySize, MAX_L1_BYTES, MAX_SNAPSHOTS } from './header.ts'
import { Packer } from './packed.ts'
import { COMPRESSED, COPIED, MISPLACED, Slice } from './slice.ts'
import { readSnapshots, type Snapshot, snapshotTable } from './snapshottable.ts'
import { HeaderLost, switchHeader } from './switch.ts'
import { Budget, endOfUse, loadCounts, Tally, tallyLimit, writeCounts } from './tally.ts'

/** What a change of the snapshots leads to; all L1 tables are bytes, with or without COPIED flags. */
export interface Change {
  /** L1 tables whose uses end. */
  readonly removed: readonly Uint8Array[]
  /** L1 tables whose uses begin. */
  readonly added: readonly Uint8Array[]
  /** The active L1 table afterwards. */
  readonly active: Uint8Array
  /** Snapshots afterwards; one with `l1` gets a new L1 table of these bytes. */
  readonly snapshots: readonly { readonly snapshot: Snapshot; readonly l1?: Uint8Array }[]
  /** Host ranges that are in use no more. */
  readonly freed: readonly { readonly offset: number; readonly length: number }[]
  /** Size of the disk afterwards, bytes. */
  readonly size: number
}

/** Makes changes to an image that nothing else writes, and whose metadata is all on the medium. */
export class Shadow {
  readonly #name: string
  readonly #file: BlockDevice
  readonly #header: Header
  readonly #clusterSize: number
  readonly #packer: Packer
  readonly #barrier: () => Now<void>
  #place = 0

  /** `barrier` makes what was written durable; default, a flush of the file. */
  constructor(name: string, file: BlockDevice, header: Header, barrier = () => file.flush()) {
    this.#barrier = barrier
    this.#name = name
    this.#file = file
    this.#header = header
    this.#clusterSize = 2 ** header.clusterBits
    this.#packer = new Packer(name, file, header, undefined)
  }

  /** Makes the change; a power cut shows the image before or after it. On failure the image is as before. */
  async make(change: Change): Promise<void> {
    const header = this.#header
    const before = this.#file.size
    const clusterSize = this.#clusterSize
    const counts = new Tally(new Budget(tallyLimit(await this.#file.allocated())))
    const { blocks } = await loadCounts(this.#file, header, counts)
    for (const block of blocks) counts.add(block / clusterSize, -1)
    this.#free(counts, header.refcountTableOffset, header.refcountTableClusters * clusterSize)
    this.#place = endOfUse(this.#name, this.#file, header, counts)
    const first = this.#place
    try {
      for (const l1 of change.removed) await this.#count(counts, l1, -1)
      for (const l1 of change.added) await this.#count(counts, l1, 1)
      for (const { offset, length } of change.freed) this.#free(counts, offset, length)
      const { active, moved } = await this.#flagged(counts, change.active)
      const l1Offset = await this.#put(counts, active)
      const snapshots: Snapshot[] = []
      for (const { snapshot, l1 } of change.snapshots) {
        if (l1 === undefined) snapshots.push(snapshot)
        else
          snapshots.push({
            ...snapshot,
            l1Size: l1.length / 8,
            l1Offset: await this.#put(counts, repointed(l1, moved)),
          })
      }
      const table = snapshotTable(snapshots)
      const snapshotsOffset = table.length === 0 ? 0 : await this.#put(counts, table)
      const refcounts = await writeCounts(this.#name, this.#file, header, counts, this.#place)
      await this.#barrier()
      await switchHeader(this.#name, this.#file, header, {
        l1Offset,
        l1Size: active.length / 8,
        refcountTableOffset: refcounts.refcountTableOffset,
        refcountTableClusters: refcounts.refcountTableClusters,
        snapshotsOffset,
        snapshotCount: snapshots.length,
        size: change.size,
      })
    } catch (error) {
      const unused = !(error instanceof HeaderLost) && this.#file.size > before && first * clusterSize >= before
      if (unused) await this.#file.resize(before)
      throw error
    }
  }

  /** Writes new metadata after all that is in use; gives where. */
  async #put(counts: Tally, bytes: Uint8Array): Promise<number> {
    const clusters = Math.max(1, Math.ceil(bytes.length / this.#clusterSize))
    const offset = this.#place * this.#clusterSize
    const end = offset + clusters * this.#clusterSize
    if (this.#file.size < end) await this.#file.resize(end)
    if (bytes.length > 0) await this.#file.write(offset, bytesVec(bytes))
    for (let each = 0; each < clusters; each++) counts.set(this.#place + each, 1)
    this.#place += clusters
    return offset
  }

  #free(counts: Tally, offset: number, length: number): void {
    for (let at = 0; at < length; at += this.#clusterSize) this.#add(counts, (offset + at) / this.#clusterSize, -1)
  }

  #add(counts: Tally, cluster: number, uses: number): void {
    const count = counts.get(cluster) + uses
    if (count < 0) throw new BlockError('EIO', `${this.#name} is corrupt: cluster ${cluster} has too small a refcount`)
    counts.set(cluster, count)
  }

  async #table(offset: number): Promise<Slice> {
    const bytes = new Uint8Array(this.#clusterSize)
    await readPadded(this.#file, offset, bytesVec(bytes))
    const external = (this.#header.incompatible & INCOMPATIBLE_DATA_FILE) !== 0n
    return new Slice(0, bytes, l2EntrySize(this.#header) === 16, external, this.#clusterSize)
  }

  /** Adds `uses` to all that an L1 table leads to. */
  async #count(counts: Tally, l1: Uint8Array, uses: number): Promise<void> {
    const external = (this.#header.incompatible & INCOMPATIBLE_DATA_FILE) !== 0n
    const entries = this.#clusterSize / l2EntrySize(this.#header)
    for (const offset of tablesOf(l1)) {
      if (offset === 0) continue
      if (offset % this.#clusterSize !== 0)
        throw new BlockError('EIO', `${this.#name} is corrupt: an L2 table is misplaced`)
      this.#add(counts, offset / this.#clusterSize, uses)
      if (external) continue
      const slice = await this.#table(offset)
      for (let index = 0; index < entries; index++) {
        slice.look(index)
        if (slice.flags & COMPRESSED) {
          const { high, low } = slice.descriptor(index)
          const { at, length } = this.#packer.place(high, low)
          const last = Math.floor((at + length - 1) / this.#clusterSize)
          for (let cluster = Math.floor(at / this.#clusterSize); cluster <= last; cluster++) {
            // What a compressed cluster's last sector passes the end of the file by has no count in some images.
            if (uses > 0 || counts.get(cluster) > 0) this.#add(counts, cluster, uses)
          }
        } else if (slice.flags & MISPLACED) {
          throw new BlockError('EIO', `${this.#name} is corrupt: a data cluster is misplaced`)
        } else if (slice.offset !== 0) this.#add(counts, slice.offset / this.#clusterSize, uses)
      }
    }
  }

  /** The active L1 table with COPIED flags that say what the counts say; L2 tables that change are written anew. */
  async #flagged(counts: Tally, l1: Uint8Array): Promise<{ active: Uint8Array; moved: Map<number, number> }> {
    const external = (this.#header.incompatible & INCOMPATIBLE_DATA_FILE) !== 0n
    const entries = this.#clusterSize / l2EntrySize(this.#header)
    const moved = new Map<number, number>()
    const active = new Uint8Array(l1.length)
    const view = new DataView(active.buffer)
    for (const [index, offset] of tablesOf(l1).entries()) {
      if (offset === 0) continue
      const slice = await this.#table(offset)
      let changed = false
      for (let entry = 0; entry < entries && !external; entry++) {
        slice.look(entry)
        const { flags } = slice
        if (slice.offset === 0 || flags & COMPRESSED) continue
        const copied = counts.get(slice.offset / this.#clusterSize) === 1
        if (copied === ((flags & COPIED) !== 0)) continue
        slice.recopy(entry, copied)
        changed = true
      }
      let place = offset
      if (changed) {
        const uses = counts.get(offset / this.#clusterSize)
        place = await this.#put(counts, slice.bytes())
        counts.set(place / this.#clusterSize, uses)
        counts.set(offset / this.#clusterSize, 0)
        moved.set(offset, place)
      }
      const copied = counts.get(place / this.#clusterSize) === 1 ? 0x80000000 : 0
      view.setUint32(index * 8, (Math.floor(place / 2 ** 32) | copied) >>> 0)
      view.setUint32(index * 8 + 4, place >>> 0)
    }
    return { active, moved }
  }
}

/** Host offsets of the L2 tables of an L1 table, 0 for none. */
function tablesOf(l1: Uint8Array): number[] {
  const view = new DataView(l1.buffer, l1.byteOffset, l1.length)
  const tables: number[] = []
  for (let at = 0; at < l1.length; at += 8) {
    tables.push((view.getUint32(at) & 0x00ffffff) * 2 ** 32 + ((view.getUint32(at + 4) & 0xfffffe00) >>> 0))
  }
  return tables
}

/** An L1 table without COPIED flags, with tables that have moved at their new places. */
function repointed(l1: Uint8Array, moved: ReadonlyMap<number, number>): Uint8Array {
  const bytes = new Uint8Array(l1.length)
  const view = new DataView(bytes.buffer)
  for (const [index, offset] of tablesOf(l1).entries()) {
    const place = moved.get(offset) ?? offset
    view.setUint32(index * 8, Math.floor(place / 2 ** 32))
    view.setUint32(index * 8 + 4, place >>> 0)
  }
  return bytes
}

/** What a snapshot is to be. */
export interface SnapshotOptions {
  readonly name: string
  /** Default: one more than the largest there is. */
  readonly id?: string
  /** When it is taken; given by the caller, seconds and nanoseconds since 1970. */
  readonly dateSec: number
  readonly dateNsec?: number
  readonly vmClockNsec?: number
  /** Bytes of the saved machine in the active map's machine state area. */
  readonly vmStateSize?: number
  /** How many instructions a recorded machine had run; none unless given. */
  readonly icount?: number
}

/** The instruction count of a recorded machine; all ones: none. */
function countBytes(count: number | undefined): Uint8Array {
  const bytes = new Uint8Array(8).fill(0xff)
  if (count !== undefined) new DataView(bytes.buffer).setBigUint64(0, BigInt(count))
  return bytes
}

/** The snapshot whose id or else whose name is `key`. ENOENT without one. */
export function findSnapshot(name: string, snapshots: readonly Snapshot[], key: string): Snapshot {
  const found = snapshots.find(({ id }) => id === key) ?? snapshots.find((each) => each.name === key)
  if (found === undefined) throw new BlockError('ENOENT', `Cannot find snapshot '${key}' of ${name}`)
  return found
}

async function readL1(file: BlockDevice, offset: number, size: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(size * 8)
  await readPadded(file, offset, bytesVec(bytes))
  return bytes
}

/** Works on the snapshots of an image at rest: one whose metadata is all on the medium, and that nothing else writes. */
export class Snapshots {
  readonly #name: string
  readonly #file: BlockDevice
  readonly #header: Header
  readonly #clusterSize: number
  readonly #barrier: (() => Now<void>) | undefined

  constructor(name: string, file: BlockDevice, header: Header, barrier?: () => Now<void>) {
    this.#name = name
    this.#file = file
    this.#header = header
    this.#clusterSize = 2 ** header.clusterBits
    this.#barrier = barrier
  }

  /** All snapshots, in the order of the table. */
  async list(): Promise<Snapshot[]> {
    return (await readSnapshots(this.#name, this.#file, this.#header)).snapshots
  }

  async create(options: SnapshotOptions): Promise<Snapshot> {
    if ((this.#header.incompatible & INCOMPATIBLE_DATA_FILE) !== 0n) {
      throw new BlockError('ENOTSUP', `Cannot snapshot ${this.#name}: its data is in another file`)
    }
    const { snapshots, freed } = await this.#before()
    if (snapshots.length >= MAX_SNAPSHOTS)
      throw new BlockError('EFBIG', `Cannot snapshot ${this.#name}: it has too many`)
    const { id } = options
    if (id !== undefined && snapshots.some((each) => each.id === id)) {
      throw new BlockError('EEXIST', `Cannot snapshot ${this.#name}: there is a snapshot '${id}'`)
    }
    const largest = snapshots.reduce((most, each) => Math.max(most, Number.parseInt(each.id, 10) || 0), 0)
    const snapshot: Snapshot = {
      l1Offset: 0,
      l1Size: this.#header.l1Size,
      id: id ?? String(largest + 1),
      name: options.name,
      dateSec: options.dateSec,
      dateNsec: options.dateNsec ?? 0,
      vmClockNsec: options.vmClockNsec ?? 0,
      vmStateSize: options.vmStateSize ?? 0,
      diskSize: this.#header.size,
      extra: countBytes(options.icount),
    }
    const l1 = await this.#active()
    await this.#make({
      removed: [],
      added: [l1],
      active: l1,
      snapshots: [...snapshots.map((each) => ({ snapshot: each })), { snapshot, l1 }],
      freed,
      size: this.#header.size,
    })
    return snapshot
  }

  async delete(key: string): Promise<void> {
    const { snapshots, freed } = await this.#before()
    const gone = findSnapshot(this.#name, snapshots, key)
    const l1 = await readL1(this.#file, gone.l1Offset, gone.l1Size)
    await this.#make({
      removed: [l1],
      added: [],
      active: await this.#active(),
      snapshots: snapshots.filter((each) => each !== gone).map((snapshot) => ({ snapshot })),
      freed: [...freed, { offset: gone.l1Offset, length: l1.length }],
      size: this.#header.size,
    })
  }

  /** The disk becomes what it was when the snapshot was taken, its size included. */
  async apply(key: string): Promise<void> {
    const { snapshots, freed } = await this.#before()
    const wanted = findSnapshot(this.#name, snapshots, key)
    const l1 = await readL1(this.#file, wanted.l1Offset, wanted.l1Size)
    await this.#make({
      removed: [await this.#active()],
      added: [l1],
      active: l1,
      snapshots: snapshots.map((snapshot) => ({ snapshot })),
      freed,
      size: wanted.diskSize ?? this.#header.size,
    })
  }

  /** Gives the L1 table room for at least `entries`. */
  async growL1(entries: number): Promise<void> {
    const l1 = await this.#active()
    if (entries * 8 <= l1.length) return
    if (entries * 8 > MAX_L1_BYTES) {
      throw new BlockError('EFBIG', `Cannot grow ${this.#name}: its L1 table would pass 32 MiB`)
    }
    const { snapshots, freed } = await this.#before()
    const more = new Uint8Array(entries * 8)
    more.set(l1)
    await this.#make({
      removed: [],
      added: [],
      active: more,
      snapshots: snapshots.map((snapshot) => ({ snapshot })),
      freed,
      size: this.#header.size,
    })
  }

  #active(): Promise<Uint8Array> {
    return readL1(this.#file, this.#header.l1Offset, this.#header.l1Size)
  }

  /** The snapshots there are, and what any change gives up: the active L1 table and the snapshot table. */
  async #before(): Promise<{ snapshots: Snapshot[]; freed: { offset: number; length: number }[] }> {
    const { l1Offset, l1Size, snapshotsOffset } = this.#header
    const { snapshots, length } = await readSnapshots(this.#name, this.#file, this.#header)
    const clusters = (bytes: number) => Math.ceil(bytes / this.#clusterSize) * this.#clusterSize
    const freed = [{ offset: l1Offset, length: clusters(l1Size * 8) }]
    if (length > 0) freed.push({ offset: snapshotsOffset, length: clusters(length) })
    return { snapshots, freed }
  }

  #make(change: Change): Promise<void> {
    return new Shadow(this.#name, this.#file, this.#header, this.#barrier).make(change)
  }
}
