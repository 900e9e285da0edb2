/** A logical unit with a medium: what disks and CD-ROMs have in common, from the tray to the logs. */
import type { Disk } from '../../block/disk.ts'
import { BlockError, errnoOf } from '../../block/error.ts'
import { after, all, isLater, type Now, rescue } from '../../block/now.ts'
import type { Saved } from '../machine.ts'
import type { CommandSpec, CommandTable, Row } from './command.ts'
import { type Identity, identity, type UnitOptions } from './identity.ts'
import { bytesOf, fieldsOf, flagOf, listOf, numberOf } from './saved.ts'
import {
  CAPACITY_DATA_HAS_CHANGED,
  CheckCondition,
  type Condition,
  INITIALIZING_COMMAND_REQUIRED,
  KEY_MEDIUM_ERROR,
  MEDIUM_MAY_HAVE_CHANGED,
  MEDIUM_NOT_PRESENT_TRAY_CLOSED,
  MEDIUM_NOT_PRESENT_TRAY_OPEN,
  type Sense,
  UNRECOVERED_READ_ERROR,
  WRITE_PROTECTED,
} from './sense.ts'
import { nextTurn, type Turn, type Work } from './slices.ts'
import { bufferCommands } from './spc/buffer.ts'
import { Diagnostics } from './spc/diagnostic.ts'
import { identityPages, inquiryCommand, type VpdPage } from './spc/inquiry.ts'
import { type LogPage, logCommands } from './spc/log.ts'
import { Logs } from './spc/logs.ts'
import type { ModePages } from './spc/mode.ts'
import { reportCommands } from './spc/opcodes.ts'
import {
  control,
  FALSE_PREDICTION,
  PAGE_CONTROL,
  PAGE_EXCEPTIONS,
  reportsOnRequest,
  testsExceptions,
} from './spc/pages.ts'
import { primaryCommands } from './spc/primary.ts'
import { Reservations } from './spc/reservations.ts'
import { startStopCommands } from './spc/startstop.ts'
import type { Task } from './task.ts'
import { LogicalUnit } from './unit.ts'

const MODES_LIMIT = 4096

/** Work that keeps commands off the medium: FORMAT UNIT or SANITIZE. */
export interface Occupation {
  /** What those commands are told. */
  readonly condition: Condition
  readonly work: Work
  /** What a saved state needs to begin it again, if no command waits for it. */
  readonly saved: Saved | undefined
}

/** A unit with a medium that may be absent. */
export abstract class MediumUnit extends LogicalUnit {
  override readonly identity: Identity
  readonly options: UnitOptions
  readonly reservations: Reservations
  readonly diagnostics: Diagnostics
  readonly logs: Logs
  abstract readonly removable: boolean
  abstract readonly versions: readonly number[]
  abstract readonly modes: ModePages
  protected abstract override table: CommandTable
  /** Lets the event loop turn between the slices of long work. */
  turn: Turn = nextTurn
  /** Called when the guest opened (`true`) or closed the tray. */
  onTray: (open: boolean) => void = () => {}
  /** What keeps commands off the medium. */
  occupation: Occupation | undefined
  #medium: Disk | undefined
  #forget: () => void = () => {}
  #trayOpen = false
  #stopped = false
  readonly #preventing = new Set<number>()

  constructor(medium: Disk | undefined, options: UnitOptions, product: string) {
    super()
    this.options = options
    this.identity = identity(options, product, medium?.serial ?? '')
    this.reservations = new Reservations(this)
    this.diagnostics = new Diagnostics(this)
    this.logs = new Logs(() => this.exception)
    if (medium !== undefined) this.#take(medium)
  }

  // ---- the medium ----

  /** The medium in the drive, whether the tray is open or not. */
  get medium(): Disk | undefined {
    return this.#medium
  }

  /** The medium, ready to be used; throws NOT READY otherwise. */
  get disk(): Disk {
    const medium = this.#medium
    if (medium === undefined || this.#trayOpen || this.#stopped) throw new CheckCondition(this.notReady!)
    return medium
  }

  override kick(): void {
    this.#medium?.kick()
  }

  /** Bytes of a logical block. */
  abstract get block(): number

  /** Logical blocks of the medium; 0 without one. */
  get blocks(): number {
    return Math.floor((this.#medium?.size ?? 0) / this.block)
  }

  get trayOpen(): boolean {
    return this.#trayOpen
  }

  /** Whether an initiator port prevents that the medium is taken out. */
  get isLocked(): boolean {
    return this.#preventing.size > 0
  }

  /** Why the medium cannot be used now. */
  get notReady(): Condition | undefined {
    if (this.#trayOpen) return MEDIUM_NOT_PRESENT_TRAY_OPEN
    if (this.#medium === undefined) return MEDIUM_NOT_PRESENT_TRAY_CLOSED
    return this.#stopped ? INITIALIZING_COMMAND_REQUIRED : undefined
  }

  /** Puts a medium in, as a user would, and closes the tray; throws EBUSY if there is one and ENOTSUP if the drive is fixed. */
  insert(disk: Disk): void {
    if (!this.removable) throw new BlockError('ENOTSUP', `Cannot insert ${disk.name}: the drive's medium is fixed`)
    if (this.#medium !== undefined) {
      throw new BlockError('EBUSY', `Cannot insert ${disk.name}: ${this.#medium.name} is in the drive`)
    }
    this.checkFits(disk)
    this.#take(disk)
    this.#trayOpen = false
    this.#stopped = false
    this.mediumCame()
  }

  /**
   * Takes the medium out, as a user would, and completes with it when nobody uses it any more; the caller closes it. If the guest has
   * locked the drive, it is asked to give the medium up, and EBUSY is thrown, unless by `force`.
   */
  eject(force = false): Now<Disk | undefined> {
    if (!this.removable)
      throw new BlockError('ENOTSUP', `Cannot eject ${this.#medium?.name}: the drive's medium is fixed`)
    if (this.isLocked && !force && !this.#trayOpen) {
      this.ejectWanted()
      throw new BlockError(
        'EBUSY',
        `Cannot eject ${this.#medium?.name ?? 'the medium'}: the guest has locked the drive`,
      )
    }
    const medium = this.#medium
    this.#forget()
    this.#forget = () => {}
    this.#medium = undefined
    this.#trayOpen = true
    this.#preventing.clear()
    if (medium === undefined) return undefined
    this.mediumWent()
    for (const task of [...this.tasks]) task.withdraw(new CheckCondition(this.notReady!))
    return after(all([this.occupation?.work.stop(), this.diagnostics.stop(), medium.cancel()]), () => medium)
  }

  /** Opens or closes the tray, for the guest. The medium stays in it. */
  moveTray(open: boolean): void {
    if (open === this.#trayOpen) return
    this.#trayOpen = open
    if (open) this.mediumWent()
    else if (this.#medium !== undefined) this.mediumCame()
    this.onTray(open)
  }

  /** Starts or stops the medium (START STOP UNIT). */
  spin(on: boolean): void {
    if (on && this.#stopped) this.logs.starts++
    this.#stopped = !on
  }

  /** Prevents or allows that the medium is taken out, in the name of an initiator port. */
  prevent(initiator: number, on: boolean): void {
    if (on) this.#preventing.add(initiator)
    else this.#preventing.delete(initiator)
  }

  /** Makes all that was written durable. */
  flush(task: Task): Now<void> {
    const medium = this.#medium
    if (medium !== undefined && !medium.readOnly) return this.steady(task, () => medium.flush())
  }

  /** Throws DATA PROTECT unless the medium may be written. */
  checkWritable(): void {
    if (this.disk.readOnly || this.control.writeProtected) throw new CheckCondition(WRITE_PROTECTED)
  }

  get writeProtected(): boolean {
    return (this.#medium?.readOnly ?? false) || this.control.writeProtected
  }

  /**
   * Sends a request that lends no memory; if it is taken back from the disk together with another task's, it is sent again.
   */
  steady(task: Task, request: () => Now<void>): Now<void> {
    const medium = this.#medium
    return rescue(request, (error) => {
      if (errnoOf(error) !== 'ECANCELED' || task.isAborted || medium !== this.#medium) throw error
      return this.steady(task, request)
    })
  }

  // ---- what a kind of unit says ----

  /** Throws EINVAL for a medium that the drive cannot use. */
  protected checkFits(_disk: Disk): void {}

  /** A medium is there that the guest does not know. */
  protected mediumCame(): void {
    this.attention(MEDIUM_MAY_HAVE_CHANGED)
  }

  protected mediumWent(): void {}

  /** The user wants the medium, which the guest has locked. */
  protected ejectWanted(): void {}

  /** The capacity of the medium changed. */
  protected resized(): void {
    this.attention(CAPACITY_DATA_HAS_CHANGED)
  }

  abstract get vpdPages(): readonly VpdPage[]

  abstract get logPages(): readonly LogPage[]

  override save(): Saved {
    return {
      ...fieldsOf(super.save()),
      saved: this.modes.saved,
      current: this.modes.current,
      reservations: this.reservations.save(),
      trayOpen: this.#trayOpen,
      stopped: this.#stopped,
      preventing: [...this.#preventing],
    }
  }

  override restore(state: Saved): Now<void> {
    const saved = fieldsOf(state)
    const preventing = listOf(saved.preventing, 256).map((initiator) => numberOf(initiator))
    const trayOpen = flagOf(saved.trayOpen)
    const stopped = flagOf(saved.stopped)
    this.reservations.restore(listOf(saved.reservations, 4 + 2 * 256))
    const modes = this.modes.restore(bytesOf(saved.saved, MODES_LIMIT), bytesOf(saved.current, MODES_LIMIT))
    this.#trayOpen = trayOpen
    this.#stopped = stopped
    this.#preventing.clear()
    for (const initiator of preventing) this.#preventing.add(initiator)
    return all([modes, super.restore(state)])
  }

  // ---- LogicalUnit ----

  drain(): Now<void> {
    const idle = this.#medium?.drain()
    if (!isLater(idle)) return
    // A task that the error policy holds waits for the user; a read that was taken back may never end
    const works = this.tasks.flatMap(({ work }) => work ?? [])
    if (works.length > 0) return Promise.race([idle, Promise.all(works)]).then(() => {})
  }

  protected resetUnit(): Now<void> {
    this.#preventing.clear()
    this.#stopped = false
    this.reservations.reset()
    // What the tasks have lent is awaited with them; a read that never ends keeps no reset from its end
    void this.#medium?.cancel()
    return all([this.diagnostics.stop(), this.modes.reset()])
  }

  protected dropHeld(): void {
    this.#medium?.dropHeld()
  }

  protected checkMedium(): void {
    const condition = this.notReady
    if (condition !== undefined) throw new CheckCondition(condition)
  }

  protected checkBusy(row: Row): void {
    const { occupation } = this
    if (occupation !== undefined && !row.unmindful) {
      throw new CheckCondition(occupation.condition, { progress: occupation.work.progress })
    }
  }

  protected mayRun(row: Row, task: Task): boolean {
    return this.reservations.allows(row, task.cdb, task.command.initiator)
  }

  protected override pollableSense(): Sense {
    const { occupation } = this
    if (occupation !== undefined) return { condition: occupation.condition, progress: occupation.work.progress }
    const testing = this.diagnostics.sense
    if (testing !== undefined) return testing
    const [, asc, ascq] = (reportsOnRequest(this.modes.values(PAGE_EXCEPTIONS)) && this.exception) || [0, 0, 0]
    return { condition: [0, asc, ascq] }
  }

  protected get control(): ReturnType<typeof control> {
    return control(this.modes.values(PAGE_CONTROL))
  }

  protected get descriptorSense(): boolean {
    return this.control.descriptorSense
  }

  protected get announcesAborts(): boolean {
    return this.control.announcesAborts
  }

  protected get queueErrors(): 'none' | 'all' | 'nexus' {
    return this.control.queueErrors
  }

  override senseOf(error: unknown): Sense | undefined {
    const sense = super.senseOf(error)
    if (sense === undefined) {
      const gone = this.#medium === undefined ? this.notReady : undefined
      return gone && { condition: gone }
    }
    if (sense.condition[0] === KEY_MEDIUM_ERROR) {
      this.logs.failed(sense.condition[1] === UNRECOVERED_READ_ERROR[1] ? 'read' : 'write')
    }
    return sense
  }

  /** The test exception that mode page 1Ch asks for. */
  protected get exception(): Condition | undefined {
    return testsExceptions(this.modes.values(PAGE_EXCEPTIONS)) ? FALSE_PREDICTION : undefined
  }

  /** The commands that disks and CD-ROMs share. */
  protected commonCommands(): CommandSpec[] {
    return [
      ...primaryCommands(this),
      inquiryCommand(this),
      ...this.modes.commands(),
      ...logCommands(this),
      ...reportCommands(() => this.table),
      ...this.reservations.commands(),
      ...this.diagnostics.commands(),
      ...bufferCommands(),
      ...startStopCommands(this),
    ]
  }

  /** VPD pages 80h and 83h. */
  protected identityPages(): readonly VpdPage[] {
    return identityPages(this.identity)
  }

  #take(disk: Disk): void {
    this.#medium = disk
    this.#forget = disk.onResize(() => this.resized())
  }
}
