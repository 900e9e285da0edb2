/** The PCI transport of a virtio device: its three faces (legacy, transitional, modern), all in I/O space (4.1). */

import { BlockError } from '../../block/error.ts'
import type { Bus, PciDevice, PciFactory, Saved, Window } from '../machine.ts'
import { type PciCapability, PciConfig } from '../pci.ts'
import type { Chain } from './chain.ts'
import { type RingOptions, VirtioDevice } from './device.ts'
import type { Host, Model } from './model.ts'
import { type Register, Registers, readBytes } from './registers.ts'
import { fields, isUints } from './saved.ts'

export interface VirtioPciOptions extends RingOptions {
  /** Offer the modern interface only; default false. */
  disableLegacy?: boolean
  /** Offer the legacy interface only; default false. */
  disableModern?: boolean
}

const VENDOR = 0x1af4
const CAP_VENDOR = 0x09
// 4.1.4 Types of structures
const CAP_COMMON_CFG = 1
const CAP_NOTIFY_CFG = 2
const CAP_ISR_CFG = 3
const CAP_DEVICE_CFG = 4
const CAP_PCI_CFG = 5

/**
 * Legacy registers are behind BAR 0 (4.1.4.10), the modern structures behind BAR 2. Both are I/O: an I/O BAR moves freely in every
 * emulator and its handlers may raise interrupts, which makes the doorbell that answers at once possible.
 */
const LEGACY_BAR = 0
const LEGACY_CONFIG = 20
const MODERN_BAR = 2
const MODERN_SIZE = 256
const COMMON = 0x00
const COMMON_LENGTH = 0x3c
const ISR = 0x40
const CONFIG = 0x44
const NOTIFY = 0xa0
const NOTIFY_MULTIPLIER = 2
/** Queues whose doorbells fit into the 256 bytes that PCI allows an I/O BAR. */
export const MAX_QUEUES = (MODERN_SIZE - NOTIFY) / NOTIFY_MULTIPLIER

const NO_VECTOR = 0xffff
const PAGE = 4096

/** Makes a PCI device of a model; the model sees the bus through its host. */
export function virtioPci<C extends Chain, M extends Model<C>>(
  options: VirtioPciOptions,
  make: (host: Host) => M,
): (bus: Bus) => VirtioPci<C, M> {
  if (options.disableLegacy && options.disableModern) {
    throw new BlockError('EINVAL', 'Cannot make a virtio device with both disable-legacy and disable-modern')
  }
  return ((bus) => new VirtioPci<C, M>(bus, options, make)) satisfies PciFactory
}

/** A virtio device in a PCI slot. */
export class VirtioPci<C extends Chain = Chain, M extends Model<C> = Model<C>> implements PciDevice {
  readonly name: string
  readonly config: PciConfig
  readonly windows: readonly Window[]
  readonly device: VirtioDevice<C, M>
  /** Offset of the capability that gives access through configuration space (4.1.4.9), if it is there. */
  readonly #access: number | undefined
  #mastered = false
  #deviceFeatureSelect = 0
  #driverFeatureSelect = 0
  #queueSelect = 0

  constructor(bus: Bus, options: VirtioPciOptions, make: (host: Host) => M) {
    this.device = new VirtioDevice<C, M>(bus, options, make, {
      mayAccessMemory: () => this.config.busMaster,
      interrupt: (asserted) => bus.intx(asserted),
    })
    const { model } = this.device
    this.name = model.name
    if (model.queues > MAX_QUEUES) {
      throw new BlockError(
        'EINVAL',
        `Cannot plug in ${model.name}: it has ${model.queues} queues, at most ${MAX_QUEUES} fit`,
      )
    }
    const legacySize = powerOfTwo(LEGACY_CONFIG + model.config.length)
    const windows: Window[] = []
    if (!options.disableLegacy) windows.push(this.#legacyWindow(legacySize))
    if (!options.disableModern) windows.push(this.#modernWindow())
    this.windows = windows
    const capabilities = options.disableModern ? [] : structures(model.config.length, model.queues)
    this.config = new PciConfig({
      vendorId: VENDOR,
      // 4.1.2: transitional devices have an ID of their own, revision 0 and the virtio ID as subsystem ID
      deviceId: options.disableLegacy ? 0x1040 + model.deviceId : 0x1000 + model.deviceId - 1,
      revision: options.disableLegacy ? 1 : 0,
      subsystemVendorId: VENDOR,
      subsystemId: options.disableLegacy ? 0x1100 : model.deviceId,
      classCode: model.classCode,
      interruptPin: 1,
      bars: windows.map(({ bar, size }) => ({ index: bar!, space: 'io' as const, size })),
      capabilities,
    })
    this.#access = this.config.capabilityOffsets[capabilities.length - 1]
    this.config.beforeRead = (offset, width) => this.#beforeConfigRead(offset, width)
    this.config.afterWrite = (offset, width) => this.#afterConfigWrite(offset, width)
  }

  reset(): void | Promise<void> {
    this.config.reset()
    this.#mastered = false
    this.#deselect()
    return this.device.reset()
  }

  drain(): void | Promise<void> {
    return this.device.drain()
  }

  save(): Saved {
    return {
      config: this.config.save(),
      select: [this.#deviceFeatureSelect, this.#driverFeatureSelect, this.#queueSelect],
      device: this.device.save(),
    }
  }

  restore(saved: Saved): void {
    if (!isState(saved)) {
      this.reset()
      throw new BlockError('EINVAL', `Cannot restore ${this.name}: the state is of another device or version`)
    }
    this.config.restore(saved.config)
    this.#mastered = this.config.busMaster
    this.device.restore(saved.device)
    const [deviceFeatures = 0, driverFeatures = 0, queue = 0] = saved.select
    this.#deviceFeatureSelect = deviceFeatures
    this.#driverFeatureSelect = driverFeatures
    this.#queueSelect = queue
  }

  #deselect(): void {
    this.#deviceFeatureSelect = 0
    this.#driverFeatureSelect = 0
    this.#queueSelect = 0
  }

  get #queue() {
    return this.device.queues[this.#queueSelect]
  }

  #legacyWindow(size: number): Window {
    const { device } = this
    const { model } = device
    const registers = new Registers(this.#legacyRegisters())
    return {
      space: 'io',
      bar: LEGACY_BAR,
      size,
      read: (offset, width) =>
        offset >= LEGACY_CONFIG
          ? readBytes(model.legacyConfig, offset - LEGACY_CONFIG, width)
          : registers.read(offset, width),
      write: (offset, width, value) => {
        if (offset === LEGACY_NOTIFY) device.notify(value & 0xffff)
        else if (offset < LEGACY_CONFIG) registers.write(offset, width, value)
        else this.#writeDeviceConfig(offset - LEGACY_CONFIG, width, value)
      },
    }
  }

  /** 4.1.4.10, without the MSI-X vectors. */
  #legacyRegisters(): Register[] {
    const { device } = this
    return [
      { at: 0, bytes: 4, read: () => device.offeredLegacy.word(0) },
      {
        at: 4,
        bytes: 4,
        read: () => device.driver.word(0),
        write: (value) => device.acceptLegacyFeatures(value),
      },
      {
        at: 8,
        bytes: 4,
        read: () => (this.#queue?.enabled ? this.#queue.descriptors / PAGE : 0),
        write: (value) => this.#placeLegacy(value >>> 0),
      },
      { at: 12, bytes: 2, read: () => (this.#queue === undefined ? 0 : device.model.legacyQueueSize) },
      { at: 14, bytes: 2, read: () => this.#queueSelect, write: (value) => (this.#queueSelect = value) },
      { at: LEGACY_NOTIFY, bytes: 2, read: () => 0, write: (value) => device.notify(value) },
      { at: 18, bytes: 1, read: () => device.legacyStatus, write: (value) => this.#writeStatus(value) },
      { at: 19, bytes: 1, read: () => device.readIsr() },
    ]
  }

  /** The queue's page number: the layout of 2.7.2, aligned to pages; 0 takes the queue away. */
  #placeLegacy(page: number): void {
    const queue = this.#queue
    if (queue === undefined) return
    this.device.takeAway(queue)
    if (page === 0) return
    queue.size = this.device.model.legacyQueueSize
    queue.descriptors = page * PAGE
    queue.driver = queue.descriptors + 16 * queue.size
    queue.device = Math.ceil((queue.driver + 6 + 2 * queue.size) / PAGE) * PAGE
    this.device.enableLegacy(queue)
  }

  #modernWindow(): Window {
    const { device } = this
    const { model } = device
    const common = new Registers(this.#commonRegisters())
    return {
      space: 'io',
      bar: MODERN_BAR,
      size: MODERN_SIZE,
      read: (offset, width) => {
        if (offset === ISR) return device.readIsr()
        if (offset < ISR) return common.read(offset, width)
        if (offset >= CONFIG && offset < NOTIFY) return readBytes(model.config, offset - CONFIG, width)
        return 0
      },
      write: (offset, width, value) => {
        // The value is the queue's index as well (4.1.5.2); the address alone is enough.
        if (offset >= NOTIFY) device.notify((offset - NOTIFY) / NOTIFY_MULTIPLIER)
        else if (offset < ISR) common.write(offset, width, value)
        else if (offset >= CONFIG) this.#writeDeviceConfig(offset - CONFIG, width, value)
      },
    }
  }

  /** 4.1.4.3 Common configuration structure. */
  #commonRegisters(): Register[] {
    const { device } = this
    const half = (at: number, field: 'descriptors' | 'driver' | 'device', high: boolean): Register => ({
      at,
      bytes: 4,
      read: () => {
        const address = this.#queue?.[field] ?? 0
        return high ? Math.floor(address / 2 ** 32) : address >>> 0
      },
      write: (value) => {
        const queue = this.#queue
        if (queue === undefined || queue.enabled) return
        const address = queue[field]
        queue[field] = high
          ? (address % 2 ** 32) + (value >>> 0) * 2 ** 32
          : Math.floor(address / 2 ** 32) * 2 ** 32 + (value >>> 0)
      },
    })
    return [
      {
        at: 0x00,
        bytes: 4,
        read: () => this.#deviceFeatureSelect,
        write: (value) => (this.#deviceFeatureSelect = value >>> 0),
      },
      { at: 0x04, bytes: 4, read: () => device.offered.word(this.#deviceFeatureSelect) },
      {
        at: 0x08,
        bytes: 4,
        read: () => this.#driverFeatureSelect,
        write: (value) => (this.#driverFeatureSelect = value >>> 0),
      },
      {
        at: 0x0c,
        bytes: 4,
        read: () => device.driver.word(this.#driverFeatureSelect),
        write: (value) => device.acceptFeatures(this.#driverFeatureSelect, value),
      },
      { at: 0x10, bytes: 2, read: () => NO_VECTOR },
      { at: 0x12, bytes: 2, read: () => device.queues.length },
      { at: 0x14, bytes: 1, read: () => device.status, write: (value) => this.#writeStatus(value) },
      { at: 0x15, bytes: 1, read: () => device.generation },
      { at: 0x16, bytes: 2, read: () => this.#queueSelect, write: (value) => (this.#queueSelect = value) },
      { at: 0x18, bytes: 2, read: () => this.#queue?.size ?? 0, write: (value) => this.#resize(value) },
      { at: 0x1a, bytes: 2, read: () => NO_VECTOR },
      {
        at: 0x1c,
        bytes: 2,
        read: () => (this.#queue !== undefined && (this.#queue.enabled || device.isResetting(this.#queue)) ? 1 : 0),
        write: (value) => {
          if (value === 1 && this.#queue !== undefined) device.enable(this.#queue)
        },
      },
      { at: 0x1e, bytes: 2, read: () => (this.#queue === undefined ? 0 : this.#queueSelect) },
      half(0x20, 'descriptors', false),
      half(0x24, 'descriptors', true),
      half(0x28, 'driver', false),
      half(0x2c, 'driver', true),
      half(0x30, 'device', false),
      half(0x34, 'device', true),
      { at: 0x38, bytes: 2, read: () => 0 },
      {
        at: 0x3a,
        bytes: 2,
        read: () => (this.#queue !== undefined && device.isResetting(this.#queue) ? 1 : 0),
        write: (value) => {
          if (value === 1 && this.#queue !== undefined) device.resetQueue(this.#queue)
        },
      },
    ]
  }

  #resize(size: number): void {
    const queue = this.#queue
    if (queue === undefined || queue.enabled) return
    if (size > 0 && size <= this.device.model.queueSize) queue.size = size
  }

  #writeStatus(value: number): void {
    if (value === 0) this.#deselect()
    this.device.writeStatus(value)
  }

  #writeDeviceConfig(offset: number, width: number, value: number): void {
    for (let i = 0; i < width; i++) this.device.model.writeConfig(offset + i, (value >>> (8 * i)) & 0xff)
  }

  #beforeConfigRead(offset: number, width: number): void {
    const found = this.#accessed(offset, width)
    if (found === undefined) return
    const { bytes } = this.config
    const value = found.window.read(found.offset, found.length)
    for (let i = 0; i < found.length; i++) bytes[this.#access! + 16 + i] = (value >>> (8 * i)) & 0xff
  }

  #afterConfigWrite(offset: number, width: number): void {
    if (this.config.busMaster !== this.#mastered) {
      this.#mastered = this.config.busMaster
      if (this.#mastered) this.device.resume()
    }
    const found = this.#accessed(offset, width)
    if (found === undefined) return
    found.window.write(found.offset, found.length, readBytes(this.config.bytes, this.#access! + 16, found.length))
  }

  /** What an access to pci_cfg_data at `offset` of configuration space stands for (4.1.4.9.1), if it is one. */
  #accessed(offset: number, width: number): { window: Window; offset: number; length: number } | undefined {
    const at = this.#access
    if (at === undefined || offset + width <= at + 16 || offset >= at + 20) return
    const { bytes } = this.config
    const target = readBytes(bytes, at + 8, 4)
    const length = readBytes(bytes, at + 12, 4)
    if ((length !== 1 && length !== 2 && length !== 4) || target % length !== 0) return
    const window = this.windows.find((candidate) => candidate.bar === bytes[at + 4])
    if (window === undefined || target + length > window.size) return
    return { window, offset: target, length }
  }
}

const LEGACY_NOTIFY = 16

/** The capabilities of 4.1.4, that for access through configuration space last. */
function structures(configLength: number, queues: number): PciCapability[] {
  return [
    structure(CAP_COMMON_CFG, COMMON, COMMON_LENGTH),
    structure(CAP_NOTIFY_CFG, NOTIFY, NOTIFY_MULTIPLIER * queues, NOTIFY_MULTIPLIER),
    structure(CAP_ISR_CFG, ISR, 1),
    structure(CAP_DEVICE_CFG, CONFIG, configLength),
    {
      ...structure(CAP_PCI_CFG, 0, 0, 0),
      // bar, offset, length and pci_cfg_data are the driver's to write
      writable: Uint8Array.from([0, 0, 0xff, 0, 0, 0, ...new Array<number>(12).fill(0xff)]),
    },
  ]
}

/** One struct virtio_pci_cap, from its third byte on, with `extra` behind it where its type has that. */
function structure(type: number, offset: number, length: number, extra?: number): PciCapability {
  const bytes = new Uint8Array(extra === undefined ? 14 : 18)
  const view = new DataView(bytes.buffer)
  bytes[0] = bytes.length + 2
  bytes[1] = type
  bytes[2] = type === CAP_PCI_CFG ? 0 : MODERN_BAR
  view.setUint32(6, offset, true)
  view.setUint32(10, length, true)
  if (extra !== undefined) view.setUint32(14, extra, true)
  return { id: CAP_VENDOR, bytes }
}

function powerOfTwo(size: number): number {
  return 2 ** Math.ceil(Math.log2(size))
}

interface State {
  readonly config: Uint8Array
  readonly select: readonly number[]
  readonly device: unknown
}

function isState(saved: unknown): saved is State {
  const state = fields(saved)
  return state?.config instanceof Uint8Array && state.config.length === 256 && isUints(state.select, 3, 0xffffffff)
}
