/** SCRIPTS for tests: the instruction set by the words of the manual, chapter 5, as numbers. */
import type { TestMemory } from '../machine.ts'

export const DATA_OUT = 0
export const DATA_IN = 1
export const COMMAND = 2
export const STATUS = 3
export const MSG_OUT = 6
export const MSG_IN = 7

type Words = readonly number[]

/** MOVE count, address, WHEN phase. */
export const move = (count: number, address: number, phase: number): Words => [
  0x08000000 | (phase << 24) | count,
  address,
]
/** MOVE count, PTR address, WHEN phase. */
export const moveIndirect = (count: number, pointer: number, phase: number): Words => [
  0x28000000 | (phase << 24) | count,
  pointer,
]
/** MOVE FROM offset, WHEN phase. */
export const moveTable = (offset: number, phase: number): Words => [0x18000000 | (phase << 24), offset & 0xffffff]
/** CHMOV FROM offset, WHEN phase. */
export const chmovTable = (offset: number, phase: number): Words => [0x10000000 | (phase << 24), offset & 0xffffff]
/** SELECT ATN id, alternate. */
export const selectAtn = (id: number, alternate = 0): Words => [(0x41000000 | (id << 16)) >>> 0, alternate]
/** SELECT ATN FROM offset, alternate. */
export const selectAtnFrom = (offset: number, alternate = 0): Words => [
  (0x43000000 | (offset & 0xffffff)) >>> 0,
  alternate,
]
/** WAIT DISCONNECT. */
export const waitDisconnect = (): Words => [0x48000000, 0]
/** WAIT RESELECT alternate. */
export const waitReselect = (alternate = 0): Words => [0x50000000, alternate]
export const ATN = 1 << 3
export const ACK = 1 << 6
export const TARGET = 1 << 9
export const CARRY = 1 << 10
/** SET flags. */
export const set = (flags: number): Words => [0x58000000 | flags, 0]
/** CLEAR flags. */
export const clear = (flags: number): Words => [0x60000000 | flags, 0]
/** Conditions of a transfer control instruction. */
export interface Condition {
  /** Compare the phase. */
  phase?: number
  /** Wait for a phase first (WHEN instead of IF). */
  when?: boolean
  /** Compare SFBR. */
  data?: number
  mask?: number
  carry?: boolean
  /** Branch if the comparisons are false. */
  not?: boolean
  relative?: boolean
}
function control(opcode: number, address: number, condition: Condition = {}): Words {
  let word = 0x80000000 | (opcode << 27)
  if (!condition.not) word |= 1 << 19
  if (condition.phase !== undefined) word |= (condition.phase << 24) | (1 << 17)
  if (condition.when) word |= 1 << 16
  if (condition.data !== undefined) word |= (1 << 18) | ((condition.mask ?? 0) << 8) | condition.data
  if (condition.carry) word |= 1 << 21
  if (condition.relative) word |= 1 << 23
  return [word >>> 0, address >>> 0]
}
export const jump = (address: number, condition?: Condition): Words => control(0, address, condition)
export const call = (address: number, condition?: Condition): Words => control(1, address, condition)
export const ret = (condition?: Condition): Words => control(2, 0, condition)
export const int = (code: number, condition?: Condition): Words => control(3, code, condition)
export const intfly = (condition?: Condition): Words => {
  const [word, code] = control(3, 0, condition)
  return [(word! | (1 << 20)) >>> 0, code!]
}
/** Operators of register operations. */
export const OPERATORS = { load: 0, shl: 1, or: 2, xor: 3, and: 4, shr: 5, add: 6, addc: 7 }
function register(opcode: number, reg: number, operator: keyof typeof OPERATORS, data: number, sfbr = false): Words {
  const address = ((reg & 0x7f) << 16) | (reg & 0x80)
  return [
    (0x40000000 | (opcode << 27) | (OPERATORS[operator] << 24) | (sfbr ? 1 << 23 : 0) | address | (data << 8)) >>> 0,
    0,
  ]
}
/** MOVE SFBR op data TO register. */
export const fromSfbr = (reg: number, operator: keyof typeof OPERATORS, data: number): Words =>
  register(5, reg, operator, data)
/** MOVE register op data TO SFBR. */
export const toSfbr = (reg: number, operator: keyof typeof OPERATORS, data: number): Words =>
  register(6, reg, operator, data)
/** MOVE register op data (or SFBR) TO register. */
export const modify = (reg: number, operator: keyof typeof OPERATORS, data: number, sfbr = false): Words =>
  register(7, reg, operator, data, sfbr)
/** MOVE MEMORY length, source, target. */
export const memoryMove = (length: number, source: number, target: number): Words => [
  (0xc0000000 | length) >>> 0,
  source,
  target,
]
/** LOAD register, length, address; STORE the other way; DSAREL. */
export const load = (reg: number, length: number, address: number, dsa = false): Words => [
  (0xe1000000 | (dsa ? 1 << 28 : 0) | (reg << 16) | length) >>> 0,
  dsa ? address & 0xffffff : address,
]
export const store = (reg: number, length: number, address: number, dsa = false): Words => [
  (0xe0000000 | (dsa ? 1 << 28 : 0) | (reg << 16) | length) >>> 0,
  dsa ? address & 0xffffff : address,
]

/** Puts a program at `at` and gives the address behind it. */
export function assemble(memory: TestMemory, at: number, ...instructions: readonly Words[]): number {
  let next = at
  for (const word of instructions.flat()) {
    memory.data.setUint32(next, word, true)
    next += 4
  }
  return next
}
