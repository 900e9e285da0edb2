/** What both formats of a virtqueue have in common: where it is, what was negotiated, what goes in and out. */
import type { GuestMemory, Saved } from '../machine.ts'
import type { Chain } from './chain.ts'
import { F_EVENT_IDX, F_INDIRECT_DESC, F_NOTIFY_ON_EMPTY, type Features } from './standard.ts'

/** Where the driver put a queue: the three areas of 2.6, and the number of entries. */
export interface RingPlace {
  readonly size: number
  /** Descriptor area: the table (split) or the ring (packed). */
  readonly descriptors: number
  /** Driver area: the available ring, or the driver's event suppression. */
  readonly driver: number
  /** Device area: the used ring, or the device's event suppression. */
  readonly device: number
}

/** One queue's ring in guest memory, from the device's side. Its areas are RAM, see {@link Ring.fits}. */
export abstract class Ring {
  protected readonly memory: GuestMemory
  readonly place: RingPlace
  /** Elements that a buffer may have. */
  protected readonly limit: number
  /** Entries of the buffers that were taken and not given back. */
  protected taken = 0
  protected indirect = false
  protected eventIdx = false
  protected notifyOnEmpty = false
  /** What the driver did wrong, once {@link take} found it. */
  fault: string | undefined

  constructor(memory: GuestMemory, place: RingPlace, limit: number) {
    this.memory = memory
    this.place = place
    this.limit = limit
  }

  /** Whether the three areas are RAM and the size is one that the format knows. */
  abstract fits(): boolean
  /** Fills `chain` with the next available buffer; false if there is none, or with {@link fault}. */
  abstract take(chain: Chain): boolean
  /** Gives a buffer back as used with `written` bytes from the start of its writable part; seen after {@link publish}. */
  abstract give(id: number, slots: number, written: number): void
  /** Shows the driver what was given back; answers whether it wants to be interrupted for it. */
  abstract publish(): boolean
  /** The device's own positions. */
  abstract save(): Saved
  /** Takes up positions; false if they are none. */
  abstract restore(saved: unknown): boolean

  /** Says what was negotiated; a legacy driver may do so after it placed the queue. */
  negotiated(features: Features): void {
    this.indirect = features.has(F_INDIRECT_DESC)
    this.eventIdx = features.has(F_EVENT_IDX)
    this.notifyOnEmpty = features.has(F_NOTIFY_ON_EMPTY)
  }

  /** Counts a buffer that a saved state says is under way; false if the ring cannot hold it. */
  retake(slots: number): boolean {
    if (this.taken + slots > this.place.size) return false
    this.taken += slots
    return true
  }

  protected fail(reason: string): false {
    this.fault = reason
    return false
  }
}

/** Reads the 64-bit address at `at`; exact up to 2^53, and beyond that surely no RAM. */
export function address(data: DataView, at: number): number {
  return data.getUint32(at, true) + data.getUint32(at + 4, true) * 2 ** 32
}
