/** REPORT SUPPORTED OPERATION CODES and REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 6.34, 6.35). */
import { type CommandSpec, type CommandTable, type Row, u16, u32 } from '../command.ts'
import { invalidCdb } from '../sense.ts'
import type { Task } from '../task.ts'

const TIMEOUTS = 12
const NOT_SUPPORTED = 1
const SUPPORTED = 3

// ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, QUERY TASK, TARGET RESET; QUERY TASK SET, I_T NEXUS RESET
const FUNCTIONS = [0xde, 0x03] as const

/** Both commands; `table` is the unit's own. */
export function reportCommands(table: () => CommandTable): CommandSpec[] {
  return [
    {
      name: 'REPORT SUPPORTED OPERATION CODES',
      opcode: 0xa3,
      action: 0x0c,
      usage: 'a3 1f 87 ff ff ff ff ff ff ff 00 00',
      access: 'any',
      run: (task) => reportOpcodes(table(), task),
    },
    {
      name: 'REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS',
      opcode: 0xa3,
      action: 0x0d,
      usage: 'a3 1f 80 00 00 00 ff ff ff ff 00 00',
      access: 'any',
      run(task) {
        const { cdb } = task
        const allocation = u32(cdb, 6)
        if (allocation < 4) throw invalidCdb(6, 7)
        const extended = (cdb[2]! & 0x80) !== 0
        const bytes = new Uint8Array(extended ? 16 : 4)
        bytes.set(FUNCTIONS)
        if (extended) bytes[3] = 12
        task.reply(bytes, allocation)
      },
    },
  ]
}

function reportOpcodes(table: CommandTable, task: Task): void {
  const { cdb } = task
  const timeouts = (cdb[2]! & 0x80) !== 0
  const opcode = cdb[3]!
  const action = u16(cdb, 4)
  const allocation = u32(cdb, 6)
  const entry = table.entry(opcode)
  const several = entry === 'actions'
  switch (cdb[2]! & 7) {
    case 0:
      task.reply(allCommands(table, timeouts), allocation)
      return
    case 1:
      if (several) throw invalidCdb(2, 2)
      task.reply(oneCommand(entry, timeouts), allocation)
      return
    case 2:
      if (entry !== undefined && !several) throw invalidCdb(2, 2)
      task.reply(oneCommand(table.action(opcode, action), timeouts), allocation)
      return
    case 3:
      if (several) task.reply(oneCommand(table.action(opcode, action), timeouts), allocation)
      else task.reply(oneCommand(action === 0 ? entry : undefined, timeouts), allocation)
      return
    default:
      throw invalidCdb(2, 2)
  }
}

function allCommands(table: CommandTable, timeouts: boolean): Uint8Array {
  const rows = [...table.rows()]
  const each = 8 + (timeouts ? TIMEOUTS : 0)
  const bytes = new Uint8Array(4 + each * rows.length)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, each * rows.length)
  rows.forEach((row, i) => {
    const at = 4 + each * i
    bytes[at] = row.opcode
    view.setUint16(at + 2, row.action ?? 0)
    bytes[at + 5] = (timeouts ? 2 : 0) | (row.action === undefined ? 0 : 1)
    view.setUint16(at + 6, row.bytes.length)
    if (timeouts) view.setUint16(at + 8, TIMEOUTS - 2)
  })
  return bytes
}

function oneCommand(row: Row | undefined, timeouts: boolean): Uint8Array {
  if (row === undefined) return Uint8Array.of(0, NOT_SUPPORTED, 0, 0)
  const usage = row.bytes
  const bytes = new Uint8Array(4 + usage.length + (timeouts ? TIMEOUTS : 0))
  bytes[1] = SUPPORTED | (timeouts ? 0x80 : 0)
  bytes[3] = usage.length
  bytes.set(usage, 4)
  // SPC-4 6.34.3: the usage data has the service action itself
  if (row.action !== undefined) bytes[5] = (usage[1]! & 0xe0) | row.action
  if (timeouts) bytes[4 + usage.length + 1] = TIMEOUTS - 2
  return bytes
}
