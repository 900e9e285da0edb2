/** detect-zeroes=on|unmap: writes of nothing but zeroes become requests to zero. */
import type { BlockDevice, WriteOptions } from '../device.ts'
import { Filter } from '../filter.ts'
import type { IoVec } from '../iovec.ts'
import { after, type Now } from '../now.ts'

/** Whether all bytes are zero; looks at whole words where the memory's alignment allows. */
export function isZero(bytes: Uint8Array): boolean {
  const head = Math.min(-bytes.byteOffset & 3, bytes.length)
  for (let i = 0; i < head; i++) if (bytes[i] !== 0) return false
  if (head === bytes.length) return true
  const words = new Int32Array(bytes.buffer, bytes.byteOffset + head, (bytes.length - head) >> 2)
  for (let i = 0; i < words.length; i++) if (words[i] !== 0) return false
  for (let i = head + words.length * 4; i < bytes.length; i++) if (bytes[i] !== 0) return false
  return true
}

/** Turns writes of zeroes into `zero`, which may free their space if `unmap` says so. */
export class DetectZeroes extends Filter {
  readonly name = 'detect-zeroes'
  readonly #unmap: boolean

  constructor(next: BlockDevice, unmap: boolean) {
    super(next)
    this.#unmap = unmap
  }

  override write(at: number, from: IoVec, options?: WriteOptions): Now<void> {
    if (!from.views().every(isZero)) return this.next.write(at, from, options)
    return after(this.next.zero(at, from.byteLength, { unmap: this.#unmap }), () => {
      if (options?.fua) return this.next.flush()
    })
  }
}
