/** A temporary layer: writes go to a store that is thrown away, the base is only read. */
import type { BlockDevice, BlockDriver, Extent, ZeroOptions } from '../device.ts'
import { BlockError } from '../error.ts'
import type { IoVec } from '../iovec.ts'
import { after, type Now, repeat } from '../now.ts'

/** Unit in which the layer knows what it holds, bytes: a guest's page, so that hardly a write has to copy. */
const UNIT = 4096
/** Units in one piece of the map; a piece is there once one of its units is. */
const PIECE = 1 << 16

/** Which units are in the store: one bit each, in pieces that are made when needed, so 32 KiB per GiB that was touched. */
class UnitSet {
  readonly #pieces = new Map<number, Uint8Array>()

  has(unit: number): boolean {
    const piece = this.#pieces.get(Math.floor(unit / PIECE))
    const within = unit % PIECE
    return piece !== undefined && (piece[within >> 3]! & (1 << (within & 7))) !== 0
  }

  add(first: number, end: number): void {
    for (let unit = first; unit < end; unit++) {
      const index = Math.floor(unit / PIECE)
      let piece = this.#pieces.get(index)
      if (piece === undefined) this.#pieces.set(index, (piece = new Uint8Array(PIECE / 8)))
      const within = unit % PIECE
      piece[within >> 3]! |= 1 << (within & 7)
    }
  }

  /** End of the run of units from `unit` up to `limit` that are all in the set, or all not. */
  runEnd(unit: number, limit: number): number {
    const present = this.has(unit)
    let end = unit + 1
    while (end < limit) {
      if (end % PIECE === 0 && !present && !this.#pieces.has(end / PIECE)) {
        end = Math.min(end + PIECE, limit)
        continue
      }
      if (this.has(end) !== present) break
      end++
    }
    return end
  }
}

/** What `snapshot=on` puts over an image. Nothing is durable, and nothing of it is there after it is closed. */
export class Overlay implements BlockDriver {
  readonly name = 'overlay'
  readonly fua = true
  readonly align = UNIT
  readonly backing: BlockDevice
  readonly #store: BlockDevice
  readonly #units = new UnitSet()
  #size: number

  /** `store` is empty and writable; both are closed with the overlay. */
  constructor(base: BlockDevice, store: BlockDevice) {
    this.backing = base
    this.#store = store
    this.#size = base.size
  }

  get size(): number {
    return this.#size
  }

  read(at: number, into: IoVec): Now<void> {
    let done = 0
    return repeat(() => {
      const run = this.#run(at + done, into.byteLength - done)
      const part = into.slice(done, done + run.length)
      done += run.length
      const source = run.present
        ? this.#store.read(at + done - run.length, part)
        : this.#readBase(at + done - run.length, part)
      return after(source, () => done < into.byteLength)
    })
  }

  write(at: number, from: IoVec): Now<void> {
    return this.#change(at, from.byteLength, () => this.#store.write(at, from))
  }

  zero(at: number, length: number, options?: ZeroOptions): Now<void> {
    return this.#change(at, length, () => this.#store.zero(at, length, options))
  }

  discard(at: number, length: number): Now<void> {
    return this.zero(at, length, { unmap: true })
  }

  flush(): void {}

  status(at: number, length: number): Now<Extent> {
    const run = this.#run(at, length)
    if (run.present)
      return after(this.#store.status(at, run.length), (extent) => ({
        length: extent.length,
        kind: extent.kind === 'data' ? 'data' : 'zero',
      }))
    return { length: run.length, kind: 'hole' }
  }

  resize(size: number): Now<void> {
    if (size < this.#size) {
      throw new BlockError('ENOTSUP', `Cannot shrink a temporary overlay from ${this.#size} to ${size} bytes`)
    }
    return after(this.#grow(size), () => {
      this.#size = size
    })
  }

  allocated(): Now<number> {
    return this.#store.allocated()
  }

  async close(): Promise<void> {
    const ends = await Promise.allSettled([this.#store.close(), this.backing.close()])
    for (const end of ends) if (end.status === 'rejected') throw end.reason
  }

  #change(at: number, length: number, put: () => Now<void>): Now<void> {
    return after(this.#grow(at + length), () =>
      after(put(), () => this.#units.add(at / UNIT, Math.ceil((at + length) / UNIT))),
    )
  }

  #grow(size: number): Now<void> {
    if (this.#store.size < size) return this.#store.resize(Math.max(size, this.#size))
  }

  #run(at: number, length: number): { present: boolean; length: number } {
    const first = Math.floor(at / UNIT)
    const end = this.#units.runEnd(first, Math.ceil((at + length) / UNIT))
    return { present: this.#units.has(first), length: Math.min(end * UNIT - at, length) }
  }

  #readBase(at: number, into: IoVec): Now<void> {
    const base = this.backing
    const there = Math.min(Math.max(base.size - at, 0), into.byteLength)
    if (there < into.byteLength) into.slice(there).fill(0)
    if (there > 0) return base.read(at, there === into.byteLength ? into : into.slice(0, there))
  }
}
