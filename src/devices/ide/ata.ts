/** An ATA disk: what it is, what it is set to, and how a command's data get from the block layer to the host [ATA8-ACS, ACS-3]. */
import type { Disk } from '../../block/disk.ts'
import { BlockError } from '../../block/error.ts'
import type { IoVec } from '../../block/iovec.ts'
import { after, type Now, rescue } from '../../block/now.ts'
import type { Saved } from '../machine.ts'
import { addressOf, countOf, type Form, formOf, putAddress, type Translation } from './address.ts'
import type { Command } from './command.ts'
import { COMMANDS } from './commands/index.ts'
import { type Cable, Drive, type ResetKind } from './drive.ts'
import type { DriveIdentity } from './identity.ts'
import { Logs } from './logs.ts'
import { MaximumAddress } from './maximum.ts'
import { Medium } from './medium.ts'
import { BUFFER_LIMIT } from './pio.ts'
import { Power } from './power.ts'
import { ERROR_IDNF, ERROR_UNC, STATUS_DRDY, STATUS_DSC } from './registers.ts'
import { Sanitize } from './sanitize.ts'
import { type Fields, takeBoolean, takeBytes, takeFields, takeNumber } from './saved.ts'
import { Security } from './security.ts'
import { Settings } from './settings.ts'
import { SMART_FAILED_HIGH, SMART_FAILED_MID, Smart } from './smart/index.ts'

/** What a busy drive does: the command from its start, a part of its sectors, or what it does with the host's data. */
type Doing = 'command' | 'fill' | 'store' | 'received'
const DOING: readonly Doing[] = ['command', 'fill', 'store', 'received']
const LARGEST_SECTOR = 4096

export class AtaDisk extends Drive {
  readonly disk: Disk
  readonly identity: DriveIdentity
  readonly sectorSize: number
  readonly settings: Settings
  readonly maximum: MaximumAddress
  readonly power: Power
  readonly security: Security
  readonly sanitize: Sanitize
  readonly smart: Smart
  readonly logs: Logs
  /** What WRITE BUFFER left. */
  readonly sectorBuffer: Uint8Array<ArrayBuffer> = new Uint8Array(512)
  /** Whether the drive takes DATA SET MANAGEMENT, and whether what it was told to forget reads as zero [ACS-3 7.5.3.3]. */
  readonly trims: boolean
  readonly trimsToZero: boolean
  /** The opcode before the one under way: some commands must follow another immediately. */
  previous = 0
  protected readonly ready = STATUS_DRDY | STATUS_DSC
  protected readonly afterReset = STATUS_DRDY | STATUS_DSC
  protected readonly signature = [0x00, 0x00] as const
  readonly #writeCache: boolean
  #command: Command | undefined
  doing: Doing = 'command'
  readonly #medium = new Medium(this)
  /** Bytes of the buffer that a DMA transfer without medium has moved, and moves in all. */
  #moved = 0
  #length = 0

  constructor(cable: Cable, unit: 0 | 1, disk: Disk, identity: DriveIdentity) {
    super(cable, unit)
    if (disk.logicalBlockSize > LARGEST_SECTOR) {
      throw new BlockError(
        'EINVAL',
        `Cannot use ${disk.name} as an IDE disk: its logical blocks of ${disk.logicalBlockSize} bytes are larger than ${LARGEST_SECTOR}`,
      )
    }
    this.disk = disk
    this.identity = identity
    this.sectorSize = disk.logicalBlockSize
    this.#writeCache = disk.writeCache
    this.settings = new Settings(disk.size / this.sectorSize, identity.ultra)
    this.maximum = new MaximumAddress(() => disk.size / this.sectorSize)
    this.power = new Power(cable.clock)
    this.security = new Security()
    this.sanitize = new Sanitize(this)
    this.smart = new Smart(this)
    this.logs = new Logs(this)
    this.trims = disk.canDiscard
    this.trimsToZero = this.trims && disk.device.driver.zero !== undefined
    disk.onResize(() => this.settings.resized(this.sectors))
  }

  /** User addressable sectors. */
  get sectors(): number {
    return this.maximum.sectors
  }

  /** Whether the command under way moves its data by DMA. */
  get dma(): boolean {
    return this.#command?.protocol === 'dma-in' || this.#command?.protocol === 'dma-out'
  }

  /** Whether its data come from the host. */
  get writes(): boolean {
    return this.#command?.protocol === 'dma-out' || this.#command?.protocol === 'pio-out'
  }

  protected execute(): void {
    const command = COMMANDS[this.opcode]
    this.#command = command
    this.doing = 'command'
    this.#medium.drop()
    this.smart.errors.accept(this)
    if (
      command === undefined ||
      command.offered?.(this) === false ||
      (this.security.locked && command.whileLocked !== true) ||
      (this.sanitize.busy && command.whileSanitizing?.(this) !== true)
    ) {
      this.abort()
    } else command.run(this)
    this.previous = this.opcode
  }

  // Data that are not the medium's

  /** Sends the first `length` bytes of the buffer to the host, by the command's protocol. */
  send(length: number): void {
    this.#length = length
    this.#moved = 0
    if (this.dma) this.request(length)
    else this.present(length)
  }

  /** Takes `length` bytes from the host, then the command's `received` goes on. */
  receive(length: number): void {
    this.#length = length
    this.#moved = 0
    this.room(length)
    if (this.dma) this.request(length)
    else this.ask(length, 512, true)
  }

  /** A buffer of `length` zero bytes to send. */
  blank(length: number): Uint8Array<ArrayBuffer> {
    return this.room(length).subarray(0, length).fill(0)
  }

  /** A drive has one command at a time, so nothing that may be collected comes behind it. */
  override work<T>(start: () => Now<T>, done: (value: T) => void, failed: (error: unknown) => void): void {
    super.work(start, done, failed)
    this.disk.kick()
  }

  // Non-data commands

  /** Ends the command when the host has done `start`; a failure is an abort. */
  completeAfter(start: () => Now<void>): void {
    this.work(
      start,
      () => this.complete(),
      () => this.abort(),
    )
  }

  // The medium

  /** Where the command's data are; if that is nowhere, the command ends with IDNF, and undefined is the answer. */
  extent(ext: boolean): { lba: number; count: number; form: Form } | undefined {
    const form = formOf(this, ext)
    const lba = addressOf(this, form, this.settings.translation)
    const count = countOf(this, form)
    const sectors = this.sectors
    if (lba !== undefined && lba + count <= sectors) return { lba, count, form }
    if (lba !== undefined) putAddress(this, form, Math.max(lba, sectors), this.settings.translation)
    this.failMedium(ERROR_IDNF)
    return undefined
  }

  /** Moves the command's sectors, `block` of them in a DRQ block. */
  transfer(ext: boolean, options: { block?: number; fua?: boolean } = {}): void {
    if (this.writes && this.disk.readOnly) {
      this.abort()
      return
    }
    const extent = this.extent(ext)
    if (extent !== undefined) this.#medium.begin(extent, options)
  }

  protected taken(length: number): void {
    if (this.#medium.moves) this.#medium.taken(length)
    else this.completeQuietly()
  }

  protected given(length: number): void {
    if (this.#medium.moves) this.#medium.store(length)
    else this.#received()
  }

  #received(): void {
    this.doing = 'received'
    this.busy()
    this.#command?.received?.(this, this.buffer.subarray(0, this.#length))
  }

  protected exchange(memory: IoVec): void {
    if (this.#medium.moves) {
      this.#medium.exchange(memory)
      return
    }
    const length = memory.byteLength
    const part = this.buffer.subarray(this.#moved, this.#moved + length)
    if (this.writes) memory.gather(part)
    else {
      memory.scatter(part)
      memory.filled()
    }
    this.#moved += length
    this.exchanged(length)
  }

  protected dmaDone(): void {
    if (this.#medium.moves) this.#medium.ended()
    else if (this.writes) this.#received()
    else this.complete()
  }

  /** Ends a command that found the medium wanting, for the error log to tell. */
  failMedium(error: number): void {
    this.smart.errors.record(this, error)
    this.fail(error)
  }

  /** Ends a command with UNC, its failing sector in the registers; for commands that read the medium on their own. */
  failUnreadable(lba: number, form: Form): void {
    putAddress(this, form, lba, this.settings.translation)
    this.smart.unreadable(lba)
    this.failMedium(ERROR_UNC)
  }

  /** Ends the command of a captive self-test [ATA8-ACS 7.53.5.5]. */
  endCaptive(passed: boolean): void {
    if (this.phase !== 'work') return
    if (passed) {
      this.complete()
      return
    }
    this.lbaMid = SMART_FAILED_MID
    this.lbaHigh = SMART_FAILED_HIGH
    this.abort()
  }

  // Resets and saved states

  protected takeBack(kind: ResetKind): Now<void> {
    this.#medium.drop()
    this.previous = 0
    this.smart.reset(kind)
    this.settings.reset(kind, this.sectors)
    this.power.reset()
    if (kind === 'power') {
      this.maximum.reset()
      this.security.reset()
      this.sanitize.reset()
    }
    return after(this.disk.cancel(), () => {
      if (kind === 'power' || this.settings.revert) return this.#setWriteCache(this.#writeCache)
    })
  }

  // What cannot be flushed now will fail again when the host asks for it
  #setWriteCache(on: boolean): Now<void> {
    return rescue(
      () => this.disk.setWriteCache(on),
      () => {},
    )
  }

  drain(): Now<void> {
    return this.disk.drain()
  }

  get translation(): Translation {
    return this.settings.translation
  }

  override save(): Fields {
    return {
      ...super.save(),
      work: DOING.indexOf(this.doing),
      previous: this.previous,
      moved: this.#moved,
      length: this.#length,
      writeCache: this.disk.writeCache,
      transfer: this.#medium.save(),
      settings: this.settings.save(),
      maximum: this.maximum.save(),
      power: this.power.save(),
      security: this.security.save(),
      sanitize: this.sanitize.save(),
      smart: this.smart.save(),
      logs: this.logs.save(),
      sectorBuffer: this.sectorBuffer.slice(),
    }
  }

  override restore(state: Saved): void {
    const fields = takeFields(state, 'ATA disk')
    super.restore(state)
    this.#command = COMMANDS[this.opcode]
    this.doing = DOING[takeNumber(state, 'work', DOING.length - 1)]!
    this.previous = takeNumber(state, 'previous', 0xff)
    this.#length = takeNumber(state, 'length', BUFFER_LIMIT)
    this.#moved = takeNumber(state, 'moved', this.#length)
    this.room(this.#length)
    this.#medium.restore(fields.transfer ?? null)
    if (!this.#medium.moves && this.dmaWanted > this.#length - this.#moved)
      throw new RangeError(`a drive's buffer of ${this.#length - this.#moved} bytes does not move ${this.dmaWanted}`)
    this.settings.restore(fields.settings ?? null)
    this.maximum.restore(fields.maximum ?? null)
    this.power.restore(fields.power ?? null)
    this.security.restore(fields.security ?? null)
    this.sanitize.restore(fields.sanitize ?? null)
    this.smart.restore(fields.smart ?? null)
    this.logs.restore(fields.logs ?? null)
    this.sectorBuffer.set(takeBytes(state, 'sectorBuffer', 512))
    // The cache is on or off from the next write on; what was written before is as durable as it was
    this.#setWriteCache(takeBoolean(state, 'writeCache'))
  }

  override resume(): void {
    super.resume()
    this.sanitize.resume()
    this.smart.resume()
  }

  protected resumeWork(): void {
    if (this.doing === 'command') this.execute()
    else if (this.doing === 'received') this.#received()
    else if (!this.#medium.moves) this.abort()
    else this.#medium.resume(this.doing)
  }
}
