/** io_uring(7): the rings, mapped once; requests go in as numbers and come out as numbers. */
import { isMainThread } from 'node:worker_threads'
import { onKick } from '../../turn.ts'
import { EAGAIN, EBUSY, EINTR } from './failure.ts'
import { type Libc, libc, type Watch } from './libc.ts'
import { IOV_MAX } from './vector.ts'

/** Operations, as in linux/io_uring.h. */
export const IORING_OP_READV = 1
export const IORING_OP_WRITEV = 2
export const IORING_OP_FSYNC = 3
export const IORING_OP_READ = 22
export const IORING_OP_WRITE = 23
const NEEDED = [IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_READ, IORING_OP_WRITE]

export const IORING_FSYNC_DATASYNC = 1

const IORING_SETUP_CQSIZE = 1 << 3
const IORING_SETUP_COOP_TASKRUN = 1 << 8
const IORING_FEAT_SINGLE_MMAP = 1 << 0
const IORING_FEAT_NODROP = 1 << 1
const IORING_FEAT_SUBMIT_STABLE = 1 << 2
const IORING_FEAT_EXT_ARG = 1 << 8
const IORING_OFF_SQ_RING = 0
const IORING_OFF_SQES = 0x10000000
const IORING_REGISTER_PROBE = 8
const IO_URING_OP_SUPPORTED = 1

/** struct io_uring_params: 10 words, then the offsets of the submission (at 40) and of the completion ring (at 80). */
const PARAMS_SIZE = 120
const SQE_WORDS = 16
/** IOSQE_ASYNC, in the second byte of an entry: a worker does it from the start, not the submitter first. */
const SQE_ASYNC = 1 << 12
const SQE_USER_DATA = 8
const CQE_WORDS = 4

/** Requests that one system call takes. */
const ENTRIES = 256
/** Requests with the kernel at the same time. */
const LIMIT = 1024
/** Pieces of all requests of one batch together. */
const PIECES = 16384

/** One request: what the kernel is told, and who is told the result. */
export interface Operation {
  readonly opcode: number
  readonly fd: number
  /** Offset in the file. */
  readonly at: number
  /** Address of the memory, or what else the operation takes there. */
  readonly address: number
  readonly length: number
  /** RWF_, IORING_FSYNC_ flags. */
  readonly flags: number
  /** Whether even to begin it would take the submitter long. */
  readonly slow?: boolean
  /** Pieces of memory of a READV or WRITEV, in place of `address` and `length`; at most IOV_MAX. */
  readonly pieces: number
  /** Called right before the request goes to the kernel, to look up its memory; false if it is not to go. */
  prepare?(): boolean
  /** Fills in `pieces` times a `struct iovec` of four words. */
  fill?(iov: Uint32Array): void
  /** Called once with the result, not negative, or minus an error number. */
  done(result: number): void
}

/**
 * One io_uring. Requests are collected, and handed in with one call at the end of the event loop's turn.
 *
 * Neither files nor buffers are registered, for here they do not pay. Of O_DIRECT reads of 4 KiB, 32 at a time, 40,000 took as
 * long with a registered file as without, and in fio half a microsecond of CPU less each of five; but until Linux 6.13 the kernel
 * lets go of a registered file up to a second after it was closed, and so of its locks. Registered buffers save as much, and 3 us
 * of 13 at 256 KiB, but the guest's whole RAM would be pinned: taken from the host at once, and more than an ordinary user may lock.
 */
export class Ring {
  readonly #libc: Libc
  readonly #fd: number
  readonly #words: Uint32Array
  readonly #sqes: Uint32Array
  readonly #tail: number
  readonly #cqHead: number
  readonly #cqTail: number
  readonly #cqes: number
  readonly #sqMask: number
  readonly #cqMask: number
  readonly #entries: number
  readonly #waits: boolean
  readonly #iov = new Uint32Array(4 * PIECES)
  readonly #iovAddress: number
  #pieces = 0
  #queued = 0
  readonly #slots: (Operation | undefined)[] = []
  readonly #free: number[] = []
  #inFlight = 0
  readonly #backlog: Operation[] = []
  readonly #watch: Watch
  #scheduled: NodeJS.Immediate | undefined
  /** Calls of io_uring_enter so far, for tests and benchmarks. */
  enters = 0

  constructor(calls: Libc) {
    this.#libc = calls
    const { fd, parameters } = setUp(calls)
    this.#fd = fd
    try {
      checkOperations(calls, fd)
      const word = (at: number) => parameters.getUint32(at, true)
      this.#waits = (word(20) & IORING_FEAT_EXT_ARG) !== 0
      const sqEntries = word(0)
      const cqEntries = word(4)
      const size = Math.max(word(64) + sqEntries * 4, word(100) + cqEntries * CQE_WORDS * 4)
      this.#words = new Uint32Array(calls.mmap(fd, IORING_OFF_SQ_RING, Math.ceil(size / 4096) * 4096))
      this.#sqes = new Uint32Array(calls.mmap(fd, IORING_OFF_SQES, sqEntries * SQE_WORDS * 4))
      this.#entries = sqEntries
      this.#tail = word(44) / 4
      this.#sqMask = this.#words[word(48) / 4]!
      this.#cqHead = word(80) / 4
      this.#cqTail = word(84) / 4
      this.#cqMask = this.#words[word(88) / 4]!
      this.#cqes = word(100) / 4
      const array = word(64) / 4
      for (let i = 0; i < sqEntries; i++) this.#words[array + i] = i
      this.#iovAddress = calls.address(this.#iov.buffer)
      this.#watch = calls.watch(fd, () => this.reap())
    } catch (error) {
      calls.close(fd)
      throw error
    }
  }

  /** Requests that have not completed. */
  get inFlight(): number {
    return this.#inFlight + this.#backlog.length
  }

  /** Takes a request; it starts with {@link submit}, at the latest when this turn of the event loop ends. */
  add(operation: Operation): void {
    if (this.#backlog.length > 0 || !this.#hasRoom()) this.#backlog.push(operation)
    else this.#enqueue(operation)
  }

  /** Hands in all that was collected, and takes what completed meanwhile. */
  submit(): void {
    this.#handIn(0n)
    if (this.#inFlight > 0) this.reap()
  }

  /** Hands in the only request under way and waits for it, at most `nanoseconds`; if there are others, or the kernel cannot: not. */
  wait(nanoseconds: bigint): void {
    this.#handIn(this.#waits && this.#inFlight === 1 && this.#queued === 1 ? nanoseconds : 0n)
    if (this.#inFlight > 0) this.reap()
  }

  #handIn(wait: bigint): void {
    if (this.#scheduled !== undefined) {
      clearImmediate(this.#scheduled)
      this.#scheduled = undefined
    }
    while (this.#queued > 0) {
      this.enters++
      const result =
        wait > 0n
          ? this.#libc.ringWait(this.#fd, this.#queued, wait)
          : this.#libc.ringEnter(this.#fd, this.#queued, 0, 0)
      if (result > 0) this.#queued -= result
      else if (result === 0 || result === -EAGAIN || result === -EBUSY) {
        // The kernel is short of memory, or wants its completions taken first.
        this.#schedule()
        return
      } else if (result !== -EINTR) this.#takeBack(result)
    }
    this.#pieces = 0
  }

  /** Takes what has completed, without a call. */
  reap(): void {
    const words = this.#words
    for (;;) {
      const head = words[this.#cqHead]!
      if (head === Atomics.load(words, this.#cqTail)) break
      const at = this.#cqes + (head & this.#cqMask) * CQE_WORDS
      const slot = words[at]!
      const result = words[at + 2]! | 0
      Atomics.store(words, this.#cqHead, (head + 1) >>> 0)
      this.#take(slot).done(result)
    }
    while (this.#backlog.length > 0 && this.#hasRoom()) this.#enqueue(this.#backlog.shift()!)
    if (this.#inFlight === 0) this.#watch.hold(false)
  }

  close(): void {
    this.#watch.close()
    this.#libc.close(this.#fd)
  }

  #take(slot: number): Operation {
    const operation = this.#slots[slot]!
    this.#slots[slot] = undefined
    this.#free.push(slot)
    this.#inFlight--
    return operation
  }

  /** Ends what the kernel refuses to look at. */
  #takeBack(result: number): void {
    const tail = (this.#words[this.#tail]! - this.#queued) >>> 0
    const slots = Array.from(
      { length: this.#queued },
      (_, i) => this.#sqes[((tail + i) & this.#sqMask) * SQE_WORDS + SQE_USER_DATA]!,
    )
    this.#words[this.#tail] = tail
    this.#queued = 0
    for (const slot of slots) this.#take(slot).done(result)
  }

  #hasRoom(): boolean {
    if (this.#queued === this.#entries || this.#pieces + IOV_MAX > PIECES) this.#handIn(0n)
    return this.#inFlight < LIMIT && this.#queued < this.#entries && this.#pieces + IOV_MAX <= PIECES
  }

  #enqueue(operation: Operation): void {
    if (operation.prepare?.() === false) return
    const slot = this.#free.pop() ?? this.#slots.length
    this.#slots[slot] = operation
    if (this.#inFlight++ === 0) this.#watch.hold(true)
    let { address, length } = operation
    if (operation.pieces > 0) {
      operation.fill!(this.#iov.subarray(this.#pieces * 4, (this.#pieces + operation.pieces) * 4))
      address = this.#iovAddress + this.#pieces * 16
      length = operation.pieces
      this.#pieces += operation.pieces
    }
    const words = this.#words
    const tail = words[this.#tail]!
    const sqes = this.#sqes
    const at = (tail & this.#sqMask) * SQE_WORDS
    sqes[at] = operation.opcode | (operation.slow ? SQE_ASYNC : 0)
    sqes[at + 1] = operation.fd
    sqes[at + 2] = operation.at
    sqes[at + 3] = operation.at / 2 ** 32
    sqes[at + 4] = address
    sqes[at + 5] = address / 2 ** 32
    sqes[at + 6] = length
    sqes[at + 7] = operation.flags
    sqes[at + SQE_USER_DATA] = slot
    for (let word = SQE_USER_DATA + 1; word < SQE_WORDS; word++) sqes[at + word] = 0
    Atomics.store(words, this.#tail, (tail + 1) >>> 0)
    this.#queued++
    this.#schedule()
  }

  #schedule(): void {
    this.#scheduled ??= setImmediate(() => {
      this.#scheduled = undefined
      this.submit()
    })
  }
}

/** Makes a ring with what of the wanted flags the kernel knows. */
function setUp(calls: Libc): { fd: number; parameters: DataView } {
  let fd = 0
  for (const flags of [IORING_SETUP_COOP_TASKRUN, 0]) {
    const parameters = new DataView(new ArrayBuffer(PARAMS_SIZE))
    parameters.setUint32(4, 2 * LIMIT, true)
    parameters.setUint32(8, IORING_SETUP_CQSIZE | flags, true)
    fd = calls.ringSetup(ENTRIES, new Uint8Array(parameters.buffer))
    if (fd < 0) continue
    const needed = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE
    if ((parameters.getUint32(20, true) & needed) === needed) return { fd, parameters }
    calls.close(fd)
    throw new Error('the kernel is older than 5.5')
  }
  throw new Error(`io_uring_setup failed with error ${-fd}`)
}

/** struct io_uring_probe: 16 bytes, then 8 bytes for each operation: its number, a byte, its flags. */
function checkOperations(calls: Libc, fd: number): void {
  const probe = new Uint8Array(16 + 256 * 8)
  if (calls.ringRegister(fd, IORING_REGISTER_PROBE, probe, 256) < 0) throw new Error('the kernel is older than 5.6')
  for (const operation of NEEDED) {
    if (((probe[16 + operation * 8 + 2]! | (probe[16 + operation * 8 + 3]! << 8)) & IO_URING_OP_SUPPORTED) === 0) {
      throw new Error(`the kernel lacks operation ${operation}`)
    }
  }
}

let shared: { ring: Ring | undefined; reason: string } | undefined

/** The process' ring, or undefined with the reason in {@link ringReason}. BLOCK86_IO_URING=off does without it. */
export function ring(): Ring | undefined {
  shared ??= open()
  return shared.ring
}

/** One sentence that says whether io_uring works, or why not. */
export function ringReason(): string {
  shared ??= open()
  return shared.reason
}

function open(): { ring: Ring | undefined; reason: string } {
  if (process.env.BLOCK86_IO_URING === 'off') {
    return { ring: undefined, reason: 'switched off by BLOCK86_IO_URING=off' }
  }
  // A thread that is terminated is called back by koffi's watch once more, which ends the process.
  if (!isMainThread) return { ring: undefined, reason: 'it works in the main thread only' }
  const calls = libc()
  if (calls === undefined) return { ring: undefined, reason: 'it needs the C library' }
  try {
    const ring = new Ring(calls)
    onKick(() => ring.submit())
    return { ring, reason: 'works' }
  } catch (error) {
    return { ring: undefined, reason: `cannot be used: ${error instanceof Error ? error.message : error}` }
  }
}
