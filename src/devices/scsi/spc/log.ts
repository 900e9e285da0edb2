/** LOG SENSE and LOG SELECT, and the pages that units of every kind have (SPC-4 6.8, 6.9, 7.3). */
import { after, type Now } from '../../../block/now.ts'
import { type CommandSpec, u16 } from '../command.ts'
import { type Condition, invalidCdb, LOG_PARAMETERS_CHANGED } from '../sense.ts'
import type { Task } from '../task.ts'

/** A log parameter: its code and its value, a counter or a list. */
export interface LogParameter {
  readonly code: number
  readonly kind: 'counter' | 'list' | 'text'
  readonly value: Uint8Array
}

/** A log page; subpages other than 0 do not occur. */
export interface LogPage {
  readonly code: number
  readonly parameters: () => Now<readonly LogParameter[]>
  /** Sets what can be set back to its default; absent, there is nothing. */
  readonly clear?: () => void
}

export const LOG_SUPPORTED = 0x00
export const LOG_WRITE_ERRORS = 0x02
export const LOG_READ_ERRORS = 0x03
export const LOG_VERIFY_ERRORS = 0x05
export const LOG_NON_MEDIUM_ERRORS = 0x06
export const LOG_PROVISIONING = 0x0c
export const LOG_TEMPERATURE = 0x0d
export const LOG_START_STOP = 0x0e
export const LOG_SELF_TESTS = 0x10
export const LOG_SOLID_STATE = 0x11
export const LOG_EXCEPTIONS = 0x2f

const ALL_SUBPAGES = 0xff

// SPC-4 7.3.2.2.2: FORMAT AND LINKING of the parameter control byte
const FORMAT = { counter: 0x00, text: 0x01, list: 0x03 } as const

// SPC-4 table 261: page control
const THRESHOLD = 0
const DEFAULT_THRESHOLD = 2
const DEFAULT_CUMULATIVE = 3

/** A counter of 8 bytes. */
export function counter(code: number, value: number): LogParameter {
  const bytes = new Uint8Array(8)
  new DataView(bytes.buffer).setBigUint64(0, BigInt(Math.max(Math.floor(value), 0)))
  return { code, kind: 'counter', value: bytes }
}

/** Counts of an error counter page (SPC-4 7.3.7, 7.3.15, 7.3.19). */
export interface ErrorCounts {
  bytes: number
  uncorrected: number
}

/** An error counter page; the host corrects nothing, so most of it is 0. */
export function errorPage(code: number, counts: () => ErrorCounts, clear: () => void): LogPage {
  return {
    code,
    clear,
    parameters() {
      const { bytes, uncorrected } = counts()
      return [0, 0, 0, 0, 0, bytes, uncorrected].map((value, i) => counter(i, value))
    },
  }
}

/** Temperature log page (SPC-4 7.3.20): FFh, for there is nothing to measure. */
export const temperaturePage: LogPage = {
  code: LOG_TEMPERATURE,
  parameters: () => [0, 1].map((code) => ({ code, kind: 'list', value: Uint8Array.of(0, 0xff) })),
}

/** Informational Exceptions log page (SPC-4 7.3.8). */
export function exceptionsLog(exception: () => Condition | undefined): LogPage {
  return {
    code: LOG_EXCEPTIONS,
    parameters() {
      const [, asc, ascq] = exception() ?? [0, 0, 0]
      return [{ code: 0, kind: 'list', value: Uint8Array.of(asc, ascq, 0xff, 0) }]
    },
  }
}

/** What the log commands ask of their unit. */
export interface Logged {
  readonly logPages: readonly LogPage[]
  attention(condition: Condition, except?: number): void
}

/** LOG SENSE and LOG SELECT of a unit. */
export function logCommands(unit: Logged): CommandSpec[] {
  return [
    {
      name: 'LOG SELECT',
      opcode: 0x4c,
      usage: '4c 03 ff ff 00 00 00 ff ff 00',
      access: 'own',
      run: (task) => logSelect(unit, task),
    },
    {
      name: 'LOG SENSE',
      opcode: 0x4d,
      usage: '4d 01 ff ff 00 ff ff ff ff 00',
      access: 'any',
      run: (task) => logSense(unit, task),
    },
  ]
}

function logSense({ logPages }: Logged, task: Task): Now<void> {
  const { cdb } = task
  // SP: there is nowhere to save parameters to
  if ((cdb[1]! & 1) !== 0) throw invalidCdb(1, 0)
  const control = cdb[2]! >>> 6
  const code = cdb[2]! & 0x3f
  const subpage = cdb[3]!
  const pointer = u16(cdb, 5)
  const allocation = u16(cdb, 7)
  const codes = [LOG_SUPPORTED, ...logPages.map((page) => page.code)].sort((a, b) => a - b)
  if (subpage === ALL_SUBPAGES) {
    const listed = code === LOG_SUPPORTED ? codes : codes.filter((other) => other === code)
    if (listed.length === 0) throw invalidCdb(2, 5)
    const pairs = listed.flatMap((other) => (other === LOG_SUPPORTED ? [0, 0, 0, ALL_SUBPAGES] : [other, 0]))
    task.reply(logPage(0x40 | code, ALL_SUBPAGES, Uint8Array.from(pairs)), allocation)
    return
  }
  if (subpage !== 0) throw invalidCdb(3, 7)
  if (code === LOG_SUPPORTED) {
    task.reply(logPage(code, 0, Uint8Array.from(codes)), allocation)
    return
  }
  const page = logPages.find((other) => other.code === code)
  if (page === undefined) throw invalidCdb(2, 5)
  return after(page.parameters(), (all) => {
    const parameters = all.filter((parameter) => parameter.code >= pointer)
    if (parameters.length === 0 && pointer !== 0) throw invalidCdb(5, 7)
    task.reply(logPage(code, 0, encode(parameters, control)), allocation)
  })
}

function logPage(first: number, subpage: number, body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(4 + body.length)
  bytes.set([first, subpage, body.length >>> 8, body.length & 0xff])
  bytes.set(body, 4)
  return bytes
}

function encode(parameters: readonly LogParameter[], control: number): Uint8Array {
  const bytes = new Uint8Array(parameters.reduce((sum, { value }) => sum + 4 + value.length, 0))
  let at = 0
  for (const { code, kind, value } of parameters) {
    bytes.set([code >>> 8, code & 0xff, FORMAT[kind], value.length], at)
    const shown = bytes.subarray(at + 4, at + 4 + value.length)
    if (kind !== 'counter') shown.set(value)
    else if (control === THRESHOLD || control === DEFAULT_THRESHOLD) shown.fill(0xff)
    else if (control !== DEFAULT_CUMULATIVE) shown.set(value)
    at += 4 + value.length
  }
  return bytes
}

function logSelect(unit: Logged, task: Task): void {
  const { cdb, command } = task
  const [clears, saves] = [(cdb[1]! & 2) !== 0, (cdb[1]! & 1) !== 0]
  const length = u16(cdb, 7)
  const code = cdb[2]! & 0x3f
  if (saves) throw invalidCdb(1, 0)
  if (cdb[3] !== 0) throw invalidCdb(3, 7)
  // A list could only set what no initiator may set
  if (length !== 0) throw invalidCdb(7, 7)
  if (!clears) return
  const pages = code === 0 ? unit.logPages : unit.logPages.filter((page) => page.code === code)
  if (pages.length === 0) throw invalidCdb(2, 5)
  for (const page of pages) page.clear?.()
  unit.attention(LOG_PARAMETERS_CHANGED, command.initiator)
}
