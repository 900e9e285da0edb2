/** The SCSI SCRIPTS processor: every instruction of the 53C895A (technical manual, chapter 5). */
import type { IoVec } from '../../block/iovec.ts'
import { isLater } from '../../block/now.ts'
import { Alu } from './alu.ts'
import { type BlockMove, copyOf, MoveDecoder, type MoveSource, type Range, signed24 } from './blockmoves.ts'
import type { ScsiBus } from './bus.ts'
import * as reg from './registers.ts'

/** What the processor needs of the chip around it. */
export interface ScriptsHost extends MoveSource {
  readonly bus: ScsiBus
  /** Reads a register with its side effects. */
  readRegister(offset: number): number
  /** Writes a register with its side effects. */
  writeRegister(offset: number, value: number): void
  /** The memory of a transfer, from the first range on as far as there is any; undefined where not even all of the first one is. */
  memory(ranges: readonly Range[]): IoVec | undefined
  /** All of one range for a transfer that is over at once: the bytes themselves. */
  view(high: number, low: number, length: number): Uint8Array | undefined
  /** Up to 4 bytes of it as a number, little-endian. */
  load(high: number, low: number, length: number): number | undefined
  /** Writes as many; false where there is no memory. */
  store(high: number, low: number, length: number, value: number): boolean
  /** Says that the bytes of a {@link view} were written. */
  written(low: number, length: number): void
  /** Copies bytes, to and from the chip's registers too; false where there is no memory. */
  copy(fromHigh: number, from: number, toHigh: number, to: number, length: number): boolean
  /** Whether the four registers of a dword are nothing but memory. */
  isQuiet(register: number): boolean
  /** Whether an address is that of a register of the chip. */
  isRegister(address: number): boolean
  dmaInterrupt(bits: number): void
  scsiInterrupt(sist0: number, sist1: number): void
  interruptOnTheFly(): void
  connect(id: number, reselected: boolean): void
  /** Runs the program on: what it waited for is there. */
  resume(): void
}

/** Instructions in one slice: then the guest has its turn. Bytes that are moved count too, by the shifts below. */
const SLICE = 4096
/** 256 bytes of a memory move, and 1024 of a block move, are as long as an instruction. */
const MEMORY_SHIFT = 8
const DATA_SHIFT = 10
/** Most bytes that block moves behind each other move by one transfer: a slice. */
const TRANSFER_MAX = SLICE << DATA_SHIFT
/** Instructions without any transfer, selection or stop in between after which a program is taken for endless. */
const ENDLESS = 2 << 20

/** What the processor waits for. */
type Wait = 'nothing' | 'phase' | 'reselect' | 'disconnect' | 'data'

/** Block moves whose bytes come or go later, by one transfer. */
export interface Moves {
  readonly list: readonly BlockMove[]
  /** Bytes of them that were moved before. */
  readonly done: number
}

/** What a saved state has of the processor beside the registers. */
export interface ProcessorState {
  readonly running: boolean
  readonly carry: boolean
  readonly unanswered: boolean
  readonly moves: Moves | undefined
}

/** How an instruction leaves the processor. */
const GO_ON = true
const PAUSE = false

/** Executes SCRIPTS from DSP on; where it has to wait, it keeps the instruction and tries it again. */
export class ScriptsProcessor {
  readonly #host: ScriptsHost
  readonly #registers: DataView
  readonly #alu = new Alu()
  #running = false
  #executing = false
  #wait: Wait = 'nothing'
  #idle = 0
  /** What of the slice is used up. */
  #spent = 0
  #generation = 0
  /** The last SELECT will time out: SCRIPTS go on meanwhile, up to the first instruction that needs the target. */
  #unanswered = false
  readonly #decoder: MoveDecoder
  /** Those of a transfer whose bytes come later, or one that waits for the phase behind its last byte. */
  #moves: Moves | undefined

  constructor(host: ScriptsHost) {
    this.#host = host
    this.#registers = host.registers
    this.#decoder = new MoveDecoder(host)
  }

  /** Whether a program runs or waits. */
  get running(): boolean {
    return this.#running
  }

  /** Whether it is in the middle of an instruction, which has led to the caller. */
  get executing(): boolean {
    return this.#executing
  }

  get waitsForReselection(): boolean {
    return this.#running && this.#wait === 'reselect'
  }

  get state(): ProcessorState {
    const moves = this.#moves
    const progress = this.#wait === 'data' ? this.#host.bus.progress : 0
    return {
      running: this.#running,
      carry: this.#alu.carry,
      unanswered: this.#unanswered,
      moves: moves && { list: moves.list, done: moves.done + progress },
    }
  }

  /** Takes up a saved state; the registers are restored already. {@link run} goes on. */
  restore(state: ProcessorState): void {
    this.reset()
    this.#alu.carry = state.carry
    if (!state.running) return
    this.start()
    this.#unanswered = state.unanswered
    this.#moves = state.moves
  }

  /** Starts at DSP. */
  start(): void {
    this.#running = true
    this.#wait = 'nothing'
    // A block move that the program before was in the middle of is the target's alone
    this.#moves = undefined
    this.#generation++
    this.#idle = 0
    this.#registers.setUint8(reg.ISTAT1, this.#registers.getUint8(reg.ISTAT1) | reg.ISTAT1_SRUN)
  }

  /** Stops; what was under way has no further effect. */
  stop(): void {
    this.#running = false
    this.#unanswered = false
    this.#wait = 'nothing'
    this.#moves = undefined
    this.#generation++
    this.#registers.setUint8(reg.ISTAT1, this.#registers.getUint8(reg.ISTAT1) & ~reg.ISTAT1_SRUN)
  }

  /** Power-on state. */
  reset(): void {
    this.stop()
    this.#alu.carry = false
  }

  /** Goes on if what was waited for may have come. */
  poke(): void {
    const { bus } = this.#host
    const phaseIsOpen = this.#moves !== undefined && bus.connected && bus.phase === undefined
    if (this.#wait !== 'data' && !phaseIsOpen) this.#wait = 'nothing'
  }

  /** Runs up to a slice of instructions; true if there is more to do right away. */
  run(): boolean {
    this.#executing = true
    try {
      const singleStep = this.#isSingleStep
      for (this.#spent = 0; this.#spent < SLICE; this.#spent++) {
        if (!this.#running || this.#wait !== 'nothing') return false
        const moves = this.#moves
        if (moves === undefined && ++this.#idle > ENDLESS) {
          this.#host.dmaInterrupt(reg.DSTAT_ABRT)
          return false
        }
        const goOn = moves === undefined ? this.#step(this.#get(reg.DSP)) : this.#goOn(moves)
        if (goOn && singleStep && this.#running) {
          this.#host.dmaInterrupt(reg.DSTAT_SSI)
          return false
        }
      }
      return this.#running && this.#wait === 'nothing'
    } finally {
      this.#executing = false
    }
  }

  #get(register: number): number {
    return this.#registers.getUint32(register, true)
  }

  #set(register: number, value: number): void {
    this.#registers.setUint32(register, value, true)
  }

  /** Executes the instruction at `dsp`; false if it has to be tried again. */
  #step(dsp: number): boolean {
    const high = this.#get(reg.SFS)
    const instruction = this.#host.fetch(high, dsp)
    const operand = this.#host.fetch(high, (dsp + 4) >>> 0)
    if (instruction === undefined || operand === undefined) return this.#fault(reg.DSTAT_BF)
    // DCMD is the fourth byte behind DBC's three
    this.#set(reg.DBC, instruction)
    this.#set(reg.DSPS, operand)
    this.#set(reg.DSP, dsp + 8)
    if (this.#unanswered && needsTarget(instruction)) {
      this.#host.scsiInterrupt(0, reg.SIST1_STO)
      return GO_ON
    }
    let goOn: boolean
    switch (instruction >>> 30) {
      case 0:
        goOn = this.#blockMove(instruction, operand, dsp)
        break
      case 1:
        goOn =
          ((instruction >>> 27) & 7) < 5
            ? this.#inputOutput(instruction, operand)
            : this.#registerOperation(instruction)
        break
      case 2:
        goOn = this.#transferControl(instruction, operand)
        break
      default:
        goOn = instruction & (1 << 29) ? this.#loadStore(instruction, operand) : this.#memoryMove(instruction, operand)
    }
    if (goOn === PAUSE && this.#running && this.#moves === undefined) this.#set(reg.DSP, dsp)
    return goOn
  }

  #fault(bits: number): boolean {
    this.#host.dmaInterrupt(bits)
    return GO_ON
  }

  #pause(wait: Wait): boolean {
    this.#wait = wait
    // Who waits is not endless, however often it is asked
    this.#idle = 0
    return PAUSE
  }

  // ---- block moves (5.3) ----

  #blockMove(instruction: number, operand: number, dsp: number): boolean {
    const { bus } = this.#host
    // What it holds is another move once it has looked ahead
    const move = this.#decoder
    const fault = move.decode(dsp, instruction, operand)
    if (fault !== 0) return this.#fault(fault)
    if (move.entry >= 0) this.#set(reg.ESA, move.entry)
    this.#set(reg.DSP, move.next)
    const { phase, count, high, low } = move
    // The manual has an illegal instruction here; SeaBIOS moves no bytes for commands that have no data.
    if (count === 0) return GO_ON
    // Connected in the other role is not connected (5.3, step 1)
    if (bus.phase === undefined || this.#isTarget()) return this.#pause('phase')
    if (phase === reg.PHASE_MSG_OUT) bus.expectMessage()
    this.#begin(move)
    if (bus.phase !== phase) return this.#mismatch(move, 0)
    this.#idle = 0
    if (phase > reg.PHASE_DATA_IN || count <= bus.ready) {
      const bytes = this.#host.view(high, low, count)
      if (bytes === undefined) return this.#fault(reg.DSTAT_BF)
      const length = bus.exchange(bytes)
      if (phase & 1) this.#host.written(low, length)
      return this.#moved(move, length)
    }
    const list = this.#isSingleStep ? move.together(0) : move.together(Math.min(bus.left, TRANSFER_MAX))
    const memory = this.#host.memory(list)
    if (memory === undefined) return this.#fault(reg.DSTAT_BF)
    const moved = bus.transfer(memory)
    if (isLater(moved)) return this.#later(moved, { list, done: 0 })
    return this.#movedAll(list, moved)
  }

  /** Goes on with block moves that wait for their target, also those of a restored state; false if they wait again. */
  #goOn(moves: Moves): boolean {
    const { bus } = this.#host
    const { list, done } = moves
    this.#moves = undefined
    if (bus.phase !== undefined && bus.phase !== list[0]!.phase) return this.#movedAll(list, done)
    const memory = this.#host.memory(list)
    if (memory === undefined || memory.byteLength < done) return this.#fault(reg.DSTAT_BF)
    const moved = bus.goOnTransfer(list[0]!.phase, memory.slice(done))
    if (isLater(moved)) return this.#later(moved, moves)
    return this.#movedAll(list, done + moved)
  }

  #later(moved: Promise<number>, moves: Moves): boolean {
    const generation = this.#generation
    this.#wait = 'data'
    this.#moves = moves
    void moved.then((length) => {
      if (generation !== this.#generation) {
        this.#host.resume()
        return
      }
      this.#wait = 'nothing'
      this.#moves = undefined
      const goOn = this.#movedAll(moves.list, moves.done + length)
      if (goOn && this.#isSingleStep && this.#running) this.#host.dmaInterrupt(reg.DSTAT_SSI)
      this.#host.resume()
    })
    return PAUSE
  }

  /** Registers at the start of a block move. */
  #begin({ high, low, at, count }: BlockMove): void {
    this.#set(reg.DBMS, high)
    this.#set(reg.DNAD, low)
    this.#set(reg.IA, at)
    this.#count(count)
  }

  /** What is to be seen when one transfer has moved `length` bytes of several block moves: that of one after the other. */
  #movedAll(list: readonly BlockMove[], length: number): boolean {
    let last = 0
    let left = length
    while (left > list[last]!.count && last < list.length - 1) {
      const { count, entry } = list[last++]!
      left -= count
      this.#spent += 1 + (count >>> DATA_SHIFT)
      if (entry >= 0) this.#set(reg.ESA, entry)
      this.#set(reg.CSBC, this.#get(reg.CSBC) + count)
    }
    const move = list[last]!
    if (last > 0) {
      this.#set(reg.DBC, move.instruction)
      this.#set(reg.DSPS, move.operand)
      this.#set(reg.DSP, move.next)
      if (move.entry >= 0) this.#set(reg.ESA, move.entry)
      this.#begin(move)
    }
    return this.#moved(move, left)
  }

  #moved(move: BlockMove, length: number): boolean {
    const { bus } = this.#host
    const { phase, count, high, low } = move
    // The target has taken or given all of its data and does not say yet what comes next: the move lasts until it does
    if (length < count && bus.connected && bus.phase === undefined) {
      this.#moves = { list: [copyOf(move)], done: length }
      return this.#pause('phase')
    }
    this.#spent += length >>> DATA_SHIFT
    this.#count(count - length)
    this.#set(reg.DNAD, low + length)
    this.#registers.setUint32(reg.SBC, length, true)
    this.#set(reg.CSBC, this.#get(reg.CSBC) + length)
    if (phase & 1 && length > 0) {
      this.#registers.setUint8(reg.SFBR, this.#host.load(high, low, 1) ?? 0)
      this.#registers.setUint8(reg.SIDL, this.#host.load(high, low + length - 1, 1) ?? 0)
    }
    if (length === count) return GO_ON
    if (!bus.connected) return this.#running ? this.#pause('phase') : GO_ON
    return this.#mismatch(move, length)
  }

  /** A phase mismatch: the jump registers if they are enabled for it, else an interrupt (4.3, CCNTL0). */
  #mismatch({ phase, opcode, count, low }: BlockMove, moved: number): boolean {
    const control = this.#registers.getUint8(reg.CCNTL0)
    const isData = phase === reg.PHASE_DATA_IN || phase === reg.PHASE_DATA_OUT
    this.#set(reg.RBC, ((opcode << 24) | (count - moved)) >>> 0)
    this.#set(reg.UA, low + moved)
    if ((control & reg.CCNTL0_ENPMJ) === 0 || !(isData || control & reg.CCNTL0_ENNDJ)) {
      this.#host.scsiInterrupt(reg.SIST0_MA, 0)
      return GO_ON
    }
    const wide = this.#registers.getUint8(reg.SCNTL2) & reg.SCNTL2_WSR
    const second = control & reg.CCNTL0_PMJCTL ? (phase & 1) !== 0 : wide !== 0
    this.#set(reg.DSP, this.#get(second ? reg.PMJAD2 : reg.PMJAD1))
    return GO_ON
  }

  #count(count: number): void {
    this.#registers.setUint16(reg.DBC, count & 0xffff, true)
    this.#registers.setUint8(reg.DBC + 2, (count >>> 16) & 0xff)
    this.#registers.setUint8(reg.DFIFO, count & 0xff)
    const ctest5 = this.#registers.getUint8(reg.CTEST5)
    this.#registers.setUint8(reg.CTEST5, (ctest5 & 0xfc) | ((count >>> 8) & 3))
  }

  // ---- I/O instructions (5.4) ----

  #inputOutput(instruction: number, operand: number): boolean {
    const target = instruction & (1 << 26) ? (this.#get(reg.DSP) + signed24(operand)) >>> 0 : operand
    const opcode = (instruction >>> 27) & 7
    if (instruction & (1 << 24) && opcode !== 0) return this.#fault(reg.DSTAT_IID)
    switch (opcode) {
      case 0:
        return this.#select(instruction)
      case 1:
        return this.#isTarget() ? this.#disconnect() : this.#waitDisconnect()
      case 2:
        return this.#waitReselect(target)
      case 3:
        return this.#setClear(instruction, true)
      default:
        return this.#setClear(instruction, false)
    }
  }

  get #isSingleStep(): boolean {
    return (this.#registers.getUint8(reg.DCNTL) & reg.DCNTL_SSM) !== 0
  }

  #isTarget(): boolean {
    return (this.#registers.getUint8(reg.SCNTL0) & reg.SCNTL0_TRG) !== 0
  }

  #waitDisconnect(): boolean {
    const { bus } = this.#host
    this.#release()
    if (!bus.connected) return GO_ON
    // A target that asks for more does not disconnect (DSTAT, IID)
    return bus.phase === undefined || bus.acknowledging ? this.#pause('disconnect') : this.#fault(reg.DSTAT_IID)
  }

  /** DISCONNECT of the target role: it ceases to drive the bus. What holds the bus otherwise is a target of its own. */
  #disconnect(): boolean {
    const { bus } = this.#host
    this.#release()
    bus.clearAttention()
    return GO_ON
  }

  /** SELECT, and RESELECT in the target role, which no initiator answers: there is none but the chip. */
  #select(instruction: number): boolean {
    const { bus } = this.#host
    let id = (instruction >>> 16) & 0x0f
    if (instruction & (1 << 25)) {
      const offset = instruction & 0xffffff
      const entry = this.#host.fetch(this.#get(reg.DRS), (this.#get(reg.DSA) + signed24(offset)) >>> 0)
      if (entry === undefined) return this.#fault(reg.DSTAT_BF)
      id = (entry >>> 16) & 0x0f
      this.#registers.setUint8(reg.SCNTL3, entry >>> 24)
      this.#registers.setUint8(reg.SXFER, (entry >>> 8) & 0xff)
    }
    this.#release()
    if (bus.connected) return this.#alternate(instruction)
    this.#idle = 0
    this.#registers.setUint8(reg.SDID, id)
    if (!this.#isTarget() && bus.select(id, (instruction & (1 << 24)) !== 0)) this.#host.connect(id, false)
    else {
      this.#registers.setUint8(reg.SSTAT0, this.#registers.getUint8(reg.SSTAT0) | reg.SSTAT0_WOA)
      this.#unanswered = true
    }
    return GO_ON
  }

  /** Lets go of a connection that is over but for SACK/: a program that goes on to the next one expects it to end. */
  #release(): void {
    if (!this.#host.bus.ending) return
    this.#registers.setUint8(reg.SCNTL2, this.#registers.getUint8(reg.SCNTL2) & ~reg.SCNTL2_SDU)
    this.#host.bus.clearAcknowledge()
  }

  /** Where a SELECT goes on that lost the arbitration. */
  #alternate(instruction: number): boolean {
    const operand = this.#get(reg.DSPS)
    const address = instruction & (1 << 26) ? this.#get(reg.DSP) + signed24(operand) : operand
    this.#set(reg.DSP, address)
    return GO_ON
  }

  /** WAIT RESELECT, and WAIT SELECT in the target role: nobody selects the chip, and being reselected ends it at the other address. */
  #waitReselect(alternate: number): boolean {
    const { bus } = this.#host
    this.#release()
    const isTarget = this.#isTarget()
    if (bus.connected) {
      if (isTarget) this.#set(reg.DSP, alternate)
      return GO_ON
    }
    if (this.#registers.getUint8(reg.ISTAT0) & reg.ISTAT0_SIGP) {
      this.#set(reg.DSP, alternate)
      return GO_ON
    }
    const id = bus.reselect()
    if (id === undefined) return this.#pause('reselect')
    this.#idle = 0
    this.#host.connect(id, true)
    if (isTarget) this.#set(reg.DSP, alternate)
    return GO_ON
  }

  #setClear(instruction: number, value: boolean): boolean {
    const { bus } = this.#host
    if (instruction & (1 << 10)) this.#alu.carry = value
    if (instruction & (1 << 9)) this.#setRole(value)
    const lines = instruction & (reg.SOCL_ACK | reg.SOCL_ATN)
    if (lines === 0) return GO_ON
    const socl = this.#registers.getUint8(reg.SOCL)
    this.#registers.setUint8(reg.SOCL, value ? socl | lines : socl & ~lines)
    // They are an initiator's: the target role has them in SOCL only
    if (this.#isTarget()) return GO_ON
    if (instruction & (1 << 3)) {
      if (value) bus.setAttention()
      else bus.clearAttention()
    }
    if (instruction & (1 << 6) && !value) bus.clearAcknowledge()
    return GO_ON
  }

  #setRole(target: boolean): void {
    const scntl0 = this.#registers.getUint8(reg.SCNTL0)
    this.#registers.setUint8(reg.SCNTL0, target ? scntl0 | reg.SCNTL0_TRG : scntl0 & ~reg.SCNTL0_TRG)
  }

  // ---- read-modify-write and moves of registers (5.5) ----

  #registerOperation(instruction: number): boolean {
    const host = this.#host
    const opcode = (instruction >>> 27) & 7
    const register = ((instruction >>> 16) & 0x7f) | (instruction & 0x80)
    const operator = (instruction >>> 24) & 7
    const immediate = (instruction >>> 8) & 0xff
    const sfbr = this.#registers.getUint8(reg.SFBR)
    const source = opcode === 5 ? sfbr : operator === 0 ? 0 : host.readRegister(register)
    const operand = instruction & (1 << 23) && opcode !== 6 ? sfbr : immediate
    const result = this.#alu.run(operator, source, operand)
    if (opcode === 6) this.#registers.setUint8(reg.SFBR, result)
    else host.writeRegister(register, result)
    return GO_ON
  }

  // ---- transfer control (5.6) ----

  #transferControl(instruction: number, operand: number): boolean {
    const { bus } = this.#host
    const opcode = (instruction >>> 27) & 7
    if (opcode > 3 || this.#isIllegalControl(instruction)) return this.#fault(reg.DSTAT_IID)
    const onTrue = (instruction & (1 << 19)) !== 0
    const compares = (instruction & 0x00260000) !== 0
    let taken = onTrue
    if (compares) {
      if (instruction & (1 << 16) && bus.phase === undefined && bus.connected) return this.#pause('phase')
      taken = this.#compare(instruction, onTrue)
    }
    if (!taken) return GO_ON
    const address = instruction & (1 << 23) ? (this.#get(reg.DSP) + signed24(operand)) >>> 0 : operand
    switch (opcode) {
      case 0:
        this.#set(reg.DSP, address)
        break
      case 1:
        this.#set(reg.TEMP, this.#get(reg.DSP))
        this.#set(reg.DSP, address)
        break
      case 2:
        this.#set(reg.DSP, this.#get(reg.TEMP))
        break
      default:
        if (instruction & (1 << 20)) this.#host.interruptOnTheFly()
        else this.#host.dmaInterrupt(reg.DSTAT_SIR)
    }
    return GO_ON
  }

  /** Combinations of conditions that there are not (DSTAT, IID). */
  #isIllegalControl(instruction: number): boolean {
    const compares = instruction & ((1 << 18) | (1 << 17))
    if (instruction & (1 << 22) || (instruction & (1 << 21) && compares !== 0)) return true
    return this.#isTarget() && ((instruction & (1 << 16)) !== 0 || compares === ((1 << 18) | (1 << 17)))
  }

  /** Whether all comparisons come out as `wanted`: both must be false to branch on false (5.6.1, True/False Jump). */
  #compare(instruction: number, wanted: boolean): boolean {
    if (instruction & (1 << 21) && this.#alu.carry !== wanted) return false
    if (instruction & (1 << 17) && this.#isTarget()) {
      // A target compares with SATN/ instead of the phase
      if (this.#host.bus.attention !== wanted) return false
    } else if (instruction & (1 << 17)) {
      const phase = this.#host.bus.phase ?? reg.PHASE_DATA_OUT
      if ((phase === ((instruction >>> 24) & 7)) !== wanted) return false
    }
    if (instruction & (1 << 18)) {
      const mask = (~instruction >>> 8) & 0xff
      if (((this.#registers.getUint8(reg.SFBR) & mask) === (instruction & mask)) !== wanted) return false
    }
    return true
  }

  // ---- memory moves (5.7) and load and store (5.8) ----

  #memoryMove(instruction: number, source: number): boolean {
    const dsp = this.#get(reg.DSP)
    const target = this.#host.fetch(this.#get(reg.SFS), dsp)
    if (target === undefined) return this.#fault(reg.DSTAT_BF)
    this.#set(reg.DSP, dsp + 4)
    const length = instruction & 0xffffff
    this.#idle += length >>> 6
    this.#spent += length >>> MEMORY_SHIFT
    if (length === 0 || ((source ^ target) & 3) !== 0) return this.#fault(reg.DSTAT_IID)
    if (this.#host.copy(this.#get(reg.MMRS), source, this.#get(reg.MMWS), target, length)) return GO_ON
    return this.#fault(reg.DSTAT_BF)
  }

  #loadStore(instruction: number, operand: number): boolean {
    const host = this.#host
    const length = instruction & 7
    const register = (instruction >>> 16) & 0xff
    const relative = (instruction & (1 << 28)) !== 0
    const address = relative ? (this.#get(reg.DSA) + signed24(operand)) >>> 0 : operand
    const load = (instruction & (1 << 24)) !== 0
    const crosses = length === 0 || (register & 3) + length > 4
    if (crosses || (register & 3) !== (address & 3) || host.isRegister(address)) return this.#fault(reg.DSTAT_IID)
    const high = relative ? this.#get(reg.DRS) : this.#get(load ? reg.MMRS : reg.MMWS)
    const quiet = length === 4 && host.isQuiet(register)
    if (load) {
      const value = host.load(high, address, length)
      if (value === undefined) return this.#fault(reg.DSTAT_BF)
      if (quiet) this.#set(register, value)
      else for (let i = 0; i < length; i++) host.writeRegister(register + i, (value >>> (8 * i)) & 0xff)
      return GO_ON
    }
    // No register is read, which may clear it, for memory that is not there
    if (host.load(high, address, length) === undefined) return this.#fault(reg.DSTAT_BF)
    let value = quiet ? this.#get(register) : 0
    if (!quiet) for (let i = 0; i < length; i++) value |= host.readRegister(register + i) << (8 * i)
    host.store(high, address, length, value)
    return GO_ON
  }
}

/** Whether an instruction waits for a target: a block move, an I/O instruction but SET and CLEAR, a comparison of phases, INT. */
function needsTarget(instruction: number): boolean {
  const group = instruction >>> 30
  const opcode = (instruction >>> 27) & 7
  if (group === 1) return opcode < 3
  return group === 0 || (group === 2 && ((instruction & (1 << 17)) !== 0 || opcode === 3))
}
