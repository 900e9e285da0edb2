/** A virtqueue as a device uses it: buffers come out of its ring, are under way, and go back (2.6). */
import type { GuestMemory, Saved } from '../machine.ts'
import type { Chain } from './chain.ts'
import { PackedRing } from './packed.ts'
import type { Ring, RingPlace } from './ring.ts'
import { fields, isUint, isUints } from './saved.ts'
import { SplitRing } from './split.ts'
import { F_IN_ORDER, F_RING_PACKED, type Features } from './standard.ts'

/** What a queue tells its device. */
export interface QueueEvents {
  /** Used buffers were shown to the driver, and it wants an interrupt. */
  interrupt(): void
  /** A buffer ended: with {@link Virtqueue.abandoned} at 0, the host has nothing of the queue's memory any more. */
  ended(): void
}

/** One queue. `C` is what its device makes of a buffer. */
export class Virtqueue<C extends Chain = Chain> {
  readonly index: number
  /** Where the driver wants it; what it says while the queue is enabled changes nothing. */
  size: number
  descriptors = 0
  driver = 0
  device = 0
  /** A doorbell is being answered: what ends meanwhile is shown at its end, all at once. */
  serving = false
  /** Buffers that were under way when the queue was reset, and that the host has not let go of yet. */
  abandoned = 0
  readonly #memory: GuestMemory
  readonly #maxSize: number
  readonly #events: QueueEvents
  readonly #make: () => C
  readonly #free: C[] = []
  /** In the order in which they were taken. */
  readonly #underWay = new Set<C>()
  #ring: Ring | undefined
  #inOrder = false

  constructor(index: number, memory: GuestMemory, maxSize: number, events: QueueEvents, make: () => C) {
    this.index = index
    this.size = maxSize
    this.#memory = memory
    this.#maxSize = maxSize
    this.#events = events
    this.#make = make
  }

  get enabled(): boolean {
    return this.#ring !== undefined
  }

  /** Buffers that the device has and that are still the driver's business. */
  get underWay(): number {
    return this.#underWay.size
  }

  /** What the driver did wrong, found by {@link take}. */
  get fault(): string | undefined {
    return this.#ring?.fault
  }

  /** Sets the queue up where the driver placed it; false if it is not in RAM. */
  enable(features: Features): boolean {
    const place: RingPlace = {
      size: this.size,
      descriptors: this.descriptors,
      driver: this.driver,
      device: this.device,
    }
    const ring = features.has(F_RING_PACKED)
      ? new PackedRing(this.#memory, place, this.#maxSize)
      : new SplitRing(this.#memory, place, this.#maxSize)
    if (!ring.fits()) return false
    this.#ring = ring
    this.negotiated(features)
    return true
  }

  /** Says what was negotiated, to a queue that is enabled already. */
  negotiated(features: Features): void {
    this.#ring?.negotiated(features)
    this.#inOrder = features.has(F_IN_ORDER)
  }

  /** The next available buffer, from now on under way; undefined if there is none, or with {@link fault}. */
  take(): C | undefined {
    const ring = this.#ring
    if (ring === undefined) return
    const chain = this.#free.pop() ?? this.#make()
    if (!ring.take(chain)) {
      this.#free.push(chain)
      return
    }
    this.#underWay.add(chain)
    return chain
  }

  /** The device is done with `chain` and has written `written` bytes from the start of its writable part. */
  finish(chain: C, written: number): void {
    if (chain.abandoned) {
      this.#free.push(chain)
      this.abandoned--
      this.#events.ended()
      return
    }
    chain.written = written
    if (!this.#inOrder) this.#give(chain)
    else {
      for (const oldest of this.#underWay) {
        if (oldest.written < 0) break
        this.#give(oldest)
      }
    }
    if (!this.serving) this.publish()
    this.#events.ended()
  }

  #give(chain: C): void {
    this.#underWay.delete(chain)
    this.#ring?.give(chain.id, chain.slots, chain.written)
    this.#free.push(chain)
  }

  /** Takes back a buffer that the device can make nothing of; it is never used. */
  drop(chain: C): void {
    this.#underWay.delete(chain)
    this.#free.push(chain)
  }

  /** Shows the driver all that was given back. */
  publish(): void {
    if (this.#ring?.publish()) this.#events.interrupt()
  }

  /** Lets go of all buffers: none is shown as used any more, and those with the host are counted until they end. */
  abandon(): void {
    for (const chain of this.#underWay) {
      if (chain.written >= 0) this.#free.push(chain)
      else {
        chain.abandon()
        this.abandoned++
      }
    }
    this.#underWay.clear()
  }

  /** Abandons its buffers and forgets where it was (2.6.1). */
  reset(): void {
    this.abandon()
    this.#ring = undefined
    this.size = this.#maxSize
    this.descriptors = 0
    this.driver = 0
    this.device = 0
  }

  save(): Saved {
    const buffers: Saved[] = []
    for (const { id, slots, readable, count, at, length } of this.#underWay) {
      buffers.push({ id, slots, readable, at: at.slice(0, count), length: length.slice(0, count) })
    }
    return {
      size: this.size,
      descriptors: this.descriptors,
      driver: this.driver,
      device: this.device,
      ring: this.#ring?.save() ?? null,
      buffers,
    }
  }

  /** Takes up a saved queue; answers the buffers that were under way, to be started again, or undefined if it is none. */
  restore(saved: unknown, features: Features): C[] | undefined {
    if (!isQueue(saved) || saved.size > this.#maxSize) return
    this.reset()
    this.size = saved.size
    this.descriptors = saved.descriptors
    this.driver = saved.driver
    this.device = saved.device
    if (saved.ring === null) return saved.buffers.length === 0 ? [] : undefined
    if (!this.enable(features) || !this.#ring!.restore(saved.ring)) return
    for (const buffer of saved.buffers) {
      const chain = this.#free.pop() ?? this.#make()
      chain.begin()
      if (!this.#retake(chain, buffer)) {
        this.#underWay.clear()
        return
      }
      this.#underWay.add(chain)
    }
    return [...this.#underWay]
  }

  #retake(chain: C, buffer: unknown): boolean {
    if (!isBuffer(buffer) || !this.#ring!.retake(buffer.slots)) return false
    chain.id = buffer.id
    chain.slots = buffer.slots
    for (const [i, at] of buffer.at.entries()) {
      if (chain.add(this.#memory, at, buffer.length[i]!, i >= buffer.readable) !== undefined) return false
    }
    return true
  }
}

interface SavedQueue extends RingPlace {
  readonly ring: unknown
  readonly buffers: readonly unknown[]
}

interface SavedBuffer {
  readonly id: number
  readonly slots: number
  readonly readable: number
  readonly at: readonly number[]
  readonly length: readonly number[]
}

function isQueue(saved: unknown): saved is SavedQueue {
  const queue = fields(saved)
  return (
    queue !== undefined &&
    isUint(queue.size, 32768) &&
    isUints([queue.descriptors, queue.driver, queue.device], 3, Number.MAX_SAFE_INTEGER) &&
    queue.ring !== undefined &&
    Array.isArray(queue.buffers)
  )
}

function isBuffer(saved: unknown): saved is SavedBuffer {
  const buffer = fields(saved)
  if (buffer === undefined || !Array.isArray(buffer.at)) return false
  const count = buffer.at.length
  return (
    isUint(buffer.id, 0xffff) &&
    isUint(buffer.slots, 32768) &&
    buffer.slots >= 1 &&
    isUint(buffer.readable, count) &&
    isUints(buffer.at, count, Number.MAX_SAFE_INTEGER) &&
    isUints(buffer.length, count, 0xffffffff)
  )
}
