// Sector ciphers with the processor's AES instructions, which OpenSSL uses. What a mode adds to AES (IVs, tweaks, chains) the
// module does, over whole runs of sectors, so that AES itself is one call in ECB mode. CBC encryption is a chain that no
// single call can do; there the module, which works on several sectors in step, is faster.

import { type Cipher, createCipheriv, createDecipheriv, type Decipher } from 'node:crypto'
import type { CipherOptions, Codecs, SectorCipher } from '../contract.ts'
import { type CipherPlan, planCipher } from '../plan.ts'
import { ModuleCipher } from '../wasm/cipher.ts'
import { hashes } from '../wasm/hash.ts'

/** Fewer bytes are done sooner by the module than a call into OpenSSL is. */
const FEW = 4096

/** The piece in which long runs are worked on: small enough to stay in the second-level cache. */
const PIECE = 64 * 1024

class NodeCipher implements SectorCipher {
  readonly #module: ModuleCipher
  readonly #kind: CipherPlan['kind']
  readonly #encipher: Cipher
  readonly #decipher: Decipher

  constructor(plan: CipherPlan) {
    this.#module = new ModuleCipher(plan)
    this.#kind = plan.kind
    const name = `aes-${plan.key.length * 8}-ecb`
    this.#encipher = createCipheriv(name, plan.key, null).setAutoPadding(false)
    this.#decipher = createDecipheriv(name, plan.key, null).setAutoPadding(false)
  }

  encrypt(buffer: Uint8Array, firstSector: number): void {
    if (buffer.length < FEW || this.#kind.startsWith('cbc')) this.#module.encrypt(buffer, firstSector)
    else this.#run(buffer, firstSector, this.#encipher)
  }

  decrypt(buffer: Uint8Array, firstSector: number): void {
    if (buffer.length < FEW) this.#module.decrypt(buffer, firstSector)
    else this.#run(buffer, firstSector, this.#decipher)
  }

  close(): void {
    this.#module.close()
  }

  #run(buffer: Uint8Array, firstSector: number, aes: Cipher | Decipher): void {
    this.#module.check(buffer, firstSector)
    for (let done = 0; done < buffer.length; done += PIECE) {
      const piece = buffer.length <= PIECE ? buffer : buffer.subarray(done, done + PIECE)
      const number = firstSector + done / 512
      if (this.#kind === 'ecb') piece.set(aes.update(piece))
      else if (this.#kind === 'xts') this.#module.masked(piece, number, (masked) => aes.update(masked))
      else this.#module.unchained(piece, number, aes.update(piece))
    }
  }
}

/** Sector ciphers by Node. */
export const ciphers: Partial<Codecs> = {
  createCipher: (options: CipherOptions) => new NodeCipher(planCipher(options, hashes.digest)),
}
