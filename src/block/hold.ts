/** A layer that makes requests wait: what stands before a disk's device while something under it is changed. */
import type { BlockDevice, Extent, WriteOptions, ZeroOptions } from './device.ts'
import { Filter } from './filter.ts'
import type { IoVec } from './iovec.ts'
import type { Now } from './now.ts'

/** Requests wait, in their order, until {@link release}. */
export class Hold extends Filter {
  readonly name: string
  readonly #released: Promise<void>
  // What the disk is does not change while it is held, whatever is under it for the moment.
  readonly #size: number
  readonly #readOnly: boolean
  readonly #granularity: number
  readonly #canDiscard: boolean
  /** Lets the requests go on to the device. */
  release: () => void = () => {}

  constructor(next: BlockDevice) {
    super(next)
    this.name = next.name
    this.#size = next.size
    this.#readOnly = next.readOnly
    this.#granularity = next.discardGranularity
    this.#canDiscard = next.canDiscard
    this.#released = new Promise((resolve) => {
      this.release = resolve
    })
  }

  override get size(): number {
    return this.#size
  }

  override get readOnly(): boolean {
    return this.#readOnly
  }

  override get discardGranularity(): number {
    return this.#granularity
  }

  override get canDiscard(): boolean {
    return this.#canDiscard
  }

  override read(at: number, into: IoVec): Promise<void> {
    return this.#released.then(() => this.next.read(at, into))
  }

  override write(at: number, from: IoVec, options?: WriteOptions): Promise<void> {
    return this.#released.then(() => this.next.write(at, from, options))
  }

  override flush(): Promise<void> {
    return this.#released.then(() => this.next.flush())
  }

  override zero(at: number, length: number, options?: ZeroOptions): Promise<void> {
    return this.#released.then(() => this.next.zero(at, length, options))
  }

  override discard(at: number, length: number): Promise<void> {
    return this.#released.then(() => this.next.discard(at, length))
  }

  override status(at: number, length: number): Promise<Extent> {
    return this.#released.then(() => this.next.status(at, length))
  }

  override resize(size: number): Now<void> {
    return this.#released.then(() => this.next.resize(size))
  }

  override allocated(): Promise<number> {
    return this.#released.then(() => this.next.allocated())
  }

  override close(): Promise<void> {
    return this.#released.then(() => this.next.close())
  }
}
