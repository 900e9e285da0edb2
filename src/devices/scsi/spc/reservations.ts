/** Reservations: PERSISTENT RESERVE IN and OUT (SPC-4 5.13, 6.15, 6.16) and the RESERVE and RELEASE of SPC-2. */
import { after, type Now } from '../../../block/now.ts'
import { type Access, type CommandSpec, type Row, STATUS_RESERVATION_CONFLICT, u16, u32 } from '../command.ts'
import {
  CheckCondition,
  type Condition,
  INSUFFICIENT_REGISTRATION_RESOURCES,
  INVALID_RELEASE_OF_PERSISTENT_RESERVATION,
  invalidCdb,
  invalidParameter,
  PARAMETER_LIST_LENGTH_ERROR,
  REGISTRATIONS_PREEMPTED,
  RESERVATIONS_PREEMPTED,
  RESERVATIONS_RELEASED,
} from '../sense.ts'
import type { Task } from '../task.ts'
import {
  capabilitiesData,
  fullStatusData,
  keysData,
  letsRead,
  ofAllRegistrants,
  ofRegistrants,
  type Reservation,
  type ReservationData,
  reservationData,
  TYPES,
} from './reservationdata.ts'

const REGISTRATION_LIMIT = 256
const LIST_LENGTH = 24
const LIST_FLAGS = 20
const APTPL = 1 << 0
const ALL_TG_PT = 1 << 2
const SPEC_I_PT = 1 << 3

/** What a unit does for its reservations. */
export interface Reserved {
  attentionFor(initiator: number, condition: Condition): void
  abortOthers(initiator: number, which: (task: Task) => boolean): Now<void>
}

/** All of a unit's reservations. Persistent ones outlast resets, not a loss of power (no APTPL). */
export class Reservations {
  readonly #unit: Reserved
  readonly #keys = new Map<number, bigint>()
  #generation = 0
  #reservation: Reservation | undefined
  /** Initiator port that holds the unit by RESERVE. */
  #reservedBy: number | undefined

  constructor(unit: Reserved) {
    this.#unit = unit
  }

  /** Whether reservations let `initiator` run a command. */
  allows(row: Row, cdb: Uint8Array, initiator: number): boolean {
    if (this.#reservedBy !== undefined && this.#reservedBy !== initiator) {
      return row.unmindful === true || row.opcode === RELEASE_6 || row.opcode === RELEASE_10
    }
    const reservation = this.#reservation
    if (reservation === undefined) return true
    const access: Access = typeof row.access === 'function' ? row.access(cdb) : row.access
    if (access === 'any' || this.#holds(initiator)) return true
    if (ofRegistrants(reservation.type) && this.#keys.has(initiator)) return true
    return access === 'read' && letsRead(reservation.type)
  }

  /** A reset ends the reservation that RESERVE made. */
  reset(): void {
    this.#reservedBy = undefined
  }

  /** All of it, for a saved state: generation, type, holder and RESERVE's holder (-1: none), then port and key by turns. */
  save(): readonly (number | string)[] {
    const keys = [...this.#keys].flatMap(([initiator, key]) => [initiator, key.toString(16)])
    const { type = 0, holder = -1 } = this.#reservation ?? {}
    return [this.#generation, type, holder, this.#reservedBy ?? -1, ...keys]
  }

  /** Takes up what {@link save} gave; throws RangeError for anything else. */
  restore(saved: readonly unknown[]): void {
    const [generation, type, holder, reservedBy, ...keys] = saved
    const numbers = [generation, type, holder, reservedBy]
    if (
      !numbers.every((value) => Number.isInteger(value)) ||
      keys.length % 2 !== 0 ||
      keys.length > 2 * REGISTRATION_LIMIT
    ) {
      throw new RangeError('this is no state of reservations')
    }
    const [count, kind, by, old] = numbers as [number, number, number, number]
    const registered: [number, bigint][] = []
    for (let i = 0; i < keys.length; i += 2) {
      const [initiator, key] = [keys[i], keys[i + 1]]
      if (!Number.isInteger(initiator) || typeof key !== 'string' || !/^[0-9a-f]{1,16}$/.test(key)) {
        throw new RangeError('this is no registration')
      }
      registered.push([initiator as number, BigInt(`0x${key}`)])
    }
    this.#keys.clear()
    for (const [initiator, key] of registered) this.#keys.set(initiator, key)
    this.#generation = count
    this.#reservation = TYPES.includes(kind) ? { type: kind, holder: by } : undefined
    this.#reservedBy = old < 0 ? undefined : old
  }

  /** PERSISTENT RESERVE IN and OUT, RESERVE and RELEASE. */
  commands(): CommandSpec[] {
    const persistent = (
      opcode: number,
      usage: string,
      actions: readonly (readonly [name: string, action: number, run: (task: Task) => void])[],
    ) =>
      actions.map(([name, action, run]): CommandSpec => {
        const command = `PERSISTENT RESERVE ${opcode === RESERVE_IN ? 'IN' : 'OUT'}, ${name}`
        return { name: command, opcode, action, usage, access: 'any', run }
      })
    const reply = (bytes: () => Uint8Array) => (task: Task) => task.reply(bytes(), u16(task.cdb, 7))
    const out = (run: (list: Uint8Array, task: Task) => Now<boolean>) => (task: Task) => this.#out(task, run)
    const old = (name: string, opcode: number, usage: string, run: (task: Task) => void): CommandSpec => {
      return { name, opcode, usage, access: 'any', run }
    }
    return [
      ...persistent(RESERVE_IN, '5e 1f 00 00 00 00 00 ff ff 00', [
        ['READ KEYS', 0, reply(() => keysData(this.#data()))],
        ['READ RESERVATION', 1, reply(() => reservationData(this.#data()))],
        ['REPORT CAPABILITIES', 2, reply(capabilitiesData)],
        ['READ FULL STATUS', 3, reply(() => fullStatusData(this.#data(), (initiator) => this.#holds(initiator)))],
      ]),
      ...persistent(RESERVE_OUT, '5f 1f 00 00 00 ff ff ff ff 00', [
        ['REGISTER', 0, out((list, task) => this.#register(list, task, false))],
        ['CLEAR', 3, out((list, task) => this.#clear(list, task))],
        ['REGISTER AND IGNORE EXISTING KEY', 6, out((list, task) => this.#register(list, task, true))],
      ]),
      ...persistent(RESERVE_OUT, '5f 1f ff 00 00 ff ff ff ff 00', [
        ['RESERVE', 1, out((list, task) => this.#reserve(list, task))],
        ['RELEASE', 2, out((list, task) => this.#release(list, task))],
        ['PREEMPT', 4, out((list, task) => this.#preempt(list, task, false))],
        ['PREEMPT AND ABORT', 5, out((list, task) => this.#preempt(list, task, true))],
      ]),
      old('RESERVE(6)', 0x16, '16 00 00 00 00 00', (task) => this.#reserveOld(task)),
      old('RELEASE(6)', RELEASE_6, '17 00 00 00 00 00', (task) => this.#releaseOld(task)),
      old('RESERVE(10)', 0x56, '56 00 00 00 00 00 00 00 00 00', (task) => this.#reserveOld(task)),
      old('RELEASE(10)', RELEASE_10, '57 00 00 00 00 00 00 00 00 00', (task) => this.#releaseOld(task)),
    ]
  }

  #data(): ReservationData {
    return { generation: this.#generation, keys: this.#keys, reservation: this.#reservation }
  }

  #holds(initiator: number): boolean {
    const reservation = this.#reservation
    if (reservation === undefined) return false
    return ofAllRegistrants(reservation.type) ? this.#keys.has(initiator) : reservation.holder === initiator
  }

  // SPC-4 6.16

  #out(task: Task, run: (list: Uint8Array, task: Task) => Now<boolean>): void {
    const { cdb } = task
    const length = u32(cdb, 5)
    if (length !== LIST_LENGTH) throw new CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    if (this.#reservedBy !== undefined) {
      task.status = STATUS_RESERVATION_CONFLICT
      return
    }
    task.receive(length, (list) => {
      const flags = list[LIST_FLAGS]!
      if ((flags & SPEC_I_PT) !== 0) throw invalidParameter(LIST_FLAGS, 3)
      if ((flags & ALL_TG_PT) !== 0) throw invalidParameter(LIST_FLAGS, 2)
      if ((flags & APTPL) !== 0) throw invalidParameter(LIST_FLAGS, 0)
      return after(run(list, task), (done) => {
        if (!done) task.status = STATUS_RESERVATION_CONFLICT
      })
    })
  }

  /** Whether the list's RESERVATION KEY is that of the registered nexus. */
  #proves(list: Uint8Array, initiator: number): boolean {
    const key = this.#keys.get(initiator)
    return key !== undefined && key === keyAt(list, 0)
  }

  #register(list: Uint8Array, { command: { initiator } }: Task, ignore: boolean): boolean {
    const next = keyAt(list, 8)
    const known = this.#keys.get(initiator)
    if (!ignore && keyAt(list, 0) !== (known ?? 0n)) return false
    if (next !== 0n) {
      if (known === undefined && this.#keys.size >= REGISTRATION_LIMIT) {
        throw new CheckCondition(INSUFFICIENT_REGISTRATION_RESOURCES)
      }
      this.#keys.set(initiator, next)
      this.#generation = (this.#generation + 1) >>> 0
    } else if (known !== undefined) {
      this.#unregister(initiator)
      this.#generation = (this.#generation + 1) >>> 0
    }
    return true
  }

  // SPC-4 5.13.11.3
  #unregister(initiator: number): void {
    const reservation = this.#reservation
    const held = this.#holds(initiator)
    this.#keys.delete(initiator)
    if (reservation === undefined || !held) return
    if (ofAllRegistrants(reservation.type) && this.#keys.size > 0) return
    this.#reservation = undefined
    if (ofRegistrants(reservation.type)) this.#tell(RESERVATIONS_RELEASED)
  }

  #reserve(list: Uint8Array, { cdb, command: { initiator } }: Task): boolean {
    if (!this.#proves(list, initiator)) return false
    const type = checkedType(cdb)
    const reservation = this.#reservation
    if (reservation !== undefined) return this.#holds(initiator) && reservation.type === type
    this.#reservation = { holder: initiator, type }
    return true
  }

  #release(list: Uint8Array, { cdb, command: { initiator } }: Task): boolean {
    if (!this.#proves(list, initiator)) return false
    const reservation = this.#reservation
    if (reservation === undefined || !this.#holds(initiator)) return true
    if (checkedType(cdb) !== reservation.type) throw new CheckCondition(INVALID_RELEASE_OF_PERSISTENT_RESERVATION)
    this.#reservation = undefined
    if (ofRegistrants(reservation.type)) this.#tell(RESERVATIONS_RELEASED, initiator)
    return true
  }

  #clear(list: Uint8Array, { command: { initiator } }: Task): boolean {
    if (!this.#proves(list, initiator)) return false
    this.#tell(RESERVATIONS_PREEMPTED, initiator)
    this.#keys.clear()
    this.#reservation = undefined
    this.#generation = (this.#generation + 1) >>> 0
    return true
  }

  // SPC-4 5.13.11.4
  #preempt(list: Uint8Array, { cdb, command: { initiator } }: Task, abort: boolean): Now<boolean> {
    if (!this.#proves(list, initiator)) return false
    const victim = keyAt(list, 8)
    const reservation = this.#reservation
    const everyone = reservation !== undefined && ofAllRegistrants(reservation.type)
    if (victim === 0n && !everyone) throw invalidParameter(8)
    const holderKey = reservation === undefined || everyone ? undefined : this.#keys.get(reservation.holder)
    const takes = everyone ? victim === 0n : holderKey === victim
    const gone = [...this.#keys].filter(
      ([other, key]) => (takes && everyone ? true : key === victim) && other !== initiator,
    )
    if (!takes && gone.length === 0 && this.#keys.get(initiator) !== victim) return false
    const type = takes ? checkedType(cdb) : 0
    for (const [other] of gone) {
      this.#keys.delete(other)
      this.#unit.attentionFor(other, REGISTRATIONS_PREEMPTED)
    }
    if (takes) {
      if (reservation!.type !== type) this.#tell(RESERVATIONS_RELEASED, initiator)
      this.#reservation = { holder: initiator, type }
    } else if (this.#keys.get(initiator) === victim) this.#unregister(initiator)
    this.#generation = (this.#generation + 1) >>> 0
    if (!abort) return true
    const ports = new Set(gone.map(([other]) => other))
    return after(
      this.#unit.abortOthers(initiator, (task) => ports.has(task.command.initiator)),
      () => true,
    )
  }

  #tell(condition: Condition, except?: number): void {
    for (const initiator of this.#keys.keys()) {
      if (initiator !== except) this.#unit.attentionFor(initiator, condition)
    }
  }

  // SPC-2 7.21, 7.25; persistent registrations exclude it (SPC-4 5.13.3)

  #reserveOld(task: Task): void {
    const { initiator } = task.command
    if (this.#keys.size > 0) task.status = STATUS_RESERVATION_CONFLICT
    else this.#reservedBy = initiator
  }

  #releaseOld(task: Task): void {
    if (this.#keys.size > 0) task.status = STATUS_RESERVATION_CONFLICT
    else if (this.#reservedBy === task.command.initiator) this.#reservedBy = undefined
  }
}

const RESERVE_IN = 0x5e
const RESERVE_OUT = 0x5f
const RELEASE_6 = 0x17
const RELEASE_10 = 0x57

function keyAt(list: Uint8Array, at: number): bigint {
  return new DataView(list.buffer, list.byteOffset).getBigUint64(at)
}

/** The type in byte 2 of the CDB; throws INVALID FIELD IN CDB for another scope than the unit's, or an unknown type. */
function checkedType(cdb: Uint8Array): number {
  if (cdb[2]! >>> 4 !== 0) throw invalidCdb(2, 7)
  const type = cdb[2]! & 0x0f
  if (!TYPES.includes(type)) throw invalidCdb(2, 3)
  return type
}
