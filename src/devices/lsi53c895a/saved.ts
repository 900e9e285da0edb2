/** The chip's part of a saved state: what is read is checked, or is a RangeError. */
import type { Saved } from '../machine.ts'
import { bytesOf, fieldsOf, flagOf, listOf, numberOf } from '../scsi/saved.ts'
import * as reg from './registers.ts'
import type { Move, ProcessorState } from './scripts.ts'

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
      move: processor.move === null ? undefined : moveOf(processor.move),
    },
    interrupts: [numberOf(dma, reg.DSTAT_INTERRUPTS), numberOf(scsi, 0xffff)],
    timer: numberOf(saved.timer, TIMER_LIMIT, -1),
    bus: saved.bus ?? null,
  }
}

/** Writes what {@link stateOf} reads. */
export function saveState(state: LsiState): Saved {
  const { move, ...processor } = state.processor
  return { ...state, processor: { ...processor, move: move === undefined ? null : { ...move } } }
}

function moveOf(state: Saved | undefined): Move {
  const saved = fieldsOf(state)
  const count = numberOf(saved.count, 0xffffff)
  return {
    phase: numberOf(saved.phase, 7),
    opcode: numberOf(saved.opcode, 0xff),
    count,
    high: numberOf(saved.high, 0xffffffff),
    low: numberOf(saved.low, 0xffffffff),
    done: numberOf(saved.done, count),
  }
}
