/** Commit: what an image holds goes down into one below it, and the images between are not needed any more. */
import type { BlockDevice } from '../device.ts'
import type { Disk } from '../disk.ts'
import { BlockError } from '../error.ts'
import { layerOf } from '../layer.ts'
import { findLayer, imageOf, knownLayer, layers, nameFor, reopen, statusAbove } from './chain.ts'
import type { Job, JobControl, JobErrorPolicy, Progress } from './job.ts'
import { Buffers, copyRange, type DiskJobOptions, diskJob, Failed } from './live.ts'
import { mirrorBody } from './mirror.ts'

export interface CommitOptions extends DiskJobOptions {
  /** The highest image to commit, by its file; default the disk's own, which is then the job `complete()` ends. */
  top?: BlockDevice | string
  /** The image that takes it in; default the lowest. */
  base?: BlockDevice | string
  /** What the header of the image above `top` is to say of the base; default its file. */
  backingFile?: string
  /** Default `report`. */
  onError?: JobErrorPolicy
}

const CHUNK = 1 << 20

/**
 * Commits into `base`. The disk's own image is mirrored into it: when the job is `ready`, `complete()` lets the disk go on with the
 * base. An image below is copied into it, and the one above it then names the base.
 */
export function commit(disk: Disk, options: CommitOptions = {}): Job {
  return diskJob('commit', disk, options, (job) => commitBody(job, disk, options))
}

async function* commitBody(job: JobControl, disk: Disk, options: CommitOptions): AsyncGenerator<Progress, void, void> {
  const doing = `Cannot commit ${disk.name}`
  const { root } = disk
  const chain = [...layers(root)]
  const top = options.top === undefined ? root : findLayer(root, options.top, 'top')
  const base = options.base === undefined ? chain.at(-1)! : findLayer(root, options.base, 'base')
  const topAt = chain.indexOf(top)
  const baseAt = chain.indexOf(base)
  if (baseAt <= topAt) throw new BlockError('EINVAL', `${doing}: ${base.name} is not below ${top.name}`)
  /** The layer number `index`, whichever device it is in now; the disk's image may be below a filter. */
  const layer = (index: number, image = root) => [...layers(image)][index]!
  const wasReadOnly = base.readOnly
  if (base.size > top.size) {
    throw new BlockError('ENOTSUP', `${doing}: the base has ${base.size} bytes, more than ${top.name} above it`)
  }
  await disk.pause(() => reopen(base, false, doing))
  let over = false
  try {
    if (topAt === 0) {
      const policy = options.onError ?? 'report'
      yield* mirrorBody(job, disk, {
        options: { ...options, sync: 'top', onSourceError: policy, onTargetError: policy },
        target: base,
        base: () => base,
        pivot(_image) {
          root.replace(base.handOver().driver)
          over = true
        },
      })
    } else {
      yield* copyDown(job, top, base, options)
      await disk.pause(async () => {
        const above = layer(topAt - 1)
        const names =
          options.backingFile === undefined
            ? nameFor(layerOf(above)?.file, base, doing)
            : { name: options.backingFile, format: knownLayer(base, doing).format }
        const closed = above.readOnly
        if (closed) await reopen(above, false, doing)
        const old = layer(topAt)
        const lowest = layer(baseAt)
        const device = lowest.handOver()
        try {
          await imageOf(above, doing).changeBacking({ ...names, device })
          over = true
        } catch (error) {
          lowest.replace(device.driver)
          throw error
        } finally {
          if (closed) await reopen(above, true, doing)
        }
        await old.close()
        if (wasReadOnly) await reopen(layer(topAt), true, doing)
      })
    }
  } finally {
    if (!over && wasReadOnly) await disk.pause(() => reopen(layer(baseAt), true, doing))
  }
}

/** Copies what the layers from `top` down to `base` hold into `base`. */
async function* copyDown(
  job: JobControl,
  top: BlockDevice,
  base: BlockDevice,
  options: CommitOptions,
): AsyncGenerator<Progress, void, void> {
  const { size } = top
  const policy = options.onError ?? 'report'
  if (base.size < size) await base.resize(size)
  const chunk = options.maxChunk ?? CHUNK
  const buffers = new Buffers(chunk)
  for (let at = 0; at < size; ) {
    try {
      const { length, kind } = await statusAbove(top, base, at, size - at)
      const part = Math.min(length, job.slice(chunk))
      if (kind !== 'hole') {
        await buffers.use((buffer) =>
          copyRange(top, base, at, part, buffer, { onSourceError: policy, onTargetError: policy }),
        )
        job.copied(part)
      }
      at += kind === 'hole' ? length : part
    } catch (failure) {
      const error = failure instanceof Failed ? failure.error : failure
      // Left out it would be lost: it is tried until it works.
      job.failed(error, policy)
    }
    yield { done: at, total: size }
  }
  await base.flush()
}
