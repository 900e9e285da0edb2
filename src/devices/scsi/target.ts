/** A SCSI target device: the task router and the task manager in front of its logical units (SAM-5 4.6.8, 4.6.9, 7). */
import { BlockError } from '../../block/error.ts'
import { after, all, type Now } from '../../block/now.ts'
import type { Saved } from '../machine.ts'
import { AbsentUnit } from './absent.ts'
import type { Command } from './command.ts'
import { commandOf, fieldsOf, listOf, numberOf } from './saved.ts'
import {
  BUS_DEVICE_RESET_OCCURRED,
  type Condition,
  POWER_ON_OR_RESET,
  REPORTED_LUNS_DATA_HAS_CHANGED,
  SCSI_BUS_RESET_OCCURRED,
} from './sense.ts'
import type { PortFlags } from './spc/inquiry.ts'
import type { Task } from './task.ts'
import type { LogicalUnit } from './unit.ts'

/** Highest LUN that flat space addressing reaches (SAM-5 4.7.7.3). */
export const LUN_LIMIT = 16383

/** A task management function of one unit; a task without a tag is the untagged one. */
export type UnitManagement = {
  readonly function:
    | 'abort task'
    | 'query task'
    | 'abort task set'
    | 'clear task set'
    | 'query task set'
    | 'logical unit reset'
    | 'clear aca'
  readonly initiator: number
  readonly lun: number
  readonly tag?: number
}

/** A task management function (SAM-5 7.1). */
export type TaskManagement =
  | UnitManagement
  | { readonly function: 'target reset'; readonly initiator: number }
  | { readonly function: 'i_t nexus reset'; readonly initiator: number }

/** How it ended (SAM-5 7.1): a query that finds something succeeds. */
export type ServiceResponse = 'complete' | 'succeeded' | 'rejected' | 'incorrect lun'

/** A target with its logical units. */
export class ScsiTarget {
  readonly portFlags: PortFlags
  readonly #units = new Map<number, LogicalUnit>()

  constructor(options: { portFlags?: PortFlags } = {}) {
    this.portFlags = options.portFlags ?? {}
  }

  /** The LUNs in ascending order. */
  get luns(): readonly number[] {
    return [...this.#units.keys()].sort((a, b) => a - b)
  }

  unit(lun: number): LogicalUnit | undefined {
    return this.#units.get(lun)
  }

  /** Adds a unit; throws EINVAL for a LUN past {@link LUN_LIMIT} and EEXIST for one that is taken. */
  attach(lun: number, unit: LogicalUnit): this {
    if (!Number.isInteger(lun) || lun < 0 || lun > LUN_LIMIT) {
      throw new BlockError('EINVAL', `Cannot attach a unit as LUN ${lun}: it must be 0 to ${LUN_LIMIT}`)
    }
    if (this.#units.has(lun)) throw new BlockError('EEXIST', `Cannot attach a unit as LUN ${lun}: there is one`)
    for (const other of this.#units.values()) other.attention(REPORTED_LUNS_DATA_HAS_CHANGED)
    this.#units.set(lun, unit)
    unit.lun = lun
    unit.luns = () => this.luns
    unit.lunsReported = (initiator) => this.#reported(initiator)
    unit.portFlags = this.portFlags
    return this
  }

  /** Takes a unit away; completes when its tasks have ended. */
  detach(lun: number): Now<void> {
    const unit = this.#units.get(lun)
    if (unit === undefined) return
    this.#units.delete(lun)
    for (const other of this.#units.values()) other.attention(REPORTED_LUNS_DATA_HAS_CHANGED)
    return unit.reset(POWER_ON_OR_RESET)
  }

  /** Takes a command on. Never throws; what becomes of the command is in the task. */
  submit(command: Command): Task {
    const unit = this.#units.get(command.lun) ?? this.#absent()
    return unit.submit(command)
  }

  /** Lets requests of a unit's tasks begin that may wait for others to join them: the adapter has no more to submit now. */
  kick(lun: number): void {
    this.#units.get(lun)?.kick()
  }

  /** Runs a task management function; completes when no memory lent to an aborted task is touched any more. */
  manage(request: TaskManagement): Now<ServiceResponse> {
    const { initiator } = request
    if (request.function === 'target reset') return after(this.reset(BUS_DEVICE_RESET_OCCURRED), () => 'complete')
    if (request.function === 'i_t nexus reset') {
      const lost = [...this.#units.values()].map((unit) => unit.nexusLoss(initiator))
      return after(all(lost), () => 'complete')
    }
    return this.#manageUnit(request)
  }

  #manageUnit(request: UnitManagement): Now<ServiceResponse> {
    const { initiator } = request
    const unit = this.#units.get(request.lun)
    if (unit === undefined) return 'incorrect lun'
    switch (request.function) {
      case 'abort task':
        return after(unit.abortTask(initiator, request.tag), () => 'complete')
      case 'abort task set':
        return after(unit.abortTaskSet(initiator), () => 'complete')
      case 'clear task set':
        return after(unit.clearTaskSet(initiator), () => 'complete')
      case 'logical unit reset':
        return after(unit.reset(BUS_DEVICE_RESET_OCCURRED), () => 'complete')
      case 'query task':
        return unit.hasTask(initiator, request.tag) ? 'succeeded' : 'complete'
      case 'query task set':
        return unit.tasks.some(({ command }) => command.initiator === initiator) ? 'succeeded' : 'complete'
      case 'clear aca':
        return 'rejected'
    }
  }

  /** Resets all units; by default as after power on. The condition is SCSI BUS RESET OCCURRED after a reset of a parallel bus. */
  reset(condition: Condition = POWER_ON_OR_RESET): Now<void> {
    return all([...this.#units.values()].map((unit) => unit.reset(condition)))
  }

  /** Completes when no task of a unit has a request with the host; the next one may follow. */
  drain(): Now<void> {
    return all([...this.#units.values()].map((unit) => unit.drain()))
  }

  /** The state of all units. The tasks are saved by the adapter that sent them ({@link Task.save}). */
  save(): Saved {
    return [...this.#units].map(([lun, unit]) => ({ lun, unit: unit.save() }))
  }

  /** Takes up a saved state; throws RangeError if it is not one of the same units. The tasks follow, by {@link resume}. */
  restore(state: Saved): Now<void> {
    const saved = listOf(state, LUN_LIMIT + 1).map(fieldsOf)
    if (saved.length !== this.#units.size) throw new RangeError(`the saved SCSI state has ${saved.length} units`)
    return all(
      saved.map(({ lun, unit }) => {
        const there = this.#units.get(numberOf(lun))
        if (there === undefined) throw new RangeError(`the saved SCSI state has a LUN ${String(lun)}`)
        return there.restore(unit!)
      }),
    )
  }

  /** A task that {@link Task.save} wrote, going on where it was. */
  resume(state: Saved): Task {
    const { lun } = commandOf(fieldsOf(state).command)
    return (this.#units.get(lun) ?? this.#absent()).resume(state)
  }

  #absent(): AbsentUnit {
    return new AbsentUnit(
      () => this.luns,
      (initiator) => this.#reported(initiator),
    )
  }

  // SAM-5 5.14: REPORT LUNS tells what the unit attention would tell, of all units
  #reported(initiator: number): void {
    for (const unit of this.#units.values()) unit.forgetAttention(initiator, REPORTED_LUNS_DATA_HAS_CHANGED)
  }

  /** A reset of the parallel bus (SAM-5 6.3.2, hard reset). */
  busReset(): Now<void> {
    return this.reset(SCSI_BUS_RESET_OCCURRED)
  }
}
