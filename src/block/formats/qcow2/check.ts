/** Checks an image that nobody is writing, and repairs it. */
import type { BlockDevice } from '../../device.ts'
import { BlockError, messageOf } from '../../error.ts'
import { bytesVec } from '../../iovec.ts'
import { readPadded } from '../../mover.ts'
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
import { loadCounts, Tally, writeCounts } from './tally.ts'

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

/** An active L2 entry or L1 entry whose COPIED flag is wrong. */
interface FlagFix {
  readonly at: number
  readonly copied: boolean
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
  const check = new Check(name, file, header)
  const result = await check.run()
  if (repair === undefined) return result
  const wrong = result.corruptions > 0
  if (repair === 'all' && (wrong || (header.incompatible & INCOMPATIBLE_DIRTY) !== 0n)) {
    const mended = await check.rebuild()
    const after = await new Check(name, file, header).run()
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
    const after = await new Check(name, file, header).run()
    return { ...after, 'leaks-fixed': result.leaks - after.leaks, messages: result.messages }
  }
  if (repair === 'all' && result['check-errors'] === 0) await check.clearMarks()
  return result
}

class Check {
  readonly #name: string
  readonly #file: BlockDevice
  readonly #header: Header
  readonly #clusterSize: number
  /** Uses of clusters by all but the refcount structure. */
  readonly #uses = new Tally()
  readonly #flags: FlagFix[] = []
  #counts = new Tally()
  readonly #result: CheckResult

  constructor(name: string, file: BlockDevice, header: Header) {
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
    const loaded = await loadCounts(this.#file, header, (what) => this.#corrupt(what))
    this.#counts = loaded.counts
    await this.#walkTable('the active map', header.l1Offset, header.l1Size, true)
    await this.#walkSnapshots()
    await this.#walkBitmaps()
    const total = new Tally()
    this.#uses.forEach((cluster, count) => {
      total.set(cluster, count)
    })
    for (let each = 0; each < header.refcountTableClusters; each++) {
      total.add(header.refcountTableOffset / this.#clusterSize + each)
    }
    for (const block of loaded.blocks) total.add(block / this.#clusterSize)
    const end = Math.max(total.end, this.#counts.end)
    result['image-end-offset'] = 0
    this.#compare(total, end)
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
    for (const { at, copied } of this.#flags) {
      const byte = new Uint8Array(1)
      await this.#file.read(at, bytesVec(byte))
      byte[0] = (byte[0]! & 0x7f) | (copied ? 0x80 : 0)
      await this.#file.write(at, bytesVec(byte))
    }
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

  async #walkTable(what: string, l1Offset: number, l1Size: number, active: boolean): Promise<void> {
    if (l1Size === 0) return
    if (!this.#use(l1Offset, l1Size * 8, `the L1 table of ${what}`)) return
    const l1 = await this.#read(l1Offset, l1Size * 8)
    const view = new DataView(l1.buffer)
    const tables = new Map<number, number>()
    for (let index = 0; index < l1Size; index++) {
      const high = view.getUint32(index * 8)
      const offset = (high & 0x00ffffff) * 2 ** 32 + ((view.getUint32(index * 8 + 4) & 0xfffffe00) >>> 0)
      if (offset === 0) continue
      if (offset % this.#clusterSize !== 0) {
        this.#corrupt(`L2 table ${index} of ${what} is at ${offset}, no multiple of the cluster size`)
        continue
      }
      tables.set(offset, (tables.get(offset) ?? 0) + 1)
      if (active) this.#flag(l1Offset + index * 8, offset, high >>> 31 === 1, index)
    }
    for (const [offset, uses] of tables) {
      if (this.#use(offset, this.#clusterSize, `an L2 table of ${what}`, uses)) {
        await this.#walkL2(what, offset, uses, active)
      }
    }
  }

  async #walkL2(what: string, table: number, uses: number, active: boolean): Promise<void> {
    const header = this.#header
    const result = this.#result
    const extended = l2EntrySize(header) === 16
    const external = (header.incompatible & INCOMPATIBLE_DATA_FILE) !== 0n
    if (table >= this.#file.size) return
    const found = await this.#file.status(table, Math.min(this.#clusterSize, this.#file.size - table))
    if (found.kind !== 'data' && found.length >= Math.min(this.#clusterSize, this.#file.size - table)) return
    const slice = new Slice(0, await this.#read(table, this.#clusterSize), extended, external, this.#clusterSize)
    const packer = new Packer(this.#name, this.#file, header, undefined)
    const entries = this.#clusterSize / l2EntrySize(header)
    let next = -1
    for (let index = 0; index < entries; index++) {
      slice.look(index)
      const { offset, flags, allocated, zeroes } = slice
      if (flags & COMPRESSED) {
        const { high, low } = slice.descriptor(index)
        const place = packer.place(high, low)
        if (external) this.#corrupt(`a cluster of ${what} is compressed, but the data is in another file`)
        else this.#usePacked(place.at, place.length, `a compressed cluster of ${what}`, uses)
        if (active) {
          result['allocated-clusters']++
          result['compressed-clusters']++
          result['fragmented-clusters']++
        }
        continue
      }
      if (flags & MISPLACED) {
        this.#corrupt(`a data cluster of ${what} is at ${offset}, no multiple of the cluster size`)
        continue
      }
      if (extended && ((allocated & zeroes) !== 0 || (allocated !== 0 && !(flags & PRESENT)))) {
        this.#corrupt(`an L2 entry of ${what} has impossible subclusters`)
      }
      if (!(flags & PRESENT)) continue
      if (active) {
        result['allocated-clusters']++
        if (next !== -1 && offset !== next) result['fragmented-clusters']++
        next = offset + this.#clusterSize
      }
      if (external) continue
      this.#use(offset, this.#clusterSize, `a data cluster of ${what}`, uses)
      if (active) {
        this.#flag(table + index * (extended ? 16 : 8), offset, (flags & COPIED) !== 0)
      }
    }
  }

  /** A compressed cluster's last sectors may be after the end of the file. */
  #usePacked(at: number, length: number, what: string, uses: number): void {
    this.#use(at, Math.max(1, Math.min(length, Math.max(this.#file.size - at, 1))), what, uses)
  }

  /** Notes an entry of the active map whose flag does not say what its refcount says. */
  #flag(at: number, offset: number, copied: boolean, l1Index = -1): void {
    this.#checks.push({ at, cluster: offset / this.#clusterSize, copied, l1Index })
  }

  readonly #checks: { at: number; cluster: number; copied: boolean; l1Index: number }[] = []

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
        await this.#walkTable(`snapshot ${snapshot.id}`, snapshot.l1Offset, snapshot.l1Size, false)
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

  #compare(total: Tally, end: number): void {
    const result = this.#result
    const seen = (cluster: number) => {
      const uses = total.get(cluster)
      const count = this.#counts.get(cluster)
      if (uses === count) return
      if (count > uses) {
        result.leaks++
        this.#say(`Leaked cluster ${cluster} refcount=${count} reference=${uses}`)
      } else this.#corrupt(`ERROR cluster ${cluster} refcount=${count} reference=${uses}`)
    }
    let last = 0
    total.forEach((cluster) => {
      last = Math.max(last, cluster + 1)
      seen(cluster)
    })
    this.#counts.forEach((cluster) => {
      last = Math.max(last, cluster + 1)
      if (total.get(cluster) === 0) seen(cluster)
    })
    result['image-end-offset'] = Math.min(last, end) * this.#clusterSize
    for (const { at, cluster, copied, l1Index } of this.#checks) {
      const count = this.#counts.get(cluster)
      if (copied !== (count === 1)) {
        const entry = (BigInt(cluster * this.#clusterSize) | (copied ? 1n << 63n : 0n)).toString(16)
        const what =
          l1Index < 0 ? `data cluster: l2_entry=${entry}` : `L2 cluster: l1_index=${l1Index} l1_entry=${entry}`
        this.#corrupt(`ERROR OFLAG_COPIED ${what} refcount=${count}`)
      }
      const alone = total.get(cluster) === 1
      if (copied !== alone) this.#flags.push({ at, copied: alone })
    }
    this.#checks.length = 0
  }
}
