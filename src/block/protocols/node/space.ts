/** The space that a file or device takes: giving it back, zeroing it, and asking where it is. */
import type { Extent } from '../../device.ts'
import { BlockError } from '../../error.ts'
import { EINVAL, ENOSYS, ENOTTY, ENXIO, EOPNOTSUPP, hostError } from './failure.ts'
import type { Libc } from './libc.ts'

/** What can be done to the space behind a range; what cannot throws ENOTSUP and has done nothing. */
export interface Space {
  /** Unit in which space can be given back, bytes. */
  readonly granularity: number
  zero(at: number, length: number, unmap: boolean): Promise<void>
  discard(at: number, length: number): Promise<void>
  status(at: number, length: number): Promise<Extent>
}

// fallocate(2)
export const FALLOC_FL_KEEP_SIZE = 1
const FALLOC_FL_PUNCH_HOLE = 2
const FALLOC_FL_ZERO_RANGE = 16
// lseek(2)
const SEEK_DATA = 3
const SEEK_HOLE = 4
// linux/fs.h
const BLKDISCARD = 0x1277
const BLKZEROOUT = 0x127f

/** A request that the kernel, the file system or the device may not know; then it is not tried again. */
class Trick {
  readonly #doing: string
  #absent = false

  constructor(doing: string) {
    this.#doing = doing
  }

  async try(range: string, request: () => Promise<number>): Promise<void> {
    if (this.#absent) throw this.#unknown()
    const result = await request()
    if (result >= 0) return
    if (![EOPNOTSUPP, ENOSYS, EINVAL, ENOTTY].includes(-result))
      throw hostError(-result, `Cannot ${this.#doing} ${range}`)
    this.#absent = true
    throw this.#unknown()
  }

  get absent(): boolean {
    return this.#absent
  }

  #unknown(): BlockError {
    return new BlockError('ENOTSUP', `Cannot ${this.#doing} here`)
  }
}

const range = (at: number, length: number, name: string) => `${length} bytes at ${at} of ${name}`

/** The space of a regular file whose file system has blocks of `granularity` bytes. */
export function fileSpace(libc: Libc, fd: number, name: string, granularity: number): Space {
  const punch = new Trick('punch a hole of')
  const zeroRange = new Trick('zero')
  const hole = (at: number, length: number) =>
    punch.try(range(at, length, name), () => libc.fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, length))
  return {
    granularity,
    zero(at, length, unmap) {
      if (unmap && !punch.absent) return hole(at, length)
      return zeroRange.try(range(at, length, name), () =>
        libc.fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, at, length),
      )
    },
    discard: hole,
    async status(at, length) {
      const data = await libc.seek(fd, at, SEEK_DATA)
      if (data === -ENXIO) return { length, kind: 'hole' }
      if (data < 0) return { length, kind: 'data' }
      if (data > at) return { length: Math.min(data - at, length), kind: 'hole' }
      const end = await libc.seek(fd, at, SEEK_HOLE)
      return { length: end > at ? Math.min(end - at, length) : length, kind: 'data' }
    },
  }
}

/** The space of a block device with blocks of `granularity` bytes. */
export function deviceSpace(libc: Libc, fd: number, name: string, granularity: number): Space {
  const discard = new Trick('discard')
  const zero = new Trick('zero')
  const request = (trick: Trick, code: number, at: number, length: number) =>
    trick.try(range(at, length, name), () =>
      libc.ioctlLater(fd, code, new Uint8Array(BigUint64Array.of(BigInt(at), BigInt(length)).buffer)),
    )
  return {
    granularity,
    zero: (at, length) => request(zero, BLKZEROOUT, at, length),
    discard: (at, length) => request(discard, BLKDISCARD, at, length),
    status: (_, length) => Promise.resolve({ length, kind: 'data' }),
  }
}
