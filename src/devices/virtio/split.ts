/** The split virtqueue: descriptor table, available ring, used ring (2.7). */
import type { Saved } from '../machine.ts'
import type { Chain } from './chain.ts'
import { address, Ring } from './ring.ts'
import { isUints } from './saved.ts'
import { DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESCRIPTOR } from './standard.ts'

const AVAIL_F_NO_INTERRUPT = 1

/** The device's side of a split virtqueue. */
export class SplitRing extends Ring {
  /** Index in the available ring up to which buffers were taken, 16 bits. */
  #available = 0
  /** Index in the used ring where the next buffer is given back, 16 bits. */
  #used = 0
  /** Buffers given back since the last {@link publish}. */
  #given = 0

  fits(): boolean {
    const { size, descriptors, driver, device } = this.place
    if (size < 1 || size > 32768 || (size & (size - 1)) !== 0) return false
    return (
      this.memory.contains(descriptors, DESCRIPTOR * size) &&
      this.memory.contains(driver, 6 + 2 * size) &&
      this.memory.contains(device, 6 + 8 * size)
    )
  }

  take(chain: Chain): boolean {
    const { size, driver } = this.place
    const data = this.memory.data
    const waiting = (data.getUint16(driver + 2, true) - this.#available) & 0xffff
    if (waiting === 0) {
      if (this.eventIdx) this.#wake(data)
      return false
    }
    if (waiting > size) return this.fail('the available index is ahead by more than the queue size')
    if (this.taken >= size) return this.fail('more buffers are under way than the queue holds')
    const head = data.getUint16(driver + 4 + 2 * (this.#available & (size - 1)), true)
    if (head >= size) return this.fail('a head is outside the descriptor table')
    this.#available = (this.#available + 1) & 0xffff
    chain.begin()
    chain.id = head
    chain.slots = 1
    const fault = this.#walk(data, chain)
    if (fault !== undefined) return this.fail(fault)
    this.taken++
    return true
  }

  #walk(data: DataView, chain: Chain): string | undefined {
    let table = this.place.descriptors
    let entries = this.place.size
    let index = chain.id
    let inTable = false
    for (let left = this.limit; left > 0; left--) {
      const at = table + DESCRIPTOR * index
      const flags = data.getUint16(at + 12, true)
      if (flags & DESC_F_INDIRECT) {
        const length = data.getUint32(at + 8, true)
        const start = address(data, at)
        if (!this.indirect) return 'an indirect descriptor was not negotiated'
        if (inTable) return 'an indirect table refers to another one'
        if (flags & DESC_F_NEXT) return 'an indirect descriptor has a next one'
        if (length === 0 || length % DESCRIPTOR !== 0) return 'an indirect table holds no whole number of descriptors'
        if (!this.memory.contains(start, length)) return 'an indirect table is outside RAM'
        inTable = true
        table = start
        entries = length / DESCRIPTOR
        index = 0
        left++
        continue
      }
      const fault = chain.add(
        this.memory,
        address(data, at),
        data.getUint32(at + 8, true),
        (flags & DESC_F_WRITE) !== 0,
      )
      if (fault !== undefined) return fault
      if (!(flags & DESC_F_NEXT)) return
      index = data.getUint16(at + 14, true)
      if (index >= entries) return 'a next index is outside its table'
    }
    return 'a chain is longer than the queue, or a loop'
  }

  /** Asks to be notified of the next buffer (2.7.10). */
  #wake(data: DataView): void {
    const event = this.place.device + 4 + 8 * this.place.size
    if (data.getUint16(event, true) === this.#available) return
    data.setUint16(event, this.#available, true)
    this.memory.dirty(event, 2)
  }

  give(id: number, _slots: number, written: number): void {
    const { size, device } = this.place
    const data = this.memory.data
    const at = device + 4 + 8 * (this.#used & (size - 1))
    data.setUint32(at, id, true)
    data.setUint32(at + 4, written, true)
    this.#used = (this.#used + 1) & 0xffff
    this.#given++
    this.taken--
  }

  publish(): boolean {
    const given = this.#given
    if (given === 0) return false
    this.#given = 0
    const { size, driver, device } = this.place
    const data = this.memory.data
    data.setUint16(device + 2, this.#used, true)
    this.memory.dirty(device, 4 + 8 * size)
    if (this.eventIdx) {
      const event = data.getUint16(driver + 4 + 2 * size, true)
      return ((this.#used - event - 1) & 0xffff) < given
    }
    if (!(data.getUint16(driver, true) & AVAIL_F_NO_INTERRUPT)) return true
    return this.notifyOnEmpty && this.taken === 0 && data.getUint16(driver + 2, true) === this.#available
  }

  save(): Saved {
    return [this.#available, this.#used]
  }

  restore(saved: unknown): boolean {
    if (!isUints(saved, 2, 0xffff)) return false
    this.#available = saved[0]!
    this.#used = saved[1]!
    return true
  }
}
