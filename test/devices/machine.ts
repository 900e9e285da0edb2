/** A machine made of plain arrays: what the tests of every device plug it into, and play the guest on. */
import type { Bus, Clock, GuestMemory, PciDevice, PciFactory, Window } from '../../src/devices/machine.ts'

/** Time that stands still until the test moves it. */
export class TestClock implements Clock {
  #now = 0
  #deferred: (() => void)[] = []
  readonly #timers = new Set<{ at: number; callback: () => void }>()

  now(): number {
    return this.#now
  }

  after(ms: number, callback: () => void): () => void {
    const timer = { at: this.#now + ms, callback }
    this.#timers.add(timer)
    return () => this.#timers.delete(timer)
  }

  defer(callback: () => void): void {
    this.#deferred.push(callback)
  }

  /** Callbacks that wait for their turn. */
  get deferred(): number {
    return this.#deferred.length
  }

  /** Timers that are set. */
  get timers(): number {
    return this.#timers.size
  }

  /** Runs what was deferred, once; what that defers in turn waits for the next call. */
  turn(): void {
    const callbacks = this.#deferred
    this.#deferred = []
    for (const callback of callbacks) callback()
  }

  /** Lets `ms` pass, running timers in their order and, before and after each, what was deferred. */
  advance(ms: number): void {
    const end = this.#now + ms
    for (;;) {
      this.turn()
      let next: { at: number; callback: () => void } | undefined
      for (const timer of this.#timers) if (timer.at <= end && (next === undefined || timer.at < next.at)) next = timer
      if (next === undefined) break
      this.#timers.delete(next)
      this.#now = Math.max(this.#now, next.at)
      next.callback()
    }
    this.#now = end
  }
}

const VGA = 0xa0000
const VGA_END = 0xc0000

/** RAM from address 0 with the hole of the VGA at A0000h, as on a PC. */
export class TestMemory implements GuestMemory {
  ram: Uint8Array
  data: DataView
  /** Every call of `dirty`, oldest first. */
  readonly dirtied: { at: number; length: number }[] = []

  constructor(size: number) {
    this.ram = new Uint8Array(size)
    this.data = new DataView(this.ram.buffer)
  }

  contains(at: number, length: number): boolean {
    if (!(at >= 0) || !(length >= 0) || !(at + length <= this.ram.length)) return false
    return at + length <= VGA || at >= VGA_END || length === 0
  }

  dirty(at: number, length: number): void {
    this.dirtied.push({ at, length })
  }

  /** Moves RAM to another buffer, as growing WebAssembly memory does: every view made before is empty from now on. */
  move(): void {
    const buffer = structuredClone(this.ram.buffer, { transfer: [this.ram.buffer] })
    this.ram = new Uint8Array(buffer)
    this.data = new DataView(buffer)
  }

  /** Whether `length` bytes at `at` were all said to be dirty. */
  isDirty(at: number, length: number): boolean {
    for (let i = at; i < at + length; i++) {
      if (!this.dirtied.some((range) => i >= range.at && i < range.at + range.length)) return false
    }
    return true
  }
}

/** A bus that remembers what the device did to it. */
export class TestBus implements Bus {
  readonly memory: TestMemory
  readonly clock = new TestClock()
  /** Levels given to INTx#, repetitions included. */
  readonly intxLog: boolean[] = []
  /** Level of INTx#. */
  intxLevel = false
  /** Times that INTx# went from low to high. */
  intxEdges = 0
  /** Levels given to legacy interrupt lines, repetitions included. */
  readonly irqLog: { line: number; asserted: boolean }[] = []
  readonly #irqs = new Map<number, { level: boolean; edges: number }>()
  /** Called at every change of a pin; `line` is undefined for INTx#. */
  onInterrupt: (asserted: boolean, line?: number) => void = () => {}

  constructor(ramSize: number) {
    this.memory = new TestMemory(ramSize)
  }

  intx(asserted: boolean): void {
    this.intxLog.push(asserted)
    if (asserted === this.intxLevel) return
    this.intxLevel = asserted
    if (asserted) this.intxEdges++
    this.onInterrupt(asserted)
  }

  irq(line: number, asserted: boolean): void {
    this.irqLog.push({ line, asserted })
    const state = this.#irqs.get(line) ?? { level: false, edges: 0 }
    this.#irqs.set(line, state)
    if (asserted === state.level) return
    state.level = asserted
    if (asserted) state.edges++
    this.onInterrupt(asserted, line)
  }

  /** Level of a legacy interrupt line. */
  irqLevel(line: number): boolean {
    return this.#irqs.get(line)?.level ?? false
  }

  /** Times that a legacy interrupt line went from low to high. */
  irqEdges(line: number): number {
    return this.#irqs.get(line)?.edges ?? 0
  }
}

/** A bus with RAM of `ramSize` bytes (default 2 MiB), time under the test's control, and a log of interrupts. */
export function testBus({ ramSize = 2 << 20 }: { ramSize?: number } = {}): TestBus {
  return new TestBus(ramSize)
}

/** A device in its slot, with the guest's IN, OUT and MOV; BAR n stands at {@link Slot.base}(n) from the start. */
export class Slot<Device extends PciDevice = PciDevice> {
  readonly bus: TestBus
  readonly device: Device

  constructor(bus: TestBus, device: Device) {
    this.bus = bus
    this.device = device
    for (const bar of device.config.bars) device.config.setBar(bar.index, this.base(bar.index))
    device.config.write(0x04, 2, 0x0007)
  }

  /** Where the test's firmware puts BAR `index`. */
  base(index: number): number {
    const bar = this.device.config.bars.find((candidate) => candidate.index === index)
    return bar?.space === 'mem' ? 0xfd000000 + 0x100000 * index : 0x6000 + 0x400 * index
  }

  in8(port: number): number {
    return this.#read('io', port, 1)
  }

  in16(port: number): number {
    return this.#read('io', port, 2)
  }

  in32(port: number): number {
    return this.#read('io', port, 4)
  }

  out8(port: number, value: number): void {
    this.#write('io', port, 1, value)
  }

  out16(port: number, value: number): void {
    this.#write('io', port, 2, value)
  }

  out32(port: number, value: number): void {
    this.#write('io', port, 4, value)
  }

  /** Reads 1, 2 or 4 bytes of memory-mapped registers. */
  read(address: number, width: number): number {
    return this.#read('mem', address, width)
  }

  /** Writes 1, 2 or 4 bytes of memory-mapped registers. */
  write(address: number, width: number, value: number): void {
    this.#write('mem', address, width, value)
  }

  #read(space: 'io' | 'mem', address: number, width: number): number {
    const found = this.#find(space, address)
    if (found === undefined) return 2 ** (8 * width) - 1
    const value = found.window.read(found.offset, width)
    if (!Number.isInteger(value) || value < 0 || value >= 2 ** (8 * width)) {
      throw new Error(`${this.device.name}: a read of ${width} bytes at ${address.toString(16)} gave ${value}`)
    }
    return value
  }

  #write(space: 'io' | 'mem', address: number, width: number, value: number): void {
    const found = this.#find(space, address)
    found?.window.write(found.offset, width, width === 4 ? value >>> 0 : value & (2 ** (8 * width) - 1))
  }

  #find(space: 'io' | 'mem', address: number): { window: Window; offset: number } | undefined {
    const { config, windows } = this.device
    if (!config.decodes(space)) return undefined
    for (const window of windows) {
      if (window.space !== space) continue
      const base = window.bar === undefined ? window.port : config.barAddress(window.bar)
      if (base !== undefined && address >= base && address < base + window.size)
        return { window, offset: address - base }
    }
    return undefined
  }
}

/** Plugs a device in: firmware's part (BARs, I/O, memory and bus mastering on) is done. */
export function plug<Device extends PciDevice>(bus: TestBus, factory: (bus: Bus) => Device): Slot<Device>
export function plug(bus: TestBus, factory: PciFactory): Slot {
  return new Slot(bus, factory(bus))
}

/** Lets promises that are already decided run their continuations. */
export function microtasks(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
