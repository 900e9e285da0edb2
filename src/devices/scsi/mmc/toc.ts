/** The table of contents and what else describes the disc (MMC-6 6.21 to 6.26, 6.33): one session, one data track. */
import { type CommandSpec, u16, u32 } from '../command.ts'
import { CANNOT_READ_MEDIUM_INCOMPATIBLE_FORMAT, CheckCondition, invalidCdb } from '../sense.ts'
import type { Task } from '../task.ts'
import { msfOf, putAddress } from './address.ts'
import { type CdDrive, checkBlocks, PROFILE_DVD_ROM, profile } from './drive.ts'

/** ADR 1, CONTROL 4: a position, and a data track that may not be copied. */
const DATA_TRACK = 0x14
const LEAD_OUT = 0xaa

const FORMAT_TOC = 0
const FORMAT_SESSIONS = 1
const FORMAT_FULL = 2

function readToc(drive: CdDrive, task: Task): void {
  const { cdb } = task
  const msf = (cdb[1]! & 2) !== 0
  // SFF-8020i had the format in the two high bits of the control byte; old drivers still do
  const format = cdb[2]! & 0x0f || cdb[9]! >>> 6
  const from = cdb[6]!
  const { blocks } = drive
  const allocation = u16(cdb, 7)
  switch (format) {
    case FORMAT_TOC: {
      if (from > 1 && from !== LEAD_OUT) throw invalidCdb(6, 7)
      const tracks = from === LEAD_OUT ? [LEAD_OUT] : [1, LEAD_OUT]
      const bytes = new Uint8Array(4 + 8 * tracks.length)
      bytes.set([0, bytes.length - 2, 1, 1])
      tracks.forEach((track, i) => {
        const at = 4 + 8 * i
        bytes.set([0, DATA_TRACK, track, 0], at)
        putAddress(bytes, at + 4, track === LEAD_OUT ? blocks : 0, msf)
      })
      task.reply(bytes, allocation)
      return
    }
    case FORMAT_SESSIONS: {
      const bytes = Uint8Array.of(0, 10, 1, 1, 0, DATA_TRACK, 1, 0, 0, 0, 0, 0)
      putAddress(bytes, 8, 0, msf)
      task.reply(bytes, allocation)
      return
    }
    case FORMAT_FULL: {
      const entry = (point: number, [minute, second, frame]: readonly [number, number, number]) =>
        [1, DATA_TRACK, 0, point, 0, 0, 0, 0, minute, second, frame] as const
      const entries = [entry(0xa0, [1, 0, 0]), entry(0xa1, [1, 0, 0]), entry(0xa2, msfOf(blocks)), entry(1, msfOf(0))]
      task.reply(Uint8Array.of(0, 2 + 11 * entries.length, 1, 1, ...entries.flat()), allocation)
      return
    }
    default:
      throw invalidCdb(2, 3)
  }
}

// MMC-6 6.20: no audio plays, and no catalogue number or code of a recording is on the disc
const NO_AUDIO = 0x15

function readSubChannel(task: Task): void {
  const { cdb } = task
  const msf = (cdb[1]! & 2) !== 0
  const allocation = u16(cdb, 7)
  const format = cdb[3]!
  if ((cdb[2]! & 0x40) === 0) {
    task.reply(Uint8Array.of(0, NO_AUDIO, 0, 0), allocation)
    return
  }
  if (format < 1 || format > 3) throw invalidCdb(3, 7)
  if (format === 3 && cdb[6] !== 1) throw invalidCdb(6, 7)
  const bytes = new Uint8Array(format === 1 ? 16 : 24)
  bytes.set([0, NO_AUDIO, 0, bytes.length - 4, format])
  if (format !== 2) bytes.set([DATA_TRACK, 1, format === 1 ? 1 : 0], 5)
  if (format === 1) {
    putAddress(bytes, 8, 0, msf)
    if (!msf) putAddress(bytes, 12, 0, false)
  }
  task.reply(bytes, allocation)
}

function readHeader(drive: CdDrive, task: Task): void {
  const { cdb } = task
  const lba = u32(cdb, 2)
  checkBlocks(drive, lba, 1)
  const bytes = Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0)
  putAddress(bytes, 4, lba, (cdb[1]! & 2) !== 0)
  task.reply(bytes, u16(cdb, 7))
}

function readDiscInformation(task: Task): void {
  const { cdb } = task
  if ((cdb[1]! & 7) !== 0) throw invalidCdb(1, 2)
  const bytes = new Uint8Array(34)
  // Last session complete, disc finalized; one session with one track; unrestricted use
  bytes.set([0, 32, 0x0e, 1, 1, 1, 1, 0x20])
  bytes.fill(0xff, 16, 24)
  task.reply(bytes, u16(cdb, 7))
}

function readTrackInformation(drive: CdDrive, task: Task): void {
  const { cdb } = task
  const address = u32(cdb, 2)
  const kind = cdb[1]! & 3
  if (kind === 0) checkBlocks(drive, address, 1)
  else if (kind === 3 || address !== 1) throw kind === 3 ? invalidCdb(1, 1) : invalidCdb(2, 7)
  const bytes = new Uint8Array(36)
  // Track 1 of session 1, a data track that was recorded without interruption, in mode 1
  bytes.set([0, 34, 1, 1, 0, 0x04, 0x01])
  const view = new DataView(bytes.buffer)
  view.setUint32(24, drive.blocks)
  task.reply(bytes, u16(cdb, 7))
}

// MMC-6 6.22.2: the first physical sector of user data
const DATA_START = 0x30000

const DVD_PHYSICAL = 0x00
const DVD_COPYRIGHT = 0x01
const DVD_MANUFACTURER = 0x04
const DVD_LIST = 0xff

function readDvdStructure(drive: CdDrive, task: Task): void {
  const { cdb } = task
  const format = cdb[7]!
  const allocation = u16(cdb, 8)
  const reply = (...body: readonly number[]) => structure(task, body, body.length, allocation)
  // Capability lists are there whatever the medium; all else is for DVDs
  if (format === DVD_LIST) {
    reply(...[DVD_PHYSICAL, DVD_COPYRIGHT, DVD_MANUFACTURER].flatMap((code) => [code, 0x40, 0, code === 1 ? 8 : 4]))
    return
  }
  if (profile(drive) !== PROFILE_DVD_ROM) throw new CheckCondition(CANNOT_READ_MEDIUM_INCOMPATIBLE_FORMAT)
  if (cdb[6] !== 0) throw invalidCdb(6, 7)
  switch (format) {
    case DVD_PHYSICAL: {
      const last = DATA_START + drive.blocks - 1
      // DVD-ROM part 1; 120 mm, no speed limit; one layer, read-only
      const body = [0x01, 0x0f, 0x01, 0, 0, 0x03, 0, 0, 0, (last >>> 16) & 0xff, (last >>> 8) & 0xff, last & 0xff]
      structure(task, body, 2048, allocation)
      return
    }
    case DVD_COPYRIGHT:
      reply(0, 0, 0, 0)
      return
    case DVD_MANUFACTURER:
      structure(task, [], 2048, allocation)
      return
    default:
      throw invalidCdb(7, 7)
  }
}

function structure(task: Task, body: readonly number[], length: number, allocation: number): void {
  const bytes = new Uint8Array(4 + length)
  bytes.set([(length + 2) >>> 8, (length + 2) & 0xff])
  bytes.set(body, 4)
  task.reply(bytes, allocation)
}

/** These commands of a drive. */
export function tocCommands(drive: CdDrive): CommandSpec[] {
  const onMedium = { access: 'any', medium: true } as const
  return [
    {
      ...onMedium,
      name: 'READ SUB-CHANNEL',
      opcode: 0x42,
      usage: '42 02 40 ff 00 00 ff ff ff 00',
      run: (task) => readSubChannel(task),
    },
    {
      ...onMedium,
      name: 'READ TOC/PMA/ATIP',
      opcode: 0x43,
      usage: '43 02 0f 00 00 00 ff ff ff c0',
      run: (task) => readToc(drive, task),
    },
    {
      ...onMedium,
      name: 'READ HEADER',
      opcode: 0x44,
      usage: '44 02 ff ff ff ff 00 ff ff 00',
      run: (task) => readHeader(drive, task),
    },
    {
      ...onMedium,
      name: 'READ DISC INFORMATION',
      opcode: 0x51,
      usage: '51 07 00 00 00 00 00 ff ff 00',
      run: (task) => readDiscInformation(task),
    },
    {
      ...onMedium,
      name: 'READ TRACK INFORMATION',
      opcode: 0x52,
      usage: '52 03 ff ff ff ff 00 ff ff 00',
      run: (task) => readTrackInformation(drive, task),
    },
    {
      ...onMedium,
      name: 'READ DVD STRUCTURE',
      opcode: 0xad,
      usage: 'ad 0f ff ff ff ff ff ff ff ff c0 00',
      run: (task) => readDvdStructure(drive, task),
    },
  ]
}
