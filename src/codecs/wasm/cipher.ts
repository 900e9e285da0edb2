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

class ModuleCipher implements SectorCipher {
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
    forgotten.unregister(this)
    this.#it.exports.cipher_free(this.#address)
    this.#address = 0
  }

  #run(buffer: Uint8Array, firstSector: number, encrypt: number): void {
    if (this.#address === 0) throw new CodecError('EINVAL', 'Cannot use a cipher that was closed')
    checkRun(buffer, firstSector, this.#sectorSize)
    const it = this.#it
    for (let done = 0; done < buffer.length; done += PIECE) {
      const piece = buffer.length <= PIECE ? buffer : buffer.subarray(done, done + PIECE)
      const at = it.lend(PIECE)
      it.bytes.set(piece, at)
      it.exports.cipher_run(this.#address, at, piece.length, firstSector + done / 512, encrypt)
      piece.set(it.bytes.subarray(at, at + piece.length))
    }
  }
}

/** Sector ciphers by the module. */
export const ciphers = {
  createCipher: (options: CipherOptions) => new ModuleCipher(planCipher(options, hashes.digest)),
} satisfies Partial<Codecs>

function checkRun(buffer: Uint8Array, firstSector: number, sectorSize: number): void {
  if (buffer.length % sectorSize !== 0)
    throw new CodecError('EINVAL', `Cannot encrypt ${buffer.length} bytes: a sector has ${sectorSize}`)
  if (!Number.isSafeInteger(firstSector) || firstSector < 0)
    throw new CodecError('EINVAL', `Cannot encrypt from sector ${firstSector}`)
}
