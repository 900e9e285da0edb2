/** Byte streams, as protocols over a network need them, and a reader that takes them apart without buffering what has a place to go. */
import type { Place } from '../device.ts'
import { BlockError } from '../error.ts'
import type { IoVec } from '../iovec.ts'
import type { Now } from '../now.ts'

/** A reliable, ordered stream of bytes in both directions: TCP, a Unix socket, TLS, a WebSocket. */
export interface ByteStream {
  /** What the other end calls itself, for messages. */
  readonly peer: string
  /** Called with every piece that comes; the piece is the receiver's. Nothing is lost before it is set. */
  set onData(receive: (piece: Uint8Array) => void)
  /** Called once, when no more can come; with an error if the stream broke. */
  onEnd: (error?: Error) => void
  /**
   * Sends the pieces in order; they are the stream's until it calls `sent`, if it does. Answers when more may be sent without
   * piling up.
   */
  write(pieces: readonly Uint8Array[], sent?: () => void): Now<void>
  /** Holds back what comes, or lets it come again. */
  pause(paused: boolean): void
  /** Ends the stream once all that was written is sent. */
  close(): void
  /**
   * Sends `head` and then the bytes of a range of a device, which do not pass through here; false, with nothing sent, where it
   * does not know how, or would have to wait for them. Calls `sent` once they are the kernel's.
   */
  forward?(head: Uint8Array, place: Place, sent: () => void): boolean
  /** Many bytes are about to pass: a stream that knows a shorter way for them gives them to `receiver` from now on. */
  hasten?(receiver: Receiver): void
}

/** Who takes what comes, and may know where it is to go before it is received. */
export interface Receiver {
  /** Fresh views of where the next bytes belong; none where that is not known. */
  places(): readonly Uint8Array[]
  /** So many bytes were received into {@link places}. */
  placed(length: number): void
  /** What has no place; it is the receiver's. */
  push(piece: Uint8Array): void
  /** No more comes; with an error if the stream broke. */
  end(error?: Error): void
}

const HIGH_WATER = 1 << 20

interface Want {
  readonly length: number
  done: number
  readonly put: (piece: Uint8Array, at: number) => void
  /** Where the bytes from `done` on go. */
  readonly places?: ((done: number) => readonly Uint8Array[]) | undefined
  readonly resolve: () => void
  readonly reject: (error: Error) => void
}

/** Takes a stream apart: exact numbers of bytes, one want at a time, at once when they are here already. */
export class ByteReader implements Receiver {
  readonly #stream: ByteStream
  readonly #pieces: Uint8Array[] = []
  #buffered = 0
  #paused = false
  #want: Want | undefined
  #ended: Error | undefined

  constructor(stream: ByteStream) {
    this.#stream = stream
    stream.onData = (piece) => this.push(piece)
    stream.onEnd = (error) => this.end(error)
  }

  /** Says that many bytes are about to pass. */
  hasten(): void {
    this.#stream.hasten?.(this)
    if (this.#paused) this.#stream.pause(true)
  }

  /** Bytes that are here and have not been taken. */
  get buffered(): number {
    return this.#buffered
  }

  /** The next `length` bytes, in one array. */
  read(length: number): Now<Uint8Array> {
    const first = this.#pieces[0]
    if (first !== undefined && first.length >= length) return this.#takeFirst(first, length)
    const bytes = new Uint8Array(length)
    const filled = this.#fill(
      length,
      (piece, at) => bytes.set(piece, at),
      (done) => [bytes.subarray(done)],
    )
    return filled === undefined ? bytes : filled.then(() => bytes)
  }

  /** The next bytes, straight into `into`. */
  fill(into: IoVec): Now<void> {
    return this.#fill(
      into.byteLength,
      (piece, at) => into.scatter(piece, at),
      (done) => viewsOf(into, done),
    )
  }

  /** Drops the next `length` bytes. */
  skip(length: number): Now<void> {
    return this.#fill(length, () => {})
  }

  places(): readonly Uint8Array[] {
    const want = this.#want
    return want?.places === undefined ? [] : want.places(want.done)
  }

  placed(length: number): void {
    const want = this.#want!
    want.done += length
    this.#check(want)
  }

  #check(want: Want): void {
    if (want.done < want.length) return
    this.#want = undefined
    want.resolve()
  }

  #fill(length: number, put: Want['put'], places?: Want['places']): Promise<void> | undefined {
    if (this.#want !== undefined) throw new RangeError('a reader has one want at a time')
    let done = 0
    while (done < length) {
      const first = this.#pieces[0]
      if (first === undefined) break
      const part = this.#takeFirst(first, Math.min(first.length, length - done))
      put(part, done)
      done += part.length
    }
    if (done === length) return
    const ended = this.#ended
    if (ended !== undefined) throw ended
    return new Promise((resolve, reject) => {
      this.#want = { length, done, put, places, resolve, reject }
    })
  }

  #takeFirst(first: Uint8Array, length: number): Uint8Array {
    this.#buffered -= length
    if (this.#paused && this.#buffered < HIGH_WATER / 2) this.#pause(false)
    if (length === first.length) {
      this.#pieces.shift()
      return first
    }
    this.#pieces[0] = first.subarray(length)
    return first.subarray(0, length)
  }

  push(piece: Uint8Array): void {
    let rest = piece
    const want = this.#want
    if (want !== undefined) {
      const part = rest.subarray(0, want.length - want.done)
      want.put(part, want.done)
      want.done += part.length
      rest = rest.subarray(part.length)
      this.#check(want)
    }
    if (rest.length === 0) return
    this.#pieces.push(rest)
    this.#buffered += rest.length
    if (!this.#paused && this.#buffered >= HIGH_WATER) this.#pause(true)
  }

  #pause(paused: boolean): void {
    this.#paused = paused
    this.#stream.pause(paused)
  }

  end(error?: Error): void {
    if (this.#ended !== undefined) return
    this.#ended = new BlockError('ECONNRESET', `${this.#stream.peer} closed the connection`, { cause: error })
    this.#want?.reject(this.#ended)
    this.#want = undefined
  }
}

/** The places of a list from byte `done` on; none once its memory was taken back: what comes for it is dropped. */
function viewsOf(into: IoVec, done: number): readonly Uint8Array[] {
  try {
    return into.slice(done).views()
  } catch {
    return []
  }
}
