/** What a unit counts, and the log pages that show it. */
import type { Condition } from '../sense.ts'
import type { LogPage } from './log.ts'
import {
  counter,
  type ErrorCounts,
  errorPage,
  exceptionsLog,
  LOG_NON_MEDIUM_ERRORS,
  LOG_READ_ERRORS,
  LOG_START_STOP,
  LOG_VERIFY_ERRORS,
  LOG_WRITE_ERRORS,
  temperaturePage,
} from './log.ts'

export type Counted = 'read' | 'write' | 'verify'

const CODES: readonly (readonly [Counted, number])[] = [
  ['write', LOG_WRITE_ERRORS],
  ['read', LOG_READ_ERRORS],
  ['verify', LOG_VERIFY_ERRORS],
]

/** The counts of a unit. */
export class Logs {
  readonly #counts: Record<Counted, ErrorCounts> = {
    read: { bytes: 0, uncorrected: 0 },
    write: { bytes: 0, uncorrected: 0 },
    verify: { bytes: 0, uncorrected: 0 },
  }
  /** Errors that were not the medium's. */
  others = 0
  /** Times that START STOP UNIT started the medium. */
  starts = 0
  readonly pages: readonly LogPage[]

  constructor(exception: () => Condition | undefined) {
    this.pages = [
      ...CODES.map(([what, code]) =>
        errorPage(
          code,
          () => this.#counts[what],
          () => {
            this.#counts[what] = { bytes: 0, uncorrected: 0 }
          },
        ),
      ),
      {
        code: LOG_NON_MEDIUM_ERRORS,
        parameters: () => [counter(0, this.others)],
        clear: () => {
          this.others = 0
        },
      },
      temperaturePage,
      // Only how often it started: there is no specified lifetime (SPC-4 7.3.19)
      { code: LOG_START_STOP, parameters: () => [{ code: 4, kind: 'list', value: u32(this.starts) }] },
      exceptionsLog(exception),
    ]
  }

  /** Bytes went well. */
  moved(what: Counted, bytes: number): void {
    this.#counts[what].bytes += bytes
  }

  /** The medium failed. */
  failed(what: Counted): void {
    this.#counts[what].uncorrected++
  }
}

function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setUint32(0, value)
  return bytes
}
