/** Backup: a copy of the disk as it was when the job began, while its user goes on writing. */
import type { BlockDevice, WriteOptions, ZeroOptions } from '../device.ts'
import type { Disk } from '../disk.ts'
import { BlockError } from '../error.ts'
import { Filter } from '../filter.ts'
import type { IoVec } from '../iovec.ts'
import { after, type Now, rescue } from '../now.ts'
import { RangeLock } from '../rangelock.ts'
import { statusAbove } from './chain.ts'
import { Granules } from './granules.ts'
import type { Job, JobControl, Progress } from './job.ts'
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

/** Which parts of the disk a backup copies. */
export type BackupSync = 'full' | 'top' | 'none' | 'incremental' | 'bitmap'

/** A bitmap that a backup takes its work from, frozen until the backup says how it ended. */
export interface FrozenBitmap {
  /** Bytes that one bit stands for. */
  readonly granularity: number
  /** A bit for each of them, the first in the lowest. */
  readonly bits: Uint8Array
  /** Lets it go with the bits `keep` set, and what was written since. */
  thaw(keep: Uint8Array): Promise<void>
}

export interface BackupOptions extends DiskJobOptions, ErrorPolicies {
  /** `full` (default), `top`: what the image itself holds, `none`: only what is overwritten meanwhile, until it is canceled. */
  sync?: BackupSync
  /** What fails when the old bytes cannot be saved before the user's write: the backup (default), or that write. */
  onCbwError?: 'break-snapshot' | 'break-guest-write'
  /** The target is all zeroes already. */
  targetIsZero?: boolean
  /** Takes the bitmap of the disk's image for `incremental` and `bitmap`, while no request is under way. */
  freeze?(image: BlockDevice): Promise<FrozenBitmap>
  /** When the bitmap is cleared: default `on-success`; of what was copied `always`, or `never`. */
  bitmapMode?: 'on-success' | 'always' | 'never'
}

const CHUNK = 1 << 20

/** Saves what is there before it is overwritten. */
class CopyBeforeWrite extends Filter {
  readonly name = 'copy-before-write'
  readonly todo: Granules
  readonly image: BlockDevice
  readonly #copy: (at: number, length: number) => Promise<void>
  readonly #lock = new RangeLock()
  readonly #broken: (error: unknown) => void
  /** Whether the copy is lost, and writes need not wait for it. */
  off = false

  constructor(
    next: BlockDevice,
    todo: Granules,
    copy: (source: BlockDevice, at: number, length: number) => Promise<void>,
    broken: (error: unknown) => void,
  ) {
    super(next)
    this.image = next
    this.todo = todo
    this.#copy = (at, length) => copy(next, at, length)
    this.#broken = broken
  }

  override write(at: number, from: IoVec, options?: WriteOptions): Now<void> {
    return after(this.#before(at, from.byteLength), () => this.next.write(at, from, options))
  }

  override zero(at: number, length: number, options?: ZeroOptions): Now<void> {
    return after(this.#before(at, length), () => this.next.zero(at, length, options))
  }

  override discard(at: number, length: number): Now<void> {
    return after(this.#before(at, length), () => this.next.discard(at, length))
  }

  /** Copies what is still to be copied of the range, which nobody writes meanwhile. */
  save(at: number, length: number): Now<void> {
    return this.#lock.exclusive(at, length, async () => {
      for (let next = this.todo.next(at, length); next !== undefined && next.at < at + length; ) {
        const size = Math.min(next.at + next.length, at + length) - next.at
        await this.#copy(next.at, size)
        this.todo.remove(next.at, size)
        next = this.todo.next(next.at + size, length)
      }
    })
  }

  #before(at: number, length: number): Now<void> {
    if (this.off || !this.todo.touches(at, length)) return
    const whole = this.todo.whole(at, length)
    return rescue(() => this.save(whole.at, whole.length), this.#broken)
  }
}

/**
 * Backs the disk up into `target`, which stays open. What is overwritten is copied first, so the copy is the disk of one moment:
 * that of the job's first step.
 */
export function backup(disk: Disk, target: BlockDevice, options: BackupOptions = {}): Job {
  return diskJob('backup', disk, options, (job) => backupBody(job, disk, target, options))
}

/** {@link backup} for a job that has the disk already. */
export async function* backupBody(
  job: JobControl,
  disk: Disk,
  target: BlockDevice,
  options: BackupOptions,
): AsyncGenerator<Progress, void, void> {
  const sync = options.sync ?? 'full'
  const doing = `Cannot back ${disk.name} up`
  if (target.readOnly) throw new BlockError('EROFS', `${doing}: the target is read-only`)
  if (target.size < disk.size) {
    throw new BlockError('EINVAL', `${doing}: the target has ${target.size} bytes, the disk ${disk.size}`)
  }
  const byBitmap = sync === 'incremental' || sync === 'bitmap'
  if (byBitmap !== (options.freeze !== undefined)) {
    throw new BlockError('EINVAL', `${doing}: sync=${sync} ${byBitmap ? 'needs a' : 'takes no'} bitmap`)
  }
  const { size } = disk
  const unit = options.granularity ?? Math.max(65536, target.discardGranularity)
  const todo = new Granules(size, unit)
  const chunk = Math.max(unit, options.maxChunk ?? CHUNK)
  const buffers = new Buffers(chunk)
  const workers = new Workers(options.maxWorkers ?? 8)
  let broken: unknown
  let bitmap: FrozenBitmap | undefined
  let copied = 0
  let success = false
  const copy = (source: BlockDevice, at: number, length: number): Promise<void> =>
    buffers.use((buffer) =>
      after(copyRange(source, target, at, length, buffer, options), () => {
        copied += length
        job.copied(length)
      }),
    )
  const onBroken = (failure: unknown) => {
    const error = failure instanceof Failed ? failure.error : failure
    if (options.onCbwError === 'break-guest-write') throw error
    broken ??= error
    filter.off = true
    breaks()
  }
  let breaks = () => {}
  const breaking = new Promise<void>((resolve) => {
    breaks = resolve
  })
  const filter = await insertFilter(disk, async (image) => {
    if (options.freeze !== undefined) {
      bitmap = await options.freeze(image)
      addBits(todo, bitmap)
    } else todo.add(0, size)
    return new CopyBeforeWrite(image, todo, copy, onBroken)
  })
  try {
    const below = filter.image.backing
    if (sync === 'top' && below !== undefined) yield* leaveOut(filter.image, below, 'hole', todo, size)
    if (sync === 'full' && options.targetIsZero) yield* leaveOut(filter.image, undefined, 'zero', todo, size)
    const total = () => copied + todo.bytes
    for (let at = 0; broken === undefined; ) {
      if (await workers.check(job)) {
        yield { done: copied, total: total() }
        continue
      }
      if (sync === 'none') {
        yield { done: copied, total: size }
        await job.wait(breaking)
        continue
      }
      const next = todo.next(at, job.slice(chunk))
      if (next !== undefined) {
        at = next.at + next.length
        await workers.room()
        workers.start(async () => filter.save(next.at, next.length))
      } else if (workers.busy) await workers.one()
      else if (todo.empty) break
      else at = 0
      yield { done: copied, total: total() }
    }
    if (broken !== undefined) throw broken
    yield { done: copied, total: copied }
    await target.flush()
    success = true
  } finally {
    await workers.all()
    await removeFilter(disk, filter.image)
    const mode = sync === 'incremental' ? 'on-success' : (options.bitmapMode ?? 'on-success')
    await bitmap?.thaw(leftBits(bitmap, mode, success, todo))
  }
}

/** Takes out what need not be copied; what is overwritten meanwhile is copied all the same. */
async function* leaveOut(
  top: BlockDevice,
  floor: BlockDevice | undefined,
  kind: 'hole' | 'zero',
  todo: Granules,
  size: number,
): AsyncGenerator<Progress, void, void> {
  for (let at = 0; at < size; ) {
    const found = await statusAbove(top, floor, at, size - at)
    if (found.kind === kind) todo.remove(at, found.length)
    at += found.length
    yield { done: 0, total: size }
  }
}

/** The bits that stay set in the bitmap that the backup began with. */
function leftBits({ bits, granularity }: FrozenBitmap, mode: string, success: boolean, todo: Granules): Uint8Array {
  if (mode === 'never' || (mode === 'on-success' && !success)) return bits
  const left = new Uint8Array(bits.length)
  if (success) return left
  for (let index = 0; index < bits.length * 8; index++) {
    const set = (bits[index >> 3]! >> (index & 7)) & 1
    if (set && todo.touches(index * granularity, granularity)) left[index >> 3]! |= 1 << (index & 7)
  }
  return left
}

function addBits(todo: Granules, { bits, granularity }: FrozenBitmap): void {
  for (let index = 0; index < bits.length * 8; index++) {
    if ((bits[index >> 3]! >> (index & 7)) & 1) todo.add(index * granularity, granularity)
  }
}
