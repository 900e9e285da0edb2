/** throttling.*: no more requests and bytes per second than the user allows. */
import type { BlockDevice, WriteOptions, ZeroOptions } from '../device.ts'
import { BlockError } from '../error.ts'
import { Filter } from '../filter.ts'
import type { IoVec } from '../iovec.ts'
import type { Now } from '../now.ts'

const KINDS = ['iopsTotal', 'iopsRead', 'iopsWrite', 'bpsTotal', 'bpsRead', 'bpsWrite'] as const
type Kind = (typeof KINDS)[number]

/** Limits per second; `...Max` allows that rate for bursts of `...MaxLength` seconds (default 1). */
export type ThrottleOptions = {
  [K in Kind | `${Kind}Max` | `${Kind}MaxLength`]?: number
} & {
  /** A request counts as one per so many bytes that it begins; default: as one. */
  iopsSize?: number
}

/** Names of all options, for messages. */
export const THROTTLE_OPTIONS: readonly string[] = [
  ...KINDS.flatMap((kind) => [kind, `${kind}Max`, `${kind}MaxLength`]),
  'iopsSize',
]

/**
 * A leaky bucket: it leaks `rate` units a second, and takes more only while it holds less than its burst. Without a burst rate
 * a tenth of a second's worth fits, so that timers need not be exact.
 */
class Bucket {
  readonly #rate: number
  readonly #size: number
  readonly #burstRate: number
  readonly #burstSize: number
  #level = 0
  #burst = 0
  #at = 0

  constructor(rate: number, max: number, seconds: number) {
    this.#rate = rate
    this.#size = max > 0 ? max * seconds : rate / 10
    this.#burstRate = max
    this.#burstSize = max > 0 && seconds > 1 ? max / 10 : 0
  }

  /** Milliseconds from `now` until the bucket takes something; 0 if it does. */
  wait(now: number): number {
    this.#leak(now)
    const full = Math.max(0, ((this.#level - this.#size) / this.#rate) * 1000)
    const fast = this.#burstSize > 0 ? Math.max(0, ((this.#burst - this.#burstSize) / this.#burstRate) * 1000) : 0
    return Math.max(full, fast)
  }

  add(units: number): void {
    this.#level += units
    this.#burst += units
  }

  #leak(now: number): void {
    const seconds = (now - this.#at) / 1000
    this.#at = now
    this.#level = Math.max(0, this.#level - seconds * this.#rate)
    this.#burst = Math.max(0, this.#burst - seconds * this.#burstRate)
  }
}

/** Time, for tests to bend: milliseconds since some start, and a call after some. */
export interface Clock {
  now(): number
  after(ms: number, callback: () => void): void
}

const realClock: Clock = { now: () => performance.now(), after: (ms, callback) => void setTimeout(callback, ms) }

interface Waiting {
  readonly bytes: number
  readonly go: () => void
}

/** Delays requests so that they keep to the limits; requests of one direction stay in order. */
export class Throttle extends Filter {
  readonly name = 'throttle'
  readonly #clock: Clock
  readonly #iopsSize: number
  readonly #buckets = {
    read: [] as { bucket: Bucket; bytes: boolean }[],
    write: [] as { bucket: Bucket; bytes: boolean }[],
  }
  readonly #waiting = { read: [] as Waiting[], write: [] as Waiting[] }

  constructor(next: BlockDevice, options: ThrottleOptions, clock: Clock = realClock) {
    super(next)
    this.#clock = clock
    this.#iopsSize = options.iopsSize ?? 0
    const refuse = (why: string) => {
      throw new BlockError('EINVAL', `Cannot throttle: ${why}`)
    }
    for (const name of THROTTLE_OPTIONS) {
      const value = options[name as keyof ThrottleOptions]
      if (value !== undefined && !(Number.isFinite(value) && value >= 0))
        refuse(`${name} is ${value}, must be a number from 0 on`)
    }
    for (const unit of ['iops', 'bps'] as const) {
      if (
        (options[`${unit}Total`] ?? 0) > 0 &&
        ((options[`${unit}Read`] ?? 0) > 0 || (options[`${unit}Write`] ?? 0) > 0)
      ) {
        refuse(`${unit}Total and ${unit}Read or ${unit}Write exclude each other`)
      }
    }
    for (const kind of KINDS) {
      const rate = options[kind] ?? 0
      const max = options[`${kind}Max`] ?? 0
      const seconds = options[`${kind}MaxLength`] ?? 1
      if (rate === 0) {
        if (max > 0) refuse(`${kind}Max without ${kind}`)
        continue
      }
      if (max > 0 && max < rate) refuse(`${kind}Max ${max} is below ${kind} ${rate}`)
      if (seconds < 1) refuse(`${kind}MaxLength is ${seconds}, must be at least 1`)
      if (seconds > 1 && max === 0) refuse(`${kind}MaxLength without ${kind}Max`)
      const entry = { bucket: new Bucket(rate, max, seconds), bytes: kind.startsWith('bps') }
      if (!kind.endsWith('Write')) this.#buckets.read.push(entry)
      if (!kind.endsWith('Read')) this.#buckets.write.push(entry)
    }
  }

  override read(at: number, into: IoVec): Now<void> {
    return this.#enter('read', into.byteLength, () => this.next.read(at, into))
  }

  override write(at: number, from: IoVec, options?: WriteOptions): Now<void> {
    return this.#enter('write', from.byteLength, () => this.next.write(at, from, options))
  }

  override zero(at: number, length: number, options?: ZeroOptions): Now<void> {
    return this.#enter('write', length, () => this.next.zero(at, length, options))
  }

  override discard(at: number, length: number): Now<void> {
    return this.#enter('write', length, () => this.next.discard(at, length))
  }

  #enter(direction: 'read' | 'write', bytes: number, go: () => Now<void>): Now<void> {
    const waiting = this.#waiting[direction]
    if (waiting.length === 0 && this.#wait(direction) === 0) {
      this.#count(direction, bytes)
      return go()
    }
    return new Promise<void>((resolve) => {
      waiting.push({ bytes, go: resolve })
      if (waiting.length === 1) this.#sleep(direction)
    }).then(go)
  }

  #sleep(direction: 'read' | 'write'): void {
    this.#clock.after(Math.max(1, Math.ceil(this.#wait(direction))), () => {
      const waiting = this.#waiting[direction]
      while (waiting.length > 0 && this.#wait(direction) === 0) {
        const next = waiting.shift()!
        this.#count(direction, next.bytes)
        next.go()
      }
      if (waiting.length > 0) this.#sleep(direction)
    })
  }

  #wait(direction: 'read' | 'write'): number {
    const now = this.#clock.now()
    let wait = 0
    for (const { bucket } of this.#buckets[direction]) wait = Math.max(wait, bucket.wait(now))
    return wait
  }

  #count(direction: 'read' | 'write', bytes: number): void {
    const requests = this.#iopsSize > 0 ? Math.max(1, Math.ceil(bytes / this.#iopsSize)) : 1
    for (const { bucket, bytes: byBytes } of this.#buckets[direction]) bucket.add(byBytes ? bytes : requests)
  }
}
