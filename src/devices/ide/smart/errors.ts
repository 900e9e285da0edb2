/** The drive's memory of errors and of the commands that led to them: SMART error logs [ATA8-ACS A.7, A.16]. */
import type { Clock, Saved } from '../../machine.ts'
import { type Fields, takeFields, takeList, takeNumber } from '../saved.ts'
import { sealSum } from '../words.ts'

/** The task file when a command came, or when it failed. */
interface Registers {
  features: number
  count: number
  lbaLow: number
  lbaMid: number
  lbaHigh: number
  device: number
  opcode: number
  /** When, ms since power-on. */
  time: number
}

interface Failure {
  readonly error: number
  readonly status: number
  /** Power-on hours. */
  readonly hours: number
  readonly at: Registers
  /** The commands before, oldest first; the last one failed. */
  readonly commands: readonly Registers[]
}

type TaskFile = Omit<Registers, 'time'>

const COMMANDS = 5
const SUMMARY = 5
const PER_PAGE = 4
/** Pages of the extended log. */
export const EXTENDED_PAGES = 2
const KEPT = EXTENDED_PAGES * PER_PAGE
const STATUS_FAILED = 0x51
/** State of the device when the error came: active or idle. */
const STATE_ACTIVE = 0x03

function blank(): Registers {
  return { features: 0, count: 0, lbaLow: 0, lbaMid: 0, lbaHigh: 0, device: 0, opcode: 0, time: 0 }
}

function copy(to: Registers, from: TaskFile, time: number): void {
  to.features = from.features
  to.count = from.count
  to.lbaLow = from.lbaLow
  to.lbaMid = from.lbaMid
  to.lbaHigh = from.lbaHigh
  to.device = from.device
  to.opcode = from.opcode
  to.time = time
}

export class ErrorLog {
  readonly #clock: Clock
  readonly #hours: () => number
  /** The last commands, a ring that is written in place. */
  readonly #commands: Registers[] = Array.from({ length: COMMANDS }, blank)
  #next = 0
  /** The last failures; number n (from 1) is at (n - 1) % KEPT. */
  #failures: Failure[] = []
  #count = 0

  constructor(clock: Clock, hours: () => number) {
    this.#clock = clock
    this.#hours = hours
  }

  /** Errors since the drive was made. */
  get count(): number {
    return this.#count
  }

  /** A command came. */
  accept(taskFile: TaskFile): void {
    copy(this.#commands[this.#next]!, taskFile, this.#clock.now())
    this.#next = (this.#next + 1) % COMMANDS
  }

  /** The last command failed with `error` in the Error register. */
  record(taskFile: TaskFile, error: number): void {
    const at = blank()
    copy(at, taskFile, this.#clock.now())
    const commands: Registers[] = []
    for (let i = 0; i < COMMANDS; i++) commands.push({ ...this.#commands[(this.#next + i) % COMMANDS]! })
    const failure = { error, status: STATUS_FAILED, hours: this.#hours(), at, commands }
    this.#failures[this.#count % KEPT] = failure
    this.#count++
  }

  /** Number n, while it is kept. */
  #failure(n: number): Failure | undefined {
    return n < 1 || n > this.#count || n <= this.#count - KEPT ? undefined : this.#failures[(n - 1) % KEPT]
  }

  /** Fills a log of `size` places, each `length` bytes from `at` on, as far as they are on page `page`; answers the newest's index. */
  #place(size: number, put: (slot: number, failure: Failure) => void): number {
    for (let n = Math.max(this.#count - size + 1, 1); n <= this.#count; n++) {
      const failure = this.#failure(n)
      if (failure !== undefined) put((n - 1) % size, failure)
    }
    return this.#count === 0 ? 0 : ((this.#count - 1) % size) + 1
  }

  /** Summary SMART Error log, 512 bytes [A.16.2]. */
  summary(page: Uint8Array): void {
    const view = new DataView(page.buffer, page.byteOffset, 512)
    page[0] = 0x01
    page[1] = this.#place(SUMMARY, (slot, failure) => {
      const base = 2 + slot * 90
      failure.commands.forEach((command, i) => {
        putShort(view, base + 12 * i, command, command.opcode)
        view.setUint32(base + 12 * i + 8, command.time % 2 ** 32, true)
      })
      const error = base + 60
      putShort(view, error, failure.at, failure.status)
      page[error + 1] = failure.error
      page[error + 27] = STATE_ACTIVE
      view.setUint16(error + 28, failure.hours, true)
    })
    view.setUint16(452, Math.min(this.#count, 0xffff), true)
    sealSum(page)
  }

  /** A page of the Extended Comprehensive SMART Error log [A.7]. */
  extended(page: Uint8Array, number: number): void {
    const view = new DataView(page.buffer, page.byteOffset, 512)
    page[0] = 0x01
    const index = this.#place(KEPT, (slot, failure) => {
      if (Math.floor(slot / PER_PAGE) !== number) return
      const base = 4 + (slot % PER_PAGE) * 124
      failure.commands.forEach((command, i) => {
        const at = base + 18 * i
        view.setUint16(at + 1, command.features, true)
        putLong(view, at + 3, command)
        page[at + 12] = command.opcode
        view.setUint32(at + 14, command.time % 2 ** 32, true)
      })
      const error = base + 90
      page[error + 1] = failure.error
      putLong(view, error + 2, failure.at)
      page[error + 11] = failure.status
      page[error + 31] = STATE_ACTIVE
      view.setUint16(error + 32, failure.hours, true)
    })
    view.setUint16(2, index, true)
    view.setUint16(500, Math.min(this.#count, 0xffff), true)
    sealSum(page)
  }

  save(): Fields {
    return {
      count: this.#count,
      failures: this.#failures.map(({ error, status, hours, at, commands }) => ({
        error,
        status,
        hours,
        at: { ...at },
        commands: commands.map((command) => ({ ...command })),
      })),
    }
  }

  restore(state: Saved): void {
    this.#count = takeNumber(state, 'count')
    this.#failures = takeList(state, 'failures', KEPT).map((saved) => ({
      error: takeNumber(saved, 'error', 0xff),
      status: takeNumber(saved, 'status', 0xff),
      hours: takeNumber(saved, 'hours', 0xffff),
      at: takeRegisters(takeFields(saved, 'failure').at ?? null),
      commands: takeList(saved, 'commands', COMMANDS).map(takeRegisters),
    }))
  }
}

function takeRegisters(saved: Saved): Registers {
  return {
    features: takeNumber(saved, 'features', 0xffff),
    count: takeNumber(saved, 'count', 0xffff),
    lbaLow: takeNumber(saved, 'lbaLow', 0xffff),
    lbaMid: takeNumber(saved, 'lbaMid', 0xffff),
    lbaHigh: takeNumber(saved, 'lbaHigh', 0xffff),
    device: takeNumber(saved, 'device', 0xff),
    opcode: takeNumber(saved, 'opcode', 0xff),
    time: Math.max(Number(takeFields(saved, 'registers').time) || 0, 0),
  }
}

/** Features to Device, and the command or the status, in eight bytes. */
function putShort(view: DataView, at: number, registers: Registers, last: number): void {
  view.setUint8(at + 1, registers.features & 0xff)
  view.setUint8(at + 2, registers.count & 0xff)
  view.setUint8(at + 3, registers.lbaLow & 0xff)
  view.setUint8(at + 4, registers.lbaMid & 0xff)
  view.setUint8(at + 5, registers.lbaHigh & 0xff)
  view.setUint8(at + 6, registers.device)
  view.setUint8(at + 7, last)
}

/** Count, the six bytes of the LBA in the order of the registers, and Device. */
function putLong(view: DataView, at: number, registers: Registers): void {
  view.setUint16(at, registers.count, true)
  view.setUint16(at + 2, registers.lbaLow, true)
  view.setUint16(at + 4, registers.lbaMid, true)
  view.setUint16(at + 6, registers.lbaHigh, true)
  view.setUint8(at + 8, registers.device)
}
