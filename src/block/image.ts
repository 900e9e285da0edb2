/** What the author of an image format writes: where bytes are. The core moves them. */
import type { BlockDevice } from './device.ts'
import type { Now } from './now.ts'

/** Where `length` bytes from the offset that was asked for are. */
export type Mapping =
  /** In the image's file at `at`; `inPlace` says that they may be overwritten there. */
  | {
      readonly kind: 'raw'
      readonly length: number
      readonly at: number
      readonly inPlace: boolean
      readonly file?: BlockDevice
    }
  /** They are zeroes. */
  | { readonly kind: 'zero'; readonly length: number }
  /** This layer has nothing: the backing layer's bytes, or zeroes. */
  | { readonly kind: 'hole'; readonly length: number }
  /** They are compressed; `unpack` gives exactly `length` bytes. */
  | { readonly kind: 'packed'; readonly length: number; unpack(): Now<Uint8Array> }

/** Space in the image's file for a range; the image shows it only when `link` has completed, after the data. */
export interface Allocation {
  readonly at: number
  readonly length: number
  readonly file?: BlockDevice
  link(): Now<void>
  /** Gives the space back when the data could not be written. */
  abandon(): Now<void>
}

/** An open image of some format, without any data movement of its own. */
export interface Image {
  readonly name: string
  /** Size of the disk that it holds, bytes. */
  readonly size: number
  /** Unit of allocation, bytes. */
  readonly clusterSize: number
  readonly readOnly?: boolean
  readonly file: BlockDevice
  readonly backing?: BlockDevice
  /** One mapping from `at`, at most `length` long, at least one byte. */
  map(at: number, length: number): Now<Mapping>
  /** New space for whole clusters that cover the start of the range; it may cover less than was asked. */
  allocate?(at: number, length: number): Now<Allocation>
  zero?(at: number, length: number, unmap: boolean): Now<void>
  discard?(at: number, length: number): Now<void>
  flush?(): Now<void>
  resize?(size: number): Now<void>
  close?(): Now<void>
}
