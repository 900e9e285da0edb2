/** Does everything on two devices and compares what they read: `blkverify`, for finding out which of two drivers is wrong. */
import type { BlockDevice, Extent, WriteOptions, ZeroOptions } from '../device.ts'
import { BlockError } from '../error.ts'
import { Filter } from '../filter.ts'
import { bytesVec, type IoVec } from '../iovec.ts'
import { after, all, type Now } from '../now.ts'

/** The device under test is `test`; `raw` is the reference. A difference is an EIO that says where it begins. */
export class Blkverify extends Filter {
  readonly name = 'blkverify'
  readonly #raw: BlockDevice

  constructor(test: BlockDevice, raw: BlockDevice) {
    super(test)
    if (raw.size !== test.size) {
      throw new BlockError(
        'EINVAL',
        `Cannot verify ${test.name} by ${raw.name}: they have ${test.size} and ${raw.size} bytes`,
      )
    }
    this.#raw = raw
  }

  override read(at: number, into: IoVec): Now<void> {
    const expected = new Uint8Array(into.byteLength)
    return after(all([this.next.read(at, into), this.#raw.read(at, bytesVec(expected))]), () => {
      const found = into.gather()
      for (let i = 0; i < found.length; i++) {
        if (found[i] === expected[i]) continue
        const where = `read offset=${at} bytes=${found.length}`
        throw new BlockError('EIO', `blkverify: ${where} contents mismatch at offset ${at + i}`)
      }
    })
  }

  override write(at: number, from: IoVec, options?: WriteOptions): Now<void> {
    return all([this.next.write(at, from, options), this.#raw.write(at, from, options)])
  }

  override flush(): Now<void> {
    return all([this.next.flush(), this.#raw.flush()])
  }

  override zero(at: number, length: number, options?: ZeroOptions): Now<void> {
    return all([this.next.zero(at, length, options), this.#raw.zero(at, length, options)])
  }

  /** Passed to neither: what a discarded range reads as is each device's own affair. */
  override discard(): void {}

  override status(at: number, length: number): Now<Extent> {
    return this.next.status(at, length)
  }

  override resize(size: number): Now<void> {
    return all([this.next.resize(size), this.#raw.resize(size)])
  }

  override close(): Now<void> {
    return all([this.next.close(), this.#raw.close()])
  }
}
