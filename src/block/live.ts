/** Jobs on a running disk whose files are named: what people know from QMP, in camelCase. */
import { host } from '#host'
import { asDevice, BlockDevice } from './device.ts'
import type { Disk } from './disk.ts'
import { BlockError } from './error.ts'
import type { Bitmaps } from './formats/qcow2/bitmaps.ts'
import { Qcow2Image } from './formats/qcow2/image.ts'
import { type BackupOptions, backupBody } from './jobs/backup.ts'
import { Borrowed, knownLayer, nameFor, reopen } from './jobs/chain.ts'
import type { Job } from './jobs/job.ts'
import { diskJob } from './jobs/live.ts'
import { type MirrorOptions, mirrorBody, planMirror } from './jobs/mirror.ts'
import * as jobs from './jobs/snapshot.ts'
import { ImageDevice } from './mover.ts'
import { createImage, openImage } from './open.ts'

export { type CommitOptions, commit } from './jobs/livecommit.ts'
export { type StreamOptions, stream } from './jobs/stream.ts'

/** Where a copy goes. */
export interface TargetOptions {
  /** A file, which the job opens and closes; or an open image, which stays open unless the disk goes on with it. */
  target: string | BlockDevice
  /** The file's format; default that of the disk's image. */
  format?: string
  /** Whether the file is made anew (`absolute-paths`, the default), or is there, of the right size (`existing`). */
  mode?: 'absolute-paths' | 'existing'
  /** Options for making it, such as `clusterSize`. */
  create?: Readonly<Record<string, unknown>>
}

export interface BackupDiskOptions extends Omit<BackupOptions, 'freeze'>, TargetOptions {
  /** Name of the bitmap for `sync: 'incremental'` and `'bitmap'`. */
  bitmap?: string
}

export interface MirrorDiskOptions extends MirrorOptions, TargetOptions {}

export interface SnapshotOptions {
  /** The file that the disk goes on in. */
  snapshotFile: string
  /** Its format; default `qcow2`. */
  format?: string
  /** Whether it is made anew (`absolute-paths`, the default), or is there, empty and over the disk's image (`existing`). */
  mode?: 'absolute-paths' | 'existing'
  /** Options for making it. */
  create?: Readonly<Record<string, unknown>>
}

interface Target {
  readonly device: BlockDevice
  readonly isZero: boolean
  /** What the target has for its backing file while the disk has it. */
  readonly below: BlockDevice | undefined
  /** Whether it was opened here. */
  readonly own: boolean
}

/** Opens the target, over `backing` of the disk if it is to be. */
async function openTarget(
  disk: Disk,
  options: TargetOptions & { targetIsZero?: boolean },
  backing: BlockDevice | undefined,
): Promise<Target> {
  const { target, mode } = options
  const doing = `Cannot copy ${disk.name}`
  if (typeof target !== 'string') {
    if (backing !== undefined) {
      throw new BlockError('EINVAL', `${doing} over its backing file into an open image: name a file for the target`)
    }
    return { device: asDevice(target), isZero: options.targetIsZero ?? false, below: undefined, own: false }
  }
  const format = options.format ?? knownLayer(disk.root, `${doing} into ${target}`).format
  if (mode !== 'existing') {
    const over = backing === undefined ? {} : backingOptions(target, backing, doing)
    await createImage(target, format, disk.size, { ...options.create, ...over })
  }
  const below = backing === undefined ? undefined : new BlockDevice(new Borrowed(backing))
  const device = await openImage(target, {
    format,
    cache: disk.cache,
    ...(below === undefined ? {} : { backing: below }),
  })
  const isZero = options.targetIsZero ?? (mode !== 'existing' && backing === undefined)
  return { device, isZero, below, own: true }
}

function backingOptions(
  target: string,
  backing: BlockDevice,
  doing: string,
): { backingFile: string; backingFmt: string } {
  const { name, format } = nameFor(host.resolveName(target), backing, doing)
  return { backingFile: name, backingFmt: format }
}

/** Backs the disk up into a file or an open image: the disk as it was at the job's first step. */
export function backup(disk: Disk, options: BackupDiskOptions): Job {
  return diskJob('backup', disk, options, async function* (job) {
    const { bitmap } = options
    const target = await openTarget(disk, options, options.sync === 'top' ? disk.root.backing : undefined)
    try {
      const freeze = async (image: BlockDevice) => {
        const bitmaps = bitmapsIn(image, disk.name)
        const frozen = await bitmaps.freeze(bitmap!)
        return { ...frozen, thaw: (keep: Uint8Array) => bitmaps.thaw(bitmap!, keep) }
      }
      yield* backupBody(job, disk, target.device, {
        ...options,
        targetIsZero: target.isZero,
        ...(bitmap === undefined ? {} : { freeze }),
      })
    } finally {
      if (target.own) await target.device.close()
    }
  })
}

/**
 * Mirrors the disk into a file or an open image. When the two are almost the same the job is `ready`, and follows; `complete()` lets the
 * disk go on with the target, or, with `pivot: false`, leaves the target as the disk was at that moment.
 */
export function mirror(disk: Disk, options: MirrorDiskOptions): Job {
  return diskJob('mirror', disk, options, async function* (job) {
    const { sync } = options
    const { root } = disk
    const backing = sync === 'top' ? root.backing : sync === 'none' ? root : undefined
    const target = await openTarget(disk, options, backing)
    try {
      const plan = planMirror(disk, target.device, { ...options, targetIsZero: target.isZero })
      yield* mirrorBody(job, disk, {
        ...plan,
        async pivot(image) {
          const { below } = target
          if (below !== undefined) {
            const left = sync === 'none' ? image : image.backing!
            const moved = left.handOver()
            try {
              await reopen(moved, true, `Cannot mirror ${disk.name}`)
            } catch (error) {
              left.replace(moved.driver)
              throw error
            }
            below.replace(moved.driver)
          }
          await plan.pivot(image)
        },
      })
    } finally {
      if (target.own) await target.device.close()
    }
  })
}

/** Takes an external snapshot: the disk's image stays as it is now, read-only, and the disk goes on in a new file over it. */
export function snapshot(disk: Disk, options: SnapshotOptions): Job {
  const { snapshotFile, mode, create } = options
  const format = options.format ?? 'qcow2'
  return jobs.snapshot(disk, async (image) => {
    const doing = `Cannot take a snapshot of ${disk.name}`
    if (mode !== 'existing') {
      await createImage(snapshotFile, format, disk.size, { ...create, ...backingOptions(snapshotFile, image, doing) })
    }
    const below = new BlockDevice(new Borrowed(image))
    return { image: await openImage(snapshotFile, { format, cache: disk.cache, backing: below }), below }
  })
}

/** A dirty bitmap as its user knows it. */
export interface DirtyBitmap {
  readonly name: string
  /** Bytes that one bit stands for. */
  readonly granularity: number
  /** Whether it follows writes. */
  readonly recording: boolean
  /** Whether a job works from it. */
  readonly busy: boolean
  /** It was not saved properly: it can only be removed. */
  readonly inconsistent: boolean
}

/**
 * The dirty bitmaps of a disk's qcow2 image. They belong to that image, as in QEMU: after a snapshot, or when a disk goes on with its
 * mirror, they are in the image that was left, as they were then.
 */
export interface DirtyBitmaps {
  list(): readonly DirtyBitmap[]
  /** Adds an empty one; `granularity` is a power of two from 512, default 64 KiB. */
  add(name: string, options?: { granularity?: number; disabled?: boolean }): Promise<void>
  remove(name: string): Promise<void>
  clear(name: string): Promise<void>
  enable(name: string): Promise<void>
  disable(name: string): Promise<void>
  /** Sets in `target` what is set in the others. */
  merge(target: string, names: readonly string[]): Promise<void>
}

/** The dirty bitmaps of a disk; ENOTSUP unless its image is a qcow2 image. */
export function dirtyBitmaps(disk: Disk): DirtyBitmaps {
  const own = () => bitmapsIn(disk.root, disk.name)
  own()
  return {
    list: () =>
      own().list.map(({ name, granularityBits, flags }) => ({
        name,
        granularity: 2 ** granularityBits,
        recording: (flags & 2) !== 0,
        busy: own().isFrozen(name),
        inconsistent: (flags & 1) !== 0,
      })),
    add: (name, options = {}) => own().add(name, options.granularity, options.disabled !== true),
    remove: (name) => own().remove(name),
    clear: (name) => own().clear(name),
    enable: (name) => own().enable(name, true),
    disable: (name) => own().enable(name, false),
    async merge(target, names) {
      for (const name of names) {
        const bits = await own().bits(name)
        const { granularityBits } = own().list.find((entry) => entry.name === name)!
        await own().merge(target, bits, 2 ** granularityBits)
      }
    },
  }
}

/** The bitmaps of the image in a device, below a job's filter if there is one. */
function bitmapsIn(device: BlockDevice, name: string): Bitmaps {
  const { driver } = device
  if (driver instanceof ImageDevice && driver.image instanceof Qcow2Image) return driver.image.bitmaps
  if ('image' in driver && driver.image instanceof BlockDevice) return bitmapsIn(driver.image, name)
  throw new BlockError('ENOTSUP', `Cannot use bitmaps of ${name}: its image is no qcow2 image`)
}
