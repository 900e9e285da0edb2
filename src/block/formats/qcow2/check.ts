/** Checks an image that nobody is writing, and repairs it. */
import type { BlockDevice } from '../../device.ts'
import { BlockError, errnoOf, messageOf } from '../../error.ts'
import { bytesVec } from '../../iovec.ts'
import { readPadded } from '../../mover.ts'
import type { Now } from '../../now.ts'
import { readBitmaps, readBitmapTable } from './bitmaptable.ts'
import {
  AUTOCLEAR_BITMAPS,
  type Header,
  INCOMPATIBLE_CORRUPT,
  INCOMPATIBLE_DATA_FILE,
  INCOMPATIBLE_DIRTY,
  l2EntrySize,
} from './header.ts'
import { Packer } from './packed.ts'
import { COMPRESSED, COPIED, MISPLACED, PRESENT, Slice } from './slice.ts'
import { readSnapshots } from './snapshottable.ts'
import { switchHeader } from './switch.ts'
import { loadCounts, Tally, tallyLimit, writeCounts } from './tally.ts'

/** What a check found; the names are those of `qemu-img check --output=json`. */
export interface CheckResult {
  'image-end-offset': number
  'total-clusters': number
  'allocated-clusters': number
  'fragmented-clusters': number
  'compressed-clusters': number
  corruptions: number
  leaks: number
  'corruptions-fixed': number
  'leaks-fixed': number
  'check-errors': number
  /** What is wrong, a sentence each; the first 1000. */
  messages: string[]
}

/** An L1 or L2 entry of the active map that leads to a host cluster. */
interface Link {
  /** Where the entry is, bytes. */
  readonly at: number
  readonly cluster: number
  /** Whether it says that the cluster's refcount is 1. */
  readonly copied: boolean
  /** Its index in the L1 table; -1 in an L2 table. */
  readonly l1Index: number
}

const MAX_MESSAGES = 1000
/** Most bytes that the L1 tables of all snapshots may have, lest an image made for it keep a check busy for ever. */
const MAX_SNAPSHOT_L1 = 512 << 20

/** Checks the image in `file`; `repair` says what to mend. The image must not be open for writing elsewhere. */
export async function checkQcow2(
  name: string,
  file: BlockDevice,
  header: Header,
  repair?: 'leaks' | 'all',
): Promise<CheckResult> {
  const limit = tallyLimit(await file.allocated())
  const check = new Check(name, file, header, limit)
  const result = await check.run()
  if (repair === undefined) return result
  const wrong = result.corruptions > 0
  if (repair === 'all' && (wrong || (header.incompatible & INCOMPATIBLE_DIRTY) !== 0n)) {
    const mended = await check.rebuild()
    const after = await new Check(name, file, header, limit).run()
    if (after.corruptions === 0 && after['check-errors'] === 0) await check.clearMarks()
    return {
      ...after,
      'corruptions-fixed': mended ? Math.max(0, result.corruptions - after.corruptions) : 0,
      'leaks-fixed': Math.max(0, result.leaks - after.leaks),
      messages: [...result.messages, ...after.messages].slice(0, MAX_MESSAGES),
    }
  }
  if (result.leaks > 0) {
    await check.rebuild(true)
    const after = await new Check(name, file, header, limit).run()
    return { ...after, 'leaks-fixed': result.leaks - after.leaks, messages: result.messages }
  }
  if (repair === 'all' && result['check-errors'] === 0) await check.clearMarks()
  return result
}

/** Host offset of L2 table `index`, 0 for none. */
function tableAt(l1: Uint8Array, index: number): number {
  const view = new DataView(l1.buffer, l1.byteOffset + index * 8, 8)
  return (view.getUint32(0) & 0x00ffffff) * 2 ** 32 + ((view.getUint32(4) & 0xfffffe00) >>> 0)
}

class Check {
  readonly #name: string
  readonly #file: BlockDevice
  readonly #header: Header
  readonly #clusterSize: number
  /** Uses of clusters by all but the refcount structure. */
  readonly #uses: Tally
  readonly #counts: Tally
  /** L2 tables by their cluster: how many L1 entries show each. */
  readonly #tables: Tally
  readonly #limit: number
  readonly #result: CheckResult

  constructor(name: string, file: BlockDevice, header: Header, limit: number) {
    this.#uses = new Tally(limit)
    this.#counts = new Tally(limit)
    this.#tables = new Tally(limit)
    this.#limit = limit
    this.#name = name
    this.#file = file
    this.#header = header
    this.#clusterSize = 2 ** header.clusterBits
    this.#result = {
      'image-end-offset': 0,
      'total-clusters': Math.ceil(header.size / this.#clusterSize),
      'allocated-clusters': 0,
      'fragmented-clusters': 0,
      'compressed-clusters': 0,
      corruptions: 0,
      leaks: 0,
      'corruptions-fixed': 0,
      'leaks-fixed': 0,
      'check-errors': 0,
      messages: [],
    }
  }

  async run(): Promise<CheckResult> {
    const header = this.#header
    const result = this.#result
    this.#use(0, this.#clusterSize, 'the header')
    try {
      const { blocks } = await loadCounts(this.#file, header, this.#counts, (what) => this.#corrupt(what))
      await this.#walkL1('the active map', header.l1Offset, header.l1Size)
      await this.#walkSnapshots()
      for (const [cluster, uses] of this.#tables.entries()) await this.#walkL2(cluster * this.#clusterSize, uses)
      await this.#walkBitmaps()
      this.#useStructure(blocks, 1)
      this.#compare()
      await this.#eachLink((link) => this.#compareFlag(link), true)
      this.#useStructure(blocks, -1)
    } catch (error) {
      if (errnoOf(error) !== 'EFBIG') throw error
      this.#failed(error)
    }
    return result
  }

  /** Writes a new refcount structure, and flags to match; with `leaksOnly`, no flag changes. */
  async rebuild(leaksOnly = false): Promise<boolean> {
    const header = this.#header
    if (this.#result['check-errors'] > 0) return false
    const first = Math.max(Math.ceil(this.#file.size / this.#clusterSize), this.#uses.end)
    const made = await writeCounts(this.#name, this.#file, header, this.#uses, first)
    await this.#file.flush()
    const { refcountTableOffset, refcountTableClusters } = made
    await switchHeader(this.#name, this.#file, header, { refcountTableOffset, refcountTableClusters })
    if (leaksOnly) return true
    const byte = new Uint8Array(1)
    await this.#eachLink(async ({ at, cluster, copied }) => {
      if (copied === (this.#uses.get(cluster) === 1)) return
      await this.#file.read(at, bytesVec(byte))
      byte[0]! ^= 0x80
      await this.#file.write(at, bytesVec(byte))
    })
    await this.#file.flush()
    return true
  }

  /** The image is whole again. */
  async clearMarks(): Promise<void> {
    const header = this.#header
    const marks = INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT
    if ((header.incompatible & marks) === 0n) return
    await switchHeader(this.#name, this.#file, header, { incompatible: header.incompatible & ~marks })
  }

  #corrupt(what: string): void {
    this.#result.corruptions++
    this.#say(what)
  }

  #say(what: string): void {
    if (this.#result.messages.length < MAX_MESSAGES) this.#result.messages.push(what)
  }

  /** Counts the clusters of a range; says no to one that cannot be. */
  #use(offset: number, length: number, what: string, uses = 1): boolean {
    if (!Number.isSafeInteger(offset + length) || offset + length > this.#file.size + 64 * this.#clusterSize) {
      this.#corrupt(`${what} is at ${offset}, after the end of the file`)
      return false
    }
    const last = Math.floor((offset + length - 1) / this.#clusterSize)
    for (let cluster = Math.floor(offset / this.#clusterSize); cluster <= last; cluster++) this.#uses.add(cluster, uses)
    return true
  }

  async #read(offset: number, length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length)
    await readPadded(this.#file, offset, bytesVec(bytes))
    return bytes
  }

  async #walkL1(what: string, l1Offset: number, l1Size: number): Promise<void> {
    if (l1Size === 0) return
    if (!this.#use(l1Offset, l1Size * 8, `the L1 table of ${what}`)) return
    const l1 = await this.#read(l1Offset, l1Size * 8)
    for (let index = 0; index < l1Size; index++) {
      const offset = tableAt(l1, index)
      if (offset === 0) continue
      if (offset % this.#clusterSize !== 0) {
        this.#corrupt(`L2 table ${index} of ${what} is at ${offset}, no multiple of the cluster size`)
      } else if (this.#use(offset, this.#clusterSize, `L2 table ${index} of ${what}`)) {
        this.#tables.add(offset / this.#clusterSize)
      }
    }
  }

  /** Counts what an L2 table leads to, which `uses` L1 entries show. */
  async #walkL2(table: number, uses: number): Promise<void> {
    const header = this.#header
    const extended = l2EntrySize(header) === 16
    const external = (header.incompatible & INCOMPATIBLE_DATA_FILE) !== 0n
    const slice = await this.#l2(table)
    if (slice === undefined) return
    const packer = new Packer(this.#name, this.#file, header, undefined)
    const entries = this.#clusterSize / l2EntrySize(header)
    for (let index = 0; index < entries; index++) {
      slice.look(index)
      const { offset, flags, allocated, zeroes } = slice
      if (flags & COMPRESSED) {
        const { high, low } = slice.descriptor(index)
        const place = packer.place(high, low)
        if (external) this.#corrupt('a cluster is compressed, but the data is in another file')
        else this.#usePacked(place.at, place.length, 'a compressed cluster', uses)
        continue
      }
      if (flags & MISPLACED) {
        this.#corrupt(`a data cluster is at ${offset}, no multiple of the cluster size`)
        continue
      }
      if (extended && ((allocated & zeroes) !== 0 || (allocated !== 0 && !(flags & PRESENT)))) {
        this.#corrupt('an L2 entry has impossible subclusters')
      }
      if (flags & PRESENT && !external) this.#use(offset, this.#clusterSize, 'a data cluster', uses)
    }
  }

  /** A compressed cluster's last sectors may be after the end of the file. */
  #usePacked(at: number, length: number, what: string, uses: number): void {
    this.#use(at, Math.max(1, Math.min(length, Math.max(this.#file.size - at, 1))), what, uses)
  }

  /** An L2 table; nothing if it is a hole of the file. */
  async #l2(table: number): Promise<Slice | undefined> {
    const length = Math.min(this.#clusterSize, this.#file.size - table)
    if (length <= 0) return undefined
    const found = await this.#file.status(table, length)
    if (found.kind !== 'data' && found.length >= length) return undefined
    const external = (this.#header.incompatible & INCOMPATIBLE_DATA_FILE) !== 0n
    const bytes = await this.#read(table, this.#clusterSize)
    return new Slice(0, bytes, l2EntrySize(this.#header) === 16, external, this.#clusterSize)
  }

  /** Visits what the active map leads to, once more instead of a list: an image can be made to have very many. */
  async #eachLink(visit: (link: Link) => Now<void>, count = false): Promise<void> {
    const { l1Offset, l1Size, incompatible } = this.#header
    const entrySize = l2EntrySize(this.#header)
    const external = (incompatible & INCOMPATIBLE_DATA_FILE) !== 0n
    const l1 = await this.#read(l1Offset, l1Size * 8)
    const seen = new Tally(this.#limit)
    for (let index = 0; index < l1Size; index++) {
      const offset = tableAt(l1, index)
      if (offset === 0 || offset % this.#clusterSize !== 0) continue
      const cluster = offset / this.#clusterSize
      await visit({ at: l1Offset + index * 8, cluster, copied: l1[index * 8]! >= 0x80, l1Index: index })
    }
    for (let l1Index = 0; l1Index < l1Size; l1Index++) {
      const table = tableAt(l1, l1Index)
      const cluster = table / this.#clusterSize
      if (table === 0 || !Number.isInteger(cluster) || this.#tables.get(cluster) === 0 || seen.get(cluster) > 0)
        continue
      seen.set(cluster, 1)
      let next = -1 // as in QEMU, a table's first cluster goes on from none
      const slice = await this.#l2(table)
      for (let index = 0; slice !== undefined && index < this.#clusterSize / entrySize; index++) {
        slice.look(index)
        const { flags, offset } = slice
        if (flags & MISPLACED || !(flags & (COMPRESSED | PRESENT))) continue
        if (count) next = this.#count(slice, next)
        if (flags & COMPRESSED || external) continue
        const copied = (flags & COPIED) !== 0
        const later = visit({ at: table + index * entrySize, cluster: offset / this.#clusterSize, copied, l1Index: -1 })
        if (later instanceof Promise) await later
      }
    }
  }

  /** Counts a cluster of the active map; `next` is where one would be that goes on as the last. */
  #count({ flags, offset }: Slice, next: number): number {
    const result = this.#result
    result['allocated-clusters']++
    if (flags & COMPRESSED) {
      result['compressed-clusters']++
      result['fragmented-clusters']++
      return next
    }
    if (next !== -1 && offset !== next) result['fragmented-clusters']++
    return offset + this.#clusterSize
  }

  async #walkSnapshots(): Promise<void> {
    const header = this.#header
    if (header.snapshotCount === 0) return
    try {
      const { snapshots, length } = await readSnapshots(this.#name, this.#file, header)
      this.#use(header.snapshotsOffset, length, 'the snapshot table')
      const total = snapshots.reduce((sum, { l1Size }) => sum + l1Size * 8, 0)
      if (total > MAX_SNAPSHOT_L1) {
        throw new BlockError(
          'EINVAL',
          `Cannot check ${this.#name}: its snapshots have ${total} bytes of L1 tables, too many`,
        )
      }
      for (const snapshot of snapshots) {
        await this.#walkL1(`snapshot ${snapshot.id}`, snapshot.l1Offset, snapshot.l1Size)
      }
    } catch (error) {
      this.#failed(error)
    }
  }

  async #walkBitmaps(): Promise<void> {
    const header = this.#header
    if (header.bitmaps === undefined || (header.autoclear & AUTOCLEAR_BITMAPS) === 0n) return
    try {
      const entries = await readBitmaps(this.#name, this.#file, header)
      this.#use(header.bitmaps.directoryOffset, header.bitmaps.directorySize, 'the bitmap directory')
      for (const entry of entries) {
        this.#use(entry.tableOffset, entry.tableSize * 8, `the table of bitmap ${entry.name}`)
        for (const offset of await readBitmapTable(this.#file, entry)) {
          if (offset <= 1) continue
          if (offset % this.#clusterSize !== 0) this.#corrupt(`bitmap ${entry.name} has bits at ${offset}`)
          else this.#use(offset, this.#clusterSize, `bits of bitmap ${entry.name}`)
        }
      }
    } catch (error) {
      this.#failed(error)
    }
  }

  #failed(error: unknown): void {
    if (!(error instanceof BlockError)) throw error
    this.#result['check-errors']++
    this.#say(messageOf(error))
  }

  /** Adds the refcount structure to the uses, or takes it away again. */
  #useStructure(blocks: readonly number[], uses: number): void {
    const { refcountTableOffset, refcountTableClusters } = this.#header
    for (let each = 0; each < refcountTableClusters; each++) {
      this.#uses.add(refcountTableOffset / this.#clusterSize + each, uses)
    }
    for (const block of blocks) this.#uses.add(block / this.#clusterSize, uses)
  }

  #compare(): void {
    const result = this.#result
    let last = 0
    const seen = (cluster: number) => {
      last = Math.max(last, cluster + 1)
      const uses = this.#uses.get(cluster)
      const count = this.#counts.get(cluster)
      if (uses === count) return
      if (count > uses) {
        result.leaks++
        this.#say(`Leaked cluster ${cluster} refcount=${count} reference=${uses}`)
      } else this.#corrupt(`ERROR cluster ${cluster} refcount=${count} reference=${uses}`)
    }
    this.#uses.forEach(seen)
    this.#counts.forEach((cluster) => {
      if (this.#uses.get(cluster) === 0) seen(cluster)
    })
    result['image-end-offset'] = last * this.#clusterSize
  }

  /** An entry of the active map must say what its cluster's refcount says. */
  #compareFlag({ cluster, copied, l1Index }: Link): void {
    const count = this.#counts.get(cluster)
    if (copied === (count === 1)) return
    const entry = (BigInt(cluster * this.#clusterSize) | (copied ? 1n << 63n : 0n)).toString(16)
    const what = l1Index < 0 ? `data cluster: l2_entry=${entry}` : `L2 cluster: l1_index=${l1Index} l1_entry=${entry}`
    this.#corrupt(`ERROR OFLAG_COPIED ${what} refcount=${count}`)
  }
}
