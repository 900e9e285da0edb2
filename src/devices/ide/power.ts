/** Power Management feature set [ATA8-ACS 4.11]: nothing here spins, but hosts ask and set. */
import type { Clock, Saved } from '../machine.ts'
import { type Fields, takeNumber } from './saved.ts'

/** What CHECK POWER MODE answers [ATA8-ACS 7.3.3]. */
export const STANDBY = 0x00
export const IDLE = 0x80
export const ACTIVE = 0xff

const SECOND = 1000
const MINUTE = 60 * SECOND

/** Period of the Standby timer for a count of IDLE or STANDBY, ms; 0 turns it off [ATA8-ACS table 24]. */
export function standbyPeriod(count: number): number {
  if (count === 0) return 0
  if (count <= 240) return count * 5 * SECOND
  if (count <= 251) return (count - 240) * 30 * MINUTE
  if (count === 252) return 21 * MINUTE
  if (count === 255) return 21 * MINUTE + 15 * SECOND
  return 8 * 60 * MINUTE
}

export class Power {
  readonly #clock: Clock
  #mode = ACTIVE
  #period = 0
  #since = 0

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** The mode that the drive is in. */
  get mode(): number {
    if (this.#period > 0 && this.#clock.now() - this.#since >= this.#period) return STANDBY
    return this.#mode
  }

  /** Goes to `mode`, and sets the Standby timer if a count is given. */
  enter(mode: number, count?: number): void {
    this.#mode = mode
    if (count !== undefined) this.#period = standbyPeriod(count)
    if (this.#period > 0) this.#since = this.#clock.now()
  }

  /** The medium is used. */
  use(): void {
    this.#mode = ACTIVE
    if (this.#period > 0) this.#since = this.#clock.now()
  }

  reset(): void {
    this.#mode = ACTIVE
    this.#period = 0
  }

  save(): Fields {
    return { mode: this.mode, period: this.#period }
  }

  restore(state: Saved): void {
    this.#mode = takeNumber(state, 'mode', 0xff)
    this.#period = takeNumber(state, 'period', 12 * 60 * MINUTE)
    this.#since = this.#clock.now()
  }
}
