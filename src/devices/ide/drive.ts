/** One drive as its host sees it: the protocols that move data [ATA8-APT 9], whatever the command set. */
import type { IoVec } from '../../block/iovec.ts'
import { type Now, settle } from '../../block/now.ts'
import type { Clock, Saved } from '../machine.ts'
import { PioData } from './pio.ts'
import { DEVICE_DEV, DIAGNOSTIC_PASSED, ERROR_ABRT, STATUS_BSY, STATUS_DRQ, STATUS_ERR } from './registers.ts'
import { type Fields, takeBoolean, takeNumber, takeString } from './saved.ts'
import { TaskFile } from './taskfile.ts'

/** The drive's end of the cable. */
export interface Cable {
  readonly clock: Clock
  /** Says that {@link Drive.interrupt} changed. */
  interrupt(): void
  /** Asserts DMARQ: the drive wants {@link Drive.dmaWanted} bytes moved. */
  request(): void
}

/**
 * What a drive is doing. BSY is set in `work` (the command set, perhaps with the host), `moving` (the bus master moves data),
 * `reset`, and `stopping` (the bus master was stopped in the middle). DRQ is set in `in`, `out`, `dma` and `stuck`, in which only a
 * reset helps. `asleep` is the ATA Sleep mode.
 */
export type Phase = 'idle' | 'work' | 'in' | 'out' | 'dma' | 'moving' | 'stopping' | 'stuck' | 'reset' | 'asleep'
const PHASES: readonly string[] = [
  'idle',
  'work',
  'in',
  'out',
  'dma',
  'moving',
  'stopping',
  'stuck',
  'reset',
  'asleep',
] satisfies Phase[]

/** A reset of the whole drive, by power or RST#; by SRST; by the DEVICE RESET command. */
export type ResetKind = 'power' | 'soft' | 'device'

const UNIT = 512

export abstract class Drive extends TaskFile {
  /** 0 is the master, 1 the slave. */
  readonly unit: 0 | 1
  readonly cable: Cable
  /** Whether the drive has an interrupt pending; it drives INTRQ only while it is selected. */
  interrupt = false
  /** The command under way, or the last one. */
  opcode = 0
  phase: Phase = 'idle'
  /** Bytes that the drive, asserting DMARQ, still wants moved. */
  dmaWanted = 0
  /** What passes through the Data register. */
  readonly pio = new PioData()
  #generation = 0
  #holdReset = false
  #released = true
  #resumable = false
  #resetKind: ResetKind = 'power'
  #moved: (whole: boolean) => void = () => {}

  constructor(cable: Cable, unit: 0 | 1) {
    super()
    this.cable = cable
    this.unit = unit
  }

  /** Status when no command is under way and none failed. */
  protected abstract readonly ready: number
  /** Status after a reset. */
  protected abstract readonly afterReset: number
  /** Cylinder registers that say after a reset what kind of drive this is [ATA8-ACS 7.9.4]. */
  protected abstract readonly signature: readonly [lbaMid: number, lbaHigh: number]
  /** Does the command in {@link opcode}. */
  protected abstract execute(): void
  /** Goes on with the work that a saved state was in the middle of. */
  protected abstract resumeWork(): void
  /** The host took all `length` bytes that were presented. */
  protected abstract taken(length: number): void
  /** The host gave all that was asked for, `length` bytes at the start of {@link buffer}. */
  protected abstract given(length: number): void
  /** Moves the next `memory.byteLength` bytes of the transfer to or from guest memory, then calls {@link exchanged} or a failure. */
  protected abstract exchange(memory: IoVec): void
  /** All of a DMA transfer was moved. */
  protected abstract dmaDone(): void
  /** Takes back what is under way with the host; completes when it let go of it. */
  protected abstract takeBack(kind: ResetKind): Now<void>
  /** Completes when nothing is with the host. */
  abstract drain(): Now<void>

  // The Command, Status and Data registers

  /** Reads Status, which answers the interrupt [ATA8-APT 6.4]. */
  readStatus(): number {
    if (this.interrupt) {
      this.interrupt = false
      this.cable.interrupt()
    }
    return this.status
  }

  /** Writes Command; a drive that is busy, in the middle of data or asleep does not take it. */
  writeCommand(opcode: number): void {
    this.#quiet()
    if ((this.status & (STATUS_BSY | STATUS_DRQ)) !== 0 || this.phase === 'asleep') return
    this.opcode = opcode
    this.error = 0
    this.busy()
    this.execute()
  }

  /** Reads 1, 2 or 4 bytes of the Data register. */
  readData(width: number): number {
    const { pio } = this
    if (pio.at >= pio.inEnd) return 0
    const value = pio.take(width)
    if (pio.at === pio.inEnd) this.#blockTaken()
    return value
  }

  /** Writes 1, 2 or 4 bytes to the Data register. */
  writeData(width: number, value: number): void {
    const { pio } = this
    if (pio.at >= pio.outEnd) return
    pio.put(width, value)
    if (pio.at === pio.outEnd) this.#blockGiven()
  }

  #blockTaken(): void {
    if (this.pio.nextIn()) this.#interrupt()
    else this.taken(this.pio.length)
  }

  #blockGiven(): void {
    if (this.pio.nextOut()) {
      this.#interrupt()
      return
    }
    this.busy()
    this.given(this.pio.length)
  }

  // For command sets: how a command goes on and how it ends

  /** Sets BSY: the command set is at work. */
  busy(): void {
    this.phase = 'work'
    this.status = STATUS_BSY | this.ready
  }

  /**
   * Asks something of the host, with `done` or `failed` to follow, at once or later; neither does if a reset comes first.
   * What is done then belongs to the same command.
   */
  work<T>(start: () => Now<T>, done: (value: T) => void, failed: (error: unknown) => void): void {
    const generation = this.#generation
    settle(
      start,
      (value) => {
        if (generation === this.#generation) done(value)
      },
      (error) => {
        if (generation === this.#generation) failed(error)
      },
    )
  }

  /** Calls `next` when the guest has had its turn, unless a reset comes first. */
  later(next: () => void): void {
    const generation = this.#generation
    this.cable.clock.defer(() => {
      if (generation === this.#generation) next()
    })
  }

  /** Ends the command in Sleep mode, out of which only a reset leads. */
  sleep(): void {
    this.complete()
    this.phase = 'asleep'
  }

  /** The drive's buffer: what PIO data pass through. */
  get buffer(): Uint8Array<ArrayBuffer> {
    return this.pio.bytes
  }

  /** Makes {@link buffer} at least `length` bytes long; what it held is lost if it must grow. */
  room(length: number): Uint8Array<ArrayBuffer> {
    return this.pio.room(length)
  }

  /** PIO data-in: presents the first `length` bytes of {@link buffer} in DRQ blocks, each with an interrupt. */
  present(length: number, block = UNIT): void {
    this.phase = 'in'
    this.status = this.ready | STATUS_DRQ
    this.pio.present(length, block)
    this.#interrupt()
  }

  /** PIO data-out: asks for `length` bytes in DRQ blocks; the first of a command comes without an interrupt. */
  ask(length: number, block: number, first: boolean): void {
    this.phase = 'out'
    this.status = this.ready | STATUS_DRQ
    this.pio.ask(length, block)
    if (!first) this.#interrupt()
  }

  /** DMA: asserts DMARQ until `length` bytes have passed. */
  request(length: number): void {
    this.phase = 'dma'
    this.status = this.ready | STATUS_DRQ
    this.dmaWanted = length
    this.cable.request()
  }

  /** Ends the command well. */
  complete(): void {
    this.#end(this.ready)
    this.#interrupt()
  }

  /** Ends a PIO data-in command, whose last interrupt came with its last block. */
  completeQuietly(): void {
    this.#end(this.ready)
  }

  /** Ends the command with an error; `status` may add DF. */
  fail(error: number, status = 0): void {
    this.error = error
    const moving = this.phase === 'moving'
    this.#end(this.ready | STATUS_ERR | status)
    if (moving) this.#moved(false)
    this.#interrupt()
  }

  /** Ends the command undone. */
  abort(): void {
    this.fail(ERROR_ABRT)
  }

  #end(status: number): void {
    this.phase = 'idle'
    this.status = status
    this.pio.close()
    this.dmaWanted = 0
  }

  #interrupt(): void {
    if (this.interrupt) return
    this.interrupt = true
    this.cable.interrupt()
  }

  #quiet(): void {
    if (!this.interrupt) return
    this.interrupt = false
    this.cable.interrupt()
  }

  // The bus master's side of a DMA transfer

  /** Moves `memory`, at most {@link dmaWanted} bytes; `moved` is told, before the drive's interrupt, whether all of it was. */
  move(memory: IoVec, moved: (whole: boolean) => void): void {
    this.phase = 'moving'
    this.status = STATUS_BSY | this.ready
    this.#moved = moved
    this.exchange(memory)
  }

  /** Ends a {@link move}; for the command set. */
  exchanged(length: number): void {
    this.dmaWanted -= length
    this.phase = this.dmaWanted > 0 ? 'dma' : 'work'
    if (this.dmaWanted > 0) this.status = this.ready | STATUS_DRQ
    this.#moved(true)
    if (this.dmaWanted === 0) this.dmaDone()
    else this.cable.request()
  }

  /**
   * The bus master was stopped while it moved data. The drive still waits for the rest, which will not come: only a reset helps.
   * What is under way is taken back for good; `released` is called when the host let go of the guest's memory.
   */
  halt(released: () => void): void {
    this.phase = 'stopping'
    this.dmaWanted = 0
    this.#takeBack('device', () => {
      this.phase = 'stuck'
      this.status = this.ready | STATUS_DRQ
      released()
    })
  }

  #takeBack(kind: ResetKind, released: () => void): Now<void> {
    const generation = ++this.#generation
    const go = () => {
      if (generation === this.#generation) released()
    }
    const letGo = this.takeBack(kind)
    if (!(letGo instanceof Promise)) {
      go()
      return
    }
    return letGo.then(go, go)
  }

  // Resets

  /**
   * Resets the drive. BSY stays set until the host let go of what was under way, for a completion must never meet memory, or a
   * medium, that already serves something else (CVE-2023-5088); with SRST also until {@link endReset}.
   */
  reset(kind: ResetKind): Now<void> {
    this.phase = 'reset'
    this.status = STATUS_BSY
    this.pio.close()
    this.dmaWanted = 0
    this.#resetKind = kind
    this.#holdReset = kind === 'soft'
    this.#released = false
    this.#resumable = false
    this.#quiet()
    return this.#takeBack(kind, () => {
      this.#released = true
      if (!this.#holdReset) this.#comeUp()
    })
  }

  /** SRST was cleared. */
  endReset(): void {
    this.#holdReset = false
    if (this.phase === 'reset' && this.#released) this.#comeUp()
  }

  /** EXECUTE DEVICE DIAGNOSTIC [ATA8-ACS 7.9]; the channel does the interrupt. A busy drive does not take it. */
  diagnose(): boolean {
    if ((this.status & (STATUS_BSY | STATUS_DRQ)) !== 0 || this.phase === 'asleep') return false
    this.#quiet()
    this.opcode = 0x90
    this.#resetKind = 'soft'
    this.#comeUp()
    return true
  }

  #comeUp(): void {
    this.#end(this.afterReset)
    this.sign()
    // DEVICE RESET leaves DEV as it is [ATA/ATAPI-7 volume 1, 6.10]
    this.device = this.#resetKind === 'device' ? this.device & DEVICE_DEV : 0
    this.error = DIAGNOSTIC_PASSED
  }

  /** Puts the signature into the task file. */
  protected sign(): void {
    this.count = 1
    this.lbaLow = 1
    this.lbaMid = this.signature[0]
    this.lbaHigh = this.signature[1]
  }

  /** Raises the interrupt of a command that the channel carried out. */
  announce(): void {
    this.#interrupt()
  }

  // Saved states

  override save(): Fields {
    const inOrOut = this.phase === 'in' || this.phase === 'out' || this.phase === 'work' || this.dmaWanted > 0
    return {
      ...super.save(),
      interrupt: this.interrupt,
      opcode: this.opcode,
      phase: this.phase,
      dmaWanted: this.dmaWanted,
      ...this.pio.save(inOrOut),
      holdReset: this.#holdReset,
    }
  }

  /** Takes up a state; what was under way goes on with {@link resume}. */
  override restore(state: Saved): void {
    this.#generation++
    const phase = takeString(state, 'phase')
    if (!PHASES.includes(phase)) throw new RangeError(`a drive is never in the phase '${phase}'`)
    this.pio.restore(state)
    super.restore(state)
    this.interrupt = takeBoolean(state, 'interrupt')
    this.opcode = takeNumber(state, 'opcode', 0xff)
    this.phase = phase as Phase
    this.dmaWanted = takeNumber(state, 'dmaWanted', 2 ** 32)
    this.#holdReset = takeBoolean(state, 'holdReset')
    this.#released = true
    if (this.phase === 'moving') {
      this.phase = 'dma'
      this.status = this.ready | STATUS_DRQ
    } else if (this.phase === 'stopping') {
      this.phase = 'stuck'
      this.status = this.ready | STATUS_DRQ
    } else if (this.phase === 'reset' && !this.#holdReset) this.#comeUp()
    this.#resumable = true
  }

  /** Goes on after {@link restore}, when the bus runs. */
  resume(): void {
    if (!this.#resumable) return
    this.#resumable = false
    if (this.phase === 'work') this.resumeWork()
    else if (this.phase === 'dma') this.cable.request()
  }
}
