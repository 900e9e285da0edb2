/** The slices of time that v86 gives to the guest: whether one is under way, breaking it, and keeping the next from beginning. */
import type { V86Cpu } from './internals.ts'

/** How long v86 is told to sleep when it wants to run while it is held, ms. */
const HELD_MS = 5

/**
 * What `in_hlt` holds when it is not the guest that halted: v86 looks behind every piece of code that it runs whether the byte is zero,
 * which is how it is made to stop there; a guest's own HLT makes it 1, and an interrupt that wakes the guest 0.
 */
const STOPPED = 3
const FLAG_INTERRUPT = 1 << 9

export class Slices {
  readonly #cpu: V86Cpu
  readonly #crAt: number
  readonly #haltedAt: number
  readonly #flagsAt: number
  #cr: Int32Array
  #halted: Uint8Array
  #flags: Int32Array
  /** How many want the guest not to run. */
  #holds = 0
  /** Whether v86 wanted to run meanwhile. */
  #slept = false
  /** Whether the slice is to end, also if the guest is woken. */
  #cut = false
  /** Whether the guest's interrupt flag is kept clear until the slice has ended. */
  #deaf = false
  /** Whether the guest is executing, i.e. whether we were called by one of its instructions. */
  executing = false
  /**
   * Whether the guest translated addresses when its slice began: firmware, boot loaders and DOS do not. A field, and not looked up,
   * because every write to a port asks.
   */
  paging = false

  constructor(cpu: V86Cpu) {
    this.#cpu = cpu
    this.#crAt = cpu.cr.byteOffset
    this.#haltedAt = cpu.in_hlt.byteOffset
    this.#flagsAt = cpu.flags.byteOffset
    const { buffer } = cpu.wasm_memory
    this.#cr = new Int32Array(buffer, this.#crAt, 1)
    this.#halted = new Uint8Array(buffer, this.#haltedAt, 1)
    this.#flags = new Int32Array(buffer, this.#flagsAt, 1)
    const run = cpu.main_loop
    cpu.main_loop = () => {
      if (this.#holds > 0) {
        this.#slept = true
        return HELD_MS
      }
      this.#look()
      this.executing = true
      // CR0.PG is the sign bit.
      this.paging = this.#cr[0]! < 0
      try {
        const sleep = run()
        return this.#cut ? this.#resume() : sleep
      } finally {
        this.executing = false
      }
    }
    // v86 calls this when a stretch of its slice has ended, just before it delivers an interrupt.
    const timers = cpu.run_hardware_timers
    cpu.run_hardware_timers = (acpi, now) => {
      this.#look()
      if (this.#cut) this.#end()
      else if (this.#halted[0] === STOPPED) this.#halted[0] = 0
      return timers.call(cpu, acpi, now)
    }
  }

  /** From the end of its slice on the guest does not run, until {@link release} was called as often. */
  hold(): void {
    this.#holds++
  }

  release(): void {
    if (--this.#holds > 0 || !this.#slept) return
    this.#slept = false
    this.#cpu.stop_idling()
  }

  /** Ends the slice behind the instruction that is under way. */
  cut(): void {
    if (!this.executing) return
    this.#cut = true
    this.interrupt()
  }

  /** Has v86 deliver an interrupt behind the instruction that is under way, instead of at the end of its stretch, and go on. */
  interrupt(): void {
    this.#look()
    if (this.executing && this.#halted[0] === 0) this.#halted[0] = STOPPED
  }

  /** v86 leaves the slice if the guest is halted and no interrupt wakes it. */
  #end(): void {
    if (this.#halted[0] === 0) this.#halted[0] = STOPPED
    if ((this.#flags[0]! & FLAG_INTERRUPT) === 0) return
    this.#flags[0]! &= ~FLAG_INTERRUPT
    this.#deaf = true
  }

  #resume(): number {
    this.#look()
    this.#cut = false
    if (this.#deaf) this.#flags[0]! |= FLAG_INTERRUPT
    this.#deaf = false
    if (this.#halted[0] === STOPPED) this.#halted[0] = 0
    return 0
  }

  #look(): void {
    if (this.#cr.length !== 0) return
    const { buffer } = this.#cpu.wasm_memory
    this.#cr = new Int32Array(buffer, this.#crAt, 1)
    this.#halted = new Uint8Array(buffer, this.#haltedAt, 1)
    this.#flags = new Int32Array(buffer, this.#flagsAt, 1)
  }
}
