/** Interrupts of the chip: DSTAT and SIST, stacked two deep, and the INTA/ pin (technical manual, 2.2.16). */
import * as reg from './registers.ts'

/**
 * The interrupt registers. While one interrupt has not been read away, those that come are stacked behind it and take its
 * place when SIP and DIP are clear again.
 */
export class InterruptUnit {
  readonly #registers: DataView
  readonly #pin: (asserted: boolean) => void
  #stackedDma = 0
  #stackedScsi = 0
  #asserted = false

  constructor(registers: DataView, pin: (asserted: boolean) => void) {
    this.#registers = registers
    this.#pin = pin
  }

  reset(): void {
    this.#stackedDma = 0
    this.#stackedScsi = 0
    this.update()
  }

  /** The interrupts that wait behind those of the registers: DSTAT, and SIST1 and SIST0. */
  get stacked(): readonly [dma: number, scsi: number] {
    return [this.#stackedDma, this.#stackedScsi]
  }

  /** Takes up what {@link stacked} gave, the registers being restored already. */
  restore(dma: number, scsi: number): void {
    this.#stackedDma = dma
    this.#stackedScsi = scsi
    this.update()
  }

  /** A DMA interrupt. */
  dma(bits: number): void {
    if (this.#pending()) this.#stackedDma |= bits
    else this.#registers.setUint8(reg.DSTAT, this.#dstat() | bits)
    this.update()
  }

  /** A SCSI interrupt. */
  scsi(sist0: number, sist1: number): void {
    const bits = sist0 | (sist1 << 8)
    if (this.#pending() && this.isFatal(sist0, sist1)) this.#stackedScsi |= bits
    else this.#registers.setUint16(reg.SIST0, this.#sist() | bits, true)
    this.update()
  }

  /** INTFLY: no SCRIPTS are stopped for it. */
  onTheFly(): void {
    this.#registers.setUint8(reg.ISTAT0, this.#registers.getUint8(reg.ISTAT0) | reg.ISTAT0_INTF)
    this.update()
  }

  /** Whether an interrupt stops SCRIPTS: CMP, SEL, RSL, GEN and HTH do so only where they are enabled. */
  isFatal(sist0: number, sist1: number): boolean {
    const enabled0 = this.#registers.getUint8(reg.SIEN0)
    const enabled1 = this.#registers.getUint8(reg.SIEN1)
    return (sist0 & (reg.SIST0_FATAL | enabled0)) !== 0 || (sist1 & (reg.SIST1_FATAL | enabled1)) !== 0
  }

  /** Reads DSTAT, which clears all but DFE. */
  readDstat(): number {
    const value = this.#dstat() | reg.DSTAT_DFE
    this.#registers.setUint8(reg.DSTAT, reg.DSTAT_DFE)
    this.#unstack()
    return value
  }

  /** Reads SIST0 or SIST1, which clears it. */
  readSist(index: 0 | 1): number {
    const value = this.#registers.getUint8(reg.SIST0 + index)
    this.#registers.setUint8(reg.SIST0 + index, 0)
    this.#unstack()
    return value
  }

  #dstat(): number {
    return this.#registers.getUint8(reg.DSTAT)
  }

  #sist(): number {
    return this.#registers.getUint16(reg.SIST0, true)
  }

  /** SCSI interrupts that count: of those that are not fatal, the enabled ones (2.2.16.4). */
  #scsiPending(): number {
    const enabled = this.#registers.getUint16(reg.SIEN0, true)
    return this.#sist() & (enabled | reg.SIST0_FATAL | (reg.SIST1_FATAL << 8))
  }

  #pending(): boolean {
    return (this.#dstat() & reg.DSTAT_INTERRUPTS) !== 0 || this.#scsiPending() !== 0
  }

  #unstack(): void {
    if (!this.#pending() && (this.#stackedDma | this.#stackedScsi) !== 0) {
      // The pin is high for a moment between two interrupts (2.2.16.5)
      this.#setPin(false)
      this.#registers.setUint8(reg.DSTAT, reg.DSTAT_DFE | this.#stackedDma)
      this.#registers.setUint16(reg.SIST0, this.#sist() | this.#stackedScsi, true)
      this.#stackedDma = 0
      this.#stackedScsi = 0
    }
    this.update()
  }

  /** Brings ISTAT and the pin up to date. */
  update(): void {
    const registers = this.#registers
    const dma = this.#dstat() & reg.DSTAT_INTERRUPTS
    const scsi = this.#scsiPending()
    const istat = registers.getUint8(reg.ISTAT0) & ~(reg.ISTAT0_DIP | reg.ISTAT0_SIP)
    registers.setUint8(reg.ISTAT0, istat | (dma ? reg.ISTAT0_DIP : 0) | (scsi ? reg.ISTAT0_SIP : 0))
    const onTheFly = (istat & reg.ISTAT0_INTF) !== 0
    const enabled = registers.getUint16(reg.SIEN0, true)
    const wanted = (dma & registers.getUint8(reg.DIEN)) !== 0 || (scsi & enabled) !== 0 || onTheFly
    // Masking, or SYNC_IRQD, keeps the next interrupt from the pin, not one that is there (2.2.16.4)
    const blocked = (registers.getUint8(reg.ISTAT1) & reg.ISTAT1_SI) !== 0
    const held = this.#asserted && ((dma | scsi) !== 0 || onTheFly)
    const quiet = (registers.getUint8(reg.DCNTL) & reg.DCNTL_IRQD) !== 0
    this.#setPin(!quiet && (held || (wanted && !blocked)))
  }

  #setPin(asserted: boolean): void {
    if (asserted === this.#asserted) return
    this.#asserted = asserted
    this.#pin(asserted)
  }
}
