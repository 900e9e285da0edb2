/** What moves in a task's data phase: sources and sinks (SAM-5 5.4.3). */
import type { IoVec } from '../../block/iovec.ts'
import type { Now } from '../../block/now.ts'

/** Where the bytes of a data-in phase come from. */
export interface DataSource {
  /** Bytes in all. */
  readonly length: number
  /** Whether the bytes are in memory already, so that there is nothing to read ahead. */
  readonly held: boolean
  /** Fills `into` from byte `at` of the phase; a CheckCondition says in `moved` what was read well before. */
  read(at: number, into: IoVec): Now<void>
}

/** Where the bytes of a data-out phase go to. */
export interface DataSink {
  /** Bytes in all, a multiple of `block`. */
  readonly length: number
  /** Whether the bytes only collect in memory until {@link end}; they then come in pieces of any size. */
  readonly held: boolean
  /** Pieces are multiples of so many bytes. */
  readonly block: number
  write(at: number, from: IoVec): Now<void>
  /** All bytes are there: does what is left before GOOD. */
  end(): Now<void>
}

/** A data-in phase whose bytes are here. */
export class Reply implements DataSource {
  readonly held = true
  readonly bytes: Uint8Array

  constructor(bytes: Uint8Array) {
    this.bytes = bytes
  }

  get length(): number {
    return this.bytes.length
  }

  read(at: number, into: IoVec): void {
    into.scatter(this.bytes.subarray(at, at + into.byteLength))
    into.filled()
  }
}

/** A data-out phase that collects a parameter list, or other data that must be there as a whole. */
export class Collector implements DataSink {
  readonly held = true
  readonly block = 1
  readonly bytes: Uint8Array
  readonly #parse: (bytes: Uint8Array) => Now<void>

  /** `length` bytes, then `parse`; the caller has bounded `length`. */
  constructor(length: number, parse: (bytes: Uint8Array) => Now<void>) {
    this.bytes = new Uint8Array(length)
    this.#parse = parse
  }

  get length(): number {
    return this.bytes.length
  }

  write(at: number, from: IoVec): void {
    from.gather(this.bytes.subarray(at, at + from.byteLength))
  }

  end(): Now<void> {
    return this.#parse(this.bytes)
  }
}
