/** Whether a write into the page cache may be done at once, on the emulator's thread: only while the host is sure to take it. */
import fs from 'node:fs'
import { performance } from 'node:perf_hooks'

/** Longest write that is done at once, bytes. */
const LENGTH_MAX = 256 << 10
/** A write that takes longer than this may have been made to wait, ms; it may also be the host that runs something else. */
const SLOW = 0.5
/** So many writes after a slow one are watched: was it asleep? */
const WATCHED = 100
/** For how long writes keep away after one was held up; twice as long each time in a row. ms. */
const PAUSE_MIN = 20
const PAUSE_MAX = 1000
/** How often the host is asked for how much of its memory waits to be written, ms, and after how many bytes. */
const SAMPLE_AGE = 100
const SAMPLE_BYTES = 32 << 20
const PAGE = 4096

/**
 * Linux lets a writer sleep when too many pages wait to be written; below the middle of its two thresholds it never does, so
 * writes are done at once only well below that. They may also have to wait for a file system's journal: after a slow one the
 * following are watched, and one that slept is followed by a pause.
 */
export class Pace {
  readonly #sleeps: () => number
  #until = 0
  #pause = PAUSE_MIN
  #watched = 0
  #sleptBefore = 0
  #sampledAt = Number.NEGATIVE_INFINITY
  #sampling = false
  /** Bytes that may still be written before the host might make a writer wait. */
  #room = Number.POSITIVE_INFINITY
  #sinceSample = 0

  /** `sleeps` tells how often this thread has slept in the kernel. */
  constructor(sleeps: () => number) {
    this.#sleeps = sleeps
  }

  /** Whether a write of `length` bytes may be done now, a time of `performance.now()`. */
  allows(length: number, now: number): boolean {
    if (length > LENGTH_MAX || now < this.#until) return false
    if (!this.#sampling && (now - this.#sampledAt > SAMPLE_AGE || this.#sinceSample > SAMPLE_BYTES)) this.#sample()
    if (this.#sinceSample + length >= this.#room) return false
    if (this.#watched > 0) this.#sleptBefore = this.#sleeps()
    return true
  }

  /** Takes note of a write that was allowed and done, from `start` to `end`. */
  did(length: number, start: number, end: number): void {
    this.#sinceSample += length
    if (end - start > SLOW) {
      if (this.#watched > 0 && this.#sleeps() > this.#sleptBefore) {
        this.#until = end + this.#pause
        this.#pause = Math.min(this.#pause * 2, PAUSE_MAX)
      }
      this.#watched = WATCHED
    } else if (this.#watched > 0 && --this.#watched === 0) this.#pause = PAUSE_MIN
  }

  #sample(): void {
    this.#sampling = true
    const before = this.#sinceSample
    fs.readFile('/proc/vmstat', 'latin1', (error, text) => {
      this.#sampling = false
      this.#sampledAt = performance.now()
      this.#sinceSample -= before
      this.#room = error ? SAMPLE_BYTES : roomOf(text)
    })
  }
}

/** Bytes below half of the point from which Linux slows writers down. */
function roomOf(vmstat: string): number {
  const pages = (name: string) => Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(vmstat)?.[1] ?? Number.NaN)
  const waiting = pages('nr_dirty') + pages('nr_writeback')
  const free = (pages('nr_dirty_threshold') + pages('nr_dirty_background_threshold')) / 2
  const room = (free / 2 - waiting) * PAGE
  return Number.isFinite(room) ? room : SAMPLE_BYTES
}
