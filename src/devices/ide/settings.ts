/** What SET FEATURES, SET MULTIPLE MODE and INITIALIZE DEVICE PARAMETERS set [ATA8-ACS 7.50, 7.54; ATA-5 8.16]. */
import type { Saved } from '../machine.ts'
import { CHS_LIMIT, type Translation } from './address.ts'
import type { ResetKind } from './drive.ts'
import { type Fields, takeBoolean, takeNumber } from './saved.ts'

/** Most sectors in a DRQ block of READ and WRITE MULTIPLE. */
export const MULTIPLE_LIMIT = 16
/** Highest modes that the drive offers: PIO 4, multiword DMA 2, Ultra DMA 5. */
export const PIO_LIMIT = 4
export const MULTIWORD_LIMIT = 2
export const ULTRA_LIMIT = 5
const NO_MODE = 0xff
const DEFAULT_ULTRA = 2

const DEFAULT_HEADS = 16
const DEFAULT_SECTORS = 63
const DEFAULT_CYLINDERS_LIMIT = 16_383

/** The translation that a drive of `sectors` sectors begins with [ATA-5 annex B]. */
export function defaultTranslation(sectors: number): Translation & { cylinders: number } {
  let heads = DEFAULT_HEADS
  while (heads > 1 && sectors < heads * DEFAULT_SECTORS) heads >>= 1
  const perTrack = Math.max(Math.min(DEFAULT_SECTORS, sectors), 1)
  const cylinders = Math.max(Math.min(Math.floor(sectors / (heads * perTrack)), DEFAULT_CYLINDERS_LIMIT), 1)
  return { heads, sectors: perTrack, cylinders }
}

export class Settings {
  translation: Translation
  /** Sectors in a DRQ block of READ and WRITE MULTIPLE; 0 while those commands are off. */
  multiple = MULTIPLE_LIMIT
  lookAhead = true
  /** Level of advanced power management, 1 to FEh; 0 while it is off. */
  powerManagement = 0
  /** Whether a software reset brings back the settings of power-on. */
  revert = false
  #multiword: number
  #ultra: number
  readonly #ultraDefault: boolean

  constructor(sectors: number, ultra: boolean) {
    this.translation = defaultTranslation(sectors)
    this.#ultraDefault = ultra
    this.#multiword = ultra ? NO_MODE : MULTIWORD_LIMIT
    this.#ultra = ultra ? DEFAULT_ULTRA : NO_MODE
  }

  /** Selected multiword DMA mode, if one is. */
  get multiword(): number | undefined {
    return this.#multiword === NO_MODE ? undefined : this.#multiword
  }

  /** Selected Ultra DMA mode, if one is. */
  get ultra(): number | undefined {
    return this.#ultra === NO_MODE ? undefined : this.#ultra
  }

  /** SET FEATURES 03h: takes the transfer mode in `value`, or answers false. */
  setTransferMode(value: number): boolean {
    const mode = value & 0x07
    switch (value >>> 3) {
      case 0x00: // PIO default mode, with IORDY or without
        return mode <= 1
      case 0x01: // PIO flow control mode
        return mode <= PIO_LIMIT
      case 0x04:
        if (mode > MULTIWORD_LIMIT) return false
        this.#multiword = mode
        this.#ultra = NO_MODE
        return true
      case 0x08:
        if (mode > ULTRA_LIMIT) return false
        this.#ultra = mode
        this.#multiword = NO_MODE
        return true
      default:
        return false
    }
  }

  /** Cylinders of the current translation in a drive of `sectors` sectors. */
  cylinders(sectors: number): number {
    const { heads, sectors: perTrack } = this.translation
    if (heads === DEFAULT_HEADS && perTrack === DEFAULT_SECTORS) return defaultTranslation(sectors).cylinders
    return Math.min(Math.floor(Math.min(sectors, CHS_LIMIT) / (heads * perTrack)), 0xffff)
  }

  /** The drive has `sectors` sectors now. */
  resized(sectors: number): void {
    const { heads, sectors: perTrack } = this.translation
    if (heads * perTrack > sectors) this.translation = defaultTranslation(sectors)
  }

  /** Power-on brings everything back; a software reset only what 66h and CCh say [ATA8-ACS 7.50.14]. */
  reset(kind: ResetKind, sectors: number): void {
    if (kind !== 'power' && !this.revert) return
    this.translation = defaultTranslation(sectors)
    this.multiple = MULTIPLE_LIMIT
    this.lookAhead = true
    this.powerManagement = 0
    if (kind !== 'power') return
    this.revert = false
    this.#multiword = this.#ultraDefault ? NO_MODE : MULTIWORD_LIMIT
    this.#ultra = this.#ultraDefault ? DEFAULT_ULTRA : NO_MODE
  }

  save(): Fields {
    return {
      heads: this.translation.heads,
      sectors: this.translation.sectors,
      multiple: this.multiple,
      lookAhead: this.lookAhead,
      powerManagement: this.powerManagement,
      revert: this.revert,
      multiword: this.#multiword,
      ultra: this.#ultra,
    }
  }

  restore(state: Saved): void {
    this.translation = {
      heads: Math.max(takeNumber(state, 'heads', 16), 1),
      sectors: Math.max(takeNumber(state, 'sectors', 255), 1),
    }
    this.multiple = takeNumber(state, 'multiple', MULTIPLE_LIMIT)
    this.lookAhead = takeBoolean(state, 'lookAhead')
    this.powerManagement = takeNumber(state, 'powerManagement', 0xfe)
    this.revert = takeBoolean(state, 'revert')
    this.#multiword = takeNumber(state, 'multiword', 0xff)
    this.#ultra = takeNumber(state, 'ultra', 0xff)
  }
}
