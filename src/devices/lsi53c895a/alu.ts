/** The arithmetic of read-modify-write instructions (technical manual, 5.5). */

// Table 5.3: operators
const LOAD = 0
const SHIFT_LEFT = 1
const OR = 2
const XOR = 3
const AND = 4
const SHIFT_RIGHT = 5
const ADD_WITH_CARRY = 7

/** One byte wide, with the carry that instructions test. */
export class Alu {
  carry = false

  /** Applies operator 0 to 7, the last two of which add. */
  run(operator: number, source: number, operand: number): number {
    const carry = this.carry ? 1 : 0
    switch (operator) {
      case LOAD:
        return operand
      case SHIFT_LEFT:
        this.carry = (source & 0x80) !== 0
        return ((source << 1) | carry) & 0xff
      case OR:
        return source | operand
      case XOR:
        return source ^ operand
      case AND:
        return source & operand
      case SHIFT_RIGHT:
        this.carry = (source & 1) !== 0
        return (source >>> 1) | (carry << 7)
      default: {
        const sum = source + operand + (operator === ADD_WITH_CARRY ? carry : 0)
        this.carry = sum > 0xff
        return sum & 0xff
      }
    }
  }
}
