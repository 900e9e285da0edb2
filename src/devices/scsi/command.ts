/** Commands: what an initiator sends, and the tables that say what a device server does with it (SPC-4 4.3). */
import type { Now } from '../../block/now.ts'
import { CheckCondition, INVALID_COMMAND_OPERATION_CODE, INVALID_FIELD_IN_CDB } from './sense.ts'
import type { Task } from './task.ts'

/** Task attributes (SAM-5 8.7); an untagged command queues like a simple one. */
export type Attribute = 'simple' | 'ordered' | 'head' | 'aca' | 'untagged'

/** What an initiator port sends to a logical unit. */
export interface Command {
  /** Number of the initiator port, such as its id on a parallel bus; 0 where there is only one. */
  readonly initiator: number
  readonly lun: number
  /** 6 to 260 bytes, padding allowed; the task keeps the array, so it must not change. */
  readonly cdb: Uint8Array
  readonly attribute: Attribute
  /** Tag of the nexus; not looked at for untagged commands. */
  readonly tag: number
  /** Whether sense data goes with the status. If not, it waits for REQUEST SENSE, and the nexus is in contingent allegiance. */
  readonly autosense: boolean
}

// SAM-5 table 37: status codes
export const STATUS_GOOD = 0x00
export const STATUS_CHECK_CONDITION = 0x02
export const STATUS_CONDITION_MET = 0x04
export const STATUS_BUSY = 0x08
export const STATUS_RESERVATION_CONFLICT = 0x18
export const STATUS_TASK_SET_FULL = 0x28
export const STATUS_ACA_ACTIVE = 0x30
export const STATUS_TASK_ABORTED = 0x40

/**
 * How a command stands to reservations (SPC-4 table 65, SBC-3 table 13): `any` runs whoever holds one, `read` and `write` as
 * the type lets, `own` for the holder alone.
 */
export type Access = 'any' | 'read' | 'write' | 'own'

/** One row of a command table. */
export interface CommandSpec {
  /** Name in the standard. */
  readonly name: string
  readonly opcode: number
  /** Service action, for an operation code that has several. */
  readonly action?: number
  /**
   * CDB usage data (SPC-4 6.30.3), hexadecimal: the operation code, then a 1 for every bit that is looked at. A 1 where it has
   * a 0 is an invalid field.
   */
  readonly usage: string
  readonly access: Access | ((cdb: Uint8Array) => Access)
  /** Runs with a unit attention pending, and leaves it pending (SAM-5 5.14). */
  readonly unmindful?: boolean
  /** Runs alone in its task set, as if it were ordered: an action that nothing may come in between. */
  readonly exclusive?: boolean
  /** Needs a medium that is ready. */
  readonly medium?: boolean
  /** Does the work: asks the task for a data phase, ends well by returning, or throws a {@link CheckCondition}. */
  readonly run: (task: Task) => Now<void>
}

/** A row, with its usage data as bytes; all rows are of one shape, for every command looks into several. */
export class Row {
  readonly name: string
  readonly opcode: number
  readonly action: number | undefined
  readonly access: CommandSpec['access']
  readonly unmindful: boolean
  readonly exclusive: boolean
  readonly medium: boolean
  readonly run: CommandSpec['run']
  readonly bytes: Uint8Array

  constructor(spec: CommandSpec) {
    this.name = spec.name
    this.opcode = spec.opcode
    this.action = spec.action
    this.access = spec.access
    this.unmindful = spec.unmindful === true
    this.exclusive = spec.exclusive === true
    this.medium = spec.medium === true
    this.run = spec.run
    this.bytes = Uint8Array.from(spec.usage.split(' '), (byte) => Number.parseInt(byte, 16))
  }
}

const LENGTHS = [6, 10, 10, 0, 16, 12, 0, 0]

/** Length of a CDB by its operation code's group (SPC-4 4.2.5.1), bytes; 0 for vendor and reserved groups. */
export function cdbLength(opcode: number): number {
  return LENGTHS[opcode >>> 5]!
}

/** The service action of a CDB: bytes 8 and 9 of a variable-length one, else the low bits of byte 1. */
export function serviceAction(cdb: Uint8Array): number {
  return cdb[0] === 0x7f ? (cdb[8]! << 8) | cdb[9]! : cdb[1]! & 0x1f
}

/** A device server's commands, looked up by operation code and service action. */
export class CommandTable {
  readonly #rows: (Row | undefined)[] = new Array(256).fill(undefined)
  /** By operation code, those that have service actions, by these. */
  readonly #actions: (Map<number, Row> | undefined)[] = new Array(256).fill(undefined)
  readonly #strict: boolean

  /** `strict` refuses a CDB with a bit set that the command does not look at. */
  constructor(specs: readonly CommandSpec[], strict: boolean) {
    this.#strict = strict
    for (const spec of specs) {
      const row = new Row(spec)
      if (spec.action === undefined) this.#rows[spec.opcode] = row
      else (this.#actions[spec.opcode] ??= new Map()).set(spec.action, row)
    }
  }

  /** Every row, by operation code and service action. */
  *rows(): Iterable<Row> {
    for (let opcode = 0; opcode < 256; opcode++) {
      const row = this.#rows[opcode]
      if (row !== undefined) yield row
      const actions = this.#actions[opcode]
      if (actions !== undefined) yield* [...actions.values()].sort((a, b) => a.action! - b.action!)
    }
  }

  /** The row of an operation code; `actions` if it has several. */
  entry(opcode: number): Row | 'actions' | undefined {
    return this.#actions[opcode] === undefined ? this.#rows[opcode] : 'actions'
  }

  /** The row of an operation code and service action. */
  action(opcode: number, action: number): Row | undefined {
    return this.#actions[opcode]?.get(action)
  }

  /** The row of a CDB, if there is one. */
  row(cdb: Uint8Array): Row | undefined {
    const opcode = cdb[0]!
    return this.#rows[opcode] ?? this.#actions[opcode]?.get(serviceAction(cdb))
  }

  /** The row of a CDB; throws INVALID COMMAND OPERATION CODE, or INVALID FIELD IN CDB for an unknown service action. */
  find(cdb: Uint8Array): Row {
    const row = this.row(cdb)
    if (row !== undefined) return row
    if (this.#actions[cdb[0]!] === undefined) throw new CheckCondition(INVALID_COMMAND_OPERATION_CODE)
    throw new CheckCondition(INVALID_FIELD_IN_CDB, {
      field: cdb[0] === 0x7f ? { cdb: true, byte: 8 } : { cdb: true, byte: 1, bit: 4 },
    })
  }

  /** Throws INVALID FIELD IN CDB, with the pointer, where `cdb` has a bit set that the row does not look at. */
  check(row: Row, cdb: Uint8Array, lun: number): void {
    const usage = row.bytes
    const last = usage.length - 1
    for (let i = 1; i <= last; i++) {
      let wrong = cdb[i]! & ~usage[i]!
      if (wrong === 0) continue
      // CONTROL (SAM-5 5.2): the vendor's two bits mean nothing here; LINK, FLAG and NACA would
      if (i === last) wrong &= 0x3f
      else if (!this.#strict) continue
      // SCSI-2 7.2.2: old initiators repeat the LUN in bits 7 to 5
      else if (i === 1 && lun < 8 && (wrong & 0xe0) !== 0 && (cdb[1]! & 0xe0) === lun << 5) wrong &= 0x1f
      if (wrong !== 0) {
        throw new CheckCondition(INVALID_FIELD_IN_CDB, { field: { cdb: true, byte: i, bit: 31 - Math.clz32(wrong) } })
      }
    }
  }
}

/** Big-endian unsigned of 2 bytes. */
export function u16(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!
}

/** Big-endian unsigned of 3 bytes. */
export function u24(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 16) | (bytes[at + 1]! << 8) | bytes[at + 2]!
}

/** Big-endian unsigned of 4 bytes. */
export function u32(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0
}

/** Big-endian unsigned of 8 bytes; above 2^53 it is rounded, which still is past the end of every medium. */
export function u64(bytes: Uint8Array, at: number): number {
  return u32(bytes, at) * 0x100000000 + u32(bytes, at + 4)
}
