/** FORMAT UNIT and SANITIZE (SBC-3 4.11, 5.3, 5.30): work on the whole medium, with or without the command waiting for it. */
import { errnoOf } from '../../../block/error.ts'
import { bytesVec } from '../../../block/iovec.ts'
import { after, type Now } from '../../../block/now.ts'
import type { Saved } from '../../machine.ts'
import { type CommandSpec, u16, u32 } from '../command.ts'
import type { Occupation } from '../medium.ts'
import { bytesOf, fieldsOf, flagOf, numberOf } from '../saved.ts'
import {
  CheckCondition,
  type Condition,
  FORMAT_COMMAND_FAILED,
  FORMAT_IN_PROGRESS,
  INVALID_FIELD_IN_CDB,
  invalidCdb,
  invalidParameter,
  PARAMETER_LIST_LENGTH_ERROR,
  SANITIZE_COMMAND_FAILED,
  SANITIZE_IN_PROGRESS,
} from '../sense.ts'
import { SLICE, Work } from '../slices.ts'
import type { Task } from '../task.ts'
import type { Blocks } from './range.ts'

/** A unit that can be kept from its medium for a while. */
export interface Formatted extends Blocks {
  occupation: Occupation | undefined
  /** What all commands get that need the medium, after a SANITIZE that failed. */
  failure: Condition | undefined
  /** Whether EXIT FAILURE MODE ends that (AUSE of the SANITIZE); else only a SANITIZE that goes well. */
  failureEnds: boolean
}

// What is done; the numbers are in saved states
const FORMAT = 0
const OVERWRITE = 1
const ERASE = 2

/** What keeps the unit busy: what is done, with which parameter list, and in whose name if no command waits for it. */
interface Job {
  readonly kind: typeof FORMAT | typeof OVERWRITE | typeof ERASE
  readonly list: Uint8Array
  readonly initiator: number
  /** AUSE of a SANITIZE: whether EXIT FAILURE MODE is enough after a failure. */
  readonly unrestricted: boolean
}

interface Steps {
  /** Bytes in all, which is several times the medium's for several passes. */
  readonly total: number
  readonly step: (at: number, length: number) => Now<void>
}

function zeroing({ disk }: Formatted): Steps {
  return { total: disk.size, step: (at, length) => disk.zero(at, length, { unmap: true }) }
}

const INVERT = 1 << 7
const HEADER = 4

// SBC-3 5.30.2.2: the pattern begins anew in every block; with INVERT, every second pass has it inverted, the last one as it is
function overwriting({ disk, block }: Formatted, list: Uint8Array): Steps {
  const passes = list[0]! & 0x1f
  const size = u16(list, 2)
  const bytes = new Uint8Array(Math.max(SLICE, block))
  for (let i = 0; i < bytes.length; i++) bytes[i] = list[HEADER + ((i % block) % size)]!
  const inverted = (list[0]! & INVERT) !== 0 ? bytes.map((byte) => ~byte) : bytes
  const put = (at: number, length: number) => {
    const left = passes - 1 - Math.floor(at / disk.size)
    return disk.write(at % disk.size, bytesVec((left % 2 === 0 ? bytes : inverted).subarray(0, length)))
  }
  return {
    total: passes * disk.size,
    step(at, length) {
      const now = Math.min(length, disk.size - (at % disk.size))
      return after(put(at, now), () => (now < length ? put(at + now, length - now) : undefined))
    },
  }
}

/**
 * Begins a job, the unit being occupied by it; neither an abort nor a reset of the unit stops it (SBC-3 4.11.4). Resolves to
 * what went wrong, and never rejects.
 */
function begin(unit: Formatted, job: Job, waited: boolean): Promise<CheckCondition | undefined> {
  const formats = job.kind === FORMAT
  const failed = formats ? FORMAT_COMMAND_FAILED : SANITIZE_COMMAND_FAILED
  const { total, step } = job.kind === OVERWRITE ? overwriting(unit, job.list) : zeroing(unit)
  const work = new Work(total)
  const saved = waited ? undefined : { ...job }
  unit.occupation = { condition: formats ? FORMAT_IN_PROGRESS : SANITIZE_IN_PROGRESS, work, saved }
  const end = (async () => {
    let outcome: CheckCondition | undefined
    try {
      await work.run((at, length) => insist(unit, work, () => step(at, length)), unit.turn)
      await insist(unit, work, () => unit.disk.flush())
      unit.failure = undefined
    } catch {
      outcome = new CheckCondition(failed)
      if (!formats) {
        unit.failure = failed
        unit.failureEnds = job.unrestricted
      }
    }
    unit.occupation = undefined
    return outcome
  })()
  work.during(end.then(() => {}))
  return end
}

/** Does a step again that a reset of the unit took back from the disk. */
async function insist(unit: Formatted, work: Work, step: () => Now<void>): Promise<void> {
  for (;;) {
    try {
      return await step()
    } catch (error) {
      if (errnoOf(error) !== 'ECANCELED' || work.isStopped) throw error
      await unit.turn()
    }
  }
}

function occupy(unit: Formatted, task: Task, job: Job, immediate: boolean): Now<void> {
  const end = begin(unit, job, !immediate)
  if (immediate) {
    void end.then((outcome) => outcome && unit.deferError(job.initiator, outcome))
    return
  }
  return task.until(
    end.then((outcome) => {
      if (outcome !== undefined) throw outcome
      return unit.allocationChanged(task, unit.disk.size)
    }),
  )
}

/** Begins again what a saved state was in the middle of. */
export function resumeJob(unit: Formatted, state: Saved): void {
  const saved = fieldsOf(state)
  const kind = numberOf(saved.kind, ERASE) as Job['kind']
  const list = bytesOf(saved.list, HEADER + unit.block)
  if (kind === OVERWRITE) checkOverwrite(unit, list)
  const initiator = numberOf(saved.initiator)
  const end = begin(unit, { kind, list, initiator, unrestricted: flagOf(saved.unrestricted) }, false)
  void end.then((outcome) => outcome && unit.deferError(initiator, outcome))
}

// SBC-3 5.3.2.2: the flags of FORMAT UNIT, and of the short and the long parameter list header
const FMTDATA = 1 << 4
const LONGLIST = 1 << 5
const INIT_PATTERN = 1 << 3
const FORMAT_IMMED = 1 << 1

function format(unit: Formatted, task: Task): Now<void> {
  const { cdb, command } = task
  unit.checkWritable()
  const job: Job = { kind: FORMAT, list: new Uint8Array(0), initiator: command.initiator, unrestricted: false }
  if ((cdb[1]! & FMTDATA) === 0) return occupy(unit, task, job, false)
  const long = (cdb[1]! & LONGLIST) !== 0
  task.receive(long ? 8 : 4, (list) => {
    const flags = list[1]!
    if ((flags & INIT_PATTERN) !== 0) throw invalidParameter(1, 3)
    // There is no list of defects to take up
    if ((long ? u32(list, 4) : u16(list, 2)) !== 0) throw invalidParameter(long ? 4 : 2)
    return occupy(unit, task, job, (flags & FORMAT_IMMED) !== 0)
  })
}

const SANITIZE_IMMED = 1 << 7
const AUSE = 1 << 5

/** AUSE of a SANITIZE; after a failure in restricted mode it may not be set (SBC-3 4.11.3). */
function checkedAuse(unit: Formatted, cdb: Uint8Array): boolean {
  const unrestricted = (cdb[1]! & AUSE) !== 0
  if (unrestricted && unit.failure !== undefined && !unit.failureEnds) throw invalidCdb(1, 5)
  return unrestricted
}

function wrongLength(): CheckCondition {
  return new CheckCondition(INVALID_FIELD_IN_CDB, { field: { cdb: true, byte: 7, bit: 7 } })
}

function checkOverwrite({ block }: Formatted, list: Uint8Array): void {
  const size = u16(list, 2)
  if ((list[0]! & 0x1f) === 0) throw invalidParameter(0, 4)
  if (size === 0 || size > block) throw invalidParameter(2)
  if (HEADER + size > list.length) throw new CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
}

function overwrite(unit: Formatted, task: Task): void {
  const { cdb, command } = task
  unit.checkWritable()
  const unrestricted = checkedAuse(unit, cdb)
  const length = u16(cdb, 7)
  if (length <= HEADER || length > HEADER + unit.block) throw wrongLength()
  task.receive(length, (list) => {
    checkOverwrite(unit, list)
    const job = { kind: OVERWRITE, list, initiator: command.initiator, unrestricted } as const
    return occupy(unit, task, job, (cdb[1]! & SANITIZE_IMMED) !== 0)
  })
}

function blockErase(unit: Formatted, task: Task): Now<void> {
  const { cdb, command } = task
  unit.checkWritable()
  const unrestricted = checkedAuse(unit, cdb)
  if (u16(cdb, 7) !== 0) throw wrongLength()
  const job = { kind: ERASE, list: new Uint8Array(0), initiator: command.initiator, unrestricted } as const
  return occupy(unit, task, job, (cdb[1]! & SANITIZE_IMMED) !== 0)
}

/** FORMAT UNIT and SANITIZE of a unit. */
export function formatCommands(unit: Formatted): CommandSpec[] {
  const sanitize = { opcode: 0x48, access: 'write' } as const
  return [
    {
      name: 'FORMAT UNIT',
      opcode: 0x04,
      usage: '04 3f 00 00 00 00',
      access: 'write',
      medium: true,
      run: (task) => format(unit, task),
    },
    {
      ...sanitize,
      name: 'SANITIZE, OVERWRITE',
      action: 0x01,
      usage: '48 ff 00 00 00 00 00 ff ff 00',
      run: (task) => overwrite(unit, task),
    },
    {
      ...sanitize,
      name: 'SANITIZE, BLOCK ERASE',
      action: 0x02,
      usage: '48 ff 00 00 00 00 00 ff ff 00',
      run: (task) => blockErase(unit, task),
    },
    {
      ...sanitize,
      name: 'SANITIZE, EXIT FAILURE MODE',
      action: 0x1f,
      usage: '48 ff 00 00 00 00 00 00 00 00',
      run() {
        if (unit.failure !== undefined && !unit.failureEnds) throw invalidCdb(1, 4)
        unit.failure = undefined
      },
    },
  ]
}
