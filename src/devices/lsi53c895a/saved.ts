/** The chip's part of a saved state: what is read is checked, or is a RangeError. */
import type { Saved } from '../machine.ts'
import { bytesOf, fieldsOf, flagOf, listOf, numberOf } from '../scsi/saved.ts'
import { type BlockMove, MOVES_MAX } from './blockmoves.ts'
import * as reg from './registers.ts'
import type { Moves, ProcessorState } from './scripts.ts'

/** Longest time that the general purpose timer may have left, ms. */
const TIMER_LIMIT = 4000

export interface LsiState {
  readonly registers: Uint8Array
  readonly ram: Uint8Array
  readonly config: Uint8Array
  readonly processor: ProcessorState
  /** Interrupts that wait behind those of the registers. */
  readonly interrupts: readonly [dma: number, scsi: number]
  /** Time until the general purpose timer expires, ms; -1 if it does not run. */
  readonly timer: number
  readonly bus: Saved
}

/** The state of a chip with so much SCRIPTS RAM; that of the bus is the bus' to check. */
export function stateOf(state: Saved, ramSize: number): LsiState {
  const saved = fieldsOf(state)
  const registers = bytesOf(saved.registers, 256)
  const ram = bytesOf(saved.ram, ramSize)
  const config = bytesOf(saved.config, 256)
  if (registers.length !== 256 || ram.length !== ramSize || config.length !== 256) {
    throw new RangeError('this is not the state of this chip')
  }
  const processor = fieldsOf(saved.processor)
  const [dma, scsi] = listOf(saved.interrupts, 2)
  return {
    registers,
    ram,
    config,
    processor: {
      running: flagOf(processor.running),
      carry: flagOf(processor.carry),
      unanswered: flagOf(processor.unanswered),
      moves: processor.moves === null ? undefined : movesOf(processor.moves),
    },
    interrupts: [numberOf(dma, reg.DSTAT_INTERRUPTS), numberOf(scsi, 0xffff)],
    timer: numberOf(saved.timer, TIMER_LIMIT, -1),
    bus: saved.bus ?? null,
  }
}

/** Writes what {@link stateOf} reads. */
export function saveState(state: LsiState): Saved {
  const { moves, ...processor } = state.processor
  const saved = moves === undefined ? null : { list: moves.list.map((move) => ({ ...move })), done: moves.done }
  return { ...state, processor: { ...processor, moves: saved } }
}

function movesOf(state: Saved | undefined): Moves {
  const saved = fieldsOf(state)
  const list = listOf(saved.list, MOVES_MAX).map(moveOf)
  if (list.length === 0) throw new RangeError('the saved state moves nothing')
  const done = list.reduce((sum, { count }) => sum + count, 0)
  return { list, done: numberOf(saved.done, done) }
}

function moveOf(state: Saved): BlockMove {
  const saved = fieldsOf(state)
  return {
    at: numberOf(saved.at, 0xffffffff),
    next: numberOf(saved.next, 0xffffffff),
    instruction: numberOf(saved.instruction, 0xffffffff),
    operand: numberOf(saved.operand, 0xffffffff),
    entry: numberOf(saved.entry, 0xffffffff, -1),
    phase: numberOf(saved.phase, 7),
    opcode: numberOf(saved.opcode, 0xff),
    count: numberOf(saved.count, 0xffffff),
    high: numberOf(saved.high, 0xffffffff),
    low: numberOf(saved.low, 0xffffffff),
  }
}
