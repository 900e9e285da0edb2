/** The slices of time that v86 gives to the guest: whether one is under way, ending it, and keeping the next from beginning. */
import type { V86Cpu } from './internals.ts'

/** How long v86 is told to sleep when it wants to run while it is held, ms. */
const HELD_MS = 5

export class Slices {
  readonly #cpu: V86Cpu
  readonly #crAt: number
  #cr: Int32Array
  /** How many want the guest not to run. */
  #holds = 0
  /** Whether v86 wanted to run meanwhile. */
  #slept = false
  #cut = false
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
    this.#cr = new Int32Array(cpu.wasm_memory.buffer, this.#crAt, 1)
    const run = cpu.main_loop
    cpu.main_loop = () => {
      if (this.#holds > 0) {
        this.#slept = true
        return HELD_MS
      }
      this.executing = true
      this.paging = this.#translates()
      try {
        const sleep = run()
        return this.#cut ? this.#resume() : sleep
      } finally {
        this.executing = false
      }
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

  /** Ends the slice behind the instruction that is under way: a halted CPU leaves it, and is woken when it has. */
  cut(): void {
    if (!this.executing || this.#cpu.in_hlt[0] !== 0) return
    this.#cut = true
    this.#cpu.in_hlt[0] = 1
  }

  #translates(): boolean {
    if (this.#cr.length === 0) this.#cr = new Int32Array(this.#cpu.wasm_memory.buffer, this.#crAt, 1)
    // CR0.PG is the sign bit.
    return this.#cr[0]! < 0
  }

  #resume(): number {
    this.#cut = false
    this.#cpu.in_hlt[0] = 0
    return 0
  }
}
