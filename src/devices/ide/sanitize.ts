/** Sanitize Device feature set: the drive erases or overwrites all of itself in the background [ACS-3 4.17, 7.36]. */
import { errnoOf } from '../../block/error.ts'
import { bytesVec } from '../../block/iovec.ts'
import { type Now, settle } from '../../block/now.ts'
import type { Saved } from '../machine.ts'
import type { AtaDisk } from './ata.ts'
import { type Fields, takeBoolean, takeNumber } from './saved.ts'

/** States SD0 to SD4. */
type State = 'idle' | 'frozen' | 'running' | 'failed' | 'succeeded'
const STATES: readonly State[] = ['idle', 'frozen', 'running', 'failed', 'succeeded']

/** Bytes that are erased before the guest has its turn again, where the image has its own way to do it, and where not. */
const ERASE_STEP = 64 << 20
const WRITE_STEP = 1 << 20

/** An operation: how many passes there are, and the four bytes that each writes. */
interface Operation {
  readonly overwrite: boolean
  readonly pattern: number
  readonly passes: number
  /** Whether each pass writes the complement of the one before. */
  readonly invert: boolean
  /** Whether the host may clear a failure; otherwise only an operation that succeeds leads out of it. */
  readonly lenient: boolean
}

const ERASE: Operation = { overwrite: false, pattern: 0, passes: 1, invert: false, lenient: false }

export class Sanitize {
  readonly #ata: AtaDisk
  #state: State = 'idle'
  #antifreeze = false
  #operation = ERASE
  #pass = 0
  #at = 0
  // Only the newest chain of steps goes on
  #run = 0

  constructor(ata: AtaDisk) {
    this.#ata = ata
  }

  /** Whether other commands are turned away: an operation runs, or failed. */
  get busy(): boolean {
    return this.#state === 'running' || this.#state === 'failed'
  }

  get state(): State {
    return this.#state
  }

  get antifreeze(): boolean {
    return this.#antifreeze
  }

  /** How much of the operation is done, of 65536; FFFFh when none runs. */
  get progress(): number {
    if (this.#state !== 'running') return 0xffff
    const { size } = this.#ata.disk
    const done = this.#pass * size + this.#at
    return Math.min(Math.floor((done / (size * this.#operation.passes)) * 0x1_0000), 0xfffe)
  }

  /** Begins to erase; every byte reads as zero after it. */
  erase(lenient: boolean): void {
    this.#start({ ...ERASE, lenient })
  }

  /** Begins to write `pattern` over everything, `passes` times. */
  overwrite(pattern: number, passes: number, invert: boolean, lenient: boolean): void {
    this.#start({ overwrite: true, pattern, passes, invert, lenient })
  }

  freeze(): boolean {
    if (this.#antifreeze) return false
    if (this.#state !== 'running') this.#state = 'frozen'
    return true
  }

  preventFreeze(): void {
    this.#antifreeze = true
  }

  /** Leaves the failed state, if the operation allowed that. */
  clear(): boolean {
    if (this.#state === 'failed' && !this.#operation.lenient) return false
    if (this.#state !== 'frozen') this.#state = 'idle'
    return true
  }

  #start(operation: Operation): void {
    this.#operation = operation
    this.#pass = 0
    this.#at = 0
    this.#state = 'running'
    this.#next(++this.#run)
  }

  #next(run: number): void {
    this.#ata.cable.clock.defer(() => {
      if (run === this.#run && this.#state === 'running') this.#step(run)
    })
  }

  #step(run: number): void {
    const { disk } = this.#ata
    const at = this.#at
    const native = disk.device.driver.zero !== undefined
    const step = !this.#operation.overwrite && native ? ERASE_STEP : WRITE_STEP
    const length = Math.min(step, disk.size - at)
    settle(
      () => (length > 0 ? this.#wipe(at, length) : undefined),
      () => {
        if (run !== this.#run) return
        this.#at = at + length
        if (this.#at < disk.size) this.#next(run)
        else this.#endPass(run)
      },
      (error) => {
        if (run !== this.#run) return
        // A reset takes every request back, but does not end the operation (4.17.2)
        if (errnoOf(error) === 'ECANCELED') this.#next(run)
        else this.#state = 'failed'
      },
    )
  }

  #wipe(at: number, length: number): Now<void> {
    const { disk } = this.#ata
    const { overwrite, pattern, invert } = this.#operation
    if (!overwrite) return disk.zero(at, length, { unmap: true })
    const bytes = new Uint8Array(length)
    const value = invert && this.#pass % 2 === 1 ? ~pattern : pattern
    new Uint32Array(bytes.buffer).fill(value >>> 0)
    return disk.write(at, bytesVec(bytes))
  }

  #endPass(run: number): void {
    settle(
      () => this.#ata.disk.flush(),
      () => {
        if (run !== this.#run) return
        this.#at = 0
        this.#pass++
        if (this.#pass < this.#operation.passes) this.#next(run)
        else this.#state = 'succeeded'
      },
      (error) => {
        if (run !== this.#run) return
        if (errnoOf(error) === 'ECANCELED') this.#next(run)
        else this.#state = 'failed'
      },
    )
  }

  /** Power-on ends a freeze; an operation goes on (4.17.2). */
  reset(): void {
    this.#antifreeze = false
    if (this.#state === 'frozen') this.#state = 'idle'
    if (this.#state === 'running') this.resume()
  }

  save(): Fields {
    const { overwrite, pattern, passes, invert, lenient } = this.#operation
    return {
      state: STATES.indexOf(this.#state),
      antifreeze: this.#antifreeze,
      overwrite,
      pattern: pattern >>> 0,
      passes,
      invert,
      lenient,
      pass: this.#pass,
      at: this.#at,
    }
  }

  restore(state: Saved): void {
    this.#run++
    this.#state = STATES[takeNumber(state, 'state', STATES.length - 1)]!
    this.#antifreeze = takeBoolean(state, 'antifreeze')
    this.#operation = {
      overwrite: takeBoolean(state, 'overwrite'),
      pattern: takeNumber(state, 'pattern', 0xffff_ffff),
      passes: Math.max(takeNumber(state, 'passes', 16), 1),
      invert: takeBoolean(state, 'invert'),
      lenient: takeBoolean(state, 'lenient'),
    }
    this.#pass = takeNumber(state, 'pass', this.#operation.passes)
    this.#at = takeNumber(state, 'at')
  }

  /** Goes on with an operation, when the bus runs. */
  resume(): void {
    if (this.#state === 'running') this.#next(++this.#run)
  }
}
