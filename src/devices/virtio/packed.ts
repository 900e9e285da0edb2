/** The packed virtqueue: one ring of descriptors that both sides write (2.8). */
import type { Saved } from '../machine.ts'
import type { Chain } from './chain.ts'
import { address, Ring } from './ring.ts'
import { isUints } from './saved.ts'
import { DESC_F_AVAIL, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_USED, DESC_F_WRITE, DESCRIPTOR } from './standard.ts'

// 2.8.10 Descriptor ring change event flags
const RING_EVENT_FLAGS_DISABLE = 1
const RING_EVENT_FLAGS_DESC = 2

/** The device's side of a packed virtqueue. It leaves the driver's notifications enabled. */
export class PackedRing extends Ring {
  /** Entry where the next available descriptor will be, and the driver's wrap counter there. */
  #next = 0
  #nextWrap = 1
  /** Entry where the next used descriptor goes, and the device's wrap counter there. */
  #used = 0
  #usedWrap = 1
  /** Entries passed by used buffers since the last {@link publish}. */
  #passed = 0

  fits(): boolean {
    const { size, descriptors, driver, device } = this.place
    if (size < 1 || size > 32768) return false
    return (
      this.memory.contains(descriptors, DESCRIPTOR * size) &&
      this.memory.contains(driver, 4) &&
      this.memory.contains(device, 4)
    )
  }

  take(chain: Chain): boolean {
    const { size, descriptors } = this.place
    const data = this.memory.data
    const first = data.getUint16(descriptors + DESCRIPTOR * this.#next + 14, true)
    const available = first & DESC_F_AVAIL ? 1 : 0
    const used = first & DESC_F_USED ? 1 : 0
    if (available !== this.#nextWrap || used === this.#nextWrap) return false
    chain.begin()
    let index = this.#next
    let slots = 0
    for (;;) {
      if (this.taken + slots >= size) return this.fail('a list is longer than the queue, or has no free entry')
      if (slots >= this.limit) return this.fail('a list has more elements than the device takes')
      const at = descriptors + DESCRIPTOR * index
      const flags = data.getUint16(at + 14, true)
      const fault =
        flags & DESC_F_INDIRECT
          ? this.#table(data, chain, at, slots > 0 || (flags & DESC_F_NEXT) !== 0)
          : chain.add(this.memory, address(data, at), data.getUint32(at + 8, true), (flags & DESC_F_WRITE) !== 0)
      if (fault !== undefined) return this.fail(fault)
      slots++
      index = index + 1 === size ? 0 : index + 1
      if (!(flags & DESC_F_NEXT)) {
        chain.id = data.getUint16(at + 12, true)
        break
      }
    }
    chain.slots = slots
    this.taken += slots
    if (index <= this.#next) this.#nextWrap ^= 1
    this.#next = index
    return true
  }

  #table(data: DataView, chain: Chain, at: number, inList: boolean): string | undefined {
    const length = data.getUint32(at + 8, true)
    const start = address(data, at)
    if (!this.indirect) return 'an indirect descriptor was not negotiated'
    if (inList) return 'an indirect descriptor is in a list'
    if (length === 0 || length % DESCRIPTOR !== 0) return 'an indirect table holds no whole number of descriptors'
    if (length / DESCRIPTOR > this.limit) return 'an indirect table has more elements than the device takes'
    if (!this.memory.contains(start, length)) return 'an indirect table is outside RAM'
    for (let entry = start; entry < start + length; entry += DESCRIPTOR) {
      const writable = (data.getUint16(entry + 14, true) & DESC_F_WRITE) !== 0
      const fault = chain.add(this.memory, address(data, entry), data.getUint32(entry + 8, true), writable)
      if (fault !== undefined) return fault
    }
  }

  give(id: number, slots: number, written: number): void {
    const { size, descriptors } = this.place
    const data = this.memory.data
    const at = descriptors + DESCRIPTOR * this.#used
    data.setUint32(at + 8, written, true)
    data.setUint16(at + 12, id, true)
    const wrap = this.#usedWrap ? DESC_F_AVAIL | DESC_F_USED : 0
    data.setUint16(at + 14, wrap | (written > 0 ? DESC_F_WRITE : 0), true)
    this.#used += slots
    if (this.#used >= size) {
      this.#used -= size
      this.#usedWrap ^= 1
    }
    this.#passed += slots
    this.taken -= slots
  }

  publish(): boolean {
    const passed = this.#passed
    if (passed === 0) return false
    this.#passed = 0
    const { size, descriptors, driver } = this.place
    this.memory.dirty(descriptors, DESCRIPTOR * size)
    const data = this.memory.data
    const flags = data.getUint16(driver + 2, true) & 3
    if (flags === RING_EVENT_FLAGS_DISABLE) return false
    if (flags !== RING_EVENT_FLAGS_DESC || !this.eventIdx) return true
    const event = data.getUint16(driver, true)
    const wrap = event >>> 15
    const behind = this.#used - (event & 0x7fff) + (wrap === this.#usedWrap ? 0 : size)
    return behind > 0 && behind <= passed
  }

  save(): Saved {
    return [this.#next, this.#nextWrap, this.#used, this.#usedWrap]
  }

  restore(saved: unknown): boolean {
    if (!isUints(saved, 4, 32767)) return false
    const [next = 0, nextWrap = 0, used = 0, usedWrap = 0] = saved
    if (next >= this.place.size || used >= this.place.size || nextWrap > 1 || usedWrap > 1) return false
    this.#next = next
    this.#nextWrap = nextWrap
    this.#used = used
    this.#usedWrap = usedWrap
    return true
  }
}
