/** The LSI53C895A (or 53C810): registers, interrupts and PCI face, around the SCRIPTS processor and the SCSI bus. */
import { bytesVec, type IoVec } from '../../block/iovec.ts'
import { isLater } from '../../block/now.ts'
import { GuestVec } from '../dma.ts'
import type { Bus, PciDevice, Saved, Window } from '../machine.ts'
import { PciConfig } from '../pci.ts'
import type { ScsiTarget } from '../scsi/index.ts'
import type { Range } from './blockmoves.ts'
import { ScsiBus } from './bus.ts'
import { InterruptUnit } from './interrupts.ts'
import { LowLevel, type LowLevelHost } from './lowlevel.ts'
import * as reg from './registers.ts'
import { saveState, stateOf } from './saved.ts'
import { type ScriptsHost, ScriptsProcessor } from './scripts.ts'
import { type Variant, variants } from './variants.ts'

export interface LsiOptions {
  /** Targets by SCSI id, 0 to 6 (and 8 to 15 on the wide 895A); 7 is the chip's own. */
  readonly targets: ReadonlyMap<number, ScsiTarget>
  /** Which chip to show; default `lsi53c895a`. */
  readonly model?: Variant
}

/** Unit of the general purpose timer: 4340 cycles of the 40 MHz clock, ms. */
const TIMER_UNIT = 4340 / 40000
/** Turns of the event loop after which a chip that does not come to rest is taken as it is. */
const REST_TURNS = 1000

/** The chip as a PCI function. */
export class Lsi53c895a implements PciDevice, ScriptsHost, LowLevelHost {
  readonly name: string
  readonly config: PciConfig
  readonly windows: readonly Window[]
  readonly registers = new DataView(new ArrayBuffer(256))
  readonly bus: ScsiBus
  readonly #machine: Bus
  readonly #bytes = new Uint8Array(this.registers.buffer)
  readonly #plain = new Uint8Array(256)
  /** Dwords of registers that are nothing but memory. */
  readonly #quiet = new Uint8Array(64)
  readonly #ram: Uint8Array
  readonly #ramView: DataView
  readonly #scripts: ScriptsProcessor
  readonly #interrupts: InterruptUnit
  readonly #low: LowLevel
  readonly #variant: (typeof variants)[Variant]
  #timer: (() => void) | undefined
  #timerEnd = 0
  #slice = false
  /** Where BARs 2 and 1 stand while a program runs; 0 is nowhere. */
  #ramBase = 0
  #registerBase = 0
  /** Set while a reset waits for the host to let go of guest memory: the chip takes no program. */
  #resetting: Promise<void> | undefined

  constructor(machine: Bus, options: LsiOptions) {
    const variant = variants[options.model ?? 'lsi53c895a']
    this.#variant = variant
    this.#machine = machine
    this.name = variant.name
    this.config = new PciConfig(variant.pci)
    this.#ram = new Uint8Array(variant.ramSize)
    this.#ramView = new DataView(this.#ram.buffer)
    for (const [first, last] of reg.PLAIN_REGISTERS) this.#plain.fill(1, first, last + 1)
    for (const register of reg.QUIET_REGISTERS) this.#quiet[register >>> 2] = 1
    for (let i = reg.SCRATCHC; i <= reg.CSBC; i += 4) this.#quiet[i >>> 2] = 1
    this.#interrupts = new InterruptUnit(this.registers, (asserted) => machine.intx(asserted))
    this.bus = new ScsiBus(
      options.targets,
      {
        phaseChanged: () => this.resume(),
        reselecting: () => this.#reselecting(),
        busFree: () => this.#busFree(),
      },
      variant.wide,
    )
    this.#scripts = new ScriptsProcessor(this)
    this.#low = new LowLevel(this)
    const read = (offset: number, width: number) => this.#read(offset, width)
    const write = (offset: number, width: number, value: number) => this.#write(offset, width, value)
    this.windows = [
      { space: 'io', bar: 0, size: 256, read, write },
      { space: 'mem', bar: 1, size: variant.registerSize, read, write },
      ...(variant.ramSize > 0 ? [this.#ramWindow()] : []),
    ]
    this.#resetRegisters()
  }

  // ---- what a guest does to the registers ----

  #read(offset: number, width: number): number {
    let value = 0
    for (let i = width - 1; i >= 0; i--) value = value * 256 + this.readRegister((offset + i) & 0xff)
    return value
  }

  #write(offset: number, width: number, value: number): void {
    for (let i = 0; i < width; i++) this.writeRegister((offset + i) & 0xff, (value >>> (8 * i)) & 0xff)
    this.resume()
  }

  #ramWindow(): Window {
    const ram = this.#ram
    return {
      space: 'mem',
      bar: 2,
      size: ram.length,
      read: (offset, width) => {
        let value = 0
        for (let i = width - 1; i >= 0; i--) value = value * 256 + (ram[offset + i] ?? 0xff)
        return value
      },
      write: (offset, width, value) => {
        for (let i = 0; i < width && offset + i < ram.length; i++) ram[offset + i] = value >>> (8 * i)
      },
    }
  }

  readRegister(offset: number): number {
    const bytes = this.#bytes
    switch (offset) {
      case reg.SCNTL1:
        return (bytes[reg.SCNTL1]! & ~reg.SCNTL1_CON) | (this.#low.connected ? reg.SCNTL1_CON : 0)
      case reg.SOCL:
        if (bytes[reg.SCNTL0]! & reg.SCNTL0_TRG) return bytes[offset]!
        return (bytes[offset]! & ~reg.SOCL_ATN) | (this.bus.attention ? reg.SOCL_ATN : 0)
      case reg.SBCL:
        return this.#low.controlLines
      case reg.SBDL:
        return this.#low.dataLines & 0xff
      case reg.SBDL + 1:
        return this.#low.dataLines >>> 8
      case reg.DSTAT:
        return this.#interrupts.readDstat()
      case reg.SIST0:
        return this.#interrupts.readSist(0)
      case reg.SIST1:
        return this.#interrupts.readSist(1)
      case reg.SSTAT1:
        return this.#low.on ? bytes[reg.SSTAT1]! : (bytes[reg.SSTAT1]! & ~7) | (this.bus.phase ?? 0)
      case reg.ISTAT0:
        return (bytes[reg.ISTAT0]! & ~reg.ISTAT0_CON) | (this.#low.connected ? reg.ISTAT0_CON : 0)
      case reg.CTEST1:
        return reg.CTEST1_FMT
      case reg.CTEST2:
        return this.#readCtest2()
      case reg.CTEST3:
        return (bytes[reg.CTEST3]! & 0x0f) | (this.#variant.pci.revision! << 4)
      case reg.MACNTL:
        return (bytes[reg.MACNTL]! & 0x0f) | this.#variant.macntl
      case reg.STEST4:
        return reg.STEST4_SE | reg.STEST4_LOCK
      default:
        return bytes[offset]!
    }
  }

  writeRegister(offset: number, value: number): void {
    const bytes = this.#bytes
    if (this.#plain[offset] === 1) bytes[offset] = value
    switch (offset) {
      case reg.SCNTL0:
        // While SCRIPTS run the bit is theirs
        bytes[offset] = this.#scripts.running && !this.#low.on ? value & ~reg.SCNTL0_START : value
        this.#low.start()
        break
      case reg.SCNTL1:
        this.#writeScntl1(value)
        break
      case reg.SOCL:
        this.#low.control(value)
        break
      case reg.SFBR:
        break
      case reg.ISTAT0:
        this.#writeIstat0(value)
        break
      case reg.ISTAT1:
        bytes[offset] = (bytes[offset]! & ~reg.ISTAT1_SI) | (value & reg.ISTAT1_SI)
        this.#interrupts.update()
        break
      case reg.CTEST3:
        bytes[offset] = value & 0x03
        break
      case reg.DSP + 3:
        if (!(bytes[reg.DMODE]! & reg.DMODE_MAN)) this.#start()
        break
      case reg.DIEN:
      case reg.SIEN0:
      case reg.SIEN1:
        this.#interrupts.update()
        break
      case reg.DCNTL:
        bytes[offset] = value & ~reg.DCNTL_STD
        if (value & reg.DCNTL_STD) this.#start()
        this.#interrupts.update()
        break
      case reg.MACNTL:
        bytes[offset] = value & 0x0f
        break
      case reg.STIME1:
        this.#setTimer(value & reg.STIME1_GEN)
        break
      case reg.STEST2:
        this.#low.answer()
        break
      case reg.STEST3:
        bytes[offset] = value & ~reg.STEST3_CSF
        break
    }
  }

  /** CTEST2; reading it clears SIGP. */
  #readCtest2(): number {
    const bytes = this.#bytes
    const signal = bytes[reg.ISTAT0]! & reg.ISTAT0_SIGP ? reg.CTEST2_SIGP : 0
    bytes[reg.ISTAT0]! &= ~reg.ISTAT0_SIGP
    return reg.CTEST2_DACK | reg.CTEST2_CIO | reg.CTEST2_CM | signal
  }

  #writeScntl1(value: number): void {
    const bytes = this.#bytes
    const asserted = (bytes[reg.SCNTL1]! & reg.SCNTL1_RST) !== 0
    bytes[reg.SCNTL1] = value
    if (!(value & reg.SCNTL1_CON)) this.#low.letGo()
    if ((value & reg.SCNTL1_RST) === 0) bytes[reg.SSTAT0]! &= ~reg.SSTAT0_RST
    else if (!asserted) {
      bytes[reg.SSTAT0]! |= reg.SSTAT0_RST
      this.#busReset()
      this.scsiInterrupt(reg.SIST0_RST, 0)
    }
  }

  #writeIstat0(value: number): void {
    const bytes = this.#bytes
    const old = bytes[reg.ISTAT0]!
    const kept = reg.ISTAT0_SEM | reg.ISTAT0_SIGP | reg.ISTAT0_SRST | reg.ISTAT0_ABRT
    bytes[reg.ISTAT0] = (old & ~kept & ~(value & reg.ISTAT0_INTF)) | (value & kept)
    if (value & reg.ISTAT0_SIGP) bytes[reg.ISTAT0]! |= reg.ISTAT0_SIGP
    this.#interrupts.update()
    if (value & reg.ISTAT0_SRST && !(old & reg.ISTAT0_SRST)) {
      this.#resetRegisters()
      bytes[reg.ISTAT0] = reg.ISTAT0_SRST
      this.#busReset()
    }
    if (value & reg.ISTAT0_ABRT && !(old & reg.ISTAT0_ABRT)) this.dmaInterrupt(reg.DSTAT_ABRT)
    if (value & reg.ISTAT0_SIGP && this.#scripts.waitsForReselection) this.resume()
  }

  #setTimer(setting: number): void {
    this.#timer?.()
    this.#timer = undefined
    if (setting !== 0) this.#startTimer(TIMER_UNIT * 2 ** setting)
  }

  #startTimer(ms: number): void {
    const { clock } = this.#machine
    this.#timerEnd = clock.now() + ms
    this.#timer = clock.after(ms, () => {
      this.#timer = undefined
      this.scsiInterrupt(0, reg.SIST1_GEN)
    })
  }

  // ---- running ----

  #start(): void {
    this.#scripts.start()
  }

  /** Runs the program on: what it waited for may be there. */
  resume(): void {
    const scripts = this.#scripts
    if (!scripts.running || scripts.executing || this.#slice || this.#resetting !== undefined || this.#low.on) return
    this.#ramBase = this.#ram.length === 0 ? 0 : this.config.barAddress(2)
    this.#registerBase = this.config.barAddress(1)
    scripts.poke()
    if (scripts.run()) this.#defer()
    else this.bus.kick()
  }

  /** Runs on when the guest has had its turn. */
  #defer(): void {
    this.#slice = true
    this.#machine.clock.defer(() => {
      this.#slice = false
      this.resume()
    })
  }

  #reselecting(): void {
    if (this.#scripts.waitsForReselection) this.resume()
    else this.#low.answer()
  }

  #busFree(): void {
    const bytes = this.#bytes
    const expected = !this.#low.on && (bytes[reg.SCNTL2]! & reg.SCNTL2_SDU) === 0
    bytes[reg.SSTAT2]! |= reg.SSTAT2_LDSC
    bytes[reg.SSTAT0]! &= ~reg.SSTAT0_ILF
    bytes[reg.SCNTL2]! &= ~reg.SCNTL2_SDU
    if (expected) {
      if (bytes[reg.SCNTL1]! & reg.SCNTL1_IARB) bytes[reg.SSTAT0]! |= reg.SSTAT0_WOA
    } else {
      bytes[reg.SCNTL1]! &= ~reg.SCNTL1_IARB
      this.scsiInterrupt(reg.SIST0_UDC, 0)
    }
    this.#low.start()
    this.#low.answer()
  }

  #busReset(): void {
    this.#scripts.stop()
    this.#low.reset()
    const gone = this.bus.reset()
    if (isLater(gone)) this.#holdUntil(gone)
  }

  #holdUntil(gone: Promise<void>): void {
    const all = (this.#resetting === undefined ? gone : Promise.all([this.#resetting, gone])).then(() => {
      if (this.#resetting !== all) return
      this.#resetting = undefined
      this.#low.start()
      this.#low.answer()
      this.resume()
    })
    this.#resetting = all
  }

  /** Whether a reset of the bus is still under way. */
  get resetting(): boolean {
    return this.#resetting !== undefined
  }

  // ---- what SCRIPTS ask of the chip ----

  connect(id: number, reselected: boolean): void {
    const bytes = this.#bytes
    bytes[reg.SSTAT0] = (bytes[reg.SSTAT0]! & ~reg.SSTAT0_AIP) | reg.SSTAT0_WOA
    bytes[reg.SSTAT2]! &= ~reg.SSTAT2_LDSC
    bytes[reg.SCNTL2]! |= reg.SCNTL2_SDU
    bytes[reg.SCNTL1]! &= ~reg.SCNTL1_IARB
    if (reselected) {
      bytes[reg.SSID] = reg.SSID_VAL | id
      bytes[reg.SDID] = id
      bytes[reg.SFBR] = id
    }
  }

  fetch(high: number, low: number): number | undefined {
    const ram = this.#ramOffset(low, 4)
    if (ram >= 0) return this.#ramView.getUint32(ram, true)
    return this.#reaches(high, low, 4) ? this.#machine.memory.data.getUint32(low, true) : undefined
  }

  /** Whether the chip gets at guest memory there. */
  #reaches(high: number, low: number, length: number): boolean {
    return high === 0 && this.#machine.memory.contains(low, length) && this.config.busMaster
  }

  memory(ranges: readonly Range[]): IoVec | undefined {
    const { low: start, count: length } = ranges[0]!
    const ram = this.#ramOffset(start, length)
    if (ram >= 0) return bytesVec(this.#ram.subarray(ram, ram + length))
    const memory = new GuestVec(this.#machine.memory)
    for (const { high, low, count } of ranges) {
      if (this.#ramOffset(low, count) >= 0 || !this.#reaches(high, low, count)) break
      memory.add(low, count)
    }
    return memory.byteLength > 0 ? memory : undefined
  }

  view(high: number, low: number, length: number): Uint8Array | undefined {
    const ram = this.#ramOffset(low, length)
    if (ram >= 0) return this.#ram.subarray(ram, ram + length)
    return this.#reaches(high, low, length) ? this.#machine.memory.ram.subarray(low, low + length) : undefined
  }

  load(high: number, low: number, length: number): number | undefined {
    const ram = this.#ramOffset(low, length)
    if (ram >= 0) return number(this.#ramView, ram, length)
    return this.#reaches(high, low, length) ? number(this.#machine.memory.data, low, length) : undefined
  }

  store(high: number, low: number, length: number, value: number): boolean {
    const ram = this.#ramOffset(low, length)
    if (ram >= 0) put(this.#ramView, ram, length, value)
    else if (this.#reaches(high, low, length)) {
      const { memory } = this.#machine
      put(memory.data, low, length, value)
      memory.dirty(low, length)
    } else return false
    return true
  }

  written(low: number, length: number): void {
    if (this.#ramOffset(low, length) < 0) this.#machine.memory.dirty(low, length)
  }

  copy(fromHigh: number, from: number, toHigh: number, to: number, length: number): boolean {
    const source = this.#registerOffset(from, length)
    const target = this.#registerOffset(to, length)
    let bytes: Uint8Array
    if (source >= 0) {
      bytes = new Uint8Array(length)
      for (let i = 0; i < length; i++) bytes[i] = this.readRegister(source + i)
    } else {
      const memory = this.view(fromHigh, from, length)
      if (memory === undefined) return false
      bytes = memory
    }
    if (target >= 0) {
      for (let i = 0; i < length; i++) this.writeRegister(target + i, bytes[i]!)
      return true
    }
    const into = this.view(toHigh, to, length)
    if (into === undefined) return false
    into.set(bytes)
    this.written(to, length)
    return true
  }

  /** Offset in SCRIPTS RAM of a range of memory addresses; -1 if it is not there. */
  #ramOffset(address: number, length: number): number {
    const offset = address - this.#ramBase
    return this.#ramBase !== 0 && offset >= 0 && offset + length <= this.#ram.length ? offset : -1
  }

  isQuiet(register: number): boolean {
    return this.#quiet[register >>> 2] === 1
  }

  isRegister(address: number): boolean {
    return this.#registerOffset(address, 1) >= 0
  }

  /** The register that a memory address names; -1 if it names none. */
  #registerOffset(address: number, length: number): number {
    const offset = address - this.#registerBase
    if (this.#registerBase === 0 || offset < 0 || offset >= this.#variant.registerSize) return -1
    return (offset & 0xff) + length <= 256 ? offset & 0xff : -1
  }

  dmaInterrupt(bits: number): void {
    this.#scripts.stop()
    this.#interrupts.dma(bits)
  }

  scsiInterrupt(sist0: number, sist1: number): void {
    if (this.#interrupts.isFatal(sist0, sist1)) this.#scripts.stop()
    this.#interrupts.scsi(sist0, sist1)
  }

  interruptOnTheFly(): void {
    this.#interrupts.onTheFly()
  }

  // ---- the emulator's side ----

  reset(): void | Promise<void> {
    this.#resetRegisters()
    this.#ram.fill(0)
    this.config.reset()
    this.#busReset()
    return this.#resetting
  }

  drain(): void | Promise<void> {
    if (this.#busy) return this.#rest()
  }

  /** Whether the chip goes on by itself: a program has more to do, or a target waits for the host. */
  get #busy(): boolean {
    if (this.#slice || this.#resetting !== undefined) return true
    return isLater(this.bus.drain())
  }

  /** Resolves when neither a target nor a program goes on by itself, or when that has lasted for too long. */
  async #rest(): Promise<void> {
    for (let turns = 0; turns < REST_TURNS && this.#busy; turns++) {
      await this.#resetting
      await this.bus.drain()
      await new Promise<void>((resolve) => this.#machine.clock.defer(resolve))
    }
  }

  save(): Saved {
    return saveState({
      registers: this.#bytes.slice(),
      ram: this.#ram.slice(),
      config: this.config.save(),
      processor: this.#scripts.state,
      interrupts: this.#interrupts.stacked,
      timer: this.#timer === undefined ? -1 : Math.max(Math.ceil(this.#timerEnd - this.#machine.clock.now()), 0),
      bus: this.bus.save(),
    })
  }

  restore(state: Saved): void {
    this.#resetRegisters()
    this.#busReset()
    try {
      const { registers, ram, config, processor, interrupts, timer, bus } = stateOf(state, this.#ram.length)
      this.#bytes.set(registers)
      this.#ram.set(ram)
      this.config.restore(config)
      const restored = this.bus.restore(bus, processor.moves !== undefined)
      this.#scripts.restore(processor)
      this.#interrupts.restore(...interrupts)
      if (timer >= 0) this.#startTimer(timer)
      if (isLater(restored)) this.#holdUntil(restored.catch(() => this.#busReset()))
    } catch (error) {
      void this.reset()
      throw error
    }
    // Guest memory is not there yet
    this.#defer()
  }

  #resetRegisters(): void {
    this.#setTimer(0)
    this.#scripts?.reset()
    const bytes = this.#bytes
    bytes.fill(0)
    bytes[reg.SCNTL0] = 0xc0
    bytes[reg.DSTAT] = reg.DSTAT_DFE
    bytes[reg.DMODE] = 0
    bytes[reg.STEST0] = 0
    bytes[reg.GPREG0] = 0x0f
    bytes[reg.GPCNTL0] = 0x0f
    bytes[reg.MBOX0] = 0
    this.#interrupts.reset()
  }
}

/** The number of 1 to 4 bytes that starts at `at`, little-endian. */
function number(view: DataView, at: number, length: number): number {
  if (length === 4) return view.getUint32(at, true)
  let value = 0
  for (let i = length - 1; i >= 0; i--) value = (value << 8) | view.getUint8(at + i)
  return value
}

function put(view: DataView, at: number, length: number, value: number): void {
  if (length === 4) view.setUint32(at, value, true)
  else for (let i = 0; i < length; i++) view.setUint8(at + i, (value >>> (8 * i)) & 0xff)
}
