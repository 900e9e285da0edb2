/** GET EVENT STATUS NOTIFICATION (MMC-6 6.6): polled only. */
import { type CommandSpec, u16 } from '../command.ts'
import { invalidCdb } from '../sense.ts'
import type { Task } from '../task.ts'
import type { CdDrive } from './drive.ts'

// Notification classes
const OPERATIONAL = 1
const POWER = 2
const MEDIA = 4
const BUSY = 6
const SUPPORTED = (1 << OPERATIONAL) | (1 << POWER) | (1 << MEDIA) | (1 << BUSY)
const NONE_AVAILABLE = 1 << 7

const POWER_ACTIVE = 1
const MEDIA_PRESENT = 1 << 1
const DOOR_OPEN = 1 << 0

function eventStatus(drive: CdDrive, task: Task): void {
  const { cdb } = task
  if ((cdb[1]! & 1) === 0) throw invalidCdb(1, 0)
  const asked = cdb[4]! & SUPPORTED
  const allocation = u16(cdb, 7)
  if (asked === 0) {
    task.reply(Uint8Array.of(0, 2, NONE_AVAILABLE, SUPPORTED), allocation)
    return
  }
  // Only media events ever happen; with none, the class of highest priority says so
  const pending = (asked & (1 << MEDIA)) !== 0 && drive.events.codes.length > 0
  const kind = pending ? MEDIA : 31 - Math.clz32(asked & -asked)
  const status = (drive.medium !== undefined ? MEDIA_PRESENT : 0) | (drive.trayOpen ? DOOR_OPEN : 0)
  const body =
    kind === MEDIA
      ? // An event is told once, and not to those who do not take it
        [allocation > 4 ? drive.events.take() : 0, status, 0, 0]
      : [0, kind === POWER ? POWER_ACTIVE : 0, 0, 0]
  task.reply(Uint8Array.of(0, 6, kind, SUPPORTED, ...body), allocation)
}

/** GET EVENT STATUS NOTIFICATION of a drive. */
export function eventCommand(drive: CdDrive): CommandSpec {
  return {
    name: 'GET EVENT STATUS NOTIFICATION',
    opcode: 0x4a,
    usage: '4a 01 00 00 ff 00 00 ff ff 00',
    access: 'any',
    unmindful: true,
    run: (task) => eventStatus(drive, task),
  }
}
