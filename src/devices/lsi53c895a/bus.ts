/** The parallel SCSI bus behind the chip: selection, phases, messages, disconnection (SPI-3, chapters 10 to 16). */
import type { IoVec } from '../../block/iovec.ts'
import { after, all, isLater, type Now, settle } from '../../block/now.ts'
import type { Saved } from '../machine.ts'
import { type Attribute, cdbLength, type ScsiTarget, type Task, type TaskManagement } from '../scsi/index.ts'
import { bytesOf, fieldsOf, flagOf, listOf, numberOf } from '../scsi/saved.ts'
import { CheckCondition, INITIATOR_DETECTED_ERROR_MESSAGE_RECEIVED } from '../scsi/sense.ts'
import { Connections, connectionsOf } from './connections.ts'
import * as message from './messages.ts'
import { INITIATOR, MESSAGES_LIMIT, managementOf, type Nexus, NONE, newNexus } from './nexus.ts'
import { PHASE_COMMAND, PHASE_DATA_IN, PHASE_DATA_OUT, PHASE_MSG_IN, PHASE_MSG_OUT, PHASE_STATUS } from './registers.ts'

/** What the chip wants to hear of. */
export interface BusEvents {
  /** A phase has come, or the bus went free, after {@link ScsiBus.phase} was undefined. */
  phaseChanged(): void
  /** A target wants to reselect. */
  reselecting(): void
  /** The bus went free. */
  busFree(): void
}

const ATTRIBUTES: Readonly<Partial<Record<number, Attribute>>> = {
  [message.SIMPLE]: 'simple',
  [message.HEAD_OF_QUEUE]: 'head',
  [message.ORDERED]: 'ordered',
  [message.ACA]: 'aca',
}

const COMPLETE = [message.TASK_COMPLETE]
const DISCONNECT = [message.DISCONNECT]
const SAVE_AND_DISCONNECT = [message.SAVE_DATA_POINTER, message.DISCONNECT]
const REJECT = [message.MESSAGE_REJECT]

/** Message bytes that a target takes without an end before it gives up: no agreement needs as many. */
const MESSAGE_LIMIT = 300

/** Bytes of a command whose group does not say how many it has. */
const UNKNOWN_LIMIT = 16

/** The bus with its targets. The chip is the initiator and drives it; nothing here throws. */
export class ScsiBus {
  readonly #targets: ReadonlyMap<number, ScsiTarget>
  readonly #events: BusEvents
  readonly #wide: boolean
  #current: Nexus | undefined
  #phase: number | undefined
  #attention = false
  #messageOut: number[] = []
  /** Set between the last byte of MESSAGE IN and the release of SACK/: what the message announced happens then. */
  #acknowledge = false
  readonly #connections = new Connections()
  #generation = 0
  /** Whose data the transfer under way moves, and what it had moved before. */
  #moving: Nexus | undefined
  #movedBefore = 0
  /** Whose target has asked the host for something since the last {@link kick}. */
  #asking: Nexus | undefined

  constructor(targets: ReadonlyMap<number, ScsiTarget>, events: BusEvents, wide: boolean) {
    this.#targets = targets
    this.#events = events
    this.#wide = wide
  }

  get connected(): boolean {
    return this.#current !== undefined
  }

  /** The phase that the target asserts with SREQ/; undefined while it is busy or the bus is free. */
  get phase(): number | undefined {
    return this.#phase
  }

  get attention(): boolean {
    return this.#attention
  }

  /** Whether SACK/ is still asserted after the last message byte. */
  get acknowledging(): boolean {
    return this.#acknowledge
  }

  /** Whether a target waits for the bus to reselect. */
  get isReselecting(): boolean {
    return this.#connections.isReselecting
  }

  /** Whether the connection is over but for the release of SACK/. */
  get ending(): boolean {
    return this.#acknowledge && this.#current !== undefined && this.#current.sequel !== 'go on'
  }

  /** Selects a target, with SATN/ or without; false if there is none at `id`. */
  select(id: number, attention: boolean): boolean {
    const target = this.#targets.get(id)
    if (target === undefined) return false
    this.#attention = attention
    this.#messageOut = []
    this.#acknowledge = false
    this.#current = newNexus(id, target)
    this.#phase = attention ? PHASE_MSG_OUT : PHASE_COMMAND
    return true
  }

  /** Lets the first waiting target reselect; its id, or undefined if none waits. */
  reselect(): number | undefined {
    const nexus = this.#connections.next()
    if (nexus === undefined) return undefined
    this.#current = nexus
    this.#messageOut = []
    const tag = nexus.attribute === 'untagged' ? [] : [message.SIMPLE, nexus.tag]
    nexus.messages = [message.IDENTIFY | nexus.lun, ...tag]
    nexus.sequel = 'go on'
    this.#phase = PHASE_MSG_IN
    return nexus.id
  }

  /** Asserts SATN/: the target turns to MESSAGE OUT at its next phase change. */
  setAttention(): void {
    this.#attention = true
    if (this.#current !== undefined && this.#phase !== undefined && !this.#acknowledge) this.#phase = PHASE_MSG_OUT
  }

  /** Takes messages from an initiator that selected without SATN/ and sends them all the same, as SeaBIOS does. */
  expectMessage(): void {
    const nexus = this.#current
    const fresh = nexus !== undefined && !nexus.identified && nexus.command.length === 0 && nexus.task === undefined
    if (fresh && this.#phase === PHASE_COMMAND) this.#phase = PHASE_MSG_OUT
  }

  /** Negates SATN/ for an initiator that hands over every byte itself: the target asks for one more. */
  negateAttention(): void {
    this.#attention = false
  }

  /** Negates SATN/: the target goes on from MESSAGE OUT. */
  clearAttention(): void {
    this.#attention = false
    if (this.#phase === PHASE_MSG_OUT && this.#current !== undefined) this.#advance(this.#current)
  }

  /** Releases SACK/: what the last message announced happens now. */
  clearAcknowledge(): void {
    if (!this.#acknowledge) return
    this.#acknowledge = false
    const nexus = this.#current
    if (nexus === undefined) return
    if (this.#attention) this.#phase = PHASE_MSG_OUT
    else this.#afterMessages(nexus)
  }

  /** Bytes that a data phase moves by {@link exchange} without waiting for the medium; 0 where a {@link transfer} is better. */
  get ready(): number {
    const task = this.#isData ? this.#current!.task! : undefined
    return task === undefined || task.straight ? 0 : task.ready
  }

  /** Bytes that a data phase has left to move. */
  get left(): number {
    const task = this.#isData ? this.#current!.task! : undefined
    return task === undefined ? 0 : task.length - task.transferred
  }

  get #isData(): boolean {
    return this.#phase === PHASE_DATA_IN || this.#phase === PHASE_DATA_OUT
  }

  /**
   * Moves bytes of a phase to the target or from it, as many as the phase has; of a data phase no more than are {@link ready}.
   */
  exchange(bytes: Uint8Array): number {
    const nexus = this.#current
    if (nexus === undefined) return 0
    switch (this.#phase) {
      case PHASE_MSG_OUT:
        return this.#takeMessages(nexus, bytes)
      case PHASE_COMMAND:
        return this.#takeCommand(nexus, bytes)
      case PHASE_MSG_IN:
        return this.#giveMessages(nexus, bytes)
      case PHASE_STATUS:
        return this.#giveStatus(nexus, bytes)
      case PHASE_DATA_IN:
      case PHASE_DATA_OUT:
        nexus.task!.pass(bytes)
        this.#advance(nexus)
        return bytes.length
      default:
        return 0
    }
  }

  /**
   * Moves bytes of a data phase from the target into `vec`, or from it to the target; as many as the phase has. The answer is
   * later while the target waits for its medium, and 0 if the connection went away meanwhile.
   */
  transfer(vec: IoVec): Now<number> {
    const nexus = this.#current
    if (nexus === undefined || !this.#isData) return 0
    return this.#moveData(nexus, vec)
  }

  /** SRST/: every connection and command is gone; completes when no memory is touched any more. */
  reset(): Now<void> {
    this.#disband()
    return all([...this.#targets.values()].map((target) => target.busReset()))
  }

  /** Completes when no target has a request with the host; what a target does then may take a turn of the event loop. */
  drain(): Now<void> {
    return all([...this.#targets.values()].map((target) => target.drain()))
  }

  /** Says that the program rests: nothing joins the requests that its commands have led to so far. */
  kick(): void {
    const nexus = this.#asking
    if (nexus === undefined) return
    this.#asking = undefined
    nexus.target.kick(nexus.lun)
  }

  /** Bytes that a {@link transfer} has moved whose answer comes later. */
  get progress(): number {
    return this.#moving === undefined ? 0 : this.#moving.task!.transferred - this.#movedBefore
  }

  // ---- saved states ----

  /** The targets with all their commands, in the order in which these came. */
  save(): Saved {
    return {
      targets: [...this.#targets].map(([id, target]) => ({ id, units: target.save() })),
      connections: this.#connections.save(this.#current),
      phase: this.#phase ?? -1,
      attention: this.#attention,
      acknowledge: this.#acknowledge,
      messageOut: Uint8Array.from(this.#messageOut),
    }
  }

  /**
   * Takes up a saved state; throws RangeError for anything else. With `moving` the last block move is to be gone on with, by
   * {@link goOnTransfer}. Completes when the targets have the state of theirs, and have begun with their commands again.
   */
  restore(state: Saved, moving: boolean): Now<void> {
    const saved = fieldsOf(state)
    const targets = listOf(saved.targets, 16).map(fieldsOf)
    if (targets.length !== this.#targets.size)
      throw new RangeError(`the saved SCSI state has ${targets.length} targets`)
    const { nexuses, current, away } = connectionsOf(saved.connections, this.#targets)
    const phase = numberOf(saved.phase, 7, -1)
    const [attention, acknowledge] = [flagOf(saved.attention), flagOf(saved.acknowledge)]
    const messageOut = [...bytesOf(saved.messageOut, MESSAGE_LIMIT + 4)]
    const command = nexuses.some(({ nexus, task }) => nexus === current && task !== null)
    const needed = phase === PHASE_DATA_IN || phase === PHASE_DATA_OUT || phase === PHASE_STATUS
    if (phase >= 0 && (current === undefined || (needed && !command)))
      throw new RangeError(`the saved SCSI state is in phase ${phase} of nothing`)
    const units = targets.map(({ id, units }) => {
      const target = this.#targets.get(numberOf(id, 15))
      if (target === undefined) throw new RangeError(`the saved SCSI state has a target ${String(id)}`)
      return target.restore(units!)
    })
    this.#disband()
    const generation = this.#generation
    return after(all(units), () => {
      if (generation !== this.#generation) return
      for (const { nexus, task } of nexuses) {
        if (task === null) continue
        nexus.task = nexus.target.resume(task)
        this.#connections.began(nexus)
      }
      this.#current = current
      this.#phase = phase < 0 ? undefined : phase
      this.#attention = attention
      this.#acknowledge = acknowledge
      this.#messageOut = messageOut
      for (const nexus of away) this.#connections.left(nexus)
      // What was read ahead is not in a saved state: who waited to reselect does so again when it is there
      for (const nexus of away) this.#arrived(nexus)
      if (current?.managed !== undefined) this.#manage(current, current.managed)
      else if (current !== undefined && phase < 0 && !moving) this.#advance(current)
    })
  }

  /** Goes on with a transfer of `phase` that was under way when the state was saved; `vec` is what was not moved of it. */
  goOnTransfer(phase: number, vec: IoVec): Now<number> {
    const nexus = this.#current
    if (nexus === undefined) return 0
    const data = phase === PHASE_DATA_IN ? 'in' : phase === PHASE_DATA_OUT ? 'out' : 'none'
    if (nexus.task?.phase === data) return this.#moveData(nexus, vec)
    this.#advance(nexus)
    return 0
  }

  #disband(): void {
    this.#generation++
    this.#current = undefined
    this.#phase = undefined
    this.#attention = false
    this.#acknowledge = false
    this.#moving = undefined
    this.#connections.clear()
  }

  #takeMessages(nexus: Nexus, bytes: Uint8Array): number {
    this.#attention = false
    let all: ArrayLike<number> = bytes.length > MESSAGE_LIMIT ? bytes.subarray(0, MESSAGE_LIMIT) : bytes
    if (this.#messageOut.length > 0) {
      all = [...this.#messageOut, ...bytes.subarray(0, MESSAGE_LIMIT)]
      if (all.length > MESSAGE_LIMIT) all = [message.NO_OPERATION]
    }
    let at = 0
    for (;;) {
      const length = message.messageLength(all, at)
      if (length === undefined) break
      const ended = this.#message(nexus, all, at, length)
      at += length
      if (ended) return bytes.length
    }
    if (at < all.length || this.#messageOut.length > 0) this.#messageOut = Array.prototype.slice.call(all, at)
    if (this.#messageOut.length > 0) this.#phase = PHASE_MSG_OUT
    else this.#advance(nexus)
    return bytes.length
  }

  /** Acts on the message of `length` bytes at `at`; true if the connection is given up for it. */
  #message(nexus: Nexus, bytes: ArrayLike<number>, at: number, length: number): boolean {
    const code = bytes[at]!
    if (code & message.IDENTIFY) {
      nexus.identified = true
      nexus.mayDisconnect = (code & message.IDENTIFY_DISCPRIV) !== 0
      nexus.lun = code & message.IDENTIFY_LUN
      return false
    }
    const attribute = ATTRIBUTES[code]
    if (attribute !== undefined) {
      nexus.attribute = attribute
      nexus.tag = bytes[at + 1]!
      return false
    }
    switch (code) {
      case message.EXTENDED_MESSAGE:
        return this.#answer(nexus, message.negotiate(Array.prototype.slice.call(bytes, at, at + length), this.#wide))
      case message.NO_OPERATION:
        return false
      case message.MESSAGE_REJECT:
        // Who may not disconnect stays (SPI-3 16.3.3)
        if (nexus.sequel === 'disconnect') {
          nexus.sequel = 'go on'
          nexus.mayDisconnect = false
        }
        return false
      case message.MESSAGE_PARITY_ERROR:
        return this.#repeat(nexus)
      case message.INITIATOR_DETECTED_ERROR:
        nexus.task?.withdraw(new CheckCondition(INITIATOR_DETECTED_ERROR_MESSAGE_RECEIVED))
        return false
      case message.ABORT_TASK_SET:
        return this.#manage(nexus, 'abort task set')
      case message.ABORT_TASK:
        return this.#manage(nexus, 'abort task')
      case message.CLEAR_TASK_SET:
        return this.#manage(nexus, 'clear task set')
      case message.LOGICAL_UNIT_RESET:
        return this.#manage(nexus, 'logical unit reset')
      case message.TARGET_RESET:
        return this.#manage(nexus, 'target reset')
      default:
        return this.#answer(nexus, REJECT)
    }
  }

  /** Has the target answer a message; true if it gives the connection up for it, as it may (SCSI-2 6.1.1). */
  #answer(nexus: Nexus, bytes: readonly number[]): boolean {
    if (nexus.messages.length + bytes.length > MESSAGES_LIMIT) return this.#giveUp(nexus)
    this.#queue(nexus, bytes)
    return false
  }

  /** Has the target say once more what it said last; true if it gives the connection up for it. */
  #repeat(nexus: Nexus): boolean {
    const { said } = nexus
    if (said.length + nexus.messages.length > MESSAGES_LIMIT) return this.#giveUp(nexus)
    nexus.said = NONE
    nexus.messages = [...said, ...nexus.messages]
    return false
  }

  /** The target goes bus free, and the command is no more. */
  #giveUp(nexus: Nexus): true {
    if (nexus.task !== undefined) return this.#manage(nexus, 'abort task')
    this.#messageOut = []
    this.#free()
    return true
  }

  /** Task management ends the connection: the bus goes free when the target has let go of all memory. */
  #manage(nexus: Nexus, name: TaskManagement['function']): true {
    const generation = this.#generation
    const request = managementOf(nexus, name)
    nexus.managed = name
    this.#phase = undefined
    this.#messageOut = []
    const end = () => {
      if (generation !== this.#generation) return
      nexus.managed = undefined
      this.#forget(nexus, request)
      if (this.#current === nexus) this.#free()
      this.#events.phaseChanged()
    }
    settle(() => nexus.target.manage(request), end, end)
    return true
  }

  /** Commands that task management took back will not reselect. */
  #forget(nexus: Nexus, request: TaskManagement): void {
    const gone = (other: Nexus) =>
      other.id === nexus.id &&
      (request.function === 'target reset' ||
        (other.lun === nexus.lun && (request.function !== 'abort task' || other.tag === nexus.tag)))
    this.#connections.forget(gone)
  }

  #takeCommand(nexus: Nexus, bytes: Uint8Array): number {
    const before = nexus.command.length
    const wanted = lengthOf(before > 0 ? nexus.command : bytes) ?? Math.min(bytes.length, UNKNOWN_LIMIT)
    if (before === 0) nexus.command = bytes.slice(0, wanted)
    else {
      const more = bytes.subarray(0, wanted - before)
      const command = new Uint8Array(before + more.length)
      command.set(nexus.command)
      command.set(more, before)
      nexus.command = command
    }
    if (nexus.command.length < wanted) return bytes.length
    nexus.task = nexus.target.submit({
      initiator: INITIATOR,
      lun: nexus.lun,
      cdb: nexus.command,
      attribute: nexus.attribute,
      tag: nexus.tag,
      autosense: false,
    })
    this.#connections.began(nexus)
    this.#advance(nexus)
    // What is longer than the command is padding: SeaBIOS sends 16 bytes whatever the group.
    return bytes.length
  }

  #giveMessages(nexus: Nexus, bytes: Uint8Array): number {
    const { messages } = nexus
    const length = Math.min(messages.length, bytes.length)
    for (let i = 0; i < length; i++) bytes[i] = messages[i]!
    if (length < messages.length) {
      nexus.said = messages.slice(0, length)
      nexus.messages = messages.slice(length)
    } else {
      nexus.said = messages
      nexus.messages = NONE
      this.#acknowledge = true
      if (nexus.sequel === 'go on') this.#advance(nexus)
    }
    return length
  }

  #giveStatus(nexus: Nexus, bytes: Uint8Array): number {
    bytes[0] = nexus.task!.status
    nexus.statusSent = true
    this.#advance(nexus)
    return 1
  }

  #moveData(nexus: Nexus, vec: IoVec): Now<number> {
    const task = nexus.task!
    const before = task.transferred
    const generation = this.#generation
    const moved = task.move(vec)
    if (!isLater(moved)) {
      this.#advance(nexus)
      return task.transferred - before
    }
    this.#phase = undefined
    this.#asking = nexus
    this.#moving = nexus
    this.#movedBefore = before
    return moved.then(() => {
      if (generation !== this.#generation || this.#current !== nexus) return 0
      this.#advance(nexus)
      return task.transferred - before
    })
  }

  /** Turns to the phase that comes next. */
  #advance(nexus: Nexus): void {
    const { task } = nexus
    if (nexus.messages.length > 0) this.#phase = PHASE_MSG_IN
    else if (this.#attention) this.#phase = PHASE_MSG_OUT
    else if (nexus.sequel !== 'go on') this.#afterMessages(nexus)
    else if (task === undefined) this.#phase = PHASE_COMMAND
    else if (nexus.statusSent) this.#say(nexus, COMPLETE, 'end')
    else if (task.phase === 'status') this.#phase = PHASE_STATUS
    else if (task.phase === 'aborted') this.#free()
    else if (task.phase === 'busy') this.#wait(nexus, task.next())
    else if (task.transferred > 0) this.#phase = task.phase === 'in' ? PHASE_DATA_IN : PHASE_DATA_OUT
    else this.#begin(nexus, task)
  }

  /** The start of a data phase: it is not entered before there is something to move. */
  #begin(nexus: Nexus, task: Task): void {
    const prepared = prepare(task)
    if (isLater(prepared)) this.#wait(nexus, prepared)
    else if (task.phase === 'in') this.#phase = PHASE_DATA_IN
    else if (task.phase === 'out') this.#phase = PHASE_DATA_OUT
    else this.#advance(nexus)
  }

  /** The target needs time: it disconnects if it may, else it holds the bus. */
  #wait(nexus: Nexus, until: Now<unknown>): void {
    const generation = this.#generation
    this.#asking = nexus
    const leave = nexus.mayDisconnect && nexus.identified
    const arrived = () => {
      if (generation !== this.#generation) return
      if (this.#current !== nexus) {
        this.#arrived(nexus)
        this.kick()
      } else if (!leave) {
        this.#advance(nexus)
        this.#events.phaseChanged()
      }
    }
    if (leave) {
      this.#say(nexus, nexus.task!.transferred > 0 ? SAVE_AND_DISCONNECT : DISCONNECT, 'disconnect')
    } else this.#phase = undefined
    settle(() => until, arrived, arrived)
  }

  /** What a disconnected command waited for is there. */
  #arrived(nexus: Nexus): void {
    if (!this.#connections.isWaiting(nexus)) return
    const task = nexus.task!
    if (task.phase === 'aborted') {
      this.#connections.drop(nexus)
      return
    }
    const more = task.phase === 'busy' ? task.next() : task.phase === 'status' ? undefined : prepare(task)
    if (isLater(more)) {
      const generation = this.#generation
      const again = () => {
        if (generation !== this.#generation) return
        this.#arrived(nexus)
        this.kick()
      }
      this.#asking = nexus
      more.then(again, again)
      return
    }
    this.#connections.arrived(nexus)
    this.#events.reselecting()
  }

  #say(nexus: Nexus, bytes: readonly number[], sequel: Nexus['sequel']): void {
    this.#queue(nexus, bytes)
    nexus.sequel = sequel
    this.#phase = PHASE_MSG_IN
  }

  #queue(nexus: Nexus, bytes: readonly number[]): void {
    nexus.messages = nexus.messages.length === 0 ? bytes : [...nexus.messages, ...bytes]
  }

  #afterMessages(nexus: Nexus): void {
    if (nexus.sequel === 'end') this.#free()
    else if (nexus.sequel === 'disconnect') {
      nexus.sequel = 'go on'
      this.#connections.left(nexus)
      this.#free()
      this.#arrived(nexus)
    }
  }

  #free(): void {
    const nexus = this.#current
    if (nexus !== undefined) this.#connections.ended(nexus)
    this.#current = undefined
    this.#phase = undefined
    this.#attention = false
    this.#acknowledge = false
    this.#events.busFree()
  }
}

/** Has the medium make ready what the next move needs, if that is not at hand. */
function prepare(task: Task): Now<void> {
  if (task.ready === 0 && !task.straight) return task.prepare()
}

/** Length of the CDB that starts so; undefined if its group leaves that to the initiator. */
function lengthOf(command: Uint8Array): number | undefined {
  if (command[0] === 0x7f) return command.length > 7 ? Math.min(8 + command[7]!, 260) : 8
  return cdbLength(command[0]!) || undefined
}
