/** The disk: what a controller sees of the block layer. Cache mode and error policy have been applied, requests are counted. */
import { BlockDevice, type Extent, type WriteOptions, type ZeroOptions } from './device.ts'
import { BlockError, errnoOf } from './error.ts'
import { Hold } from './hold.ts'
import type { IoVec } from './iovec.ts'
import { after, all, isLater, type Now, rescue } from './now.ts'
import { kick } from './turn.ts'

/** Cache modes by the names of `-drive cache=`. */
export type CacheMode = 'writeback' | 'none' | 'writethrough' | 'directsync' | 'unsafe'
/** What happens when the host fails a request; `stop` holds it until {@link Disk.resume}, `enospc` does so for ENOSPC alone. */
export type ErrorPolicy = 'report' | 'ignore' | 'stop' | 'enospc'

export interface DiskOptions {
  /** What messages call the disk; default the driver's name. */
  name?: string
  /** Serial number that the guest sees, at most 20 bytes of printable ASCII. */
  serial?: string
  /** Default `writeback`. Whether the host's page cache is used is decided where the file is opened. */
  cache?: CacheMode
  /** Policy for reads: report (default), ignore or stop. */
  rerror?: Exclude<ErrorPolicy, 'enospc'>
  /** Policy for all that writes: enospc (default), report, ignore or stop. */
  werror?: ErrorPolicy
  /** Whether discards reach the image; default `unmap`. */
  discard?: 'ignore' | 'unmap'
  /** Bytes a guest addresses at once: 512 (default) to 2 MiB, a power of two. */
  logicalBlockSize?: number
  /** Bytes the medium writes at once, at least the logical block size, its default. */
  physicalBlockSize?: number
  /** Preferred smallest transfer, bytes; 0 says nothing. */
  minIoSize?: number
  /** Preferred transfer, bytes; 0 says nothing. */
  optIoSize?: number
  /** Unit of discards that the guest is told, bytes; default the image's, at least a logical block. */
  discardGranularity?: number
}

/** Requests and bytes that completed well, and requests that failed, since the disk was made. */
export interface DiskStats {
  reads: number
  writes: number
  flushes: number
  zeroes: number
  discards: number
  bytesRead: number
  bytesWritten: number
  bytesZeroed: number
  bytesDiscarded: number
  errors: number
}

type Direction = 'read' | 'write'

interface Held {
  readonly retry: () => void
  readonly drop: () => void
  readonly vector: IoVec | undefined
}

/** A job that has the disk's image to itself. */
export interface DiskUser {
  readonly type: string
  /** Ends it; completes when everything that it began is over. */
  cancel(): Promise<void>
}

/** A disk in front of a device; offsets and lengths are bytes. Requests answer at once where the device does. */
export class Disk {
  readonly device: BlockDevice
  /** The image below the disk's own filters: its driver is what jobs replace. */
  readonly root: BlockDevice
  readonly name: string
  readonly cache: CacheMode
  readonly logicalBlockSize: number
  readonly physicalBlockSize: number
  readonly minIoSize: number
  readonly optIoSize: number
  readonly discardGranularity: number
  readonly stats: DiskStats = {
    reads: 0,
    writes: 0,
    flushes: 0,
    zeroes: 0,
    discards: 0,
    bytesRead: 0,
    bytesWritten: 0,
    bytesZeroed: 0,
    bytesDiscarded: 0,
    errors: 0,
  }
  readonly #unmaps: boolean
  readonly #rerror: ErrorPolicy
  readonly #werror: ErrorPolicy
  readonly #inFlight = new Set<Promise<unknown>>()
  readonly #vectors = new Set<IoVec>()
  readonly #held = new Set<Held>()
  readonly #resizeListeners = new Set<(size: number) => void>()
  readonly #stopListeners = new Set<(error: BlockError) => void>()
  #generation = 0
  #writeCache: boolean
  #serial = ''
  #closed: Now<void> | undefined
  #isClosed = false
  #pausing: Promise<unknown> = Promise.resolve()
  #user: DiskUser | undefined

  constructor(device: BlockDevice, options: DiskOptions = {}, root = device) {
    this.device = device
    this.root = root
    this.name = options.name ?? device.name
    this.cache = options.cache ?? 'writeback'
    this.#writeCache = this.cache !== 'writethrough' && this.cache !== 'directsync'
    this.#rerror = options.rerror ?? 'report'
    this.#werror = options.werror ?? 'enospc'
    this.#unmaps = (options.discard ?? 'unmap') === 'unmap'
    const logical = options.logicalBlockSize ?? 512
    const physical = options.physicalBlockSize ?? Math.max(logical, 512)
    for (const [name, size] of [
      ['logical_block_size', logical],
      ['physical_block_size', physical],
    ] as const) {
      if (!(size >= 512 && size <= 2 << 20) || (size & (size - 1)) !== 0) {
        throw new BlockError(
          'EINVAL',
          `Cannot use ${this.name}: ${name} is ${size}, must be a power of two from 512 to 2097152`,
        )
      }
    }
    if (physical < logical) {
      throw new BlockError(
        'EINVAL',
        `Cannot use ${this.name}: physical_block_size ${physical} is below logical_block_size ${logical}`,
      )
    }
    if (device.size % logical !== 0) {
      throw new BlockError(
        'EINVAL',
        `Cannot use ${this.name}: its size ${device.size} is no multiple of ${logical} bytes`,
      )
    }
    this.serial = options.serial ?? ''
    this.logicalBlockSize = logical
    this.physicalBlockSize = physical
    this.minIoSize = options.minIoSize ?? 0
    this.optIoSize = options.optIoSize ?? 0
    this.discardGranularity = Math.max(options.discardGranularity ?? device.discardGranularity, logical)
  }

  /** What the guest sees; a controller reads it when it takes the disk. */
  get serial(): string {
    return this.#serial
  }

  set serial(serial: string) {
    if (!/^[\x20-\x7e]{0,20}$/.test(serial)) {
      throw new BlockError(
        'EINVAL',
        `Cannot use ${this.name}: serial '${serial}' is not up to 20 printable ASCII characters`,
      )
    }
    this.#serial = serial
  }

  /** Capacity, bytes. */
  get size(): number {
    return this.device.size
  }

  get readOnly(): boolean {
    return this.device.readOnly
  }

  /** Whether a discard is worth sending. */
  get canDiscard(): boolean {
    return this.#unmaps && this.device.canDiscard
  }

  /** Whether the guest is to see a volatile write cache, i.e. whether a write may complete before it is durable. */
  get writeCache(): boolean {
    return this.#writeCache
  }

  /**
   * Turns the volatile write cache on or off, as the guest asked. Off completes when all that was written is durable, and
   * that includes the writes that were under way.
   */
  setWriteCache(on: boolean): Now<void> {
    if (on === this.#writeCache) return
    this.#writeCache = on
    return on ? undefined : after(this.drain(), () => this.flush())
  }

  /** Fills `into` from byte `at`. */
  read(at: number, into: IoVec): Now<void> {
    let later: Now<void>
    try {
      later = this.device.read(at, into)
    } catch (error) {
      return this.#failed('read', error, () => this.read(at, into), into)
    }
    if (isLater(later)) {
      return this.#track(
        later,
        'read',
        () => this.#countRead(into),
        () => this.read(at, into),
        into,
      )
    }
    this.#countRead(into)
  }

  /** Writes `from` at byte `at`; without a write cache, or with `fua`, completes when it is durable. */
  write(at: number, from: IoVec, options?: WriteOptions): Now<void> {
    const length = from.byteLength
    return this.#run(
      'write',
      () => this.device.write(at, from, this.cache === 'unsafe' ? undefined : this.#writeCache ? options : DURABLE),
      () => {
        this.stats.writes++
        this.stats.bytesWritten += length
      },
      from,
    )
  }

  /** Makes all writes that completed before it durable; with `cache=unsafe` it does nothing. */
  flush(): Now<void> {
    return this.#run(
      'write',
      () => (this.cache === 'unsafe' ? undefined : this.device.flush()),
      () => {
        this.stats.flushes++
      },
    )
  }

  /** Makes the range read as zeroes, which may free its space if `unmap` and the disk's `discard` option allow. */
  zero(at: number, length: number, options?: ZeroOptions): Now<void> {
    const unmap = options?.unmap === true && this.#unmaps
    return this.#run(
      'write',
      () => after(this.device.zero(at, length, { unmap }), () => this.#settleWrite()),
      () => {
        this.stats.zeroes++
        this.stats.bytesZeroed += length
      },
    )
  }

  /** Gives the range up; with `discard=ignore`, or on an image that cannot, it does nothing. */
  discard(at: number, length: number): Now<void> {
    return this.#run(
      'write',
      () => (this.#unmaps ? after(this.device.discard(at, length), () => this.#settleWrite()) : undefined),
      () => {
        this.stats.discards++
        this.stats.bytesDiscarded += length
      },
    )
  }

  /** What the range holds, as one extent from `at`. */
  status(at: number, length: number): Now<Extent> {
    return this.device.status(at, length)
  }

  /** Changes the capacity and tells the controller, which tells the guest; EBUSY while a job runs. */
  resize(size: number): Now<void> {
    if (this.#user !== undefined) throw this.#busy('resize')
    if (size % this.logicalBlockSize !== 0) {
      throw new BlockError(
        'EINVAL',
        `Cannot resize ${this.name}: ${size} is no multiple of ${this.logicalBlockSize} bytes`,
      )
    }
    return after(this.device.resize(size), () => {
      for (const listener of this.#resizeListeners) listener(size)
    })
  }

  /** Calls `listener` with the new size after every resize; returns what ends that. */
  onResize(listener: (size: number) => void): () => void {
    this.#resizeListeners.add(listener)
    return () => this.#resizeListeners.delete(listener)
  }

  /** Calls `listener` when a request is held by the policy `stop` (or `enospc`); returns what ends that. */
  onStop(listener: (error: BlockError) => void): () => void {
    this.#stopListeners.add(listener)
    return () => this.#stopListeners.delete(listener)
  }

  /** Requests held by the error policy. */
  get held(): number {
    return this.#held.size
  }

  /** Tries the held requests again. */
  resume(): void {
    const held = [...this.#held]
    this.#held.clear()
    for (const request of held) request.retry()
  }

  /** Lets the requests that were handed in so far begin at once; a device calls it when it has taken all of its queue. */
  kick(): void {
    kick()
  }

  /** Completes when no request is with the host; held ones wait for {@link resume} and do not count. */
  drain(): Now<void> {
    if (this.#inFlight.size === 0) return
    return Promise.allSettled([...this.#inFlight]).then(() => this.drain())
  }

  /**
   * Runs `body` while no request is with the host. Requests that come meanwhile wait, and then go to what `body` has put under
   * the disk.
   */
  pause<T>(body: () => Now<T>): Promise<T> {
    const result = this.#pausing.then(async () => {
      const own = this as { device: BlockDevice }
      const { device } = this
      const before = [...this.#inFlight]
      const hold = new Hold(device)
      own.device = new BlockDevice(hold)
      try {
        await Promise.allSettled(before)
        return await body()
      } finally {
        own.device = device
        hold.release()
      }
    })
    this.#pausing = result.catch(() => {})
    return result
  }

  /** Reserves the image for a job; EBUSY while another has it. Returns what ends that. */
  reserve(user: DiskUser): () => void {
    if (this.#isClosed) throw new BlockError('ESHUTDOWN', `Cannot begin a ${user.type} of ${this.name}: it is closed`)
    if (this.#user !== undefined) throw this.#busy(`begin a ${user.type} of`)
    this.#user = user
    return () => {
      if (this.#user === user) this.#user = undefined
    }
  }

  #busy(verb: string): BlockError {
    return new BlockError('EBUSY', `Cannot ${verb} ${this.name}: a ${this.#user?.type} of it is under way`)
  }

  /**
   * Takes back every request that has not completed: each rejects with ECANCELED, and its memory is touched no more.
   * Completes when the host has let go of all of them. A host read that is already under way straight into guest memory cannot
   * be called back: a controller is reset, and its memory the guest's again, only when this completes (CVE-2023-5088).
   */
  cancel(): Now<void> {
    this.#generation++
    for (const vector of this.#vectors) vector.revoke()
    this.#vectors.clear()
    const held = [...this.#held]
    this.#held.clear()
    for (const request of held) request.drop()
    return this.drain()
  }

  /**
   * Takes back the held requests that nobody may be waiting for any more: those whose memory was revoked, and those without
   * memory, which a controller sends again if it still wants them. Each rejects with ECANCELED.
   */
  dropHeld(): void {
    for (const request of this.#held) {
      if (request.vector !== undefined && !isRevoked(request.vector)) continue
      this.#held.delete(request)
      request.drop()
    }
  }

  /** Cancels a job, drains, flushes and closes the image, even if the flush fails. Held requests are dropped. A second call changes nothing. */
  close(): Now<void> {
    if (!this.#isClosed) {
      this.#isClosed = true
      this.#closed = this.#end()
    }
    return this.#closed
  }

  #end(): Now<void> {
    const held = [...this.#held]
    this.#held.clear()
    for (const request of held) request.drop()
    const canceled = this.#user?.cancel()
    const calm = () => after(this.drain(), () => this.#finish())
    return canceled === undefined ? calm() : canceled.then(calm, calm)
  }

  #finish(): Now<void> {
    let failure: unknown
    const flushed = rescue(
      () => (this.readOnly || this.cache === 'unsafe' ? undefined : this.device.flush()),
      (error) => {
        failure = error
      },
    )
    return after(flushed, () =>
      after(this.device.close(), () => {
        if (failure !== undefined) throw failure
      }),
    )
  }

  #settleWrite(): Now<void> {
    if (!this.#writeCache && this.cache !== 'unsafe') return this.device.flush()
  }

  #countRead(into: IoVec): void {
    into.filled()
    this.stats.reads++
    this.stats.bytesRead += into.byteLength
  }

  #run(direction: Direction, start: () => Now<void>, count: () => void, vector?: IoVec): Now<void> {
    const retry = () => this.#run(direction, start, count, vector)
    let later: Now<void>
    try {
      later = start()
    } catch (error) {
      return this.#failed(direction, error, retry, vector)
    }
    if (isLater(later)) return this.#track(later, direction, count, retry, vector)
    count()
  }

  #track(
    later: Promise<void>,
    direction: Direction,
    count: () => void,
    retry: () => Now<void>,
    vector?: IoVec,
  ): Promise<void> {
    const generation = this.#generation
    if (vector !== undefined) this.#vectors.add(vector)
    this.#inFlight.add(later)
    const end = () => {
      this.#inFlight.delete(later)
      if (vector !== undefined) this.#vectors.delete(vector)
      if (generation !== this.#generation) throw canceled(this.name)
    }
    return later.then(
      () => {
        end()
        count()
      },
      (error) => {
        end()
        return this.#failed(direction, error, retry, vector)
      },
    )
  }

  #failed(direction: Direction, error: unknown, retry: () => Now<void>, vector?: IoVec): Now<void> {
    if (this.#isClosed || errnoOf(error) === 'ECANCELED') throw error
    this.stats.errors++
    const policy = direction === 'read' ? this.#rerror : this.#werror
    if (policy === 'ignore') return
    if (policy === 'stop' || (policy === 'enospc' && errnoOf(error) === 'ENOSPC'))
      return this.#hold(error, retry, vector)
    throw error
  }

  #hold(error: unknown, retry: () => Now<void>, vector: IoVec | undefined): Promise<void> {
    const reason = new BlockError(
      errnoOf(error),
      `${this.name} is stopped: ${error instanceof Error ? error.message : error}`,
      {
        cause: error,
      },
    )
    return new Promise<void>((resolve, reject) => {
      this.#held.add({
        retry: () => {
          try {
            resolve(retry())
          } catch (again) {
            reject(again)
          }
        },
        drop: () => reject(canceled(this.name)),
        vector,
      })
      for (const listener of this.#stopListeners) listener(reason)
    })
  }
}

const DURABLE: WriteOptions = { fua: true }

function isRevoked(vector: IoVec): boolean {
  try {
    vector.views()
    return false
  } catch {
    return true
  }
}

function canceled(name: string): BlockError {
  return new BlockError('ECANCELED', `A request to ${name} was canceled`)
}

/** Drains several disks. */
export function drainAll(disks: Iterable<Disk>): Now<void> {
  return all([...disks].map((disk) => disk.drain()))
}
