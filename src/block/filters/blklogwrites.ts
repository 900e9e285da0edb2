/** Logs every write in the format of Linux' dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst). */
import type { BlockDevice, WriteOptions, ZeroOptions } from '../device.ts'
import { BlockError } from '../error.ts'
import { Filter } from '../filter.ts'
import { bytesVec, type IoVec, zeroVec } from '../iovec.ts'
import { after, type Now, repeat } from '../now.ts'

// dm-log-writes: the superblock and what an entry's flags say
export const LOG_MAGIC = 0x6a736677736872n
export const LOG_VERSION = 1n
export const LOG_FLUSH = 1 << 0
export const LOG_FUA = 1 << 1
export const LOG_DISCARD = 1 << 2
export const LOG_MARK = 1 << 3

/** Bytes of zeroes in one entry. */
const LARGEST_ENTRY = 1 << 24

export interface BlklogwritesOptions {
  /** Unit of the log, bytes, a power of two from 512; default 512. */
  readonly logSectorSize?: number
  /** Entries after which the superblock is brought up to date without a flush; default 4096. */
  readonly logSuperUpdateInterval?: number
}

/**
 * Passes everything to `file` and writes it to `log`, entry after entry. The superblock, which counts the entries, is written
 * when the guest flushes, so the log is valid up to the last flush.
 */
export class Blklogwrites extends Filter {
  readonly name = 'blklogwrites'
  readonly #log: BlockDevice
  readonly #unit: number
  readonly #interval: number
  #entries = 0n
  #at: number

  constructor(file: BlockDevice, log: BlockDevice, options: BlklogwritesOptions = {}) {
    super(file)
    const unit = options.logSectorSize ?? 512
    if (!(unit >= 512 && unit <= 1 << 23) || (unit & (unit - 1)) !== 0) {
      throw new BlockError(
        'EINVAL',
        `Cannot log the writes of ${file.name}: log-sector-size is ${unit}, must be a power of two`,
      )
    }
    this.#log = log
    this.#unit = unit
    this.#interval = options.logSuperUpdateInterval ?? 4096
    this.#at = unit
  }

  override get align(): number {
    return this.#unit
  }

  /** Entries in the log. */
  get entries(): number {
    return Number(this.#entries)
  }

  override write(at: number, from: IoVec, options?: WriteOptions): Now<void> {
    return after(this.next.write(at, from, options), () =>
      this.#append(at, from.byteLength, options?.fua ? LOG_FUA : 0, from),
    )
  }

  override zero(at: number, length: number, options?: ZeroOptions): Now<void> {
    return after(this.next.zero(at, length, options), () => {
      let done = 0
      return repeat(() => {
        const step = Math.min(length - done, LARGEST_ENTRY)
        const start = at + done
        done += step
        return after(this.#append(start, step, 0, zeroVec(step)), () => done < length)
      })
    })
  }

  override discard(at: number, length: number): Now<void> {
    return after(this.next.discard(at, length), () => this.#append(at, length, LOG_DISCARD))
  }

  override flush(): Now<void> {
    return after(this.next.flush(), () =>
      after(this.#append(0, 0, LOG_FLUSH), () => after(this.#superblock(), () => this.#log.flush())),
    )
  }

  override close(): Now<void> {
    return after(this.#superblock(), () => after(this.#log.close(), () => this.next.close()))
  }

  #append(at: number, length: number, flags: number, data?: IoVec): Now<void> {
    const entry = new Uint8Array(this.#unit)
    const view = new DataView(entry.buffer)
    view.setBigUint64(0, BigInt(at / this.#unit), true)
    view.setBigUint64(8, BigInt(length / this.#unit), true)
    view.setBigUint64(16, BigInt(flags), true)
    const start = this.#at
    this.#at += this.#unit + (data?.byteLength ?? 0)
    this.#entries++
    const due = this.#entries % BigInt(this.#interval) === 0n
    return after(this.#room(), () =>
      after(this.#log.write(start, bytesVec(entry)), () =>
        after(data && this.#log.write(start + this.#unit, data), () => (due ? this.#superblock() : undefined)),
      ),
    )
  }

  #room(): Now<void> {
    if (this.#at > this.#log.size) return this.#log.resize(this.#at)
  }

  #superblock(): Now<void> {
    const block = new Uint8Array(this.#unit)
    const view = new DataView(block.buffer)
    view.setBigUint64(0, LOG_MAGIC, true)
    view.setBigUint64(8, LOG_VERSION, true)
    view.setBigUint64(16, this.#entries, true)
    view.setUint32(24, this.#unit, true)
    return after(this.#room(), () => this.#log.write(0, bytesVec(block)))
  }
}
