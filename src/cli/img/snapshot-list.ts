/** Internal snapshots as a table. */
import type { SnapshotInfo } from '../../block/formats/qcow2/info.ts'
import { humanSize } from '../units.ts'

/** The table's lines, its head first. */
export function snapshotLines(snapshots: readonly SnapshotInfo[]): string[] {
  const head = 'ID'.padEnd(10) + 'TAG'.padEnd(17)
  return [head + columns('VM SIZE', 'DATE', 'VM CLOCK', 'ICOUNT'), ...snapshots.map(line)]
}

function columns(size: string, date: string, clock: string, count: string): string {
  return size.padStart(8) + date.padStart(20) + clock.padStart(13) + count.padStart(11)
}

function line(snapshot: SnapshotInfo): string {
  const two = (value: number) => String(value).padStart(2, '0')
  const seconds = snapshot['vm-clock-sec']
  const milliseconds = String(Math.floor(snapshot['vm-clock-nsec'] / 1e6)).padStart(3, '0')
  const clock = `${two(Math.floor(seconds / 3600))}:${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}.${milliseconds}`
  const head = `${snapshot.id.padEnd(9)} ${snapshot.name.padEnd(16)} `
  const count = snapshot.icount === undefined ? '' : String(snapshot.icount)
  return head + columns(humanSize(snapshot['vm-state-size']), localTime(snapshot['date-sec']), clock, count)
}

function localTime(seconds: number): string {
  const date = new Date(seconds * 1000)
  const two = (value: number) => String(value).padStart(2, '0')
  return (
    `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ` +
    `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`
  )
}
