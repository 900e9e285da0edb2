/** The driver's side of both ring formats, over plain memory (2.7.13, 2.7.14; 2.8.21, 2.8.22). */
import type { TestMemory } from '../machine.ts'

export const NEXT = 1
export const WRITE = 2
export const INDIRECT = 4
export const AVAIL = 1 << 7
export const USED = 1 << 15

/** One element of a buffer. */
export interface Element {
  at: number
  length: number
  write?: boolean
}

/** A buffer that the device gave back. */
export interface UsedBuffer {
  id: number
  length: number
}

export interface DriverRing {
  readonly size: number
  readonly descriptors: number
  readonly driver: number
  readonly device: number
  /** Makes a buffer available and answers its id; `table` puts its elements into an indirect table there. */
  add(elements: readonly Element[], table?: number): number
  /** Buffers used since the last call, oldest first. */
  used(): UsedBuffer[]
  /** Whether the device wants to be notified of what was added since the last call. */
  wantsKick(): boolean
  /** Without event index: whether the device shall interrupt. */
  interrupts(on: boolean): void
  /** With event index: asks for an interrupt when `count` more buffers (split) or ring entries (packed) were used. */
  interruptAfter(count: number): void
}

/** Writes a descriptor of an indirect table or of the split descriptor table. */
export function writeDescriptor(memory: TestMemory, at: number, element: Element, flags: number, next: number): void {
  memory.data.setBigUint64(at, BigInt(element.at), true)
  memory.data.setUint32(at + 8, element.length, true)
  memory.data.setUint16(at + 12, flags | (element.write ? WRITE : 0), true)
  memory.data.setUint16(at + 14, next, true)
}

export class SplitDriver implements DriverRing {
  readonly #memory: TestMemory
  readonly size: number
  readonly descriptors: number
  readonly driver: number
  readonly device: number
  readonly eventIdx: boolean
  #free: number[]
  readonly #taken = new Map<number, number[]>()
  #added = 0
  #kicked = 0
  #seen = 0

  constructor(memory: TestMemory, at: number, size: number, eventIdx = false) {
    this.#memory = memory
    this.size = size
    this.eventIdx = eventIdx
    this.descriptors = at
    this.driver = at + 16 * size
    this.device = Math.ceil((this.driver + 6 + 2 * size) / 4096) * 4096
    this.#free = Array.from({ length: size }, (_, i) => i)
    memory.ram.fill(0, at, this.device + 6 + 8 * size)
  }

  /** Bytes that a ring of `size` entries takes in the legacy layout (2.7.2). */
  static bytes(size: number): number {
    const align = (value: number) => Math.ceil(value / 4096) * 4096
    return align(16 * size + 6 + 2 * size) + align(6 + 8 * size)
  }

  add(elements: readonly Element[], table?: number): number {
    const count = table === undefined ? elements.length : 1
    const own = this.#free.splice(0, count)
    if (own.length < count) throw new Error('the test filled its own queue')
    if (table === undefined) {
      for (const [i, element] of elements.entries()) {
        const more = i < elements.length - 1
        writeDescriptor(this.#memory, this.descriptors + 16 * own[i]!, element, more ? NEXT : 0, own[i + 1] ?? 0)
      }
    } else {
      for (const [i, element] of elements.entries()) {
        writeDescriptor(this.#memory, table + 16 * i, element, i < elements.length - 1 ? NEXT : 0, i + 1)
      }
      const whole = { at: table, length: 16 * elements.length }
      writeDescriptor(this.#memory, this.descriptors + 16 * own[0]!, whole, INDIRECT, 0)
    }
    this.#taken.set(own[0]!, own)
    this.offer(own[0]!)
    return own[0]!
  }

  /** Makes the chain at `head` available, whatever it is. */
  offer(head: number): void {
    const { data } = this.#memory
    data.setUint16(this.driver + 4 + 2 * (this.#added % this.size), head, true)
    this.#added = (this.#added + 1) & 0xffff
    data.setUint16(this.driver + 2, this.#added, true)
  }

  used(): UsedBuffer[] {
    const { data } = this.#memory
    const found: UsedBuffer[] = []
    for (; this.#seen !== data.getUint16(this.device + 2, true); this.#seen = (this.#seen + 1) & 0xffff) {
      const at = this.device + 4 + 8 * (this.#seen % this.size)
      const id = data.getUint32(at, true)
      found.push({ id, length: data.getUint32(at + 4, true) })
      this.#free.push(...(this.#taken.get(id) ?? []))
      this.#taken.delete(id)
    }
    return found
  }

  wantsKick(): boolean {
    const { data } = this.#memory
    const old = this.#kicked
    this.#kicked = this.#added
    if (!this.eventIdx) return (data.getUint16(this.device, true) & 1) === 0
    const event = data.getUint16(this.device + 4 + 8 * this.size, true)
    return ((this.#added - event - 1) & 0xffff) < ((this.#added - old) & 0xffff)
  }

  interrupts(on: boolean): void {
    this.#memory.data.setUint16(this.driver, on ? 0 : 1, true)
  }

  interruptAfter(count: number): void {
    this.#memory.data.setUint16(this.driver + 4 + 2 * this.size, this.#seen + count - 1, true)
  }
}

export class PackedDriver implements DriverRing {
  readonly #memory: TestMemory
  readonly size: number
  readonly descriptors: number
  readonly driver: number
  readonly device: number
  readonly #slots = new Map<number, number>()
  #next = 0
  #nextWrap = 1
  #seen = 0
  #seenWrap = 1
  #id = 0

  constructor(memory: TestMemory, at: number, size: number) {
    this.#memory = memory
    this.size = size
    this.descriptors = at
    this.driver = at + 16 * size
    this.device = this.driver + 4
    memory.ram.fill(0, at, this.device + 4)
  }

  static bytes(size: number): number {
    return 16 * size + 8
  }

  add(elements: readonly Element[], table?: number): number {
    const id = this.#freeId()
    if (table === undefined) this.offer(elements, id)
    else {
      for (const [i, element] of elements.entries()) {
        writeDescriptor(this.#memory, table + 16 * i, element, 0, 0)
        this.#memory.data.setUint16(table + 16 * i + 14, element.write ? WRITE : 0, true)
        this.#memory.data.setUint16(table + 16 * i + 12, 0, true)
      }
      this.offer([{ at: table, length: 16 * elements.length }], id, INDIRECT)
    }
    return id
  }

  #freeId(): number {
    if (this.#slots.size >= this.size) throw new Error('the test filled its own queue')
    while (this.#slots.has(this.#id)) this.#id = (this.#id + 1) % this.size
    const id = this.#id
    this.#id = (this.#id + 1) % this.size
    return id
  }

  /** Makes a list of descriptors available, the first one last, all with `flags` besides their own. */
  offer(elements: readonly Element[], id: number, flags = 0): void {
    const { data } = this.#memory
    if (elements.length > this.size) throw new Error('the test filled its own queue')
    const first = this.#next
    let firstFlags = 0
    for (const [i, element] of elements.entries()) {
      const at = this.descriptors + 16 * this.#next
      let own = flags | (this.#nextWrap ? AVAIL : USED) | (element.write ? WRITE : 0)
      if (i < elements.length - 1) own |= NEXT
      data.setBigUint64(at, BigInt(element.at), true)
      data.setUint32(at + 8, element.length, true)
      data.setUint16(at + 12, id, true)
      if (i === 0) firstFlags = own
      else data.setUint16(at + 14, own, true)
      if (++this.#next === this.size) {
        this.#next = 0
        this.#nextWrap ^= 1
      }
    }
    data.setUint16(this.descriptors + 16 * first + 14, firstFlags, true)
    this.#slots.set(id, elements.length)
  }

  used(): UsedBuffer[] {
    const { data } = this.#memory
    const found: UsedBuffer[] = []
    for (;;) {
      const at = this.descriptors + 16 * this.#seen
      const flags = data.getUint16(at + 14, true)
      const wrap = this.#seenWrap === 1
      if (((flags & USED) !== 0) !== wrap || ((flags & AVAIL) !== 0) !== wrap) return found
      const id = data.getUint16(at + 12, true)
      // 2.8.5: without the write flag the length says nothing
      found.push({ id, length: flags & WRITE ? data.getUint32(at + 8, true) : 0 })
      this.#seen += this.#slots.get(id) ?? 1
      this.#slots.delete(id)
      if (this.#seen >= this.size) {
        this.#seen -= this.size
        this.#seenWrap ^= 1
      }
    }
  }

  wantsKick(): boolean {
    return (this.#memory.data.getUint16(this.device + 2, true) & 3) !== 1
  }

  interrupts(on: boolean): void {
    this.#memory.data.setUint16(this.driver + 2, on ? 0 : 1, true)
  }

  interruptAfter(count: number): void {
    const { data } = this.#memory
    let entry = this.#seen + count - 1
    let wrap = this.#seenWrap
    if (entry >= this.size) {
      entry -= this.size
      wrap ^= 1
    }
    data.setUint16(this.driver, entry | (wrap << 15), true)
    data.setUint16(this.driver + 2, 2, true)
  }
}
