/** SMART feature set: what the drive knows of its own health, from what really passed through it [ATA8-ACS 4.18, 7.53]. */
import type { Saved } from '../../machine.ts'
import type { AtaDisk } from '../ata.ts'
import type { ResetKind } from '../drive.ts'
import { type Fields, takeBoolean, takeBytes, takeFields, takeNumber } from '../saved.ts'
import { sealSum } from '../words.ts'
import { ErrorLog } from './errors.ts'
import { SelfTest } from './selftest.ts'

/** LBA Mid and High of every SMART command, and what they become when the drive expects to fail [ATA8-ACS 7.53.10]. */
export const SMART_MID = 0x4f
export const SMART_HIGH = 0xc2
export const SMART_FAILED_MID = 0xf4
export const SMART_FAILED_HIGH = 0x2c

const HOUR = 3_600_000
const REVISION = 0x0010
/** Sectors that cannot be read, as many as the drive remembers. */
const PENDING_LIMIT = 4096

// Flags of an attribute
const PREFAILURE = 1 << 0
const ONLINE = 1 << 1
const ERROR_RATE = 1 << 3
const EVENTS = 1 << 4
const SELF_PRESERVING = 1 << 5

// Bytes of the SMART data [7.53.8]
const DATA_OFFLINE_STATUS = 362
const DATA_SELF_TEST_STATUS = 363
const DATA_OFFLINE_SECONDS = 364
const DATA_OFFLINE_CAPABILITY = 367
const DATA_CAPABILITY = 368
const DATA_ERROR_LOGGING = 370
const DATA_SHORT_MINUTES = 372
const DATA_EXTENDED_MINUTES = 373
const DATA_CONVEYANCE_MINUTES = 374
const DATA_EXTENDED_MINUTES_WIDE = 375
/** EXECUTE OFF-LINE IMMEDIATE; short, extended, conveyance and selective self-tests. */
const OFFLINE_CAPABILITY = 0x71
const OFFLINE_NEVER = 0x00
const OFFLINE_DONE = 0x02
/** What a self-test reads in a minute, bytes; an estimate for the host's patience. */
const BYTES_PER_MINUTE = 4e9

interface Attribute {
  readonly id: number
  readonly flags: number
  readonly threshold: number
  readonly value: number
  readonly raw: number
}

export class Smart {
  readonly #ata: AtaDisk
  readonly errors: ErrorLog
  readonly selfTest: SelfTest
  enabled = true
  autosave = true
  #offline = OFFLINE_NEVER
  /** Power-on time before this session, ms. */
  #earlier = 0
  #born: number
  #powerCycles = 1
  #resets = 0
  #hardResets = 0
  #uncorrectable = 0
  #reallocated = 0
  #pending = new Set<number>()

  constructor(ata: AtaDisk) {
    this.#ata = ata
    this.#born = ata.cable.clock.now()
    const hours = () => Math.min(this.hours, 0xffff)
    this.errors = new ErrorLog(ata.cable.clock, hours)
    this.selfTest = new SelfTest(ata, hours)
  }

  /** Power-on time, hours. */
  get hours(): number {
    return Math.floor((this.#earlier + this.#ata.cable.clock.now() - this.#born) / HOUR)
  }

  get powerCycles(): number {
    return this.#powerCycles
  }

  /** Resets by SRST or DEVICE RESET, and by RST#. */
  get resets(): number {
    return this.#resets
  }

  get hardResets(): number {
    return this.#hardResets
  }

  /** Times that the host asked for a sector and did not get it. */
  get uncorrectable(): number {
    return this.#uncorrectable
  }

  /** A sector could not be read. */
  unreadable(lba: number): void {
    this.#uncorrectable++
    if (this.#pending.size < PENDING_LIMIT) this.#pending.add(lba)
  }

  /** A write succeeded: sectors in it that could not be read are well again. */
  written(at: number, length: number): void {
    if (this.#pending.size === 0) return
    const from = at / this.#ata.sectorSize
    const to = (at + length) / this.#ata.sectorSize
    for (const lba of this.#pending) {
      if (lba < from || lba >= to) continue
      this.#pending.delete(lba)
      this.#reallocated++
    }
  }

  #attributes(): Attribute[] {
    const { stats } = this.#ata.disk
    const size = this.#ata.sectorSize
    const worn = (count: number) => Math.max(100 - count, 1)
    const always = ONLINE | EVENTS | SELF_PRESERVING
    return [
      {
        id: 1, // raw read error rate
        flags: PREFAILURE | ONLINE | ERROR_RATE,
        threshold: 6,
        value: worn(this.#uncorrectable),
        raw: this.#uncorrectable,
      },
      { id: 4, flags: always, threshold: 20, value: 100, raw: this.#powerCycles }, // start/stop count
      {
        id: 5, // reallocated sectors
        flags: PREFAILURE | always,
        threshold: 36,
        value: worn(this.#reallocated),
        raw: this.#reallocated,
      },
      { id: 9, flags: always, threshold: 0, value: 100, raw: this.hours }, // power-on hours
      { id: 12, flags: always, threshold: 20, value: 100, raw: this.#powerCycles }, // power cycles
      { id: 187, flags: always, threshold: 0, value: worn(this.#uncorrectable), raw: this.#uncorrectable }, // reported
      { id: 197, flags: ONLINE | EVENTS, threshold: 0, value: worn(this.#pending.size), raw: this.#pending.size },
      { id: 198, flags: EVENTS, threshold: 0, value: worn(this.#pending.size), raw: this.#pending.size }, // off-line
      { id: 199, flags: always | ERROR_RATE, threshold: 0, value: 200, raw: 0 }, // interface CRC errors
      { id: 241, flags: 0, threshold: 0, value: 100, raw: Math.floor(stats.bytesWritten / size) },
      { id: 242, flags: 0, threshold: 0, value: 100, raw: Math.floor(stats.bytesRead / size) },
    ]
  }

  /** Whether no attribute is at its threshold or below. */
  get healthy(): boolean {
    return this.#attributes().every(({ flags, value, threshold }) => (flags & PREFAILURE) === 0 || value > threshold)
  }

  /** SMART READ DATA [7.53.8]. */
  data(page: Uint8Array): void {
    const view = new DataView(page.buffer, page.byteOffset, 512)
    view.setUint16(0, REVISION, true)
    this.#attributes().forEach(({ id, flags, value, raw }, i) => {
      const at = 2 + 12 * i
      page[at] = id
      view.setUint16(at + 1, flags, true)
      page[at + 3] = value
      page[at + 4] = value
      view.setUint32(at + 5, raw % 2 ** 32, true)
      view.setUint16(at + 9, Math.floor(raw / 2 ** 32) & 0xffff, true)
    })
    const minutes = Math.min(Math.max(Math.ceil(this.#ata.disk.size / BYTES_PER_MINUTE), 1), 0xffff)
    page[DATA_OFFLINE_STATUS] = this.#offline
    page[DATA_SELF_TEST_STATUS] = this.selfTest.status
    view.setUint16(DATA_OFFLINE_SECONDS, 1, true)
    page[DATA_OFFLINE_CAPABILITY] = OFFLINE_CAPABILITY
    view.setUint16(DATA_CAPABILITY, 0x0003, true)
    page[DATA_ERROR_LOGGING] = 1
    page[DATA_SHORT_MINUTES] = 1
    page[DATA_EXTENDED_MINUTES] = Math.min(minutes, 0xff)
    page[DATA_CONVEYANCE_MINUTES] = 1
    view.setUint16(DATA_EXTENDED_MINUTES_WIDE, minutes < 0xff ? 0 : minutes, true)
    sealSum(page)
  }

  /** SMART READ THRESHOLDS [ATA-5 8.41.6], which every tool still asks for. */
  thresholds(page: Uint8Array): void {
    page[0] = REVISION & 0xff
    this.#attributes().forEach(({ id, threshold }, i) => {
      page[2 + 12 * i] = id
      page[3 + 12 * i] = threshold
    })
    sealSum(page)
  }

  /** The off-line data collection: everything is up to date at once. */
  collect(): void {
    this.#offline = OFFLINE_DONE
  }

  reset(kind: ResetKind): void {
    this.selfTest.interrupt()
    if (kind === 'power') this.#hardResets++
    else this.#resets++
  }

  save(): Fields {
    const pending = new Float64Array([...this.#pending])
    return {
      enabled: this.enabled,
      autosave: this.autosave,
      offline: this.#offline,
      earlier: Math.floor(this.#earlier + this.#ata.cable.clock.now() - this.#born),
      powerCycles: this.#powerCycles,
      resets: this.#resets,
      hardResets: this.#hardResets,
      uncorrectable: this.#uncorrectable,
      reallocated: this.#reallocated,
      pending: new Uint8Array(pending.buffer),
      errors: this.errors.save(),
      selfTest: this.selfTest.save(),
    }
  }

  restore(state: Saved): void {
    const fields = takeFields(state, 'SMART')
    this.enabled = takeBoolean(state, 'enabled')
    this.autosave = takeBoolean(state, 'autosave')
    this.#offline = takeNumber(state, 'offline', 0xff)
    this.#earlier = takeNumber(state, 'earlier')
    this.#born = this.#ata.cable.clock.now()
    this.#powerCycles = takeNumber(state, 'powerCycles')
    this.#resets = takeNumber(state, 'resets')
    this.#hardResets = takeNumber(state, 'hardResets')
    this.#uncorrectable = takeNumber(state, 'uncorrectable')
    this.#reallocated = takeNumber(state, 'reallocated')
    const pending = takeBytes(state, 'pending', 8 * PENDING_LIMIT)
    this.#pending = new Set(new Float64Array(pending.buffer, 0, pending.length >>> 3))
    this.errors.restore(fields.errors ?? null)
    this.selfTest.restore(fields.selfTest ?? null)
  }

  resume(): void {
    this.selfTest.resume()
  }
}
