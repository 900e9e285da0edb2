/** Read-ahead: who reads a slow protocol in order finds the next bytes here already. */
import type { BlockDevice, WriteOptions, ZeroOptions } from '../device.ts'
import { BlockError } from '../error.ts'
import { Filter } from '../filter.ts'
import { bytesVec, type IoVec } from '../iovec.ts'
import { always, isLater, type Now, repeat } from '../now.ts'

export interface ReadAheadOptions {
  /** Most that is read ahead of a reader, bytes; default 4 MiB. */
  readonly window?: number
  /** Most that is kept, bytes; default four windows. */
  readonly memory?: number
}

/** Unit in which is read ahead, bytes, a power of two. */
const PIECE = 128 << 10
/** Readers in order that are told apart. */
const STREAMS = 8

interface Piece {
  readonly index: number
  readonly bytes: Uint8Array
  state: 'coming' | 'here' | 'gone'
  readonly arrival: Promise<void>
}

interface Stream {
  end: number
  /** Bytes to have ready past `end`; doubles with every read in order. */
  ahead: number
}

/** Keeps pieces that a reader in order will want; what is written drops them. Only whole pieces ahead are read in advance. */
export class ReadAhead extends Filter {
  readonly name = 'readahead'
  readonly #window: number
  readonly #limit: number
  readonly #pieces = new Map<number, Piece>()
  /** The streams that were read from last are last. */
  readonly #streams: Stream[] = []

  constructor(next: BlockDevice, options: ReadAheadOptions = {}) {
    super(next)
    this.#window = options.window ?? 4 << 20
    const memory = options.memory ?? 4 * this.#window
    if (!(this.#window >= PIECE && memory >= 2 * this.#window)) {
      throw new BlockError(
        'EINVAL',
        `Cannot read ahead ${this.#window} bytes within ${memory}: at least 128 KiB, and twice that`,
      )
    }
    this.#limit = Math.floor(memory / PIECE)
  }

  override read(at: number, into: IoVec): Now<void> {
    this.#follow(at, into.byteLength)
    let done = 0
    return repeat(() => {
      const from = at + done
      const piece = this.#pieces.get(Math.floor(from / PIECE))
      const end = piece === undefined ? this.#untilPiece(from, at + into.byteLength) : (piece.index + 1) * PIECE
      const length = Math.min(end, at + into.byteLength) - from
      const part = into.slice(done, done + length)
      if (piece?.state === 'coming') {
        // Whether it arrives or not, the next round finds it here or gone.
        return piece.arrival.then(() => true)
      }
      done += length
      if (piece !== undefined) {
        part.scatter(piece.bytes.subarray(from - piece.index * PIECE, from - piece.index * PIECE + length))
        return done < into.byteLength
      }
      const read = this.next.read(from, part)
      return isLater(read) ? read.then(() => done < into.byteLength) : done < into.byteLength
    })
  }

  override write(at: number, from: IoVec, options?: WriteOptions): Now<void> {
    return this.#changing(at, from.byteLength, () => this.next.write(at, from, options))
  }

  override zero(at: number, length: number, options?: ZeroOptions): Now<void> {
    return this.#changing(at, length, () => this.next.zero(at, length, options))
  }

  override discard(at: number, length: number): Now<void> {
    return this.#changing(at, length, () => this.next.discard(at, length))
  }

  override resize(size: number): Now<void> {
    return this.#changing(0, Number.MAX_SAFE_INTEGER, () => this.next.resize(size))
  }

  override async close(): Promise<void> {
    await Promise.all([...this.#pieces.values()].map((piece) => piece.arrival))
    this.#pieces.clear()
    await this.next.close()
  }

  /** Drops what the change touches, and again when it is done: a piece that was read meanwhile may be of before it. */
  #changing(at: number, length: number, change: () => Now<void>): Now<void> {
    this.#drop(at, length)
    return always(change, () => this.#drop(at, length))
  }

  #drop(at: number, length: number): void {
    if (this.#pieces.size === 0) return
    const first = Math.floor(at / PIECE)
    const last = Math.floor((at + length - 1) / PIECE)
    for (const piece of this.#pieces.values()) {
      if (piece.index < first || piece.index > last) continue
      piece.state = 'gone'
      this.#pieces.delete(piece.index)
    }
  }

  /** Finds whose read this is, and reads ahead of a reader that goes on where it was. */
  #follow(at: number, length: number): void {
    const index = this.#streams.findIndex((stream) => stream.end === at)
    const end = at + length
    if (index < 0) {
      if (this.#streams.length === STREAMS) this.#streams.shift()
      this.#streams.push({ end, ahead: 0 })
      return
    }
    const [stream] = this.#streams.splice(index, 1) as [Stream]
    stream.end = end
    stream.ahead = Math.min(Math.max(stream.ahead * 2, PIECE), this.#window)
    this.#streams.push(stream)
    const limit = Math.min(end + stream.ahead, this.size)
    for (let piece = Math.ceil(end / PIECE); piece * PIECE < limit; piece++) this.#fetch(piece)
  }

  #fetch(index: number): void {
    const known = this.#pieces.get(index)
    if (known !== undefined) {
      this.#pieces.delete(index)
      this.#pieces.set(index, known)
      return
    }
    for (const oldest of this.#pieces.values()) {
      if (this.#pieces.size < this.#limit) break
      if (oldest.state !== 'here') return
      oldest.state = 'gone'
      this.#pieces.delete(oldest.index)
    }
    const bytes = new Uint8Array(Math.min(PIECE, this.size - index * PIECE))
    let reading: Now<void>
    try {
      reading = this.next.read(index * PIECE, bytesVec(bytes))
    } catch {
      return
    }
    const piece: Piece = {
      index,
      bytes,
      state: isLater(reading) ? 'coming' : 'here',
      arrival: Promise.resolve(reading).then(
        () => {
          if (piece.state === 'coming') piece.state = 'here'
        },
        () => {
          // Nobody asked for it: whoever does, reads it himself and meets the error.
          piece.state = 'gone'
          if (this.#pieces.get(index) === piece) this.#pieces.delete(index)
        },
      ),
    }
    this.#pieces.set(index, piece)
  }

  /** Where the next piece begins that is known, or the limit. */
  #untilPiece(from: number, limit: number): number {
    let end = (Math.floor(from / PIECE) + 1) * PIECE
    while (end < limit && !this.#pieces.has(end / PIECE)) end += PIECE
    return end
  }
}
