/** An ATA disk: what it is, what it is set to, and how a command's data get from the block layer to the host [ATA8-ACS, ACS-3]. */
import type { Disk } from '../../block/disk.ts'
import { BlockError } from '../../block/error.ts'
import { bytesVec, type IoVec } from '../../block/iovec.ts'
import { after, type Now, rescue } from '../../block/now.ts'
import type { Saved } from '../machine.ts'
import { addressOf, countOf, type Form, formOf, putAddress, type Translation } from './address.ts'
import type { Command } from './command.ts'
import { COMMANDS } from './commands/index.ts'
import { BUFFER_LIMIT, type Cable, Drive, type ResetKind } from './drive.ts'
import type { DriveIdentity } from './identity.ts'
import { locate } from './locate.ts'
import { Logs } from './logs.ts'
import { MaximumAddress } from './maximum.ts'
import { Power } from './power.ts'
import { ERROR_ABRT, ERROR_IDNF, ERROR_UNC, STATUS_DRDY, STATUS_DSC } from './registers.ts'
import { Sanitize } from './sanitize.ts'
import { type Fields, takeBoolean, takeBytes, takeFields, takeNumber } from './saved.ts'
import { Security } from './security.ts'
import { Settings } from './settings.ts'
import { SMART_FAILED_HIGH, SMART_FAILED_MID, Smart } from './smart/index.ts'

/** A transfer between the medium and the host. */
interface Transfer {
  /** First byte on the medium. */
  readonly at: number
  /** Bytes in all. */
  readonly length: number
  /** Bytes that passed, up to what the buffer holds. */
  done: number
  /** Bytes of a DRQ block. */
  readonly block: number
  readonly fua: boolean
  readonly form: Form
  /** Bytes from `at` to the sector that cannot be read, once it is known; -1 before. */
  bad: number
  /** Bytes of a sector that DMA brought only a part of. */
  rest: Uint8Array<ArrayBuffer>
}

type Work = 'command' | 'fill' | 'store' | 'received'
const WORK: readonly Work[] = ['command', 'fill', 'store', 'received']
const FORMS: readonly Form[] = ['chs', 'lba28', 'lba48']
const NOTHING = new Uint8Array(0)
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
  #work: Work = 'command'
  #transfer: Transfer | undefined
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

  protected execute(): void {
    const command = COMMANDS[this.opcode]
    this.#command = command
    this.#work = 'command'
    this.#transfer = undefined
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
    this.#failMedium(ERROR_IDNF)
    return undefined
  }

  /** Moves the command's sectors, `block` of them in a DRQ block. */
  transfer(ext: boolean, { block = 1, fua = false } = {}): void {
    const write = this.#command?.protocol === 'pio-out' || this.#command?.protocol === 'dma-out'
    if (write && this.disk.readOnly) {
      this.abort()
      return
    }
    const extent = this.extent(ext)
    if (extent === undefined) return
    const size = this.sectorSize
    const length = extent.count * size
    this.#transfer = {
      at: extent.lba * size,
      length,
      done: 0,
      block: block * size,
      fua,
      form: extent.form,
      bad: -1,
      rest: NOTHING,
    }
    if (this.dma) this.request(length)
    else if (write) this.ask(Math.min(length, this.#window()), block * size, true)
    else this.#fill()
  }

  /** Largest part of a PIO transfer in the buffer: whole blocks. */
  #window(): number {
    const block = this.#transfer!.block
    return BUFFER_LIMIT - (BUFFER_LIMIT % block)
  }

  #fill(): void {
    const transfer = this.#transfer!
    const length = Math.min(transfer.length - transfer.done, this.#window())
    const buffer = this.room(length)
    const from = transfer.at + transfer.done
    const read = (start: number, end: number) => this.disk.read(from + start, bytesVec(buffer.subarray(start, end)))
    this.busy()
    this.#work = 'fill'
    this.work(
      () => read(0, length),
      () => this.present(length, transfer.block),
      () =>
        this.#locate(0, length, read, (bad) => {
          transfer.bad = transfer.done + bad
          const good = bad - (bad % transfer.block)
          if (good > 0) this.present(good, transfer.block)
          else this.#unreadable()
        }),
    )
  }

  protected taken(length: number): void {
    const transfer = this.#transfer
    if (transfer === undefined) {
      this.completeQuietly()
      return
    }
    transfer.done += length
    if (transfer.bad >= 0) this.#unreadable()
    else if (transfer.done < transfer.length) this.#fill()
    else {
      this.#atEnd(transfer)
      this.completeQuietly()
    }
  }

  protected given(length: number): void {
    if (this.#transfer === undefined) this.#received()
    else this.#store(length)
  }

  #received(): void {
    this.#work = 'received'
    this.busy()
    this.#command?.received?.(this, this.buffer.subarray(0, this.#length))
  }

  #store(length: number): void {
    const transfer = this.#transfer!
    const from = transfer.at + transfer.done
    const buffer = this.buffer
    const options = transfer.fua ? { fua: true } : undefined
    const write = (start: number, end: number) =>
      this.disk.write(from + start, bytesVec(buffer.subarray(start, end)), options)
    this.#work = 'store'
    this.work(
      () => write(0, length),
      () => {
        this.smart.written(from, length)
        transfer.done += length
        if (transfer.done < transfer.length) {
          this.ask(Math.min(transfer.length - transfer.done, this.#window()), transfer.block, false)
        } else {
          this.#atEnd(transfer)
          this.complete()
        }
      },
      () => this.#locate(0, length, write, (bad) => this.#unwritable(transfer.done + bad)),
    )
  }

  protected exchange(memory: IoVec): void {
    const transfer = this.#transfer
    const length = memory.byteLength
    if (transfer === undefined) {
      const part = this.buffer.subarray(this.#moved, this.#moved + length)
      if (this.#command?.protocol === 'dma-in') {
        memory.scatter(part)
        memory.filled()
      } else memory.gather(part)
      this.#moved += length
      this.exchanged(length)
      return
    }
    if (this.#command?.protocol === 'dma-in') this.#exchangeIn(transfer, memory)
    else this.#exchangeOut(transfer, memory)
  }

  #exchangeIn(transfer: Transfer, memory: IoVec): void {
    const length = memory.byteLength
    const from = transfer.at + transfer.done
    const read = (start: number, end: number) => this.disk.read(from + start, memory.slice(start, end))
    this.work(
      () => this.disk.read(from, memory),
      () => {
        transfer.done += length
        this.exchanged(length)
      },
      () =>
        this.#locate(0, length, read, (bad) => {
          transfer.bad = transfer.done + bad
          this.#unreadable()
        }),
    )
  }

  // A list that ends within a sector leaves the sector unwritten until the rest has come
  #exchangeOut(transfer: Transfer, memory: IoVec): void {
    const { rest } = transfer
    const length = memory.byteLength
    const after = (rest.length + length) % this.sectorSize
    const whole = rest.length + length - after
    let from = memory
    let left: Uint8Array<ArrayBuffer> = NOTHING
    if (rest.length > 0 || after > 0) {
      const bytes = new Uint8Array(rest.length + length)
      bytes.set(rest)
      memory.gather(bytes.subarray(rest.length))
      from = bytesVec(bytes.subarray(0, whole))
      left = bytes.slice(whole)
    }
    const at = transfer.at + transfer.done
    const options = transfer.fua ? { fua: true } : undefined
    const write = (start: number, end: number) => this.disk.write(at + start, from.slice(start, end), options)
    this.work(
      () => (whole > 0 ? this.disk.write(at, from, options) : undefined),
      () => {
        this.smart.written(at, whole)
        transfer.done += whole
        transfer.rest = left
        this.exchanged(length)
      },
      () => this.#locate(0, whole, write, (bad) => this.#unwritable(transfer.done + bad)),
    )
  }

  protected dmaDone(): void {
    if (this.#transfer !== undefined) {
      this.#atEnd(this.#transfer)
      this.complete()
    } else if (this.#command?.protocol === 'dma-out') this.#received()
    else this.complete()
  }

  #locate(
    start: number,
    end: number,
    attempt: (start: number, end: number) => Now<void>,
    found: (bad: number) => void,
  ): void {
    locate(
      { start, end, unit: this.sectorSize },
      attempt,
      (begin, done, failed) => this.work(begin, done, failed),
      found,
    )
  }

  #unreadable(): void {
    const { at, bad } = this.#transfer!
    this.smart.unreadable((at + bad) / this.sectorSize)
    this.#failAt(bad, ERROR_UNC)
  }

  // The standard gives a failed write no bit of its own; ABRT makes hosts repeat it, and then give it up
  #unwritable(bad: number): void {
    this.#failAt(bad, ERROR_ABRT)
  }

  #failAt(offset: number, error: number): void {
    const { at, length, form } = this.#transfer!
    const size = this.sectorSize
    putAddress(this, form, Math.floor((at + offset) / size), this.settings.translation)
    if (form !== 'lba48') this.count = Math.ceil((length - offset) / size) & 0xff
    this.#failMedium(error)
  }

  #failMedium(error: number): void {
    this.smart.errors.record(this, error)
    this.fail(error)
  }

  /** Ends a command with UNC, its failing sector in the registers; for commands that read the medium on their own. */
  failUnreadable(lba: number, form: Form): void {
    putAddress(this, form, lba, this.settings.translation)
    this.smart.unreadable(lba)
    this.#failMedium(ERROR_UNC)
  }

  // As ATA-3 has it: the registers name the last sector, and none is left
  #atEnd({ at, length, form }: Transfer): void {
    putAddress(this, form, (at + length) / this.sectorSize - 1, this.settings.translation)
    this.count = 0
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
    this.#transfer = undefined
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
    const transfer = this.#transfer
    return {
      ...super.save(),
      work: WORK.indexOf(this.#work),
      previous: this.previous,
      moved: this.#moved,
      length: this.#length,
      writeCache: this.disk.writeCache,
      transfer:
        transfer === undefined
          ? null
          : {
              ...transfer,
              form: FORMS.indexOf(transfer.form),
              bad: transfer.bad + 1,
            },
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
    this.#work = WORK[takeNumber(state, 'work', WORK.length - 1)]!
    this.previous = takeNumber(state, 'previous', 0xff)
    this.#length = takeNumber(state, 'length', BUFFER_LIMIT)
    this.#moved = takeNumber(state, 'moved', this.#length)
    this.room(this.#length)
    this.#transfer = fields.transfer === null ? undefined : this.#takeTransfer(takeFields(fields.transfer, 'transfer'))
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

  #takeTransfer(saved: Fields): Transfer {
    const size = this.sectorSize
    const transfer: Transfer = {
      at: takeNumber(saved, 'at'),
      length: takeNumber(saved, 'length', 0x1_0000 * size),
      done: takeNumber(saved, 'done', 0x1_0000 * size),
      block: takeNumber(saved, 'block', BUFFER_LIMIT),
      fua: takeBoolean(saved, 'fua'),
      form: FORMS[takeNumber(saved, 'form', FORMS.length - 1)]!,
      bad: takeNumber(saved, 'bad') - 1,
      rest: takeBytes(saved, 'rest', size),
    }
    if (transfer.block === 0 || transfer.block % size !== 0 || transfer.done > transfer.length) {
      throw new RangeError('the saved transfer has no whole blocks')
    }
    return transfer
  }

  override resume(): void {
    super.resume()
    this.sanitize.resume()
    this.smart.resume()
  }

  protected resumeWork(): void {
    if (this.#transfer === undefined && this.#work !== 'command' && this.#work !== 'received') this.abort()
    else if (this.#work === 'fill') this.#fill()
    else if (this.#work === 'store')
      this.#store(Math.min(this.#transfer!.length - this.#transfer!.done, this.#window()))
    else if (this.#work === 'received') this.#received()
    else this.execute()
  }
}
