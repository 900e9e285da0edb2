/** Host Protected Area: how much of the drive its user addresses [ATA8-ACS 4.10; SET MAX security extension 4.10.4]. */
import type { Saved } from '../machine.ts'
import { type Fields, takeBoolean, takeBytes, takeNumber } from './saved.ts'

const PASSWORD = 32
const ATTEMPTS = 5

export class MaximumAddress {
  readonly #native: () => number
  /** Sectors that are hidden until the next power-on, and for good. */
  #sectors: number | undefined
  #kept: number | undefined
  #setForGood = false
  #password: Uint8Array<ArrayBuffer> = new Uint8Array(PASSWORD)
  #hasPassword = false
  #locked = false
  #frozen = false
  #attempts = ATTEMPTS

  /** `native` is the number of sectors that there are. */
  constructor(native: () => number) {
    this.#native = native
  }

  /** User addressable sectors. */
  get sectors(): number {
    return Math.min(this.#sectors ?? this.#kept ?? Number.POSITIVE_INFINITY, this.#native())
  }

  /** All sectors there are, the protected area included. */
  get native(): number {
    return this.#native()
  }

  get hasPassword(): boolean {
    return this.#hasPassword
  }

  get locked(): boolean {
    return this.#locked
  }

  get frozen(): boolean {
    return this.#frozen
  }

  /** Sets the number of addressable sectors; false if that is not possible. Only one can be set for good in a power cycle. */
  set(sectors: number, forGood: boolean): boolean {
    if (sectors > this.#native() || sectors < 1 || (forGood && this.#setForGood)) return false
    const value = sectors === this.#native() ? undefined : sectors
    this.#sectors = value ?? (this.#kept === undefined ? undefined : sectors)
    if (forGood) {
      this.#kept = value
      this.#setForGood = true
    }
    return true
  }

  setPassword(password: Uint8Array): void {
    this.#password = new Uint8Array(password)
    this.#hasPassword = true
  }

  lock(): void {
    this.#locked = true
  }

  freeze(): void {
    this.#frozen = true
  }

  /** Compares passwords; false, too, when there were too many attempts. */
  unlock(password: Uint8Array): boolean {
    if (this.#attempts === 0) return false
    if (!password.every((byte, i) => byte === this.#password[i])) {
      this.#attempts--
      return false
    }
    this.#locked = false
    this.#attempts = ATTEMPTS
    return true
  }

  /** Power-on. */
  reset(): void {
    this.#sectors = undefined
    this.#setForGood = false
    this.#frozen = false
    this.#locked = false
    this.#hasPassword = false
    this.#attempts = ATTEMPTS
  }

  save(): Fields {
    return {
      sectors: this.#sectors ?? 0,
      kept: this.#kept ?? 0,
      setForGood: this.#setForGood,
      password: this.#password.slice(),
      hasPassword: this.#hasPassword,
      locked: this.#locked,
      frozen: this.#frozen,
      attempts: this.#attempts,
    }
  }

  restore(state: Saved): void {
    this.#sectors = takeNumber(state, 'sectors') || undefined
    this.#kept = takeNumber(state, 'kept') || undefined
    this.#setForGood = takeBoolean(state, 'setForGood')
    this.#password = takeBytes(state, 'password', PASSWORD)
    this.#hasPassword = takeBoolean(state, 'hasPassword')
    this.#locked = takeBoolean(state, 'locked')
    this.#frozen = takeBoolean(state, 'frozen')
    this.#attempts = takeNumber(state, 'attempts', ATTEMPTS)
  }
}
