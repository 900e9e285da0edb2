/** A logical unit: task set, unit attentions, allegiance, and the way of a command to its handler (SAM-5 4.6.15, SPC-4 5). */
import { errnoOf } from '../../block/error.ts'
import { all, type Now } from '../../block/now.ts'
import type { Saved } from '../machine.ts'
import {
  type Command,
  type CommandTable,
  type Row,
  STATUS_RESERVATION_CONFLICT,
  STATUS_TASK_SET_FULL,
} from './command.ts'
import { conditionOf, isFailure } from './failure.ts'
import type { Identity } from './identity.ts'
import { Nexus } from './nexus.ts'
import { Promptness } from './promptness.ts'
import { commandOf, fieldsOf, flagOf, listOf } from './saved.ts'
import {
  CheckCondition,
  COMMANDS_CLEARED_BY_ANOTHER_INITIATOR,
  type Condition,
  encodeSense,
  INTERNAL_TARGET_FAILURE,
  INVALID_MESSAGE_ERROR,
  NEXUS_LOSS_OCCURRED,
  NO_ADDITIONAL_SENSE,
  OVERLAPPED_COMMANDS_ATTEMPTED,
  POWER_ON_OR_RESET,
  type Sense,
  WRITE_ERROR,
} from './sense.ts'
import type { PortFlags } from './spc/inquiry.ts'
import { Stages } from './stage.ts'
import { Task, type TaskOwner } from './task.ts'
import { TASK_LIMIT, TaskSet } from './taskset.ts'

const REQUEST_SENSE = 0x03
const INQUIRY = 0x12

const NEXUS_LIMIT = 256

/** What is common to all logical units. */
export abstract class LogicalUnit implements TaskOwner {
  /** Number of the unit in its target; set when it is attached. */
  lun = 0
  /** LUNs of the whole target, ascending. */
  luns: () => readonly number[] = () => [this.lun]
  /** Called when an initiator port has been told them. */
  lunsReported: (initiator: number) => void = () => {}
  /** What the target port adds to INQUIRY data. */
  portFlags: PortFlags = {}
  readonly stages = new Stages()
  readonly reads = new Promptness()
  readonly writes = new Promptness()
  /** Peripheral device type (SPC-4 table 139). */
  abstract readonly deviceType: number
  abstract readonly identity: Identity
  protected abstract table: CommandTable
  readonly #tasks: TaskSet
  readonly #nexuses = new Map<number, Nexus>()

  constructor() {
    this.#tasks = new TaskSet(
      (task) => this.#begin(task),
      (task) => this.#blocked(task),
    )
  }

  /** The tasks that have not ended. */
  get tasks(): readonly Task[] {
    return this.#tasks.tasks
  }

  /** The initiator ports that have talked to the unit. */
  get initiators(): readonly number[] {
    return [...this.#nexuses.keys()]
  }

  /** Takes a command on; what becomes of it is in the task. */
  submit(command: Command): Task {
    const row = this.table.row(command.cdb)
    const task = new Task(whole(command, row), this, row?.exclusive === true)
    const nexus = this.#nexus(command.initiator)
    const sensing = command.cdb[0] === REQUEST_SENSE
    if (nexus.sense !== undefined && !sensing) this.#endAllegiance(nexus)
    if (command.attribute === 'aca') task.fail(new CheckCondition(INVALID_MESSAGE_ERROR))
    else if (this.#overlaps(command)) {
      this.#abort((other) => other.command.initiator === command.initiator)
      task.fail(new CheckCondition(OVERLAPPED_COMMANDS_ATTEMPTED))
    } else if (this.#tasks.size >= TASK_LIMIT) task.end(STATUS_TASK_SET_FULL)
    else this.#tasks.add(task, sensing && nexus.sense !== undefined)
    return task
  }

  /** Lets the requests of tasks begin that may wait for others to join them; an adapter calls it when it has no more to submit now. */
  kick(): void {}

  /** Establishes a unit attention for every initiator port but `except`. */
  attention(condition: Condition, except?: number): void {
    for (const nexus of this.#nexuses.values()) {
      if (nexus.initiator !== except) nexus.establish(condition)
    }
  }

  /** Establishes a unit attention for one initiator port. */
  attentionFor(initiator: number, condition: Condition): void {
    this.#nexus(initiator).establish(condition)
  }

  /** Takes a unit attention back that an initiator port need not be told any more. */
  forgetAttention(initiator: number, condition: Condition): void {
    this.#nexuses.get(initiator)?.withdraw(condition)
  }

  /** The oldest unit attention of an initiator port; `take` clears it. */
  pendingAttention(initiator: number, take: boolean): Condition | undefined {
    const { attentions } = this.#nexus(initiator)
    return take ? attentions.shift() : attentions[0]
  }

  /** What REQUEST SENSE answers: the sense data that waits, a unit attention, or the unit's state (SPC-4 6.39). */
  takeSense(initiator: number): Sense {
    const nexus = this.#nexus(initiator)
    const { sense } = nexus
    if (sense !== undefined) {
      this.#endAllegiance(nexus)
      return sense
    }
    const { deferred } = nexus
    if (deferred !== undefined) {
      nexus.deferred = undefined
      return deferred
    }
    const attention = nexus.attentions.shift()
    return attention === undefined ? this.pollableSense() : { condition: attention }
  }

  /** Tells an initiator port, at its next command, of an error of work that its command did not wait for (SPC-4 4.5.6). */
  deferError(initiator: number, error: unknown): void {
    const sense = this.senseOf(error)
    if (sense === undefined) return
    const { condition, information } = sense
    this.#nexus(initiator).deferred = { condition, deferred: true, ...(information !== undefined && { information }) }
  }

  /** Whether an initiator port has sense data waiting, which old adapters ask before they send REQUEST SENSE. */
  hasSense(initiator: number): boolean {
    return this.#nexuses.get(initiator)?.sense !== undefined
  }

  // ---- saved states ----

  /** What the unit keeps for its initiator ports; a kind of unit adds to it. Tasks are saved by whoever sent them. */
  save(): Saved {
    return {
      nexuses: [...this.#nexuses.values()].map((nexus) => nexus.save()),
    }
  }

  /** Takes up a saved state of the same kind of unit; throws RangeError for anything else. */
  restore(state: Saved): Now<void> {
    const nexuses = listOf(fieldsOf(state).nexuses, NEXUS_LIMIT).map((saved) => Nexus.of(saved))
    this.#nexuses.clear()
    for (const nexus of nexuses) this.#nexuses.set(nexus.initiator, nexus)
  }

  /** A task that {@link Task.save} wrote, going on where it was. */
  resume(state: Saved): Task {
    const saved = fieldsOf(state)
    const command = commandOf(saved.command)
    const row = this.table.row(command.cdb)
    const task = new Task(whole(command, row), this, row?.exclusive === true)
    if (!flagOf(saved.begun) && !flagOf(saved.ended)) {
      this.#tasks.add(task)
      return task
    }
    if (!flagOf(saved.ended)) this.#tasks.adopt(task)
    try {
      task.resume(state, (again) => {
        if (row === undefined) throw new CheckCondition(INTERNAL_TARGET_FAILURE)
        return row.run(again)
      })
    } catch (error) {
      this.#tasks.remove(task)
      throw error
    }
    return task
  }

  // ---- task management (SAM-5 7) ----

  /** Whether a task of this tag (or untagged, without one) has not ended. */
  hasTask(initiator: number, tag: number | undefined): boolean {
    return this.tasks.some((task) => isTask(task, initiator, tag))
  }

  /** ABORT TASK: by its tag, or the untagged one. */
  abortTask(initiator: number, tag: number | undefined): Now<void> {
    return this.#abort((task) => isTask(task, initiator, tag))
  }

  /** ABORT TASK SET: all tasks of an initiator port. */
  abortTaskSet(initiator: number): Now<void> {
    return this.#abort(({ command }) => command.initiator === initiator)
  }

  /** CLEAR TASK SET: the tasks of all; the others are told of it, by status or by unit attention (TAS, SPC-4 7.5.8). */
  clearTaskSet(initiator: number): Now<void> {
    return this.abortOthers(initiator, () => true)
  }

  /** Aborts tasks in the name of `initiator`; the other ports whose tasks end are told of it. */
  abortOthers(initiator: number, which: (task: Task) => boolean): Now<void> {
    const announce = this.announcesAborts
    const told = new Set<number>()
    for (const task of this.#tasks.tasks) if (which(task)) told.add(task.command.initiator)
    told.delete(initiator)
    if (!announce) for (const other of told) this.attentionFor(other, COMMANDS_CLEARED_BY_ANOTHER_INITIATOR)
    return this.#abort(which, (task) => announce && task.command.initiator !== initiator)
  }

  /**
   * Reset of the unit (SAM-5 6.3.3): all tasks are gone, what is not persistent has its saved or default value, and every
   * initiator port gets `condition`. Completes when no memory of the guest is touched any more.
   */
  reset(condition: Condition): Now<void> {
    for (const nexus of this.#nexuses.values()) nexus.forget()
    const aborted = this.#abort(() => true)
    for (const nexus of this.#nexuses.values()) nexus.attentions = [condition]
    return all([aborted, this.resetUnit()])
  }

  /** Loss of the nexus (SAM-5 6.3.4): the initiator port's tasks are gone, and it is told so when it comes again. */
  nexusLoss(initiator: number): Now<void> {
    const nexus = this.#nexus(initiator)
    nexus.forget()
    nexus.establish(NEXUS_LOSS_OCCURRED)
    return this.abortTaskSet(initiator)
  }

  // ---- what a kind of unit says ----

  /** Completes when no task has a request with the host. */
  abstract drain(): Now<void>

  /** Resets what the kind of unit has: requests with the host, mode parameters, reservations of the moment. */
  protected abstract resetUnit(): Now<void>

  /** Takes back requests that the disk holds for tasks that were aborted. */
  protected abstract dropHeld(): void

  /** Whether sense data is in descriptor format (D_SENSE, SPC-4 7.5.8). */
  protected abstract get descriptorSense(): boolean

  /** Whether tasks that another initiator port aborts end with TASK ABORTED (TAS). */
  protected abstract get announcesAborts(): boolean

  /** A task ended with CHECK CONDITION: which others end with it (QERR, SPC-4 7.5.8). */
  protected abstract get queueErrors(): 'none' | 'all' | 'nexus'

  /** Throws NOT READY if there is no medium to work on. */
  protected abstract checkMedium(): void

  /** Throws NOT READY for a command that cannot run beside what the unit does in the background. */
  protected abstract checkBusy(row: Row): void

  /** Whether a reservation of another initiator port lets the command run. */
  protected abstract mayRun(row: Row, task: Task): boolean

  /** The unit attention of an initiator port that the unit does not know yet. */
  protected powerOnAttention(): Condition | undefined {
    return POWER_ON_OR_RESET
  }

  /** Sense data of the unit's state when no error waits to be told. */
  protected pollableSense(): Sense {
    return { condition: NO_ADDITIONAL_SENSE }
  }

  // ---- TaskOwner ----

  // Reads say themselves that it was one; what else fails was to change the medium
  senseOf(error: unknown): Sense | undefined {
    if (error instanceof CheckCondition) return error
    if (errnoOf(error) === 'ECANCELED') return undefined
    return { condition: isFailure(error) ? conditionOf(error, WRITE_ERROR) : INTERNAL_TARGET_FAILURE }
  }

  checked(task: Task, sense: Sense): Uint8Array | undefined {
    const { autosense, initiator } = task.command
    if (!autosense) {
      const nexus = this.#nexus(initiator)
      if (nexus.sense !== undefined) {
        nexus.waiting.push({ task, sense })
        return undefined
      }
      nexus.sense = sense
    }
    const errors = this.queueErrors
    if (errors !== 'none') {
      this.abortOthers(
        initiator,
        (other) => other !== task && (errors === 'all' || other.command.initiator === initiator),
      )
    }
    return encodeSense(sense, this.descriptorSense)
  }

  ended(task: Task): void {
    this.#tasks.remove(task)
  }

  #begin(task: Task): void {
    task.run(() => {
      const { command } = task
      const row = this.#admit(command)
      if (this.mayRun(row, task)) return row.run(task)
      task.status = STATUS_RESERVATION_CONFLICT
    })
  }

  /** The row of a command that may run; throws what stands against it, in the order of SAM-5 5.3.3. */
  #admit({ cdb, initiator, lun }: Command): Row {
    const nexus = this.#nexus(initiator)
    const attention = nexus.attentions[0]
    const { deferred } = nexus
    if (deferred !== undefined && cdb[0] !== INQUIRY && cdb[0] !== REQUEST_SENSE) {
      nexus.deferred = undefined
      throw new CheckCondition(deferred.condition, deferred)
    }
    const row = attention === undefined ? this.table.find(cdb) : this.#attended(nexus, attention, cdb)
    this.table.check(row, cdb, lun)
    this.checkBusy(row)
    if (row.medium) this.checkMedium()
    return row
  }

  #attended(nexus: Nexus, attention: Condition, cdb: Uint8Array): Row {
    const row = this.table.row(cdb)
    if (row?.unmindful) return row
    nexus.attentions.shift()
    throw new CheckCondition(attention)
  }

  #nexus(initiator: number): Nexus {
    let nexus = this.#nexuses.get(initiator)
    if (nexus === undefined) {
      nexus = new Nexus(initiator, this.powerOnAttention())
      this.#nexuses.set(initiator, nexus)
    }
    return nexus
  }

  #endAllegiance(nexus: Nexus): void {
    nexus.sense = undefined
    const next = nexus.waiting.shift()
    if (next !== undefined) next.task.check(next.sense)
    if (nexus.sense === undefined) this.#tasks.wake()
  }

  #blocked(task: Task): boolean {
    return this.#nexuses.get(task.command.initiator)?.sense !== undefined
  }

  // SAM-5 5.11: the same tag, or a second untagged command, of one nexus
  #overlaps({ initiator, attribute, tag }: Command): boolean {
    for (const { command } of this.#tasks.tasks) {
      if (command.initiator !== initiator) continue
      const untagged = attribute === 'untagged'
      if (untagged === (command.attribute === 'untagged') && (untagged || command.tag === tag)) return true
    }
    return false
  }

  #abort(which: (task: Task) => boolean, announce: (task: Task) => boolean = () => false): Now<void> {
    const aborted = this.#tasks.tasks.filter(which)
    for (const nexus of this.#nexuses.values()) {
      nexus.waiting = nexus.waiting.filter(({ task }) => !aborted.includes(task))
    }
    const later = aborted.map((task) => task.abort(announce(task)))
    this.dropHeld()
    return all(later)
  }
}

function isTask({ command }: Task, initiator: number, tag: number | undefined): boolean {
  if (command.initiator !== initiator) return false
  return tag === undefined ? command.attribute === 'untagged' : command.attribute !== 'untagged' && command.tag === tag
}

/** The command with a CDB that is not shorter than its operation code wants. */
function whole(command: Command, row: Row | undefined): Command {
  const { cdb } = command
  const length = Math.max(row?.bytes.length ?? 0, 6)
  if (cdb.length >= length) return command
  const padded = new Uint8Array(length)
  padded.set(cdb)
  return { ...command, cdb: padded }
}
