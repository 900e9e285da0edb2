/** What an author of a driver writes, and what the core makes of it: a device without gaps. */
import { BlockError, errnoOf } from './error.ts'
import { bytesVec, type IoVec, zeroVec } from './iovec.ts'
import { after, type Now, repeat, rescue } from './now.ts'
import { RangeLock } from './rangelock.ts'

/** What a range of one layer holds: bytes, zeroes, or nothing of its own (a backing layer's bytes show through). */
export type ExtentKind = 'data' | 'zero' | 'hole'

/** One run of equal kind, `length` bytes long, at the offset that was asked for. */
export interface Extent {
  length: number
  kind: ExtentKind
  /** Where the bytes are in the layer's file, if they are there plain; for maps and copies. */
  at?: number
}

/** A range of another device. */
export interface Place {
  readonly device: BlockDevice
  readonly at: number
  readonly length: number
}

/** Bytes where they lie already, the ones of an image or its file, to look at until they are given back. */
export interface Loan {
  readonly bytes: Uint8Array
  /** Gives them back; they must not be touched any more. */
  release(): void
}

export interface WriteOptions {
  /** Forced unit access: the write completes when it is durable. */
  fua?: boolean
}

export interface ZeroOptions {
  /** The range may lose its allocation, as long as it reads as zeroes. */
  unmap?: boolean
}

/** Moments at which requests can be held and made to fail, by the names that `blkdebug` has for them. */
export interface DebugPoints {
  /** Says that `event` is about to happen; what follows waits until this completes. */
  event(event: string): Now<void>
  /** Holds the next request that comes to `event`, and calls it `tag`. ENOENT if there is no such event. */
  break(event: string, tag: string): void
  /** Lets the requests called `tag` go on; answers whether there were any. */
  resume(tag: string): boolean
  /** Forgets the breakpoints called `tag` and lets go what they hold; answers whether there were any. */
  removeBreak(tag: string): boolean
  /** Completes when a request called `tag` is held. */
  suspended(tag: string): Now<void>
}

/**
 * What the author of a protocol, filter or format writes. Offsets and lengths are bytes, multiples of `align` (except where
 * a range ends at `size`), inside the device, never empty. What is absent, the core emulates or refuses.
 * A request that fails throws (or rejects with) a BlockError; it may then have been done in part. `zero` may find out that it
 * cannot, and `discard` too: ENOTSUP with nothing done, and the core writes zeroes, or lets the range be.
 */
export interface BlockDriver {
  /** Name of the driver, as in `driver=`. */
  readonly name: string
  /** Size, bytes. May change by {@link resize}. */
  readonly size: number
  readonly readOnly?: boolean
  /** The layer whose bytes show through this one's holes. */
  readonly backing?: BlockDevice | undefined
  /** Where all of its bytes are as they are: from `offset` on in `device`. */
  readonly plain?: { readonly device: BlockDevice; readonly offset: number }
  /**
   * Where bytes from `at` on are as they are, for who knows a shorter way to them than {@link read}: at least one, at most `length`;
   * undefined if nowhere, or if that is not known at once.
   */
  place?(at: number, length: number): Place | undefined
  /**
   * Bytes from `at` on without a copy of them, at least one, at most `length`; undefined if they are not in memory, or may be written to
   * from here. Where another program may make the file shorter meanwhile, to touch them later than at once ends the process: so
   * the kernel is to copy what is lent.
   */
  lend?(at: number, length: number): Loan | undefined
  /** Whether what is written, if it is whole units of allocation, goes to the kernel and is looked at by nobody before. */
  readonly unseen?: boolean
  /** The nearest place, here or below, where requests can be held; for formats to announce what they do. */
  readonly debug?: DebugPoints | undefined
  /** Smallest unit of offsets and lengths, bytes, a power of two; default 1. */
  readonly align?: number
  /** What a discard must be aligned to to have an effect, bytes; default `align`. */
  readonly discardGranularity?: number
  /** Whether `discard` has an effect; default, whether it is there. */
  readonly canDiscard?: boolean
  /** Whether `write` honours `fua`; if not, the core flushes after the write. */
  readonly fua?: boolean
  /** Reads `into.byteLength` bytes, all of it or an error. */
  read(at: number, into: IoVec): Now<void>
  /** Writes all of `from`. */
  write?(at: number, from: IoVec, options?: WriteOptions): Now<void>
  /** Makes every write that completed before the call durable. */
  flush?(): Now<void>
  /** Makes the range read as zeroes. */
  zero?(at: number, length: number, options?: ZeroOptions): Now<void>
  /** Gives the range up; it reads as anything until it is written, and never as what it must not show. */
  discard?(at: number, length: number): Now<void>
  /** What the range at `at` holds, this layer only; one extent, at most `length` long, at least `align`. */
  status?(at: number, length: number): Now<Extent>
  /** Changes `size`; new bytes read as zeroes. */
  resize?(size: number): Now<void>
  /** Copies to another driver without the bytes passing through here; answers how many bytes, 0 if it cannot. */
  copyTo?(at: number, to: BlockDriver, toAt: number, length: number): Now<number>
  /** Bytes that the image takes on its medium. */
  allocated?(): Now<number>
  /** Writes back what is cached and lets go of the medium, when no request is under way any more; called once. */
  close?(): Now<void>
}

/** A driver with every gap filled: range checks, alignment, read-modify-write, emulation of what is absent. */
export class BlockDevice implements BlockDriver {
  readonly driver: BlockDriver
  readonly name: string
  readonly align = 1
  readonly fua = true
  #unit: number
  #debug: DebugPoints | undefined
  #lock: RangeLock | undefined
  #closed: Now<void> | undefined
  #growing: Promise<void> | undefined
  #isClosed = false

  constructor(driver: BlockDriver) {
    this.driver = driver
    this.name = driver.name
    this.#debug = driver.debug
    this.#unit = unitOf(driver)
    this.#lock = this.#unit > 1 ? new RangeLock() : undefined
  }

  /** Puts a driver in the place of the device's own, which it gives back, open; nothing may be in flight meanwhile. */
  replace(driver: BlockDriver): BlockDriver {
    const old = this.driver
    const unit = unitOf(driver)
    const own = this as { driver: BlockDriver; name: string }
    own.driver = driver
    own.name = driver.name
    this.#debug = driver.debug
    this.#unit = unit
    this.#lock = unit > 1 ? new RangeLock() : undefined
    return old
  }

  /** Gives the driver to a new device; this one is as good as closed. */
  handOver(): BlockDevice {
    return new BlockDevice(this.replace(handedOver))
  }

  get size(): number {
    return this.driver.size
  }

  get readOnly(): boolean {
    return this.driver.readOnly === true || this.driver.write === undefined
  }

  get backing(): BlockDevice | undefined {
    return this.driver.backing
  }

  /** Found once for a driver: asked all the way down at each request, V8 would compile a chain of unknown length into every reader. */
  get debug(): DebugPoints | undefined {
    return this.#debug
  }

  /** The unit below which a write costs a read, bytes. */
  get requestAlignment(): number {
    return this.#unit
  }

  get discardGranularity(): number {
    return this.driver.discardGranularity ?? this.#unit
  }

  get canDiscard(): boolean {
    return this.driver.discard !== undefined && this.driver.canDiscard !== false && !this.readOnly
  }

  read(at: number, into: IoVec): Now<void> {
    const length = into.byteLength
    this.#check(at, length, 'read')
    if (length === 0) return
    if (this.#fits(at, length)) return this.driver.read(at, into)
    const start = this.#down(at)
    const bounce = new Uint8Array(this.#up(at + length) - start)
    return after(this.driver.read(start, bytesVec(bounce)), () => {
      into.scatter(bounce.subarray(at - start, at - start + length))
    })
  }

  /** {@link read} for who has seen to it that the range is inside the device and not empty. */
  readInside(at: number, into: IoVec): Now<void> {
    return this.#unit === 1 ? this.driver.read(at, into) : this.read(at, into)
  }

  write(at: number, from: IoVec, options?: WriteOptions): Now<void> {
    this.#checkWrite(at, from.byteLength, 'write')
    if (from.byteLength === 0) return options?.fua ? this.flush() : undefined
    const lock = this.#lock
    const fua = options?.fua === true
    if (lock === undefined) return this.#put(at, from, fua)
    if (this.#fits(at, from.byteLength)) {
      return lock.shared(at, from.byteLength, () => this.#put(at, from, fua))
    }
    const start = this.#down(at)
    return lock.exclusive(start, this.#up(at + from.byteLength) - start, () => this.#modify(at, from, fua))
  }

  /** How far down the bytes from `at` on can be followed as they are; what is found here itself has no other place. */
  placed(at: number, length: number): Place | undefined {
    this.#check(at, length, 'read')
    if (this.debug !== undefined) return undefined
    const { place, plain } = this.driver
    if (place !== undefined) {
      const found = place.call(this.driver, at, length)
      return found === undefined ? undefined : found.device.placed(found.at, found.length)
    }
    if (plain !== undefined) return plain.device.placed(plain.offset + at, length)
    return { device: this, at, length }
  }

  /** What the layer that has the bytes lends of them. */
  lend(at: number, length: number): Loan | undefined {
    const place = this.placed(at, length)
    return place?.device.driver.lend?.(place.at, place.length)
  }

  get unseen(): boolean {
    return this.driver.unseen === true && this.debug === undefined
  }

  flush(): Now<void> {
    this.#open()
    return this.driver.flush?.()
  }

  zero(at: number, length: number, options?: ZeroOptions): Now<void> {
    this.#checkWrite(at, length, 'zero')
    if (length === 0) return
    if (this.driver.zero === undefined) return this.#writeZeroes(at, length)
    if (this.#fits(at, length)) return this.#zeroWhole(at, length, options)
    const first = Math.min(this.#up(at), at + length)
    const last = Math.max(this.#downAtEnd(at + length), first)
    return after(this.#writeZeroes(at, first - at), () =>
      after(last > first ? this.#zeroWhole(first, last - first, options) : undefined, () =>
        this.#writeZeroes(last, at + length - last),
      ),
    )
  }

  discard(at: number, length: number): Now<void> {
    this.#checkWrite(at, length, 'discard')
    const first = this.#up(at)
    const last = this.#downAtEnd(at + length)
    if (this.driver.discard === undefined || last <= first) return
    return rescue(
      () => this.#sharing(first, last - first, () => this.driver.discard!(first, last - first)),
      (error) => {
        if (errnoOf(error) !== 'ENOTSUP') throw error
      },
    )
  }

  status(at: number, length: number): Now<Extent> {
    this.#check(at, length, 'ask for the status of')
    if (length === 0) throw new BlockError('EINVAL', `Cannot ask ${this.name} for the status of an empty range`)
    const status = this.driver.status
    if (status === undefined) return { length, kind: 'data' }
    if (this.#fits(at, length)) return status.call(this.driver, at, length)
    const start = this.#down(at)
    return after(status.call(this.driver, start, this.#up(at + length) - start), (extent) => {
      const found: Extent = { length: Math.min(extent.length - (at - start), length), kind: extent.kind }
      if (extent.at !== undefined) found.at = extent.at + (at - start)
      return found
    })
  }

  /**
   * Copies to another device where the host can do that by itself; answers how many bytes from the start of the range were
   * copied, 0 if none can be that way.
   */
  copyTo(at: number, to: BlockDevice, toAt: number, length: number): Now<number> {
    this.#check(at, length, 'copy')
    to.#checkWrite(toAt, length, 'copy to')
    const source = this.#place(at)
    const target = to.#place(toAt)
    const copy = source.device.driver.copyTo
    if (copy === undefined || length === 0) return 0
    return target.device.#sharing(target.at, length, () =>
      copy.call(source.device.driver, source.at, target.device.driver, target.at, length),
    )
  }

  resize(size: number): Now<void> {
    this.#open()
    if (this.readOnly) throw new BlockError('EROFS', `Cannot resize ${this.name}: it is read-only`)
    if (!Number.isSafeInteger(size) || size < 0)
      throw new BlockError('EINVAL', `Cannot resize ${this.name} to ${size} bytes`)
    if (this.driver.resize === undefined)
      throw new BlockError('ENOTSUP', `Cannot resize ${this.name}: it has a fixed size`)
    return this.driver.resize(size)
  }

  /**
   * Makes the device at least `end` bytes long; where it must grow, `size` bytes. One such change at a time: two that overlap
   * could end with the smaller size.
   */
  grow(end: number, size = end): Now<void> {
    if (end <= this.size) return
    if (this.#growing !== undefined) {
      const again = () => this.grow(end, size)
      return this.#growing.then(again, again)
    }
    const grown = this.resize(size)
    if (!(grown instanceof Promise)) return
    this.#growing = grown.finally(() => {
      this.#growing = undefined
    })
    return this.#growing
  }

  allocated(): Now<number> {
    return this.driver.allocated?.() ?? this.size
  }

  close(): Now<void> {
    if (!this.#isClosed) {
      this.#isClosed = true
      this.#closed = this.driver.close?.()
    }
    return this.#closed
  }

  #put(at: number, from: IoVec, fua: boolean): Now<void> {
    const driver = this.driver
    if (!fua || driver.fua) return driver.write!(at, from, fua ? { fua } : undefined)
    return after(driver.write!(at, from), () => driver.flush?.())
  }

  #modify(at: number, from: IoVec, fua: boolean): Now<void> {
    const start = this.#down(at)
    const bounce = new Uint8Array(this.#up(at + from.byteLength) - start)
    const head = at - start
    const tail = head + from.byteLength
    const unit = Math.min(this.#unit, bounce.length)
    const lastUnit = this.#down(start + bounce.length - 1) - start
    const readHead = head > 0 ? this.driver.read(start, bytesVec(bounce.subarray(0, unit))) : undefined
    return after(readHead, () => {
      const needTail = tail < bounce.length && !(lastUnit === 0 && head > 0)
      const readTail = needTail ? this.driver.read(start + lastUnit, bytesVec(bounce.subarray(lastUnit))) : undefined
      return after(readTail, () => {
        from.gather(bounce.subarray(head, tail))
        return this.#put(start, bytesVec(bounce), fua)
      })
    })
  }

  #zeroWhole(at: number, length: number, options?: ZeroOptions): Now<void> {
    return rescue(
      () => this.#sharing(at, length, () => this.driver.zero!(at, length, options)),
      (error) => {
        if (errnoOf(error) !== 'ENOTSUP') throw error
        return this.#writeZeroes(at, length)
      },
    )
  }

  #writeZeroes(at: number, length: number): Now<void> {
    let done = 0
    return repeat(() => {
      if (done >= length) return false
      const step = Math.min(length - done, 4 << 20)
      return after(this.write(at + done, zeroVec(step)), () => {
        done += step
        return done < length
      })
    })
  }

  /** Follows {@link BlockDriver.plain} down. */
  #place(at: number): { device: BlockDevice; at: number } {
    const { plain } = this.driver
    return plain === undefined ? { device: this, at } : plain.device.#place(at + plain.offset)
  }

  #sharing<T>(at: number, length: number, body: () => Now<T>): Now<T> {
    return this.#lock === undefined ? body() : this.#lock.shared(at, length, body)
  }

  #fits(at: number, length: number): boolean {
    const unit = this.#unit
    if (unit === 1) return true
    return at % unit === 0 && (length % unit === 0 || at + length === this.size)
  }

  #down(at: number): number {
    return at - (at % this.#unit)
  }

  #up(at: number): number {
    return Math.min(Math.ceil(at / this.#unit) * this.#unit, this.size)
  }

  #downAtEnd(end: number): number {
    return end === this.size ? end : this.#down(end)
  }

  #open(): void {
    if (this.#isClosed) throw new BlockError('ESHUTDOWN', `Cannot use ${this.name}: it is closed`)
  }

  #check(at: number, length: number, verb: string): void {
    this.#open()
    if (!(at >= 0 && length >= 0 && at + length <= this.size && Number.isSafeInteger(at) && Number.isInteger(length))) {
      throw new BlockError(
        'EINVAL',
        `Cannot ${verb} ${length} bytes at ${at} of ${this.name}: its size is ${this.size}`,
      )
    }
  }

  #checkWrite(at: number, length: number, verb: string): void {
    if (this.readOnly) throw new BlockError('EROFS', `Cannot ${verb} ${this.name}: it is read-only`)
    this.#check(at, length, verb)
  }
}

/** What is left in a device whose driver has gone elsewhere. */
const handedOver: BlockDriver = {
  name: 'nothing',
  size: 0,
  read() {
    throw new BlockError('ESHUTDOWN', 'Cannot use an image that is in use elsewhere now')
  },
}

function unitOf(driver: BlockDriver): number {
  const unit = driver.align ?? 1
  if (!(unit >= 1) || unit > 1 << 20 || (unit & (unit - 1)) !== 0) {
    throw new BlockError('EINVAL', `Cannot use ${driver.name}: its alignment is ${unit}, must be a power of two`)
  }
  return unit
}

/** Fills the gaps of a driver; one that has none left is returned as it is. */
export function asDevice(driver: BlockDriver): BlockDevice {
  return driver instanceof BlockDevice ? driver : new BlockDevice(driver)
}
