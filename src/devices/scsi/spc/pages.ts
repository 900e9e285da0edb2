/** The mode pages that units of every kind have (SPC-4 7.5). */
import { type Condition, invalidParameter } from '../sense.ts'
import type { ModePageSpec } from './mode.ts'

export const PAGE_DISCONNECT = 0x02
export const PAGE_CONTROL = 0x0a
export const PAGE_POWER = 0x1a
export const PAGE_EXCEPTIONS = 0x1c

// SPC-4 7.5.10 Control mode page; indexes count from after the header
const CONTROL_FORMAT = 0
const CONTROL_D_SENSE = 1 << 2
const CONTROL_GLTSD = 1 << 1
const CONTROL_QUEUE = 1
const CONTROL_UNRESTRICTED = 1 << 4
const CONTROL_QERR = 3 << 1
const CONTROL_PROTECT = 2
const CONTROL_SWP = 1 << 3
const CONTROL_ABORTS = 3
const CONTROL_TAS = 1 << 6

/** Control mode page. */
export const controlPage: ModePageSpec = {
  code: PAGE_CONTROL,
  defaults: Uint8Array.of(CONTROL_GLTSD, CONTROL_UNRESTRICTED, 0, 0, 0, 0, 0, 0, 0, 0),
  changeable: Uint8Array.of(CONTROL_D_SENSE, CONTROL_QERR, CONTROL_SWP, CONTROL_TAS, 0, 0, 0, 0, 0, 0),
  check(values, at) {
    if ((values[CONTROL_QUEUE]! & CONTROL_QERR) === 2 << 1) throw invalidParameter(at + CONTROL_QUEUE, 2)
  },
}

/** What the Control mode page's values say. */
export function control(values: Uint8Array): {
  readonly descriptorSense: boolean
  readonly queueErrors: 'none' | 'all' | 'nexus'
  readonly writeProtected: boolean
  readonly announcesAborts: boolean
} {
  const errors = (values[CONTROL_QUEUE]! & CONTROL_QERR) >>> 1
  return {
    descriptorSense: (values[CONTROL_FORMAT]! & CONTROL_D_SENSE) !== 0,
    queueErrors: errors === 1 ? 'all' : errors === 3 ? 'nexus' : 'none',
    writeProtected: (values[CONTROL_PROTECT]! & CONTROL_SWP) !== 0,
    announcesAborts: (values[CONTROL_ABORTS]! & CONTROL_TAS) !== 0,
  }
}

/** Disconnect-Reconnect mode page (SPC-4 7.5.12): the target port decides by itself, so all is zero. */
export const disconnectPage: ModePageSpec = { code: PAGE_DISCONNECT, defaults: new Uint8Array(14) }

/** Power Condition mode page (SPC-4 7.5.16): no timer runs. */
export const powerPage: ModePageSpec = { code: PAGE_POWER, defaults: new Uint8Array(38) }

// SPC-4 7.5.15 Informational Exceptions Control mode page
const EXCEPTIONS_FLAGS = 0
const EXCEPTIONS_EWASC = 1 << 4
const EXCEPTIONS_DEXCPT = 1 << 3
const EXCEPTIONS_TEST = 1 << 2
const EXCEPTIONS_METHOD = 1
const METHOD_NONE = 0
const METHOD_ATTENTION = 2
const METHOD_REQUEST = 6

/** FAILURE PREDICTION THRESHOLD EXCEEDED (FALSE): what the TEST bit makes. */
export const FALSE_PREDICTION: Condition = [0x6, 0x5d, 0xff]

/** Informational Exceptions Control mode page; `report` is called when a test exception is to be a unit attention. */
export function exceptionsPage(report: (condition: Condition) => void): ModePageSpec {
  return {
    code: PAGE_EXCEPTIONS,
    defaults: Uint8Array.of(0, METHOD_REQUEST, 0, 0, 0, 0, 0, 0, 0, 0),
    changeable: Uint8Array.of(EXCEPTIONS_EWASC | EXCEPTIONS_DEXCPT | EXCEPTIONS_TEST, 0x0f, 0, 0, 0, 0, 0, 0, 0, 0),
    check(values, at) {
      const method = values[EXCEPTIONS_METHOD]!
      if (![METHOD_NONE, METHOD_ATTENTION, METHOD_REQUEST].includes(method)) {
        throw invalidParameter(at + EXCEPTIONS_METHOD, 3)
      }
      if (
        (values[EXCEPTIONS_FLAGS]! & (EXCEPTIONS_TEST | EXCEPTIONS_DEXCPT)) ===
        (EXCEPTIONS_TEST | EXCEPTIONS_DEXCPT)
      ) {
        throw invalidParameter(at + EXCEPTIONS_FLAGS, 3)
      }
    },
    apply(values) {
      if (testsExceptions(values) && values[EXCEPTIONS_METHOD] === METHOD_ATTENTION) report(FALSE_PREDICTION)
    },
  }
}

/** Whether the page asks for a test exception. */
export function testsExceptions(values: Uint8Array): boolean {
  return (values[EXCEPTIONS_FLAGS]! & EXCEPTIONS_TEST) !== 0
}

/** Whether the test exception is for those who ask by REQUEST SENSE. */
export function reportsOnRequest(values: Uint8Array): boolean {
  return values[EXCEPTIONS_METHOD] === METHOD_REQUEST
}
