/** What is measured: one cell of the table is one way to read or write. */

/** One way to read or write. */
export interface Cell {
  /** Words that name it, `direct read 4k rand depth 1`. */
  readonly name: string
  readonly direct: boolean
  readonly write: boolean
  /** KiB. */
  readonly block: number
  readonly depth: number
}

/** The matrix: O_DIRECT and buffered, 4 and 16 KiB random, 256 KiB and 1 MiB sequential, reads and writes with fsync, depth 1 and 32. */
export const cells: readonly Cell[] = [true, false].flatMap((direct) =>
  [4, 16, 256, 1024].flatMap((block) =>
    [false, true].flatMap((write) =>
      [1, 32].map((depth) => ({
        name: [
          direct ? 'direct' : 'buffered',
          write ? 'write' : 'read',
          block < 1024 ? `${block}k` : '1m',
          block <= 16 ? 'rand' : 'seq',
          `depth ${depth}`,
        ].join(' '),
        direct,
        write,
        block,
        depth,
      })),
    ),
  ),
)

/** Cells whose names hold every word of one of the texts; all without a text. */
export function chosenCells(texts: readonly string[]): readonly Cell[] {
  if (texts.length === 0) return cells
  const holds = (name: string, text: string) => text.split(' ').every((word) => name.split(' ').includes(word))
  return cells.filter(({ name }) => texts.some((text) => holds(name, text)))
}

/**
 * One fio job file: in every turn a job for each cell and each device after the other, every other turn with the devices the other way
 * round. A job is named by the places of its {@link speeds}.
 */
export function jobFile(
  chosen: readonly Cell[],
  places: readonly { path: string; writesAt: number }[],
  size: number,
  seconds: number,
  turns = 1,
): string {
  const jobs = Array.from({ length: turns }, (_, turn) =>
    chosen.flatMap(({ direct, write, block, depth }, cell) => {
      const ofCell = places.map(({ path, writesAt }, device) => [
        `[${turn * chosen.length + cell}-${device}]`,
        'stonewall',
        `filename=${path}`,
        `offset=${write ? writesAt : 0}`,
        `rw=${block <= 16 ? 'rand' : ''}${write ? 'write' : 'read'}`,
        `bs=${block}k`,
        `direct=${direct ? 1 : 0}`,
        ...(depth === 1 ? ['ioengine=psync'] : ['ioengine=libaio', `iodepth=${depth}`]),
        ...(write ? ['end_fsync=1'] : []),
      ])
      return (turn % 2 === 0 ? ofCell : ofCell.reverse()).flat()
    }),
  ).flat()
  const global = [`size=${size}`, 'time_based', `runtime=${Math.round(seconds * 1000)}ms`, 'thread', 'gtod_reduce=1']
  return ['[global]', ...global, 'norandommap', 'randrepeat=1', ...jobs, ''].join('\n')
}

/** Takes fio's terse output apart: MiB/s by turn and cell, then by device. */
export function speeds(output: string): number[][] {
  const result: number[][] = []
  for (const line of output.split('\n')) {
    const fields = line.split(';')
    const [cell, device] = (fields[2] ?? '').split('-').map(Number)
    if (fields[0] !== '3' || cell === undefined || device === undefined) continue
    // Fields 7 and 48 of the terse format: bandwidth of reads and of writes, KiB/s.
    ;(result[cell] ??= [])[device] = (Number(fields[6]) + Number(fields[47])) / 1024
  }
  return result
}
