/** A virtio-blk driver for tests: initialization by the book (3.1.1), on either face and with either ring. */

import { asDevice, type BlockDriver } from '../../../src/block/device.ts'
import { Disk, type DiskOptions } from '../../../src/block/disk.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { type VirtioBlkOptions, virtioBlk } from '../../../src/devices/virtio/index.ts'
import { plug, type Slot, type TestBus, testBus } from '../machine.ts'
import { type DriverRing, type Element, PackedDriver, SplitDriver, type UsedBuffer } from './rings.ts'

export const F = {
  SIZE_MAX: 1,
  SEG_MAX: 2,
  GEOMETRY: 4,
  RO: 5,
  BLK_SIZE: 6,
  SCSI: 7,
  FLUSH: 9,
  TOPOLOGY: 10,
  CONFIG_WCE: 11,
  MQ: 12,
  DISCARD: 13,
  WRITE_ZEROES: 14,
  LIFETIME: 15,
  SECURE_ERASE: 16,
  NOTIFY_ON_EMPTY: 24,
  ANY_LAYOUT: 27,
  INDIRECT_DESC: 28,
  EVENT_IDX: 29,
  VERSION_1: 32,
  RING_PACKED: 34,
  IN_ORDER: 35,
  RING_RESET: 40,
} as const

export const T = {
  IN: 0,
  OUT: 1,
  SCSI_CMD: 2,
  FLUSH: 4,
  FLUSH_OUT: 5,
  GET_ID: 8,
  GET_LIFETIME: 10,
  DISCARD: 11,
  WRITE_ZEROES: 13,
  SECURE_ERASE: 14,
} as const

export const OK = 0
export const IOERR = 1
export const UNSUPP = 2

export const ACKNOWLEDGE = 1
export const DRIVER = 2
export const DRIVER_OK = 4
export const FEATURES_OK = 8
export const NEEDS_RESET = 64

/** Offsets in the common configuration structure, 4.1.4.3. */
export const COMMON = {
  deviceFeatureSelect: 0x00,
  deviceFeature: 0x04,
  driverFeatureSelect: 0x08,
  driverFeature: 0x0c,
  configMsixVector: 0x10,
  numQueues: 0x12,
  deviceStatus: 0x14,
  configGeneration: 0x15,
  queueSelect: 0x16,
  queueSize: 0x18,
  queueMsixVector: 0x1a,
  queueEnable: 0x1c,
  queueNotifyOff: 0x1e,
  queueDesc: 0x20,
  queueDriver: 0x28,
  queueDevice: 0x30,
  queueNotifyData: 0x38,
  queueReset: 0x3a,
} as const

export interface Face {
  readonly face: 'legacy' | 'modern'
  readonly ring: 'split' | 'packed'
}

/** What a driver can be: the packed ring came with the modern interface. */
export const FACES: readonly (Face & { name: string })[] = [
  { name: 'legacy, split', face: 'legacy', ring: 'split' },
  { name: 'modern, split', face: 'modern', ring: 'split' },
  { name: 'modern, packed', face: 'modern', ring: 'packed' },
]

export interface SetupOptions extends Partial<Face> {
  /** What the disk is in; default 1 MiB of memory. */
  on?: BlockDriver
  disk?: DiskOptions
  device?: VirtioBlkOptions
  /** Feature bits that the driver takes if offered; default all. */
  accept?: readonly number[]
  /** Feature bits that it does not take. */
  refuse?: readonly number[]
  queueSize?: number
  ramSize?: number
  /** Whether to go through 3.1.1 to its end; default true. */
  start?: boolean
}

interface Structure {
  bar: number
  offset: number
  length: number
  extra: number
}

const FIRST_FREE = 0x100000

/** A machine with one virtio-blk disk and its driver. */
export class Driver {
  readonly bus: TestBus
  readonly disk: Disk
  readonly slot: Slot<ReturnType<ReturnType<typeof virtioBlk>>>
  readonly face: 'legacy' | 'modern'
  readonly ring: 'split' | 'packed'
  readonly options: SetupOptions
  readonly structures = new Map<number, Structure>()
  queues: DriverRing[] = []
  /** What was negotiated. */
  features = new Set<number>()
  #top = FIRST_FREE

  constructor(options: SetupOptions = {}) {
    this.options = options
    this.face = options.face ?? 'modern'
    this.ring = options.ring ?? 'split'
    this.bus = testBus({ ramSize: options.ramSize ?? 2 << 20 })
    this.disk = new Disk(asDevice(options.on ?? new Memory(1 << 20)), options.disk)
    this.slot = plug(this.bus, virtioBlk(this.disk, { packed: this.ring === 'packed', ...options.device }))
    this.#findStructures()
    if (options.start !== false) this.initialize()
  }

  /** Takes `length` bytes of RAM, zeroed. */
  alloc(length: number, align = 16): number {
    const at = Math.ceil(this.#top / align) * align
    this.#top = at + length
    if (this.#top > this.bus.memory.ram.length) throw new Error('the test has used up its RAM')
    this.bus.memory.ram.fill(0, at, this.#top)
    return at
  }

  /** Gives back all RAM that was taken. */
  free(): void {
    this.#top = FIRST_FREE
  }

  bytes(at: number, length: number): Uint8Array {
    return this.bus.memory.ram.slice(at, at + length)
  }

  store(bytes: Uint8Array | readonly number[]): number {
    const at = this.alloc(bytes.length)
    this.bus.memory.ram.set(bytes, at)
    return at
  }

  // 4.1.4: the driver walks the capability list
  #findStructures(): void {
    const { config } = this.slot.device
    if (!(config.read(0x06, 2) & (1 << 4))) return
    for (let at = config.read(0x34, 1); at !== 0; at = config.read(at + 1, 1)) {
      if (config.read(at, 1) !== 0x09) continue
      this.structures.set(config.read(at + 3, 1), {
        bar: config.read(at + 4, 1),
        offset: config.read(at + 8, 4),
        length: config.read(at + 12, 4),
        extra: config.read(at + 2, 1) > 16 ? config.read(at + 16, 4) : 0,
      })
    }
  }

  /** Port of offset `offset` in structure `type`. */
  port(type: number, offset: number): number {
    const structure = this.structures.get(type)
    if (structure === undefined || offset >= structure.length) throw new Error(`no offset ${offset} in ${type}`)
    return this.slot.base(structure.bar) + structure.offset + offset
  }

  common8(at: number): number {
    return this.slot.in8(this.port(1, at))
  }

  common16(at: number): number {
    return this.slot.in16(this.port(1, at))
  }

  common32(at: number): number {
    return this.slot.in32(this.port(1, at))
  }

  setCommon8(at: number, value: number): void {
    this.slot.out8(this.port(1, at), value)
  }

  setCommon16(at: number, value: number): void {
    this.slot.out16(this.port(1, at), value)
  }

  setCommon32(at: number, value: number): void {
    this.slot.out32(this.port(1, at), value)
  }

  setCommon64(at: number, value: number): void {
    this.setCommon32(at, value % 2 ** 32)
    this.setCommon32(at + 4, Math.floor(value / 2 ** 32))
  }

  /** Port of legacy register `at` (4.1.4.10). */
  legacy(at: number): number {
    return this.slot.base(0) + at
  }

  get status(): number {
    return this.face === 'legacy' ? this.slot.in8(this.legacy(18)) : this.common8(COMMON.deviceStatus)
  }

  set status(value: number) {
    if (this.face === 'legacy') this.slot.out8(this.legacy(18), value)
    else this.setCommon8(COMMON.deviceStatus, value)
  }

  /** Reads, and thereby clears, the ISR status. */
  isr(): number {
    return this.slot.in8(this.face === 'legacy' ? this.legacy(19) : this.port(3, 0))
  }

  /** Reads the device configuration space. */
  config(at: number, width: 1 | 2 | 4): number {
    const port = this.face === 'legacy' ? this.legacy(20 + at) : this.port(4, at)
    return width === 1 ? this.slot.in8(port) : width === 2 ? this.slot.in16(port) : this.slot.in32(port)
  }

  setConfig8(at: number, value: number): void {
    this.slot.out8(this.face === 'legacy' ? this.legacy(20 + at) : this.port(4, at), value)
  }

  get capacity(): number {
    return this.config(0, 4) + this.config(4, 4) * 2 ** 32
  }

  /** Feature bits that the device offers through this face. */
  offered(): Set<number> {
    const offered = new Set<number>()
    for (let word = 0; word < (this.face === 'legacy' ? 1 : 2); word++) {
      if (this.face === 'modern') this.setCommon32(COMMON.deviceFeatureSelect, word)
      const bits = this.face === 'legacy' ? this.slot.in32(this.legacy(0)) : this.common32(COMMON.deviceFeature)
      for (let bit = 0; bit < 32; bit++) if ((bits >>> bit) & 1) offered.add(32 * word + bit)
    }
    return offered
  }

  accept(features: ReadonlySet<number>): void {
    for (let word = 0; word < (this.face === 'legacy' ? 1 : 2); word++) {
      let bits = 0
      for (const feature of features) if (feature >>> 5 === word) bits |= 1 << (feature & 31)
      if (this.face === 'legacy') this.slot.out32(this.legacy(4), bits)
      else {
        this.setCommon32(COMMON.driverFeatureSelect, word)
        this.setCommon32(COMMON.driverFeature, bits)
      }
    }
    this.features = new Set(features)
  }

  /** 3.1.1 Driver requirements: device initialization. */
  initialize(): void {
    this.status = 0
    this.status = ACKNOWLEDGE
    this.status |= DRIVER
    this.negotiate()
    this.setUpQueues()
    this.status |= DRIVER_OK
  }

  negotiate(): void {
    const { accept, refuse = [] } = this.options
    const wanted = [...this.offered()].filter((bit) => accept?.includes(bit) ?? true)
    const kept = wanted.filter((bit) => !refuse.includes(bit) && (bit !== F.RING_PACKED || this.ring === 'packed'))
    if (this.face === 'modern' && !refuse.includes(F.VERSION_1)) kept.push(F.VERSION_1)
    if (this.ring === 'packed') kept.push(F.RING_PACKED)
    this.accept(new Set(kept))
    if (this.face === 'modern') {
      this.status |= FEATURES_OK
      if (!(this.status & FEATURES_OK)) throw new Error('the device refused the features')
    }
  }

  setUpQueues(): void {
    const count = this.face === 'legacy' ? this.legacyQueues() : this.common16(COMMON.numQueues)
    this.queues = Array.from({ length: count }, (_, index) => this.setUpQueue(index))
  }

  legacyQueues(): number {
    let count = 0
    for (;;) {
      this.slot.out16(this.legacy(14), count)
      if (this.slot.in16(this.legacy(12)) === 0) return count
      count++
    }
  }

  makeRing(size: number): DriverRing {
    return this.ring === 'packed'
      ? new PackedDriver(this.bus.memory, this.alloc(PackedDriver.bytes(size)), size)
      : new SplitDriver(
          this.bus.memory,
          this.alloc(SplitDriver.bytes(size), 4096),
          size,
          this.features.has(F.EVENT_IDX),
        )
  }

  /** 4.1.5.1.3 Virtqueue configuration. */
  setUpQueue(index: number): DriverRing {
    if (this.face === 'legacy') {
      this.slot.out16(this.legacy(14), index)
      const ring = this.makeRing(this.slot.in16(this.legacy(12)))
      this.slot.out32(this.legacy(8), ring.descriptors / 4096)
      return ring
    }
    this.setCommon16(COMMON.queueSelect, index)
    if (this.options.queueSize) this.setCommon16(COMMON.queueSize, this.options.queueSize)
    const ring = this.makeRing(this.common16(COMMON.queueSize))
    this.setCommon64(COMMON.queueDesc, ring.descriptors)
    this.setCommon64(COMMON.queueDriver, ring.driver)
    this.setCommon64(COMMON.queueDevice, ring.device)
    this.setCommon16(COMMON.queueEnable, 1)
    return ring
  }

  get queue(): DriverRing {
    return this.queues[0]!
  }

  /** Notifies the device that queue `index` has buffers, whether it wants to hear that or not (4.1.5.2). */
  notify(index = 0): void {
    if (this.face === 'legacy') {
      this.slot.out16(this.legacy(16), index)
      return
    }
    this.setCommon16(COMMON.queueSelect, index)
    const offset = this.common16(COMMON.queueNotifyOff) * this.structures.get(2)!.extra
    this.slot.out16(this.port(2, offset), index)
  }

  /** Builds the elements of a request; the first that the device writes after `input` bytes of room is the status. */
  build(type: number, sector: number, { output, input = 0 }: { output?: Uint8Array; input?: number } = {}): Request {
    const header = this.alloc(16)
    const { data } = this.bus.memory
    data.setUint32(header, type, true)
    data.setBigUint64(header + 8, BigInt(sector), true)
    const elements: Element[] = [{ at: header, length: 16 }]
    if (output?.length) elements.push({ at: this.store(output), length: output.length })
    const room = input > 0 ? this.alloc(input) : 0
    if (input > 0) elements.push({ at: room, length: input, write: true })
    const status = this.store([0xee])
    elements.push({ at: status, length: 1, write: true })
    return new Request(this, elements, room, input, status)
  }

  /** Makes a request available; the device does not know yet. */
  add(request: Request, { queue = 0, indirect = false }: { queue?: number; indirect?: boolean } = {}): Request {
    const table = indirect ? this.alloc(16 * request.elements.length) : undefined
    request.id = this.queues[queue]!.add(request.elements, table)
    return request
  }

  /** Sends one request and takes its answer, which must be there when the doorbell returns. */
  send(request: Request, options: { queue?: number; indirect?: boolean } = {}): Answer {
    this.add(request, options)
    this.notify(options.queue)
    const used = this.queues[options.queue ?? 0]!.used()
    if (used.length !== 1 || used[0]!.id !== request.id) {
      throw new Error(`the device used ${JSON.stringify(used)}, not ${request.id}`)
    }
    return { status: request.status, length: used[0]!.length, data: request.data }
  }

  read(sector: number, length: number): Answer {
    return this.send(this.build(T.IN, sector, { input: length }))
  }

  write(sector: number, output: Uint8Array): Answer {
    return this.send(this.build(T.OUT, sector, { output }))
  }

  used(queue = 0): UsedBuffer[] {
    return this.queues[queue]!.used()
  }

  get needsReset(): boolean {
    return (this.status & NEEDS_RESET) !== 0
  }

  get fault(): string | undefined {
    return this.slot.device.device.fault
  }
}

export interface Answer {
  status: number
  length: number
  data: Uint8Array
}

export class Request {
  readonly elements: Element[]
  readonly room: number
  readonly input: number
  readonly statusAt: number
  id = -1
  readonly #driver: Driver

  constructor(driver: Driver, elements: Element[], room: number, input: number, statusAt: number) {
    this.#driver = driver
    this.elements = elements
    this.room = room
    this.input = input
    this.statusAt = statusAt
  }

  get status(): number {
    return this.#driver.bus.memory.ram[this.statusAt]!
  }

  get data(): Uint8Array {
    return this.#driver.bus.memory.ram.slice(this.room, this.room + this.input)
  }
}

/** Bytes that tell where they came from. */
export function pattern(length: number, seed = 1): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 7 + seed * 31 + (i >>> 8)) & 0xff)
}
