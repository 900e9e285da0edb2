/** What the command groups of a CD-ROM know of their drive. */
import type { Disk } from '../../../block/disk.ts'
import type { Place } from '../extent.ts'
import { CheckCondition, LBA_OUT_OF_RANGE } from '../sense.ts'
import type { Logs } from '../spc/logs.ts'
import { CD_BLOCKS } from './address.ts'

/** A CD-ROM drive. */
export interface CdDrive {
  /** The medium; throws NOT READY without one. */
  readonly disk: Disk
  readonly medium: Disk | undefined
  readonly blocks: number
  readonly trayOpen: boolean
  readonly isLocked: boolean
  /** Whether a medium is there and the tray is closed. */
  readonly isReady: boolean
  /** Physical interface standard (MMC-6 table 94): 1 SCSI, 2 ATAPI. */
  readonly physicalInterface: number
  /** Read speed, kB/s. */
  speed: number
  readonly events: MediaEvents
  readonly logs: Logs
  /** Where a block is on the disk. */
  place(lba: number): Place
}

/** Throws LOGICAL BLOCK ADDRESS OUT OF RANGE for blocks that are not all on the medium. */
export function checkBlocks(drive: CdDrive, lba: number, count: number): void {
  if (lba + count > drive.blocks) throw new CheckCondition(LBA_OUT_OF_RANGE)
}

export const PROFILE_NONE = 0x0000
export const PROFILE_CD_ROM = 0x0008
export const PROFILE_DVD_ROM = 0x0010

/** The profile that the medium makes current. */
export function profile(drive: CdDrive): number {
  if (!drive.isReady) return PROFILE_NONE
  return drive.blocks > CD_BLOCKS ? PROFILE_DVD_ROM : PROFILE_CD_ROM
}

// MMC-6 table 313: media event codes
export const EVENT_EJECT_REQUEST = 1
export const EVENT_NEW_MEDIA = 2
export const EVENT_MEDIA_REMOVAL = 3

const EVENT_LIMIT = 8

/** Media events that the host has not asked for yet, oldest first. */
export class MediaEvents {
  readonly #codes: number[] = []

  /** A new event; the same again says nothing more. */
  add(code: number): void {
    if (this.#codes.at(-1) === code) return
    this.#codes.push(code)
    if (this.#codes.length > EVENT_LIMIT) this.#codes.shift()
  }

  /** The oldest event, which is over then; 0 if there is none. */
  take(): number {
    return this.#codes.shift() ?? 0
  }

  /** The events, oldest first. */
  get codes(): readonly number[] {
    return this.#codes
  }

  /** Takes up saved events. */
  restore(codes: readonly number[]): void {
    this.#codes.splice(0, this.#codes.length, ...codes.slice(-EVENT_LIMIT))
  }
}
