/** A virtio device without its transport: status, features, queues, and what interrupts (chapters 2 and 3). */
import { BlockError } from '../../block/error.ts'
import { after, type Now } from '../../block/now.ts'
import type { Bus, GuestMemory, Saved } from '../machine.ts'
import type { Chain } from './chain.ts'
import type { Host, Model } from './model.ts'
import { Virtqueue } from './queue.ts'
import { fields, isUint, isUints } from './saved.ts'
import {
  F_ANY_LAYOUT,
  F_EVENT_IDX,
  F_IN_ORDER,
  F_INDIRECT_DESC,
  F_NOTIFY_ON_EMPTY,
  F_RING_PACKED,
  F_RING_RESET,
  F_VERSION_1,
  Features,
  STATUS_DEVICE_NEEDS_RESET,
  STATUS_DRIVER_OK,
  STATUS_FAILED,
  STATUS_FEATURES_OK,
} from './standard.ts'

// 4.1.4.5 ISR status
const ISR_QUEUE = 1
const ISR_CONFIG = 2

/**
 * Bytes of buffers that one doorbell may move before the guest gets a turn: the host's time in it stays at some milliseconds.
 * Every buffer counts as a page at least.
 */
const DOORBELL_BYTES = 8 << 20
const BUFFER_BYTES = 4096

export interface RingOptions {
  /** Offer VIRTIO_F_RING_PACKED; default false. */
  packed?: boolean
  /** Offer VIRTIO_F_EVENT_IDX; default true. */
  eventIdx?: boolean
  /** Offer VIRTIO_F_INDIRECT_DESC; default true. */
  indirectDesc?: boolean
  /** Offer VIRTIO_F_IN_ORDER: buffers are used in the order in which they were made available; default false. */
  inOrder?: boolean
  /** Offer VIRTIO_F_RING_RESET; default true. */
  ringReset?: boolean
}

/** A device of kind `M`; a transport gives it registers. */
export class VirtioDevice<C extends Chain, M extends Model<C> = Model<C>> implements Host {
  readonly memory: GuestMemory
  readonly model: M
  readonly queues: readonly Virtqueue<C>[]
  /** Offered through the modern interface, and through the legacy one. */
  readonly offered: Features
  readonly offeredLegacy: Features
  readonly driver = new Features()
  legacy = false
  /** Changes with the configuration space (2.5). */
  generation = 0
  /** Why the device needs a reset. */
  fault: string | undefined
  readonly #bus: Bus
  readonly #mayAccessMemory: () => boolean
  readonly #interrupt: (asserted: boolean) => void
  readonly #unserved = new Set<Virtqueue<C>>()
  readonly #resetting = new Set<Virtqueue<C>>()
  readonly #replaced = new Set<Virtqueue<C>>()
  #restored: Restored<C>[] = []
  #turnAsked = false
  #status = 0
  #statusBefore = 0
  #isr = 0
  #lettingGo = false
  #waiters: { done: () => boolean; resolve: () => void }[] = []

  constructor(
    bus: Bus,
    options: RingOptions,
    make: (host: Host) => M,
    transport: { mayAccessMemory: () => boolean; interrupt: (asserted: boolean) => void },
  ) {
    this.#bus = bus
    this.memory = bus.memory
    this.#mayAccessMemory = transport.mayAccessMemory
    this.#interrupt = transport.interrupt
    this.model = make(this)
    const { model } = this
    const common = [...model.features]
    if (options.indirectDesc !== false) common.push(F_INDIRECT_DESC)
    if (options.eventIdx !== false) common.push(F_EVENT_IDX)
    const modern = [...common, F_VERSION_1]
    if (options.packed) modern.push(F_RING_PACKED)
    if (options.inOrder) modern.push(F_IN_ORDER)
    if (options.ringReset !== false) modern.push(F_RING_RESET)
    this.offered = new Features(modern)
    this.offeredLegacy = new Features([...common, ...model.legacyFeatures, F_NOTIFY_ON_EMPTY, F_ANY_LAYOUT])
    this.queues = Array.from({ length: model.queues }, (_, index) => this.#queue(index))
  }

  #queue(index: number): Virtqueue<C> {
    const queue: Virtqueue<C> = new Virtqueue<C>(
      index,
      this.memory,
      this.model.queueSize,
      { interrupt: () => this.#raise(ISR_QUEUE), ended: () => this.#ended(queue) },
      () => this.model.chain(queue),
    )
    return queue
  }

  /** Device status as the modern interface shows it: after a reset it is 0 when the host has let go of the guest's memory. */
  get status(): number {
    return this.#lettingGo && this.#status === 0 ? this.#statusBefore : this.#status
  }

  /**
   * Device status as the legacy interface shows it. Legacy drivers do not wait for a reset to end; they set the next bit on top of
   * what they read, which therefore must be 0 at once. Their next requests wait until the host has let go.
   */
  get legacyStatus(): number {
    return this.#status
  }

  /** The driver writes the device status; 0 resets the device (2.1.1, 2.4). */
  writeStatus(value: number): void {
    if (value === 0) {
      this.#powerOn()
      return
    }
    const before = this.#status
    let status = (value & ~STATUS_DEVICE_NEEDS_RESET) | (before & STATUS_DEVICE_NEEDS_RESET)
    const accepts = this.driver.has(F_VERSION_1) && this.driver.within(this.offered)
    if (!(before & STATUS_FEATURES_OK) && !accepts) status &= ~STATUS_FEATURES_OK
    this.#status = status
    if (status & ~before & STATUS_FEATURES_OK) this.model.negotiated()
    if (status & ~before & STATUS_DRIVER_OK) this.model.ready()
  }

  /** The driver accepts feature bits through the modern interface, until it has said that it is done (3.1.1). */
  acceptFeatures(word: number, value: number): void {
    if (!(this.#status & STATUS_FEATURES_OK)) this.driver.setWord(word, value)
  }

  /** The driver accepts feature bits through the legacy interface, which takes effect at once. */
  acceptLegacyFeatures(value: number): void {
    this.driver.setWord(0, value & this.offeredLegacy.word(0))
    this.driver.setWord(1, 0)
    for (const queue of this.queues) queue.negotiated(this.driver)
    this.model.negotiated()
  }

  /** Enables a queue where the driver placed it (4.1.5.1.3). */
  enable(queue: Virtqueue<C>): void {
    if (queue.enabled || this.#resetting.has(queue) || !(this.#status & STATUS_FEATURES_OK)) return
    if (!queue.enable(this.driver))
      this.#fail(`queue ${queue.index} is not in RAM, or of a size that its format does not have`)
  }

  /** Enables a queue through the legacy interface. */
  enableLegacy(queue: Virtqueue<C>): void {
    if (!this.legacy) {
      this.legacy = true
      this.model.negotiated()
    }
    if (!queue.enable(this.driver))
      this.#fail(`queue ${queue.index} is not in RAM, or of a size that its format does not have`)
  }

  /** Resets one queue (2.6.1); {@link isResetting} until the host has let go of its buffers. */
  resetQueue(queue: Virtqueue<C>): void {
    if (!this.driver.has(F_RING_RESET) || !queue.enabled) return
    this.takeAway(queue)
    if (queue.abandoned > 0) this.#resetting.add(queue)
  }

  /** Forgets a queue and what was in it; a legacy driver may do so at any time. */
  takeAway(queue: Virtqueue<C>): void {
    this.#unserved.delete(queue)
    this.#dropRestored(queue)
    queue.reset()
  }

  isResetting(queue: Virtqueue<C>): boolean {
    return this.#resetting.has(queue)
  }

  /** The driver's notification that buffers are available in queue `index` (2.3). */
  notify(index: number): void {
    const queue = this.queues[index]
    if (queue !== undefined) this.#serve(queue)
  }

  /** Looks at all queues again, after something that kept the device from it has ended. */
  resume(): void {
    this.#restart()
    for (const queue of this.queues) this.#serve(queue)
  }

  /** Reads the ISR status, which clears it and releases the interrupt (4.1.4.5). */
  readIsr(): number {
    const isr = this.#isr
    if (isr !== 0) {
      this.#isr = 0
      this.#interrupt(false)
    }
    return isr
  }

  configChanged(): void {
    this.generation = (this.generation + 1) & 0xff
    if (this.#status & STATUS_DRIVER_OK) this.#raise(ISR_CONFIG)
  }

  heldBack(): void {
    this.#settleWaiters()
  }

  /** Power-on state. Completes when the host has let go of all requests. */
  reset(): Now<void> {
    this.#powerOn()
    if (this.#lettingGo) return this.#when(() => !this.#lettingGo)
  }

  /** Completes when no request is with the host, but for those that it holds back. */
  drain(): Now<void> {
    const drained = () => this.#withHost() <= this.model.held
    return after(this.model.drain(), () => (drained() ? undefined : this.#when(drained)))
  }

  save(): Saved {
    return {
      status: this.#status,
      isr: this.#isr,
      generation: this.generation,
      driver: [this.driver.word(0), this.driver.word(1)],
      legacy: this.legacy,
      fault: this.fault ?? null,
      queues: this.queues.map((queue) => queue.save()),
      model: this.model.save(),
    }
  }

  restore(saved: unknown): void {
    this.reset()
    if (!this.#takeUp(saved)) {
      this.reset()
      throw new BlockError('EINVAL', `Cannot restore ${this.model.name}: the state is of another device or version`)
    }
    if (this.#isr !== 0) this.#interrupt(true)
    // A notification that was not yet answered when the state was saved does not come again.
    for (const queue of this.queues) if (queue.enabled) this.#unserved.add(queue)
    if (this.#unserved.size > 0) this.#askForTurn()
  }

  #takeUp(saved: unknown): boolean {
    if (!isState(saved) || saved.queues.length !== this.queues.length) return false
    this.driver.setWord(0, saved.driver[0]!)
    this.driver.setWord(1, saved.driver[1]!)
    this.legacy = saved.legacy
    if (!this.driver.within(saved.legacy ? this.offeredLegacy : this.offered)) return false
    if (!this.model.restore(saved.model)) return false
    for (const [i, queue] of this.queues.entries()) {
      const chains = queue.restore(saved.queues[i], this.driver)
      if (chains === undefined) return false
      for (const chain of chains) this.#restored.push({ queue, chain })
    }
    this.#status = saved.status
    this.#isr = saved.isr
    this.generation = saved.generation
    this.fault = saved.fault ?? undefined
    return true
  }

  #runs(): boolean {
    if (this.#lettingGo || this.#status & (STATUS_DEVICE_NEEDS_RESET | STATUS_FAILED)) return false
    // Before FEATURES_OK and DRIVER_OK nothing may be consumed (3.1.1), but legacy drivers probe the disk before DRIVER_OK, and
    // the oldest of them never turn bus mastering on.
    if (this.legacy) return true
    const ready = STATUS_DRIVER_OK | STATUS_FEATURES_OK
    return (this.#status & ready) === ready && this.#mayAccessMemory()
  }

  #serve(queue: Virtqueue<C>): void {
    if (queue.serving || !this.#runs()) return
    if (queue.abandoned > 0) {
      // A legacy driver placed the queue anew without a reset; the host still has what was in the old one.
      this.#replaced.add(queue)
      return
    }
    if (this.#restored.length > 0) this.#restart()
    queue.serving = true
    let budget = DOORBELL_BYTES
    let fault: string | undefined
    while (budget > 0) {
      const chain = queue.take()
      if (chain === undefined) {
        fault = queue.fault
        break
      }
      budget -= Math.max(chain.readableBytes + chain.writableBytes, BUFFER_BYTES)
      fault = this.model.execute(chain)
      if (fault !== undefined) {
        queue.drop(chain)
        break
      }
    }
    this.model.taken()
    queue.serving = false
    queue.publish()
    if (fault !== undefined) this.#fail(`queue ${queue.index}: ${fault}`)
    else if (budget <= 0) {
      this.#unserved.add(queue)
      this.#askForTurn()
    }
  }

  /** Starts the requests again that a restored state says are under way. */
  #restart(): void {
    if (!this.#runs()) return
    for (let next = this.#restored.shift(); next !== undefined; next = this.#restored.shift()) {
      const fault = this.model.execute(next.chain)
      if (fault === undefined) continue
      next.queue.drop(next.chain)
      this.#fail(`queue ${next.queue.index}: ${fault}`)
    }
  }

  /** Drops what was restored and not started again, of one queue or of all. */
  #dropRestored(only?: Virtqueue<C>): void {
    const kept: Restored<C>[] = []
    for (const restored of this.#restored) {
      if (only !== undefined && restored.queue !== only) kept.push(restored)
      else restored.queue.drop(restored.chain)
    }
    this.#restored = kept
  }

  #askForTurn(): void {
    if (this.#turnAsked) return
    this.#turnAsked = true
    this.#bus.clock.defer(() => {
      this.#turnAsked = false
      this.#restart()
      const queues = [...this.#unserved]
      this.#unserved.clear()
      for (const queue of queues) this.#serve(queue)
    })
  }

  /** The driver broke the rules: the device stops until it is reset, and says so (2.1.2). */
  #fail(reason: string): void {
    this.fault = reason
    this.#status |= STATUS_DEVICE_NEEDS_RESET
    this.#dropRestored()
    for (const queue of this.queues) queue.abandon()
    if (this.#status & STATUS_DRIVER_OK) this.#raise(ISR_CONFIG)
  }

  #raise(bit: number): void {
    const before = this.#isr
    this.#isr |= bit
    if (before === 0) this.#interrupt(true)
  }

  #powerOn(): void {
    if (this.#status !== 0) this.#statusBefore = this.#status
    this.#status = 0
    this.#dropRestored()
    this.#unserved.clear()
    this.#resetting.clear()
    this.#replaced.clear()
    for (const queue of this.queues) queue.reset()
    if (!this.#lettingGo && this.queues.some((queue) => queue.abandoned > 0)) {
      this.#lettingGo = true
      this.model.cancel()
    }
    this.driver.clear()
    this.legacy = false
    this.generation = 0
    this.fault = undefined
    this.readIsr()
    this.model.reset()
  }

  #withHost(): number {
    let count = -this.#restored.length
    for (const queue of this.queues) count += queue.underWay + queue.abandoned
    return count
  }

  #ended(queue: Virtqueue<C>): void {
    if (queue.abandoned === 0) {
      if (this.#resetting.size > 0) this.#resetting.delete(queue)
      if (this.#lettingGo && this.queues.every((each) => each.abandoned === 0)) {
        this.#lettingGo = false
        this.resume()
      } else if (this.#replaced.delete(queue)) this.#serve(queue)
    }
    if (this.#waiters.length > 0) this.#settleWaiters()
  }

  #when(done: () => boolean): Promise<void> {
    return new Promise((resolve) => this.#waiters.push({ done, resolve }))
  }

  #settleWaiters(): void {
    const ready = this.#waiters.filter((waiter) => waiter.done())
    this.#waiters = this.#waiters.filter((waiter) => !ready.includes(waiter))
    for (const waiter of ready) waiter.resolve()
  }
}

interface Restored<C extends Chain> {
  readonly queue: Virtqueue<C>
  readonly chain: C
}

interface State {
  readonly status: number
  readonly isr: number
  readonly generation: number
  readonly driver: readonly number[]
  readonly legacy: boolean
  readonly fault: string | null
  readonly queues: readonly unknown[]
  readonly model: unknown
}

function isState(saved: unknown): saved is State {
  const state = fields(saved)
  return (
    state !== undefined &&
    isUint(state.status, 0xff) &&
    isUint(state.isr, ISR_QUEUE | ISR_CONFIG) &&
    isUint(state.generation, 0xff) &&
    isUints(state.driver, 2, 0xffffffff) &&
    typeof state.legacy === 'boolean' &&
    (state.fault === null || typeof state.fault === 'string') &&
    Array.isArray(state.queues)
  )
}
