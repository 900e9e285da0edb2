/** READ CD and READ CD MSF: any part of a sector (MMC-6 6.16, 6.17). */
import { bytesVec, type IoVec } from '../../../block/iovec.ts'
import { after, type Now, repeat } from '../../../block/now.ts'
import { type CommandSpec, u24, u32 } from '../command.ts'
import { ReadExtent } from '../extent.ts'
import { CheckCondition, ILLEGAL_MODE_FOR_THIS_TRACK, invalidCdb } from '../sense.ts'
import type { Task } from '../task.ts'
import type { DataSource } from '../transfer.ts'
import { BLOCK, lbaOf } from './address.ts'
import { type CdDrive, checkBlocks } from './drive.ts'
import { AUXILIARY, encodeSector, HEADER, SECTOR, SYNC } from './sector.ts'

// MMC-6 table 350: expected sector types that a mode 1 track fits
const TYPES: readonly number[] = [0, 2]

// Byte 9: main channel selection
const WITH_SYNC = 1 << 7
const WITH_HEADER = 1 << 5
const WITH_DATA = 1 << 4
const WITH_AUXILIARY = 1 << 3
const C2 = 0x06

/** Sectors that are read at a time. */
const BATCH = 32

/** The part of every sector that is asked for, from byte `start` to `end`. */
interface Part {
  readonly start: number
  readonly end: number
}

/** The selected part; undefined for none. Parts with a gap between them cannot be asked for (MMC-6 table 353). */
function selected(flags: number): Part | undefined {
  const sizes = [
    [WITH_SYNC, SYNC],
    [WITH_HEADER, HEADER],
    [WITH_DATA, BLOCK],
    [WITH_AUXILIARY, AUXILIARY],
  ] as const
  let at = 0
  let start = -1
  let end = -1
  for (const [flag, size] of sizes) {
    if ((flags & flag) !== 0) {
      if (start < 0) start = at
      else if (end !== at) throw invalidCdb(9, 7)
      end = at + size
    }
    at += size
  }
  return start < 0 ? undefined : { start, end }
}

/** Sectors that are made as they are read. */
class SectorSource implements DataSource {
  readonly held = false
  readonly length: number
  readonly #drive: CdDrive
  readonly #task: Task
  readonly #lba: number
  readonly #part: Part
  readonly #sector = new Uint8Array(SECTOR)

  constructor(drive: CdDrive, task: Task, lba: number, count: number, part: Part) {
    this.#drive = drive
    this.#task = task
    this.#lba = lba
    this.#part = part
    this.length = count * (part.end - part.start)
  }

  read(at: number, into: IoVec): Now<void> {
    const size = this.#part.end - this.#part.start
    let done = 0
    return repeat(() => {
      const left = into.byteLength - done
      if (left === 0 || this.#task.isAborted) return false
      const first = Math.floor((at + done) / size)
      const skip = (at + done) % size
      const count = Math.min(Math.ceil((skip + left) / size), BATCH)
      const bytes = new Uint8Array(count * BLOCK)
      const source = new ReadExtent(this.#drive.place(this.#lba + first), bytes.length)
      return after(source.read(0, bytesVec(bytes)), () => {
        const made = this.#make(this.#lba + first, bytes)
        const part = made.subarray(skip, skip + Math.min(left, made.length - skip))
        into.scatter(part, done)
        done += part.length
        if (done === into.byteLength) into.filled()
        return done < into.byteLength
      })
    })
  }

  #make(lba: number, bytes: Uint8Array): Uint8Array {
    const { start, end } = this.#part
    const size = end - start
    const made = new Uint8Array((bytes.length / BLOCK) * size)
    for (let i = 0; i * BLOCK < bytes.length; i++) {
      encodeSector(lba + i, bytes.subarray(i * BLOCK, (i + 1) * BLOCK), this.#sector)
      made.set(this.#sector.subarray(start, end), i * size)
    }
    return made
  }
}

function readCd(drive: CdDrive, task: Task, lba: number, count: number): void {
  const { cdb } = task
  checkBlocks(drive, lba, count)
  // No C2 pointers, no sub-channels; the drive's features say so
  if ((cdb[9]! & C2) !== 0) throw invalidCdb(9, 2)
  if ((cdb[10]! & 7) !== 0) throw invalidCdb(10, 2)
  const part = selected(cdb[9]!)
  if (count === 0 || part === undefined) return
  if (!TYPES.includes((cdb[1]! >>> 2) & 7)) throw new CheckCondition(ILLEGAL_MODE_FOR_THIS_TRACK)
  if (part.start === SYNC + HEADER && part.end === part.start + BLOCK) {
    task.dataIn(new ReadExtent(drive.place(lba), count * BLOCK))
  } else task.dataIn(new SectorSource(drive, task, lba, count, part))
}

/** Both commands. */
export function readCdCommands(drive: CdDrive): CommandSpec[] {
  return [
    {
      name: 'READ CD',
      opcode: 0xbe,
      usage: 'be 1e ff ff ff ff ff ff ff fe 07 00',
      access: 'read',
      medium: true,
      run: (task) => readCd(drive, task, u32(task.cdb, 2), u24(task.cdb, 6)),
    },
    {
      name: 'READ CD MSF',
      opcode: 0xb9,
      usage: 'b9 1e 00 ff ff ff ff ff ff fe 07 00',
      access: 'read',
      medium: true,
      run(task) {
        const { cdb } = task
        const [from, to] = [lbaOf(cdb[3]!, cdb[4]!, cdb[5]!), lbaOf(cdb[6]!, cdb[7]!, cdb[8]!)]
        if (from < 0) throw invalidCdb(3, 7)
        if (to < from) throw invalidCdb(6, 7)
        readCd(drive, task, from, to - from)
      },
    },
  ]
}
