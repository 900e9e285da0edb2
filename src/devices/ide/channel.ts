/** One channel: a cable with up to two drives, the register decode, and the interrupt line [ATA8-APT 6, 9]. */
import { all, type Now } from '../../block/now.ts'
import type { Bus, Saved, Stream } from '../machine.ts'
import { BusMaster } from './busmaster.ts'
import type { Drive } from './drive.ts'
import { PioData } from './pio.ts'
import { CONTROL_HOB, CONTROL_NIEN, CONTROL_SRST, DEVICE_DEV, REG_DATA, REG_DEVICE, REG_STATUS } from './registers.ts'
import { type Fields, takeBoolean, takeFields, takeNumber } from './saved.ts'

const EXECUTE_DEVICE_DIAGNOSTIC = 0x90
/** What an empty cable reads as: the host pulls DD7 down, so that nobody waits for BSY [ATA8-APT 7.2.3]. */
const FLOATING = 0x7f
const NO_DATA = new PioData()

export class Channel {
  readonly master: BusMaster
  /** What passes through the Data register. */
  readonly stream = { data: NO_DATA, onSwitch: () => {} } satisfies Stream
  readonly #bus: Bus
  readonly #line: number
  readonly #drives: (Drive | undefined)[] = [undefined, undefined]
  #unit: 0 | 1 = 0
  /** The drive that DEV selects, if it is there. */
  #selected: Drive | undefined
  #control = 0
  #intrq = false
  /** The selected drive while the channel's ports are decoded: whose Data register it is. */
  #data: Drive | undefined
  #decoded = true

  /** A channel on legacy interrupt line `line`. */
  constructor(bus: Bus, line: number, busMasterEnabled: () => boolean) {
    this.#bus = bus
    this.#line = line
    this.master = new BusMaster(bus.memory, busMasterEnabled)
  }

  get drives(): readonly (Drive | undefined)[] {
    return this.#drives
  }

  /** Whether the controller decodes the channel's ports (IDETIM bit 15). */
  get decoded(): boolean {
    return this.#decoded
  }

  set decoded(decoded: boolean) {
    this.#decoded = decoded
    this.#connect()
  }

  #connect(): void {
    this.#data = this.#decoded ? this.#selected : undefined
    this.stream.data = this.#data?.pio ?? NO_DATA
    this.stream.onSwitch()
  }

  /** Puts a drive, made by `make`, on the cable. */
  attach<D extends Drive>(unit: 0 | 1, make: (cable: Drive['cable']) => D): D {
    const drive = make({
      clock: this.#bus.clock,
      interrupt: () => this.#updateInterrupt(),
      request: () => {
        this.master.request(drive)
      },
    })
    this.#drives[unit] = drive
    drive.reset('power')
    this.#select(this.#unit)
    return drive
  }

  #select(unit: 0 | 1): void {
    this.#unit = unit
    this.#selected = this.#drives[unit]
    this.#connect()
    this.#updateInterrupt()
  }

  #updateInterrupt(): void {
    const level = this.#selected?.interrupt === true && (this.#control & CONTROL_NIEN) === 0
    if (level === this.#intrq) return
    this.#intrq = level
    if (level) this.master.interrupted()
    this.#bus.irq(this.#line, level)
  }

  /** Reads 1, 2 or 4 bytes of the command block at `offset`, unsigned. */
  read(offset: number, width: number): number {
    return offset === REG_DATA && this.#data !== undefined ? this.#data.readData(width) : this.#read(offset, width)
  }

  /** Writes 1, 2 or 4 bytes of the command block. */
  write(offset: number, width: number, value: number): void {
    if (offset !== REG_DATA) this.#write(offset, width, value)
    else if (this.#data !== undefined) this.#data.writeData(width, value)
  }

  #read(offset: number, width: number): number {
    if (offset === REG_DATA) {
      if (!this.#decoded) return 2 ** (8 * width) - 1
      return width === 4 ? 0xffff_ff7f : width === 2 ? 0xff7f : FLOATING
    }
    if (width === 1) return this.#readRegister(offset)
    let value = 0
    for (let i = 0; i < width; i++) value += (offset + i < 8 ? this.#readRegister(offset + i) : 0xff) * 2 ** (8 * i)
    return value
  }

  #write(offset: number, width: number, value: number): void {
    if (!this.#decoded) return
    for (let i = 0; i < width && offset + i < 8; i++) this.#writeRegister(offset + i, (value >>> (8 * i)) & 0xff)
  }

  /** Reads the control block: Alternate Status, which answers no interrupt. */
  readControl(): number {
    if (!this.#decoded) return 0xff
    if (this.#selected !== undefined) return this.#selected.status
    return this.#absent(REG_STATUS)
  }

  /** Writes Device Control. */
  writeControl(value: number): void {
    if (!this.#decoded) return
    const before = this.#control
    this.#control = value
    if ((value & CONTROL_SRST & ~before) !== 0) {
      for (const drive of this.#drives) drive?.reset('soft')
      this.#select(0)
    } else if ((before & CONTROL_SRST & ~value) !== 0) {
      for (const drive of this.#drives) drive?.endReset()
    }
    this.#updateInterrupt()
  }

  #readRegister(register: number): number {
    if (!this.#decoded) return 0xff
    const drive = this.#selected
    if (drive === undefined) return this.#absent(register)
    if (register === REG_STATUS) return drive.readStatus()
    return drive.readRegister(register, (this.#control & CONTROL_HOB) !== 0)
  }

  // A lone device 0 answers for device 1: with its own registers, and a Status of zero [ATA8-APT 9.16.1]
  #absent(register: number): number {
    const other = this.#drives[0]
    if (other === undefined) return FLOATING
    return register === REG_STATUS ? 0 : other.readRegister(register, (this.#control & CONTROL_HOB) !== 0)
  }

  #writeRegister(register: number, value: number): void {
    this.#control &= ~CONTROL_HOB
    const [device0, device1] = this.#drives
    if (register === REG_STATUS) {
      if (value === EXECUTE_DEVICE_DIAGNOSTIC) this.#diagnose()
      else this.#selected?.writeCommand(value)
      return
    }
    device0?.writeRegister(register, value)
    device1?.writeRegister(register, value)
    if (register === REG_DEVICE) this.#select((value & DEVICE_DEV) === 0 ? 0 : 1)
  }

  // Both devices carry it out, whichever is selected; device 0 reports [ATA8-ACS 7.9]
  #diagnose(): void {
    let done = false
    for (const drive of this.#drives) if (drive?.diagnose()) done = true
    if (!done) return
    this.#select(0)
    this.#drives[0]?.announce()
  }

  /** RST#: everything as after power-on; completes when the host let go of every request. */
  reset(): Now<void> {
    this.#control = 0
    this.master.reset()
    const letGo = this.#drives.map((drive) => drive?.reset('power'))
    this.#select(0)
    return all(letGo)
  }

  save(): Fields {
    return {
      unit: this.#unit,
      control: this.#control,
      intrq: this.#intrq,
      master: this.master.save(),
      drives: this.#drives.map((drive) => drive?.save() ?? null),
    }
  }

  /** Takes up a state; the interrupt controller's is the emulator's to restore. */
  restore(state: Saved): void {
    const fields = takeFields(state, 'channel')
    const drives = fields.drives
    if (!Array.isArray(drives) || drives.length !== 2) throw new RangeError('the saved channel has not two drives')
    for (const unit of [0, 1]) {
      if ((this.#drives[unit] === undefined) !== (drives[unit] === null)) {
        throw new RangeError(
          `drive ${unit} of the saved channel is ${drives[unit] === null ? 'absent' : 'present'} there`,
        )
      }
    }
    const unit = takeNumber(state, 'unit', 1)
    this.#control = takeNumber(state, 'control', 0xff)
    const intrq = takeBoolean(state, 'intrq')
    this.master.restore(fields.master ?? null)
    for (const index of [0, 1]) this.#drives[index]?.restore(drives[index])
    this.#unit = unit === 0 ? 0 : 1
    this.#selected = this.#drives[this.#unit]
    this.#connect()
    this.#intrq = intrq
  }

  /** Goes on with what the state was in the middle of, when the bus runs. */
  resume(): void {
    this.#updateInterrupt()
    for (const drive of this.#drives) drive?.resume()
  }
}
