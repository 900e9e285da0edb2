/** A layer that fails on demand, or holds its requests until they are let go. */
import type { WriteOptions, ZeroOptions } from '../../src/block/device.ts'
import { BlockError, type Errno } from '../../src/block/error.ts'
import { Filter } from '../../src/block/filter.ts'
import type { IoVec } from '../../src/block/iovec.ts'
import type { Now } from '../../src/block/now.ts'

export type Operation = 'read' | 'write' | 'flush' | 'zero' | 'discard'

/** Passes everything through until told otherwise; counts what passed. */
export class Faulty extends Filter {
  readonly name = 'faulty'
  readonly counts: Record<Operation, number> = { read: 0, write: 0, flush: 0, zero: 0, discard: 0 }
  /** Every operation in the order of its start. */
  readonly log: { operation: Operation; at: number; length: number; fua: boolean }[] = []
  readonly #faults = new Map<Operation, { code: Errno; left: number }>()
  readonly #held: (() => void)[] = []
  #holding = false
  #later = false

  /** Fails the next `times` requests of this kind with `code`. */
  fail(operation: Operation, code: Errno, times = 1): void {
    this.#faults.set(operation, { code, left: times })
  }

  /** From now on every request answers later, never at once. */
  later(): void {
    this.#later = true
  }

  /** Holds every request from now on. */
  hold(): void {
    this.#holding = true
  }

  /** Requests held. */
  get held(): number {
    return this.#held.length
  }

  /** Lets the held requests go, in order or the last first, and holds no more. */
  release(order: 'fifo' | 'lifo' = 'fifo'): void {
    this.#holding = false
    const held = this.#held.splice(0)
    if (order === 'lifo') held.reverse()
    for (const go of held) go()
  }

  override read(at: number, into: IoVec): Now<void> {
    return this.#pass('read', at, into.byteLength, false, () => this.next.read(at, into))
  }

  override write(at: number, from: IoVec, options?: WriteOptions): Now<void> {
    return this.#pass('write', at, from.byteLength, options?.fua === true, () => this.next.write(at, from, options))
  }

  override flush(): Now<void> {
    return this.#pass('flush', 0, 0, false, () => this.next.flush())
  }

  override zero(at: number, length: number, options?: ZeroOptions): Now<void> {
    return this.#pass('zero', at, length, false, () => this.next.zero(at, length, options))
  }

  override discard(at: number, length: number): Now<void> {
    return this.#pass('discard', at, length, false, () => this.next.discard(at, length))
  }

  #pass(operation: Operation, at: number, length: number, fua: boolean, go: () => Now<void>): Now<void> {
    this.counts[operation]++
    this.log.push({ operation, at, length, fua })
    const run = () => {
      const fault = this.#faults.get(operation)
      if (fault !== undefined && fault.left > 0) {
        fault.left--
        throw new BlockError(fault.code, `Injected ${fault.code} on ${operation}`)
      }
      return go()
    }
    if (this.#holding) return new Promise<void>((resolve) => this.#held.push(resolve)).then(run)
    return this.#later ? Promise.resolve().then(run) : run()
  }
}
