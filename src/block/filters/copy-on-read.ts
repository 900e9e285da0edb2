/** copy-on-read: what is read from a backing file is kept in the image. */

import type { WriteOptions, ZeroOptions } from '../device.ts'
import { Filter } from '../filter.ts'
import { bytesVec, type IoVec } from '../iovec.ts'
import { after, isLater, type Now, repeat } from '../now.ts'
import { RangeLock } from '../rangelock.ts'

/** Most that one copy takes, bytes. */
const STEP = 1 << 20

/**
 * Copies holes of the image up when they are read. A guest's write that meets a copy waits for it: the copy must never put old
 * bytes over new ones.
 */
export class CopyOnRead extends Filter {
  readonly name = 'copy-on-read'
  readonly #lock = new RangeLock()

  override read(at: number, into: IoVec): Now<void> {
    let done = 0
    return repeat(() =>
      after(this.next.status(at + done, into.byteLength - done), (extent) => {
        const from = at + done
        const length = extent.kind === 'hole' ? Math.min(extent.length, STEP) : extent.length
        const part = into.slice(done, done + length)
        done += length
        const read = extent.kind === 'hole' ? this.#copy(from, part) : this.next.read(from, part)
        return after(read, () => done < into.byteLength)
      }),
    )
  }

  override write(at: number, from: IoVec, options?: WriteOptions): Now<void> {
    return this.#lock.shared(at, from.byteLength, () => this.next.write(at, from, options))
  }

  override zero(at: number, length: number, options?: ZeroOptions): Now<void> {
    return this.#lock.shared(at, length, () => this.next.zero(at, length, options))
  }

  override discard(at: number, length: number): Now<void> {
    return this.#lock.shared(at, length, () => this.next.discard(at, length))
  }

  #copy(at: number, into: IoVec): Now<void> {
    return this.#lock.exclusive(at, into.byteLength, () => {
      const bytes = new Uint8Array(into.byteLength)
      return after(this.next.read(at, bytesVec(bytes)), () => {
        into.scatter(bytes)
        return this.#keep(at, bytes)
      })
    })
  }

  /** Writes what is still a hole; a write that came before the lock may have filled part of it. */
  #keep(at: number, bytes: Uint8Array): Now<void> {
    let done = 0
    return repeat(() => {
      if (done >= bytes.length) return false
      return after(this.next.status(at + done, bytes.length - done), (extent) => {
        const piece = bytesVec(bytes.subarray(done, done + extent.length))
        const start = at + done
        done += extent.length
        const kept = extent.kind === 'hole' ? this.#try(start, piece) : undefined
        return after(kept, () => done < bytes.length)
      })
    })
  }

  /** A copy that fails costs nothing but the copy: the guest has its bytes. */
  #try(at: number, piece: IoVec): Now<void> {
    try {
      const written = this.next.write(at, piece)
      return isLater(written) ? written.catch(() => {}) : written
    } catch {}
  }
}
