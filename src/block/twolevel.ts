/** Images that map by two levels of tables and count nothing: QED and the first qcow. Their author says what an entry means. */
import type { BlockDevice } from './device.ts'
import { BlockError, errnoOf } from './error.ts'
import type { Allocation, Image, Mapping, PackedAllocation } from './image.ts'
import { bytesVec } from './iovec.ts'
import { readPadded } from './mover.ts'
import { after, all, type Now, repeat, rescue } from './now.ts'
import { MAX_PAGE, Page, PageCache, patchesOf, settlePages } from './pages.ts'
import { Rounds } from './rounds.ts'
import { Traffic } from './traffic.ts'

/** So many clusters are looked at, past those that are wanted, for how far they follow each other. */
const LOOK_AHEAD = 16

/** What an entry of a second-level table says, given as its two halves. */
export type Entry =
  | { readonly kind: 'hole' }
  | { readonly kind: 'zero' }
  | { readonly kind: 'raw'; readonly at: number }
  | { readonly kind: 'packed'; readonly at: number; readonly length: number }

/** A format of two levels. */
export interface TwoLevelFormat {
  readonly name: string
  readonly file: BlockDevice
  readonly backing?: BlockDevice
  readonly readOnly: boolean
  readonly order: 'be' | 'le'
  readonly clusterSize: number
  size: number
  readonly l1Offset: number
  readonly l1: Uint8Array
  /** Entries of a second-level table. */
  readonly l2Entries: number
  /** Most memory for tables, bytes. */
  readonly limit: number
  decode(high: number, low: number): Entry
  /** The entry that reads as zeroes, if there is one. */
  readonly zeroEntry?: number
  /** The entry of compressed bytes, as two halves. */
  packedEntry?(at: number, length: number): { high: number; low: number }
  unpack?(bytes: Uint8Array): Uint8Array
  pack?(bytes: Uint8Array): Uint8Array | undefined
  /** Runs before entries that show new clusters go to the medium. */
  beforeLinks?(): Now<void>
  /** Runs when the medium has everything, before the files are closed. */
  settled?(): Now<void>
  resize?(size: number): Now<void>
  /** Names another backing file in the header, or none, durably; on failure nothing has changed. */
  nameBacking?(name: string | undefined, format: string | undefined): Now<void>
}

class TablePage extends Page {
  readonly #bytes: Uint8Array
  readonly view: DataView
  /** Bytes of the disk, from the page's first, that were found in one piece last; and how far behind that piece lies in the file. */
  from = 0
  to = 0
  shift = 0

  constructor(key: number, bytes: Uint8Array) {
    super(key)
    this.#bytes = bytes
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  }

  bytes(): Uint8Array {
    return this.#bytes
  }

  get cost(): number {
    return this.#bytes.length + 128
  }
}

interface Run {
  cluster: number
  count: number
}

/** An image of two levels. Data is durable before the entries that show it; what is given up is used again only after that. */
export class TwoLevelImage implements Image {
  readonly #format: TwoLevelFormat
  readonly clusterSize: number
  backing: BlockDevice | undefined
  readonly pack?: NonNullable<Image['pack']>
  readonly changeBacking?: NonNullable<Image['changeBacking']>
  readonly traffic = new Traffic()
  readonly #little: boolean
  readonly #l1: DataView
  readonly #l1Dirty = new Set<number>()
  readonly #pages: PageCache<TablePage>
  readonly #pageSize: number
  readonly #perPage: number
  /** Bytes of the disk that a page maps, and the inverse: powers of two. */
  readonly #span: number
  readonly #perSpan: number
  readonly #making = new Map<number, Promise<void>>()
  readonly #fresh = new Set<number>()
  #tail: number
  #links = false
  #packedEnd = 0
  #frees: Run[] = []
  readonly #pool: Run[] = []
  #grown = false
  readonly #rounds = new Rounds(() => (this.#dirty() ? this.#commit() : this.file.flush()))
  #unpacked: { at: number; bytes: Uint8Array } | undefined

  constructor(format: TwoLevelFormat) {
    this.#format = format
    this.clusterSize = format.clusterSize
    this.#little = format.order === 'le'
    this.#l1 = new DataView(format.l1.buffer, format.l1.byteOffset, format.l1.length)
    this.#pageSize = Math.min(MAX_PAGE, format.l2Entries * 8)
    this.#perPage = this.#pageSize / 8
    this.#span = this.#perPage * this.clusterSize
    this.#perSpan = 1 / this.#span
    this.#pages = new PageCache(Math.max(format.limit, 4 * MAX_PAGE))
    this.#tail = Math.ceil(format.file.size / this.clusterSize)
    this.backing = format.backing
    const { nameBacking } = format
    if (nameBacking !== undefined) {
      this.changeBacking = (backing) =>
        after(this.flush(), () =>
          after(nameBacking(backing?.name, backing?.format), () => {
            this.backing = backing?.device
          }),
        )
    }
    if (format.pack !== undefined) this.pack = (at, bytes) => this.#pack(at, bytes)
  }

  get name(): string {
    return this.#format.name
  }

  get size(): number {
    return this.#format.size
  }

  get file(): BlockDevice {
    return this.#format.file
  }

  get readOnly(): boolean {
    return this.#format.readOnly
  }

  map(at: number, length: number): Now<Mapping> {
    const cluster = Math.floor(at / this.clusterSize)
    const page = this.#pages.get(Math.floor(cluster / this.#perPage))
    if (page === undefined) return this.#mapLater(at, length, cluster)
    const within = at - cluster * this.clusterSize
    const index = cluster % this.#perPage
    const entry = this.#entry(page, index)
    let end = this.clusterSize
    if (entry.kind !== 'packed') {
      for (let next = 1; end < within + length && index + next < this.#perPage; next++) {
        const more = this.#entry(page, index + next)
        if (more.kind !== entry.kind) break
        if (more.kind === 'raw' && entry.kind === 'raw' && more.at !== entry.at + next * this.clusterSize) break
        end += this.clusterSize
      }
    }
    const covered = Math.min(length, end - within)
    if (entry.kind === 'raw') {
      return { kind: 'raw', length: covered, at: entry.at + within, inPlace: !this.readOnly }
    }
    if (entry.kind !== 'packed') return { kind: entry.kind, length: covered }
    return {
      kind: 'packed',
      length: covered,
      unpack: () => after(this.#unpack(entry.at, entry.length), (bytes) => bytes.subarray(within, within + covered)),
    }
  }

  locate(at: number, length: number): number {
    const key = Math.floor(at * this.#perSpan)
    const page = this.#pages.get(key)
    if (page === undefined) return -1
    const within = at - key * this.#span
    return within >= page.from && within + length <= page.to
      ? within + page.shift
      : this.#locateAnew(page, within, length)
  }

  #locateAnew(page: TablePage, within: number, length: number): number {
    const first = Math.floor(within / this.clusterSize)
    const wanted = Math.ceil((within + length) / this.clusterSize)
    const entry = this.#entry(page, first)
    if (entry.kind !== 'raw' || wanted > this.#perPage) return -1
    const shift = entry.at - first * this.clusterSize
    const most = Math.min(wanted + LOOK_AHEAD, this.#perPage)
    let end = first + 1
    while (end < most && this.#value(page, end) === shift + end * this.clusterSize) end++
    if (end < wanted) return -1
    page.from = first * this.clusterSize
    page.to = end * this.clusterSize
    page.shift = shift
    return within + shift
  }

  claim(at: number, length: number): number {
    const key = Math.floor(at * this.#perSpan)
    const page = this.#pages.get(key)
    if (page === undefined || this.#pool.length > 0 || this.#pressed) return -1
    const within = at % this.clusterSize
    const index = Math.floor((at - key * this.#span) / this.clusterSize)
    const end = index + Math.ceil((within + length) / this.clusterSize)
    const place = this.#tail * this.clusterSize
    if (end > this.#perPage || place + (end - index) * this.clusterSize > this.file.size) return -1
    for (let each = index; each < end; each++) if (this.#value(page, each) !== 0) return -1
    for (let each = index; each < end; each++) {
      const offset = place + (each - index) * this.clusterSize
      this.#put(page, each, Math.floor(offset / 2 ** 32), offset >>> 0)
    }
    this.#tail += end - index
    this.#links = true
    return place + within
  }

  #mapLater(at: number, length: number, cluster: number): Now<Mapping> {
    const table = Math.floor(cluster / this.#format.l2Entries)
    const span = this.#format.l2Entries * this.clusterSize
    if (this.#table(table) === 0) {
      let next = table + 1
      while (next * span < at + length && this.#table(next) === 0) next++
      return { kind: 'hole', length: Math.min(length, next * span - at) }
    }
    return after(this.#page(Math.floor(cluster / this.#perPage)), () => this.map(at, length))
  }

  allocate(at: number, length: number): Now<Allocation> {
    const cluster = Math.floor(at / this.clusterSize)
    return this.#unpressed(() =>
      after(this.#writable(cluster), (page) => {
        const index = cluster % this.#perPage
        const kind = this.#entry(page, index).kind
        const most = Math.min(Math.ceil((at + length) / this.clusterSize) - cluster, this.#perPage - index)
        let count = 1
        while (count < most && this.#entry(page, index + count).kind === kind && kind !== 'packed') count++
        return after(this.#take(count), ({ cluster: place, count: taken, zeroed }) => ({
          start: cluster * this.clusterSize,
          length: taken * this.clusterSize,
          at: place * this.clusterSize,
          zeroed,
          was: kind === 'hole' || kind === 'zero' ? kind : ('data' as const),
          link: () =>
            after(this.#writable(cluster), (page) => {
              for (let each = 0; each < taken; each++) {
                const offset = (place + each) * this.clusterSize
                this.#set(page, (cluster + each) % this.#perPage, Math.floor(offset / 2 ** 32), offset >>> 0)
              }
              this.#links = true
            }),
          abandon: () => this.#release([{ cluster: place, count: taken }]),
        }))
      }),
    )
  }

  #pack(at: number, bytes: Uint8Array): Now<PackedAllocation | undefined> {
    const whole = new Uint8Array(this.clusterSize)
    whole.set(bytes)
    const packed = this.#format.pack!(whole)
    if (packed === undefined) return undefined
    const cluster = Math.floor(at / this.clusterSize)
    return after(this.#writable(cluster), () =>
      after(this.#takePacked(packed.length), (place) => {
        const { high, low } = this.#format.packedEntry!(place, packed.length)
        return {
          at: place,
          bytes: packed,
          link: () =>
            after(this.#writable(cluster), (page) => {
              this.#set(page, cluster % this.#perPage, high, low)
              this.#links = true
            }),
          abandon: () => {}, // others may share the cluster
        }
      }),
    )
  }

  /** Space for compressed bytes, right after the last if they still fit its cluster. */
  #takePacked(length: number): Now<number> {
    const at = this.#packedEnd
    if (Math.ceil(at / this.clusterSize) * this.clusterSize - at >= length) {
      this.#packedEnd = at + length
      return at
    }
    return after(this.#take(1), (space) => {
      this.#packedEnd = space.cluster * this.clusterSize + length
      return space.cluster * this.clusterSize
    })
  }

  zero(at: number, length: number): Now<boolean> {
    const value = this.#format.zeroEntry
    if (value === undefined) return false
    return after(
      this.#change(at, length, true, (page, index, inside) => {
        const { kind } = this.#entry(page, index)
        if (kind === 'zero' || (kind === 'hole' && !inside)) return
        this.#set(page, index, 0, value)
      }),
      () => true,
    )
  }

  discard(at: number, length: number): Now<void> {
    return this.#change(at, length, false, (page, index, inside) => {
      const { kind } = this.#entry(page, index)
      if (kind === 'hole' || kind === 'zero') return
      if (inside && this.#format.zeroEntry === undefined) return
      this.#set(page, index, 0, inside ? this.#format.zeroEntry! : 0)
    })
  }

  resize(size: number): Now<void> {
    if (this.#format.resize === undefined) {
      throw new BlockError('ENOTSUP', `Cannot resize ${this.name}: the format cannot do that`)
    }
    return this.#format.resize(size)
  }

  flush(): Now<void> {
    if (this.readOnly) return
    return this.#rounds.busy || this.#dirty() ? this.#rounds.run() : this.file.flush()
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
      await attempt(() => this.flush())
      if (failure === undefined) await attempt(() => this.#format.settled?.())
      const end = this.#tail * this.clusterSize
      if (this.#grown && this.file.size > end) await attempt(() => this.file.resize(end))
    }
    await attempt(() => this.file.close())
    await attempt(() => this.backing?.close())
    if (failure !== undefined) throw failure
  }

  #dirty(): boolean {
    return this.#l1Dirty.size > 0 || this.#frees.length > 0 || this.#pages.dirty
  }

  async #commit(): Promise<void> {
    const { l1Offset, l1 } = this.#format
    const dirty = this.#pages.takeDirty(({ key }) => this.#place(key))
    const { pages } = dirty
    const sectors = new Set(this.#l1Dirty)
    const fresh = [...this.#fresh]
    const frees = this.#frees
    const links = this.#links
    const patches = [...dirty.patches, ...patchesOf(l1, l1Offset, (sector) => sectors.has(sector))]
    this.#l1Dirty.clear()
    this.#frees = []
    this.#links = false
    try {
      if (links) {
        await this.#format.beforeLinks?.()
        await this.file.flush()
      }
      const end = patches.reduce((most, { at, bytes }) => Math.max(most, at + bytes.length), 0)
      await this.file.grow(end)
      await all(patches.map(({ at, bytes }) => this.file.write(at, bytesVec(bytes))))
      await this.file.flush()
    } catch (error) {
      settlePages(pages, false)
      for (const sector of sectors) this.#l1Dirty.add(sector)
      this.#frees = [...frees, ...this.#frees]
      this.#links ||= links
      throw error
    }
    settlePages(pages, true)
    for (const table of fresh) this.#fresh.delete(table)
    if (frees.length > 0) void Promise.resolve(after(this.traffic.grace(), () => this.#release(frees)))
  }

  /** Clusters that nothing shows or touches any more. */
  #release(runs: readonly Run[]): Now<void> {
    this.#pool.push(...runs)
    if (this.#pool.length > 16384) this.#pool.length = 16384
  }

  #take(count: number): Now<{ cluster: number; count: number; zeroed: boolean }> {
    const run = this.#pool.pop()
    if (run !== undefined) {
      const taken = Math.min(count, run.count)
      if (taken < run.count) this.#pool.push({ cluster: run.cluster + taken, count: run.count - taken })
      return after(this.#extend((run.cluster + taken) * this.clusterSize), () => ({
        cluster: run.cluster,
        count: taken,
        zeroed: false,
      }))
    }
    const end = (this.#tail + count) * this.clusterSize
    if (end > this.file.size) return after(this.#extend(end), () => this.#take(count))
    const cluster = this.#tail
    this.#tail += count
    return { cluster, count, zeroed: true }
  }

  #extend(end: number): Now<void> {
    const { size } = this.file
    if (end <= size) return
    const step = Math.min(Math.max(16 * this.clusterSize, size / 2), 64 << 20)
    this.#grown = true
    return rescue(
      () => this.file.grow(end, Math.ceil((end + step) / this.clusterSize) * this.clusterSize),
      (error) => {
        const code = errnoOf(error) === 'ENOTSUP' ? 'ENOSPC' : errnoOf(error)
        throw new BlockError(code, `Cannot allocate space in ${this.name}: its file cannot grow`, { cause: error })
      },
    )
  }

  /** Whether a commit would make room. */
  get #pressed(): boolean {
    return this.#pages.cost > this.#pages.limit && this.#dirty()
  }

  #unpressed<T>(body: () => Now<T>): Now<T> {
    return this.#pressed ? after(this.flush(), body) : body()
  }

  #unpack(at: number, length: number): Now<Uint8Array> {
    if (this.#unpacked?.at === at) return this.#unpacked.bytes
    const input = new Uint8Array(length)
    return after(readPadded(this.file, at, bytesVec(input)), () => {
      let bytes: Uint8Array
      try {
        bytes = this.#format.unpack!(input)
      } catch (error) {
        throw new BlockError('EIO', `Cannot read ${this.name}: its compressed cluster at ${at} is damaged`, {
          cause: error,
        })
      }
      this.#unpacked = { at, bytes }
      return bytes
    })
  }

  #change(
    at: number,
    length: number,
    make: boolean,
    visit: (page: TablePage, index: number, inside: boolean) => void,
  ): Now<void> {
    const backed = this.backing?.size ?? 0
    let cluster = Math.floor(at / this.clusterSize)
    const end = Math.ceil((at + length) / this.clusterSize)
    return repeat(() => {
      if (cluster >= end) return false
      const table = Math.floor(cluster / this.#format.l2Entries)
      if (this.#table(table) === 0 && !(make && cluster * this.clusterSize < backed)) {
        cluster = (table + 1) * this.#format.l2Entries
        return true
      }
      return this.#unpressed(() =>
        after(this.#writable(cluster), (page) => {
          const base = page.key * this.#perPage
          const last = Math.min(end, base + this.#perPage)
          for (; cluster < last; cluster++) visit(page, cluster - base, cluster * this.clusterSize < backed)
          return true
        }),
      )
    })
  }

  /** Sets an entry; what it showed is given back after the next commit. */
  #set(page: TablePage, index: number, high: number, low: number): void {
    const old = this.#entry(page, index)
    if (old.kind === 'raw' || old.kind === 'packed') {
      const cluster = Math.floor(old.at / this.clusterSize)
      // Compressed bytes share clusters with others in some images: what they leave is not used again.
      if (old.kind === 'raw') this.#frees.push({ cluster, count: 1 })
      this.#unpacked = undefined
    }
    if (index * this.clusterSize >= page.from && index * this.clusterSize < page.to) page.to = 0
    this.#put(page, index, high, low)
  }

  #put(page: TablePage, index: number, high: number, low: number): void {
    page.view.setUint32(index * 8, this.#little ? low : high, this.#little)
    page.view.setUint32(index * 8 + 4, this.#little ? high : low, this.#little)
    page.touch(index * 8, 8)
  }

  /** An entry as a number; of plain data, the offset. */
  #value(page: TablePage, index: number): number {
    const first = page.view.getUint32(index * 8, this.#little)
    const second = page.view.getUint32(index * 8 + 4, this.#little)
    return this.#little ? second * 2 ** 32 + first : first * 2 ** 32 + second
  }

  #entry(page: TablePage, index: number): Entry {
    const first = page.view.getUint32(index * 8, this.#little)
    const second = page.view.getUint32(index * 8 + 4, this.#little)
    const entry = this.#little ? this.#format.decode(second, first) : this.#format.decode(first, second)
    if (
      entry.kind === 'raw' &&
      (entry.at === 0 || (entry.at & (this.clusterSize - 1)) !== 0 || !Number.isSafeInteger(entry.at))
    ) {
      throw new BlockError('EIO', `${this.name} is corrupt: a data cluster is at ${entry.at}`)
    }
    return entry
  }

  /** Offset of a second-level table; 0 if there is none. */
  #table(index: number): number {
    if (index * 8 >= this.#l1.byteLength) return 0
    const first = this.#l1.getUint32(index * 8, this.#little)
    const second = this.#l1.getUint32(index * 8 + 4, this.#little)
    const offset = this.#little ? second * 2 ** 32 + first : first * 2 ** 32 + second
    if (offset !== 0 && (offset % 512 !== 0 || !Number.isSafeInteger(offset))) {
      throw new BlockError('EIO', `${this.name} is corrupt: table ${index} is at ${offset}`)
    }
    return offset
  }

  #place(key: number): number {
    const { l2Entries } = this.#format
    const cluster = key * this.#perPage
    return this.#table(Math.floor(cluster / l2Entries)) + (cluster % l2Entries) * 8
  }

  #writable(cluster: number): Now<TablePage> {
    const table = Math.floor(cluster / this.#format.l2Entries)
    if (this.#table(table) === 0)
      return after(this.#makeTable(table), () => after(this.#writable(cluster), (page) => this.#pages.hold(page)))
    return this.#page(Math.floor(cluster / this.#perPage))
  }

  #makeTable(index: number): Now<void> {
    const making = this.#making.get(index)
    if (making !== undefined) return making
    const value = this.#newTable(index)
    if (!(value instanceof Promise)) return
    const promise = value.finally(() => this.#making.delete(index))
    this.#making.set(index, promise)
    return promise
  }

  #newTable(index: number): Now<void> {
    const clusters = Math.ceil((this.#format.l2Entries * 8) / this.clusterSize)
    const end = (this.#tail + clusters) * this.clusterSize
    if (end > this.file.size) return after(this.#extend(end), () => this.#newTable(index))
    const at = this.#tail * this.clusterSize
    this.#tail += clusters
    this.#l1.setUint32(index * 8, this.#little ? at >>> 0 : Math.floor(at / 2 ** 32), this.#little)
    this.#l1.setUint32(index * 8 + 4, this.#little ? Math.floor(at / 2 ** 32) : at >>> 0, this.#little)
    this.#l1Dirty.add((index * 8) >> 9)
    this.#fresh.add(at)
    this.#links = true
  }

  #page(key: number): Now<TablePage> {
    return this.#pages.load(key, () => {
      const bytes = new Uint8Array(this.#pageSize)
      const table = this.#table(Math.floor((key * this.#perPage) / this.#format.l2Entries))
      if (this.#fresh.has(table)) return new TablePage(key, bytes)
      return after(readPadded(this.file, this.#place(key), bytesVec(bytes)), () => new TablePage(key, bytes))
    })
  }
}
