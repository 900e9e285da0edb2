/** A bare machine: v86 with a firmware of a few instructions, written by the test, that runs in flat 32-bit protected mode. */
import { V86, type V86Options } from 'v86'
import type { Emulator, V86Cpu } from '../../src/v86/internals.ts'
import { cpuOf } from '../../src/v86/internals.ts'

const FIRMWARE = 0xf0000
const FIRMWARE_SIZE = 0x10000
const GDT = 0xff00
const IDT = 0x1000
const STACK = 0x8000
/** A 32-bit write here reaches the test. */
const REPORT_PORT = 0x500

/** Writes IA-32 machine code; every method appends one instruction, or the few that its comment says. */
export class Program {
  readonly #code: number[] = []
  readonly #interrupts: { vector: number; at: number }[] = []

  /** mov eax, value; out port, al/ax/eax. */
  out(port: number, width: 1 | 2 | 4, value: number): this {
    return this.#port(port)
      .eax(value)
      .#emit(...(width === 1 ? [0xee] : width === 2 ? [0x66, 0xef] : [0xef]))
  }

  /** xor eax, eax; in al/ax/eax, port. */
  in(port: number, width: 1 | 2 | 4): this {
    return this.#port(port)
      .eax(0)
      .#emit(...(width === 1 ? [0xec] : width === 2 ? [0x66, 0xed] : [0xed]))
  }

  eax(value: number): this {
    return this.#emit(0xb8).#dword(value)
  }

  /** Stores a constant at an absolute address. */
  store(address: number, width: 1 | 2 | 4, value: number): this {
    if (width === 1)
      return this.#emit(0xc6, 0x05)
        .#dword(address)
        .#emit(value & 0xff)
    if (width === 2)
      return this.#emit(0x66, 0xc7, 0x05)
        .#dword(address)
        .#emit(value & 0xff, (value >> 8) & 0xff)
    return this.#emit(0xc7, 0x05).#dword(address).#dword(value)
  }

  /** movzx eax from an absolute address. */
  load(address: number, width: 1 | 2 | 4): this {
    const opcode = width === 1 ? [0x0f, 0xb6, 0x05] : width === 2 ? [0x0f, 0xb7, 0x05] : [0x8b, 0x05]
    return this.#emit(...opcode).#dword(address)
  }

  /** inc dword [address] */
  increment(address: number): this {
    return this.#emit(0xff, 0x05).#dword(address)
  }

  /** Tells the test what is in eax. */
  report(): this {
    return this.#port(REPORT_PORT).#emit(0xef)
  }

  /** mov eax, value, then {@link report}. */
  say(value: number): this {
    return this.eax(value).report()
  }

  /** Writes a PCI configuration register of bus 0. */
  configure(bdf: number, register: number, width: 1 | 2 | 4, value: number): this {
    return this.out(0xcf8, 4, address(bdf, register)).out(0xcfc + (register & 3), width, value)
  }

  /** Reads a PCI configuration register of bus 0 into eax. */
  configuration(bdf: number, register: number, width: 1 | 2 | 4): this {
    return this.out(0xcf8, 4, address(bdf, register)).in(0xcfc + (register & 3), width)
  }

  /** cld; rep outsb/outsd of `count` elements at `address` to `port`. */
  outs(port: number, width: 1 | 4, address: number, count: number): this {
    return this.#port(port)
      .#emit(0xfc, 0xbe)
      .#dword(address)
      .#emit(0xb9)
      .#dword(count)
      .#emit(0xf3, width === 1 ? 0x6e : 0x6f)
  }

  /** cld; rep insb of `count` elements from `port` to `address`. */
  ins(port: number, address: number, count: number): this {
    return this.#port(port).#emit(0xfc, 0xbf).#dword(address).#emit(0xb9).#dword(count).#emit(0xf3, 0x6c)
  }

  /** Runs `body` `times` times, counting in memory at `counter`. */
  repeat(times: number, counter: number, body: (program: this) => void): this {
    this.store(counter, 4, times)
    const start = this.#code.length
    body(this)
    // dec dword [counter]; jnz start
    this.#emit(0xff, 0x0d).#dword(counter).#emit(0x0f, 0x85)
    return this.#dword(start - (this.#code.length + 4))
  }

  /** Initializes both 8259s for vectors 20h and 28h, lets through what `mask` leaves clear, and makes `level` lines level-triggered. */
  interrupts(mask: number, level: number): this {
    for (const [port, base, wiring] of [
      [0x20, 0x20, 4],
      [0xa0, 0x28, 2],
    ] as const) {
      this.out(port, 1, 0x11)
        .out(port + 1, 1, base)
        .out(port + 1, 1, wiring)
        .out(port + 1, 1, 1)
    }
    this.out(0x21, 1, mask & 0xff).out(0xa1, 1, mask >> 8)
    this.out(0x4d0, 1, level & 0xff).out(0x4d1, 1, level >> 8)
    return this
  }

  /** Runs `body` on interrupt `line`, with eax and edx kept, then ends the interrupt at both 8259s. */
  on(line: number, body: (program: this) => void): this {
    this.#emit(0xe9)
    const patch = this.#code.length
    this.#dword(0)
    this.#interrupts.push({ vector: 0x20 + line, at: this.#code.length })
    this.#emit(0x50, 0x52)
    body(this)
    if (line >= 8) this.out(0xa0, 1, 0x20)
    this.out(0x20, 1, 0x20).#emit(0x5a, 0x58, 0xcf)
    this.#patch(patch, this.#code.length - (patch + 4))
    return this
  }

  /** Runs `body` only if the dword at `address` is zero. */
  ifZero(address: number, body: (program: this) => void): this {
    // cmp dword [address], 0; jne over
    this.#emit(0x83, 0x3d).#dword(address).#emit(0x00, 0x0f, 0x85)
    const patch = this.#code.length
    this.#dword(0)
    body(this)
    this.#patch(patch, this.#code.length - (patch + 4))
    return this
  }

  sti(): this {
    return this.#emit(0xfb)
  }

  cli(): this {
    return this.#emit(0xfa)
  }

  nop(): this {
    return this.#emit(0x90)
  }

  /** Halts once; goes on after the next interrupt. */
  hlt(): this {
    return this.#emit(0xf4)
  }

  /** jmp $ */
  spin(): this {
    return this.#emit(0xeb, 0xfe)
  }

  /** The firmware's image: real mode to protected mode, the interrupt table, the program, then a halt for good. */
  image(): ArrayBuffer {
    const image = new Uint8Array(FIRMWARE_SIZE)
    const start = 0x20
    const entry = [
      // cli; lgdt cs:[GDT+18h]; mov eax, cr0; or al, 1; mov cr0, eax; jmp dword 8:start
      0xfa,
      0x2e,
      0x0f,
      0x01,
      0x16,
      ...le(GDT + 0x18, 2),
      0x0f,
      0x20,
      0xc0,
      0x0c,
      0x01,
      0x0f,
      0x22,
      0xc0,
      0x66,
      0xea,
      ...le(FIRMWARE + start, 4),
      0x08,
      0x00,
    ]
    image.set(entry, 0)
    const set = new Program()
    // mov ax, 10h; mov ds, es, ss, ax; mov esp, STACK
    set.#emit(0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc).#dword(STACK)
    // lidt [GDT+20h]
    set.#emit(0x0f, 0x01, 0x1d).#dword(FIRMWARE + GDT + 0x20)
    const gate = new Program().store(0, 4, 0).store(0, 4, 0).#code.length
    const handlers = FIRMWARE + start + set.#code.length + this.#interrupts.length * gate
    for (const { vector, at } of this.#interrupts) {
      set.store(IDT + 8 * vector, 4, (8 << 16) | ((handlers + at) & 0xffff))
      set.store(IDT + 8 * vector + 4, 4, ((handlers + at) & 0xffff0000) | 0x8e00)
    }
    image.set([...set.#code, ...this.#code, 0xfa, 0xf4, 0xeb, 0xfc], start)
    image.set(
      [...le(0, 8), ...le(0x0000ffff, 4), ...le(0x00cf9b00, 4), ...le(0x0000ffff, 4), ...le(0x00cf9300, 4)],
      GDT,
    )
    image.set([...le(0x17, 2), ...le(FIRMWARE + GDT, 4)], GDT + 0x18)
    image.set([...le(0x7ff, 2), ...le(IDT, 4)], GDT + 0x20)
    // The reset vector: jmp F000:0000.
    image.set([0xea, 0x00, 0x00, 0x00, 0xf0], 0xfff0)
    return image.buffer
  }

  #port(port: number): this {
    return this.#emit(0x66, 0xba, port & 0xff, port >> 8)
  }

  #dword(value: number): this {
    return this.#emit(...le(value, 4))
  }

  #patch(at: number, value: number): void {
    le(value, 4).forEach((byte, i) => {
      this.#code[at + i] = byte
    })
  }

  #emit(...bytes: number[]): this {
    this.#code.push(...bytes)
    return this
  }
}

function address(bdf: number, register: number): number {
  return (0x80000000 | (bdf << 8) | (register & 0xfc)) >>> 0
}

function le(value: number, bytes: number): number[] {
  return Array.from({ length: bytes }, (_, i) => (i < 4 ? (value >>> (8 * i)) & 0xff : 0))
}

export interface Bare {
  readonly emulator: V86 & Emulator
  readonly cpu: V86Cpu
  /** What the guest reported so far, unsigned. */
  readonly reports: number[]
  /** Resolves when the guest has reported `count` values in all; rejects after some seconds. */
  reported(count: number): Promise<number[]>
  /** Runs the guest until it has reported `count` values. */
  run(count: number): Promise<number[]>
  close(): Promise<void>
}

/** The package's own emulator and the place of its WebAssembly. */
export interface V86Package {
  readonly V86: typeof V86
  readonly wasm: string
}

export const installed: V86Package = {
  V86,
  wasm: new URL('../../node_modules/v86/build/v86.wasm', import.meta.url).pathname,
}

/** A machine with `program` for firmware; it does not run yet. */
export async function bare(
  program: Program,
  options: { acpi?: boolean; memory?: number; package?: V86Package; v86?: Partial<V86Options> } = {},
): Promise<Bare> {
  const from = options.package ?? installed
  const emulator = new from.V86({
    wasm_path: from.wasm,
    memory_size: options.memory ?? 16 << 20,
    vga_memory_size: 1 << 20,
    bios: { buffer: program.image() },
    acpi: options.acpi ?? false,
    disable_speaker: true,
    autostart: false,
    ...options.v86,
  }) as V86 & Emulator
  await new Promise<void>((resolve) => emulator.add_listener('emulator-loaded', resolve))
  const cpu = cpuOf(emulator)!
  const reports: number[] = []
  const waiting = new Set<() => void>()
  const entry = cpu.io.ports[REPORT_PORT]!
  entry.write32 = (value) => {
    reports.push(value >>> 0)
    for (const check of waiting) check()
  }
  const reported = (count: number) =>
    new Promise<number[]>((resolve, reject) => {
      const timer = setTimeout(() => {
        waiting.delete(check)
        reject(new Error(`the guest reported ${reports.length} of ${count} values: ${hex(reports)}`))
      }, 10_000)
      const check = () => {
        if (reports.length < count) return
        clearTimeout(timer)
        waiting.delete(check)
        resolve(reports)
      }
      waiting.add(check)
      check()
    })
  return {
    emulator,
    cpu,
    reports,
    reported,
    run: async (count) => {
      await emulator.run()
      return reported(count)
    },
    close: () => {
      const destroyed = emulator.destroy()
      // A halted guest would notice after up to a tenth of a second.
      cpu.stop_idling()
      return destroyed
    },
  }
}

function hex(values: readonly number[]): string {
  return values.map((value) => value.toString(16)).join(' ')
}
