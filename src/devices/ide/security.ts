/** Security feature set: passwords, lock and freeze [ATA8-ACS 4.13, 7.44 to 7.49]. */
import type { Saved } from '../machine.ts'
import { type Fields, takeBoolean, takeBytes, takeNumber } from './saved.ts'

const PASSWORD = 32
const ATTEMPTS = 5
const DEFAULT_REVISION = 0xfffe

// Word 0 of the data of the SECURITY commands
const CONTROL_MASTER = 1 << 0
const CONTROL_ENHANCED = 1 << 1
const CONTROL_MAXIMUM = 1 << 8

// Word 128 of IDENTIFY DEVICE
const STATUS_SUPPORTED = 1 << 0
const STATUS_ENABLED = 1 << 1
const STATUS_LOCKED = 1 << 2
const STATUS_FROZEN = 1 << 3
const STATUS_EXPIRED = 1 << 4
const STATUS_ENHANCED = 1 << 5
const STATUS_MAXIMUM = 1 << 8

function same(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i])
}

/** A password as the host sent it: word 0 says which one it is, words 1 to 16 hold it. */
class Offer {
  readonly control: number
  readonly password: Uint8Array<ArrayBuffer>

  constructor(data: Uint8Array) {
    this.control = data[0]! | (data[1]! << 8)
    this.password = new Uint8Array(data.subarray(2, 2 + PASSWORD))
  }

  get master(): boolean {
    return (this.control & CONTROL_MASTER) !== 0
  }
}

export class Security {
  #user: Uint8Array<ArrayBuffer> | undefined
  #master: Uint8Array<ArrayBuffer> = new Uint8Array(PASSWORD)
  #revision = DEFAULT_REVISION
  #maximum = false
  #locked = false
  #frozen = false
  #attempts = ATTEMPTS

  /** Whether there is a user password. */
  get enabled(): boolean {
    return this.#user !== undefined
  }

  get locked(): boolean {
    return this.#locked
  }

  get frozen(): boolean {
    return this.#frozen
  }

  /** Master Password Identifier, word 92. */
  get revision(): number {
    return this.#revision
  }

  /** Word 128. */
  get word(): number {
    return (
      STATUS_SUPPORTED |
      STATUS_ENHANCED |
      (this.enabled ? STATUS_ENABLED : 0) |
      (this.#locked ? STATUS_LOCKED : 0) |
      (this.#frozen ? STATUS_FROZEN : 0) |
      (this.#attempts === 0 ? STATUS_EXPIRED : 0) |
      (this.enabled && this.#maximum ? STATUS_MAXIMUM : 0)
    )
  }

  /** SECURITY SET PASSWORD; false if the drive is in no state for it. */
  setPassword(data: Uint8Array): boolean {
    if (this.#locked || this.#frozen) return false
    const offer = new Offer(data)
    if (offer.master) {
      this.#master = offer.password
      const revision = data[34]! | (data[35]! << 8)
      if (revision !== 0x0000 && revision !== 0xffff) this.#revision = revision
    } else {
      this.#user = offer.password
      this.#maximum = (offer.control & CONTROL_MAXIMUM) !== 0
    }
    return true
  }

  /** SECURITY UNLOCK. Five wrong passwords close the way until power-on. */
  unlock(data: Uint8Array): boolean {
    if (this.#frozen || this.#attempts === 0) return false
    if (this.#locked && !this.#opens(new Offer(data))) {
      this.#attempts--
      return false
    }
    this.#locked = false
    this.#attempts = ATTEMPTS
    return true
  }

  /** SECURITY DISABLE PASSWORD. */
  disable(data: Uint8Array): boolean {
    if (this.#locked || this.#frozen) return false
    if (this.enabled && !this.#opens(new Offer(data))) return false
    this.#user = undefined
    return true
  }

  /** Whether SECURITY ERASE UNIT may go on: at the level Maximum, too, the master password does. */
  mayErase(data: Uint8Array): boolean {
    if (this.#frozen || this.#attempts === 0) return false
    const offer = new Offer(data)
    return offer.master
      ? same(offer.password, this.#master)
      : this.#user !== undefined && same(offer.password, this.#user)
  }

  /** Whether an enhanced erase is asked for. */
  enhanced(data: Uint8Array): boolean {
    return (new Offer(data).control & CONTROL_ENHANCED) !== 0
  }

  /** The drive was erased: the user password is gone. */
  erased(): void {
    this.#user = undefined
    this.#locked = false
    this.#attempts = ATTEMPTS
  }

  /** SECURITY FREEZE LOCK. */
  freeze(): boolean {
    if (this.#locked) return false
    this.#frozen = true
    return true
  }

  #opens(offer: Offer): boolean {
    if (offer.master) return !this.#maximum && same(offer.password, this.#master)
    return this.#user !== undefined && same(offer.password, this.#user)
  }

  /** Power-on: a drive with a user password is locked. */
  reset(): void {
    this.#locked = this.enabled
    this.#frozen = false
    this.#attempts = ATTEMPTS
  }

  save(): Fields {
    return {
      user: this.#user?.slice() ?? null,
      master: this.#master.slice(),
      revision: this.#revision,
      maximum: this.#maximum,
      locked: this.#locked,
      frozen: this.#frozen,
      attempts: this.#attempts,
    }
  }

  restore(state: Saved): void {
    const { user } = state as Fields
    this.#user = user === null ? undefined : takeBytes(state, 'user', PASSWORD)
    this.#master = takeBytes(state, 'master', PASSWORD)
    this.#revision = takeNumber(state, 'revision', 0xffff)
    this.#maximum = takeBoolean(state, 'maximum')
    this.#locked = takeBoolean(state, 'locked')
    this.#frozen = takeBoolean(state, 'frozen')
    this.#attempts = takeNumber(state, 'attempts', ATTEMPTS)
  }
}
