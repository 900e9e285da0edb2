/** What an image and its chain hold where: the questions that map, compare, convert, rebase and measure ask. */
import { fileHole } from '../../block/jobs/holes.ts'
import { after, type Now, repeat } from '../../block/now.ts'
import type { Opened } from './open.ts'

/** One run of a disk, and where in the chain its bytes come from. */
export interface Run {
  readonly start: number
  readonly length: number
  /** 0: the image itself, 1: its backing file, … */
  readonly depth: number
  /** Some layer has it: not only unallocated in all of them. */
  readonly present: boolean
  readonly zero: boolean
  readonly data: boolean
  /** Where it is in `file`, if it is there as it is. */
  readonly offset?: number
  /** Compressed: data that is nowhere as it is. */
  readonly compressed: boolean
  readonly layer: Opened
}

/** What the chain holds from `at` on, at most `length` bytes: the first extent, down to the layer that has something. */
export function statusAbove(top: Opened, at: number, length: number): Now<Run> {
  return look(top, 0, at, length, at)
}

function look(layer: Opened, depth: number, at: number, length: number, start: number): Now<Run> {
  const { device, image } = layer
  const run = { start, length, depth, layer, compressed: false }
  const wanted = Math.min(length, device.size - at)
  if (image === undefined) {
    return after(device.status(at, wanted), (found) => {
      const data = found.kind === 'data'
      return { ...run, length: found.length, present: true, zero: !data, data, offset: found.at ?? at }
    })
  }
  return after(image.map(at, wanted), (found): Now<Run> => {
    const here = { ...run, length: found.length }
    switch (found.kind) {
      case 'raw':
        return after(fileHole(image, found), ({ zero, length }) => ({
          ...run,
          length,
          present: true,
          zero,
          data: true,
          ...(elsewhere(layer) ? {} : { offset: found.at }),
        }))
      case 'packed':
        return { ...here, present: true, zero: false, data: true, compressed: true }
      case 'zero':
        return { ...here, present: true, zero: true, data: false, ...placeOf(layer, found.at) }
      case 'hole':
        // Where the layer below has ended too, nobody has anything.
        if (layer.backing === undefined || at >= layer.backing.device.size)
          return { ...here, present: false, zero: true, data: false, ...placeOf(layer, found.at) }
        return look(layer.backing, depth + 1, at, found.length, start)
    }
  })
}

/** Where space is kept for what is not there, if it is in the image. */
function placeOf(layer: Opened, at: number | undefined): { offset?: number } {
  return at === undefined || elsewhere(layer) ? {} : { offset: at }
}

/** Whether the image's data is in a file that has another name. */
function elsewhere(layer: Opened): boolean {
  return layer.image !== undefined && 'dataFile' in layer.image && layer.image.dataFile !== undefined
}

/** Calls `visit` with runs that follow each other from `start` to `end`. */
export function walk(top: Opened, start: number, end: number, visit: (run: Run) => Now<unknown>): Now<void> {
  let at = start
  return repeat(() => {
    if (at >= end) return false
    return after(statusAbove(top, at, end - at), (run) => {
      at += run.length
      return after(visit(run), (more) => more !== false)
    })
  })
}
