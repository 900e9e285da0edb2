/** A Blob or a File, read-only: what a user picked in a browser. */
import type { BlockDriver } from '../device.ts'
import { BlockError, messageOf } from '../error.ts'
import type { IoVec } from '../iovec.ts'

/** The bytes of a Blob as a disk. */
export class BlobDisk implements BlockDriver {
  readonly name = 'blob'
  readonly readOnly = true
  readonly size: number
  readonly #blob: Blob

  constructor(blob: Blob) {
    this.#blob = blob
    this.size = blob.size
  }

  async read(at: number, into: IoVec): Promise<void> {
    let bytes: ArrayBuffer
    try {
      bytes = await this.#blob.slice(at, at + into.byteLength).arrayBuffer()
    } catch (error) {
      throw new BlockError('EIO', `Cannot read ${into.byteLength} bytes at ${at} of the blob: ${messageOf(error)}`, {
        cause: error,
      })
    }
    if (bytes.byteLength !== into.byteLength) {
      throw new BlockError('EIO', `Cannot read ${into.byteLength} bytes at ${at} of the blob: it ends there`)
    }
    into.scatter(new Uint8Array(bytes))
  }
}
