/** Stream: the disk's image takes in what the images below it hold, which are then not needed any more. */
import type { BlockDevice, WriteOptions, ZeroOptions } from '../device.ts'
import type { Disk } from '../disk.ts'
import { BlockError } from '../error.ts'
import { Filter } from '../filter.ts'
import { bytesVec, type IoVec } from '../iovec.ts'
import { layerOf } from '../layer.ts'
import type { Now } from '../now.ts'
import { RangeLock } from '../rangelock.ts'
import { findLayer, imageOf, knownLayer, nameFor, statusAbove } from './chain.ts'
import type { Job, JobControl, JobErrorPolicy, Progress } from './job.ts'
import { type DiskJobOptions, diskJob, insertFilter, removeFilter } from './live.ts'

export interface StreamOptions extends Pick<DiskJobOptions, 'speed' | 'signal' | 'clock' | 'maxChunk'> {
  /** The image to keep, by its file; what is above it, below the disk's own, is taken in. Default: none is kept. */
  base?: BlockDevice | string
  /** What the header is to say of the base; default its file, relative to the image's own if both are in one folder. */
  backingFile?: string
  /** Default `report`; with `ignore` the job goes on, fails at its end, and the images below stay. */
  onError?: JobErrorPolicy
}

const CHUNK = 512 << 10

/** Keeps writes away from what is being copied up: old bytes must not come over new ones. */
class CopyUp extends Filter {
  readonly name = 'stream'
  readonly image: BlockDevice
  readonly lock = new RangeLock()

  constructor(image: BlockDevice) {
    super(image)
    this.image = image
  }

  override write(at: number, from: IoVec, options?: WriteOptions): Now<void> {
    return this.lock.shared(at, from.byteLength, () => this.next.write(at, from, options))
  }

  override zero(at: number, length: number, options?: ZeroOptions): Now<void> {
    return this.lock.shared(at, length, () => this.next.zero(at, length, options))
  }

  override discard(at: number, length: number): Now<void> {
    return this.lock.shared(at, length, () => this.next.discard(at, length))
  }
}

/** Streams into the disk's image, whose header then names the base, or no backing file. */
export function stream(disk: Disk, options: StreamOptions = {}): Job {
  return diskJob('stream', disk, options, (job) => streamBody(job, disk, options))
}

async function* streamBody(job: JobControl, disk: Disk, options: StreamOptions): AsyncGenerator<Progress, void, void> {
  const doing = `Cannot stream into ${disk.name}`
  const { size } = disk
  if (disk.readOnly) throw new BlockError('EROFS', `${doing}: it is read-only`)
  const base = options.base === undefined ? undefined : findLayer(disk.root, options.base, 'base')
  if (base === disk.root) throw new BlockError('EINVAL', `${doing}: its base is itself`)
  if (disk.root.backing === undefined) return
  imageOf(disk.root, doing)
  const names =
    base === undefined
      ? undefined
      : options.backingFile === undefined
        ? nameFor(layerOf(disk.root)?.file, base, doing)
        : { name: options.backingFile, format: knownLayer(base, doing).format }
  const filter = await insertFilter(disk, (image) => new CopyUp(image))
  const { image, lock } = filter
  const buffer = new Uint8Array(options.maxChunk ?? CHUNK)
  let failure: unknown
  let pivoted = false
  /** Takes in what the layers between have at `at`; answers how far that goes. */
  const take = async (at: number): Promise<number> => {
    const most = Math.min(job.slice(buffer.length), size - at)
    const own = await image.status(at, size - at)
    if (own.kind !== 'hole') return own.length
    const below = image.backing!
    if (below === base) return own.length
    const { length, kind } = await statusAbove(below, base, at, own.length)
    if (kind === 'hole' || (kind === 'zero' && base === undefined)) return length
    const taken = Math.min(length, kind === 'zero' ? 64 << 20 : most)
    await lock.exclusive(at, taken, async () => {
      // What was written before the lock was had is newer.
      for (let done = at; done < at + taken; ) {
        const now = await image.status(done, at + taken - done)
        if (now.kind === 'hole') {
          if (kind === 'zero') await image.zero(done, now.length, { unmap: true })
          else {
            const bytes = bytesVec(buffer.subarray(0, now.length))
            await image.read(done, bytes)
            await image.write(done, bytes)
            job.copied(now.length)
          }
        }
        done += now.length
      }
    })
    return taken
  }
  try {
    for (let at = 0; at < size; ) {
      try {
        at += await take(at)
      } catch (error) {
        const policy = options.onError ?? 'report'
        job.failed(error, policy)
        if (policy === 'ignore') {
          failure ??= error
          at = Math.min(size, at + buffer.length)
        }
      }
      yield { done: at, total: size }
    }
    if (failure !== undefined) throw failure
    await image.flush()
    const old = await disk.pause(async () => {
      const below = image.backing!
      const device = base?.handOver()
      try {
        await imageOf(image, doing).changeBacking(device === undefined ? undefined : { ...names!, device })
      } catch (error) {
        if (device !== undefined) base!.replace(device.driver)
        throw error
      }
      disk.root.replace(image.driver)
      pivoted = true
      return below
    })
    await old.close()
  } finally {
    if (!pivoted) await removeFilter(disk, image)
  }
}
