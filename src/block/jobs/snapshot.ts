/** External snapshot: the disk goes on in a new image over the one it had. */
import type { BlockDevice } from '../device.ts'
import type { Disk } from '../disk.ts'
import { BlockError } from '../error.ts'
import { reopen } from './chain.ts'
import type { Job, Progress } from './job.ts'
import { diskJob } from './live.ts'

/** A new image that stands ready to be written, over `below`. */
export interface Overlay {
  readonly image: BlockDevice
  /** What the new image takes for its backing file; its driver becomes that of the disk's image. */
  readonly below: BlockDevice
}

/**
 * Takes a snapshot: the disk's image is from then on read-only, as it was at that moment, with all that was written durable, and the
 * disk goes on in the overlay.
 */
export function snapshot(disk: Disk, makeOverlay: (image: BlockDevice) => Promise<Overlay>): Job {
  return diskJob('snapshot', disk, {}, () => snapshotBody(disk, makeOverlay))
}

async function* snapshotBody(
  disk: Disk,
  makeOverlay: (image: BlockDevice) => Promise<Overlay>,
): AsyncGenerator<Progress, void, void> {
  const doing = `Cannot take a snapshot of ${disk.name}`
  if (disk.readOnly) throw new BlockError('EROFS', `${doing}: it is read-only`)
  const { image, below } = await makeOverlay(disk.root)
  try {
    if (image.size !== disk.size) {
      throw new BlockError('EINVAL', `${doing}: ${image.name} has ${image.size} bytes, the disk ${disk.size}`)
    }
    await disk.pause(async () => {
      const old = disk.root.handOver()
      try {
        // Closing it writes all that it has in memory, its bitmaps too, and lets others read it.
        await reopen(old, true, doing)
      } catch (error) {
        disk.root.replace(old.driver)
        throw error
      }
      below.replace(old.driver)
      disk.root.replace(image.handOver().driver)
    })
  } catch (error) {
    await image.close()
    throw error
  }
  yield { done: 1, total: 1 }
}
