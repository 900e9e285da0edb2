/** The task file: a drive's registers other than Data, Status and Command as their host reads and writes them [ATA8-APT 6]. */
import type { Saved } from '../machine.ts'
import {
  REG_COUNT,
  REG_DEVICE,
  REG_ERROR,
  REG_LBA_HIGH,
  REG_LBA_LOW,
  REG_LBA_MID,
  STATUS_BSY,
  STATUS_DRQ,
} from './registers.ts'
import { type Fields, takeNumber } from './saved.ts'

export class TaskFile {
  /** Registers of two bytes hold the previous content above the current one [ATA8-APT 6.3, HOB]. */
  features = 0
  count = 0
  lbaLow = 0
  lbaMid = 0
  lbaHigh = 0
  device = 0
  error = 0
  status = 0

  /** Reads a command block register other than Data and Status. */
  readRegister(register: number, hob: boolean): number {
    const shift = hob ? 8 : 0
    switch (register) {
      case REG_ERROR:
        return this.error
      case REG_COUNT:
        return (this.count >>> shift) & 0xff
      case REG_LBA_LOW:
        return (this.lbaLow >>> shift) & 0xff
      case REG_LBA_MID:
        return (this.lbaMid >>> shift) & 0xff
      case REG_LBA_HIGH:
        return (this.lbaHigh >>> shift) & 0xff
      case REG_DEVICE:
        return this.device
      default:
        return this.status
    }
  }

  /** Writes a command block register other than Data and Command; while the task file is the drive's, nothing happens. */
  writeRegister(register: number, value: number): void {
    if ((this.status & (STATUS_BSY | STATUS_DRQ)) !== 0) return
    switch (register) {
      case REG_ERROR:
        this.features = ((this.features << 8) | value) & 0xffff
        break
      case REG_COUNT:
        this.count = ((this.count << 8) | value) & 0xffff
        break
      case REG_LBA_LOW:
        this.lbaLow = ((this.lbaLow << 8) | value) & 0xffff
        break
      case REG_LBA_MID:
        this.lbaMid = ((this.lbaMid << 8) | value) & 0xffff
        break
      case REG_LBA_HIGH:
        this.lbaHigh = ((this.lbaHigh << 8) | value) & 0xffff
        break
      case REG_DEVICE:
        this.device = value
    }
  }

  save(): Fields {
    return {
      features: this.features,
      count: this.count,
      lbaLow: this.lbaLow,
      lbaMid: this.lbaMid,
      lbaHigh: this.lbaHigh,
      device: this.device,
      error: this.error,
      status: this.status,
    }
  }

  restore(state: Saved): void {
    const byte = (key: string) => takeNumber(state, key, 0xff)
    const word = (key: string) => takeNumber(state, key, 0xffff)
    this.features = word('features')
    this.count = word('count')
    this.lbaLow = word('lbaLow')
    this.lbaMid = word('lbaMid')
    this.lbaHigh = word('lbaHigh')
    this.device = byte('device')
    this.error = byte('error')
    this.status = byte('status')
  }
}
