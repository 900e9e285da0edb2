/** One channel's bus master: it walks the guest's table of physical regions and moves the drive's data [PIIX3 2.6, 3.5]. */

import { GuestVec } from '../dma.ts'
import type { GuestMemory, Saved } from '../machine.ts'
import type { Drive } from './drive.ts'
import {
  BM_COMMAND,
  BM_COMMAND_START,
  BM_COMMAND_TO_MEMORY,
  BM_STATUS,
  BM_STATUS_ACTIVE,
  BM_STATUS_DMA_CAPABLE,
  BM_STATUS_ERROR,
  BM_STATUS_INTERRUPT,
  BM_TABLE,
} from './registers.ts'
import { type Fields, takeBoolean, takeNumber } from './saved.ts'

const ENTRY = 8
const END_OF_TABLE = 0x8000_0000
/** A table lies within 64 KiB of memory [PIIX3 3.5.2]. */
const TABLE_BOUNDARY = 0x1_0000

/** Where the walk through the table is. */
interface Walk {
  /** Address of the next entry. */
  readonly entry: number
  /** What is left of the entry before it. */
  readonly at: number
  readonly left: number
  /** Whether that one was marked as the last. */
  readonly last: boolean
}

/** Why a walk ended before the drive had all it wanted. */
type Shortage = 'exhausted' | 'fault' | undefined

export class BusMaster {
  readonly #memory: GuestMemory
  readonly #enabled: () => boolean
  #command = 0
  #status = 0
  #table = 0
  #walk: Walk = { entry: 0, at: 0, left: 0, last: false }
  #before: Walk = this.#walk
  /** Of the transfer that is under way. */
  #shortage: Shortage
  #mover: Drive | undefined
  /** The drives that asserted DMARQ, by their number. */
  readonly #requesters: [Drive | undefined, Drive | undefined] = [undefined, undefined]

  /** `enabled` is the bus master bit of the PCI command register. */
  constructor(memory: GuestMemory, enabled: () => boolean) {
    this.#memory = memory
    this.#enabled = enabled
  }

  /** Reads the byte at `offset` of the channel's eight. */
  read(offset: number): number {
    switch (offset) {
      case BM_COMMAND:
        return this.#command
      case BM_STATUS:
        return this.#status
      case BM_TABLE:
      case BM_TABLE + 1:
      case BM_TABLE + 2:
      case BM_TABLE + 3:
        return (this.#table >>> (8 * (offset - BM_TABLE))) & 0xff
      default:
        return 0
    }
  }

  /** Writes a byte. */
  write(offset: number, value: number): void {
    switch (offset) {
      case BM_COMMAND:
        this.#writeCommand(value)
        break
      case BM_STATUS:
        this.#status &= ~(value & (BM_STATUS_ERROR | BM_STATUS_INTERRUPT))
        this.#status = (this.#status & ~BM_STATUS_DMA_CAPABLE) | (value & BM_STATUS_DMA_CAPABLE)
        break
      case BM_TABLE:
      case BM_TABLE + 1:
      case BM_TABLE + 2:
      case BM_TABLE + 3: {
        const shift = 8 * (offset - BM_TABLE)
        this.#table = ((this.#table & ~(0xff << shift)) | (value << shift)) & ~3
      }
    }
  }

  #writeCommand(value: number): void {
    const started = (this.#command & BM_COMMAND_START) !== 0
    this.#command = value & (BM_COMMAND_START | BM_COMMAND_TO_MEMORY)
    const start = (value & BM_COMMAND_START) !== 0
    if (start === started) return
    if (start) {
      this.#walk = { entry: this.#table >>> 0, at: 0, left: 0, last: false }
      this.#status |= BM_STATUS_ACTIVE
      this.run()
    } else this.#stop()
  }

  // While the host has not let go of the guest's memory, the bus master is still active, and says so
  #stop(): void {
    const mover = this.#mover
    if (mover?.phase !== 'moving') {
      this.#status &= ~BM_STATUS_ACTIVE
      return
    }
    mover.halt(() => {
      if ((this.#command & BM_COMMAND_START) === 0) this.#status &= ~BM_STATUS_ACTIVE
    })
  }

  /** INTRQ rose: whatever the drive's reason is, the bit is set. */
  interrupted(): void {
    this.#status |= BM_STATUS_INTERRUPT
  }

  /** `drive` asserts DMARQ. */
  request(drive: Drive): void {
    this.#requesters[drive.unit] = drive
    this.run()
  }

  /**
   * Moves what there is to move, if a drive wants it and the guest allows it. The drive's command says which way, as it does in
   * other emulators, so that a driver that sets the direction bit wrong works, or fails, here as it does there.
   */
  run(): void {
    const drive = this.#wanting()
    if (drive === undefined || (this.#status & BM_STATUS_ACTIVE) === 0 || this.#mover?.phase === 'moving') return
    if ((this.#command & BM_COMMAND_START) === 0 || !this.#enabled()) return
    this.#before = this.#walk
    const memory = new GuestVec(this.#memory)
    this.#shortage = this.#collect(memory, drive.dmaWanted)
    if (memory.byteLength === 0) {
      this.#short()
      return
    }
    this.#mover = drive
    drive.move(memory, this.#moved)
  }

  readonly #moved = (whole: boolean): void => {
    if (whole && this.#shortage !== undefined) this.#short()
    else if (whole && this.#walk.left === 0 && this.#walk.last) this.#status &= ~BM_STATUS_ACTIVE
    if (this.#wanting() !== this.#mover) this.run()
  }

  /** The drive that wants data moved; of two, which no host should ask at once, the first. */
  #wanting(): Drive | undefined {
    const [first, second] = this.#requesters
    return first?.phase === 'dma' ? first : second?.phase === 'dma' ? second : undefined
  }

  #short(): void {
    this.#status &= ~BM_STATUS_ACTIVE
    if (this.#shortage === 'fault') this.#status |= BM_STATUS_ERROR
  }

  /** Adds the regions of the table to `memory` until it is `wanted` bytes long, the table ends, or an entry names what is no RAM. */
  #collect(memory: GuestVec, wanted: number): Shortage {
    let { entry, at, left, last } = this.#walk
    let shortage: Shortage
    const limit = (this.#table & ~(TABLE_BOUNDARY - 1)) >>> 0
    while (memory.byteLength < wanted) {
      if (left === 0) {
        if (last) {
          shortage = 'exhausted'
          break
        }
        if (entry >= limit + TABLE_BOUNDARY || !this.#memory.contains(entry, ENTRY)) {
          shortage = 'fault'
          break
        }
        // Bit 0 of the address and of the count do not exist; a count of zero is 64 KiB
        at = (this.#memory.data.getUint32(entry, true) & ~1) >>> 0
        const control = this.#memory.data.getUint32(entry + 4, true)
        left = control & 0xfffe || 0x1_0000
        last = (control & END_OF_TABLE) !== 0
        entry += ENTRY
      }
      const length = Math.min(left, wanted - memory.byteLength)
      if (!this.#memory.contains(at, length)) {
        shortage = 'fault'
        break
      }
      memory.add(at, length)
      at += length
      left -= length
    }
    this.#walk = { entry, at, left, last }
    return shortage
  }

  /** After RST#. */
  reset(): void {
    this.#command = 0
    this.#status = 0
    this.#table = 0
    this.#walk = { entry: 0, at: 0, left: 0, last: false }
    this.#before = this.#walk
    this.#mover = undefined
    this.#requesters.fill(undefined)
  }

  save(): Fields {
    // A transfer that is under way is moved again from its start
    const { entry, at, left, last } = this.#mover?.phase === 'moving' ? this.#before : this.#walk
    return { command: this.#command, status: this.#status, table: this.#table >>> 0, entry, at, left, last }
  }

  restore(state: Saved): void {
    this.reset()
    this.#command = takeNumber(state, 'command', 0xff) & (BM_COMMAND_START | BM_COMMAND_TO_MEMORY)
    this.#status = takeNumber(state, 'status', 0xff)
    this.#table = takeNumber(state, 'table', 0xffff_fffc) & ~3
    this.#walk = {
      entry: takeNumber(state, 'entry', 2 ** 33),
      at: takeNumber(state, 'at', 2 ** 33),
      left: takeNumber(state, 'left', TABLE_BOUNDARY),
      last: takeBoolean(state, 'last'),
    }
    this.#before = this.#walk
    // A halted transfer was let go of when the state was taken up
    if ((this.#command & BM_COMMAND_START) === 0) this.#status &= ~BM_STATUS_ACTIVE
  }
}
