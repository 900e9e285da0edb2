/** A scatter-gather list as the kernel wants it: an array of struct iovec. */
import type { IoVec } from '../../iovec.ts'
import type { Libc } from './libc.ts'

/** Most pieces that the kernel takes in one call (UIO_MAXIOV). */
export const IOV_MAX = 1024

/** Buffers of this size and more are an emulator's memory, or as lasting, bytes. */
const LARGE = 4 << 20

/**
 * Asks for large pages under memory that requests will use, if it is as large as an emulator's; what was touched before stays as
 * it is. Past the page cache a request of many small pages is as many pieces for the device: measured on virtio-blk, reads of
 * 256 KiB took 245 us, and into large pages 120; of 64 KiB 80 and 50.
 */
export function preferLargePages(libc: Libc, buffer: ArrayBufferLike): void {
  if (buffer.byteLength >= LARGE) libc.preferLargePages(libc.address(buffer), buffer.byteLength)
}

/** Finds the addresses of views; remembers where the buffers it saw last are. */
export class Addresses {
  readonly #libc: Libc
  readonly #known = new WeakMap<ArrayBufferLike, number>()
  #last: ArrayBufferLike | undefined
  #lastBase = 0

  constructor(libc: Libc) {
    this.#libc = libc
  }

  /** Address of the first byte of `view`. */
  of(view: Uint8Array): number {
    const { buffer } = view
    if (buffer !== this.#last) {
      let base = this.#known.get(buffer)
      if (base === undefined) {
        this.#known.set(buffer, (base = this.#libc.address(buffer)))
        preferLargePages(this.#libc, buffer)
      }
      this.#last = buffer
      this.#lastBase = base
    }
    return this.#lastBase + view.byteOffset
  }

  /**
   * Fills `iov`, four words a piece, with the pieces from `first` on, as many as it holds, and answers their length together.
   * Pieces of 4 GiB and more do not occur.
   */
  fill(iov: Uint32Array, views: readonly Uint8Array[], first: number): number {
    const count = Math.min(views.length - first, iov.length >> 2)
    let length = 0
    for (let i = 0, word = 0; i < count; i++, word += 4) {
      const view = views[first + i]!
      const address = this.of(view)
      iov[word] = address
      iov[word + 1] = address / 2 ** 32
      iov[word + 2] = view.length
      iov[word + 3] = 0
      length += view.length
    }
    return length
  }
}

/** The first `limit` pieces of a list, or all. */
export function atMost(views: readonly Uint8Array[], limit: number): readonly Uint8Array[] {
  return views.length <= limit ? views : views.slice(0, limit)
}

/** What is left of a list after `done` bytes. */
export function rest(vector: IoVec, done: number): IoVec {
  return done === 0 ? vector : vector.slice(done)
}
