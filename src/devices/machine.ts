/** The narrow contract between a device and any emulator: memory, time, interrupts, and what the device answers to. */
import type { PciConfig } from './pci.ts'

/** The guest's RAM, by physical address. */
export interface GuestMemory {
  /** All of RAM, from address 0; get it anew after every call that may let the emulator run, for the memory may move. */
  readonly ram: Uint8Array
  /** The same as a DataView. */
  readonly data: DataView
  /** Whether `length` bytes at `at` are all RAM: not a device's registers, not past the end. Any number may be asked. */
  contains(at: number, length: number): boolean
  /** Says that RAM was written by a device, so that translated code of it is dropped. */
  dirty(at: number, length: number): void
}

export interface Clock {
  /** Time since some start, ms; monotonic. */
  now(): number
  /** Calls `callback` after `ms`; returns what cancels it. */
  after(ms: number, callback: () => void): () => void
  /** Calls `callback` soon, when the guest has had its turn. */
  defer(callback: () => void): void
}

/** What one device is plugged into; every device gets its own. Nothing here throws. */
export interface Bus {
  readonly memory: GuestMemory
  readonly clock: Clock
  /** Sets the device's INTx# pin; the bus does the sharing of lines and the masking by the command register. */
  intx(asserted: boolean): void
  /** Sets a legacy interrupt line, such as 14 of a compatibility-mode IDE channel. */
  irq(line: number, asserted: boolean): void
}

/**
 * Data on their way through a register. The bus may move 2 or 4 bytes of them itself, adding to `at`: string instructions move them word
 * by word, and calling the device for each costs more than the word. The access that reaches the end is left to the device.
 */
export interface PassingData {
  readonly view: DataView
  /** Next byte. */
  at: number
  /** End of what the guest reads; 0 if it does not. */
  readonly inEnd: number
  /** End of what the guest writes; 0 if it does not. */
  readonly outEnd: number
}

/** A register that data pass through. */
export interface Stream {
  /** What passes at present. */
  readonly data: PassingData
  /** Called when {@link data} is another; the bus sets it. */
  onSwitch: () => void
}

/** A range of registers: behind BAR `bar`, or at the fixed legacy `port`. */
export interface Window {
  readonly space: 'io' | 'mem'
  /** Bytes; behind a BAR, a power of two, at least 4 (io) or 16 (mem). */
  readonly size: number
  readonly bar?: number
  readonly port?: number
  /** Of the register at offset 0, if data pass through it. */
  readonly stream?: Stream
  /** Reads 1, 2 or 4 bytes at `offset`, unsigned. */
  read(offset: number, width: number): number
  /** Writes 1, 2 or 4 bytes, unsigned. */
  write(offset: number, width: number, value: number): void
}

/** What a device's state is made of when it is saved. */
export type Saved = null | boolean | number | string | Uint8Array | readonly Saved[] | { readonly [key: string]: Saved }

/** A PCI function. No method of it throws, whatever the guest does. */
export interface PciDevice {
  readonly name: string
  readonly config: PciConfig
  readonly windows: readonly Window[]
  /** Power-on state, as after RST#. Requests under way are canceled; completes when no memory of the guest is touched any more. */
  reset(): void | Promise<void>
  /** Completes when no request is with the host. */
  drain(): void | Promise<void>
  /** The guest-visible state. Requests that are still under way are part of it and are issued again by {@link restore}. */
  save(): Saved
  /** Takes up a saved state; throws, with the device reset, if it is not one. RAM may not be touched before the bus runs again. */
  restore(state: Saved): void
}

/** Makes a device for the slot that it is plugged into. */
export type PciFactory = (bus: Bus) => PciDevice
