/** Copies persistent bitmaps from one image to another. */
import { errnoOf } from '../../block/error.ts'
import { BITMAP_AUTO, BITMAP_IN_USE } from '../../block/formats/qcow2/bitmaptable.ts'
import type { Qcow2Image } from '../../block/formats/qcow2/image.ts'
import { type Console, Failure, report } from './console.ts'
import type { Opened } from './open.ts'
import { strerror } from './reasons.ts'

/** All bitmaps of a qcow2 image; with `skipBroken` those that were not saved properly are left out, else they are refused. */
export async function copyBitmaps(
  source: Opened,
  target: Opened,
  skipBroken: boolean,
  console: Console,
): Promise<void> {
  const from = (source.image as Qcow2Image).bitmaps
  const to = (target.image as Qcow2Image).bitmaps
  for (const { name, flags, granularityBits } of from.list) {
    if (flags & BITMAP_IN_USE) {
      if (!skipBroken) {
        throw new Failure(
          `Cannot copy inconsistent bitmap '${name}'\nTry --skip-broken-bitmaps, or use 'qemu-img bitmap --remove'`,
        )
      }
      report(console, `warning: Skipping inconsistent bitmap '${name}'`)
      continue
    }
    try {
      await to.add(name, 2 ** granularityBits, (flags & BITMAP_AUTO) !== 0)
      await to.merge(name, await from.bits(name), 2 ** granularityBits)
    } catch (error) {
      throw new Failure(`Failed to create bitmap ${name}: ${strerror({ code: errnoOf(error) })}`)
    }
  }
}
