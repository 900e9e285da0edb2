/** The drive's logs, by address: what READ LOG EXT and SMART READ LOG find, and what hosts may keep [ATA8-ACS annex A; ACS-3 A]. */
import type { Saved } from '../machine.ts'
import type { AtaDisk } from './ata.ts'
import { identify } from './identify.ts'
import { takeBytes, takeList, takeNumber } from './saved.ts'
import { EXTENDED_PAGES } from './smart/errors.ts'

/** Bytes of a log page. */
export const PAGE = 512

interface Log {
  /** Pages that READ LOG EXT finds; none if absent. */
  readonly general?: number
  /** Sectors that SMART READ LOG finds. */
  readonly smart?: number
  readonly read: (ata: AtaDisk, page: Uint8Array, number: number) => void
  /** Takes a page from the host; false if the drive is in no state for it. */
  readonly write?: (ata: AtaDisk, page: Uint8Array, number: number) => boolean
}

const DIRECTORY = 0x00
/** IDENTIFY DEVICE data log. */
export const IDENTIFY_LOG = 0x30
/** Host Specific logs, 16 pages each [ATA8-ACS A.13]. */
const HOST_FIRST = 0x80
const HOST_LAST = 0x9f
const HOST_PAGES = 16

const hostLog: Log = {
  general: HOST_PAGES,
  smart: HOST_PAGES,
  read: () => {},
}

const LOGS: { readonly [address: number]: Log } = {
  [DIRECTORY]: { general: 1, smart: 1, read: () => {} },
  1: { smart: 1, read: (ata, page) => ata.smart.errors.summary(page) },
  2: { smart: 1, read: (ata, page) => ata.smart.errors.summary(page) },
  3: { general: EXTENDED_PAGES, read: (ata, page, number) => ata.smart.errors.extended(page, number) },
  4: { general: 8, smart: 8, read: statistics },
  6: { smart: 1, read: (ata, page) => ata.smart.selfTest.log(page) },
  7: { general: 1, read: (ata, page) => ata.smart.selfTest.extendedLog(page) },
  9: {
    smart: 1,
    read: (ata, page) => ata.smart.selfTest.selectiveLog(page),
    write: (ata, page) => ata.smart.selfTest.setSelective(page),
  },
  [IDENTIFY_LOG]: { general: 6, smart: 6, read: identifyData },
}

function logAt(address: number): Log | undefined {
  return address >= HOST_FIRST && address <= HOST_LAST ? hostLog : LOGS[address]
}

/** Which of the two ways to read logs is meant. */
export type LogAccess = 'general' | 'smart'

/** The logs of one drive. */
export class Logs {
  readonly #ata: AtaDisk
  readonly #kept = new Map<number, Uint8Array<ArrayBuffer>>()

  constructor(ata: AtaDisk) {
    this.#ata = ata
  }

  /** Pages of the log at `address`; 0 if there is none. */
  pages(address: number, access: LogAccess): number {
    return logAt(address)?.[access] ?? 0
  }

  /** Fills `bytes`, which is zero, with the log's pages from `first` on. */
  read(address: number, access: LogAccess, first: number, bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at += PAGE) {
      const page = bytes.subarray(at, at + PAGE)
      const number = first + at / PAGE
      if (address === DIRECTORY) this.#directory(page, access)
      else if (address >= HOST_FIRST && address <= HOST_LAST) {
        const kept = this.#kept.get(address)
        if (kept !== undefined) page.set(kept.subarray(number * PAGE, (number + 1) * PAGE))
      } else LOGS[address]?.read(this.#ata, page, number)
    }
  }

  /** Whether the host may write the log. */
  writable(address: number): boolean {
    return logAt(address) === hostLog || logAt(address)?.write !== undefined
  }

  /** Keeps what the host wrote, from page `first` on; false if the drive is in no state for it. */
  write(address: number, first: number, bytes: Uint8Array): boolean {
    if (logAt(address) !== hostLog) return LOGS[address]?.write?.(this.#ata, bytes, first) === true
    let kept = this.#kept.get(address)
    if (kept === undefined) {
      kept = new Uint8Array(HOST_PAGES * PAGE)
      this.#kept.set(address, kept)
    }
    kept.set(bytes, first * PAGE)
    return true
  }

  #directory(page: Uint8Array, access: LogAccess): void {
    const view = new DataView(page.buffer, page.byteOffset, PAGE)
    view.setUint16(0, 1, true)
    for (let address = 1; address < 256; address++) view.setUint16(2 * address, this.pages(address, access), true)
  }

  save(): Saved {
    return [...this.#kept].map(([address, bytes]) => ({ address, bytes: bytes.slice() }))
  }

  restore(state: Saved): void {
    this.#kept.clear()
    for (const saved of takeList({ logs: state }, 'logs', HOST_LAST - HOST_FIRST + 1)) {
      const bytes = new Uint8Array(HOST_PAGES * PAGE)
      bytes.set(takeBytes(saved, 'bytes', bytes.length))
      this.#kept.set(takeNumber(saved, 'address', HOST_LAST), bytes)
    }
  }
}

// Device Statistics log [ATA8-ACS A.5]; every value is eight bytes, the upper two flags
const STATISTIC_VALID = 0xc0

function putStatistic(page: Uint8Array, at: number, value: number): void {
  const view = new DataView(page.buffer, page.byteOffset, PAGE)
  view.setUint32(at, value % 2 ** 32, true)
  view.setUint16(at + 4, Math.floor(value / 2 ** 32) & 0xffff, true)
  page[at + 7] = STATISTIC_VALID
}

function statistics(ata: AtaDisk, page: Uint8Array, number: number): void {
  const { smart, sectorSize } = ata
  const { stats } = ata.disk
  const values: { readonly [number: number]: readonly number[] } = {
    // General: power cycles, hours, sectors written, writes, sectors read, reads
    1: [
      smart.powerCycles,
      smart.hours,
      Math.floor(stats.bytesWritten / sectorSize),
      stats.writes,
      Math.floor(stats.bytesRead / sectorSize),
      stats.reads,
    ],
    // General errors: uncorrectable errors, resets
    4: [smart.uncorrectable, smart.resets],
    // Transport: hardware resets, signal recoveries, interface CRC errors
    6: [smart.hardResets, 0, 0],
  }
  if (number === 0) {
    const pages = [0, ...Object.keys(values).map(Number)]
    page[0] = 0
    page[2] = 1
    page[8] = pages.length
    page.set(pages, 9)
    return
  }
  const list = values[number]
  if (list === undefined) return
  page[0] = 1
  page[2] = number
  list.forEach((value, i) => {
    putStatistic(page, 8 + 8 * i, value)
  })
}

// IDENTIFY DEVICE data log [ACS-3 A.12]; a valid value has its uppermost bit set
const VALID = 1n << 63n
const IDENTIFY_PAGES = [0x00, 0x01, 0x02, 0x05]

function identifyData(ata: AtaDisk, page: Uint8Array, number: number): void {
  const view = new DataView(page.buffer, page.byteOffset, PAGE)
  if (!IDENTIFY_PAGES.includes(number)) return
  if (number === 1) {
    page.set(identify(ata))
    return
  }
  view.setBigUint64(0, VALID | (BigInt(number) << 16n) | 1n, true)
  if (number === 0) {
    page[8] = IDENTIFY_PAGES.length
    page.set(IDENTIFY_PAGES, 9)
  } else if (number === 2) {
    const exponent = Math.log2(ata.disk.physicalBlockSize / ata.sectorSize)
    view.setBigUint64(8, VALID | BigInt(ata.sectors), true)
    view.setBigUint64(16, VALID | (1n << 62n) | (1n << 61n) | (BigInt(exponent) << 16n), true)
    view.setBigUint64(24, VALID | BigInt(ata.sectorSize / 2), true)
  } else {
    const { serial, firmware, model } = ata.identity
    for (const [at, length, text] of [
      [8, 20, serial],
      [32, 8, firmware],
      [48, 40, model],
    ] as const) {
      for (let i = 0; i < length; i++) page[at + (i ^ 1)] = i < text.length ? text.charCodeAt(i) : 0x20
    }
  }
}
