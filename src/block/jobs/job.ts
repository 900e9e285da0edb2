/** What every job is: an async generator of its progress, with a speed limit, pauses and a way out. */
import { BlockError, errnoOf } from '../error.ts'
import type { Clock } from '../filters/throttle.ts'
import { nextTurn } from '../turn.ts'

/** How far a job is, bytes; `total` may grow while others write. */
export interface Progress {
  readonly done: number
  readonly total: number
}

/** What a job does when one of its own requests fails: fail too, go on without it or try later, or pause until it is resumed. */
export type JobErrorPolicy = 'report' | 'ignore' | 'stop' | 'enospc'

/** Where a job is in its life. */
export type JobStatus = 'created' | 'running' | 'paused' | 'ready' | 'concluded'

/** What a job may be given, whatever it does. */
export interface JobOptions {
  /** Most bytes to copy in a second; default 0: no limit. */
  speed?: number
  /** Cancels the job when it is aborted. */
  signal?: { readonly aborted: boolean; addEventListener(type: 'abort', listener: () => void): void }
  /** Time, for tests to bend. */
  clock?: Clock
}

/** The job as its own body sees it. */
export interface JobControl {
  /** Counts bytes against the speed limit; the job waits at its next yield if they were too many. */
  copied(bytes: number): void
  /** How much to copy between two yields, bytes: `most`, or less if the limit is low. */
  slice(most: number): number
  /**
   * Says what becomes of a request that failed: throws `error` on, or returns, after which the body yields and tries again (or, with
   * `ignore`, goes on).
   */
  failed(error: unknown, policy: JobErrorPolicy): void
  /** Idles until `event` (which does not reject) or until something happens to the job; the body then yields. */
  wait(event: Promise<unknown>): Promise<void>
  /** Says that the job could be completed now, or no longer. */
  ready(yes: boolean): void
  /** Set when somebody has asked to complete the job. */
  readonly completing: CompleteOptions | undefined
  readonly canceled: boolean
}

/** How a job that is ready ends. */
export interface CompleteOptions {
  /** Whether the disk goes on with the copy (default), or with what it has. */
  pivot?: boolean
}

/** What a job does: between two yields it can be paused, and it ends at one, through its `finally`, when it is canceled. */
export type JobBody<T> = (job: JobControl) => AsyncGenerator<Progress, T, void>

/** A copy between two yields is at most what the limit allows in this time, seconds. */
const SLICE = 0.1
/** The least that is copied between two yields, bytes. */
const LEAST = 64 << 10

/** How long a job may go on before others get their turn of the event loop, ms: it shares the thread with the guest's CPU. */
const TURN = 2

const realClock: Clock = { now: () => performance.now(), after: (ms, callback) => void setTimeout(callback, ms) }

/**
 * A job. Nothing happens before the first `next()`, and who does not ask for more holds it up; {@link run} asks until the end. Its
 * value is what the job found out. `return()`, leaving a `for await` loop, and {@link cancel} undo what is half done.
 */
export class Job<T = void> implements AsyncGenerator<Progress, T, void> {
  /** What kind of job it is: `mirror`, `backup`, ... */
  readonly type: string
  readonly #body: AsyncGenerator<Progress, T, void>
  readonly #clock: Clock
  #progress: Progress = { done: 0, total: 0 }
  #status: 'created' | 'running' | 'concluded' = 'created'
  #paused = false
  #ready = false
  #canceled = false
  #completing: CompleteOptions | undefined
  #error: unknown
  #value: T | undefined
  #speed = 0
  /** Bytes that were copied before their time, at moment `#at`. */
  #debt = 0
  #at = 0
  /** What ends the waits that are under way. */
  #woken = new Set<() => void>()
  #turn: Promise<unknown> = Promise.resolve()
  /** When the event loop last had its turn. */
  #turned: number
  #ran: Promise<T> | undefined

  constructor(type: string, body: JobBody<T>, options: JobOptions = {}) {
    this.type = type
    this.#clock = options.clock ?? realClock
    this.#turned = this.#clock.now()
    this.speed = options.speed ?? 0
    const job = this
    this.#body = body({
      copied: (bytes) => {
        this.#leak()
        this.#debt += bytes
      },
      slice: (most) => {
        const allowed = LEAST * Math.max(1, Math.floor((this.#speed * SLICE) / LEAST))
        return this.#speed === 0 ? most : Math.min(most, allowed)
      },
      failed: (error, policy) => this.#failed(error, policy),
      wait: (event) => this.#wait(event),
      ready: (yes) => {
        this.#ready = yes
      },
      get completing() {
        return job.#completing
      },
      get canceled() {
        return job.#canceled
      },
    })
    const { signal } = options
    if (signal === undefined) return
    const abort = () => void this.cancel().catch(() => {}) // who runs the job hears of it
    if (signal.aborted) abort()
    else signal.addEventListener('abort', abort)
  }

  /** How far it was at its last yield. */
  get progress(): Progress {
    return this.#progress
  }

  get status(): JobStatus {
    if (this.#status !== 'running') return this.#status
    return this.#paused ? 'paused' : this.#ready ? 'ready' : 'running'
  }

  /** What made it pause by itself, or fail. */
  get error(): unknown {
    return this.#error
  }

  /** Most bytes in a second; 0: no limit. May be changed at any time. */
  get speed(): number {
    return this.#speed
  }

  set speed(speed: number) {
    if (!(Number.isFinite(speed) && speed >= 0)) {
      throw new BlockError(
        'EINVAL',
        `Cannot set the speed of a ${this.type} to ${speed}: it must be a number from 0 on`,
      )
    }
    this.#leak()
    this.#speed = speed
    this.#wake()
  }

  /** Holds the job from its next yield on, until {@link resume}. */
  pause(): void {
    this.#paused = true
    this.#wake()
  }

  /** Lets a job that was paused, by its error policy too, go on. */
  resume(): void {
    this.#paused = false
    if (this.#status !== 'concluded') this.#error = undefined
    this.#wake()
  }

  /** Ends a job that is ready, or will be, in its own way; resolves when it has ended. Somebody must still ask for its progress. */
  async complete(options: CompleteOptions = {}): Promise<T> {
    if (!this.#ready) {
      throw new BlockError('EBUSY', `Cannot complete a ${this.type} that is ${this.status}: only one that is ready`)
    }
    this.#completing = options
    this.#wake()
    return this.run()
  }

  /** Ends the job where it is; resolves when everything that it began is over. */
  async cancel(): Promise<void> {
    await this.return(undefined as T)
  }

  /** Asks for progress until the end, and gives the job's value; ECANCELED if it was canceled. */
  run(): Promise<T> {
    this.#ran ??= (async () => {
      while (!(await this.next()).done);
      if (this.#canceled) throw new BlockError('ECANCELED', `The ${this.type} was canceled`)
      if (this.#error !== undefined) throw this.#error
      return this.#value as T
    })()
    return this.#ran
  }

  next(): Promise<IteratorResult<Progress, T>> {
    return this.#inTurn(() => this.#step())
  }

  return(value: T | PromiseLike<T>): Promise<IteratorResult<Progress, T>> {
    if (this.#status !== 'concluded') this.#canceled = true
    this.#wake()
    return this.#inTurn(() => this.#end(() => this.#body.return(value)))
  }

  throw(error: unknown): Promise<IteratorResult<Progress, T>> {
    this.#wake()
    return this.#inTurn(() => this.#end(() => this.#body.throw(error)))
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.cancel()
  }

  /** One step at a time, in the order in which they were asked for. */
  #inTurn<R>(step: () => Promise<R>): Promise<R> {
    const result = this.#turn.then(step)
    this.#turn = result.catch(() => {})
    return result
  }

  async #step(): Promise<IteratorResult<Progress, T>> {
    await this.#hold()
    if (this.#canceled) return this.#end(() => this.#body.return(undefined as T))
    return this.#end(() => this.#body.next())
  }

  async #end(step: () => Promise<IteratorResult<Progress, T>>): Promise<IteratorResult<Progress, T>> {
    if (this.#status === 'created') this.#status = 'running'
    try {
      const result = await step()
      if (!result.done) this.#progress = result.value
      else if (this.#status !== 'concluded') {
        this.#status = 'concluded'
        this.#error = undefined
        this.#value = result.value
      }
      return result
    } catch (error) {
      this.#status = 'concluded'
      this.#error = error
      throw error
    }
  }

  /** Waits while the job is paused or ahead of its speed. */
  async #hold(): Promise<void> {
    while (!this.#canceled) {
      this.#leak()
      if (!this.#paused && (this.#speed === 0 || this.#debt <= 0)) {
        if (this.#clock.now() - this.#turned < TURN) return
        await new Promise<void>(nextTurn)
        this.#turned = this.#clock.now()
        return
      }
      const ms = this.#paused ? undefined : Math.max(1, (this.#debt / this.#speed) * 1000)
      await new Promise<void>((resolve) => {
        this.#woken.add(resolve)
        if (ms !== undefined) this.#clock.after(ms, resolve)
      })
    }
  }

  #wait(event: Promise<unknown>): Promise<void> {
    if (this.#canceled || this.#paused || this.#completing !== undefined) return Promise.resolve()
    return new Promise((resolve) => {
      this.#woken.add(resolve)
      void event.then(() => resolve())
    })
  }

  #wake(): void {
    const woken = this.#woken
    this.#woken = new Set()
    for (const resolve of woken) resolve()
  }

  #leak(): void {
    const now = this.#clock.now()
    this.#debt = this.#speed === 0 ? 0 : Math.max(0, this.#debt - ((now - this.#at) / 1000) * this.#speed)
    this.#at = now
  }

  #failed(error: unknown, policy: JobErrorPolicy): void {
    if (policy === 'ignore') return
    if (policy === 'report' || (policy === 'enospc' && errnoOf(error) !== 'ENOSPC')) throw error
    this.#error = error
    this.#paused = true
  }
}
