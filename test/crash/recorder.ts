/** A medium in memory that remembers every write and flush, and can say what a power cut at any moment may leave of it. */
import type { BlockDriver } from '../../src/block/device.ts'
import type { IoVec } from '../../src/block/iovec.ts'
import type { Now } from '../../src/block/now.ts'
import type { Random } from '../random.ts'

const SECTOR = 512

interface Change {
  readonly start: number
  /** When it completed; Infinity until then. */
  end: number
  readonly at: number
  readonly length: number
  /** Undefined for zeroes. */
  readonly bytes: Uint8Array | undefined
  /** For a change of the file's size. */
  readonly size: number | undefined
}

interface Flush {
  readonly start: number
  end: number
}

/** What may be on the medium after a power cut. */
export interface CrashState {
  readonly bytes: Uint8Array
  /** What happened to the writes that no flush covered, for a report. */
  readonly story: string
}

/** The medium. Requests complete at once, or, with `later`, after some turns of the microtask queue. */
export class Recorder implements BlockDriver {
  readonly name = 'recorder'
  readonly changes: Change[] = []
  readonly flushes: Flush[] = []
  readonly #later: Random | undefined
  #bytes = new Uint8Array(1 << 16)
  #size: number
  /** Counts starts and ends of requests. */
  now = 0

  constructor(start: Uint8Array, later?: Random) {
    this.#size = 0
    this.#later = later
    this.#grow(start.length)
    this.#bytes.set(start)
    this.#size = start.length
    this.start = start.slice()
  }

  readonly start: Uint8Array

  get size(): number {
    return this.#size
  }

  /** What is on the medium now. */
  get bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#size)
  }

  read(at: number, into: IoVec): Now<void> {
    return this.#finish(() => into.scatter(this.#bytes.subarray(at, at + into.byteLength)))
  }

  write(at: number, from: IoVec): Now<void> {
    return this.#change(at, from.byteLength, from.gather().slice(), undefined)
  }

  zero(at: number, length: number): Now<void> {
    return this.#change(at, length, undefined, undefined)
  }

  discard(at: number, length: number): Now<void> {
    return this.zero(at, length)
  }

  resize(size: number): Now<void> {
    return this.#change(0, 0, undefined, size)
  }

  flush(): Now<void> {
    const flush = { start: this.now++, end: Number.POSITIVE_INFINITY }
    this.flushes.push(flush)
    return this.#finish(() => {
      flush.end = this.now++
    })
  }

  #change(at: number, length: number, bytes: Uint8Array | undefined, size: number | undefined): Now<void> {
    const change: Change = { start: this.now++, end: Number.POSITIVE_INFINITY, at, length, bytes, size }
    this.changes.push(change)
    if (size === undefined) {
      if (bytes === undefined) this.#bytes.fill(0, at, at + length)
      else this.#bytes.set(bytes, at)
    }
    return this.#finish(() => {
      change.end = this.now++
      if (size === undefined) return
      this.#grow(size)
      this.#bytes.fill(0, Math.min(size, this.#size))
      this.#size = size
    })
  }

  #grow(size: number): void {
    if (size <= this.#bytes.length) return
    const more = new Uint8Array(Math.max(size, this.#bytes.length * 2))
    more.set(this.#bytes)
    this.#bytes = more
  }

  #finish(done: () => void): Now<void> {
    const turns = this.#later === undefined ? 0 : this.#later.below(6)
    if (turns === 0) return done()
    return (async () => {
      for (let turn = 0; turn < turns; turn++) await undefined
      done()
    })()
  }
}

/** Media that count moments together: a power cut meets all of them at the same one, and a flush covers only its own. */
export function recordTogether(starts: readonly Uint8Array[], later?: Random): Recorder[] {
  let now = 0
  return starts.map((start) => {
    const recorder = new Recorder(start, later)
    Object.defineProperty(recorder, 'now', { get: () => now, set: (value: number) => (now = value) })
    return recorder
  })
}

/** Walks through the moments of a recording, in order, and makes crash states of each. */
export class Replay {
  readonly #recorder: Recorder
  #base: Uint8Array
  #baseSize: number
  #pending: Change[] = []
  #next = 0

  constructor(recorder: Recorder) {
    this.#recorder = recorder
    this.#base = new Uint8Array(
      Math.max(recorder.start.length, ...recorder.changes.map((c) => c.size ?? c.at + c.length)),
    )
    this.#base.set(recorder.start)
    this.#baseSize = recorder.start.length
  }

  /** Moves on to moment `now`, which may not be before the last; gives how many changes no flush covers there. */
  to(now: number): number {
    const { changes, flushes } = this.#recorder
    for (; this.#next < changes.length && changes[this.#next]!.start < now; this.#next++) {
      this.#pending.push(changes[this.#next]!)
    }
    let covered = -1
    for (const flush of flushes) if (flush.end <= now) covered = Math.max(covered, flush.start)
    const left: Change[] = []
    for (const change of this.#pending) {
      if (change.end > covered) left.push(change)
      else this.#baseSize = apply(this.#base, this.#baseSize, change)
    }
    this.#pending = left
    return left.length
  }

  /** Every combination of whole changes being there or not; only for few. */
  *whole(): Generator<CrashState> {
    const count = this.#pending.length
    for (let mask = 0; mask < 2 ** count; mask++) {
      yield this.#state((index) => ((mask >> index) & 1 ? 'there' : 'lost'))
    }
  }

  /** A random combination of changes being there, lost, or torn at sectors. */
  sample(random: Random): CrashState {
    const style = random.below(6)
    const one = random.below(Math.max(1, this.#pending.length))
    return this.#state((index) => {
      if (style === 0) return 'lost'
      if (style === 1) return 'there'
      if (style === 2) return index === one ? 'there' : 'lost'
      if (style === 3) return index === one ? 'lost' : 'there'
      const fate = random.below(3)
      return fate === 0 ? 'lost' : fate === 1 ? 'there' : random
    })
  }

  #state(fate: (index: number) => 'there' | 'lost' | Random): CrashState {
    const bytes = this.#base.slice()
    let size = this.#baseSize
    const story: string[] = []
    this.#pending.forEach((change, index) => {
      const what = fate(index)
      const name =
        change.size === undefined
          ? `${change.bytes === undefined ? 'zero' : 'write'} ${change.at}+${change.length}`
          : `size ${change.size}`
      if (what === 'lost') {
        story.push(`lost: ${name}`)
        return
      }
      story.push(`${what === 'there' ? 'there' : 'torn'}: ${name}`)
      if (what === 'there' || change.size !== undefined) {
        size = apply(bytes, size, change)
        return
      }
      for (let at = change.at; at < change.at + change.length; ) {
        const end = Math.min(change.at + change.length, (Math.floor(at / SECTOR) + 1) * SECTOR)
        if (what.below(2) === 0) {
          const part = change.bytes?.subarray(at - change.at, end - change.at)
          size = apply(bytes, size, { ...change, at, length: end - at, bytes: part })
        }
        at = end
      }
    })
    return { bytes: bytes.subarray(0, size), story: story.join('\n') }
  }
}

function apply(bytes: Uint8Array, size: number, change: Change): number {
  if (change.size !== undefined) {
    bytes.fill(0, Math.min(change.size, size))
    return change.size
  }
  if (change.bytes === undefined) bytes.fill(0, change.at, change.at + change.length)
  else bytes.set(change.bytes, change.at)
  return Math.max(size, change.at + change.length)
}
