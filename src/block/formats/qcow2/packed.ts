/** Compressed clusters: where they are, and their bytes. */
import type { CodecError, Codecs } from '../../../codecs/contract.ts'
import type { BlockDevice } from '../../device.ts'
import { BlockError } from '../../error.ts'
import { bytesVec } from '../../iovec.ts'
import { readPadded } from '../../mover.ts'
import { after, type Now } from '../../now.ts'
import type { Header } from './header.ts'

/** What of the codecs compressed clusters need; packing may be done elsewhere, and take its time. */
export type ClusterCodecs = Pick<Codecs, 'inflateInto' | 'zstdDecompressInto'> & {
  deflateWithin(...args: Parameters<Codecs['deflateWithin']>): Now<Uint8Array | undefined>
  zstdCompressWithin(...args: Parameters<Codecs['zstdCompressWithin']>): Now<Uint8Array | undefined>
}

/** Bits of the deflate window of a cluster: 2^12 bytes. */
const WINDOW_BITS = 12
const KEPT = 8

/** Where the bytes of a compressed cluster are; `length` goes to the end of the last 512-byte sector, and may be too long. */
export interface PackedPlace {
  readonly at: number
  readonly length: number
}

/** Reads and makes compressed clusters. */
export class Packer {
  readonly #name: string
  readonly #file: BlockDevice
  readonly #clusterSize: number
  readonly #offsetBits: number
  readonly #type: 'zlib' | 'zstd'
  readonly #codecs: ClusterCodecs | undefined
  /** The clusters unpacked last, by host offset: reads come in pieces. */
  readonly #kept = new Map<number, Uint8Array>()

  constructor(name: string, file: BlockDevice, header: Header, codecs: ClusterCodecs | undefined) {
    this.#name = name
    this.#file = file
    this.#clusterSize = 2 ** header.clusterBits
    this.#offsetBits = 62 - (header.clusterBits - 8)
    this.#type = header.compressionType
    this.#codecs = codecs
  }

  /** Splits a compressed cluster descriptor: host offset in the low bits, then how many sectors follow the first. */
  place(high: number, low: number): PackedPlace {
    const split = this.#offsetBits - 32
    const at = (high & (2 ** split - 1)) * 2 ** 32 + low
    const sectors = high >>> split
    return { at, length: (sectors + 1) * 512 - (low & 511) }
  }

  /** The descriptor of `length` bytes at `at`. */
  descriptor(at: number, length: number): { high: number; low: number } {
    const sectors = Math.floor((at + length - 1) / 512) - Math.floor(at / 512)
    return { high: (Math.floor(at / 2 ** 32) | (sectors << (this.#offsetBits - 32))) >>> 0, low: at >>> 0 }
  }

  /** The bytes of a whole cluster. EIO if they are damaged. */
  unpack(place: PackedPlace): Now<Uint8Array> {
    const kept = this.#kept.get(place.at)
    if (kept !== undefined) return kept
    const codecs = this.#need()
    const input = new Uint8Array(place.length)
    return after(readPadded(this.#file, place.at, bytesVec(input)), () => {
      const output = new Uint8Array(this.#clusterSize)
      let length = 0
      try {
        length = this.#type === 'zstd' ? codecs.zstdDecompressInto(input, output) : codecs.inflateInto(input, output)
      } catch (error) {
        throw this.#damaged(place, error as CodecError)
      }
      if (length !== output.length) throw this.#damaged(place)
      this.#kept.set(place.at, output)
      if (this.#kept.size > KEPT) this.#kept.delete(this.#kept.keys().next().value!)
      return output
    })
  }

  /** Compresses a whole cluster; undefined when nothing is gained. */
  pack(bytes: Uint8Array): Now<Uint8Array | undefined> {
    const codecs = this.#need()
    const most = this.#clusterSize - 1
    return this.#type === 'zstd'
      ? codecs.zstdCompressWithin(bytes, most)
      : codecs.deflateWithin(bytes, most, { windowBits: WINDOW_BITS })
  }

  /** Forgets what is at `at`: it is given back. */
  forget(at: number): void {
    this.#kept.delete(at)
  }

  #need(): ClusterCodecs {
    if (this.#codecs === undefined) {
      throw new BlockError('ENOTSUP', `Cannot read compressed clusters of ${this.#name}: no codecs were given`)
    }
    return this.#codecs
  }

  #damaged(place: PackedPlace, cause?: unknown): BlockError {
    return new BlockError('EIO', `Cannot read ${this.#name}: its compressed cluster at ${place.at} is damaged`, {
      cause,
    })
  }
}
