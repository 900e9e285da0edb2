/** The guest's RAM: a block of WebAssembly memory that every growth of that memory detaches from its views. */
import type { GuestMemory } from '../devices/machine.ts'
import type { V86Cpu } from './internals.ts'

/** Where the VGA hides the RAM beneath it. */
const VGA_START = 0xa0000
const VGA_END = 0xc0000

/** Views of RAM, made anew when they are found detached. */
export class GuestRam implements GuestMemory {
  readonly size: number
  readonly #cpu: V86Cpu
  readonly #start: number
  #ram: Uint8Array
  #data: DataView

  constructor(cpu: V86Cpu) {
    this.#cpu = cpu
    this.#start = cpu.mem8.byteOffset
    this.size = cpu.memory_size[0]!
    this.#ram = new Uint8Array(cpu.wasm_memory.buffer, this.#start, this.size)
    this.#data = new DataView(cpu.wasm_memory.buffer, this.#start, this.size)
  }

  get ram(): Uint8Array {
    if (this.#ram.length === 0) this.#renew()
    return this.#ram
  }

  get data(): DataView {
    // A detached DataView throws when it is asked for its length; the array beside it does not.
    if (this.#ram.length === 0) this.#renew()
    return this.#data
  }

  contains(at: number, length: number): boolean {
    return (
      at >= 0 &&
      length >= 0 &&
      at + length <= this.size &&
      (at >= VGA_END || at + length <= VGA_START) &&
      Number.isInteger(at) &&
      Number.isInteger(length)
    )
  }

  dirty(at: number, length: number): void {
    if (length > 0) this.#cpu.jit_dirty_cache(at, at + length)
  }

  #renew(): void {
    const { buffer } = this.#cpu.wasm_memory
    this.#ram = new Uint8Array(buffer, this.#start, this.size)
    this.#data = new DataView(buffer, this.#start, this.size)
  }
}
