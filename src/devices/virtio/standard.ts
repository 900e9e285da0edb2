/** Names and numbers of virtio 1.2 that all kinds of devices share. */

// 2.1 Device status field
export const STATUS_DRIVER_OK = 4
export const STATUS_FEATURES_OK = 8
export const STATUS_DEVICE_NEEDS_RESET = 64
export const STATUS_FAILED = 128

// 6 Reserved feature bits; 6.3 those of the legacy interface
export const F_NOTIFY_ON_EMPTY = 24
export const F_ANY_LAYOUT = 27
export const F_INDIRECT_DESC = 28
export const F_EVENT_IDX = 29
export const F_VERSION_1 = 32
export const F_RING_PACKED = 34
export const F_IN_ORDER = 35
export const F_RING_RESET = 40

// 2.7.5 Descriptor flags; AVAIL and USED are those of 2.8.1
export const DESC_F_NEXT = 1
export const DESC_F_WRITE = 2
export const DESC_F_INDIRECT = 4
export const DESC_F_AVAIL = 1 << 7
export const DESC_F_USED = 1 << 15

/** Bytes of a descriptor in either format. */
export const DESCRIPTOR = 16

/** A set of feature bits 0 to 63 (2.2), which a transport shows as words of 32. */
export class Features {
  readonly #words = new Uint32Array(2)

  constructor(bits: Iterable<number> = []) {
    for (const bit of bits) this.#words[bit >>> 5] = this.#words[bit >>> 5]! | (1 << (bit & 31))
  }

  has(bit: number): boolean {
    return ((this.#words[bit >>> 5]! >>> (bit & 31)) & 1) !== 0
  }

  /** Bits 32 `index` to 32 `index` + 31; there are none beyond the second word. */
  word(index: number): number {
    return this.#words[index] ?? 0
  }

  setWord(index: number, value: number): void {
    if (index < 2) this.#words[index] = value
  }

  /** Whether every bit is in `other` too. */
  within(other: Features): boolean {
    return (this.word(0) & ~other.word(0)) === 0 && (this.word(1) & ~other.word(1)) === 0
  }

  /** Takes the bits of `other`. */
  copy(other: Features): void {
    this.#words[0] = other.word(0)
    this.#words[1] = other.word(1)
  }

  clear(): void {
    this.#words.fill(0)
  }
}
