// Sector ciphers by the module.

import { type CipherOptions, CodecError, type Codecs, type SectorCipher } from '../contract.ts'
import { type CipherPlan, planCipher } from '../plan.ts'
import { hashes } from './hash.ts'
import { type Instance, instance, PIECE } from './module.ts'

/** The modes by the numbers of `Cipher::new` in crate/src/cipher.rs. */
const MODES: Record<CipherPlan['kind'], number> = { xts: 0, ecb: 1, 'cbc-plain': 2, 'cbc-plain64': 3, 'cbc-essiv': 4 }

interface Kept {
  readonly it: Instance
  readonly address: number
}

/** Frees, and so wipes, the keys of a cipher that nobody closed. */
const forgotten = new FinalizationRegistry<Kept>(({ it, address }) => it.exports.cipher_free(address))

/** A sector cipher by the module; also the parts of XTS and CBC around AES, for a host that does AES itself. */
export class ModuleCipher implements SectorCipher {
  readonly #it: Instance
  readonly #sectorSize: number
  #address: number

  constructor(plan: CipherPlan) {
    const { key, second, sectorSize } = plan
    const it = instance(PIECE)
    const used = key.length + second.length
    const at = it.lend(PIECE)
    it.bytes.set(key, at)
    it.bytes.set(second, at + key.length)
    this.#address = it.exports.cipher_new(MODES[plan.kind], at, key.length, at + key.length, second.length, sectorSize)
    it.bytes.fill(0, at, at + used)
    this.#it = it
    this.#sectorSize = sectorSize
    forgotten.register(this, { it, address: this.#address }, this)
  }

  encrypt(buffer: Uint8Array, firstSector: number): void {
    this.#run(buffer, firstSector, 1)
  }

  decrypt(buffer: Uint8Array, firstSector: number): void {
    this.#run(buffer, firstSector, 0)
  }

  close(): void {
    if (this.#address === 0) return
    forgotten.unregister(this)
    this.#it.exports.cipher_free(this.#address)
    this.#address = 0
  }

  /** Refuses parts of sectors, numbers that are none, and work after the end; returns where the module keeps the keys. */
  check(buffer: Uint8Array, firstSector: number): number {
    if (this.#address === 0) throw new CodecError('EINVAL', 'Cannot use a cipher that was closed')
    if (buffer.length % this.#sectorSize !== 0)
      throw new CodecError('EINVAL', `Cannot encrypt ${buffer.length} bytes: a sector has ${this.#sectorSize}`)
    if (!Number.isSafeInteger(firstSector) || firstSector < 0)
      throw new CodecError('EINVAL', `Cannot encrypt from sector ${firstSector}`)
    return this.#address
  }

  /** Does XTS over a run of at most `PIECE` bytes, with `aes` in the middle. */
  masked(piece: Uint8Array, firstSector: number, aes: (masked: Uint8Array) => Uint8Array): void {
    const it = this.#it
    const [at, ivs] = this.#lay(piece, firstSector, 0)
    it.exports.xts_mask(at, piece.length, ivs, this.#sectorSize)
    it.bytes.set(aes(it.bytes.subarray(at, at + piece.length)), at)
    it.exports.xts_mask(at, piece.length, ivs, this.#sectorSize)
    piece.set(it.bytes.subarray(at, at + piece.length))
  }

  /** Ends the CBC decryption of a run of at most `PIECE` bytes, which AES made `blocks`. */
  unchained(piece: Uint8Array, firstSector: number, blocks: Uint8Array): void {
    const it = this.#it
    const [before, ivs, at] = this.#lay(piece, firstSector, piece.length)
    it.bytes.set(blocks, at)
    it.exports.cbc_unchain(at, before, piece.length, ivs, this.#sectorSize)
    piece.set(it.bytes.subarray(at, at + piece.length))
  }

  /** Lays a run, its IVs and more room into the lent buffer. */
  #lay(piece: Uint8Array, firstSector: number, room: number): [number, number, number] {
    const it = this.#it
    const count = (piece.length / this.#sectorSize) * 16
    const at = it.lend(piece.length + count + room)
    it.bytes.set(piece, at)
    it.exports.cipher_ivs(this.#address, firstSector, at + piece.length, count)
    return [at, at + piece.length, at + piece.length + count]
  }

  #run(buffer: Uint8Array, firstSector: number, encrypt: number): void {
    const address = this.check(buffer, firstSector)
    const it = this.#it
    for (let done = 0; done < buffer.length; done += PIECE) {
      const piece = buffer.length <= PIECE ? buffer : buffer.subarray(done, done + PIECE)
      const at = it.lend(PIECE)
      it.bytes.set(piece, at)
      it.exports.cipher_run(address, at, piece.length, firstSector + done / 512, encrypt)
      piece.set(it.bytes.subarray(at, at + piece.length))
    }
  }
}

/** Sector ciphers by the module. */
export const ciphers = {
  createCipher: (options: CipherOptions) => new ModuleCipher(planCipher(options, hashes.digest)),
} satisfies Partial<Codecs>
