/** The table at the end, and what of the targets was reached. */
import type { Cell } from './cells.ts'
import type { Device } from './machine.ts'

/** MiB/s of one device, cell by cell, round by round; NaN where there is none. */
export type Column = readonly (readonly number[])[]

/** What was measured; `ide` and the virtio beside it come from a machine of their own where v86's IDE was measured too. */
export interface Results {
  readonly columns: ReadonlyMap<Device, Column>
  readonly besideIde: ReadonlyMap<Device, Column>
}

interface Ratio {
  readonly head: string
  readonly own: Column | undefined
  readonly other: Column | undefined
}

function ratios({ columns, besideIde }: Results): readonly Ratio[] {
  const of = (head: string, own: Device, other: Device, from = columns): Ratio => ({
    head,
    own: from.get(own) ?? columns.get(own),
    other: from.get(other) ?? columns.get(other),
  })
  return [
    of('virtio/v86-ide', 'virtio', 'v86-ide'),
    of('virtio/brd', 'virtio', 'brd'),
    of('null/v86-ide', 'null', 'v86-ide'),
    of('ide/v86-ide', 'ide', 'v86-ide'),
    of('ide/v86-ide-file', 'ide', 'v86-ide-file'),
    of('ide/virtio', 'ide', 'virtio', besideIde),
    of('scsi/v86-ide', 'scsi', 'v86-ide'),
    of('scsi/virtio', 'scsi', 'virtio'),
  ].filter(({ own, other }) => own !== undefined && other !== undefined)
}

/** Prints the table: medians of MiB/s, what that is in requests of virtio per second, and the ratios. */
export function printTable(cells: readonly Cell[], results: Results): void {
  const columns = [...results.columns]
  const shown = ratios(results)
  const virtio = results.columns.get('virtio')
  const rows = cells.map(({ name, block }, at) => [
    name,
    ...columns.map(([, column]) => fixed(median(column[at] ?? []), 1)),
    ...(virtio === undefined ? [] : [fixed((median(virtio[at] ?? []) * 1024) / block, 0)]),
    ...shown.map(({ own, other }) => fixed(ratio(own, other, at), 2)),
  ])
  const head = [
    'MiB/s',
    ...columns.map(([device]) => device),
    ...(virtio === undefined ? [] : ['virtio IOPS']),
    ...shown.map((each) => each.head),
  ]
  const table = [head, ...rows]
  const widths = head.map((_, column) => Math.max(...table.map((row) => row[column]!.length)))
  for (const row of table)
    console.log(row.map((text, at) => (at === 0 ? text.padEnd(widths[0]!) : text.padStart(widths[at]!))).join('  '))
}

/** Says of each target whether it was reached, and by which cell not. */
export function printTargets(cells: readonly Cell[], results: Results): void {
  const all = ratios(results)
  const target = (head: string, least: number, what: string, counts: (cell: Cell) => boolean) => {
    const found = all.find((each) => each.head === head)
    const values = cells.flatMap((cell, at) =>
      counts(cell) && found !== undefined ? [{ cell, value: ratio(found.own, found.other, at) }] : [],
    )
    if (values.length === 0) return
    const worst = values.reduce((a, b) => (a.value <= b.value ? a : b))
    const missed = values.filter(({ value }) => !(value >= least)).length
    const verdict = missed === 0 ? 'reached' : `MISSED in ${missed} of ${values.length}`
    console.log(`${what}, ${head} >= ${least}: ${verdict}; worst ${worst.value.toFixed(2)} (${worst.cell.name})`)
  }
  const large = ({ block }: Cell) => block >= 256
  target('virtio/v86-ide', 5, '4 KiB O_DIRECT', ({ direct, block }) => direct && block === 4)
  target('virtio/brd', 0.9, '1 MiB', ({ block }) => block === 1024)
  target('virtio/v86-ide', 1, 'every cell', () => true)
  target('ide/v86-ide-file', 1.5, 'every cell', () => true)
  target('ide/virtio', 0.7, 'large sequential', large)
  target('scsi/v86-ide', 1, '16 KiB random and 1 MiB sequential', ({ block }) => block === 16 || block === 1024)
}

/** The median of the ratios of each round, for what slowed one round down slowed down both. */
function ratio(own: Column | undefined, other: Column | undefined, at: number): number {
  const others = other?.[at] ?? []
  return median((own?.[at] ?? []).map((value, round) => value / (others[round] ?? Number.NaN)))
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor((sorted.length - 1) / 2)] ?? Number.NaN
}

function fixed(value: number, digits: number): string {
  return Number.isNaN(value) ? '-' : value.toFixed(digits)
}
