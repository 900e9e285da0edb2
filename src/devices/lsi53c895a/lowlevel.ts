/** Arbitration, selection and the handshake of every byte, done through registers instead of SCRIPTS: what the manual calls low level mode (chapter 4, SCNTL0, SCNTL1, SOCL, SBCL, STEST2). */
import { bytesVec } from '../../block/iovec.ts'
import { isLater } from '../../block/now.ts'
import type { ScsiBus } from './bus.ts'
import * as reg from './registers.ts'

/** What low level mode needs of the chip around it. */
export interface LowLevelHost {
  readonly registers: DataView
  readonly bus: ScsiBus
  /** Whether a reset of the bus is still under way. */
  readonly resetting: boolean
  scsiInterrupt(sist0: number, sist1: number): void
  connect(id: number, reselected: boolean): void
}

/** Lines of SOCL that a role drives; a test mode drives them all. */
const INITIATOR_LINES = reg.SOCL_ACK | reg.SOCL_BSY | reg.SOCL_SEL | reg.SOCL_ATN
const TARGET_LINES = reg.SOCL_REQ | reg.SOCL_BSY | reg.SOCL_SEL | reg.SOCL_PHASE

/** The bus as registers show and drive it. Its state is in the registers: AIP while an arbitration is won and not used yet, ILF while SIDL has the byte that the target offers. */
export class LowLevel {
  readonly #host: LowLevelHost
  readonly #registers: DataView
  #byte = new Uint8Array(1)
  /** Set while the byte that the handshake is about comes or goes later. */
  #waiting: Promise<number> | undefined

  constructor(host: LowLevelHost) {
    this.#host = host
    this.#registers = host.registers
  }

  /** Whether low level mode is on: no SCRIPTS run meanwhile. */
  get on(): boolean {
    return this.#has(reg.STEST2, reg.STEST2_LOW)
  }

  /** Whether the chip has won an arbitration by itself and holds the bus for what follows. */
  get arbitrated(): boolean {
    return !this.#host.bus.connected && this.#has(reg.SSTAT0, reg.SSTAT0_AIP)
  }

  /** Whether CON is set: connected, arbitration won, or forced so for a test in loopback. */
  get connected(): boolean {
    return (
      this.#host.bus.connected ||
      this.arbitrated ||
      (this.#has(reg.STEST2, reg.STEST2_SLB) && this.#has(reg.SCNTL1, reg.SCNTL1_CON))
    )
  }

  /** Forgets a handshake that a reset has ended. */
  reset(): void {
    this.#waiting = undefined
    // The old one may still be filled.
    this.#byte = new Uint8Array(1)
    this.#change(reg.SSTAT0, reg.SSTAT0_AIP | reg.SSTAT0_ILF, 0)
    this.#set(reg.SOCL, 0)
  }

  /** The sequence that START asks for, as soon as the bus is free; START is set in SCNTL0 until then. */
  start(): void {
    const { bus, resetting } = this.#host
    const scntl0 = this.#get(reg.SCNTL0)
    if (!(scntl0 & reg.SCNTL0_START) || this.connected || resetting) return
    this.#change(reg.SCNTL0, reg.SCNTL0_START, 0)
    const mode = scntl0 & reg.SCNTL0_ARB
    if (mode === 0) {
      this.#change(reg.SSTAT0, reg.SSTAT0_LOA, reg.SSTAT0_AIP)
      this.#host.scsiInterrupt(reg.SIST0_CMP, 0)
    } else if (mode === reg.SCNTL0_ARB) {
      this.#change(reg.SSTAT0, reg.SSTAT0_LOA, reg.SSTAT0_WOA)
      this.#change(reg.SCNTL1, reg.SCNTL1_IARB, 0)
      const id = this.#get(reg.SDID) & 0x0f
      // In the target role it reselects an initiator, and there is none but the chip itself
      if (!(scntl0 & reg.SCNTL0_TRG) && bus.select(id, (scntl0 & reg.SCNTL0_WATN) !== 0)) {
        this.#host.connect(id, false)
        this.#host.scsiInterrupt(reg.SIST0_CMP, 0)
      } else this.#host.scsiInterrupt(0, reg.SIST1_STO)
    }
  }

  /** CON was written as 0: the chip lets go of a bus that it has only arbitrated for. */
  letGo(): void {
    this.#change(reg.SSTAT0, reg.SSTAT0_AIP, 0)
  }

  /** Lets a target reselect that waits for it, if the chip answers to that: without SCRIPTS it does so by itself. */
  answer(): void {
    const { bus, resetting } = this.#host
    if (!this.on || this.connected || resetting || !bus.isReselecting || !this.#has(reg.SCID, reg.SCID_RRE)) return
    const own = 1 << (this.#get(reg.SCID) & 0x0f)
    if (!(this.#registers.getUint16(reg.RESPID0, true) & own)) return
    const id = bus.reselect()
    if (id === undefined) return
    this.#host.connect(id, true)
    this.#host.scsiInterrupt(reg.SIST0_RSL, 0)
  }

  /** SOCL is written. */
  control(value: number): void {
    const { bus } = this.#host
    const old = this.#get(reg.SOCL)
    this.#set(reg.SOCL, value)
    if (this.arbitrated) this.#select(value, old)
    if (!bus.connected || this.#has(reg.SCNTL0, reg.SCNTL0_TRG)) return
    const { on } = this
    if (value & reg.SOCL_ATN) {
      if (!bus.attention) bus.setAttention()
    } else if (on) bus.negateAttention()
    const acknowledge = value & reg.SOCL_ACK
    if (on && acknowledge && !(old & reg.SOCL_ACK)) this.#acknowledge()
    // A byte that is only offered in SIDL is not acknowledged by what else is written here
    if (acknowledge || (on && !(old & reg.SOCL_ACK) && this.#latched())) return
    if (on) this.#change(reg.SSTAT0, reg.SSTAT0_ILF, 0)
    bus.clearAcknowledge()
  }

  /** SBCL: the control lines as they are. */
  get controlLines(): number {
    const { bus } = this.#host
    const all = this.#has(reg.STEST2, reg.STEST2_SLB | reg.STEST2_SCE)
    const socl = this.#get(reg.SOCL)
    const driven = socl & (all ? 0xff : this.#has(reg.SCNTL0, reg.SCNTL0_TRG) ? TARGET_LINES : INITIATOR_LINES)
    if (!bus.connected) {
      if (this.arbitrated) return driven | (socl & reg.SOCL_SEL ? 0 : reg.SOCL_BSY)
      return all ? driven : 0
    }
    const others =
      reg.SOCL_BSY | (bus.acknowledging && !this.#latched() ? reg.SOCL_ACK : 0) | (bus.attention ? reg.SOCL_ATN : 0)
    if (!this.on) return others | (bus.phase === undefined ? 0 : reg.SOCL_REQ | bus.phase)
    if (driven & reg.SOCL_SEL) return others | driven
    const phase = this.#offer()
    const request = phase === undefined || socl & reg.SOCL_ACK ? 0 : reg.SOCL_REQ
    return others | driven | request | (phase ?? 0)
  }

  /** SBDL: the data lines as they are. */
  get dataLines(): number {
    if (this.on && this.#host.bus.connected) {
      const phase = this.#offer()
      if (phase !== undefined && phase & 1) return this.#get(reg.SIDL)
    }
    if (this.#has(reg.SCNTL1, reg.SCNTL1_ADB)) return this.#registers.getUint16(reg.SODL, true)
    return this.arbitrated ? 1 << (this.#get(reg.SCID) & 0x0f) : 0
  }

  /** Low level selection: with SSEL/ and without SBSY/, the data lines say whom. */
  #select(value: number, old: number): void {
    const { bus } = this.#host
    if (!(value & reg.SOCL_SEL)) {
      if (old & reg.SOCL_SEL) this.letGo()
      return
    }
    if (value & reg.SOCL_BSY || !this.#has(reg.SCNTL1, reg.SCNTL1_ADB) || this.#host.resetting) return
    const own = 1 << (this.#get(reg.SCID) & 0x0f)
    const other = this.#registers.getUint16(reg.SODL, true) & ~own
    const id = 31 - Math.clz32(other)
    if (other === 0 || other !== 1 << id || !bus.select(id, (value & reg.SOCL_ATN) !== 0)) return
    this.#host.connect(id, false)
  }

  /** The phase of the byte that the target asks for, or offers in SIDL; undefined while it does not. */
  #offer(): number | undefined {
    const { bus } = this.#host
    if (this.#latched() || this.#has(reg.SOCL, reg.SOCL_ACK)) return this.#get(reg.SSTAT1) & 7
    const { phase } = bus
    if (phase === undefined || this.#waiting !== undefined) return undefined
    this.#change(reg.SSTAT1, 7, phase)
    if (!(phase & 1)) return phase
    const moved = phase === reg.PHASE_DATA_IN ? bus.transfer(bytesVec(this.#byte)) : bus.exchange(this.#byte)
    if (isLater(moved)) {
      this.#wait(moved, (count) => {
        if (count > 0) this.#latch()
      })
      return undefined
    }
    // The target has gone on to its status
    if (moved === 0) return undefined
    this.#latch()
    return phase
  }

  /** Whether SIDL has a byte of the target's that is not acknowledged yet. */
  #latched(): boolean {
    return this.on && this.#has(reg.SSTAT0, reg.SSTAT0_ILF)
  }

  #latch(): void {
    this.#set(reg.SIDL, this.#byte[0]!)
    this.#set(reg.SFBR, this.#byte[0]!)
    this.#change(reg.SSTAT0, 0, reg.SSTAT0_ILF)
  }

  /** SACK/ is asserted: the byte is taken, or given from SODL. */
  #acknowledge(): void {
    const { bus } = this.#host
    // The line is up already, and hides what the target offers
    this.#change(reg.SOCL, reg.SOCL_ACK, 0)
    const phase = this.#offer()
    this.#change(reg.SOCL, 0, reg.SOCL_ACK)
    if (phase === undefined || phase & 1) return
    this.#byte[0] = this.#has(reg.SCNTL1, reg.SCNTL1_ADB) ? this.#get(reg.SODL) : 0
    if (phase === reg.PHASE_DATA_OUT) {
      const moved = bus.transfer(bytesVec(this.#byte))
      if (isLater(moved)) this.#wait(moved)
      return
    }
    const { attention } = bus
    bus.exchange(this.#byte)
    // SATN/ is the program's here: as long as it stays, the target takes another message byte
    if (attention && bus.connected) bus.setAttention()
  }

  #wait(moved: Promise<number>, then?: (count: number) => void): void {
    this.#waiting = moved
    void moved.then((count) => {
      if (this.#waiting !== moved) return
      this.#waiting = undefined
      then?.(count)
    })
  }

  #has(register: number, bits: number): boolean {
    return (this.#registers.getUint8(register) & bits) !== 0
  }

  #get(register: number): number {
    return this.#registers.getUint8(register)
  }

  #set(register: number, value: number): void {
    this.#registers.setUint8(register, value)
  }

  #change(register: number, clear: number, set: number): void {
    this.#registers.setUint8(register, (this.#registers.getUint8(register) & ~clear) | set)
  }
}
