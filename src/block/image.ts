/** What the author of an image format writes: where bytes are. The core, in mover.ts, moves them. */
import type { BlockDevice } from './device.ts'
import type { Now } from './now.ts'
import type { Traffic } from './traffic.ts'

/** Where `length` bytes from the offset that was asked for are. */
export type Mapping =
  /** In the image's file (or in `file`) at `at`; `inPlace` says that they may be overwritten there. */
  | {
      readonly kind: 'raw'
      readonly length: number
      readonly at: number
      readonly inPlace: boolean
      readonly file?: BlockDevice
    }
  /** They are zeroes; `at` is where space is kept for them, if it is. */
  | { readonly kind: 'zero'; readonly length: number; readonly at?: number }
  /** This layer has nothing: the backing layer's bytes, or zeroes; `at` as of zeroes. */
  | { readonly kind: 'hole'; readonly length: number; readonly at?: number }
  /** They are compressed; `unpack` gives exactly `length` bytes, which the caller must not change. */
  | { readonly kind: 'packed'; readonly length: number; unpack(): Now<Uint8Array> }

/** Space in the image's file for a range; the image shows it only when `link` has completed, after the data. */
export interface Allocation {
  /** Offset in the disk of the first byte that the space is for; at or before what was asked. */
  readonly start: number
  /** Bytes of the disk that the space is for; all of them must be written before `link`. May pass the disk's end. */
  readonly length: number
  /** Where the space is, in the image's file or in `file`. */
  readonly at: number
  readonly file?: BlockDevice
  /** The space reads as zeroes, after a crash too: what is to be zeroes need not be written. */
  readonly zeroed: boolean
  /** What the whole range was before. */
  readonly was: 'hole' | 'zero' | 'data'
  link(): Now<void>
  /** Gives the space back when the data could not be written. */
  abandon(): Now<void>
}

/** Space for one compressed cluster, and the bytes to put there. */
export interface PackedAllocation {
  readonly at: number
  readonly bytes: Uint8Array
  link(): Now<void>
  abandon(): Now<void>
}

/** Hears of every range before it is written. */
export interface Tracker {
  touch(at: number, length: number): Now<void>
}

/** An open image of some format, without any data movement of its own. */
export interface Image {
  readonly name: string
  /** Size of the disk that it holds, bytes. */
  readonly size: number
  /** Unit of allocation, bytes, a power of two. */
  readonly clusterSize: number
  readonly readOnly?: boolean
  readonly file: BlockDevice
  /** Where the data are, if not in `file`. */
  readonly dataFile?: BlockDevice | undefined
  readonly backing?: BlockDevice | undefined
  /** Where the mover reports what is in flight, for an image that must know when a cluster is no longer in use. */
  readonly traffic?: Traffic
  /** Set while somebody must hear of writes. */
  readonly tracker?: Tracker | undefined
  /** One mapping from `at`, at most `length` long, at least one byte. */
  map(at: number, length: number): Now<Mapping>
  /** The shortest way to data for reads: where all of the range is in `file`, in one piece; -1 where only `map` can tell. */
  locate?(at: number, length: number): number
  /**
   * The shortest way to space for a first write of what is a hole down to the last layer: where all of the range is from now on, in
   * `file`, in one piece. It is linked already, for it reads as zeroes, after a crash too. -1, with nothing done, where only
   * `allocate` can tell. Never called while the mover has a change under way.
   */
  claim?(at: number, length: number): number
  /**
   * New space that covers the start of the range; it may cover less than was asked. The mover never runs two allocations,
   * zeroes or discards of one cluster at the same time.
   */
  allocate?(at: number, length: number): Now<Allocation>
  /** Packs one whole cluster (the disk's last may be shorter), or gives undefined when it does not get smaller. */
  pack?(at: number, bytes: Uint8Array): Now<PackedAllocation | undefined>
  /**
   * Makes whole clusters, or units of {@link zeroUnit}, read as zeroes (the range may also end at the disk's end); false if the
   * format cannot say that.
   */
  zero?(at: number, length: number, unmap: boolean): Now<boolean>
  /** Whether space in the file was counted for use before anything was written to it: then its holes tell more than the map. */
  preallocated?(): Now<boolean>
  /** What can be made to read as zeroes without being written, bytes; default a cluster. */
  readonly zeroUnit?: number
  /** Gives whole clusters back; they read as zeroes afterwards, or as before where that cannot be said. */
  discard?(at: number, length: number): Now<void>
  /** Makes all data and metadata of completed requests durable. */
  flush?(): Now<void>
  /** Changes `size`; called while nothing is in flight. */
  resize?(size: number): Now<void>
  /**
   * Names another backing file in the header, or none, durably, and reads through `backing.device` from then on; called while no
   * request is in flight. A power cut leaves the old name or the new. On failure nothing has changed.
   */
  changeBacking?(backing: BackingFile | undefined): Now<void>
  /** Bytes that the image takes on its medium; default what the file takes. */
  allocated?(): Now<number>
  close?(): Now<void>
}

/** A backing file as a header names it, and as it is open. */
export interface BackingFile {
  readonly name: string
  readonly format?: string | undefined
  readonly device: BlockDevice
}
