/** Memory windows in v86's table of 128 KiB blocks. */
import type { Window } from '../devices/machine.ts'
import type { V86Cpu } from './internals.ts'
import type { WindowEvents } from './ports.ts'

const BLOCK_SHIFT = 17
/** The I/O APIC's page; from here up to 4 GiB is the chipset's and the firmware's. */
const CHIPSET = 0xfec00000

type Read = (address: number) => number
type Write = (address: number, value: number) => void

interface Range {
  readonly window: Window
  readonly base: number
  readonly end: number
}

interface Handlers {
  readonly read8: Read
  readonly read32: Read
  readonly write8: Write
  readonly write32: Write
}

/** Lays windows over the address space; several, and v86's own devices, may share a block. Addresses come as signed numbers. */
export class Mmio {
  readonly #cpu: V86Cpu
  readonly #events: WindowEvents
  readonly #ranges: Range[] = []
  /** What each block in which a range lies held before. */
  readonly #beneath = new Map<number, Handlers>()
  readonly #handlers: Handlers
  /** The range that was touched last. */
  #recent: Range = NOWHERE

  constructor(cpu: V86Cpu, events: WindowEvents) {
    this.#cpu = cpu
    this.#events = events
    this.#handlers = {
      read8: (address) => this.#read(address >>> 0, 1) & 0xff,
      read32: (address) => this.#read(address >>> 0, 4) | 0,
      write8: (address, value) => this.#write(address >>> 0, 1, value & 0xff),
      write32: (address, value) => this.#write(address >>> 0, 4, value >>> 0),
    }
    // v86 makes two byte writes of a 16-bit one, and a register must not see half a value.
    const write16 = cpu.mmap_write16.bind(cpu)
    cpu.mmap_write16 = (address, value) => {
      if (this.#find(address >>> 0, 2) === undefined) write16(address, value)
      else this.#write(address >>> 0, 2, value & 0xffff)
    }
  }

  /** Lays `window` over the addresses from `base`; over RAM, or over the chipset's part, it is not laid. */
  lay(window: Window, base: number): void {
    const end = base + window.size
    if (base < this.#cpu.memory_size[0]! || end > CHIPSET) return
    this.#ranges.push({ window, base, end })
    for (let block = base >>> BLOCK_SHIFT; block <= (end - 1) >>> BLOCK_SHIFT; block++) this.#take(block)
  }

  /** Takes `window` off. */
  lift(window: Window): void {
    const index = this.#ranges.findIndex((range) => range.window === window)
    if (index < 0) return
    this.#ranges.splice(index, 1)
    this.#recent = NOWHERE
    for (const block of [...this.#beneath.keys()]) if (!this.#used(block)) this.#release(block)
  }

  #used(block: number): boolean {
    return this.#ranges.some(({ base, end }) => base >>> BLOCK_SHIFT <= block && block <= (end - 1) >>> BLOCK_SHIFT)
  }

  #take(block: number): void {
    if (this.#beneath.has(block)) return
    const { memory_map_read8, memory_map_read32, memory_map_write8, memory_map_write32 } = this.#cpu
    this.#beneath.set(block, {
      read8: memory_map_read8[block]!,
      read32: memory_map_read32[block]!,
      write8: memory_map_write8[block]!,
      write32: memory_map_write32[block]!,
    })
    this.#set(block, this.#handlers)
  }

  #release(block: number): void {
    this.#set(block, this.#beneath.get(block)!)
    this.#beneath.delete(block)
  }

  #set(block: number, handlers: Handlers): void {
    this.#cpu.memory_map_read8[block] = handlers.read8
    this.#cpu.memory_map_read32[block] = handlers.read32
    this.#cpu.memory_map_write8[block] = handlers.write8
    this.#cpu.memory_map_write32[block] = handlers.write32
  }

  /** The range, laid last, that holds all of the access. */
  #find(address: number, width: number): Range | undefined {
    const recent = this.#recent
    if (address >= recent.base && address + width <= recent.end) return recent
    for (let i = this.#ranges.length - 1; i >= 0; i--) {
      const range = this.#ranges[i]!
      if (address >= range.base && address + width <= range.end) return (this.#recent = range)
    }
    return undefined
  }

  #read(address: number, width: number): number {
    const range = this.#find(address, width)
    if (range === undefined) return this.#readBeneath(address, width)
    try {
      return range.window.read(address - range.base, width)
    } catch (error) {
      this.#events.failed(error)
      return 0xffffffff
    }
  }

  #write(address: number, width: number, value: number): void {
    const range = this.#find(address, width)
    if (range === undefined) {
      this.#writeBeneath(address, width, value)
      return
    }
    try {
      range.window.write(address - range.base, width, value)
      if (!this.#events.slices.paging) this.#events.wrote()
    } catch (error) {
      this.#events.failed(error)
    }
  }

  #readBeneath(address: number, width: number): number {
    const handlers = this.#beneath.get(address >>> BLOCK_SHIFT)!
    return width === 1 ? handlers.read8(address | 0) : handlers.read32(address | 0)
  }

  #writeBeneath(address: number, width: number, value: number): void {
    const handlers = this.#beneath.get(address >>> BLOCK_SHIFT)!
    if (width === 1) handlers.write8(address | 0, value)
    else handlers.write32(address | 0, value | 0)
  }
}

const NOWHERE: Range = {
  window: { space: 'mem', size: 0, read: () => 0, write: () => {} },
  base: -1,
  end: -1,
}
