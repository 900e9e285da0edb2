/** START STOP UNIT and PREVENT ALLOW MEDIUM REMOVAL (SBC-3 5.20, SPC-4 6.13, MMC-6 6.43, 6.14). */
import { after, type Now } from '../../../block/now.ts'
import type { CommandSpec } from '../command.ts'
import { CheckCondition, invalidCdb, MEDIUM_REMOVAL_PREVENTED } from '../sense.ts'
import type { Task } from '../task.ts'

/** The drive that they move. */
export interface Drive {
  readonly deviceType: number
  readonly removable: boolean
  readonly isLocked: boolean
  moveTray(open: boolean): void
  spin(on: boolean): void
  prevent(initiator: number, on: boolean): void
  flush(task: Task): Now<void>
}

const START = 1 << 0
const LOEJ = 1 << 1
const NO_FLUSH = 1 << 2

// SBC-3 table 96: active, idle, standby, LU_CONTROL, FORCE_IDLE_0, FORCE_STANDBY_0; and MMC's sleep
const POWER_CONDITIONS: readonly number[] = [1, 2, 3, 5, 7, 0xa, 0xb]

const CD = 0x05

export function startStopCommands(drive: Drive): CommandSpec[] {
  return [
    {
      name: 'START STOP UNIT',
      opcode: 0x1b,
      usage: '1b 01 00 0f f7 00',
      access: (cdb) => ((cdb[4]! & 0xf1) === START ? 'any' : 'own'),
      run: (task) => startStop(drive, task),
    },
    {
      name: 'PREVENT ALLOW MEDIUM REMOVAL',
      opcode: 0x1e,
      usage: '1e 00 00 00 03 00',
      access: (cdb) => ((cdb[4]! & 1) === 0 ? 'any' : 'own'),
      run({ cdb, command }) {
        if (!drive.removable && (cdb[4]! & 1) !== 0) throw invalidCdb(4, 1)
        drive.prevent(command.initiator, (cdb[4]! & 1) !== 0)
      },
    },
  ]
}

function startStop(drive: Drive, task: Task): Now<void> {
  const flags = task.cdb[4]!
  const condition = flags >>> 4
  const start = (flags & START) !== 0
  if (condition !== 0) {
    if (!POWER_CONDITIONS.includes(condition)) throw invalidCdb(4, 7)
    return (flags & NO_FLUSH) === 0 ? drive.flush(task) : undefined
  }
  const loads = (flags & LOEJ) !== 0
  if (loads && !drive.removable) throw invalidCdb(4, 1)
  if (loads && !start && drive.isLocked) throw new CheckCondition(MEDIUM_REMOVAL_PREVENTED)
  const flushed = !start && (flags & NO_FLUSH) === 0 ? drive.flush(task) : undefined
  return after(flushed, () => {
    if (loads) drive.moveTray(!start)
    // A CD-ROM that was stopped spins up when it is read
    if (!loads && drive.deviceType !== CD) drive.spin(start)
  })
}
