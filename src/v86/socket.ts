/** The place of one PCI function: the bus that it sees, and its windows as they lie in the machine. */
import { nextTurn } from '../block/turn.ts'
import type { Bus, Clock, GuestMemory, PciDevice, PciFactory, Window } from '../devices/machine.ts'
import { INTERRUPT_PIN } from '../devices/pci.ts'
import type { Interrupts } from './interrupts.ts'
import { interruptsEnabled } from './pci.ts'

const LINES = 16

/** Where windows of one kind are laid. */
export interface Space {
  lay(window: Window, base: number): void
  lift(window: Window): void
}

/** A device at `bdf` (slot * 8 + function) of bus 0. */
export class Socket {
  readonly bdf: number
  readonly device: PciDevice
  readonly #spaces: { readonly io: Space; readonly mem: Space }
  readonly #wire: (asserted: boolean) => void
  readonly #legacy: (line: number, asserted: boolean) => void
  readonly #laid = new Map<Window, number>()
  /** Level of the interrupt pin, before the command register. */
  #pin = false
  /** Legacy lines that the device holds, one bit each. */
  #lines = 0

  constructor(
    make: PciFactory,
    bdf: number,
    memory: GuestMemory,
    interrupts: Interrupts,
    spaces: { readonly io: Space; readonly mem: Space },
  ) {
    this.bdf = bdf
    this.#spaces = spaces
    this.#wire = interrupts.intx(bdf >> 3, () => this.device.config.bytes[INTERRUPT_PIN]!)
    this.#legacy = interrupts.legacy()
    const bus: Bus = {
      memory,
      clock,
      intx: (asserted) => this.#setPin(asserted),
      irq: (line, asserted) => this.#setLine(line, asserted),
    }
    this.device = make(bus)
  }

  /** Power-on state of the device; completes when it touches guest memory no more. */
  reset(): void | Promise<void> {
    const wait = this.device.reset()
    this.#setPin(false)
    for (let line = 0; line < LINES; line++) this.#setLine(line, false)
    return wait
  }

  /** Lays the windows where the configuration space says, and connects the pin if it says so. */
  remap(): void {
    const { config, windows } = this.device
    for (const window of windows) {
      const base = config.decodes(window.space) ? baseOf(this.device, window) : 0
      if ((this.#laid.get(window) ?? 0) === base) continue
      const space = this.#spaces[window.space]
      space.lift(window)
      this.#laid.set(window, base)
      if (base !== 0) space.lay(window, base)
    }
    this.#setPin(this.#pin)
  }

  /** The interrupts that the device asserts: the pin in bit 16, legacy lines below. */
  get asserted(): number {
    return (this.#pin ? 1 << LINES : 0) | this.#lines
  }

  set asserted(levels: number) {
    this.#setPin(((levels >> LINES) & 1) === 1)
    for (let line = 0; line < LINES; line++) this.#setLine(line, ((levels >> line) & 1) === 1)
  }

  #setPin(asserted: boolean): void {
    this.#pin = asserted
    // A device may speak up before its constructor has ended.
    const config = (this.device as PciDevice | undefined)?.config
    if (config === undefined) return
    config.setInterruptStatus(asserted)
    this.#wire(asserted && interruptsEnabled(config))
  }

  #setLine(line: number, asserted: boolean): void {
    this.#lines = asserted ? this.#lines | (1 << line) : this.#lines & ~(1 << line)
    this.#legacy(line, asserted)
  }
}

function baseOf(device: PciDevice, window: Window): number {
  return window.port ?? (window.bar === undefined ? 0 : device.config.barAddress(window.bar))
}

const clock: Clock = {
  now: () => performance.now(),
  after: (ms, callback) => {
    const timer = setTimeout(callback, ms)
    return () => clearTimeout(timer)
  },
  defer: nextTurn,
}
