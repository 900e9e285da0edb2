/** The host's side of the ATA protocols [ATA8-APT 9], step by step as the standard has it, on the fake machine. */
import { expect } from 'vitest'
import { asDevice, type BlockDriver } from '../../../src/block/device.ts'
import { Disk, type DiskOptions } from '../../../src/block/disk.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { type IdeDrive, type Piix, type PiixOptions, piixIde } from '../../../src/devices/ide/index.ts'
import { plug, type Slot, type TestBus, testBus } from '../machine.ts'

export const BSY = 0x80
export const DRDY = 0x40
export const DF = 0x20
export const DSC = 0x10
export const DRQ = 0x08
export const ERR = 0x01

export const UNC = 0x40
export const IDNF = 0x10
export const ABRT = 0x04

/** Status of a disk without a command, and with data to move. */
export const READY = DRDY | DSC
export const READY_DRQ = READY | DRQ

/** What a command is given; 48-bit where the command is. */
export interface TaskFile {
  features?: number
  count?: number
  lba?: number
  cylinder?: number
  head?: number
  sector?: number
  unit?: 0 | 1
}

/** Bus master status: interrupt and active. */
export const BM_ACTIVE = 1
export const BM_ERROR = 2
export const BM_INTERRUPT = 4

/** One region of a PRD table: address, count (0 for 64 KiB), end mark. */
export type Region = readonly [at: number, count: number, end?: boolean]

export const PRD_TABLE = 0x1000

/** One channel, as a driver has it. */
export class Host {
  readonly slot: Slot<Piix>
  readonly command: number
  readonly control: number
  readonly master: number
  readonly line: number

  constructor(slot: Slot<Piix>, channel: 0 | 1 = 0) {
    this.slot = slot
    this.command = channel === 0 ? 0x1f0 : 0x170
    this.control = channel === 0 ? 0x3f6 : 0x376
    this.line = 14 + channel
    this.master = slot.base(4) + 8 * channel
  }

  get bus(): TestBus {
    return this.slot.bus
  }

  /** Level of INTRQ at the interrupt controller. */
  get intrq(): boolean {
    return this.bus.irqLevel(this.line)
  }

  /** Times that INTRQ rose. */
  get edges(): number {
    return this.bus.irqEdges(this.line)
  }

  in(register: number): number {
    return this.slot.in8(this.command + register)
  }

  out(register: number, value: number): void {
    this.slot.out8(this.command + register, value)
  }

  /** Alternate Status. */
  get alt(): number {
    return this.slot.in8(this.control)
  }

  /** Status, which answers the interrupt. */
  get status(): number {
    return this.in(7)
  }

  get error(): number {
    return this.in(1)
  }

  select(unit: 0 | 1): void {
    this.out(6, 0xa0 | (unit << 4))
  }

  /** The address in the task file, 28-bit. */
  get lba28(): number {
    return this.in(3) | (this.in(4) << 8) | (this.in(5) << 16) | ((this.in(6) & 0x0f) << 24)
  }

  /** The address in the task file, 48-bit, read with HOB. */
  get lba48(): number {
    this.slot.out8(this.control, 0x80)
    const upper = this.in(3) + this.in(4) * 2 ** 8 + this.in(5) * 2 ** 16
    this.slot.out8(this.control, 0)
    return upper * 2 ** 24 + this.in(3) + this.in(4) * 2 ** 8 + this.in(5) * 2 ** 16
  }

  /** Count, 48-bit. */
  get count48(): number {
    this.slot.out8(this.control, 0x80)
    const upper = this.in(2)
    this.slot.out8(this.control, 0)
    return (upper << 8) | this.in(2)
  }

  /** Writes the task file and a command with 28-bit (or CHS) parameters. */
  issue(opcode: number, taskFile: TaskFile = {}): void {
    const { features = 0, count = 0, lba = 0, unit = 0 } = taskFile
    if (taskFile.cylinder === undefined) {
      this.out(6, 0xe0 | (unit << 4) | ((lba >>> 24) & 0x0f))
      this.out(1, features)
      this.out(2, count)
      this.out(3, lba & 0xff)
      this.out(4, (lba >>> 8) & 0xff)
      this.out(5, (lba >>> 16) & 0xff)
    } else {
      this.out(6, 0xa0 | (unit << 4) | (taskFile.head ?? 0))
      this.out(1, features)
      this.out(2, count)
      this.out(3, taskFile.sector ?? 1)
      this.out(4, taskFile.cylinder & 0xff)
      this.out(5, taskFile.cylinder >>> 8)
    }
    this.out(7, opcode)
  }

  /** Writes the task file and a command with 48-bit parameters. */
  issueExt(opcode: number, { features = 0, count = 0, lba = 0, unit = 0 }: TaskFile = {}): void {
    this.out(6, 0xe0 | (unit << 4))
    const upper = Math.floor(lba / 2 ** 24)
    this.out(1, features >>> 8)
    this.out(2, count >>> 8)
    this.out(3, upper & 0xff)
    this.out(4, (upper >>> 8) & 0xff)
    this.out(5, (upper >>> 16) & 0xff)
    this.out(1, features & 0xff)
    this.out(2, count & 0xff)
    this.out(3, lba & 0xff)
    this.out(4, (lba >>> 8) & 0xff)
    this.out(5, (lba >>> 16) & 0xff)
    this.out(7, opcode)
  }

  /** REP INSW of one DRQ block. */
  insw(bytes: number): Uint8Array {
    const data = new Uint8Array(bytes)
    const view = new DataView(data.buffer)
    for (let i = 0; i < bytes; i += 2) view.setUint16(i, this.slot.in16(this.command), true)
    return data
  }

  /** REP OUTSW of one DRQ block. */
  outsw(data: Uint8Array): void {
    const view = new DataView(data.buffer, data.byteOffset, data.length)
    for (let i = 0; i < data.length; i += 2) this.slot.out16(this.command, view.getUint16(i, true))
  }

  /** The PIO data-in protocol after the command was written: blocks of `block` bytes, an interrupt before each. */
  pioIn(length: number, block = 512): Uint8Array {
    const data = new Uint8Array(length)
    for (let at = 0; at < length; at += block) {
      expect(this.intrq, `interrupt before the block at ${at}`).toBe(true)
      expect(this.alt, `status before the block at ${at}`).toBe(READY_DRQ)
      expect(this.status).toBe(READY_DRQ)
      expect(this.intrq).toBe(false)
      data.set(this.insw(Math.min(block, length - at)), at)
    }
    expect(this.intrq, 'no interrupt after the last block').toBe(false)
    expect(this.status).toBe(READY)
    return data
  }

  /** The PIO data-out protocol: no interrupt before the first block, one after each. */
  pioOut(data: Uint8Array, block = 512): void {
    for (let at = 0; at < data.length; at += block) {
      expect(this.intrq, `interrupt before the block at ${at}`).toBe(at > 0)
      expect(this.alt).toBe(READY_DRQ)
      expect(this.status).toBe(READY_DRQ)
      this.outsw(data.subarray(at, at + block))
    }
    expect(this.intrq, 'interrupt at the end').toBe(true)
    expect(this.status).toBe(READY)
    expect(this.intrq).toBe(false)
  }

  /** The end of a non-data command that went well. */
  done(): void {
    expect(this.intrq).toBe(true)
    expect(this.status).toBe(READY)
    expect(this.intrq).toBe(false)
  }

  /** The end of a command with these error bits. */
  failed(error: number): void {
    expect(this.alt & BSY, 'not busy any more').toBe(0)
    expect(this.intrq).toBe(true)
    expect(this.status & (BSY | DRQ | ERR)).toBe(ERR)
    expect(this.error).toBe(error)
    expect(this.intrq).toBe(false)
  }

  /** IDENTIFY DEVICE as words. */
  identify(unit: 0 | 1 = 0): DataView {
    this.issue(0xec, { unit })
    return new DataView(this.pioIn(512).buffer)
  }

  /** Writes a PRD table at {@link PRD_TABLE}; the last region is marked if none says. */
  prd(regions: readonly Region[], at = PRD_TABLE): void {
    const { data } = this.bus.memory
    regions.forEach(([address, count, end], i) => {
      data.setUint32(at + 8 * i, address, true)
      const last = end ?? (i === regions.length - 1 && regions.every((region) => region[2] === undefined))
      data.setUint32(at + 8 * i + 4, (count | (last ? 0x8000_0000 : 0)) >>> 0, true)
    })
    this.slot.out32(this.master + 4, at)
  }

  /** Starts the bus master: `toMemory` for reads. */
  start(toMemory: boolean): void {
    this.slot.out8(this.master, toMemory ? 8 : 0)
    this.slot.out8(this.master + 2, 0x06)
    this.slot.out8(this.master, toMemory ? 9 : 1)
  }

  stop(): void {
    this.slot.out8(this.master, 0)
  }

  get masterStatus(): number {
    return this.slot.in8(this.master + 2)
  }

  /** A whole DMA command, checked from end to end. */
  dma(issue: () => void, regions: readonly Region[], toMemory: boolean): void {
    this.prd(regions)
    issue()
    expect(this.alt & (BSY | DRQ)).toBe(DRQ)
    this.start(toMemory)
    expect(this.masterStatus & 7).toBe(BM_INTERRUPT)
    expect(this.status).toBe(READY)
    this.stop()
    this.slot.out8(this.master + 2, BM_INTERRUPT)
  }

  /** SRST, for as long as it takes to write it. */
  softReset(): void {
    this.slot.out8(this.control, 0x04)
    this.slot.out8(this.control, 0x00)
  }

  ram(at: number, length: number): Uint8Array {
    return this.bus.memory.ram.subarray(at, at + length)
  }
}

/** A disk over `driver`, or over memory of so many bytes. */
export function diskOf(driver: BlockDriver | number, options: DiskOptions = {}): Disk {
  return new Disk(asDevice(typeof driver === 'number' ? new Memory(driver) : driver), options)
}

/** A hard disk of `driver`, or of memory of so many bytes. */
export function harddisk(driver: BlockDriver | number, options: DiskOptions & Partial<IdeDrive> = {}): IdeDrive {
  return { media: 'disk', ...options, disk: diskOf(driver, options) }
}

/** A machine with these drives. */
export function machine(drives: PiixOptions['drives'], model?: 'piix3' | 'piix4', ramSize?: number): Slot<Piix> {
  const bus = testBus(ramSize === undefined ? {} : { ramSize })
  return plug(bus, piixIde(model === undefined ? { drives } : { model, drives }))
}

/** The primary channel of a machine with one disk of `driver`, or of memory of so many bytes. */
export function host(driver: BlockDriver | number = 1 << 20, options: DiskOptions & Partial<IdeDrive> = {}): Host {
  return new Host(machine([harddisk(driver, options)]))
}

/** Bytes that say where they are: each sector of 512 is filled from its number on. */
export function pattern(lba: number, sectors: number): Uint8Array {
  const bytes = new Uint8Array(512 * sectors)
  for (let sector = 0; sector < sectors; sector++) {
    const first = (lba + sector) * 7 + ((lba + sector) >>> 8)
    const at = sector * 512
    for (let i = 0; i < 512; i++) bytes[at + i] = first + i * 3 + (i >>> 8)
  }
  return bytes
}
