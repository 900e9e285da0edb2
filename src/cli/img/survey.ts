/** What an image and its chain hold where, summed up for a picture. */
import type { Opened } from './open.ts'
import { walk } from './status.ts'

/** A run of data that one layer has, plain or compressed. */
export interface Stretch {
  readonly start: number
  readonly length: number
  /** Where it is in the layer's file; undefined for what is compressed. */
  readonly offset: number | undefined
}

/** One file of the chain. */
export interface Layer {
  readonly name: string
  readonly format: string
  readonly size: number
  readonly fileSize: number
  /** Bytes of the disk that come from here. */
  plain: number
  packed: number
  readonly stretches: Stretch[]
}

/** A piece of the disk: how many of its bytes come from where. */
export interface Cell {
  readonly plain: number[]
  readonly packed: number[]
  zero: number
  hole: number
}

/** All of it. */
export interface Survey {
  readonly size: number
  readonly layers: readonly Layer[]
  readonly cells: readonly Cell[]
  /** Bytes of the disk that a cell is for. */
  readonly cellSize: number
  readonly zero: number
  readonly hole: number
}

/** Looks through an image with all that it stands on, in at most `most` cells of equal size. */
export async function survey(top: Opened, most: number): Promise<Survey> {
  const { size } = top.device
  const layers: Layer[] = []
  for (let layer: Opened | undefined = top; layer !== undefined; layer = layer.backing) {
    const { name, format, device, file } = layer
    layers.push({ name, format, size: device.size, fileSize: file.size, plain: 0, packed: 0, stretches: [] })
  }
  // No cell is smaller than 4 KiB, and each is a power of two, so that its address is one to read.
  const cellSize = Math.max(4096, 2 ** Math.ceil(Math.log2(Math.max(1, size / most))))
  const cells = Array.from(
    { length: Math.ceil(size / cellSize) },
    (): Cell => ({ plain: [], packed: [], zero: 0, hole: 0 }),
  )
  let zero = 0
  let hole = 0
  await walk(top, 0, size, (run) => {
    const { start, length, depth } = run
    const data = run.data && !run.zero
    if (data) {
      const layer = layers[depth]!
      layer[run.compressed ? 'packed' : 'plain'] += length
      const last = layer.stretches.at(-1)
      const joins =
        last !== undefined &&
        last.start + last.length === start &&
        (last.offset === undefined ? run.offset === undefined : last.offset + last.length === run.offset)
      if (joins) layer.stretches[layer.stretches.length - 1] = { ...last, length: last.length + length }
      else layer.stretches.push({ start, length, offset: run.offset })
    } else if (run.present) zero += length
    else hole += length
    for (let at = start; at < start + length; ) {
      const index = Math.floor(at / cellSize)
      const end = Math.min(start + length, (index + 1) * cellSize)
      const cell = cells[index]!
      if (data) {
        const kind = run.compressed ? cell.packed : cell.plain
        kind[depth] = (kind[depth] ?? 0) + end - at
      } else cell[run.present ? 'zero' : 'hole'] += end - at
      at = end
    }
  })
  return { size, layers, cells, cellSize, zero, hole }
}
