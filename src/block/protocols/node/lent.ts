/** Bytes of a file lent where the page cache has them: who only hands them on needs no copy. */
import type { Loan } from '../../device.ts'
import { EINVAL } from './failure.ts'
import type { Libc } from './libc.ts'
import { isCached, mappable } from './mapped.ts'

/** Longest that is lent at a time, bytes. */
const LENT_MAX = 8 << 20
/** Loans at a time. */
const LOANS_MAX = 4

/** A range of addresses for one loan after the other: V8 takes each new array of foreign memory for new memory, and collects garbage. */
interface Place {
  readonly address: number
  readonly memory: ArrayBuffer
}

/** What of an open file is lent. */
export class Lent {
  readonly #libc: Libc
  readonly #fd: number
  readonly #size: number
  readonly #free: Place[] = []
  readonly #pages: Uint8Array
  /** Whether the file can be mapped; not asked yet. */
  #able: boolean | undefined
  #loans = 0
  #closed = false

  /** `size`: bytes of the file. */
  constructor(libc: Libc, fd: number, size: number) {
    this.#libc = libc
    this.#fd = fd
    this.#size = size
    this.#pages = new Uint8Array(LENT_MAX / libc.pageSize + 1)
  }

  /** The start of the range; undefined unless the page cache has that, or too much is lent already. */
  lend(at: number, length: number): Loan | undefined {
    this.#able ??= mappable(this.#libc, this.#fd, this.#size)
    if (!this.#able || this.#loans === LOANS_MAX) return undefined
    const { pageSize } = this.#libc
    const into = at % pageSize
    const wanted = Math.min(length, LENT_MAX)
    const place = this.#map(at - into)
    if (place === undefined) return undefined
    const start = place.address + into
    const there =
      isCached(this.#libc, this.#fd, at, start, wanted, this.#pages) && isReady(this.#libc.populate(start, wanted))
    if (!there) {
      this.#free.push(place)
      return undefined
    }
    this.#loans++
    let lent = true
    return {
      bytes: new Uint8Array(place.memory, into, wanted),
      release: () => {
        if (!lent) return
        lent = false
        this.#loans--
        if (this.#closed) this.#unmap(place)
        else this.#free.push(place)
      },
    }
  }

  /** Lends no more, and unmaps what is lent when it is given back. */
  close(): void {
    this.#closed = true
    this.#able = false
    for (const place of this.#free.splice(0)) this.#unmap(place)
  }

  #map(at: number): Place | undefined {
    const { pageSize } = this.#libc
    const length = LENT_MAX + pageSize
    const free = this.#free.pop()
    if (free !== undefined) {
      // Where that fails nobody knows whose the addresses are: they are given up.
      return this.#libc.mapFile(this.#fd, at, length, free.address) >= 0 ? free : undefined
    }
    const address = this.#libc.mapFile(this.#fd, at, length)
    return address < 0 ? undefined : { address, memory: this.#libc.view(address, length) }
  }

  #unmap(place: Place): void {
    this.#libc.unmap(place.address, place.memory.byteLength)
  }
}

/** Linux before 5.14 does not populate for reading; then the pages come one by one. */
function isReady(populated: number): boolean {
  return populated >= 0 || populated === -EINVAL
}
