/** Block moves as SCRIPTS have them (technical manual, 5.3): what an instruction is to move, and which ones one transfer may do. */
import * as reg from './registers.ts'

/** What is asked of the chip around it. */
export interface MoveSource {
  readonly registers: DataView
  /** Reads a dword that SCRIPTS fetch; undefined where there is no memory. */
  fetch(high: number, low: number): number | undefined
}

/** Bytes at a memory address. */
export interface Range {
  readonly high: number
  readonly low: number
  readonly count: number
}

/** A block move, ready to be done. */
export interface BlockMove extends Range {
  /** Where the instruction is, and what follows it. */
  readonly at: number
  readonly next: number
  /** Its two dwords. */
  readonly instruction: number
  readonly operand: number
  /** Address of its entry in the table; -1 for a move without one. */
  readonly entry: number
  readonly phase: number
  /** What RBC shows of it. */
  readonly opcode: number
}

/** Most block moves that one transfer does: as many as a page list of 1 MiB has. */
export const MOVES_MAX = 256

/** Finds out what block moves are to do. The move it holds is the one that was decoded last. */
export class MoveDecoder implements BlockMove {
  at = 0
  next = 0
  instruction = 0
  operand = 0
  entry = -1
  phase = 0
  opcode = 0
  count = 0
  high = 0
  low = 0
  readonly #source: MoveSource
  readonly #registers: DataView

  constructor(source: MoveSource) {
    this.#source = source
    this.#registers = source.registers
  }

  /** Decodes the block move `instruction` at `at`; answers the bits of DSTAT for one that cannot be done, else 0. */
  decode(at: number, instruction: number, operand: number): number {
    const source = this.#source
    this.at = at
    this.next = (at + 8) >>> 0
    this.instruction = instruction
    this.operand = operand
    this.entry = -1
    this.phase = (instruction >>> 24) & 7
    this.opcode = instruction >>> 24
    this.count = instruction & 0xffffff
    this.low = operand
    this.high = this.#get(reg.SBMS)
    const ccntl1 = this.#registers.getUint8(reg.CCNTL1)
    if (instruction & (1 << 28)) {
      const entry = (this.#get(reg.DSA) + signed24(operand)) >>> 0
      const first = source.fetch(this.#get(reg.DRS), entry)
      const second = source.fetch(this.#get(reg.DRS), (entry + 4) >>> 0)
      if (first === undefined || second === undefined) return reg.DSTAT_BF
      this.entry = entry
      this.count = first & 0xffffff
      this.low = second
      this.opcode = first >>> 24
      if (ccntl1 & reg.CCNTL1_EN64TIBMV) {
        if (!(ccntl1 & reg.CCNTL1_64TIMOD) && (this.opcode & 0x1f) >= 22) return reg.DSTAT_IID
        this.high = ccntl1 & reg.CCNTL1_64TIMOD ? this.opcode & 0xff : this.#selector(this.opcode & 0x1f)
      }
    } else if (instruction & (1 << 29)) {
      const pointer = source.fetch(this.high, operand)
      if (pointer === undefined) return reg.DSTAT_BF
      this.low = pointer
    } else if (ccntl1 & reg.CCNTL1_EN64DBMV) {
      const upper = source.fetch(this.#get(reg.SFS), (at + 8) >>> 0)
      if (upper === undefined) return reg.DSTAT_BF
      this.high = upper
      this.next = (at + 12) >>> 0
    }
    return 0
  }

  /**
   * The block moves of the program from the one that was decoded last on, as far as they are of its phase and move no more than
   * `most` bytes together. A move that may change one of those behind it ends the list, as does one before another to its own memory.
   */
  together(most: number): readonly BlockMove[] {
    const moves = [copyOf(this)]
    let total = this.count
    const { phase } = this
    while (moves.length < MOVES_MAX && total < most) {
      const at = this.next
      const high = this.#get(reg.SFS)
      const instruction = this.#source.fetch(high, at)
      const operand = this.#source.fetch(high, (at + 4) >>> 0)
      if (instruction === undefined || operand === undefined || instruction >>> 30 !== 0) break
      if (this.decode(at, instruction, operand) !== 0) break
      total += this.count
      if (this.phase !== phase || this.count === 0 || total > most) break
      moves.push(copyOf(this))
    }
    return phase === reg.PHASE_DATA_IN ? moves.slice(0, Math.min(unchanged(moves), apart(moves))) : moves
  }

  #selector(index: number): number {
    return index < 16 ? this.#get(reg.SCRATCHC + 4 * index) : this.#get(reg.MMRS + 4 * (index - 16))
  }

  #get(register: number): number {
    return this.#registers.getUint32(register, true)
  }
}

/** A move as it is now, for later. */
export function copyOf({
  at,
  next,
  instruction,
  operand,
  entry,
  phase,
  opcode,
  count,
  high,
  low,
}: BlockMove): BlockMove {
  return { at, next, instruction, operand, entry, phase, opcode, count, high, low }
}

/** How many of `moves` are done before one of them may change what those behind it are: instructions, table entries, pointers. */
function unchanged(moves: readonly BlockMove[]): number {
  let from = Number.POSITIVE_INFINITY
  let to = 0
  for (const { entry, instruction, operand } of moves.slice(1)) {
    const lookup = entry >= 0 ? entry : instruction & (1 << 29) ? operand : -1
    if (lookup < 0) continue
    from = Math.min(from, lookup)
    to = Math.max(to, lookup + 8)
  }
  const program = moves[0]!.next
  const end = moves.at(-1)!.next
  const first = moves.findIndex(
    ({ low, count }) => (low < to && from < low + count) || (low < end && program < low + count),
  )
  return first < 0 ? moves.length : first + 1
}

/** How many of `moves` go to memory that none before them goes to: a medium may answer the parts of a request in any order. */
function apart(moves: readonly BlockMove[]): number {
  const meet = (one: Range, other: Range) => one.low < other.low + other.count && other.low < one.low + one.count
  const sorted = [...moves].sort((one, other) => one.low - other.low)
  if (sorted.every((move, i) => i === 0 || !meet(sorted[i - 1]!, move))) return moves.length
  return moves.findIndex((move, i) => moves.slice(0, i).some((before) => meet(before, move)))
}

/** The low 24 bits as a signed number. */
export function signed24(value: number): number {
  return (value << 8) >> 8
}
