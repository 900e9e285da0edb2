/** PCI configuration space from a declaration (PCI Local Bus 3.0, chapter 6): identity, BARs, capabilities, write masks. */

export interface PciCapability {
  /** Capability ID, e.g. 0x09 vendor-specific. */
  readonly id: number
  /** The bytes after ID and next pointer. */
  readonly bytes: Uint8Array
  /** Bits of `bytes` that the guest may write; default none. */
  readonly writable?: Uint8Array
}

export interface PciBar {
  readonly index: number
  readonly space: 'io' | 'mem'
  readonly size: number
}

export interface PciDeclaration {
  readonly vendorId: number
  readonly deviceId: number
  readonly subsystemVendorId?: number
  readonly subsystemId?: number
  readonly revision?: number
  /** Class, subclass and programming interface, 24 bits: 0x010000 is a SCSI controller. */
  readonly classCode: number
  /** 1 for INTA#, 0 for none. */
  readonly interruptPin?: number
  readonly bars?: readonly PciBar[]
  readonly capabilities?: readonly PciCapability[]
  /** More registers with fixed or initial values: offset, bytes and the bits that the guest may write. */
  readonly registers?: readonly { readonly at: number; readonly bytes: Uint8Array; readonly writable?: Uint8Array }[]
  /** Bits of the command register that the guest may set; default I/O, memory, bus master, SERR#, INTx disable. */
  readonly commandMask?: number
}

/** Command register, 6.2.2. */
export const COMMAND = 0x04
export const COMMAND_IO = 1 << 0
export const COMMAND_MEMORY = 1 << 1
export const COMMAND_MASTER = 1 << 2
export const COMMAND_INTX_DISABLE = 1 << 10
/** Status register, 6.2.3. */
export const STATUS = 0x06
export const STATUS_INTX = 1 << 3
export const STATUS_CAPABILITIES = 1 << 4
const STATUS_W1C = 0xf900
export const BAR0 = 0x10
const CAPABILITY_POINTER = 0x34
export const INTERRUPT_LINE = 0x3c
export const INTERRUPT_PIN = 0x3d

/** One function's 256 bytes, with the rights of 6.1: read-only fields stay, BARs size themselves, status bits clear by 1. */
export class PciConfig {
  readonly bytes = new Uint8Array(256)
  readonly bars: readonly PciBar[]
  /** Offsets of the declared capabilities, in their order. */
  readonly capabilityOffsets: readonly number[]
  /** Called after a write changed a BAR or the command register. */
  onMap: () => void = () => {}
  /** Called before a read of `width` bytes at `offset`, for registers that are computed. */
  beforeRead: (offset: number, width: number) => void = () => {}
  /** Called after a write to `width` bytes at `offset`. */
  afterWrite: (offset: number, width: number) => void = () => {}
  readonly #writable = new Uint8Array(256)
  readonly #initial: Uint8Array
  readonly #view = new DataView(this.bytes.buffer)

  constructor(declaration: PciDeclaration) {
    const { bytes } = this
    const view = this.#view
    const writable = new DataView(this.#writable.buffer)
    view.setUint16(0x00, declaration.vendorId, true)
    view.setUint16(0x02, declaration.deviceId, true)
    writable.setUint16(COMMAND, declaration.commandMask ?? 0x0507, true)
    bytes[0x08] = declaration.revision ?? 0
    bytes[0x09] = declaration.classCode & 0xff
    view.setUint16(0x0a, declaration.classCode >>> 8, true)
    this.#writable[0x0c] = 0xff
    this.#writable[0x0d] = 0xff
    view.setUint16(0x2c, declaration.subsystemVendorId ?? declaration.vendorId, true)
    view.setUint16(0x2e, declaration.subsystemId ?? declaration.deviceId, true)
    this.#writable[INTERRUPT_LINE] = 0xff
    bytes[INTERRUPT_PIN] = declaration.interruptPin ?? 0
    this.bars = declaration.bars ?? []
    for (const bar of this.bars) {
      const smallest = bar.space === 'io' ? 4 : 16
      if (bar.size < smallest || (bar.size & (bar.size - 1)) !== 0)
        throw new RangeError(`BAR ${bar.index} of ${bar.size} bytes`)
      view.setUint32(BAR0 + 4 * bar.index, bar.space === 'io' ? 1 : 0, true)
      writable.setUint32(BAR0 + 4 * bar.index, ~(bar.size - 1), true)
    }
    for (const register of declaration.registers ?? []) {
      bytes.set(register.bytes, register.at)
      if (register.writable) this.#writable.set(register.writable, register.at)
    }
    this.capabilityOffsets = this.#place(declaration.capabilities ?? [])
    this.#initial = bytes.slice()
  }

  #place(capabilities: readonly PciCapability[]): number[] {
    const offsets: number[] = []
    let link = CAPABILITY_POINTER
    let at = 0x40
    for (const { id, bytes, writable } of capabilities) {
      if (at + 2 + bytes.length > 256) throw new RangeError('the capabilities pass 256 bytes')
      this.bytes[link] = at
      this.bytes[at] = id
      this.bytes.set(bytes, at + 2)
      if (writable) this.#writable.set(writable, at + 2)
      offsets.push(at)
      link = at + 1
      at = (at + 2 + bytes.length + 3) & ~3
    }
    if (offsets.length > 0) this.bytes[STATUS] = this.bytes[STATUS]! | STATUS_CAPABILITIES
    return offsets
  }

  get command(): number {
    return this.#view.getUint16(COMMAND, true)
  }

  /** Whether the guest allows the function to read and write memory on its own. */
  get busMaster(): boolean {
    return (this.command & COMMAND_MASTER) !== 0
  }

  /** Address that BAR `index` is set to, with the type bits off; 0 if it was never set. */
  barAddress(index: number): number {
    const value = this.#view.getUint32(BAR0 + 4 * index, true)
    return (value & 1 ? value & ~3 : value & ~15) >>> 0
  }

  /** Sets a BAR as firmware would. */
  setBar(index: number, address: number): void {
    const at = BAR0 + 4 * index
    this.#view.setUint32(at, (address | (this.#view.getUint32(at, true) & 1)) >>> 0, true)
  }

  /** Whether the command register lets BARs of this kind answer. */
  decodes(space: 'io' | 'mem'): boolean {
    return (this.command & (space === 'io' ? COMMAND_IO : COMMAND_MEMORY)) !== 0
  }

  /** Sets or clears the interrupt status bit. */
  setInterruptStatus(asserted: boolean): void {
    this.bytes[STATUS] = asserted ? this.bytes[STATUS]! | STATUS_INTX : this.bytes[STATUS]! & ~STATUS_INTX
  }

  /** Reads 1, 2 or 4 bytes, unsigned. */
  read(offset: number, width: number): number {
    this.beforeRead(offset, width)
    let value = 0
    for (let i = width - 1; i >= 0; i--) value = value * 256 + (this.bytes[(offset + i) & 0xff] ?? 0)
    return value
  }

  /** Writes 1, 2 or 4 bytes, as far as the function's registers let it. */
  write(offset: number, width: number, value: number): void {
    let mapped = false
    for (let i = 0; i < width; i++) {
      const at = (offset + i) & 0xff
      const byte = (value >>> (8 * i)) & 0xff
      const old = this.bytes[at]!
      const mask = this.#writable[at]!
      let now = (old & ~mask) | (byte & mask)
      if (at === STATUS + 1) now = old & ~(byte & (STATUS_W1C >>> 8))
      this.bytes[at] = now
      if (now !== old && (at === COMMAND || at === COMMAND + 1 || (at >= BAR0 && at < 0x28))) mapped = true
    }
    if (mapped) this.onMap()
    this.afterWrite(offset, width)
  }

  /** Power-on values; the BARs keep what firmware gave them only if `keepBars`. */
  reset(keepBars = false): void {
    const bars = this.bytes.slice(BAR0, 0x28)
    this.bytes.set(this.#initial)
    if (keepBars) this.bytes.set(bars, BAR0)
    this.onMap()
  }

  save(): Uint8Array {
    return this.bytes.slice()
  }

  restore(saved: Uint8Array): void {
    if (saved.length !== 256) throw new RangeError('a configuration space has 256 bytes')
    this.bytes.set(saved)
    this.onMap()
  }
}
