/** Mirror: a copy that follows the disk until it is the same, and can take its place. */
import type { BlockDevice, WriteOptions, ZeroOptions } from '../device.ts'
import type { Disk } from '../disk.ts'
import { BlockError, errnoOf } from '../error.ts'
import { Filter } from '../filter.ts'
import { bytesVec, type IoVec } from '../iovec.ts'
import { after, always, type Now, rescue } from '../now.ts'
import { RangeLock } from '../rangelock.ts'
import { statusAbove } from './chain.ts'
import { Granules } from './granules.ts'
import type { Job, JobControl, JobErrorPolicy, Progress } from './job.ts'
import {
  Buffers,
  copyRange,
  type DiskJobOptions,
  diskJob,
  type ErrorPolicies,
  Failed,
  insertFilter,
  removeFilter,
  Workers,
} from './live.ts'

/** Which parts of the disk a mirror copies: all, what the image itself holds, or only what is written from now on. */
export type MirrorSync = 'full' | 'top' | 'none'

export interface MirrorOptions extends DiskJobOptions, ErrorPolicies {
  /** Default `full`. */
  sync?: MirrorSync
  /** How writes reach the target: `background` (default), by and by, or `write-blocking`, before they complete. */
  copyMode?: 'background' | 'write-blocking'
  /** The target is all zeroes already. */
  targetIsZero?: boolean
}

/** What a mirror copies, and what becomes of the disk. */
export interface MirrorPlan {
  readonly options: MirrorOptions
  readonly target: BlockDevice
  /** The layers from here down are not copied; undefined: all are. */
  readonly base: (image: BlockDevice) => BlockDevice | undefined
  /** Puts the target in the place of the disk's image, which is in `image`, while no request is under way; the target is durable. */
  pivot(image: BlockDevice): Now<void>
}

const CHUNK = 1 << 20
/** What may be left to copy while the disk's user waits, bytes. */
const LAST = 4 << 20
/** Times that a mirror goes through what was written meanwhile before it would let the writer wait for all that is left. */
const ROUNDS = 8

/** Notes what is written, and with `blocking` writes it to the target too. */
class Track extends Filter {
  readonly name = 'mirror-top'
  readonly image: BlockDevice
  readonly dirty: Granules
  /** A write of the target has failed; who is asked next deals with it. */
  failures: unknown[] = []
  /** Called when there is something to do. */
  onWork: () => void = () => {}
  readonly #target: BlockDevice | undefined
  readonly #lock = new RangeLock()

  constructor(image: BlockDevice, dirty: Granules, target: BlockDevice | undefined) {
    super(image)
    this.image = image
    this.dirty = dirty
    this.#target = target
  }

  override write(at: number, from: IoVec, options?: WriteOptions): Now<void> {
    const length = from.byteLength
    if (this.#target === undefined) return this.#noting(at, length, () => this.next.write(at, from, options))
    // The two must get the same bytes, whatever becomes of the memory meanwhile.
    const bytes = bytesVec(from.gather())
    return this.#both(
      at,
      length,
      () => this.next.write(at, bytes, options),
      (target) => target.write(at, bytes),
    )
  }

  override zero(at: number, length: number, options?: ZeroOptions): Now<void> {
    if (this.#target === undefined) return this.#noting(at, length, () => this.next.zero(at, length, options))
    return this.#both(
      at,
      length,
      () => this.next.zero(at, length, options),
      (target) => target.zero(at, length, options),
    )
  }

  /** What a discarded range reads as is the image's affair: it is copied. */
  override discard(at: number, length: number): Now<void> {
    const discard = () => this.#noting(at, length, () => this.next.discard(at, length))
    return this.#target === undefined ? discard() : this.#lock.exclusive(at, length, discard)
  }

  /** Runs a copy of the range: one at a time, for an older must not end last; with `blocking` no write passes it either. */
  copying(at: number, length: number, copy: () => Now<void>): Now<void> {
    return this.#lock.exclusive(at, length, copy)
  }

  note(at: number, length: number): void {
    this.dirty.add(at, length)
    this.onWork()
  }

  #noting(at: number, length: number, change: () => Now<void>): Now<void> {
    return always(change, () => this.note(at, length))
  }

  #both(at: number, length: number, change: () => Now<void>, copy: (target: BlockDevice) => Now<void>): Now<void> {
    return this.#lock.exclusive(at, length, () => {
      const changed = rescue(change, (error) => {
        this.note(at, length)
        throw error
      })
      return after(changed, () =>
        rescue(
          () => after(copy(this.#target!), () => this.dirty.remove(at, length)),
          (error) => {
            this.failures.push(error)
            this.note(at, length)
          },
        ),
      )
    })
  }
}

/**
 * Mirrors the disk into `target`. When the two are almost the same the job is `ready`, and follows; `complete()` ends it: the disk goes on
 * with the target, or, with `pivot: false`, with its own image, and the target is the disk of that moment. The image that the disk
 * does not go on with is closed if it was the disk's, and stays open if it is the target.
 */
export function mirror(disk: Disk, target: BlockDevice, options: MirrorOptions = {}): Job {
  return diskJob('mirror', disk, options, (job) => mirrorBody(job, disk, planMirror(disk, target, options)))
}

/** A mirror into an image of its own. */
export function planMirror(disk: Disk, target: BlockDevice, options: MirrorOptions): MirrorPlan {
  return {
    options,
    target,
    base: (image) => (options.sync === 'top' ? image.backing : undefined),
    pivot: () => void disk.root.replace(target.handOver().driver),
  }
}

/** {@link mirror} for a job that has the disk already. */
export async function* mirrorBody(job: JobControl, disk: Disk, plan: MirrorPlan): AsyncGenerator<Progress, void, void> {
  const { options, target } = plan
  const { size } = disk
  const doing = `Cannot mirror ${disk.name}`
  if (target.readOnly) throw new BlockError('EROFS', `${doing}: the target is read-only`)
  if (target.size > size) {
    throw new BlockError('EINVAL', `${doing}: the target has ${target.size} bytes, the disk ${size}`)
  }
  if (target.size < size) await target.resize(size)
  const unit = options.granularity ?? 65536
  const dirty = new Granules(size, unit)
  const chunk = Math.max(unit, options.maxChunk ?? CHUNK)
  const buffers = new Buffers(chunk)
  const workers = new Workers(options.maxWorkers ?? 8)
  const targetPolicy: JobErrorPolicy = options.onTargetError ?? 'report'
  let copied = 0
  let pivoted = false
  const filter = await insertFilter(
    disk,
    (image) => new Track(image, dirty, options.copyMode === 'write-blocking' ? target : undefined),
  )
  const { image } = filter
  /** Copies granules, which are noted again if that fails. */
  const copy = async (at: number, length: number): Promise<void> => {
    try {
      await buffers.use((buffer) =>
        filter.copying(at, length, () => {
          dirty.remove(at, length)
          return copyRange(image, target, at, length, buffer, { ...options, targetIsZero: false })
        }),
      )
    } catch (error) {
      dirty.add(at, length)
      throw error
    }
    copied += length
    job.copied(length)
  }
  /** Makes the target the same while nothing is written. */
  const catchUp = async (): Promise<void> => {
    for (let next = dirty.next(0, chunk); next !== undefined; next = dirty.next(0, chunk)) {
      await copy(next.at, next.length)
    }
    await rescue(
      () => target.flush(),
      (error) => {
        throw new Failed(error, targetPolicy)
      },
    )
  }
  const progress = () => ({ done: copied, total: copied + dirty.bytes })
  try {
    if (options.sync !== 'none') yield* findWork(job, filter, plan, dirty, size)
    let at = 0
    let rounds = 0
    for (;;) {
      let failed = await workers.check(job)
      for (const error of filter.failures.splice(0)) {
        if (errnoOf(error) === 'ECANCELED') continue
        job.failed(error, targetPolicy)
        failed = true
      }
      if (failed) {
        yield progress()
        // What failed while the job was held is noted, and tried again like the rest.
        filter.failures = []
        continue
      }
      // What is left takes a moment; a writer that is faster than the copies would never let it be nothing.
      if (dirty.bytes <= LAST || rounds > ROUNDS) job.ready(true)
      const { completing } = job
      if (completing !== undefined && (dirty.bytes <= LAST || rounds > ROUNDS)) {
        await workers.all()
        try {
          pivoted = await disk.pause(async () => {
            await catchUp()
            if (completing.pivot === false) return false
            await plan.pivot(image)
            return true
          })
          break
        } catch (failure) {
          if (!(failure instanceof Failed)) throw failure
          job.failed(failure.error, failure.policy)
          yield progress()
          continue
        }
      }
      const next = dirty.next(at, job.slice(chunk))
      if (next !== undefined) {
        at = next.at + next.length
        await workers.room()
        workers.start(() => copy(next.at, next.length))
      } else if (!dirty.empty) {
        at = 0
        rounds++
        await workers.one()
      } else if (workers.busy) await workers.one()
      else {
        yield progress()
        await job.wait(
          new Promise<void>((resolve) => {
            filter.onWork = resolve
            if (!dirty.empty) resolve()
          }),
        )
      }
      yield progress()
    }
    yield progress()
  } finally {
    await workers.all()
    if (pivoted) await image.close()
    else await removeFilter(disk, image)
  }
}

/** Notes what there is to copy when the job begins. */
async function* findWork(
  job: JobControl,
  filter: Track,
  { base, options }: MirrorPlan,
  dirty: Granules,
  size: number,
): AsyncGenerator<Progress, void, void> {
  const floor = base(filter.image)
  for (let at = 0; at < size; ) {
    let found: { length: number; kind: string }
    try {
      found = await statusAbove(filter.image, floor, at, size - at)
    } catch (error) {
      job.failed(error, options.onSourceError ?? 'report')
      yield { done: 0, total: size }
      continue
    }
    const { length, kind } = found
    if (kind === 'data' || (kind === 'zero' && !options.targetIsZero)) dirty.add(at, length)
    at += length
    yield { done: 0, total: size }
  }
}
