/** A guest that writes, zeroes, discards and flushes, several requests at a time. */
import type { BlockDevice } from '../../src/block/device.ts'
import { bytesVec } from '../../src/block/iovec.ts'
import type { ImageDevice } from '../../src/block/mover.ts'
import type { Random } from '../random.ts'
import type { DiskModel } from './model.ts'
import type { Recorder } from './recorder.ts'

/** How often a guest does what, in relation to each other. */
export interface Mix {
  readonly write?: number
  readonly zero?: number
  readonly discard?: number
  readonly flush?: number
  /** Whole clusters, compressed. */
  readonly pack?: number
  /** Something else, while no other request is in flight. */
  readonly special?: number
}

export interface Guest {
  readonly disk: BlockDevice
  readonly recorder: Recorder
  readonly model: DiskModel
  readonly random: Random
  readonly mix: Mix
  readonly requests: number
  readonly depth: number
  readonly clusterSize: number
  /** Most sectors of a request. */
  readonly sectors?: number
  special?(): Promise<void>
}

/** Runs the guest. */
export async function runGuest(guest: Guest): Promise<void> {
  const { disk, recorder, model, random, mix, depth, clusterSize } = guest
  const kinds = (Object.keys(mix) as (keyof Mix)[]).flatMap((kind) => Array<keyof Mix>(mix[kind] ?? 0).fill(kind))
  const flying = new Set<Promise<void>>()
  const fly = (request: Promise<void>) => {
    const tracked = request.finally(() => flying.delete(tracked))
    flying.add(tracked)
  }
  for (let each = 0; each < guest.requests; each++) {
    while (flying.size >= depth) await Promise.race(flying)
    const kind = random.pick(kinds)
    if (kind === 'special') {
      await Promise.all(flying)
      await guest.special!()
      continue
    }
    if (kind === 'flush') {
      const start = recorder.now++
      fly(
        (async () => {
          await disk.flush()
          model.flushed(start, recorder.now++)
        })(),
      )
      continue
    }
    const unit = kind === 'pack' ? clusterSize : 512
    const at = unit * random.below(disk.size / unit)
    const most = kind === 'pack' ? 2 : random.below(4) === 0 ? (guest.sectors ?? 40) : 4
    const length = Math.min(disk.size - at, unit * random.between(1, most))
    if (!model.idle(at, length)) continue
    const { bytes, done } = model.begin(kind === 'pack' ? 'write' : kind, at, length, recorder.now++)
    fly(
      (async () => {
        if (kind === 'write') await disk.write(at, bytesVec(bytes))
        else if (kind === 'zero') await disk.zero(at, length, { unmap: random.below(2) === 0 })
        else if (kind === 'discard') await disk.discard(at, length)
        else await (disk.driver as ImageDevice).writePacked(at, bytesVec(bytes))
        done(recorder.now++)
      })(),
    )
  }
  await Promise.all(flying)
}
