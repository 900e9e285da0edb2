/** Which of a controller's places each drive gets. */
import { BlockError } from '../../block/error.ts'

/** What a place is chosen by. */
export interface Placed {
  readonly index?: number
  readonly media?: 'disk' | 'cdrom'
}

/**
 * A place for each drive: the one it asks for, else the first free one of `places`, or of `discPlaces` for a CD-ROM drive. Throws
 * a BlockError for a place that is taken or does not exist, and when they are all taken; `what` is what a place is called.
 */
export function choosePlaces(
  drives: readonly Placed[],
  places: readonly number[],
  discPlaces: readonly number[],
  what: string,
): number[] {
  const taken = new Set<number>()
  const chosen: number[] = []
  for (const [at, { index }] of drives.entries()) {
    if (index === undefined) continue
    if (taken.has(index)) throw new BlockError('EBUSY', `Cannot attach a drive at ${what} ${index}: it is taken`)
    if (!places.includes(index)) {
      throw new BlockError('EINVAL', `Cannot attach a drive at ${what} ${index}: there are ${places.join(', ')}`)
    }
    taken.add(index)
    chosen[at] = index
  }
  for (const [at, { index, media }] of drives.entries()) {
    if (index !== undefined) continue
    const free = (media === 'cdrom' ? discPlaces : places).find((place) => !taken.has(place))
    if (free === undefined) {
      throw new BlockError('ENOSPC', `Cannot attach ${drives.length} drives: there are ${places.length} ${what}s`)
    }
    taken.add(free)
    chosen[at] = free
  }
  return chosen
}
