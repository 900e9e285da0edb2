/** Puts an image on another backing file: what that shows otherwise is copied up first. */
import type { BlockDevice } from '../device.ts'
import { bytesVec } from '../iovec.ts'
import { readPadded } from '../mover.ts'
import { Job, type JobOptions } from './job.ts'

/** Longest range that is compared at once, bytes. */
const CHUNK = 1 << 20
/** What differs is found in units of this, bytes. */
const UNIT = 65536

/**
 * Writes into `top` all that it shows of its backing layer and would show otherwise over `next` (undefined: over nothing). Afterwards
 * its own backing file may be replaced by `next`.
 */
export function rebase(top: BlockDevice, next: BlockDevice | undefined, options: JobOptions = {}): Job {
  return new Job(
    'rebase',
    async function* (job) {
      const { size, backing } = top
      const old = new Uint8Array(CHUNK)
      const fresh = new Uint8Array(CHUNK)
      for (let at = 0; at < size; ) {
        const most = Math.min(size - at, CHUNK - (at % CHUNK))
        const found = await top.status(at, most)
        if (found.kind === 'hole') {
          const [a, b] = [old.subarray(0, found.length), fresh.subarray(0, found.length)]
          await show(backing, at, a)
          await show(next, at, b)
          for (let start = 0; start < found.length; ) {
            let end = start
            while (end < found.length && differs(a, b, at, end)) end = endOf(at, end, found.length)
            if (end > start) {
              await top.write(at + start, bytesVec(a.subarray(start, end)))
              job.copied(end - start)
            }
            start = end < found.length ? endOf(at, end, found.length) : end
          }
        }
        at += found.length
        yield { done: at, total: size }
      }
      await top.flush()
    },
    options,
  )
}

async function show(layer: BlockDevice | undefined, at: number, into: Uint8Array): Promise<void> {
  if (layer === undefined) into.fill(0)
  else await readPadded(layer, at, bytesVec(into))
}

/** End of the unit that byte `start` of a buffer for the bytes from `at` on is in. */
function endOf(at: number, start: number, length: number): number {
  return Math.min(start + UNIT - ((at + start) % UNIT), length)
}

function differs(a: Uint8Array, b: Uint8Array, at: number, start: number): boolean {
  for (let index = start; index < endOf(at, start, a.length); index++) if (a[index] !== b[index]) return true
  return false
}
