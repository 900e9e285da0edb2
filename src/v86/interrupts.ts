/** Interrupt lines shared, wired-OR, between block86's functions and v86's own devices. */
import type { V86Cpu } from './internals.ts'
import type { Slices } from './slices.ts'

const LINES = 16
const FLAG_INTERRUPT = 1 << 9

/** PIRQ route control registers of the PIIX3 [82371SB, 2.2.9]: low four bits the line, bit 7 set when not routed. */
const PIRQRC = 0x60
const PIRQ_PINS = 4
const PIRQ_DISABLED = 1 << 7

/** Lines that a PIRQ may be routed to; the others are the timer's, the keyboard's and the like. */
const ROUTABLE = 0b1101_1110_1111_1000

/** One wire into the arbiter: high or low, and the line it leads to. */
class Wire {
  asserted = false
  /** The line it holds high, or -1. */
  holds = -1
  /** The line it leads to now, or -1. */
  readonly line: () => number

  constructor(line: () => number) {
    this.line = line
  }
}

/**
 * Keeps a line high as long as anyone holds it. v86 itself lets the last word count, so its devices' calls are watched.
 *
 * A line that changes while the guest executes must not be delivered there: in the middle of a memory access or of a string
 * instruction v86 has the registers elsewhere. It is delivered when that is over, or when the guest sets its interrupt flag.
 */
export class Interrupts {
  readonly #cpu: V86Cpu
  readonly #pirq: Uint8Array
  readonly #raise: (line: number) => void
  readonly #lower: (line: number) => void
  readonly #wires: Wire[] = []
  readonly #ours = new Uint16Array(LINES)
  readonly #theirs = new Uint8Array(LINES)
  readonly #flagsAt: number
  #flags: Int32Array
  readonly #slices: Slices

  constructor(cpu: V86Cpu, slices: Slices) {
    this.#cpu = cpu
    this.#slices = slices
    this.#pirq = cpu.devices.pci.isa_bridge_space8
    this.#raise = cpu.device_raise_irq.bind(cpu)
    this.#lower = cpu.device_lower_irq.bind(cpu)
    this.#flagsAt = cpu.flags.byteOffset
    this.#flags = new Int32Array(cpu.wasm_memory.buffer, this.#flagsAt, 1)
    cpu.device_raise_irq = (line) => {
      if (line < LINES) this.#theirs[line] = 1
      this.#raise(line)
    }
    cpu.device_lower_irq = (line) => {
      if (line < LINES) this.#theirs[line] = 0
      if (!this.#ours[line]) this.#lower(line)
    }
  }

  /** A wire from the interrupt pin (1 is INTA#) of the function in `slot` of bus 0, routed as the ISA bridge says. */
  intx(slot: number, pin: () => number): (asserted: boolean) => void {
    return this.#wire(() => (pin() === 0 ? -1 : this.#route((slot - 1 + pin() - 1) % PIRQ_PINS)))
  }

  /** A wire straight to a line. */
  legacy(): (line: number, asserted: boolean) => void {
    const wires = new Map<number, (asserted: boolean) => void>()
    return (line, asserted) => {
      let wire = wires.get(line)
      if (wire === undefined) wires.set(line, (wire = this.#wire(() => (line < LINES ? line : -1))))
      wire(asserted)
    }
  }

  /** Moves what is asserted to where it leads now, after a route register was written. */
  rerouted(): void {
    for (const wire of this.#wires) this.#hold(wire)
  }

  /** Lets go of everything that block86 holds. */
  release(): void {
    for (const wire of this.#wires) {
      wire.asserted = false
      this.#hold(wire)
    }
  }

  /** Lines that v86's own devices hold. */
  save(): Uint8Array {
    return this.#theirs.slice()
  }

  /** Takes up saved lines; which of them are high is v86's own interrupt controller's state. */
  restore(theirs: Uint8Array): void {
    if (theirs.length !== LINES) throw new RangeError(`a saved state has ${theirs.length} interrupt lines`)
    this.#theirs.set(theirs)
  }

  #wire(line: () => number): (asserted: boolean) => void {
    const wire = new Wire(line)
    this.#wires.push(wire)
    return (asserted) => {
      if (asserted === wire.asserted) return
      wire.asserted = asserted
      this.#hold(wire)
    }
  }

  #hold(wire: Wire): void {
    const line = wire.asserted ? wire.line() : -1
    const before = wire.holds
    if (line === before) return
    wire.holds = line
    if (line >= 0 && this.#ours[line]!++ === 0) this.#drive(this.#raise, line)
    if (before >= 0 && --this.#ours[before]! === 0 && !this.#theirs[before]) this.#drive(this.#lower, before)
  }

  #route(pirq: number): number {
    const value = this.#pirq[PIRQRC + pirq]!
    const line = value & 15
    return (value & PIRQ_DISABLED) === 0 && (ROUTABLE >> line) & 1 ? line : -1
  }

  #drive(set: (line: number) => void, line: number): void {
    if (!this.#slices.executing) {
      set(line)
      return
    }
    if (this.#flags.length === 0) this.#flags = new Int32Array(this.#cpu.wasm_memory.buffer, this.#flagsAt, 1)
    const flags = this.#flags[0]!
    this.#flags[0] = flags & ~FLAG_INTERRUPT
    set(line)
    this.#flags[0] = flags
    // Otherwise a driver with interrupts on goes to sleep before it hears that its request is done already.
    if (set === this.#raise && (flags & FLAG_INTERRUPT) !== 0) this.#slices.interrupt()
  }
}
