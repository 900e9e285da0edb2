/** What a check finds, said in the words that people know from `qemu-img check`. */

import { type CheckResult, MAX_MESSAGES } from '../../checkresult.ts'
import { BlockError, messageOf } from '../../error.ts'
import type { Header } from './header.ts'

/** Gathers what a check finds. */
export class Findings {
  readonly result: CheckResult
  readonly #tell: (message: string) => void

  /** `tell` hears of everything at once. */
  constructor(header: Header, tell: (message: string) => void = () => {}) {
    this.#tell = tell
    this.result = {
      'image-end-offset': 0,
      'total-clusters': Math.ceil(header.size / 2 ** header.clusterBits),
      'allocated-clusters': 0,
      'fragmented-clusters': 0,
      'compressed-clusters': 0,
      corruptions: 0,
      leaks: 0,
      'corruptions-fixed': 0,
      'leaks-fixed': 0,
      'check-errors': 0,
      messages: [],
    }
  }

  say(what: string): void {
    if (this.result.messages.length < MAX_MESSAGES) this.result.messages.push(what)
    this.#tell(what)
  }

  /** Something is corrupt, as often as `times` says. */
  corrupt(what: string, times = 1): void {
    this.result.corruptions += times
    this.say(what)
  }

  /** Something cannot be checked. */
  failed(error: unknown): void {
    if (!(error instanceof BlockError)) throw error
    this.result['check-errors']++
    this.say(messageOf(error))
  }
}

/** A table's entry of two 32-bit halves, in hexadecimal. */
export function hex(high: number, low: number): string {
  return high === 0 ? low.toString(16) : high.toString(16) + low.toString(16).padStart(8, '0')
}
