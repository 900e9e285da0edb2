/** The commands that every logical unit has: TEST UNIT READY, REQUEST SENSE, REPORT LUNS (SPC-4 6). */
import { type CommandSpec, u32 } from '../command.ts'
import { encodeSense, invalidCdb } from '../sense.ts'
import type { LogicalUnit } from '../unit.ts'

/** Bytes of a LUN list's entry in REPORT LUNS parameter data and everywhere else (SAM-5 4.7.7). */
export const LUN_BYTES = 8

/** Writes a LUN: peripheral device addressing below 256, else flat space addressing. */
export function encodeLun(lun: number, into: Uint8Array, at: number): void {
  into[at] = lun < 256 ? 0 : 0x40 | (lun >>> 8)
  into[at + 1] = lun & 0xff
}

// SPC-4 6.33: what SELECT REPORT asks for
const ADDRESSED = 0x00
const WELL_KNOWN = 0x01
const ALL = 0x02

/** REPORT LUNS; `luns` in ascending order. `reported` is told which initiator port knows them now. */
export function reportLunsCommand(luns: () => readonly number[], reported: (initiator: number) => void): CommandSpec {
  return {
    name: 'REPORT LUNS',
    opcode: 0xa0,
    usage: 'a0 00 ff 00 00 00 ff ff ff ff 00 00',
    access: 'any',
    unmindful: true,
    run(task) {
      const { cdb } = task
      const select = cdb[2]!
      if (select !== ADDRESSED && select !== WELL_KNOWN && select !== ALL) throw invalidCdb(2, 7)
      const allocation = u32(cdb, 6)
      if (allocation < 16) throw invalidCdb(6, 7)
      const list = select === WELL_KNOWN ? [] : luns()
      const data = new Uint8Array(8 + LUN_BYTES * list.length)
      new DataView(data.buffer).setUint32(0, LUN_BYTES * list.length)
      list.forEach((lun, i) => {
        encodeLun(lun, data, 8 + LUN_BYTES * i)
      })
      reported(task.command.initiator)
      task.reply(data, allocation)
    },
  }
}

/** REQUEST SENSE. */
export function requestSenseCommand(unit: LogicalUnit): CommandSpec {
  return {
    name: 'REQUEST SENSE',
    opcode: 0x03,
    usage: '03 01 00 00 ff 00',
    access: 'any',
    unmindful: true,
    run(task) {
      const { cdb, command } = task
      task.reply(encodeSense(unit.takeSense(command.initiator), (cdb[1]! & 1) !== 0), cdb[4]!)
    },
  }
}

/** TEST UNIT READY: the medium check is all of it. */
export const testUnitReady: CommandSpec = {
  name: 'TEST UNIT READY',
  opcode: 0x00,
  usage: '00 00 00 00 00 00',
  access: 'any',
  medium: true,
  run() {},
}

/** The three of them for a unit. */
export function primaryCommands(unit: LogicalUnit): CommandSpec[] {
  return [
    testUnitReady,
    requestSenseCommand(unit),
    reportLunsCommand(
      () => unit.luns(),
      (initiator) => unit.lunsReported(initiator),
    ),
  ]
}
