/** Scatter-gather lists of memory, resolved to views only when touched. */
import { BlockError } from './error.ts'

/**
 * A list of memory ranges, `byteLength` bytes in all.
 *
 * It holds addresses, not views: an emulator's memory may be replaced when it grows, and every old view is then empty.
 */
export interface IoVec {
  /** Length of all ranges together, bytes. */
  readonly byteLength: number
  /** Fresh views of the ranges in order, none of them empty; they must not outlive a yield. ECANCELED after {@link revoke}. */
  views(): readonly Uint8Array[]
  /** The part from `start` up to `end` (exclusive; default all the rest), over the same memory and revoked with it. */
  slice(start: number, end?: number): IoVec
  /** Copies `bytes` into the ranges, from byte `at` of the list; what would pass its end is a RangeError. */
  scatter(bytes: Uint8Array, at?: number): void
  /**
   * Copies the ranges out, into `target` (at least `byteLength` long) if given, and returns the filled part. ECANCELED after
   * {@link revoke}: a write that was called back must not put on the medium what its memory holds by now.
   */
  gather(target?: Uint8Array): Uint8Array
  /** Sets every byte. */
  fill(value: number): void
  /** Says that the bytes behind {@link views} were changed, to whoever caches them (a JIT compiler's code). */
  filled(): void
  /** Cuts the list off from its memory: from now on it gives no views, and scatter and fill do nothing. */
  revoke(): void
}

/** One flag that a list shares with all its slices. */
export interface Grant {
  revoked: boolean
}

/** What the lists of every kind of memory have in common; a kind says how its views come about. */
export abstract class VecBase implements IoVec {
  abstract readonly byteLength: number
  protected readonly grant: Grant

  constructor(grant: Grant = { revoked: false }) {
    this.grant = grant
  }

  /** Throws ECANCELED if the list is revoked; for {@link views}. */
  protected held(): void {
    if (this.grant.revoked) throw new BlockError('ECANCELED', 'The memory of this request was taken back')
  }

  abstract views(): readonly Uint8Array[]
  abstract slice(start: number, end?: number): IoVec
  abstract filled(): void

  scatter(bytes: Uint8Array, at = 0): void {
    if (at < 0 || at + bytes.length > this.byteLength) throw new RangeError('scatter passes the end of the list')
    if (this.grant.revoked) return
    let skip = at
    let done = 0
    for (const view of this.views()) {
      if (done === bytes.length) return
      if (skip >= view.length) {
        skip -= view.length
        continue
      }
      const length = Math.min(view.length - skip, bytes.length - done)
      view.set(done === 0 && length === bytes.length ? bytes : bytes.subarray(done, done + length), skip)
      done += length
      skip = 0
    }
  }

  gather(target: Uint8Array = new Uint8Array(this.byteLength)): Uint8Array {
    let done = 0
    for (const view of this.views()) {
      target.set(view, done)
      done += view.length
    }
    return target.length === this.byteLength ? target : target.subarray(0, this.byteLength)
  }

  fill(value: number): void {
    if (this.grant.revoked) return
    for (const view of this.views()) view.fill(value)
  }

  revoke(): void {
    this.grant.revoked = true
  }
}

/** Bounds of a slice, checked; throws a RangeError where they pass the list. */
export function sliceBounds(byteLength: number, start: number, end: number): void {
  if (!(start >= 0 && start <= end && end <= byteLength)) {
    throw new RangeError(`slice ${start} to ${end} of a list of ${byteLength} bytes`)
  }
}

class BytesVec extends VecBase {
  readonly byteLength: number
  readonly #pieces: readonly Uint8Array[]

  constructor(pieces: readonly Uint8Array[], byteLength: number, grant?: Grant) {
    super(grant)
    this.#pieces = pieces
    this.byteLength = byteLength
  }

  views(): readonly Uint8Array[] {
    this.held()
    return this.#pieces
  }

  slice(start: number, end = this.byteLength): IoVec {
    sliceBounds(this.byteLength, start, end)
    if (start === 0 && end === this.byteLength) return this
    const pieces: Uint8Array[] = []
    let at = 0
    for (const piece of this.#pieces) {
      const from = Math.max(start - at, 0)
      const to = Math.min(end - at, piece.length)
      if (from < to) pieces.push(piece.subarray(from, to))
      at += piece.length
      if (at >= end) break
    }
    return new BytesVec(pieces, end - start, this.grant)
  }

  filled(): void {}
}

/** A list over ordinary arrays, in their order; the arrays are used, not copied. */
export function bytesVec(...pieces: Uint8Array[]): IoVec {
  const full = pieces.every((piece) => piece.length > 0) ? pieces : pieces.filter((piece) => piece.length > 0)
  let byteLength = 0
  for (const piece of full) byteLength += piece.length
  return new BytesVec(full, byteLength)
}

class JoinedVec extends VecBase {
  readonly byteLength: number
  readonly #parts: readonly IoVec[]

  constructor(parts: readonly IoVec[], byteLength: number, grant?: Grant) {
    super(grant)
    this.#parts = parts
    this.byteLength = byteLength
  }

  views(): readonly Uint8Array[] {
    this.held()
    const all: Uint8Array[] = []
    for (const part of this.#parts) for (const view of part.views()) all.push(view)
    return all
  }

  slice(start: number, end = this.byteLength): IoVec {
    sliceBounds(this.byteLength, start, end)
    const parts: IoVec[] = []
    let at = 0
    for (const part of this.#parts) {
      const from = Math.max(start - at, 0)
      const to = Math.min(end - at, part.byteLength)
      if (from < to) parts.push(part.slice(from, to))
      at += part.byteLength
      if (at >= end) break
    }
    return new JoinedVec(parts, end - start, this.grant)
  }

  filled(): void {
    for (const part of this.#parts) part.filled()
  }
}

/** One list of several, one after the other. It is cut off from its memory as soon as one of them is. */
export function joinVec(parts: readonly IoVec[]): IoVec {
  let byteLength = 0
  for (const part of parts) byteLength += part.byteLength
  return new JoinedVec(parts, byteLength)
}

const ZEROES = new Uint8Array(65536)

/** A list of `length` zero bytes to write from; it must not be read into. All of it is one shared 64 KiB array. */
export function zeroVec(length: number): IoVec {
  const pieces: Uint8Array[] = []
  for (let left = length; left > 0; left -= ZEROES.length) {
    pieces.push(left < ZEROES.length ? ZEROES.subarray(0, left) : ZEROES)
  }
  return bytesVec(...pieces)
}

/** Copies between lists of the same length. */
export function copyVec(from: IoVec, to: IoVec): void {
  let at = 0
  for (const view of from.views()) {
    to.scatter(view, at)
    at += view.length
  }
}
