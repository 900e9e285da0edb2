/** A PACKET device: it takes command packets of 12 bytes and hands them to a SCSI target [ATA/ATAPI-7 volume 2, 9.8 and 9.9]. */
import { bytesVec, type IoVec } from '../../block/iovec.ts'
import type { Now } from '../../block/now.ts'
import type { Saved } from '../machine.ts'
import { type ScsiTarget, STATUS_CHECK_CONDITION, STATUS_GOOD, type Task } from '../scsi/index.ts'
import { BUS_DEVICE_RESET_OCCURRED, POWER_ON_OR_RESET } from '../scsi/sense.ts'
import { type Cable, Drive, type ResetKind } from './drive.ts'
import { identifyPacket } from './identifypacket.ts'
import type { DriveIdentity } from './identity.ts'
import { IDLE, Power, STANDBY } from './power.ts'
import { REASON_CD, REASON_IO, STATUS_DRDY, STATUS_DSC } from './registers.ts'
import { type Fields, takeBoolean, takeFields, takeNumber } from './saved.ts'
import { Settings } from './settings.ts'

// The few ATA commands of a PACKET device [ATA/ATAPI-7 volume 1, 4.3]
const DEVICE_RESET = 0x08
const READ_SECTORS = 0x20
const PACKET = 0xa0
const IDENTIFY_PACKET_DEVICE = 0xa1
const STANDBY_IMMEDIATE = 0xe0
const IDLE_IMMEDIATE = 0xe1
const CHECK_POWER_MODE = 0xe5
const SLEEP = 0xe6
const IDENTIFY_DEVICE = 0xec
const SET_FEATURES = 0xef

const FEATURES_DMA = 1 << 0
const FEATURES_OVERLAP = 1 << 1
const TRANSFER_MODE = 0x03
const REVERT_OFF = 0x66
const REVERT_ON = 0xcc

const PACKET_LENGTH = 12
/** Largest byte count, for it must be even; FFFFh stands for it [ATA/ATAPI-7 volume 1, 6.23.4]. */
const COUNT_LIMIT = 0xfffe

// Error register of PACKET: the sense key above, and what it says of the length
const ERROR_ILI = 1 << 0
const SENSE_ILI = 1 << 5
const KEY_ABORTED_COMMAND = 0x0b

/** What the drive's next data, or its work, are. */
type Stage = 'command' | 'packet' | 'data'
const STAGES: readonly Stage[] = ['command', 'packet', 'data']

export class AtapiDrive extends Drive {
  readonly target: ScsiTarget
  readonly identity: DriveIdentity
  readonly settings: Settings
  readonly power: Power
  protected readonly ready = STATUS_DRDY | STATUS_DSC
  protected readonly afterReset = 0
  protected readonly signature = [0x14, 0xeb] as const
  #stage: Stage = 'command'
  #dma = false
  #limit = 0
  #task: Task | undefined
  /** A task of a saved state, which goes on when the bus runs. */
  #savedTask: Saved | undefined
  /** Where in the task's data the block in the buffer begins, and its length. */
  #blockAt = 0
  #blockLength = 0

  /** A drive in front of LUN 0 of `target`. */
  constructor(cable: Cable, unit: 0 | 1, target: ScsiTarget, identity: DriveIdentity) {
    super(cable, unit)
    this.target = target
    this.identity = identity
    this.settings = new Settings(0, identity.ultra)
    this.power = new Power(cable.clock)
  }

  /** DEVICE RESET is taken at any time. */
  override writeCommand(opcode: number): void {
    if (opcode === DEVICE_RESET) this.reset('device')
    else super.writeCommand(opcode)
  }

  protected execute(): void {
    this.#stage = 'command'
    switch (this.opcode) {
      case PACKET:
        this.#packet()
        break
      case IDENTIFY_PACKET_DEVICE:
        this.room(512).set(identifyPacket(this))
        this.present(512)
        break
      // The signature shows hosts that ask for a disk what this is (6.12)
      case READ_SECTORS:
      case IDENTIFY_DEVICE:
        this.sign()
        this.abort()
        break
      case SET_FEATURES:
        this.#setFeatures()
        break
      case IDLE_IMMEDIATE:
      case STANDBY_IMMEDIATE:
        this.power.enter(this.opcode === IDLE_IMMEDIATE ? IDLE : STANDBY)
        this.complete()
        break
      case CHECK_POWER_MODE:
        this.count = this.power.mode
        this.complete()
        break
      case SLEEP:
        this.sleep()
        break
      default:
        this.abort()
    }
  }

  #setFeatures(): void {
    const subcommand = this.features & 0xff
    if (subcommand === REVERT_ON || subcommand === REVERT_OFF) this.settings.revert = subcommand === REVERT_ON
    else if (subcommand !== TRANSFER_MODE || !this.settings.setTransferMode(this.count & 0xff)) {
      this.abort()
      return
    }
    this.complete()
  }

  #packet(): void {
    if ((this.features & FEATURES_OVERLAP) !== 0) {
      this.abort()
      return
    }
    this.power.use()
    this.#dma = (this.features & FEATURES_DMA) !== 0
    this.#limit = Math.min((this.lbaMid & 0xff) | ((this.lbaHigh & 0xff) << 8), COUNT_LIMIT)
    this.#task = undefined
    this.#savedTask = undefined
    this.#stage = 'packet'
    this.count = REASON_CD
    this.ask(PACKET_LENGTH, PACKET_LENGTH, true)
  }

  protected given(): void {
    if (this.#stage === 'packet') {
      this.#stage = 'command'
      this.#task = this.target.submit({
        initiator: 0,
        lun: 0,
        cdb: this.buffer.slice(0, PACKET_LENGTH),
        attribute: 'untagged',
        tag: 0,
        autosense: false,
      })
      this.#go()
    } else this.#withTask((task) => this.#moveBlock(task))
  }

  protected taken(): void {
    if (this.opcode !== PACKET) {
      this.completeQuietly()
      return
    }
    this.busy()
    this.#go()
  }

  /** Calls `next` with the task, which may first have to be taken out of a saved state. */
  #withTask(next: (task: Task) => void): void {
    if (this.#task === undefined && this.#savedTask !== undefined) {
      this.work(
        () => this.target.resume(this.#savedTask!),
        (task) => {
          this.#task = task
          this.work(
            () => task.next(),
            () => next(task),
            () => this.#failWith(KEY_ABORTED_COMMAND),
          )
        },
        () => this.#failWith(KEY_ABORTED_COMMAND),
      )
    } else if (this.#task === undefined) this.#failWith(KEY_ABORTED_COMMAND)
    else next(this.#task)
  }

  /** Does what the task asks for next. */
  #go(): void {
    this.#withTask((task) => this.#follow(task))
  }

  #follow(task: Task): void {
    switch (task.phase) {
      case 'busy':
        this.work(
          () => task.next(),
          () => this.#follow(task),
          () => this.#failWith(KEY_ABORTED_COMMAND),
        )
        break
      case 'in':
      case 'out':
        this.#data(task)
        break
      case 'status':
        this.#finish(task)
        break
      case 'aborted':
        this.#failWith(KEY_ABORTED_COMMAND)
    }
  }

  #data(task: Task): void {
    const left = task.length - task.transferred
    this.#stage = 'data'
    if (this.#dma) {
      this.request(left)
      return
    }
    // A limit that is odd, and less than what is left, is one less (6.23.4); none at all is an error (word 125)
    const length = left <= this.#limit ? left : this.#limit & ~1
    if (length === 0) {
      this.work(
        () => task.abort(),
        () => this.abort(),
        () => this.abort(),
      )
    } else {
      this.room(length)
      this.#blockAt = task.transferred
      this.#blockLength = length
      if (task.phase === 'in') this.#moveBlock(task)
      else {
        this.#putCount(0, length)
        this.ask(length, length, false)
      }
    }
  }

  /** Moves what is left of the block between the buffer and the task. */
  #moveBlock(task: Task): void {
    const moved = () => Math.min(Math.max(task.transferred - this.#blockAt, 0), this.#blockLength)
    const incoming = task.phase === 'in'
    this.work(
      () => task.move(bytesVec(this.buffer.subarray(moved(), this.#blockLength))),
      () => {
        if (incoming && moved() > 0) {
          this.#putCount(REASON_IO, moved())
          this.present(moved(), moved())
        } else this.#follow(task)
      },
      () => this.#failWith(KEY_ABORTED_COMMAND),
    )
  }

  /** Interrupt Reason and Byte Count of a DRQ block. */
  #putCount(reason: number, bytes: number): void {
    this.count = reason
    this.lbaMid = bytes & 0xff
    this.lbaHigh = bytes >>> 8
  }

  protected exchange(memory: IoVec): void {
    const length = memory.byteLength
    this.#withTask((task) => {
      const whole = length === task.length - task.transferred
      this.work(
        () => (whole ? task.moveAll(memory) : task.move(memory)),
        () => {
          const ended = task.phase === 'status' || task.phase === 'aborted'
          if (ended && (task.phase === 'aborted' || task.status !== STATUS_GOOD)) this.#follow(task)
          else this.exchanged(length)
        },
        () => this.#failWith(KEY_ABORTED_COMMAND),
      )
    })
  }

  protected dmaDone(): void {
    this.#go()
  }

  #finish({ status, sense }: Task): void {
    this.count = REASON_CD | REASON_IO
    if (status === STATUS_GOOD) this.complete()
    else if (status === STATUS_CHECK_CONDITION) {
      const descriptor = (sense[0]! & 0x7f) >= 0x72
      const key = (descriptor ? sense[1]! : sense[2]!) & 0x0f
      const wrongLength = !descriptor && (sense[2]! & SENSE_ILI) !== 0
      this.#failWith(key, wrongLength ? ERROR_ILI : 0)
    } else this.#failWith(KEY_ABORTED_COMMAND)
  }

  #failWith(key: number, bits = 0): void {
    this.count = REASON_CD | REASON_IO
    this.fail((key << 4) | bits)
  }

  protected takeBack(kind: ResetKind): Now<void> {
    this.#task = undefined
    this.#savedTask = undefined
    this.settings.reset(kind, 0)
    this.power.reset()
    return this.target.reset(kind === 'power' ? POWER_ON_OR_RESET : BUS_DEVICE_RESET_OCCURRED)
  }

  drain(): Now<void> {
    return this.target.drain()
  }

  override save(): Fields {
    const task = this.opcode === PACKET ? this.#task : undefined
    return {
      ...super.save(),
      stage: STAGES.indexOf(this.#stage),
      dma: this.#dma,
      limit: this.#limit,
      blockAt: this.#blockAt,
      blockLength: this.#blockLength,
      task: task?.save() ?? this.#savedTask ?? null,
      settings: this.settings.save(),
      power: this.power.save(),
      target: this.target.save(),
    }
  }

  override restore(state: Saved): void {
    const fields = takeFields(state, 'PACKET device')
    super.restore(state)
    this.#stage = STAGES[takeNumber(state, 'stage', STAGES.length - 1)]!
    this.#dma = takeBoolean(state, 'dma')
    this.#limit = takeNumber(state, 'limit', COUNT_LIMIT)
    this.#blockAt = takeNumber(state, 'blockAt')
    this.#blockLength = takeNumber(state, 'blockLength', COUNT_LIMIT)
    this.room(this.#blockLength)
    this.#task = undefined
    this.#savedTask = fields.task ?? undefined
    this.settings.restore(fields.settings ?? null)
    this.power.restore(fields.power ?? null)
    // What cannot be set again is as it was set up
    const later = this.target.restore(fields.target ?? null)
    if (later instanceof Promise) later.catch(() => {})
  }

  protected resumeWork(): void {
    if (this.opcode !== PACKET) this.execute()
    else
      this.#withTask((task) => {
        const left = this.#blockAt + this.#blockLength - task.transferred
        if (this.#stage === 'data' && !this.#dma && left > 0) this.#moveBlock(task)
        else this.#follow(task)
      })
  }
}
