/** SEND DIAGNOSTIC, RECEIVE DIAGNOSTIC RESULTS and the self-tests (SPC-4 5.15, 6.28, 6.42, 7.2). */
import type { Disk } from '../../../block/disk.ts'
import { bytesVec } from '../../../block/iovec.ts'
import type { Now } from '../../../block/now.ts'
import { type CommandSpec, u16 } from '../command.ts'
import { ReadExtent } from '../extent.ts'
import {
  CheckCondition,
  type Condition,
  invalidCdb,
  invalidParameter,
  LOGICAL_UNIT_FAILED_SELF_TEST,
  PARAMETER_LIST_LENGTH_ERROR,
  SELF_TEST_IN_PROGRESS,
  type Sense,
} from '../sense.ts'
import { SLICE, type Turn, Work } from '../slices.ts'
import type { Task } from '../task.ts'
import { LOG_SELF_TESTS, type LogPage } from './log.ts'

// SPC-4 table 229: self-test codes
const BACKGROUND_SHORT = 1
const BACKGROUND_EXTENDED = 2
const ABORT_BACKGROUND = 4
const FOREGROUND_SHORT = 5
const FOREGROUND_EXTENDED = 6

// SPC-4 table 286: self-test results
const PASSED = 0
const ABORTED = 1
const FAILED_SEGMENT = 7

const RESULTS = 20
const LIST_LIMIT = 4096
const SHORT_TEST = 16 << 20

interface Result {
  readonly code: number
  readonly outcome: number
  readonly lba: number | undefined
  readonly condition: Condition | undefined
}

/** What a self-test needs of a unit. */
export interface Tested {
  /** The medium, if there is one. */
  readonly medium: Disk | undefined
  readonly block: number
  readonly turn: Turn
  senseOf(error: unknown): Sense | undefined
}

/** The diagnostics of a unit. A short self-test reads 16 MiB of the medium, an extended one all of it. */
export class Diagnostics {
  readonly #unit: Tested
  #results: readonly Result[] = []
  #running: Work | undefined

  constructor(unit: Tested) {
    this.#unit = unit
  }

  /** Self-Test Results log page (SPC-4 7.3.18): twenty results, newest first. */
  readonly page: LogPage = {
    code: LOG_SELF_TESTS,
    parameters: () =>
      Array.from({ length: RESULTS }, (_, i) => ({ code: i + 1, kind: 'list', value: encode(this.#results[i]) })),
  }

  /** What REQUEST SENSE says while a self-test runs in the background. */
  get sense(): Sense | undefined {
    return this.#running && { condition: SELF_TEST_IN_PROGRESS, progress: this.#running.progress }
  }

  /** Stops a self-test in the background; completes when it reads no more. */
  stop(): Now<void> {
    return this.#running?.stop()
  }

  /** SEND DIAGNOSTIC and RECEIVE DIAGNOSTIC RESULTS. */
  commands(): CommandSpec[] {
    return [
      {
        name: 'RECEIVE DIAGNOSTIC RESULTS',
        opcode: 0x1c,
        usage: '1c 01 ff ff ff 00',
        access: 'own',
        run(task) {
          const { cdb } = task
          // Page 00h, supported diagnostic pages, lists itself
          if ((cdb[1]! & 1) !== 0 && cdb[2] !== 0) throw invalidCdb(2, 7)
          task.reply(Uint8Array.of(0, 0, 0, 1, 0), u16(cdb, 3))
        },
      },
      {
        name: 'SEND DIAGNOSTIC',
        opcode: 0x1d,
        usage: '1d f7 00 ff ff 00',
        access: 'own',
        run: (task) => this.#send(task),
      },
    ]
  }

  #send(task: Task): Now<void> {
    const { cdb } = task
    const code = cdb[1]! >>> 5
    const length = u16(cdb, 3)
    const selfTest = (cdb[1]! & 4) !== 0
    if (selfTest) {
      if (code !== 0) throw invalidCdb(1, 7)
      if (length !== 0) throw invalidCdb(3, 7)
      return this.#foreground(FOREGROUND_SHORT, task)
    }
    if (code === 0) {
      if (length > LIST_LIMIT) throw invalidCdb(3, 7)
      task.receive(length, acceptPages)
      return
    }
    if (length !== 0) throw invalidCdb(3, 7)
    switch (code) {
      case ABORT_BACKGROUND:
        if (this.#running === undefined) throw invalidCdb(1, 7)
        return this.#running.stop()
      case BACKGROUND_SHORT:
      case BACKGROUND_EXTENDED:
        if (this.#running !== undefined) throw new CheckCondition(SELF_TEST_IN_PROGRESS, this.sense)
        this.#background(code)
        return
      case FOREGROUND_SHORT:
      case FOREGROUND_EXTENDED:
        return this.#foreground(code, task)
      default:
        throw invalidCdb(1, 7)
    }
  }

  #background(code: number): void {
    const work = new Work(this.#size(code))
    this.#running = work
    work.during(
      this.#test(code, work, () => false).then((result) => {
        this.#running = undefined
        this.#results = [result, ...this.#results].slice(0, RESULTS)
      }),
    )
  }

  async #foreground(code: number, task: Task): Promise<void> {
    const result = await this.#test(code, new Work(this.#size(code)), () => task.isAborted)
    this.#results = [result, ...this.#results].slice(0, RESULTS)
    if (result.outcome === FAILED_SEGMENT) throw new CheckCondition(LOGICAL_UNIT_FAILED_SELF_TEST)
  }

  #size(code: number): number {
    const size = this.#unit.medium?.size ?? 0
    return code === BACKGROUND_EXTENDED || code === FOREGROUND_EXTENDED ? size : Math.min(size, SHORT_TEST)
  }

  async #test(code: number, work: Work, isAborted: () => boolean): Promise<Result> {
    const { medium, turn, block } = this.#unit
    const scratch = new Uint8Array(Math.min(SLICE, work.total))
    try {
      await work.run((at, length) => {
        if (isAborted()) work.stop()
        else if (medium !== undefined) {
          const source = new ReadExtent({ disk: medium, at, block }, length)
          return source.read(0, bytesVec(scratch.subarray(0, length)))
        }
      }, turn)
      return { code, outcome: work.isStopped ? ABORTED : PASSED, lba: undefined, condition: undefined }
    } catch (error) {
      const sense = this.#unit.senseOf(error)
      if (sense === undefined) return { code, outcome: ABORTED, lba: undefined, condition: undefined }
      return { code, outcome: FAILED_SEGMENT, lba: sense.information, condition: sense.condition }
    }
  }
}

function encode(result: Result | undefined): Uint8Array {
  const bytes = new Uint8Array(16)
  if (result === undefined) return bytes
  const { code, outcome, lba, condition } = result
  bytes[0] = (code << 5) | outcome
  if (outcome === FAILED_SEGMENT) bytes[1] = 1
  new DataView(bytes.buffer).setBigUint64(4, lba === undefined ? 0xffffffffffffffffn : BigInt(lba))
  if (condition !== undefined) bytes.set(condition, 12)
  return bytes
}

/** The only page that may be sent is 00h, which is empty. */
function acceptPages(list: Uint8Array): void {
  for (let at = 0; at < list.length; ) {
    if (at + 4 > list.length) throw new CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    if (list[at] !== 0) throw invalidParameter(at, 7)
    if (u16(list, at + 2) !== 0) throw invalidParameter(at + 2, 7)
    at += 4
  }
}
