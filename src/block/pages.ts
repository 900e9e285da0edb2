/** Metadata in memory: pages of tables, bounded, with their dirty 512-byte sectors. */
import type { Now } from './now.ts'
import { nextTurn } from './turn.ts'

/** Most bytes of a page; 32 sectors, so that one number holds a page's dirty sectors. */
export const MAX_PAGE = 16384
const SECTOR_BITS = 9
/** Pages that are found by a few bits of their keys. */
const NEAR_MASK = 63
/** Most pages that are looked at for one that is added. */
const LOOKS_MOST = 256

/** A write of metadata: a copy of what was dirty, so that what changes meanwhile is not written too early. */
export interface Patch {
  readonly at: number
  readonly bytes: Uint8Array
}

/** One page of a table. */
export abstract class Page {
  readonly key: number
  /** Sectors that the medium does not have yet, a bit each. */
  dirty = 0
  /** Sectors that are being written. */
  writing = 0
  used = true
  /** What the cache counts it for, bytes. */
  counted = 0
  /** How many times it is kept for who waits for it, see {@link PageCache.hold}. */
  held = 0

  constructor(key: number) {
    this.key = key
  }

  /** The page as it is on the medium. */
  abstract bytes(): Uint8Array
  /** Memory that the page takes, bytes. */
  abstract readonly cost: number
  /** Tries to take less memory; says whether it did. */
  shrink(): boolean {
    return false
  }

  /** Bytes `at` to `at + length` changed. */
  touch(at: number, length: number): void {
    const first = at >> SECTOR_BITS
    const last = (at + length - 1) >> SECTOR_BITS
    for (let sector = first; sector <= last; sector++) this.dirty |= 1 << sector
  }

  /** Whether the page must stay in memory. */
  get pinned(): boolean {
    return this.dirty !== 0 || this.writing !== 0 || this.held !== 0
  }
}

/** Copies of the runs of set sectors of a table's bytes. */
export function patchesOf(bytes: Uint8Array, at: number, isSet: (sector: number) => boolean): Patch[] {
  const patches: Patch[] = []
  const sectors = Math.ceil(bytes.length / 512)
  for (let sector = 0; sector < sectors; sector++) {
    if (!isSet(sector)) continue
    const first = sector
    while (sector + 1 < sectors && isSet(sector + 1)) sector++
    const start = first << SECTOR_BITS
    patches.push({ at: at + start, bytes: bytes.slice(start, Math.min((sector + 1) << SECTOR_BITS, bytes.length)) })
  }
  return patches
}

/** The dirty sectors of `page`, which lies at `at`; they count as being written until {@link settlePages}. */
function takeDirty(page: Page, at: number): Patch[] {
  const mask = page.dirty
  page.writing = mask
  page.dirty = 0
  return patchesOf(page.bytes(), at, (sector) => ((mask >>> sector) & 1) === 1)
}

/** Ends the writing of pages; after a failure their sectors are dirty again. */
export function settlePages(pages: readonly Page[], written: boolean): void {
  for (const page of pages) {
    if (!written) page.dirty |= page.writing
    page.writing = 0
  }
}

/** Pages by key, at most `limit` bytes of them, not counting those that are pinned. The least used goes first. */
export class PageCache<P extends Page> {
  /** Most memory for pages that are not pinned, bytes. */
  readonly limit: number
  readonly #pages = new Map<number, P>()
  readonly #loading = new Map<number, Promise<P>>()
  /** Pages that were wanted last, to be found without a look into the map. */
  readonly #near = new Array<P | undefined>(NEAR_MASK + 1).fill(undefined)
  #cost = 0
  /** Pages that are kept until the event loop's next turn. */
  #held: P[] = []

  constructor(limit: number) {
    this.limit = limit
  }

  /** Memory that all pages take, bytes. */
  get cost(): number {
    return this.#cost
  }

  get(key: number): P | undefined {
    const near = this.#near[key & NEAR_MASK]
    if (near !== undefined && near.key === key) {
      near.used = true
      return near
    }
    const page = this.#pages.get(key)
    if (page !== undefined) {
      page.used = true
      this.#near[key & NEAR_MASK] = page
    }
    return page
  }

  /** The page, read by `read` if it is not here; concurrent calls share one read. */
  load(key: number, read: () => Now<P>): Now<P> {
    const here = this.get(key) ?? this.#loading.get(key)
    if (here !== undefined) return here
    const value = read()
    if (!(value instanceof Promise)) return this.add(value)
    const loading = value.then(
      (page) => {
        this.#loading.delete(key)
        return this.hold(this.#pages.get(key) ?? this.add(page))
      },
      (error) => {
        this.#loading.delete(key)
        throw error
      },
    )
    this.#loading.set(key, loading)
    return loading
  }

  /**
   * Keeps a page whose receiver gets it by a promise until the event loop's next turn, which comes when all who are told of a promise have
   * been: what is changed on a page that the cache has forgotten meanwhile would be lost.
   */
  hold(page: P): P {
    page.held++
    if (this.#held.push(page) === 1) nextTurn(() => this.#letGo())
    return page
  }

  #letGo(): void {
    for (const page of this.#held) page.held--
    this.#held = []
  }

  add(page: P): P {
    this.#pages.set(page.key, page)
    page.counted = page.cost
    this.#cost += page.counted
    this.trim(page)
    return page
  }

  /** Says that a page's cost has changed. */
  recount(page: P): void {
    if (this.#pages.get(page.key) !== page) return
    this.#cost += page.cost - page.counted
    page.counted = page.cost
  }

  values(): Iterable<P> {
    return this.#pages.values()
  }

  /** Whether the medium lacks something. */
  get dirty(): boolean {
    for (const page of this.#pages.values()) if (page.dirty !== 0) return true
    return false
  }

  /** The dirty pages, and their dirty sectors, where `place` says that a page lies; they count as being written until {@link settlePages}. */
  takeDirty(place: (page: P) => number): { readonly pages: readonly P[]; readonly patches: readonly Patch[] } {
    const pages: P[] = []
    const patches: Patch[] = []
    for (const page of this.#pages.values()) {
      if (page.dirty === 0) continue
      pages.push(page)
      patches.push(...takeDirty(page, place(page)))
    }
    return { pages, patches }
  }

  #leave(page: P): void {
    const place = page.key & NEAR_MASK
    if (this.#near[place] === page) this.#near[place] = undefined
  }

  /** Takes memory back down to the limit as far as that goes: after a commit, which made pages clean. */
  relax(): void {
    for (let looks = 2 * this.#pages.size; looks > 0 && this.#cost > this.limit; looks -= LOOKS_MOST) this.trim()
  }

  /** Takes memory back down to the limit, except from `keep`, by a look at so many pages. */
  trim(keep?: P): void {
    if (this.#cost <= this.limit) return
    let looks = Math.min(2 * this.#pages.size, LOOKS_MOST)
    for (const page of this.#pages.values()) {
      if (looks-- <= 0 || this.#cost <= this.limit) return
      this.#pages.delete(page.key)
      if (page === keep || page.pinned || page.used) {
        page.used = page === keep || page.pinned
        this.#pages.set(page.key, page)
        continue
      }
      if (page.shrink()) {
        this.#pages.set(page.key, page)
        this.recount(page)
      } else {
        this.#leave(page)
        this.#cost -= page.counted
      }
    }
  }
}
