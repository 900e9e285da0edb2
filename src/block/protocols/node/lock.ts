/** Image locks: open-file-description locks on the bytes that QEMU uses, so that both keep each other out. */
import { BlockError } from '../../error.ts'
import { EACCES, EAGAIN } from './failure.ts'
import type { Libc } from './libc.ts'

// fcntl(2), open file description locks
const F_OFD_GETLK = 36
const F_OFD_SETLK = 37
const F_RDLCK = 0
const F_WRLCK = 1
const F_UNLCK = 2

/** struct flock on 64-bit Linux: type, whence, start, length, pid. */
const FLOCK_SIZE = 32

/** A user of an image holds byte 100 + n for what it does, and 200 + n for what it bears no other to do. */
const DOES = 100
const BARS = 200
const CONSISTENT_READ = 0
const WRITE = 1
const RESIZE = 3

function flock(type: number, at: number): Uint8Array {
  const bytes = new Uint8Array(FLOCK_SIZE)
  const data = new DataView(bytes.buffer)
  data.setInt16(0, type, true)
  data.setBigInt64(8, BigInt(at), true)
  data.setBigInt64(16, 1n, true)
  return bytes
}

/** Whether someone else holds byte `at`; false also where it cannot be known. */
function held(libc: Libc, fd: number, at: number): boolean {
  const question = flock(F_WRLCK, at)
  return libc.fcntl(fd, F_OFD_GETLK, question) >= 0 && new DataView(question.buffer).getInt16(0, true) !== F_UNLCK
}

/**
 * Takes the locks of a reader, or of a writer, on the open file `fd`; they last as long as it is open. Readers share; a writer
 * shares with nobody. Answers whether the file system has such locks; EBUSY, with `name` in its message, if another is in the way.
 */
export function lockImage(libc: Libc, fd: number, name: string, readOnly: boolean): boolean {
  const does = readOnly ? [CONSISTENT_READ] : [CONSISTENT_READ, WRITE, RESIZE]
  const bars = [WRITE, RESIZE]
  for (const at of [...does.map((bit) => DOES + bit), ...bars.map((bit) => BARS + bit)]) {
    const result = libc.fcntl(fd, F_OFD_SETLK, flock(F_RDLCK, at))
    if (result >= 0) continue
    if (result === -EAGAIN || result === -EACCES) throw busy(name, readOnly)
    return false
  }
  if (bars.some((bit) => held(libc, fd, DOES + bit)) || does.some((bit) => held(libc, fd, BARS + bit))) {
    throw busy(name, readOnly)
  }
  return true
}

/** Refuses with EBUSY if anybody uses the image in `fd`, before it is made anew. */
export function refuseIfUsed(libc: Libc, fd: number, name: string): void {
  for (let bit = 0; bit < 8; bit++) {
    if (held(libc, fd, DOES + bit) || held(libc, fd, BARS + bit)) {
      throw new BlockError(
        'EBUSY',
        `Cannot make ${name} anew: another program, or another disk of this one, has it open`,
      )
    }
  }
}

function busy(name: string, readOnly: boolean): BlockError {
  return new BlockError(
    'EBUSY',
    readOnly
      ? `Cannot open ${name}: another program, or another disk of this one, has it open for writing; close it there first`
      : `Cannot open ${name} for writing: another program, or another disk of this one, has it open; ` +
          'close it there first, or open it read-only in both',
  )
}
