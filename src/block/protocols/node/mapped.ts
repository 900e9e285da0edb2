/** Long reads of what the page cache holds, copied from a mapping of the file: the kernel's own copy takes longer. */
import fs from 'node:fs'
import { performance } from 'node:perf_hooks'
import { isMainThread } from 'node:worker_threads'
import type { IoVec } from '../../iovec.ts'
import type { Libc } from './libc.ts'
import { type Second, second } from './second.ts'
import type { Addresses } from './vector.ts'

/** Shortest read that is worth it, bytes. */
export const MAPPED_MIN = 64 << 10
/** Longest, bytes. */
const MAPPED_MAX = 1 << 20
/**
 * What is copied at a time, bytes, and how long that takes at most, ms, where it goes on so: pages that are touched for the first time
 * cost a fault each few, up to 2 ms for 1 MiB.
 */
const STEP = 256 << 10
const TOUCHING = 0.1
/** Bytes that are mapped together: giving up so many pages must not take long either. */
const WINDOW = 64 << 20
/** Most windows of a file: 8 GiB, and 16 MiB of page tables. */
const WINDOWS_MAX = 128
/** Shortest piece of memory, on average, for which the calls are worth it, bytes. */
const PIECE_MIN = 16 << 10
/** Reads of a window's bytes before it is mapped. */
const READS_MIN = 32

/** File systems whose pages are the ones that write(2) changes, and which do not fetch them from elsewhere. linux/magic.h */
const LOCAL: readonly number[] = [0xef53, 0x58465342, 0x9123683e, 0xf2f52010, 0x01021994]

interface Window {
  /** How often it was wanted before it was mapped. */
  reads: number
  /** Address of its first byte; 0 if it is not mapped. */
  address: number
  /** When it was used last, in reads. */
  used: number
}

/**
 * Mapped windows of a file. Measured over data that no CPU has in its cache, 256 KiB take 25 us from a mapping and 55 from
 * preadv2, 64 KiB 6.5 and 8.
 *
 * To touch a page that is not there would put the emulator's thread to sleep, and end the process (SIGBUS) where it cannot be
 * read or the file has become shorter. So before every read the file is asked for its end, for of a large folio mincore(2) calls
 * present what is behind that too, and mincore for its pages; what is there then is copied at once.
 */
export class Mapped {
  readonly #libc: Libc
  readonly #addresses: Addresses
  readonly #fd: number
  readonly #readsMin: number
  readonly #second: Second | undefined
  readonly #windows = new Map<number, Window>()
  readonly #pages = new Uint8Array(MAPPED_MAX / 4096 + 1)
  #mapped = 0
  #reads = 0

  /** `readsMin`: how often a window must be wanted; `second`: who helps with the copies. */
  constructor(libc: Libc, addresses: Addresses, fd: number, readsMin = READS_MIN, second?: Second) {
    this.#libc = libc
    this.#addresses = addresses
    this.#fd = fd
    this.#readsMin = readsMin
    this.#second = second
  }

  /**
   * Reads `into` from its start on and answers how many bytes: 0 unless the page cache holds all of it, and not all of it where that
   * would take too long.
   */
  read(at: number, into: IoVec): number {
    const length = into.byteLength
    if (length < MAPPED_MIN || length > MAPPED_MAX) return 0
    const index = Math.floor(at / WINDOW)
    const within = at - index * WINDOW
    const views = into.views()
    if (within + length > WINDOW || views.length * PIECE_MIN > length) return 0
    const window = this.#windows.get(index) ?? this.#add(index)
    window.used = ++this.#reads
    if (window.address === 0 && (++window.reads < this.#readsMin || !this.#map(index, window))) return 0
    if (length > STEP) this.#second?.expect()
    if (!isCached(this.#libc, this.#fd, at, window.address + within, length, this.#pages)) return 0
    return this.#copy(window.address + within, views, length)
  }

  #copy(from: number, views: readonly Uint8Array[], length: number): number {
    let start = length > STEP ? performance.now() : 0
    let done = 0
    let end = STEP
    for (const view of views) {
      const to = this.#addresses.of(view)
      for (let at = 0; at < view.length; ) {
        const part = Math.min(view.length - at, end - done)
        if (this.#second === undefined) this.#libc.copy(to + at, from + done, part)
        else this.#second.copy(to + at, from + done, part)
        at += part
        done += part
        if (done < end || done === length) continue
        const now = performance.now()
        if (now - start > TOUCHING) return done
        start = now
        end += STEP
      }
    }
    return done
  }

  /** Gives all windows up. */
  close(): void {
    for (const window of this.#windows.values()) this.#unmap(window)
    this.#windows.clear()
  }

  #add(index: number): Window {
    const window = { reads: 0, address: 0, used: 0 }
    // Those that are counted only are forgotten now and then.
    if (this.#windows.size >= 16 * WINDOWS_MAX) {
      for (const [key, { address }] of this.#windows) if (address === 0) this.#windows.delete(key)
    }
    this.#windows.set(index, window)
    return window
  }

  #map(index: number, window: Window): boolean {
    window.reads = 0
    if (this.#mapped >= WINDOWS_MAX) this.#unmapOldest()
    const address = this.#libc.mapFile(this.#fd, index * WINDOW, WINDOW)
    if (address < 0) return false
    window.address = address
    this.#mapped++
    return true
  }

  #unmapOldest(): void {
    let oldest: Window | undefined
    for (const window of this.#windows.values()) {
      if (window.address !== 0 && (oldest === undefined || window.used < oldest.used)) oldest = window
    }
    if (oldest !== undefined) this.#unmap(oldest)
  }

  #unmap(window: Window): void {
    if (window.address === 0) return
    this.#libc.unmap(window.address, WINDOW)
    window.address = 0
    this.#mapped--
  }
}

/** Whether the file has `length` bytes from `at` on, which are mapped at `address`, and the page cache all of them; `pages` is room for the answer. */
export function isCached(
  libc: Libc,
  fd: number,
  at: number,
  address: number,
  length: number,
  pages: Uint8Array,
): boolean {
  if (at + length > libc.end(fd)) return false
  const { pageSize } = libc
  const start = address - (address % pageSize)
  const count = Math.ceil((address + length - start) / pageSize)
  if (libc.mincore(start, count * pageSize, pages) < 0) return false
  for (let page = 0; page < count; page++) if ((pages[page]! & 1) === 0) return false
  return true
}

/**
 * The windows of the open file `fd` of `size` bytes; undefined where mincore(2) does not tell the truth, or pages may not be
 * those that are written.
 */
export function mapped(libc: Libc, addresses: Addresses, fd: number, size: number): Mapped | undefined {
  return mappable(libc, fd, size) ? new Mapped(libc, addresses, fd, READS_MIN, second(libc)) : undefined
}

/** Whether a mapping shows what write(2) writes, and mincore(2) what of it is there. */
export function mappable(libc: Libc, fd: number, size: number): boolean {
  // What is mapped keeps the file's locks, and nobody unmaps it when a thread is terminated.
  if (!isMainThread) return false
  try {
    if (!LOCAL.includes(fs.statfsSync(`/proc/self/fd/${fd}`).type)) return false
  } catch {
    return false
  }
  const { pageSize } = libc
  // Of a file that is not ours to write, mincore calls every page present, those after its end too.
  const end = Math.ceil(size / pageSize) * pageSize
  const address = libc.mapFile(fd, end, pageSize)
  if (address < 0) return false
  const pages = Uint8Array.of(1)
  const asked = libc.mincore(address, pageSize, pages)
  libc.unmap(address, pageSize)
  return asked >= 0 && (pages[0]! & 1) === 0
}
