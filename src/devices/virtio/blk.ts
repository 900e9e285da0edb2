/** virtio-blk: the disk behind the queues (5.2). */
import type { Disk } from '../../block/disk.ts'
import { BlockError } from '../../block/error.ts'
import { zeroVec } from '../../block/iovec.ts'
import { after, type Now, repeat, settle } from '../../block/now.ts'
import type { Saved } from '../machine.ts'
import { blkConfig, CONFIG_WRITEBACK, discardAlignment, type Geometry, setCapacity, setWriteback } from './blkconfig.ts'
import type { Host, Model } from './model.ts'
import type { Virtqueue } from './queue.ts'
import {
  BlkRequest,
  parse,
  type RangeLimit,
  type Rules,
  S_IOERR,
  S_OK,
  type ScsiOutcome,
  type ScsiRequest,
  SECTOR,
  type Segment,
  writeScsiOutcome,
} from './request.ts'
import { fields } from './saved.ts'
import { F_VERSION_1 } from './standard.ts'

// 5.2.3 Feature bits; SCSI is the legacy interface's alone
const F_SIZE_MAX = 1
const F_SEG_MAX = 2
const F_GEOMETRY = 4
const F_RO = 5
const F_BLK_SIZE = 6
const F_SCSI = 7
const F_FLUSH = 9
const F_TOPOLOGY = 10
const F_CONFIG_WCE = 11
const F_MQ = 12
const F_DISCARD = 13
const F_WRITE_ZEROES = 14
const F_LIFETIME = 15
const F_SECURE_ERASE = 16

/** Segments of one DISCARD, WRITE ZEROES or SECURE ERASE. */
const MAX_SEGMENTS = 16
/** 2 GiB less a sector: the most that drivers which count bytes in 31 bits get right. */
const MAX_RANGE_SECTORS = 4194303
/** So that a request may have a megabyte in pages that are not beside each other, which is what Linux asks for. */
const QUEUE_SIZE = 512
/** Firmware and boot loaders with legacy drivers have room for this many. */
const LEGACY_QUEUE_SIZE = 256
/** 16 MiB, for erasing writes. */
const MAX_ERASE_SECTORS = 32768
const ERASE_STEP = 1 << 20

/** Wear of the medium, 5.2.6: 0 says nothing, `preEolInfo` is at most 3 and the estimates at most 11. */
export interface Lifetime {
  preEolInfo: number
  estimateA: number
  estimateB: number
}

/** Runs a SCSI command on the disk. */
export type ScsiHandler = (request: ScsiRequest) => Now<ScsiOutcome>

/** Named as QEMU names the properties of virtio-blk-pci, in camelCase. */
export interface BlkOptions {
  /** Request queues, default 1. */
  numQueues?: number
  /** Entries of each queue, a power of two from 4 to 1024; default 512. Through the legacy interface at most 256. */
  queueSize?: number
  /** Let the driver turn the write cache on and off; default true. */
  configWce?: boolean
  /** Offer DISCARD; default whether the disk can. */
  discard?: boolean
  /** Offer WRITE ZEROES; default true, unless the disk is read-only. */
  writeZeroes?: boolean
  /** Offer SECURE ERASE, which overwrites with zeroes; default false. */
  secureErase?: boolean
  /** Most sectors of a DISCARD segment, default 4194303; rounded down to the disk's granularity. */
  maxDiscardSectors?: number
  /** Most sectors of a WRITE ZEROES segment, default 4194303. */
  maxWriteZeroesSectors?: number
  /** Offer SIZE MAX: bytes of a segment; default 0, which offers nothing, for no driver needs it and some get it wrong. */
  sizeMax?: number
  /** Offer GET LIFETIME with these values. */
  lifetime?: Lifetime
  /** Offer SCSI commands on the legacy interface, run by this handler. */
  scsi?: ScsiHandler
  /** Geometry to tell, all three or none; default made up from the size. */
  cyls?: number
  heads?: number
  secs?: number
}

/** A request with the calls that run it, made once and used for every request that takes its place. */
export class RunningRequest extends BlkRequest {
  readonly queue: Virtqueue<RunningRequest>
  readonly start: () => Now<void>
  readonly done: () => void
  readonly failed: () => void

  constructor(blk: Blk, queue: Virtqueue<RunningRequest>) {
    super()
    this.queue = queue
    this.start = () => blk.start(this)
    this.done = () => blk.finish(this, S_OK)
    this.failed = () => blk.finish(this, S_IOERR)
  }
}

/** The block device of 5.2 on a {@link Disk}. */
export class Blk implements Model<RunningRequest> {
  readonly name = 'virtio-blk'
  readonly deviceId = 2
  readonly classCode = 0x010000
  readonly features: readonly number[]
  readonly legacyFeatures: readonly number[]
  readonly queues: number
  readonly queueSize: number
  readonly legacyQueueSize: number
  readonly config: Uint8Array
  readonly legacyConfig: Uint8Array
  readonly #host: Host
  readonly #disk: Disk
  readonly #lifetime: Lifetime | undefined
  readonly #scsi: ScsiHandler | undefined
  readonly #configWce: boolean
  readonly #discard: RangeLimit | undefined
  readonly #writeZeroes: RangeLimit | undefined
  readonly #secureErase: RangeLimit | undefined
  /** The disk's write cache as its owner set it up, to which a reset returns. */
  readonly #writeCache: boolean
  /** What the driver wants it to be. */
  #wanted: boolean
  #flushing = false
  readonly #id = new Uint8Array(20)
  #rules: Rules

  constructor(host: Host, disk: Disk, options: BlkOptions) {
    this.#host = host
    this.#disk = disk
    this.#lifetime = options.lifetime
    this.#scsi = options.scsi
    this.#configWce = options.configWce ?? true
    this.#writeCache = disk.writeCache
    this.#wanted = disk.writeCache
    this.queues = options.numQueues ?? 1
    this.queueSize = options.queueSize ?? QUEUE_SIZE
    this.legacyQueueSize = Math.min(this.queueSize, LEGACY_QUEUE_SIZE)
    const writes = !disk.readOnly
    const alignment = discardAlignment(disk)
    const most = options.maxDiscardSectors ?? MAX_RANGE_SECTORS
    const discard = Math.max(most - (most % alignment), alignment)
    if (writes && (options.discard ?? disk.canDiscard)) this.#discard = { sectors: discard, segments: MAX_SEGMENTS }
    if (writes && (options.writeZeroes ?? true)) {
      this.#writeZeroes = { sectors: options.maxWriteZeroesSectors ?? MAX_RANGE_SECTORS, segments: MAX_SEGMENTS }
    }
    if (writes && options.secureErase) this.#secureErase = { sectors: MAX_ERASE_SECTORS, segments: 1 }
    this.features = this.#offered(options)
    this.legacyFeatures = options.scsi === undefined ? [] : [F_SCSI]
    const layout = {
      geometry: geometry(options),
      sizeMax: options.sizeMax ?? 0,
      queues: this.queues,
      discard: this.#discard,
      writeZeroes: this.#writeZeroes,
      secureErase: this.#secureErase,
    }
    // A request takes two more descriptors, for its header and its status.
    this.config = blkConfig(disk, { ...layout, segMax: this.queueSize - 2 })
    this.legacyConfig = blkConfig(disk, { ...layout, segMax: this.legacyQueueSize - 2 })
    new TextEncoder().encodeInto(disk.serial, this.#id)
    this.#rules = this.#makeRules()
    disk.onResize(() => {
      setCapacity(this.config, disk)
      setCapacity(this.legacyConfig, disk)
      this.#rules = this.#makeRules()
      host.configChanged()
    })
    disk.onStop(() => host.heldBack())
  }

  get held(): number {
    return this.#disk.held
  }

  drain(): Now<void> {
    return this.#disk.drain()
  }

  #offered(options: BlkOptions): number[] {
    const features = [F_SEG_MAX, F_GEOMETRY, F_BLK_SIZE, F_FLUSH, F_TOPOLOGY]
    if (options.sizeMax) features.push(F_SIZE_MAX)
    if (this.#disk.readOnly) features.push(F_RO)
    if (this.#configWce) features.push(F_CONFIG_WCE)
    if (this.queues > 1) features.push(F_MQ)
    if (this.#discard) features.push(F_DISCARD)
    if (this.#writeZeroes) features.push(F_WRITE_ZEROES)
    if (this.#lifetime) features.push(F_LIFETIME)
    if (this.#secureErase) features.push(F_SECURE_ERASE)
    return features
  }

  #makeRules(): Rules {
    const { driver, legacy } = this.#host
    return {
      capacity: this.#disk.size,
      blockSize: this.#disk.logicalBlockSize,
      readOnly: this.#disk.readOnly,
      discard: driver.has(F_DISCARD) ? this.#discard : undefined,
      writeZeroes: driver.has(F_WRITE_ZEROES) ? this.#writeZeroes : undefined,
      secureErase: driver.has(F_SECURE_ERASE) ? this.#secureErase : undefined,
      lifetime: driver.has(F_LIFETIME),
      scsi: this.#scsi !== undefined && driver.has(F_SCSI),
      legacy,
    }
  }

  chain(queue: Virtqueue<RunningRequest>): RunningRequest {
    return new RunningRequest(this, queue)
  }

  execute(request: RunningRequest): string | undefined {
    const fault = parse(request, this.#host.memory, this.#rules)
    if (fault !== undefined) return fault
    if (request.kind === 'refused') this.finish(request, request.refusal)
    else settle(request.start, request.done, request.failed)
  }

  taken(): void {
    this.#disk.kick()
  }

  /** Hands a parsed request to the disk. */
  start(request: RunningRequest): Now<void> {
    switch (request.kind) {
      case 'read':
        return this.#disk.read(request.offset, request.data)
      case 'write':
        return this.#disk.write(request.offset, request.data)
      case 'flush':
        return this.#disk.readOnly ? undefined : this.#disk.flush()
      case 'id':
        request.data.scatter(this.#id.subarray(0, request.data.byteLength))
        return request.data.filled()
      case 'lifetime':
        return this.#tellLifetime(request)
      case 'discard':
        return each(request.segments, ({ at, length }) => this.#disk.discard(at, length))
      case 'writeZeroes':
        return each(request.segments, ({ at, length, unmap }) => this.#disk.zero(at, length, { unmap }))
      case 'secureErase':
        return this.#erase(request.segments)
      case 'scsi':
        return this.#command(request)
    }
  }

  #tellLifetime(request: RunningRequest): void {
    const { preEolInfo, estimateA, estimateB } = this.#lifetime!
    request.data.scatter(new Uint8Array(Uint16Array.of(preEolInfo, estimateA, estimateB).buffer))
    request.data.filled()
  }

  /** Overwrites, and makes that durable: what was erased must not come back after a power cut. */
  #erase(segments: readonly Segment[]): Now<void> {
    const steps = segments.flatMap(({ at, length }) =>
      Array.from({ length: Math.ceil(length / ERASE_STEP) }, (_, i) => ({
        at: at + i * ERASE_STEP,
        length: Math.min(ERASE_STEP, length - i * ERASE_STEP),
      })),
    )
    const erased = each(steps, ({ at, length }) => this.#disk.write(at, zeroVec(length)))
    return after(erased, () => this.#disk.flush())
  }

  #command(request: RunningRequest): Now<void> {
    const scsi = request.scsi!
    return after(this.#scsi!(scsi), (outcome) => {
      if (request.abandoned) return
      scsi.dataIn.filled()
      writeScsiOutcome(request, this.#host.memory, outcome)
      const whole = outcome.residual === 0 || scsi.dataIn.byteLength === 0
      if (whole) request.data = request.writableVec(this.#host.memory, 0, request.room)
    })
  }

  /** Ends a request: its status byte, then the used ring. */
  finish(request: RunningRequest, status: number): void {
    if (request.abandoned) {
      request.queue.finish(request, 0)
      return
    }
    const { memory } = this.#host
    if (status !== S_OK && request.kind === 'read') request.data.filled()
    memory.data.setUint8(request.statusAt, status)
    memory.dirty(request.statusAt, 1)
    request.queue.finish(request, written(request, status))
  }

  writeConfig(at: number, value: number): void {
    if (at !== CONFIG_WRITEBACK || !this.#configWce || value > 1) return
    const { driver } = this.#host
    // A legacy driver may do so before it has accepted anything (5.2.5.3).
    if (driver.has(F_CONFIG_WCE) || !driver.has(F_VERSION_1)) this.#setWriteCache(value === 1)
  }

  negotiated(): void {
    const { driver } = this.#host
    this.#rules = this.#makeRules()
    // 5.2.5.2, which 5.2.5.3 takes back for legacy drivers
    if (driver.has(F_VERSION_1) && driver.has(F_CONFIG_WCE) && !driver.has(F_FLUSH)) this.#setWriteCache(false)
  }

  /** A driver that cannot flush gets a disk on which nothing needs to be flushed (5.2.6.2). */
  ready(): void {
    const { driver } = this.#host
    if (!driver.has(F_CONFIG_WCE)) this.#setWriteCache(driver.has(F_FLUSH) && this.#writeCache)
  }

  cancel(): void {
    settle(() => this.#disk.cancel(), nothing, nothing)
  }

  reset(): void {
    this.#setWriteCache(this.#writeCache)
    this.#rules = this.#makeRules()
  }

  #setWriteCache(on: boolean): void {
    this.#wanted = on
    setWriteback(this.config, on)
    setWriteback(this.legacyConfig, on)
    this.#applyWriteCache()
  }

  /**
   * Turning the cache off flushes, with nobody to tell: the driver may not rely on it (5.2.6.1). A driver that turns it on and off
   * meanwhile finds it off, which is safe, and gets no second flush.
   */
  #applyWriteCache(): void {
    if (this.#flushing || this.#wanted === this.#disk.writeCache) return
    this.#flushing = true
    const done = () => {
      this.#flushing = false
      this.#applyWriteCache()
    }
    settle(() => this.#disk.setWriteCache(this.#wanted), done, done)
  }

  save(): Saved {
    return { writeback: this.#wanted }
  }

  restore(saved: unknown): boolean {
    const writeback = fields(saved)?.writeback
    if (typeof writeback !== 'boolean') return false
    this.#setWriteCache(writeback)
    this.#rules = this.#makeRules()
    return true
  }
}

function nothing(): void {}

/** Does `body` for one after the other, so that a failure leaves nothing under way. */
function each<T>(list: readonly T[], body: (item: T) => Now<void>): Now<void> {
  let next = 0
  return repeat(() => {
    const item = list[next++]
    return item === undefined ? false : after(body(item), () => true)
  })
}

/**
 * Bytes from the start of the writable part that were written for sure (2.7.8.2). The status is the last byte, so it counts only
 * when all before it was written; a driver must never take what was in its memory for an answer (CVE-2024-8612).
 */
function written(request: BlkRequest, status: number): number {
  const { room, kind, data } = request
  if (room === 0) return 1
  if (status !== S_OK || kind === 'write') return 0
  return data.byteLength === room ? room + 1 : data.byteLength
}

function geometry({ cyls, heads, secs }: BlkOptions): Geometry | undefined {
  return cyls === undefined || heads === undefined || secs === undefined ? undefined : { cyls, heads, secs }
}

/** Refuses options that no device can have, by their names. */
export function checkBlkOptions(options: BlkOptions): void {
  const { queueSize = QUEUE_SIZE, numQueues = 1, sizeMax = 0, lifetime, cyls, heads, secs } = options
  inRange('num-queues', numQueues, 1, 1024)
  inRange('queue-size', queueSize, 4, 1024)
  if ((queueSize & (queueSize - 1)) !== 0) throw wrong('queue-size', queueSize, 'must be a power of two')
  inRange('max-discard-sectors', options.maxDiscardSectors ?? 1, 1, 0xffffffff)
  inRange('max-write-zeroes-sectors', options.maxWriteZeroesSectors ?? 1, 1, 0xffffffff)
  if (sizeMax !== 0) inRange('size-max', sizeMax, SECTOR, 0xffffffff)
  if (lifetime) {
    inRange('lifetime.preEolInfo', lifetime.preEolInfo, 0, 3)
    inRange('lifetime.estimateA', lifetime.estimateA, 0, 11)
    inRange('lifetime.estimateB', lifetime.estimateB, 0, 11)
  }
  if (cyls !== undefined || heads !== undefined || secs !== undefined) {
    inRange('cyls', cyls ?? 0, 1, 65535)
    inRange('heads', heads ?? 0, 1, 255)
    inRange('secs', secs ?? 0, 1, 255)
  }
}

function inRange(name: string, value: number, least: number, most: number): void {
  if (!Number.isInteger(value) || value < least || value > most) {
    throw wrong(name, value, `must be from ${least} to ${most}`)
  }
}

function wrong(name: string, value: number, rule: string): BlockError {
  return new BlockError('EINVAL', `Cannot make a virtio-blk device: ${name} is ${value}, ${rule}`)
}
