/** What block86 uses of v86 that v86 does not publish: declared here, checked at run time, named nowhere else. */
import { BlockError } from '../block/error.ts'

/** The public face of an emulator, as far as drives need it; a `V86` of the npm package is one. */
export interface Emulator {
  add_listener(event: 'emulator-ready' | 'emulator-started', listener: () => void): void
  remove_listener(event: 'emulator-ready' | 'emulator-started', listener: () => void): void
  stop(): Promise<void>
  restart(): void
  is_running(): boolean
  get_instruction_counter(): number
  save_state(): Promise<ArrayBuffer>
  restore_state(state: ArrayBuffer): Promise<void>
}

/** One I/O port: handlers are called with `device` as `this`; reads get the port, writes the value. */
export interface PortEntry {
  read8: (this: unknown, port: number) => number
  read16: (this: unknown, port: number) => number
  read32: (this: unknown, port: number) => number
  write8: (this: unknown, value: number) => void
  write16: (this: unknown, value: number) => void
  write32: (this: unknown, value: number) => void
  device: unknown
}

export interface V86Io {
  readonly ports: PortEntry[]
  create_empty_entry(): PortEntry
}

export interface V86Pci {
  /** The address written to port CF8h. */
  readonly pci_addr32: Int32Array
  /** Configuration spaces of bus 0 by device and function. */
  readonly device_spaces: (Int32Array | undefined)[]
  readonly devices: ({ readonly name?: string } | undefined)[]
  readonly isa_bridge_space8: Uint8Array
  pci_write8(address: number, value: number): void
  pci_write16(address: number, value: number): void
  pci_write32(address: number, value: number): void
}

type ReadHandler = (address: number) => number
type WriteHandler = (address: number, value: number) => void

export interface V86Cpu {
  readonly io: V86Io
  readonly devices: { readonly pci: V86Pci; ide: unknown; cdrom: unknown }
  readonly wasm_memory: WebAssembly.Memory
  readonly mem8: Uint8Array
  readonly memory_size: Int32Array
  readonly flags: Int32Array
  readonly cr: Int32Array
  readonly in_hlt: Uint8Array
  readonly acpi_enabled: Uint8Array
  readonly option_roms: { name: string; data: Uint8Array }[]
  /** Handlers of 128 KiB blocks of the address space. */
  readonly memory_map_read8: (ReadHandler | undefined)[]
  readonly memory_map_read32: (ReadHandler | undefined)[]
  readonly memory_map_write8: (WriteHandler | undefined)[]
  readonly memory_map_write32: (WriteHandler | undefined)[]
  main_loop(): number
  run_hardware_timers(acpi: number, now: number): number
  mmap_write16(address: number, value: number): void
  jit_dirty_cache(start: number, end: number): void
  device_raise_irq(line: number): void
  device_lower_irq(line: number): void
  reboot_internal(): void
  get_state(): unknown[]
  set_state(state: unknown[]): void
  stop_idling(): void
}

/** The oldest and the newest v86 that block86 was run with. */
export const TESTED_VERSIONS = ['0.5.120', '0.5.462'] as const

/** Every name above, with the kind of thing that must be found there. */
const NEEDED: readonly (readonly [path: string, kind: 'object' | 'function'])[] = [
  ['io.ports', 'object'],
  ['io.create_empty_entry', 'function'],
  ['devices.pci.pci_addr32', 'object'],
  ['devices.pci.device_spaces', 'object'],
  ['devices.pci.devices', 'object'],
  ['devices.pci.isa_bridge_space8', 'object'],
  ['devices.pci.pci_write8', 'function'],
  ['devices.pci.pci_write16', 'function'],
  ['devices.pci.pci_write32', 'function'],
  ['wasm_memory', 'object'],
  ['mem8', 'object'],
  ['memory_size', 'object'],
  ['flags', 'object'],
  ['cr', 'object'],
  ['in_hlt', 'object'],
  ['acpi_enabled', 'object'],
  ['option_roms', 'object'],
  ['memory_map_read8', 'object'],
  ['memory_map_read32', 'object'],
  ['memory_map_write8', 'object'],
  ['memory_map_write32', 'object'],
  ['main_loop', 'function'],
  ['run_hardware_timers', 'function'],
  ['mmap_write16', 'function'],
  ['jit_dirty_cache', 'function'],
  ['device_raise_irq', 'function'],
  ['device_lower_irq', 'function'],
  ['reboot_internal', 'function'],
  ['get_state', 'function'],
  ['set_state', 'function'],
  ['stop_idling', 'function'],
]

/** A member of anything that may have one. */
export function member(object: unknown, name: string): unknown {
  return typeof object === 'object' && object !== null ? Reflect.get(object, name) : undefined
}

/** The emulator's CPU, or undefined before its devices exist. */
export function cpuOf(emulator: Emulator): V86Cpu | undefined {
  const cpu = member(member(emulator, 'v86'), 'cpu')
  if (member(member(cpu, 'devices'), 'pci') === undefined) return undefined
  for (const [path, kind] of NEEDED) {
    const found = path.split('.').reduce<unknown>(member, cpu)
    if (typeof found !== kind || found === null) {
      const [oldest, newest] = TESTED_VERSIONS
      throw new BlockError(
        'ENOTSUP',
        `Cannot attach drives: this v86 has no cpu.${path}; use the npm package v86 from ${oldest} to ${newest}`,
      )
    }
  }
  return cpu as V86Cpu
}
