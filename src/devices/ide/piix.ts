/**
 * The IDE function of Intel's PIIX3 (82371SB) and PIIX4 (82371AB) in compatibility mode: both channels at the ports and interrupt
 * lines of the PC/AT, and a bus master for each behind BAR 4. Sections are those of the 82371SB/82371FB datasheet.
 */
import { BlockError } from '../../block/error.ts'
import { all, type Now } from '../../block/now.ts'
import type { Bus, PciDevice, Saved, Window } from '../machine.ts'
import { PciConfig } from '../pci.ts'
import type { MediumUnit } from '../scsi/index.ts'
import { Channel } from './channel.ts'
import type { Cable, Drive } from './drive.ts'
import { takeBytes, takeFields } from './saved.ts'

/**
 * Which chip the function says it is: the 82371FB (`piix`), whose slave shares its master's timing; the 82371SB (`piix3`); or the
 * 82371AB (`piix4`), which does Ultra DMA up to 33 MB/s, the others multiword DMA.
 */
export type PiixModel = 'piix' | 'piix3' | 'piix4'

const INTEL = 0x8086
const DEVICES = { piix: 0x1230, piix3: 0x7010, piix4: 0x7111 } as const
const REVISIONS = { piix: 2, piix3: 0, piix4: 1 } as const
/** Mass storage, IDE, a bus master whose channels stay in compatibility mode (2.3.5 to 2.3.7). */
const CLASS = 0x010180

// Timing registers (2.3.13, 2.3.14; 82371AB 4.1.14, 4.1.15), which bind a real cable and are merely kept here
const IDETIM = 0x40
const SIDETIM = 0x44
const UDMACTL = 0x48
/** IDETIM bit 15, in its second byte: the channel's ports are decoded. Firmware sets it; here it is set from the start. */
const DECODE_ENABLE = 0x80

const BUS_MASTER_BAR = 4
const BUS_MASTER_SIZE = 16
const COMMAND_MASK = 0x0005

const PORTS = [
  { command: 0x1f0, control: 0x3f6, line: 14 },
  { command: 0x170, control: 0x376, line: 15 },
] as const

function configuration(model: PiixModel): PciConfig {
  const timing = { at: IDETIM, bytes: Uint8Array.of(0, 0x80, 0, 0x80), writable: Uint8Array.of(0xff, 0xff, 0xff, 0xff) }
  const slave = { at: SIDETIM, bytes: Uint8Array.of(0), writable: Uint8Array.of(0xff) }
  const ultra = {
    at: UDMACTL,
    bytes: Uint8Array.of(0, 0, 0, 0),
    writable: Uint8Array.of(0x0f, 0, 0x33, 0x33),
  }
  return new PciConfig({
    vendorId: INTEL,
    deviceId: DEVICES[model],
    subsystemVendorId: 0,
    subsystemId: 0,
    revision: REVISIONS[model],
    classCode: CLASS,
    bars: [{ index: BUS_MASTER_BAR, space: 'io', size: BUS_MASTER_SIZE }],
    commandMask: COMMAND_MASK,
    registers: [
      { at: 0x06, bytes: Uint8Array.of(0x80, 0x02) },
      timing,
      ...(model === 'piix' ? [] : [slave]),
      ...(model === 'piix4' ? [ultra] : []),
    ],
  })
}

/** The function; its drives are on the channels from the start. */
export class Piix implements PciDevice {
  readonly name: string
  readonly config: PciConfig
  readonly windows: readonly Window[]
  readonly channels: readonly [Channel, Channel]
  readonly #bus: Bus
  readonly #trays = new Map<number, MediumUnit>()

  constructor(bus: Bus, model: PiixModel) {
    this.name = `${model}-ide`
    this.#bus = bus
    this.config = configuration(model)
    const enabled = () => this.config.busMaster
    this.channels = [new Channel(bus, PORTS[0].line, enabled), new Channel(bus, PORTS[1].line, enabled)]
    this.windows = [...this.#portWindows(0), ...this.#portWindows(1), this.#busMasterWindow()]
    this.config.afterWrite = (offset) => {
      if (offset < BUS_MASTER_BAR) return
      this.#decode()
      for (const channel of this.channels) channel.master.run()
    }
  }

  /** Puts a drive, made by `make`, in place 0 to 3 (primary master to secondary slave); `tray` is what its medium is changed in. */
  attach(place: number, make: (cable: Cable, unit: 0 | 1) => Drive, tray?: MediumUnit): void {
    const channel = this.channels[place >>> 1]
    if (channel === undefined) throw new BlockError('EINVAL', `Cannot attach IDE drive ${place}: drives are 0 to 3`)
    const unit = place % 2 === 0 ? 0 : 1
    channel.attach(unit, (cable) => make(cable, unit))
    if (tray !== undefined) this.#trays.set(place, tray)
  }

  /** The tray of the drive in place 0 to 3, to insert and eject discs at run time; undefined for a disk, or without a drive. */
  tray(place: number): MediumUnit | undefined {
    return this.#trays.get(place)
  }

  #portWindows(index: 0 | 1): Window[] {
    const channel = this.channels[index]
    return [
      {
        space: 'io',
        port: PORTS[index].command,
        size: 8,
        stream: channel.stream,
        read: (offset, width) => channel.read(offset, width),
        write: (offset, width, value) => channel.write(offset, width, value),
      },
      {
        space: 'io',
        port: PORTS[index].control,
        size: 1,
        read: () => channel.readControl(),
        write: (_offset, _width, value) => channel.writeControl(value & 0xff),
      },
    ]
  }

  #busMasterWindow(): Window {
    const [first, second] = this.channels
    const read = (at: number) => (at < 8 ? first.master.read(at) : second.master.read(at - 8))
    return {
      space: 'io',
      bar: BUS_MASTER_BAR,
      size: BUS_MASTER_SIZE,
      read: (offset, width) => {
        let value = 0
        for (let i = 0; i < width; i++) value += (offset + i < BUS_MASTER_SIZE ? read(offset + i) : 0xff) * 2 ** (8 * i)
        return value
      },
      write: (offset, width, value) => {
        for (let i = 0; i < width && offset + i < BUS_MASTER_SIZE; i++) {
          const at = offset + i
          const byte = (value >>> (8 * i)) & 0xff
          if (at < 8) first.master.write(at, byte)
          else second.master.write(at - 8, byte)
        }
      },
    }
  }

  #decode(): void {
    for (const [index, channel] of this.channels.entries()) {
      channel.decoded = (this.config.bytes[IDETIM + 2 * index + 1]! & DECODE_ENABLE) !== 0
    }
  }

  reset(): Now<void> {
    this.config.reset()
    this.#decode()
    return all(this.channels.map((channel) => channel.reset()))
  }

  /** Costs nothing while nothing is with the host: the bus may ask after every write of a guest. */
  drain(): Now<void> {
    let waits: Promise<void>[] | undefined
    for (const { drives } of this.channels) {
      for (const drive of drives) {
        const wait = drive?.drain()
        if (wait instanceof Promise) (waits ??= []).push(wait)
      }
    }
    return waits === undefined ? undefined : all(waits)
  }

  save(): Saved {
    return { config: this.config.save(), channels: this.channels.map((channel) => channel.save()) }
  }

  restore(state: Saved): void {
    try {
      const fields = takeFields(state, 'IDE controller')
      const channels = fields.channels
      if (!Array.isArray(channels) || channels.length !== 2)
        throw new RangeError('the saved controller has not two channels')
      this.config.restore(takeBytes(fields, 'config', 256))
      for (const [index, channel] of this.channels.entries()) channel.restore(channels[index])
    } catch (error) {
      this.reset()
      throw error
    }
    this.#decode()
    this.#bus.clock.defer(() => {
      for (const channel of this.channels) channel.resume()
    })
  }
}
