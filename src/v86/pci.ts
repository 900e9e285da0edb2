/** Bus 0 of v86 with functions of our own: configuration cycles, and the slots that are free. */
import { COMMAND_INTX_DISABLE, type PciConfig } from '../devices/pci.ts'
import type { PortEntry, V86Cpu, V86Pci } from './internals.ts'

const CONFIG_DATA = 0xcfc
const BAR_FIRST = 0x10
const BAR_LAST = 0x27
const HEADER_TYPE = 0x0e
const MULTI_FUNCTION = 0x80
/** The PIIX3's ISA bridge at 00:01.0 and its interrupt routing [82371SB, 2.2.9]. */
const ISA_BRIDGE = 1 << 3
const PIRQRC_FIRST = 0x60
const PIRQRC_LAST = 0x63
const SLOTS = 32
const FUNCTIONS = 8

export interface PciBusEvents {
  /** v86 may have moved the ports of a device of its own. */
  onForeignBar(): void
  /** The ISA bridge routes an interrupt pin elsewhere. */
  onRoute(): void
}

/**
 * Takes the configuration cycles of our functions before v86 sees them: it knows no read-only bits, drops writes to the
 * command register and cannot move memory BARs. A write to a function that is absent, which v86 does not survive, is ignored.
 */
export class PciBus {
  readonly #pci: V86Pci
  readonly #functions: (PciConfig | undefined)[] = []
  readonly #failed: (error: unknown) => void

  constructor(cpu: V86Cpu, events: PciBusEvents, failed: (error: unknown) => void) {
    const pci = (this.#pci = cpu.devices.pci)
    this.#failed = failed
    const write = (width: number, original: (address: number, value: number) => void) => {
      return (address: number, value: number) => {
        const bdf = (address >>> 8) & 0xffff
        const config = this.#functions[bdf]
        if (config !== undefined) {
          this.#write(config, address & 0xff, width, value)
          return
        }
        if (pci.device_spaces[bdf] === undefined) return
        original.call(pci, address, value)
        const first = address & 0xff
        if (first <= BAR_LAST && first + width > BAR_FIRST) events.onForeignBar()
        if (bdf === ISA_BRIDGE && first <= PIRQRC_LAST && first + width > PIRQRC_FIRST) events.onRoute()
      }
    }
    pci.pci_write8 = write(1, pci.pci_write8)
    pci.pci_write16 = write(2, pci.pci_write16)
    pci.pci_write32 = write(4, pci.pci_write32)
    for (let byte = 0; byte < 4; byte++) this.#watchReads(cpu.io.ports[CONFIG_DATA + byte]!, byte)
  }

  /** v86 answers from what the register held when its address was written; ours are read when they are read. */
  #watchReads(entry: PortEntry, byte: number): void {
    const { read8, read16, read32, device } = entry
    entry.read8 = (port) => this.#read(byte, 1) ?? read8.call(device, port)
    entry.read16 = (port) => this.#read(byte, 2) ?? read16.call(device, port)
    entry.read32 = (port) => {
      const value = this.#read(byte, 4)
      return value === undefined ? read32.call(device, port) : value | 0
    }
  }

  #read(byte: number, width: number): number | undefined {
    const address = this.#pci.pci_addr32[0]!
    const config = this.#functions[(address >>> 8) & 0xffff]
    // Bit 31 lets configuration cycles happen at all [PCI 3.0, 3.2.2.3.2].
    if (config === undefined || address >= 0) return undefined
    if (byte + width > 4) return width === 1 ? 0xff : width === 2 ? 0xffff : 0xffffffff
    try {
      return config.read((address & 0xfc) + byte, width)
    } catch (error) {
      this.#failed(error)
      return undefined
    }
  }

  #write(config: PciConfig, offset: number, width: number, value: number): void {
    try {
      config.write(offset, width, value >>> 0)
    } catch (error) {
      this.#failed(error)
    }
  }

  /** Whether nothing answers in `slot`. */
  isFree(slot: number): boolean {
    for (let bdf = slot * FUNCTIONS; bdf < (slot + 1) * FUNCTIONS; bdf++) {
      if (this.#pci.devices[bdf] !== undefined) return false
    }
    return true
  }

  /** Slots in which nothing answers, ascending. */
  freeSlots(): number[] {
    return Array.from({ length: SLOTS }, (_, slot) => slot).filter((slot) => slot > 0 && this.isFree(slot))
  }

  /** What answers as the function `bdf`, if anything does. */
  nameAt(bdf: number): string | undefined {
    const device = this.#pci.devices[bdf]
    return device === undefined ? undefined : (device.name ?? 'a device of v86')
  }

  /** Makes `config` answer as the function `bdf`. */
  add(bdf: number, name: string, config: PciConfig): void {
    this.#functions[bdf] = config
    const { bytes } = config
    // The same memory, so that v86's own look at it, its presence check included, stays true.
    this.#pci.device_spaces[bdf] = new Int32Array(bytes.buffer, bytes.byteOffset, 64)
    const entry = { name, pci_id: bdf, pci_space: bytes, pci_bars: [] }
    this.#pci.devices[bdf] = entry
  }

  /** Makes v86's function `bdf` absent. */
  remove(bdf: number): void {
    this.#pci.devices[bdf] = undefined
    this.#pci.device_spaces[bdf] = undefined
  }

  /** Says in function 0's header that its slot holds more functions [PCI 3.0, 6.2.1]. */
  markMultiFunction(config: PciConfig): void {
    config.bytes[HEADER_TYPE] = config.bytes[HEADER_TYPE]! | MULTI_FUNCTION
  }
}

/** Whether the function's interrupt pin is connected [PCI 3.0, 6.2.2, bit 10]. */
export function interruptsEnabled(config: PciConfig): boolean {
  return (config.command & COMMAND_INTX_DISABLE) === 0
}
