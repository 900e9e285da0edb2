// What goes between a pool and its workers.

import type { CodecErrorCode, Codecs } from './contract.ts'

/** The codecs that a worker can do: those whose arguments are copied and whose answer is bytes. */
export type JobName =
  | 'inflate'
  | 'deflate'
  | 'deflateWithin'
  | 'zstdDecompress'
  | 'zstdCompress'
  | 'zstdCompressWithin'
  | 'digest'
  | 'blake3'
  | 'blake3Each'
  | 'pbkdf2'
  | 'argon2'

/** The first message to a worker. */
export interface Start {
  readonly module: WebAssembly.Module
}

/** A call to make. */
export interface Job<N extends JobName = JobName> {
  readonly id: number
  readonly name: N
  readonly args: Parameters<Codecs[N]>
}

/** What came of it: a value, or an error. */
export type Answer =
  | { readonly id: number; readonly value: Uint8Array | undefined }
  | { readonly id: number; readonly code: CodecErrorCode; readonly message: string }
