/** The system calls that Node does not have, through koffi where it is installed. */
import { createRequire } from 'node:module'
import { EINTR } from './failure.ts'

/** A call's result, not negative, or minus the error number. */
type Result = number

/** Linux' C library. Addresses are numbers: no process has memory above 2^53. */
export interface Libc {
  /** Address of the first byte of `buffer`; fixed for the buffer's life. */
  address(buffer: ArrayBufferLike): number
  preadv2(fd: number, iov: Uint32Array, count: number, at: number, flags: number): Result
  pwritev2(fd: number, iov: Uint32Array, count: number, at: number, flags: number): Result
  fcntl(fd: number, command: number, argument: Uint8Array): Result
  ioctl(fd: number, request: number, argument: Uint8Array): Result
  readv(fd: number, iov: Uint32Array, count: number): Result
  writev(fd: number, iov: Uint32Array, count: number): Result
  /** Sends from a file, out of the page cache without a copy. */
  sendfile(to: number, from: number, at: number, length: number): Result
  /** How many of the range's pages the page cache has (cachestat(2), Linux 6.5). */
  cached(fd: number, at: number, length: number): Result
  /** Another descriptor of the same open file, which programs that are started do not get. */
  duplicate(fd: number): Result
  setsockopt(fd: number, level: number, option: number, value: Uint32Array): Result
  mmap(fd: number, at: number, length: number): ArrayBuffer
  /** Bytes of a page of memory. */
  readonly pageSize: number
  /** Maps bytes of an open file for reading, in the place of what is mapped at `where`; the address of the first, or minus the error number. */
  mapFile(fd: number, at: number, length: number, where?: number): number
  unmap(address: number, length: number): Result
  /** Mapped memory as an array, which must not be touched once it is unmapped. */
  view(address: number, length: number): ArrayBuffer
  /** Puts the pages of mapped memory into the process' page table; an error where touching them would end the process. */
  populate(address: number, length: number): Result
  /** memcpy(3). */
  copy(to: number, from: number, length: number): void
  /** Asks for large pages where the memory has none yet; of no effect on a kernel without them. */
  preferLargePages(address: number, length: number): void
  /** mincore(2): the lowest bit of a byte for each page says whether it is in memory. */
  mincore(address: number, length: number, pages: Uint8Array): Result
  /** Where an open file ends now. */
  end(fd: number): Result
  close(fd: number): Result
  /** How often this thread has gone to sleep in the kernel. */
  sleeps(): number
  /** How often the kernel has taken the CPU away from this thread. */
  preemptions(): number
  ringSetup(entries: number, parameters: Uint8Array): Result
  ringEnter(fd: number, submit: number, wait: number, flags: number): Result
  /** Submits, and waits for one completion at most `nanoseconds` (IORING_ENTER_EXT_ARG, Linux 5.11). */
  ringWait(fd: number, submit: number, nanoseconds: bigint): Result
  ringRegister(fd: number, operation: number, argument: ArrayBufferView | null, count: number): Result
  /** Calls `ready` whenever `fd` can be read, as long as it can; does not keep the process alive until told to. */
  watch(fd: number, ready: (now: Readiness) => void): Watch
  /** lseek, on a thread of Node's pool. */
  seek(fd: number, at: number, whence: number): Promise<Result>
  /** On a thread of Node's pool. */
  fallocate(fd: number, mode: number, at: number, length: number): Promise<Result>
  /** On this thread. */
  fallocateNow(fd: number, mode: number, at: number, length: number): Result
  /** On a thread of Node's pool. */
  ioctlLater(fd: number, request: number, argument: Uint8Array): Promise<Result>
  /** On a thread of Node's pool; both offsets are given, and the files' own are left alone. */
  copyFileRange(from: number, fromAt: number, to: number, toAt: number, length: number): Promise<Result>
}

/** What can be done with a descriptor without waiting. */
export interface Readiness {
  readonly readable: boolean
  readonly writable: boolean
}

/** A descriptor that the event loop watches. */
export interface Watch {
  /** What is watched for from now on; at first, reading alone. */
  want(readable: boolean, writable: boolean): void
  /** Whether it keeps the process alive. */
  hold(on: boolean): void
  close(): void
}

interface Foreign {
  (...values: unknown[]): number
  async(...values: unknown[]): void
}

interface Poll {
  start(options: Readiness, ready: (status: number, now: Readiness) => void): void
  stop(): void
  ref(): void
  unref(): void
  close(): void
}

interface Koffi {
  load(path: null): { func(definition: string): Foreign }
  address(value: unknown): bigint
  view(address: unknown, length: number): ArrayBuffer
  node: {
    poll(fd: number, options: Readiness, ready: (status: number, now: Readiness) => void): Poll
  }
  errno(): number
  version: string
}

/** RWF_NOWAIT of preadv2(2): fail with EAGAIN rather than wait. */
export const RWF_NOWAIT = 8
/** RWF_DSYNC of pwritev2(2): the write completes when it is durable. */
export const RWF_DSYNC = 2

/** Calls on other threads at the same time: more would only queue at the file's lock, and a guest's write behind them. */
const LATER_MAX = 2

// mmap(2)
const PROT_READ = 1
const PROT_READ_WRITE = 3
const MAP_SHARED = 1
const MAP_FIXED = 0x10
const MAP_SHARED_POPULATE = 0x8001
const MAP_FAILED = 2n ** 64n - 1n

// madvise(2)
const MADV_HUGEPAGE = 14
const MADV_POPULATE_READ = 22

// lseek(2)
const SEEK_END = 2

// fcntl(2)
const F_DUPFD_CLOEXEC = 1030

// getrusage(2)
const RUSAGE_THREAD = 1
const RUSAGE_WORDS = 18
const RUSAGE_NVCSW = 16
const RUSAGE_NIVCSW = 17

// cachestat(2): the same number everywhere too; its answer begins with the pages that are there.
const SYS_CACHESTAT = 451

// System calls 425 to 427 have the same numbers on every architecture.
const SYS_IO_URING_SETUP = 425
const SYS_IO_URING_ENTER = 426
const SYS_IO_URING_REGISTER = 427

const ENTER_GETEVENTS = 1 << 0
const ENTER_EXT_ARG = 1 << 3

/** Architectures with 64-bit little-endian words, which is what structures are laid out for here. */
const ARCHITECTURES = ['x64', 'arm64', 'riscv64', 'loong64']

let loaded: { libc: Libc | undefined; reason: string } | undefined

/** The C library, or undefined with the reason in {@link libcReason}. BLOCK86_KOFFI=off does without it. */
export function libc(): Libc | undefined {
  loaded ??= load()
  return loaded.libc
}

/** One sentence that says how {@link libc} is reached, or why it is not. */
export function libcReason(): string {
  loaded ??= load()
  return loaded.reason
}

function load(): { libc: Libc | undefined; reason: string } {
  if (process.platform !== 'linux') return { libc: undefined, reason: `not used: ${process.platform} is not Linux` }
  if (!ARCHITECTURES.includes(process.arch)) return { libc: undefined, reason: `not used on ${process.arch}` }
  if (process.env.BLOCK86_KOFFI === 'off') return { libc: undefined, reason: 'switched off by BLOCK86_KOFFI=off' }
  let koffi: Koffi
  try {
    koffi = createRequire(import.meta.url)('koffi') as Koffi
  } catch {
    return { libc: undefined, reason: "the optional package 'koffi' is not installed" }
  }
  try {
    return { libc: bind(koffi), reason: `through koffi ${koffi.version}` }
  } catch (error) {
    return { libc: undefined, reason: `koffi ${koffi.version} cannot bind it: ${error}` }
  }
}

function bind(koffi: Koffi): Libc {
  const library = koffi.load(null)
  const result = (value: number): Result => (value >= 0 ? value : -koffi.errno())
  /** Repeats what a signal interrupted. */
  const steady = (call: () => number): Result => {
    for (;;) {
      const value = result(call())
      if (value !== -EINTR) return value
    }
  }
  let running = 0
  const waiting: (() => void)[] = []
  /** Waits for its turn; koffi itself refuses more than 256 calls at a time. */
  const turn = async () => {
    if (running >= LATER_MAX) await new Promise<void>((resolve) => waiting.push(resolve))
    else running++
  }
  const leave = () => {
    const next = waiting.shift()
    if (next === undefined) running--
    else next()
  }
  const once = (foreign: Foreign, values: unknown[]) =>
    new Promise<Result>((resolve, reject) => {
      foreign.async(...values, (error: unknown, value: number) => {
        if (error) reject(error)
        else resolve(result(value))
      })
    })
  const later = async (foreign: Foreign, ...values: unknown[]): Promise<Result> => {
    await turn()
    try {
      for (;;) {
        const value = await once(foreign, values)
        if (value !== -EINTR) return value
      }
    } finally {
      leave()
    }
  }
  const preadv2 = library.func('int64 preadv2(int fd, void *iov, int count, int64 at, int flags)')
  const pwritev2 = library.func('int64 pwritev2(int fd, void *iov, int count, int64 at, int flags)')
  const readv = library.func('int64 readv(int fd, void *iov, int count)')
  const writev = library.func('int64 writev(int fd, void *iov, int count)')
  const sendfile = library.func('int64 sendfile(int to, int from, void *at, size_t length)')
  const offset = new BigInt64Array(1)
  const cachestat = library.func('int64 syscall(int64 number, uint fd, void *range, void *found, uint flags)')
  const range = new BigUint64Array(2)
  const found = new BigUint64Array(5)
  const duplicate = library.func('int fcntl(int fd, int command, int64 least)')
  const fcntl = library.func('int fcntl(int fd, int command, void *argument)')
  const lseek = library.func('int64 lseek(int fd, int64 at, int whence)')
  const ioctl = library.func('int ioctl(int fd, ulong request, void *argument)')
  const setsockopt = library.func('int setsockopt(int fd, int level, int option, void *value, uint length)')
  const mmap = library.func('void *mmap(void *place, size_t length, int protection, int flags, int fd, int64 at)')
  const munmap = library.func('int munmap(uintptr_t address, size_t length)')
  const madvise = library.func('int madvise(uintptr_t address, size_t length, int advice)')
  const pageSize = library.func('int getpagesize()')()
  const memcpy = library.func('uintptr_t memcpy(uintptr_t to, uintptr_t from, size_t length)')
  const mincore = library.func('int mincore(uintptr_t address, size_t length, void *pages)')
  const close = library.func('int close(int fd)')
  const getrusage = library.func('int getrusage(int who, void *usage)')
  const usage = new BigInt64Array(RUSAGE_WORDS)
  const ringSetup = library.func('int64 syscall(int64 number, uint entries, void *parameters)')
  const ringEnter = library.func(
    'int64 syscall(int64 number, int fd, uint submit, uint wait, uint flags, int64 mask, int64 size)',
  )
  const ringWait = library.func(
    'int64 syscall(int64 number, int fd, uint submit, uint wait, uint flags, void *argument, int64 size)',
  )
  const timespec = new BigInt64Array(2)
  // struct io_uring_getevents_arg: signal mask, its size, address of the timespec
  const waitArgument = BigInt64Array.of(0n, 0n, BigInt(koffi.address(timespec)))
  const ringRegister = library.func('int64 syscall(int64 number, int fd, uint operation, void *argument, uint count)')
  const fallocate = library.func('int fallocate(int fd, int mode, int64 at, int64 length)')
  const copyFileRange = library.func(
    'int64 copy_file_range(int from, void *fromAt, int to, void *toAt, size_t length, uint flags)',
  )
  return {
    address: (buffer) => Number(koffi.address(new Uint8Array(buffer))),
    preadv2: (fd, iov, count, at, flags) => result(preadv2(fd, iov, count, at, flags)),
    pwritev2: (fd, iov, count, at, flags) => result(pwritev2(fd, iov, count, at, flags)),
    readv: (fd, iov, count) => result(readv(fd, iov, count)),
    writev: (fd, iov, count) => result(writev(fd, iov, count)),
    sendfile(to, from, at, length) {
      offset[0] = BigInt(at)
      return result(sendfile(to, from, offset, length))
    },
    cached(fd, at, length) {
      range[0] = BigInt(at)
      range[1] = BigInt(length)
      const answer = result(cachestat(SYS_CACHESTAT, fd, range, found, 0))
      return answer < 0 ? answer : Number(found[0])
    },
    duplicate: (fd) => result(duplicate(fd, F_DUPFD_CLOEXEC, 0)),
    fcntl: (fd, command, argument) => steady(() => fcntl(fd, command, argument)),
    ioctl: (fd, request, argument) => steady(() => ioctl(fd, request, argument)),
    setsockopt: (fd, level, option, value) => result(setsockopt(fd, level, option, value, value.byteLength)),
    mmap(fd, at, length) {
      const place = mmap(null, length, PROT_READ_WRITE, MAP_SHARED_POPULATE, fd, at)
      if (BigInt(place) === MAP_FAILED) throw new Error(`mmap failed with error ${koffi.errno()}`)
      return koffi.view(place, length)
    },
    pageSize,
    mapFile(fd, at, length, where) {
      const flags = where === undefined ? MAP_SHARED : MAP_SHARED | MAP_FIXED
      const place = BigInt(mmap(where === undefined ? null : BigInt(where), length, PROT_READ, flags, fd, at))
      return place === MAP_FAILED ? -koffi.errno() : Number(place)
    },
    unmap: (address, length) => result(munmap(address, length)),
    view: (address, length) => koffi.view(BigInt(address), length),
    populate(address, length) {
      const start = address - (address % pageSize)
      return result(madvise(start, address + length - start, MADV_POPULATE_READ))
    },
    copy: (to, from, length) => void memcpy(to, from, length),
    preferLargePages(address, length) {
      const start = Math.ceil(address / pageSize) * pageSize
      const end = Math.floor((address + length) / pageSize) * pageSize
      if (end > start) madvise(start, end - start, MADV_HUGEPAGE)
    },
    mincore: (address, length, pages) => result(mincore(address, length, pages)),
    end: (fd) => result(lseek(fd, 0, SEEK_END)),
    close: (fd) => result(close(fd)),
    sleeps: () => (getrusage(RUSAGE_THREAD, usage) < 0 ? 0 : Number(usage[RUSAGE_NVCSW])),
    preemptions: () => (getrusage(RUSAGE_THREAD, usage) < 0 ? 0 : Number(usage[RUSAGE_NIVCSW])),
    ringSetup: (entries, parameters) => result(ringSetup(SYS_IO_URING_SETUP, entries, parameters)),
    ringEnter: (fd, submit, wait, flags) => result(ringEnter(SYS_IO_URING_ENTER, fd, submit, wait, flags, 0, 0)),
    ringWait(fd, submit, nanoseconds) {
      timespec[1] = nanoseconds
      return result(ringWait(SYS_IO_URING_ENTER, fd, submit, 1, ENTER_GETEVENTS | ENTER_EXT_ARG, waitArgument, 24))
    },
    ringRegister: (fd, operation, argument, count) =>
      result(ringRegister(SYS_IO_URING_REGISTER, fd, operation, argument, count)),
    watch(fd, ready) {
      // An error of the descriptor shows when it is used.
      const called = (status: number, now: Readiness) => ready(status < 0 ? { readable: true, writable: true } : now)
      const handle = koffi.node.poll(fd, { readable: true, writable: false }, called)
      handle.unref()
      return {
        want: (readable, writable) =>
          readable || writable ? handle.start({ readable, writable }, called) : handle.stop(),
        hold: (on) => (on ? handle.ref() : handle.unref()),
        close: () => handle.close(),
      }
    },
    seek: (fd, at, whence) => later(lseek, fd, at, whence),
    fallocate: (fd, mode, at, length) => later(fallocate, fd, mode, at, length),
    fallocateNow: (fd, mode, at, length) => result(fallocate(fd, mode, at, length)),
    ioctlLater: (fd, request, argument) => later(ioctl, fd, request, argument),
    copyFileRange: (from, fromAt, to, toAt, length) =>
      later(copyFileRange, from, BigInt64Array.of(BigInt(fromAt)), to, BigInt64Array.of(BigInt(toAt)), length, 0),
  }
}
