/** Self-tests: the drive reads itself, in the background or while the host waits, and keeps the results [ATA8-ACS 7.53.5, A.17, A.8]. */
import { errnoOf } from '../../../block/error.ts'
import { bytesVec } from '../../../block/iovec.ts'
import { settle } from '../../../block/now.ts'
import type { Saved } from '../../machine.ts'
import type { AtaDisk } from '../ata.ts'
import { locate } from '../locate.ts'
import { type Fields, takeBoolean, takeBytes, takeList, takeNumber } from '../saved.ts'
import { sealSum } from '../words.ts'

// Subcommands of SMART EXECUTE OFF-LINE IMMEDIATE, in LBA Low
export const OFFLINE = 0x00
export const SHORT = 0x01
export const EXTENDED = 0x02
export const CONVEYANCE = 0x03
export const SELECTIVE = 0x04
export const ABORT = 0x7f
export const CAPTIVE = 0x80

// Self-test execution status, upper four bits [7.53.8.3]
const PASSED = 0x0
const ABORTED_BY_HOST = 0x1
const INTERRUPTED_BY_RESET = 0x2
const READ_FAILURE = 0x7
const IN_PROGRESS = 0xf

const LOG_ENTRIES = 21
const EXTENDED_ENTRIES = 19
const CHUNK = 256 << 10
const SAMPLES = 64
const SPANS = 5

interface Result {
  readonly test: number
  readonly status: number
  readonly hours: number
  /** The first sector that failed, if one did. */
  readonly lba: number | undefined
}

/** Sectors `from` up to `to`, exclusive. */
interface Span {
  readonly from: number
  readonly to: number
}

export class SelfTest {
  readonly #ata: AtaDisk
  readonly #hours: () => number
  /** Status byte of the last test, or of the one that runs. */
  #status = 0
  #test = 0
  #captive = false
  #spans: readonly Span[] = []
  #span = 0
  #at = 0
  #total = 0
  #tested = 0
  #run = 0
  /** Newest last. */
  #results: Result[] = []
  #selective: Uint8Array<ArrayBuffer> = new Uint8Array(512)

  constructor(ata: AtaDisk, hours: () => number) {
    this.#ata = ata
    this.#hours = hours
    this.#selective[0] = 1
  }

  get running(): boolean {
    return this.#status >>> 4 === IN_PROGRESS
  }

  /** Self-test execution status byte: the result, or how much is left in tenths. */
  get status(): number {
    if (!this.running) return this.#status
    return (IN_PROGRESS << 4) | Math.min(Math.ceil(10 * (1 - this.#tested / Math.max(this.#total, 1))), 9)
  }

  /** Begins the test `test`; a captive one ends the command with its result. */
  start(test: number): void {
    // A restored drive does its command again, whose test is the one that runs
    if (this.running && this.#captive && test === this.#test) return
    this.abort()
    const size = this.#ata.sectorSize
    this.#test = test
    this.#captive = (test & CAPTIVE) !== 0
    this.#spans = this.#plan(test & ~CAPTIVE)
    this.#span = 0
    this.#at = this.#spans[0]?.from ?? 0
    this.#total = this.#spans.reduce((sum, { from, to }) => sum + (to - from) * size, 0)
    this.#tested = 0
    this.#status = IN_PROGRESS << 4
    this.#next(++this.#run)
  }

  #plan(test: number): Span[] {
    const { sectors, sectorSize } = this.#ata
    if (test === EXTENDED) return [{ from: 0, to: sectors }]
    if (test === SELECTIVE) return this.#selectedSpans()
    // The others look at samples, the first and the last sectors among them
    const length = Math.min(Math.max(Math.floor(CHUNK / sectorSize), 1), sectors)
    const count = Math.max(Math.min(SAMPLES, Math.floor(sectors / length)), 1)
    return Array.from({ length: count }, (_, i) => {
      const from = count === 1 ? 0 : Math.floor(((sectors - length) / (count - 1)) * i)
      return { from, to: from + length }
    })
  }

  #selectedSpans(): Span[] {
    const view = new DataView(this.#selective.buffer)
    const spans: Span[] = []
    for (let i = 0; i < SPANS; i++) {
      const from = Number(view.getBigUint64(2 + 16 * i, true))
      const to = Number(view.getBigUint64(10 + 16 * i, true)) + 1
      if (to > 1 && from < to && from < this.#ata.sectors) spans.push({ from, to: Math.min(to, this.#ata.sectors) })
    }
    return spans
  }

  #next(run: number): void {
    this.#ata.cable.clock.defer(() => {
      if (run === this.#run && this.running) this.#step(run)
    })
  }

  #step(run: number): void {
    const span = this.#spans[this.#span]
    if (span === undefined) {
      this.#end(PASSED)
      return
    }
    const { disk, sectorSize } = this.#ata
    const start = this.#at * sectorSize
    const length = Math.min(CHUNK, (span.to - this.#at) * sectorSize, Math.max(disk.size - start, 0))
    const scratch = new Uint8Array(length)
    const read = (from: number, to: number) => disk.read(from, bytesVec(scratch.subarray(from - start, to - start)))
    this.#guard(
      run,
      () => read(start, start + length),
      () => {
        this.#tested += length
        this.#at += length / sectorSize
        if (this.#at >= span.to || length === 0) {
          this.#span++
          this.#at = this.#spans[this.#span]?.from ?? 0
        }
        this.#next(run)
      },
      (error) => {
        if (errnoOf(error) === 'ECANCELED') return
        locate(
          { start, end: start + length, unit: sectorSize },
          read,
          (begin, done, failed) => this.#guard(run, begin, done, failed),
          (bad) => {
            this.#ata.smart.unreadable(bad / sectorSize)
            this.#end(READ_FAILURE, bad / sectorSize)
          },
        )
      },
    )
  }

  #guard(run: number, start: () => void | Promise<void>, done: () => void, failed: (error: unknown) => void): void {
    settle(
      start,
      () => {
        if (run === this.#run) done()
      },
      (error) => {
        if (run === this.#run) failed(error)
      },
    )
  }

  #end(result: number, lba?: number): void {
    const left = result === PASSED ? 0 : this.status & 0x0f
    this.#run++
    this.#status = (result << 4) | left
    this.#results.push({ test: this.#test, status: this.#status, hours: this.#hours(), lba })
    if (this.#results.length > LOG_ENTRIES) this.#results.shift()
    if (this.#captive && (result === PASSED || result === READ_FAILURE)) this.#ata.endCaptive(result === PASSED)
    this.#captive = false
  }

  /** The host ends the test that runs. */
  abort(): void {
    if (this.running) this.#end(ABORTED_BY_HOST)
  }

  /** A reset ends it. */
  interrupt(): void {
    if (this.running) this.#end(INTERRUPTED_BY_RESET)
  }

  /** SMART Self-Test log [A.17]. */
  log(page: Uint8Array): void {
    const view = new DataView(page.buffer, page.byteOffset, 512)
    view.setUint16(0, 1, true)
    this.#results.forEach(({ test, status, hours, lba }, i) => {
      const at = 2 + 24 * i
      page[at] = test
      page[at + 1] = status
      view.setUint16(at + 2, hours, true)
      view.setUint32(at + 5, lba === undefined ? 0 : Math.min(lba, 0x0fff_ffff), true)
    })
    page[508] = this.#results.length
    sealSum(page)
  }

  /** Extended SMART Self-Test log [A.8]. */
  extendedLog(page: Uint8Array): void {
    const view = new DataView(page.buffer, page.byteOffset, 512)
    const results = this.#results.slice(-EXTENDED_ENTRIES)
    page[0] = 1
    view.setUint16(2, results.length, true)
    results.forEach(({ test, status, hours, lba }, i) => {
      const at = 4 + 26 * i
      page[at] = test
      page[at + 1] = status
      view.setUint16(at + 2, hours, true)
      view.setUint32(at + 5, (lba ?? 0) % 2 ** 32, true)
      view.setUint16(at + 9, Math.floor((lba ?? 0) / 2 ** 32), true)
    })
    sealSum(page)
  }

  /** Selective Self-Test log [A.15]. */
  selectiveLog(page: Uint8Array): void {
    page.set(this.#selective)
    if (this.running && (this.#test & ~CAPTIVE) === SELECTIVE) {
      const view = new DataView(page.buffer, page.byteOffset, 512)
      view.setBigUint64(492, BigInt(this.#at), true)
      view.setUint16(500, this.#span + 1, true)
    }
    sealSum(page)
  }

  /** Takes the spans that the host wants tested; false while a test runs. */
  setSelective(data: Uint8Array): boolean {
    if (this.running) return false
    this.#selective = new Uint8Array(data)
    return true
  }

  save(): Fields {
    return {
      status: this.#status,
      test: this.#test,
      captive: this.#captive,
      spans: this.#spans.map(({ from, to }) => ({ from, to })),
      span: this.#span,
      at: this.#at,
      total: this.#total,
      tested: this.#tested,
      results: this.#results.map(({ test, status, hours, lba }) => ({ test, status, hours, lba: (lba ?? -1) + 1 })),
      selective: this.#selective.slice(),
    }
  }

  restore(state: Saved): void {
    this.#run++
    this.#status = takeNumber(state, 'status', 0xff)
    this.#test = takeNumber(state, 'test', 0xff)
    this.#captive = takeBoolean(state, 'captive')
    this.#spans = takeList(state, 'spans', SAMPLES).map((saved) => ({
      from: takeNumber(saved, 'from'),
      to: takeNumber(saved, 'to'),
    }))
    this.#span = takeNumber(state, 'span', SAMPLES)
    this.#at = takeNumber(state, 'at')
    this.#total = takeNumber(state, 'total')
    this.#tested = takeNumber(state, 'tested')
    this.#results = takeList(state, 'results', LOG_ENTRIES).map((saved) => {
      const lba = takeNumber(saved, 'lba') - 1
      return {
        test: takeNumber(saved, 'test', 0xff),
        status: takeNumber(saved, 'status', 0xff),
        hours: takeNumber(saved, 'hours', 0xffff),
        lba: lba < 0 ? undefined : lba,
      }
    })
    const selective = takeBytes(state, 'selective', 512)
    this.#selective = new Uint8Array(512)
    this.#selective.set(selective)
  }

  /** Goes on, when the bus runs. */
  resume(): void {
    if (this.running) this.#next(++this.#run)
  }
}
