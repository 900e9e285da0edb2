/** GET CONFIGURATION and the features of the drive (MMC-6 5, 6.5). */
import { type CommandSpec, u16 } from '../command.ts'
import { ascii } from '../identity.ts'
import { invalidCdb } from '../sense.ts'
import type { Task } from '../task.ts'
import { type CdDrive, PROFILE_CD_ROM, PROFILE_DVD_ROM, profile } from './drive.ts'

interface Feature {
  readonly code: number
  readonly version: number
  readonly persistent: boolean
  readonly current: boolean
  readonly data: readonly number[]
}

const CORE = 0x0001

function features(drive: CdDrive, serial: string): Feature[] {
  const current = profile(drive)
  const cd = current === PROFILE_CD_ROM
  const dvd = current === PROFILE_DVD_ROM
  const listed = (code: number) => [code >>> 8, code & 0xff, current === code ? 1 : 0, 0]
  const always = { persistent: true, current: true }
  const all: Feature[] = [
    { ...always, code: 0x0000, version: 0, data: [...listed(PROFILE_DVD_ROM), ...listed(PROFILE_CD_ROM)] },
    // INQ2 and DBE: standard INQUIRY as MMC has it, device busy events
    { ...always, code: CORE, version: 2, data: [0, 0, 0, drive.physicalInterface, 0x03, 0, 0, 0] },
    // Morphing: OCEVENT
    { ...always, code: 0x0002, version: 1, data: [0x02, 0, 0, 0] },
    // Removable medium: a tray that locks, ejects and loads
    { ...always, code: 0x0003, version: 1, data: [0x39, 0, 0, 0] },
    // Random readable: blocks of 2048 bytes, one at a time
    { code: 0x0010, version: 0, persistent: false, current: cd || dvd, data: [0, 0, 8, 0, 0, 1, 0, 0] },
    { code: 0x001d, version: 0, persistent: false, current: cd, data: [] },
    { code: 0x001e, version: 2, persistent: false, current: cd, data: [0, 0, 0, 0] },
    { code: 0x001f, version: 1, persistent: false, current: dvd, data: [0, 0, 0, 0] },
    { ...always, code: 0x0100, version: 0, data: [] },
    { ...always, code: 0x0105, version: 1, data: [0, 0, 0, 0] },
  ]
  if (serial !== '') {
    const data = [...ascii(serial.padEnd(Math.ceil(serial.length / 4) * 4))]
    all.push({ ...always, code: 0x0108, version: 0, data })
  }
  return all
}

// RT (MMC-6 table 259)
const ALL = 0
const CURRENT = 1
const ONE = 2

function getConfiguration(drive: CdDrive, serial: string, task: Task): void {
  const { cdb } = task
  const type = cdb[1]! & 3
  const start = u16(cdb, 2)
  if (type > ONE) throw invalidCdb(1, 1)
  const chosen = features(drive, serial).filter(
    ({ code, current }) =>
      (type === ONE ? code === start : code >= start) &&
      (type === ALL || type === ONE || (type === CURRENT && current)),
  )
  const body = chosen.flatMap(({ code, version, persistent, current, data }) => [
    code >>> 8,
    code & 0xff,
    (version << 2) | (persistent ? 2 : 0) | (current ? 1 : 0),
    data.length,
    ...data,
  ])
  const bytes = new Uint8Array(8 + body.length)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, 4 + body.length)
  view.setUint16(6, profile(drive))
  bytes.set(body, 8)
  task.reply(bytes, u16(cdb, 7))
}

/** GET CONFIGURATION of a drive with this serial number. */
export function configurationCommand(drive: CdDrive, serial: string): CommandSpec {
  return {
    name: 'GET CONFIGURATION',
    opcode: 0x46,
    usage: '46 03 ff ff 00 00 00 ff ff 00',
    access: 'any',
    unmindful: true,
    run: (task) => getConfiguration(drive, serial, task),
  }
}
