/** Counts anew what uses each host cluster of an image that nobody is writing. */
import type { BlockDevice } from '../../device.ts'
import { BlockError } from '../../error.ts'
import { bytesVec } from '../../iovec.ts'
import { readPadded } from '../../mover.ts'
import { readBitmaps, readBitmapTable } from './bitmaptable.ts'
import { type Findings, hex } from './findings.ts'
import { AUTOCLEAR_BITMAPS, type Header, INCOMPATIBLE_DATA_FILE, l2EntrySize } from './header.ts'
import { Packer } from './packed.ts'
import { maxCount } from './refcounts.ts'
import { readSnapshots, type Snapshot } from './snapshottable.ts'
import { type Budget, ENTRY_COST, Tally } from './tally.ts'

export const COPIED_BIT = 0x80000000
const COMPRESSED_BIT = 0x40000000
const OFFSET_HIGH = 0x00ffffff
const OFFSET_LOW = 0xfffffe00
// What must be zero in entries; of an L2 entry only if it is not compressed.
const L1_RESERVED_HIGH = 0x7f000000
const L1_RESERVED_LOW = 0x1ff
const L2_RESERVED_HIGH = 0x3f000000
const L2_RESERVED_LOW = 0x1fe

/** Most bytes that the L1 tables of all snapshots may have, lest an image made for it keep a check busy for ever. */
const MAX_SNAPSHOT_L1 = 512 << 20
/** Most tables that are read again only to say again what is wrong in them. */
const MAX_REPEATS = 1024
/** Most entries that are mended in one run. */
const MAX_FIXES = 65536

const COUNTED = ['allocated-clusters', 'fragmented-clusters', 'compressed-clusters'] as const
/** Memory of a table that is noted as walked, bytes. */
const WALKED_COST = 200

/** An L2 entry of what an image maps to itself or to a data file, as the check sees it. */
export class Entry {
  readonly #view: DataView
  readonly #size: 8 | 16
  readonly #external: boolean
  /** The entry's halves, as they are. */
  high = 0
  low = 0
  /** Host offset of its cluster, if it is not compressed. */
  offset = 0
  kind: 'none' | 'cluster' | 'compressed' = 'none'

  constructor(table: Uint8Array, header: Header) {
    this.#view = new DataView(table.buffer, table.byteOffset, table.length)
    this.#size = l2EntrySize(header) === 16 ? 16 : 8
    this.#external = (header.incompatible & INCOMPATIBLE_DATA_FILE) !== 0n
  }

  look(index: number): void {
    const at = index * this.#size
    const high = this.#view.getUint32(at)
    const low = this.#view.getUint32(at + 4)
    this.high = high
    this.low = low
    if (high & COMPRESSED_BIT) {
      this.kind = 'compressed'
      return
    }
    this.offset = (high & OFFSET_HIGH) * 2 ** 32 + ((low & OFFSET_LOW) >>> 0)
    const first = this.#external && (high & COPIED_BIT) !== 0 && !(this.#size === 8 && low & 1)
    this.kind = this.offset !== 0 || first ? 'cluster' : 'none'
  }

  /** Subclusters that have data, a bit each; 0 without extended entries. */
  allocated(index: number): number {
    return this.#size === 16 ? this.#view.getUint32(index * 16 + 12) : 0
  }

  /** Subclusters that read as zeroes, a bit each; 0 without extended entries. */
  zeroes(index: number): number {
    return this.#size === 16 ? this.#view.getUint32(index * 16 + 8) : 0
  }
}

/** Host offset that an L1 entry shows, 0 for none. */
export function tableAt(l1: Uint8Array, index: number): number {
  const view = new DataView(l1.buffer, l1.byteOffset + index * 8, 8)
  return (view.getUint32(0) & OFFSET_HIGH) * 2 ** 32 + ((view.getUint32(4) & OFFSET_LOW) >>> 0)
}

/** All uses of host clusters. */
export class Census {
  /** How often each cluster is used. */
  readonly uses: Tally
  /** How many L1 entries show an L2 table there. */
  readonly tables = new Map<number, number>()
  /** How often a cluster holds other metadata than L2 tables. */
  readonly metadata: Tally
  /** Clusters with more uses than a refcount can say, so that {@link uses} says the most. */
  readonly overflown = new Set<number>()
  /** L2 entries whose cluster is preallocated but misplaced: they can be zero clusters without one. */
  readonly misplaced: { readonly table: number; readonly at: number }[] = []
  readonly #name: string
  readonly #file: BlockDevice
  readonly #header: Header
  readonly #findings: Findings
  readonly #clusterSize: number
  readonly #most: number
  readonly #external: boolean
  readonly #mend: boolean
  /** Tables that more than one L1 entry shows: those that were walked, whether something was wrong, and what was counted. */
  readonly #walked = new Map<number, { readonly wrong: boolean; readonly counted: readonly number[] }>()
  #repeats = 0

  /** With `mend`, what is in {@link misplaced} will be mended. */
  constructor(name: string, file: BlockDevice, header: Header, findings: Findings, budget: Budget, mend: boolean) {
    this.uses = new Tally(budget)
    this.metadata = new Tally(budget)
    this.#name = name
    this.#file = file
    this.#header = header
    this.#findings = findings
    this.#clusterSize = 2 ** header.clusterBits
    this.#most = maxCount(header.refcountOrder)
    this.#external = (header.incompatible & INCOMPATIBLE_DATA_FILE) !== 0n
    this.#mend = mend
  }

  /** Counts all uses but those of the refcount structure. */
  async run(): Promise<void> {
    const { l1Offset, l1Size, snapshotsOffset } = this.#header
    this.useMetadata(0, this.#clusterSize)
    const { snapshots, length } = await this.#readSnapshots()
    await this.#findTables(l1Offset, l1Size)
    for (const snapshot of snapshots) await this.#findTables(snapshot.l1Offset, snapshot.l1Size)
    await this.#walkL1(l1Offset, l1Size, true)
    for (const snapshot of snapshots) await this.#walkL1(snapshot.l1Offset, snapshot.l1Size, false)
    if (length > 0) this.useMetadata(snapshotsOffset, length)
    await this.#walkBitmaps()
  }

  /** Counts `times` uses of a range's clusters; says no to one that cannot be. */
  use(offset: number, length: number, times = 1): boolean {
    // The last cluster of a file may be there in part.
    if (!Number.isSafeInteger(offset + length) || offset + length - this.#file.size >= this.#clusterSize) {
      this.#findings.corrupt(
        'ERROR: counting reference for region exceeding the end of the file by one cluster or more: ' +
          `offset 0x${offset.toString(16)} size 0x${length.toString(16)}`,
        times,
      )
      return false
    }
    const last = Math.floor((offset + length - 1) / this.#clusterSize)
    for (let cluster = Math.floor(offset / this.#clusterSize); cluster <= last; cluster++) {
      const uses = this.uses.get(cluster) + times
      if (times > 0) this.uses.set(cluster, Math.min(uses, this.#most))
      if (uses > this.#most) this.#overflow(cluster, Math.min(times, uses - this.#most))
    }
    return true
  }

  #overflow(cluster: number, times: number): void {
    if (times === 0) return
    if (!this.overflown.has(cluster)) this.uses.budget.take(ENTRY_COST)
    this.overflown.add(cluster)
    this.#findings.corrupt(`ERROR: overflow cluster offset=0x${(cluster * this.#clusterSize).toString(16)}`, times)
    this.#findings.say(
      'Use block86 img amend to increase the refcount entry width or block86 img convert to create a clean copy ' +
        'if the image cannot be opened for writing',
    )
  }

  /** Counts a use of a range by metadata. */
  useMetadata(offset: number, length: number): boolean {
    if (!this.use(offset, length)) return false
    const last = Math.floor((offset + length - 1) / this.#clusterSize)
    for (let cluster = Math.floor(offset / this.#clusterSize); cluster <= last; cluster++) this.metadata.add(cluster)
    return true
  }

  /** Whether entries of an L2 table may be changed: no other metadata lies there. */
  changeable(table: number): boolean {
    return this.metadata.get(table / this.#clusterSize) === 0
  }

  async #read(offset: number, length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length)
    await readPadded(this.#file, offset, bytesVec(bytes))
    return bytes
  }

  #fits(offset: number, length: number): boolean {
    return Number.isSafeInteger(offset + length) && offset + length - this.#file.size < this.#clusterSize
  }

  /** Counts how many entries of an L1 table show each L2 table, so that each must be walked once. */
  async #findTables(l1Offset: number, l1Size: number): Promise<void> {
    if (l1Size === 0 || !this.#fits(l1Offset, l1Size * 8)) return
    const l1 = await this.#read(l1Offset, l1Size * 8)
    this.uses.budget.earn(l1Offset, l1)
    for (let index = 0; index < l1Size; index++) {
      const offset = tableAt(l1, index)
      if (offset === 0 || offset % this.#clusterSize !== 0 || !this.#fits(offset, this.#clusterSize)) continue
      const cluster = offset / this.#clusterSize
      const shown = this.tables.get(cluster)
      if (shown === undefined) this.uses.budget.take(ENTRY_COST)
      this.tables.set(cluster, (shown ?? 0) + 1)
    }
  }

  async #walkL1(l1Offset: number, l1Size: number, active: boolean): Promise<void> {
    if (l1Size === 0 || !this.useMetadata(l1Offset, l1Size * 8)) return
    const l1 = await this.#read(l1Offset, l1Size * 8)
    const view = new DataView(l1.buffer)
    for (let index = 0; index < l1Size; index++) {
      const high = view.getUint32(index * 8)
      const low = view.getUint32(index * 8 + 4)
      if (high === 0 && low === 0) continue
      if ((high & L1_RESERVED_HIGH) !== 0 || (low & L1_RESERVED_LOW) !== 0) {
        this.#findings.corrupt(`ERROR found L1 entry with reserved bits set: ${hex(high, low)}`)
      }
      const offset = tableAt(l1, index)
      if (offset === 0) continue
      const used = this.use(offset, this.#clusterSize)
      if (offset % this.#clusterSize !== 0) {
        const at = hex(high & OFFSET_HIGH, (low & OFFSET_LOW) >>> 0)
        this.#findings.corrupt(`ERROR l2_offset=${at}: Table is not cluster aligned; L1 entry corrupted`)
      } else if (used) await this.#walkShown(offset, active)
    }
  }

  /** Walks a table that an L1 entry shows: the first time for all, again only to say again what is wrong. */
  async #walkShown(table: number, active: boolean): Promise<void> {
    const { result } = this.#findings
    const shown = this.tables.get(table / this.#clusterSize)!
    const walked = this.#walked.get(table)
    if (walked === undefined) {
      const before = { ...result }
      await this.#walkL2(table, shown, active)
      if (shown === 1) return
      this.uses.budget.take(WALKED_COST)
      const counted = COUNTED.map((name) => result[name] - before[name])
      this.#walked.set(table, { wrong: result.corruptions > before.corruptions, counted })
      return
    }
    if (active) for (const [index, name] of COUNTED.entries()) result[name] += walked.counted[index]!
    if (walked.wrong && this.#repeats++ < MAX_REPEATS) await this.#walkL2(table, 0, false)
  }

  /** Counts what an L2 table leads to, which is shown `times` times; with 0 it is only said again what is wrong. */
  async #walkL2(table: number, times: number, active: boolean): Promise<void> {
    const bytes = await readL2(this.#file, this.#header, table)
    if (bytes === undefined) return
    this.uses.budget.earn(table, bytes)
    const entry = new Entry(bytes, this.#header)
    const packer = new Packer(this.#name, this.#file, this.#header, undefined)
    const entries = this.#clusterSize / l2EntrySize(this.#header)
    let next = 0 // as in QEMU, a table's first cluster goes on from none
    for (let index = 0; index < entries; index++) {
      entry.look(index)
      const { high, low, kind } = entry
      if (high === 0 && low === 0 && entry.allocated(index) === 0) continue
      if (kind === 'compressed') {
        if (active && !this.#external) this.#countPacked()
        this.#walkPacked(entry, index, packer, times)
        continue
      }
      if ((high & L2_RESERVED_HIGH) !== 0 || (low & L2_RESERVED_LOW) !== 0) {
        this.#findings.corrupt(`ERROR found l2 entry with reserved bits set: ${hex(high, low)}`, times)
      }
      if (kind === 'cluster') {
        if (active) next = this.#count(entry.offset, next)
        this.#walkCluster(entry, index, table, times)
      } else if (entry.allocated(index) !== 0) {
        this.#findings.corrupt('ERROR: Unallocated cluster has non-zero subcluster allocation map', times)
      }
    }
  }

  #walkCluster(entry: Entry, index: number, table: number, times: number): void {
    const { high, low, offset } = entry
    const size = l2EntrySize(this.#header)
    const allocated = entry.allocated(index)
    const place = hex(high & OFFSET_HIGH, (low & OFFSET_LOW) >>> 0)
    if ((allocated & entry.zeroes(index)) !== 0) {
      this.#findings.corrupt(
        `ERROR offset=${place}: Allocated cluster has corrupted subcluster allocation bitmap`,
        times,
      )
    }
    if ((low & (this.#clusterSize - 1) & OFFSET_LOW) !== 0) {
      const data = size === 16 ? allocated !== 0 : (low & 1) === 0
      if (!data && this.#mend && this.misplaced.length < MAX_FIXES) {
        if (times === 0) return
        this.#findings.say(
          `Repairing offset=${place}: Preallocated cluster is not properly aligned; L2 entry corrupted.`,
        )
        this.misplaced.push({ table, at: table + index * size })
        return
      }
      const what = data ? 'Data' : 'Preallocated'
      this.#findings.corrupt(
        `ERROR offset=${place}: ${what} cluster is not properly aligned; L2 entry corrupted.`,
        times,
      )
    }
    if (!this.#external) this.use(offset, this.#clusterSize, times)
  }

  #walkPacked(entry: Entry, index: number, packer: Packer, times: number): void {
    const raw = hex(entry.high, entry.low)
    const { at, length } = packer.place(entry.high & 0x3fffffff, entry.low)
    if (this.#external) {
      this.#findings.corrupt(`ERROR compressed cluster ${index} with data file, entry=0x${raw}`, times)
      return
    }
    if (entry.high & COPIED_BIT) {
      this.#findings.corrupt(
        `ERROR: coffset=0x${at.toString(16)}: copied flag must never be set for compressed clusters`,
        times,
      )
    }
    // It is counted all the same: it can be read, and must not become a leak that a repair gives away.
    if (entry.allocated(index) !== 0 || entry.zeroes(index) !== 0) {
      this.#findings.corrupt(
        `ERROR compressed cluster ${index} with non-zero subcluster allocation bitmap, entry=0x${raw}`,
        times,
      )
    }
    this.use(at, length, times)
  }

  #countPacked(): void {
    const { result } = this.#findings
    result['allocated-clusters']++
    result['compressed-clusters']++
    result['fragmented-clusters']++
  }

  /** Counts a cluster of the active map; `next` is where one would be that goes on as the last. */
  #count(offset: number, next: number): number {
    const { result } = this.#findings
    result['allocated-clusters']++
    if (next !== 0 && offset !== next) result['fragmented-clusters']++
    return offset + this.#clusterSize
  }

  /** The snapshots, and how many bytes their table takes; none if they cannot be read, which is noted. */
  async #readSnapshots(): Promise<{ snapshots: Snapshot[]; length: number }> {
    if (this.#header.snapshotCount === 0) return { snapshots: [], length: 0 }
    try {
      const found = await readSnapshots(this.#name, this.#file, this.#header)
      const total = found.snapshots.reduce((sum, { l1Size }) => sum + l1Size * 8, 0)
      if (total <= MAX_SNAPSHOT_L1) return found
      throw new BlockError(
        'EINVAL',
        `Cannot check ${this.#name}: its snapshots have ${total} bytes of L1 tables, too many`,
      )
    } catch (error) {
      this.#findings.failed(error)
      return { snapshots: [], length: 0 }
    }
  }

  async #walkBitmaps(): Promise<void> {
    const header = this.#header
    if (header.bitmaps === undefined || (header.autoclear & AUTOCLEAR_BITMAPS) === 0n) return
    try {
      const entries = await readBitmaps(this.#name, this.#file, header)
      this.useMetadata(header.bitmaps.directoryOffset, header.bitmaps.directorySize)
      for (const entry of entries) {
        this.useMetadata(entry.tableOffset, entry.tableSize * 8)
        for (const offset of await readBitmapTable(this.#file, entry)) {
          if (offset <= 1) continue
          if (offset % this.#clusterSize !== 0) {
            this.#findings.corrupt(
              `ERROR bitmap ${entry.name} has bits at 0x${offset.toString(16)}, not cluster aligned`,
            )
          } else this.useMetadata(offset, this.#clusterSize)
        }
      }
    } catch (error) {
      this.#findings.failed(error)
    }
  }
}

/** An L2 table; nothing if it is a hole of the file. */
export async function readL2(file: BlockDevice, header: Header, table: number): Promise<Uint8Array | undefined> {
  const clusterSize = 2 ** header.clusterBits
  const length = Math.min(clusterSize, file.size - table)
  if (length <= 0) return undefined
  const found = await file.status(table, length)
  if (found.kind !== 'data' && found.length >= length) return undefined
  const bytes = new Uint8Array(clusterSize)
  await readPadded(file, table, bytesVec(bytes))
  return bytes
}
