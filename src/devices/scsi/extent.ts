/** A run of blocks of a medium as the source or the sink of a data phase, with the block that failed in the sense data. */

import type { Disk } from '../../block/disk.ts'
import { errnoOf } from '../../block/error.ts'
import type { IoVec } from '../../block/iovec.ts'
import { after, type Now, repeat, rescue } from '../../block/now.ts'
import { conditionOf } from './failure.ts'
import { CheckCondition, type Condition, UNRECOVERED_READ_ERROR, WRITE_ERROR } from './sense.ts'
import type { DataSink, DataSource } from './transfer.ts'

/** Bytes that go to the disk as one request; more is split. */
export const REQUEST_LIMIT = 16 << 20

/** Where on a disk: bytes, in blocks of `block`. */
export interface Place {
  readonly disk: Disk
  readonly at: number
  readonly block: number
}

type Request = (at: number, part: IoVec) => Now<void>

const FORCED = { fua: true } as const

/** Runs `request` over all of `vector`, in pieces of up to {@link REQUEST_LIMIT}; where one fails, {@link findFault} finds the block. */
function inPieces(place: Place, at: number, vector: IoVec, request: Request, otherwise: Condition): Now<void> {
  const length = vector.byteLength
  if (length <= REQUEST_LIMIT) {
    return rescue(
      () => request(at, vector),
      (error) => findFault(place, at, vector, request, otherwise, error, 0),
    )
  }
  let done = 0
  return repeat(() => {
    const part = vector.slice(done, Math.min(done + REQUEST_LIMIT, length))
    const start = at + done
    const before = done
    done += part.byteLength
    const moved = rescue(
      () => request(start, part),
      (error) => findFault(place, start, part, request, otherwise, error, before),
    )
    return after(moved, () => done < length)
  })
}

/**
 * After a request that failed: halving finds the first block at fault. The CheckCondition has its LBA (SPC-4 4.5.3, SBC-3 4.18),
 * and what went well before it.
 */
function findFault(
  place: Place,
  at: number,
  vector: IoVec,
  request: Request,
  otherwise: Condition,
  error: unknown,
  before: number,
): Now<void> {
  if (errnoOf(error) === 'ECANCELED') throw error
  const { block } = place
  const { byteLength } = vector
  let reason = conditionOf(error, otherwise)
  let good = 0
  let bad = byteLength
  let lastTried = false
  const probe = (to: number): Now<boolean> =>
    rescue(
      () =>
        after(request(at + good, vector.slice(good, to)), () => {
          good = to
          return true
        }),
      (again) => {
        if (errnoOf(again) === 'ECANCELED') throw again
        reason = conditionOf(again, otherwise)
        bad = to
        return true
      },
    )
  const searched = repeat(() => {
    const first = Math.floor((at + good) / block)
    const blocks = Math.ceil((at + bad) / block) - first
    if (blocks > 1) return probe((first + Math.floor(blocks / 2)) * block - at)
    // All halves went well this time: the last block decides, once
    if (bad < byteLength || good === 0 || good === byteLength || lastTried) return false
    lastTried = true
    return probe(bad)
  })
  return after(searched, () => {
    if (good === byteLength) return
    throw new CheckCondition(reason, { information: Math.floor((at + good) / block), moved: before + good })
  })
}

/** Blocks to be read. */
export class ReadExtent implements DataSource {
  readonly held = false
  readonly length: number
  readonly #place: Place

  constructor(place: Place, length: number) {
    this.#place = place
    this.length = length
  }

  read(at: number, into: IoVec): Now<void> {
    const place = this.#place
    return inPieces(place, place.at + at, into, (from, part) => place.disk.read(from, part), UNRECOVERED_READ_ERROR)
  }
}

/** Blocks to be written; `written` is what is left to do when all are there. */
export class WriteExtent implements DataSink {
  readonly held = false
  readonly length: number
  readonly block: number
  readonly #place: Place
  readonly #fua: boolean
  readonly #written: (() => Now<void>) | undefined

  constructor(place: Place, length: number, fua: boolean, written?: () => Now<void>) {
    this.#place = place
    this.length = length
    this.block = place.block
    this.#fua = fua
    this.#written = written
  }

  write(at: number, from: IoVec): Now<void> {
    const place = this.#place
    const options = this.#fua ? FORCED : undefined
    return inPieces(place, place.at + at, from, (to, part) => place.disk.write(to, part, options), WRITE_ERROR)
  }

  end(): Now<void> {
    return this.#written?.()
  }
}
