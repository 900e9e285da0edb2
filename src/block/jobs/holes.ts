/** What disks show where, down to the holes of the files that their images are in. */
import type { BlockDevice } from '../device.ts'
import type { Image, Mapping } from '../image.ts'
import { ImageDevice } from '../mover.ts'
import { after, type Now } from '../now.ts'

/** Asked once for each image. */
const answers = new WeakMap<Image, Promise<boolean>>()

function isPreallocated(image: Image): Now<boolean> {
  if (image.preallocated === undefined) return false
  let known = answers.get(image)
  if (known === undefined) {
    answers.set(image, (known = Promise.resolve(image.preallocated())))
    // A failure is no answer for the next one who asks.
    known.catch(() => answers.delete(image))
  }
  return known
}

/** Whether data of an image is a hole of its file, and so reads as zeroes; and how much of it is the same. */
export function fileHole(
  image: Image,
  found: Mapping & { kind: 'raw' },
): Now<{ readonly zero: boolean; readonly length: number }> {
  const place = found.file ?? image.file
  return after(isPreallocated(image), (look) => {
    if (!look) return { zero: false, length: found.length }
    if (found.at >= place.size) return { zero: true, length: found.length }
    const there = Math.min(found.length, place.size - found.at)
    return after(place.status(found.at, there), ({ kind, length }) => ({ zero: kind !== 'data', length }))
  })
}

/** What a disk shows: data of one of its layers, zeroes, or what its layer `base` shows there. */
export interface Shown {
  readonly length: number
  readonly kind: 'data' | 'zero' | 'base'
}

/** What the disk shows from `at` on, at most `length` bytes. */
export function shows(device: BlockDevice, at: number, length: number, base?: BlockDevice): Now<Shown> {
  const { driver } = device
  if (driver instanceof ImageDevice) {
    const { image } = driver
    return after(image.map(at, length), (found): Now<Shown> => {
      if (found.kind === 'raw') {
        return after(fileHole(image, found), ({ zero, length }) => ({ length, kind: zero ? 'zero' : 'data' }))
      }
      if (found.kind === 'hole') return below(device, at, found.length, base)
      return { length: found.length, kind: found.kind === 'zero' ? 'zero' : 'data' }
    })
  }
  return after(device.status(at, length), (found): Now<Shown> => {
    if (found.kind === 'hole') return below(device, at, found.length, base)
    return { length: found.length, kind: found.kind }
  })
}

function below({ backing }: BlockDevice, at: number, length: number, base: BlockDevice | undefined): Now<Shown> {
  if (backing === undefined) return { length, kind: 'zero' }
  if (backing === base) return { length, kind: 'base' }
  if (at >= backing.size) return { length, kind: 'zero' }
  return shows(backing, at, Math.min(length, backing.size - at), base)
}
