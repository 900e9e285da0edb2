/** A PACKET device: it takes command packets of 12 bytes and hands them to a SCSI target [ATA/ATAPI-7 volume 2, 9.8 and 9.9]. */
import { bytesVec, type IoVec } from '../../block/iovec.ts'
import { after, type Now, repeat } from '../../block/now.ts'
import type { Saved } from '../machine.ts'
import { type ScsiTarget, STATUS_CHECK_CONDITION, STATUS_GOOD, type Task } from '../scsi/index.ts'
import { BUS_DEVICE_RESET_OCCURRED, POWER_ON_OR_RESET } from '../scsi/sense.ts'
import { BUFFER_LIMIT, type Cable, Drive, type ResetKind } from './drive.ts'
import { identifyPacket } from './identifypacket.ts'
import type { DriveIdentity } from './identity.ts'
import { IDLE, Power, STANDBY } from './power.ts'
import { REASON_CD, REASON_IO, STATUS_DRDY, STATUS_DSC } from './registers.ts'
import { type Fields, takeBoolean, takeBytes, takeFields, takeNumber } from './saved.ts'
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

/** How a task ended. */
interface Outcome {
  readonly status: number
  readonly sense: Uint8Array
}

export class AtapiDrive extends Drive {
  readonly target: ScsiTarget
  readonly identity: DriveIdentity
  readonly settings: Settings
  readonly power: Power
  protected readonly ready = STATUS_DRDY | STATUS_DSC
  protected readonly afterReset = 0
  protected readonly signature = [0x14, 0xeb] as const
  #stage: Stage = 'command'
  #cdb = new Uint8Array(PACKET_LENGTH)
  #dma = false
  #limit = 0
  #task: Task | undefined
  /** Of a task that a saved state left unfinished: the bytes that it had moved. */
  #skip = 0
  #outcome: Outcome | undefined

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
    this.#outcome = undefined
    this.#skip = 0
    this.#stage = 'packet'
    this.count = REASON_CD
    this.ask(PACKET_LENGTH, PACKET_LENGTH, true)
  }

  protected given(length: number): void {
    if (this.#stage === 'packet') {
      this.#cdb = this.buffer.slice(0, PACKET_LENGTH)
      this.#stage = 'command'
      this.#go()
    } else this.#giveData(length)
  }

  protected taken(): void {
    if (this.opcode !== PACKET) {
      this.completeQuietly()
      return
    }
    this.busy()
    this.#go()
  }

  /** Calls `next` with the task; one that a saved state left unfinished is sent again, past what it had moved. */
  #withTask(next: (task: Task) => void): void {
    if (this.#task !== undefined) {
      next(this.#task)
      return
    }
    const task = this.target.submit({
      initiator: 0,
      lun: 0,
      cdb: this.#cdb,
      attribute: 'untagged',
      tag: 0,
      autosense: false,
    })
    this.#task = task
    const skip = this.#skip
    if (skip === 0) next(task)
    else
      this.work(
        () => after(task.next(), () => skipData(task, skip)),
        () => next(task),
        () => this.#failWith(KEY_ABORTED_COMMAND),
      )
  }

  /** Does what the task asks for next. */
  #go(): void {
    if (this.#outcome !== undefined) this.#finish(this.#outcome)
    else this.#withTask((task) => this.#follow(task))
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
    } else if (task.phase === 'in') this.#takeData(task, length)
    else {
      this.#putCount(0, length)
      this.ask(length, length, false)
    }
  }

  #takeData(task: Task, length: number): void {
    const before = task.transferred
    const buffer = this.room(length)
    this.work(
      () => task.move(bytesVec(buffer.subarray(0, length))),
      () => {
        const moved = task.transferred - before
        if (moved === 0) this.#follow(task)
        else {
          this.#putCount(REASON_IO, moved)
          this.present(moved, moved)
        }
      },
      () => this.#failWith(KEY_ABORTED_COMMAND),
    )
  }

  #giveData(length: number): void {
    const data = this.buffer.subarray(0, length)
    this.#withTask((task) => {
      this.work(
        () => task.move(bytesVec(data)),
        () => this.#follow(task),
        () => this.#failWith(KEY_ABORTED_COMMAND),
      )
    })
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

  #finish({ status, sense }: Outcome): void {
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
    this.#outcome = undefined
    this.settings.reset(kind, 0)
    this.power.reset()
    return this.target.reset(kind === 'power' ? POWER_ON_OR_RESET : BUS_DEVICE_RESET_OCCURRED)
  }

  drain(): Now<void> {
    return this.target.drain()
  }

  override save(): Fields {
    const task = this.#task
    const over = task === undefined ? this.#outcome : task.phase === 'status' ? task : undefined
    return {
      ...super.save(),
      stage: STAGES.indexOf(this.#stage),
      cdb: this.#cdb.slice(),
      dma: this.#dma,
      limit: this.#limit,
      skip: task?.transferred ?? this.#skip,
      outcome: over === undefined ? null : { status: over.status, sense: over.sense.slice() },
      settings: this.settings.save(),
      power: this.power.save(),
    }
  }

  override restore(state: Saved): void {
    const fields = takeFields(state, 'PACKET device')
    super.restore(state)
    this.#stage = STAGES[takeNumber(state, 'stage', STAGES.length - 1)]!
    const cdb = takeBytes(state, 'cdb', PACKET_LENGTH)
    this.#cdb = new Uint8Array(PACKET_LENGTH)
    this.#cdb.set(cdb)
    this.#dma = takeBoolean(state, 'dma')
    this.#limit = takeNumber(state, 'limit', COUNT_LIMIT)
    this.#task = undefined
    this.#skip = takeNumber(state, 'skip', 2 ** 33)
    this.#outcome = undefined
    if (fields.outcome !== null) {
      const outcome = takeFields(fields.outcome, 'outcome')
      const sense = takeBytes(outcome, 'sense', 252)
      this.#outcome = {
        status: takeNumber(outcome, 'status', 0xff),
        sense: sense.length < 18 ? new Uint8Array(18) : sense,
      }
    }
    this.settings.restore(fields.settings ?? null)
    this.power.restore(fields.power ?? null)
  }

  protected resumeWork(): void {
    if (this.opcode !== PACKET) this.execute()
    else if (this.#stage === 'data' && this.#outcome === undefined) this.#resumeData()
    else this.#go()
  }

  // The drive was at work on data: reading the next block, or taking the one that is in the buffer
  #resumeData(): void {
    this.#withTask((task) => {
      this.work(
        () => task.next(),
        () => {
          if (task.phase === 'out' && task.transferred === 0) this.#giveData(Math.min(this.asked, task.length))
          else this.#follow(task)
        },
        () => this.#failWith(KEY_ABORTED_COMMAND),
      )
    })
  }
}

/** Takes and drops the first bytes of a task that is done again; what cannot be taken twice makes it fail. */
function skipData(task: Task, length: number): Now<void> {
  const scratch = new Uint8Array(Math.min(length, BUFFER_LIMIT))
  return repeat(() => {
    const left = length - task.transferred
    if (left <= 0) return false
    if (task.phase === 'in')
      return after(task.move(bytesVec(scratch.subarray(0, Math.min(left, scratch.length)))), () => true)
    if (task.phase === 'out') return after(task.abort(), () => false)
    return false
  })
}
