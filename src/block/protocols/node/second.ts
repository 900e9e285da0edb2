/** A second thread that helps with long copies: on a host with a processor to spare, two copy faster than one. */
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import type { Libc } from './libc.ts'

/** Shortest copy that is shared, bytes. */
export const SHARED_MIN = 64 << 10
/** Longest; so many pieces at least, where they are not shorter than that. */
const SHARED_MAX = 256 << 10
const PIECES = 8
const PIECE_MIN = 16 << 10
/** Copies that are farther apart than this, ms, are not shared: the second thread sleeps by then, and would wake up too late. */
const APART = 0.1
/** So many that are not are seen before the thread is started. */
const STARTED_AFTER = 128
/** Looks at the shared memory before the thread goes to sleep: some 0.1 ms. */
const LOOKS = 4000
/** It is kept from running if it is waited for so long, ms: then there is no hurry any more. */
const LATE = 0.25
/**
 * So many copies are tried the other way now and then. The first show what the change costs, and are not counted; nor are those that
 * took longest, for something came between. What that costs in the long run shows in what the others took that are not tried.
 */
const TRIED = 40
const SETTLE = 8
const LONGEST = 2
/** After so many they are tried again, and twice as many each time that it was no better. */
const STAY_MIN = 512
const STAY_MAX = 4096
/** To share must be so much quicker: it takes a processor's time. */
const MARGIN = 1.15

/** Words that both threads see: what is to be copied (a serial number, the first piece and the end of those that nobody has taken), */
const JOB = 0
/** how many pieces the second thread has copied, */
const DONE = 1
/** and whether it is ready, and asleep. */
const READY = 2
const ASLEEP = 3

/** The near end of a copy is taken by the first thread, piece by piece, and the far end by the second, until they meet. */
const SOURCE = `
const { workerData } = require('node:worker_threads')
const { words, places } = workerData
const copy = require(workerData.koffi).load(null).func('void memcpy(uintptr_t to, uintptr_t from, size_t length)')
Atomics.store(words, ${READY}, 1)
for (let looks = 0; ; ) {
  const job = Atomics.load(words, ${JOB})
  const end = job & 255
  if (((job >> 8) & 255) < end) {
    looks = 0
    if (Atomics.compareExchange(words, ${JOB}, job, job - 1) !== job) continue
    const at = (end - 1) * places[2]
    copy(places[0] + at, places[1] + at, Math.min(places[2], places[3] - at))
    Atomics.add(words, ${DONE}, 1)
  } else if (++looks > ${LOOKS}) {
    Atomics.store(words, ${ASLEEP}, 1)
    Atomics.wait(words, ${JOB}, job)
    Atomics.store(words, ${ASLEEP}, 0)
    looks = 0
  }
}
`

/** Copies that the thread helps with. All of a copy is over when the call returns, so no memory is touched any later. */
export class Second {
  readonly #libc: Libc
  readonly #clock: () => number
  readonly #words = new Int32Array(new SharedArrayBuffer(16))
  /** Where to, where from, bytes of a piece, bytes in all. */
  readonly #places = new Float64Array(new SharedArrayBuffer(32))
  #worker: Worker | undefined
  #failed = false
  #serial = 0
  #last = Number.NEGATIVE_INFINITY
  #seen = 0
  /** Whether copies are shared for the moment, as a trial; and how many more until that changes. */
  #shares = false
  #trial = false
  #left = TRIED
  #stay = STAY_MIN
  /** Time and bytes of these; what each byte of those that are tried took; and what a byte took when it was last measured, by one thread and by two. */
  #time = 0
  #bytes = 0
  readonly #tried: number[] = []
  readonly #costs: [number, number] = [Number.NaN, Number.NaN]

  constructor(libc: Libc, clock: () => number = () => performance.now()) {
    this.#libc = libc
    this.#clock = clock
  }

  /** Copies that were shared. */
  get shared(): number {
    return this.#serial
  }

  /** Whether the thread has been started. */
  get running(): boolean {
    return this.#worker !== undefined
  }

  /** Whether it is there by now. */
  get ready(): boolean {
    return !this.#failed && Atomics.load(this.#words, READY) === 1
  }

  /** Says that several copies follow each other now: the thread is woken up if it is to help with them. */
  expect(): void {
    this.#last = this.#clock()
    if (this.#shares && this.ready && Atomics.load(this.#words, ASLEEP) === 1) Atomics.notify(this.#words, JOB)
  }

  /** Copies `length` bytes. */
  copy(to: number, from: number, length: number): void {
    const begin = this.#clock()
    if (length < SHARED_MIN || length > SHARED_MAX || begin - this.#last > APART) {
      this.#libc.copy(to, from, length)
      this.#last = this.#clock()
      return
    }
    if (this.#shares && this.ready) this.#share(to, from, length)
    else this.#libc.copy(to, from, length)
    this.#last = this.#clock()
    if (this.ready) this.#took(this.#last - begin, length)
    else if (++this.#seen === STARTED_AFTER) this.start()
  }

  /** Starts the thread, if it is not there yet. */
  start(): void {
    if (this.#worker !== undefined) return
    try {
      const koffi = createRequire(import.meta.url).resolve('koffi')
      const workerData = { words: this.#words, places: this.#places, koffi }
      this.#worker = new Worker(SOURCE, { eval: true, workerData, execArgv: [] })
      this.#worker.unref()
      this.#worker.on('error', () => {
        this.#failed = true
      })
    } catch {
      this.#failed = true
    }
  }

  /** Ends the thread. */
  async stop(): Promise<void> {
    this.#failed = true
    await this.#worker?.terminate()
  }

  #took(time: number, length: number): void {
    if (!this.#trial) {
      this.#time += time
      this.#bytes += length
    } else if (this.#left <= TRIED - SETTLE) this.#tried.push(time / length)
    if (--this.#left > 0) return
    const costs = this.#costs
    costs[this.#shares ? 1 : 0] = this.#trial ? meanOf(this.#tried, LONGEST) : this.#time / this.#bytes
    this.#time = this.#bytes = this.#tried.length = 0
    if (this.#trial) {
      const before = !this.#shares
      this.#shares = costs[1] * MARGIN < costs[0]
      this.#stay = this.#shares === before ? Math.min(this.#stay * 2, STAY_MAX) : STAY_MIN
    } else this.#shares = !this.#shares
    this.#trial = !this.#trial
    this.#left = this.#trial ? TRIED : this.#stay
  }

  #share(to: number, from: number, length: number): void {
    const words = this.#words
    const places = this.#places
    const piece = Math.max(PIECE_MIN, Math.ceil(length / PIECES))
    const count = Math.ceil(length / piece)
    places[0] = to
    places[1] = from
    places[2] = piece
    places[3] = length
    Atomics.store(words, DONE, 0)
    Atomics.store(words, JOB, ((++this.#serial & 0x7fff) << 16) | count)
    if (Atomics.load(words, ASLEEP) === 1) Atomics.notify(words, JOB)
    let own = 0
    for (;;) {
      const job = Atomics.load(words, JOB)
      if (((job >> 8) & 255) >= (job & 255)) break
      if (Atomics.compareExchange(words, JOB, job, job + 256) !== job) continue
      const at = own++ * piece
      this.#libc.copy(to + at, from + at, Math.min(piece, length - at))
    }
    this.#wait(count - own)
  }

  /** Waits for the second thread to end what it has taken. */
  #wait(pieces: number): void {
    const words = this.#words
    let start: number | undefined
    for (let looks = 1; ; looks++) {
      const done = Atomics.load(words, DONE)
      if (done === pieces) return
      if (looks % 64 !== 0) continue
      start ??= this.#clock()
      if (this.#clock() - start > LATE) Atomics.wait(words, DONE, done, 0.1)
    }
  }
}

/** The mean of all but the `most` largest. */
function meanOf(values: number[], most: number): number {
  const kept = values.sort((a, b) => a - b).slice(0, -most)
  return kept.reduce((sum, value) => sum + value, 0) / kept.length
}

let shared: Second | undefined

/** The thread that all files share; undefined where there is no processor to spare. BLOCK86_SECOND=off does without it. */
export function second(libc: Libc): Second | undefined {
  if (availableParallelism() < 2 || process.env.BLOCK86_SECOND === 'off') return undefined
  shared ??= new Second(libc)
  return shared
}
