/** Joins adjacent requests of one turn of the event loop, so that a queue full of small ones is one large one for the device. */
import { performance } from 'node:perf_hooks'
import { type IoVec, joinVec } from '../../iovec.ts'
import { kicks, onKick } from '../../turn.ts'
import type { Engine, Waiter } from './engine.ts'

/** Longest request that comes of joining, bytes; */
const LENGTH_MAX = 1 << 20
/** those that are so long are large enough by themselves. */
const JOINED_MAX = 64 << 10
/** From so many requests under way on, others are held back until they are half as many. */
const BUSY_MIN = 8
/** They are held back only where one ends at least every so often, ms, */
const BRISK = 0.05
/** and in no case for longer than this, ms. */
const HOLD_MAX = 1
/** So many times in a row a request must have been all that its device had, for the next to be taken for such a one. */
const LONE_MIN = 4
/** Most requests that are joined into one. */
const COUNT_MAX = 128

interface Part {
  readonly at: number
  readonly vector: IoVec
  readonly waiter: Waiter
}

/** Requests of one kind, each beginning where the last one ended. */
interface Run {
  readonly write: boolean
  readonly durable: boolean
  readonly parts: Part[]
  readonly at: number
  end: number
}

const batches = new Set<Batch>()
onKick(() => {
  for (const batch of batches) batch.submit()
})

class Batch implements Engine {
  readonly name: Engine['name']
  readonly durableWrites: boolean
  readonly #next: Engine
  #runs: Run[] = []
  /** Requests with the engine. */
  #inFlight = 0
  /** Requests in `#runs`. */
  #held = 0
  /** Time between the ends of requests, ms, an average that forgets; and when the last one was. */
  #pace = 1
  #endedAt = 0
  #timer: NodeJS.Timeout | undefined
  /** Kicks that were seen, requests since the last, and how often in a row that was one by itself. */
  #kicks = 0
  #sinceKick = 0
  #loneInRow = 0
  #scheduled: NodeJS.Immediate | undefined

  readonly #clock: () => number

  constructor(next: Engine, clock: () => number) {
    this.#clock = clock
    this.name = next.name
    this.durableWrites = next.durableWrites
    this.#next = next
  }

  read(at: number, into: IoVec, waiter: Waiter): void {
    this.#add(at, into, false, false, waiter)
  }

  write(at: number, from: IoVec, durable: boolean, waiter: Waiter): void {
    this.#add(at, from, true, durable, waiter)
  }

  sync(): Promise<void> {
    return this.#next.sync()
  }

  submit(): void {
    if (this.#scheduled !== undefined) {
      clearImmediate(this.#scheduled)
      this.#scheduled = undefined
      batches.delete(this)
    }
    if (this.#held > 0 && !this.#holdsBack()) this.#release()
    this.#next.submit?.()
  }

  /**
   * A device that has enough to do is not told of every new request: each time costs the host, and those that come meanwhile may
   * join. What is held back goes when enough of the others have ended.
   */
  #holdsBack(): boolean {
    if (this.#inFlight < BUSY_MIN || this.#held * 2 >= this.#inFlight || this.#pace > BRISK) return false
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined
      this.#release()
      this.#next.submit?.()
    }, HOLD_MAX)
    return true
  }

  #release(): void {
    if (this.#timer !== undefined) {
      clearTimeout(this.#timer)
      this.#timer = undefined
    }
    const runs = this.#runs
    this.#runs = []
    this.#held = 0
    for (const run of runs) this.#start(run)
  }

  #add(at: number, vector: IoVec, write: boolean, durable: boolean, waiter: Waiter): void {
    const lone = this.#isLone()
    // With nothing under way there is nothing to wait for: the first of a burst goes by itself, the rest join behind it.
    if (this.#inFlight === 0 && this.#held === 0) {
      if (!this.#follow(write, durable, at, vector, 1, waiter, lone)) this.#next.submit?.()
      return
    }
    const part = { at, vector, waiter }
    const end = at + vector.byteLength
    const last = this.#runs.at(-1)
    if (
      last !== undefined &&
      last.end === at &&
      last.write === write &&
      last.durable === durable &&
      last.parts.length < COUNT_MAX &&
      vector.byteLength < JOINED_MAX &&
      end - last.at <= LENGTH_MAX
    ) {
      last.parts.push(part)
      last.end = end
    } else this.#runs.push({ write, durable, parts: [part], at, end })
    this.#held++
    this.#schedule()
  }

  #schedule(): void {
    if (this.#scheduled !== undefined) return
    this.#scheduled = setImmediate(() => this.submit())
    batches.add(this)
  }

  /** Whether this request is likely all that there is to do: so it was the last times that a device said it had no more. */
  #isLone(): boolean {
    const now = kicks()
    if (now !== this.#kicks) {
      this.#loneInRow = this.#sinceKick === 1 && this.#inFlight === 0 ? this.#loneInRow + 1 : 0
      this.#kicks = now
      this.#sinceKick = 0
    }
    return ++this.#sinceKick === 1 && this.#loneInRow >= LONE_MIN
  }

  #start({ write, durable, at, parts }: Run): void {
    if (parts.length === 1) {
      this.#follow(write, durable, at, parts[0]!.vector, 1, parts[0]!.waiter)
      return
    }
    const joined = joinVec(parts.map((part) => part.vector))
    this.#follow(write, durable, at, joined, parts.length, {
      done() {
        for (const part of parts) part.waiter.done()
      },
      failed: () => {
        // One of them may be to blame: each is tried by itself, and has its own end.
        for (const part of parts) this.#follow(write, durable, part.at, part.vector, 1, part.waiter)
        this.#next.submit?.()
      },
    })
  }

  /** Begins what is `count` requests, sees to their end, and says whether that came at once. */
  #follow(
    write: boolean,
    durable: boolean,
    at: number,
    vector: IoVec,
    count: number,
    waiter: Waiter,
    lone = false,
  ): boolean {
    let over = false
    let begun = false
    const end: Waiter = {
      done: () => {
        over = true
        if (begun) this.#ended(count)
        waiter.done()
      },
      failed: (error) => {
        over = true
        if (begun) this.#ended(count)
        waiter.failed(error)
      },
    }
    if (write) this.#next.write(at, vector, durable, end, lone)
    else this.#next.read(at, vector, end, lone)
    if (!over) {
      begun = true
      this.#begun(count)
    }
    return over
  }

  #begun(count: number): void {
    if (this.#inFlight === 0) this.#endedAt = this.#clock()
    this.#inFlight += count
  }

  #ended(count: number): void {
    this.#inFlight -= count
    const now = this.#clock()
    this.#pace += ((now - this.#endedAt) / count - this.#pace) / 8
    this.#endedAt = now
    if (this.#held > 0) this.#schedule()
  }
}

/** `engine`, with adjacent requests joined; `clock` counts ms. */
export function batched(engine: Engine, clock: () => number = () => performance.now()): Engine {
  return new Batch(engine, clock)
}
