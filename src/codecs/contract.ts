// What the codecs promise, whoever keeps the promise: the WebAssembly crate everywhere, or Node's own libraries where
// they are faster. Everything here is synchronous and equal to the last bit on every platform; pool.ts is for bulk.

/** The wrapping around a deflate stream: none (RFC 1951), zlib (RFC 1950) or gzip (RFC 1952). */
export type Framing = 'raw' | 'zlib' | 'gzip'

/** How to deflate; what is absent is zlib's default. */
export interface DeflateOptions {
  /** Raw when absent. */
  readonly framing?: Framing
  /** 0 (stored) to 9 (smallest); 6 when absent. */
  readonly level?: number
  /** The window is 2^windowBits bytes, 9 to 15; 15 when absent. A qcow2 cluster wants 12. */
  readonly windowBits?: number
}

/** How to compress a zstd frame. */
export interface ZstdOptions {
  /** 1 (fastest) to 19 (smallest); 3 when absent. */
  readonly level?: number
}

/** The hashes that LUKS headers name. */
export type HashName = 'sha1' | 'sha224' | 'sha256' | 'sha384' | 'sha512' | 'ripemd160'

/** Which AES sector cipher, in dm-crypt's terms; the key's length chooses AES-128, 192 or 256. */
export interface CipherOptions {
  /** XTS (IEEE 1619; the key is two AES keys end to end), CBC, or ECB (no IV at all). */
  readonly mode: 'xts' | 'cbc' | 'ecb'
  /**
   * Where a sector's IV comes from: its number in 32 bits (plain) or 64 (plain64), or that number encrypted under the
   * hash of the key (essiv). plain64 when absent.
   */
  readonly iv?: 'plain' | 'plain64' | 'essiv'
  /** The hash of essiv; sha256 when absent. */
  readonly essivHash?: HashName
  /** 16, 24 or 32 bytes; twice that for XTS. Copied. */
  readonly key: Uint8Array
  /**
   * Bytes that share one IV: a power of two from 512 to 4096; 512 when absent. As in dm-crypt, sectors are numbered in
   * units of 512 bytes whatever their size.
   */
  readonly sectorSize?: number
}

/** A keyed cipher over runs of sectors, in place. */
export interface SectorCipher {
  /** Encrypts whole sectors in place; the first has number `firstSector` (in units of 512 bytes). EINVAL for a part of a sector. */
  encrypt(buffer: Uint8Array, firstSector: number): void
  /** Decrypts whole sectors in place; see `encrypt`. */
  decrypt(buffer: Uint8Array, firstSector: number): void
  /** Wipes the key; the cipher must not be used afterwards. */
  close(): void
}

/** The cost of an Argon2 (RFC 9106) hash. */
export interface Argon2Options {
  readonly kind: 'argon2d' | 'argon2i' | 'argon2id'
  readonly password: Uint8Array
  /** At least 8 bytes. */
  readonly salt: Uint8Array
  /** A key besides the password, and data bound to the hash; none when absent. */
  readonly secret?: Uint8Array
  readonly data?: Uint8Array
  /** Passes over the memory, at least 1. */
  readonly iterations: number
  /** Memory in KiB, at least 8 per lane and at most 2 GiB. */
  readonly memory: number
  /** Lanes ("parallelism"); they are computed one after the other, with the same result. */
  readonly lanes: number
  /** Bytes wanted, at least 4. */
  readonly length: number
}

/** The codecs. Every failure is a `CodecError`. */
export interface Codecs {
  /**
   * Inflates one stream and returns its bytes. Bytes after its end are ignored. EILSEQ when it is corrupt or ends
   * early, EFBIG when it holds more than `maxSize` bytes; no more than about `maxSize` is ever allocated.
   */
  inflate(input: Uint8Array, maxSize: number, framing?: Framing): Uint8Array
  /**
   * Inflates into `output` until it is full or the stream ends, and returns the bytes written: what a qcow2 cluster needs,
   * whose stored length is rounded up to sectors and whose stream may go on. EILSEQ when the stream is corrupt or the input ends
   * before either; what is in `output` is then undefined.
   */
  inflateInto(input: Uint8Array, output: Uint8Array, framing?: Framing): number
  /** Deflates `input` to one stream. */
  deflate(input: Uint8Array, options?: DeflateOptions): Uint8Array
  /** Deflates `input` to one stream of at most `maxSize` bytes, or gives undefined when it does not fit. */
  deflateWithin(input: Uint8Array, maxSize: number, options?: DeflateOptions): Uint8Array | undefined

  /**
   * Decompresses all zstd frames (RFC 8878) of `input` and returns their bytes. Skippable frames are skipped. EILSEQ when
   * a frame is corrupt, ends early, or is followed by what is no frame; EFBIG when there are more than `maxSize` bytes.
   */
  zstdDecompress(input: Uint8Array, maxSize: number): Uint8Array
  /**
   * Decompresses zstd frames into `output` until it is full, and returns the bytes written; fewer only when the input ended
   * after a whole frame. Bytes of `input` after what was needed are ignored. EILSEQ when a frame is corrupt or ends early.
   */
  zstdDecompressInto(input: Uint8Array, output: Uint8Array): number
  /** Compresses `input` to one zstd frame that names its content size. */
  zstdCompress(input: Uint8Array, options?: ZstdOptions): Uint8Array
  /** Compresses `input` to one frame of at most `maxSize` bytes, or gives undefined when it does not fit. */
  zstdCompressWithin(input: Uint8Array, maxSize: number, options?: ZstdOptions): Uint8Array | undefined

  /** CRC-32 (ISO 3309, as in zlib, gzip and VMDK); `seed` is the CRC of what came before. */
  crc32(bytes: Uint8Array, seed?: number): number
  /** CRC-32C (Castagnoli, as in iSCSI and VHDX); `seed` is the CRC of what came before. */
  crc32c(bytes: Uint8Array, seed?: number): number
  /** Adler-32 (RFC 1950); `seed` is the checksum of what came before. */
  adler32(bytes: Uint8Array, seed?: number): number
  /** Whether every byte is zero; true for no bytes at all. */
  isAllZero(bytes: Uint8Array): boolean

  /** The hash of `bytes`, 20 to 64 bytes long by its name. */
  digest(hash: HashName, bytes: Uint8Array): Uint8Array
  /** The 32-byte BLAKE3 hash of `bytes`. */
  blake3(bytes: Uint8Array): Uint8Array
  /** The BLAKE3 hash of each `size` bytes of `bytes` (the last may be shorter), 32 bytes each, end to end. */
  blake3Each(bytes: Uint8Array, size: number): Uint8Array

  /** PBKDF2 (RFC 8018) with HMAC over `hash`; `length` bytes. */
  pbkdf2(hash: HashName, password: Uint8Array, salt: Uint8Array, iterations: number, length: number): Uint8Array
  /** Argon2 version 1.3 (RFC 9106). Its memory is given back afterwards. */
  argon2(options: Argon2Options): Uint8Array

  /** A sector cipher, ready for use. EINVAL for a key of the wrong length. */
  createCipher(options: CipherOptions): SectorCipher
}

/** Why a codec failed: EINVAL for a wrong call, EILSEQ for corrupt input, EFBIG for more output than allowed, ENOMEM. */
export type CodecErrorCode = 'EINVAL' | 'EILSEQ' | 'EFBIG' | 'ENOMEM'

/** The one error of the codecs; `code` is for programs, the message for people. */
export class CodecError extends Error {
  override readonly name = 'CodecError'
  readonly code: CodecErrorCode

  constructor(code: CodecErrorCode, message: string) {
    super(message)
    this.code = code
  }
}
