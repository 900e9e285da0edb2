/** FORMAT UNIT and SANITIZE (SBC-3 4.11, 5.3, 5.30). */

import { errnoOf } from '../../../block/error.ts'
import { bytesVec } from '../../../block/iovec.ts'
import type { Now } from '../../../block/now.ts'
import { type CommandSpec, u16, u32 } from '../command.ts'
import type { Occupation } from '../medium.ts'
import {
  CheckCondition,
  type Condition,
  FORMAT_COMMAND_FAILED,
  FORMAT_IN_PROGRESS,
  INVALID_FIELD_IN_CDB,
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
}

const FORMAT_LIST_LIMIT = 8

/**
 * Does `step` for every slice, the unit being occupied; neither an abort nor a reset of the unit stops it (SBC-3 4.11.4).
 * Completes at once if `immediate`.
 */
function occupy(
  unit: Formatted,
  task: Task,
  condition: Condition,
  failed: Condition,
  total: number,
  immediate: boolean,
  step: (at: number, length: number) => Now<void>,
): Now<void> {
  const work = new Work(total)
  const occupation = { condition, work }
  unit.occupation = occupation
  const insistent = async (at: number, length: number): Promise<void> => {
    for (;;) {
      try {
        return await step(at, length)
      } catch (error) {
        if (errnoOf(error) !== 'ECANCELED' || work.isStopped) throw error
        await unit.turn()
      }
    }
  }
  let outcome: CheckCondition | undefined
  const end = (async () => {
    try {
      await work.run(insistent, unit.turn)
      await unit.disk.flush()
      unit.failure = undefined
    } catch {
      if (!work.isStopped) outcome = new CheckCondition(failed)
      if (condition === SANITIZE_IN_PROGRESS) unit.failure = failed
    }
    unit.occupation = undefined
  })()
  work.during(end)
  if (immediate) {
    void end.then(() => outcome && unit.deferError(task.command.initiator, outcome))
    return
  }
  return task.until(
    end.then(() => {
      if (outcome !== undefined) throw outcome
      return unit.allocationChanged(task, total)
    }),
  )
}

// SBC-3 5.3.2.2: the flags of the short and of the long parameter list header
const FMTDATA = 1 << 4
const LONGLIST = 1 << 5
const INIT_PATTERN = 1 << 3
const FORMAT_IMMED = 1 << 1

function format(unit: Formatted, task: Task): Now<void> {
  const { cdb } = task
  const { disk } = unit
  unit.checkWritable()
  const zero = (immediate: boolean) =>
    occupy(unit, task, FORMAT_IN_PROGRESS, FORMAT_COMMAND_FAILED, disk.size, immediate, (at, length) =>
      disk.zero(at, length, { unmap: true }),
    )
  if ((cdb[1]! & FMTDATA) === 0) return zero(false)
  const long = (cdb[1]! & LONGLIST) !== 0
  task.receive(long ? FORMAT_LIST_LIMIT : 4, (list) => {
    const flags = list[1]!
    if ((flags & INIT_PATTERN) !== 0) throw invalidParameter(1, 3)
    // There is no list of defects to take up
    if ((long ? u32(list, 4) : u16(list, 2)) !== 0) throw invalidParameter(long ? 4 : 2)
    return zero((flags & FORMAT_IMMED) !== 0)
  })
}

const SANITIZE_IMMED = 1 << 7
const INVERT = 1 << 7

/** OVERWRITE: passes of a pattern, every second one inverted if the list says so. */
function overwrite(unit: Formatted, task: Task): void {
  const { cdb } = task
  const { disk, block } = unit
  unit.checkWritable()
  const length = u16(cdb, 7)
  // The header and a pattern of 1 to a block's length
  if (length < 5 || length > 4 + block) {
    throw new CheckCondition(INVALID_FIELD_IN_CDB, { field: { cdb: true, byte: 7, bit: 7 } })
  }
  task.receive(length, (list) => {
    const passes = list[0]! & 0x1f
    const size = u16(list, 2)
    if (passes === 0) throw invalidParameter(0, 4)
    if (size === 0 || size > block) throw invalidParameter(2)
    if (4 + size > list.length) throw new CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    const invert = (list[0]! & INVERT) !== 0
    const bytes = new Uint8Array(Math.max(SLICE, block))
    // SBC-3 5.30.2.2: the pattern begins anew in every block
    for (let i = 0; i < bytes.length; i++) bytes[i] = list[4 + ((i % block) % size)]!
    const inverted = invert ? bytes.map((byte) => ~byte) : bytes
    const immediate = (cdb[1]! & SANITIZE_IMMED) !== 0
    return occupy(
      unit,
      task,
      SANITIZE_IN_PROGRESS,
      SANITIZE_COMMAND_FAILED,
      passes * disk.size,
      immediate,
      (at, count) => {
        const pass = Math.floor(at / disk.size)
        const start = at % disk.size
        const now = Math.min(count, disk.size - start)
        const pattern = (passes - pass) % 2 === 0 ? inverted : bytes
        const first = disk.write(start, bytesVec(pattern.subarray(0, now)))
        if (now === count) return first
        const rest = bytesVec(((passes - pass - 1) % 2 === 0 ? inverted : bytes).subarray(0, count - now))
        return first === undefined ? disk.write(0, rest) : first.then(() => disk.write(0, rest))
      },
    )
  })
}

function blockErase(unit: Formatted, task: Task): Now<void> {
  const { cdb } = task
  const { disk } = unit
  unit.checkWritable()
  if (u16(cdb, 7) !== 0) throw new CheckCondition(INVALID_FIELD_IN_CDB, { field: { cdb: true, byte: 7, bit: 7 } })
  const immediate = (cdb[1]! & SANITIZE_IMMED) !== 0
  return occupy(unit, task, SANITIZE_IN_PROGRESS, SANITIZE_COMMAND_FAILED, disk.size, immediate, (at, length) =>
    disk.zero(at, length, { unmap: true }),
  )
}

/** FORMAT UNIT and SANITIZE of a unit. */
export function formatCommands(unit: Formatted): CommandSpec[] {
  const sanitize = { opcode: 0x48, access: 'write', medium: true } as const
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
      usage: '48 bf 00 00 00 00 00 ff ff 00',
      run: (task) => blockErase(unit, task),
    },
    {
      ...sanitize,
      name: 'SANITIZE, EXIT FAILURE MODE',
      action: 0x1f,
      usage: '48 9f 00 00 00 00 00 00 00 00',
      medium: false,
      run() {
        unit.failure = undefined
      },
    },
  ]
}
