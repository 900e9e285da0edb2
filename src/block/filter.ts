/** Layers between a disk and its image: a filter changes the one thing it is for and passes the rest through. */
import type { BlockDevice, BlockDriver, DebugPoints, Extent, WriteOptions, ZeroOptions } from './device.ts'
import type { IoVec } from './iovec.ts'
import type { Now } from './now.ts'

/** A layer that keeps every byte at its address; each operation it does not override goes on to `next` as it is. */
export abstract class Filter implements BlockDriver {
  abstract readonly name: string
  readonly fua = true
  protected readonly next: BlockDevice

  constructor(next: BlockDevice) {
    this.next = next
  }

  get size(): number {
    return this.next.size
  }

  get readOnly(): boolean {
    return this.next.readOnly
  }

  get backing(): BlockDevice | undefined {
    return this.next.backing
  }

  get debug(): DebugPoints | undefined {
    return this.next.debug
  }

  get align(): number {
    return this.next.align
  }

  get discardGranularity(): number {
    return this.next.discardGranularity
  }

  get canDiscard(): boolean {
    return this.next.canDiscard
  }

  read(at: number, into: IoVec): Now<void> {
    return this.next.read(at, into)
  }

  write(at: number, from: IoVec, options?: WriteOptions): Now<void> {
    return this.next.write(at, from, options)
  }

  flush(): Now<void> {
    return this.next.flush()
  }

  zero(at: number, length: number, options?: ZeroOptions): Now<void> {
    return this.next.zero(at, length, options)
  }

  discard(at: number, length: number): Now<void> {
    return this.next.discard(at, length)
  }

  status(at: number, length: number): Now<Extent> {
    return this.next.status(at, length)
  }

  resize(size: number): Now<void> {
    return this.next.resize(size)
  }

  allocated(): Now<number> {
    return this.next.allocated()
  }

  close(): Now<void> {
    return this.next.close()
  }
}

/** A layer that moves addresses; every operation is abstract, so that none passes through unmoved by oversight. */
export abstract class Remap
  implements
    Required<
      Omit<
        BlockDriver,
        | 'readOnly'
        | 'backing'
        | 'place'
        | 'plain'
        | 'lend'
        | 'unseen'
        | 'debug'
        | 'copyTo'
        | 'align'
        | 'discardGranularity'
        | 'canDiscard'
        | 'allocated'
      >
    >
{
  abstract readonly name: string
  abstract readonly size: number
  readonly fua = true
  abstract read(at: number, into: IoVec): Now<void>
  abstract write(at: number, from: IoVec, options?: WriteOptions): Now<void>
  abstract flush(): Now<void>
  abstract zero(at: number, length: number, options?: ZeroOptions): Now<void>
  abstract discard(at: number, length: number): Now<void>
  abstract status(at: number, length: number): Now<Extent>
  abstract resize(size: number): Now<void>
  abstract close(): Now<void>
}
