/** Joins adjacent requests of one turn of the event loop, so that a queue full of small ones is one large one for the device. */
import { type IoVec, joinVec } from '../../iovec.ts'
import { onKick } from '../../turn.ts'
import type { Engine } from './engine.ts'

/** Longest request that is joined, bytes. */
const LENGTH_MAX = 1 << 20
/** Most requests that are joined into one. */
const COUNT_MAX = 128

interface Part {
  readonly at: number
  readonly vector: IoVec
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
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
  #inFlight = 0
  #scheduled: NodeJS.Immediate | undefined

  constructor(next: Engine) {
    this.name = next.name
    this.durableWrites = next.durableWrites
    this.#next = next
  }

  read(at: number, into: IoVec): Promise<void> {
    return this.#add(at, into, false, false)
  }

  write(at: number, from: IoVec, durable: boolean): Promise<void> {
    return this.#add(at, from, true, durable)
  }

  sync(): Promise<void> {
    return this.#next.sync()
  }

  submit(): void {
    if (this.#scheduled !== undefined) {
      clearImmediate(this.#scheduled)
      this.#scheduled = undefined
      batches.delete(this)
      const runs = this.#runs
      this.#runs = []
      for (const run of runs) this.#start(run)
    }
    this.#next.submit?.()
  }

  #add(at: number, vector: IoVec, write: boolean, durable: boolean): Promise<void> {
    // With nothing under way there is nothing to wait for: the first of a burst goes by itself, the rest join behind it.
    if (this.#inFlight === 0 && this.#scheduled === undefined) {
      const request = this.#go(write, durable, at, vector)
      this.#next.submit?.()
      return request
    }
    return new Promise((resolve, reject) => {
      const part = { at, vector, resolve, reject }
      const end = at + vector.byteLength
      const last = this.#runs.at(-1)
      if (
        last !== undefined &&
        last.end === at &&
        last.write === write &&
        last.durable === durable &&
        last.parts.length < COUNT_MAX &&
        end - last.at <= LENGTH_MAX
      ) {
        last.parts.push(part)
        last.end = end
      } else this.#runs.push({ write, durable, parts: [part], at, end })
      if (this.#scheduled === undefined) {
        this.#scheduled = setImmediate(() => this.submit())
        batches.add(this)
      }
    })
  }

  #start(run: Run): void {
    const { parts } = run
    if (parts.length === 1) {
      this.#go(run.write, run.durable, run.at, parts[0]!.vector).then(parts[0]!.resolve, parts[0]!.reject)
      return
    }
    this.#go(run.write, run.durable, run.at, joinVec(parts.map((part) => part.vector))).then(
      () => {
        for (const part of parts) part.resolve()
      },
      () => {
        // One of them may be to blame: each is tried by itself, and has its own end.
        for (const part of parts) this.#go(run.write, run.durable, part.at, part.vector).then(part.resolve, part.reject)
        this.#next.submit?.()
      },
    )
  }

  #go(write: boolean, durable: boolean, at: number, vector: IoVec): Promise<void> {
    this.#inFlight++
    const request = write ? this.#next.write(at, vector, durable) : this.#next.read(at, vector)
    request.then(this.#ended, this.#ended)
    return request
  }

  readonly #ended = (): void => {
    this.#inFlight--
  }
}

/** `engine`, with adjacent requests joined. */
export function batched(engine: Engine): Engine {
  return new Batch(engine)
}
