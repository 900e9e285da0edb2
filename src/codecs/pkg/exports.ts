// Made by `npm run build:codecs`; do not edit.

/** What the module exports: functions of addresses and numbers; crate/src/lib.rs says what each does. */
export interface Exports {
  readonly memory: WebAssembly.Memory
  readonly adler32: (a: number, b: number, c: number) => number
  readonly argon2: (a: number, b: number, c: number, d: number, e: number, f: number, g: number, h: number, i: number, j: number, k: number) => number
  readonly blake3_each: (a: number, b: number, c: number, d: number) => void
  readonly cbc_unchain: (a: number, b: number, c: number, d: number, e: number) => void
  readonly cipher_free: (a: number) => void
  readonly cipher_ivs: (a: number, b: number, c: number, d: number) => void
  readonly cipher_new: (a: number, b: number, c: number, d: number, e: number, f: number) => number
  readonly cipher_run: (a: number, b: number, c: number, d: number, e: number) => void
  readonly crc32: (a: number, b: number, c: number) => number
  readonly crc32c: (a: number, b: number, c: number) => number
  readonly deflate: (a: number, b: number, c: number, d: number, e: number, f: number, g: number) => number
  readonly hash_finish: (a: number) => number
  readonly hash_start: (a: number) => void
  readonly hash_update: (a: number, b: number) => void
  readonly inflate: (a: number, b: number, c: number, d: number, e: number) => number
  readonly is_all_zero: (a: number, b: number) => number
  readonly lend: (a: number) => number
  readonly pbkdf2: (a: number, b: number, c: number, d: number, e: number, f: number, g: number, h: number) => void
  readonly produced: () => number
  readonly xts_mask: (a: number, b: number, c: number, d: number) => void
  readonly zstd_compress: (a: number, b: number, c: number, d: number, e: number) => number
  readonly zstd_decompress: (a: number, b: number, c: number, d: number, e: number) => number
}
