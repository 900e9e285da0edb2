/** Commands that compare: VERIFY, WRITE AND VERIFY, COMPARE AND WRITE; and ORWRITE (SBC-3 5.2, 5.5, 5.22 to 5.25, 5.39). */
import { bytesVec, type IoVec } from '../../../block/iovec.ts'
import { after, type Now, repeat, rescue } from '../../../block/now.ts'
import { type CommandSpec, STATUS_CONDITION_MET } from '../command.ts'
import { ReadExtent, WriteExtent } from '../extent.ts'
import { CheckCondition, invalidCdb, MISCOMPARE_DURING_VERIFY } from '../sense.ts'
import type { Task } from '../task.ts'
import type { DataSink } from '../transfer.ts'
import { type Blocks, blockRange, checkedRange, checkRange } from './range.ts'
import { forcesUnitAccess, forms } from './readwrite.ts'

/** Bytes that are read at a time to be compared. */
const PIECE = 256 << 10
/** Bytes that are read before the event loop has a turn. */
const BURST = 4 << 20
/** Blocks that COMPARE AND WRITE takes at once. */
export const COMPARE_LIMIT = 128

/** Bytes that PRE-FETCH reads at most. */
export const PREFETCH_LIMIT = 8 << 20

const BYTCHK_MEDIUM = 0
const BYTCHK_ALL = 1
const BYTCHK_ONE = 3

function miscompare(information: number): CheckCondition {
  return new CheckCondition(MISCOMPARE_DURING_VERIFY, { information })
}

/** Index of the first byte in which they differ; -1 if none does. */
function difference(one: Uint8Array, other: Uint8Array): number {
  for (let i = 0; i < one.length; i++) if (one[i] !== other[i]) return i
  return -1
}

/** Reads `length` bytes of the medium from block `lba` in pieces and gives each to `look`. */
function readPieces(
  unit: Blocks,
  task: Task,
  lba: number,
  length: number,
  look: (bytes: Uint8Array, at: number) => void,
): Now<void> {
  const { disk, block } = unit
  const source = new ReadExtent({ disk, at: lba * block, block }, length)
  const scratch = new Uint8Array(Math.min(Math.max(PIECE, block), length))
  let at = 0
  let burst = 0
  return repeat(() => {
    if (at >= length || task.isAborted) return false
    const piece = scratch.subarray(0, Math.min(scratch.length, length - at))
    return after(source.read(at, task.lend(bytesVec(piece))), () => {
      look(piece, at)
      at += piece.length
      burst += piece.length
      if (at >= length || burst < BURST) return at < length
      burst = 0
      return unit.turn().then(() => true)
    })
  })
}

/** Data that is compared with the medium as it comes. */
class Comparison implements DataSink {
  readonly held = false
  readonly length: number
  readonly block: number
  readonly #unit: Blocks
  readonly #task: Task
  readonly #lba: number

  constructor(unit: Blocks, task: Task, lba: number, length: number) {
    this.#unit = unit
    this.#task = task
    this.#lba = lba
    this.length = length
    this.block = unit.block
  }

  write(at: number, from: IoVec): Now<void> {
    const { block } = this
    const lba = this.#lba + at / block
    return readPieces(this.#unit, this.#task, lba, from.byteLength, (bytes, start) => {
      const wrong = difference(from.slice(start, start + bytes.length).gather(), bytes)
      if (wrong >= 0) throw miscompare(lba + Math.floor((start + wrong) / block))
    })
  }

  end(): void {
    this.#unit.logs.moved('verify', this.length)
  }
}

function verify(unit: Blocks, task: Task): Now<void> {
  const { cdb } = task
  const { block } = unit
  const { lba, count } = checkedRange(unit, cdb)
  const length = count * block
  switch ((cdb[1]! >>> 1) & 3) {
    case BYTCHK_MEDIUM:
      unit.logs.moved('verify', length)
      return readPieces(unit, task, lba, length, () => {})
    case BYTCHK_ALL:
      task.dataOut(new Comparison(unit, task, lba, length))
      return
    case BYTCHK_ONE:
      if (count === 0) return
      task.receive(block, (one) =>
        readPieces(unit, task, lba, length, (bytes, at) => {
          for (let i = 0; i < bytes.length; i += block) {
            if (difference(one, bytes.subarray(i, i + block)) >= 0) throw miscompare(lba + (at + i) / block)
          }
        }),
      )
      return
    default:
      throw invalidCdb(1, 2)
  }
}

/** Blocks that are written, then read again. */
class VerifiedWrite extends WriteExtent {
  readonly #comparison: Comparison
  readonly #flush: () => Now<void>

  constructor(unit: Blocks, task: Task, lba: number, length: number, comparison: Comparison) {
    const { disk, block } = unit
    super({ disk, at: lba * block, block }, length, true, () => unit.allocationChanged(task, length))
    this.#comparison = comparison
    this.#flush = () => unit.flush(task)
  }

  override write(at: number, from: IoVec): Now<void> {
    return after(super.write(at, from), () => after(this.#flush(), () => this.#comparison.write(at, from)))
  }
}

function writeAndVerify(unit: Blocks, task: Task): void {
  const { cdb } = task
  const { lba, count } = checkedRange(unit, cdb)
  const check = (cdb[1]! >>> 1) & 3
  if (check !== BYTCHK_MEDIUM && check !== BYTCHK_ALL) throw invalidCdb(1, 2)
  unit.checkWritable()
  const length = count * unit.block
  // Reading the blocks back and comparing is also the way to verify the medium
  task.dataOut(new VerifiedWrite(unit, task, lba, length, new Comparison(unit, task, lba, length)))
}

function compareAndWrite(unit: Blocks, task: Task): void {
  const { cdb } = task
  const { disk, block } = unit
  const range = { lba: blockRange(cdb).lba, count: cdb[13]! }
  if (range.count > COMPARE_LIMIT) throw invalidCdb(13, 7)
  checkRange(unit, range)
  unit.checkWritable()
  const length = range.count * block
  task.receive(2 * length, (bytes) => {
    if (length === 0) return
    const compared = readPieces(unit, task, range.lba, length, (found, at) => {
      const wrong = difference(bytes.subarray(at, at + found.length), found)
      // SBC-3 5.2: the offset in the data-out buffer
      if (wrong >= 0) throw miscompare(at + wrong)
    })
    return after(compared, () => {
      if (task.isAborted) return
      const extent = new WriteExtent({ disk, at: range.lba * block, block }, length, forcesUnitAccess(cdb))
      const written = extent.write(0, task.lend(bytesVec(bytes.subarray(length))))
      return after(written, () => unit.allocationChanged(task, length))
    })
  })
}

/** Data that is OR-ed with the medium. */
class OrWrite extends WriteExtent {
  readonly #unit: Blocks
  readonly #task: Task
  readonly #lba: number

  constructor(unit: Blocks, task: Task, lba: number, length: number) {
    const { disk, block } = unit
    super({ disk, at: lba * block, block }, length, forcesUnitAccess(task.cdb), () =>
      unit.allocationChanged(task, length),
    )
    this.#unit = unit
    this.#task = task
    this.#lba = lba
  }

  override write(at: number, from: IoVec): Now<void> {
    const bytes = from.gather()
    const read = readPieces(this.#unit, this.#task, this.#lba + at / this.block, bytes.length, (found, start) => {
      for (let i = 0; i < found.length; i++) bytes[start + i] = bytes[start + i]! | found[i]!
    })
    return after(read, () => (this.#task.isAborted ? undefined : super.write(at, this.#task.lend(bytesVec(bytes)))))
  }
}

function orWrite(unit: Blocks, task: Task): void {
  const { lba, count } = checkedRange(unit, task.cdb)
  unit.checkWritable()
  task.dataOut(new OrWrite(unit, task, lba, count * unit.block))
}

/** Reads into nowhere, so that the host's cache has the blocks. */
function preFetch(unit: Blocks, task: Task): Now<void> {
  const { cdb } = task
  const { lba, count } = checkedRange(unit, cdb)
  const length = (count === 0 ? unit.blocks - lba : count) * unit.block
  // SBC-3 5.6: GOOD, not CONDITION MET, if not all blocks fit into the cache
  if (length <= PREFETCH_LIMIT) task.status = STATUS_CONDITION_MET
  const read = () => readPieces(unit, task, lba, Math.min(length, PREFETCH_LIMIT), () => {})
  if ((cdb[1]! & 2) === 0) return read()
  void Promise.resolve(rescue(read, () => {}))
}

/** The comparing commands. */
export function verifyCommands(unit: Blocks): CommandSpec[] {
  const dpo = unit.dpofua ? 0x10 : 0
  const forced = unit.dpofua ? '18' : '00'
  const verifies = { access: 'read', run: (task: Task) => verify(unit, task) } as const
  const writes = { access: 'write', run: (task: Task) => writeAndVerify(unit, task) } as const
  return [
    ...forms('VERIFY', [undefined, 0x2f, 0xaf, 0x8f], dpo | 0x06, verifies),
    ...forms('WRITE AND VERIFY', [undefined, 0x2e, 0xae, 0x8e], dpo | 0x06, writes),
    {
      name: 'COMPARE AND WRITE',
      opcode: 0x89,
      usage: `89 ${forced} ff ff ff ff ff ff ff ff 00 00 00 ff 1f 00`,
      access: 'write',
      medium: true,
      exclusive: true,
      run: (task) => compareAndWrite(unit, task),
    },
    {
      name: 'ORWRITE(16)',
      opcode: 0x8b,
      usage: `8b ${forced} ff ff ff ff ff ff ff ff ff ff ff ff 1f 00`,
      access: 'write',
      medium: true,
      exclusive: true,
      run: (task) => orWrite(unit, task),
    },
    {
      name: 'PRE-FETCH(10)',
      opcode: 0x34,
      usage: '34 02 ff ff ff ff 1f ff ff 00',
      access: 'read',
      medium: true,
      run: (task) => preFetch(unit, task),
    },
    {
      name: 'PRE-FETCH(16)',
      opcode: 0x90,
      usage: '90 02 ff ff ff ff ff ff ff ff ff ff ff ff 1f 00',
      access: 'read',
      medium: true,
      run: (task) => preFetch(unit, task),
    },
  ]
}
