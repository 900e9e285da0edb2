/** SCRIPTS instructions, addresses and roles of the LSI53C895A, as its technical manual describes them. */
import { describe, expect, test } from 'vitest'
import * as reg from '../../../src/devices/lsi53c895a/registers.ts'
import { BUFFER, type Chip, io, machine, PROGRAM, ready, SCRATCH, slowRead, TABLE, takeReselection } from './machine.ts'
import * as s from './scripts.ts'

describe('register instructions (5.5)', () => {
  test.each([
    ['load', 0x0f, 0x35, 0x35],
    ['or', 0x0f, 0x30, 0x3f],
    ['xor', 0x0f, 0x3c, 0x33],
    ['and', 0x0f, 0x3c, 0x0c],
    ['add', 0xf0, 0x20, 0x10],
    ['shl', 0x81, 0, 0x02],
    ['shr', 0x81, 0, 0x40],
  ] as const)('MOVE register %s', (operator, before, data, result) => {
    const chip = machine()
    chip.w8(reg.SCRATCHB, before)
    chip.run(s.clear(s.CARRY), s.modify(reg.SCRATCHB, operator, data), s.int(1))
    expect(chip.r8(reg.SCRATCHB)).toBe(result)
  })

  test('carry goes from ADD through ADD WITH CARRY, and through shifts', () => {
    const chip = machine()
    chip.w32(reg.SCRATCHA, 0x00ff_80ff)
    chip.run(
      s.clear(s.CARRY),
      s.modify(reg.SCRATCHA, 'add', 1),
      s.modify(reg.SCRATCHA + 1, 'addc', 0x7f),
      s.modify(reg.SCRATCHA + 2, 'addc', 0),
      s.modify(reg.SCRATCHA + 3, 'shl', 0),
      s.int(1),
    )
    expect(chip.r32(reg.SCRATCHA)).toBe(0x01000000)
  })

  test('to and from SFBR, and with SFBR as the operand; registers above 7Fh too', () => {
    const chip = machine()
    chip.w8(reg.SCRATCHC + 0x30, 0x21)
    chip.run(
      s.toSfbr(reg.SCRATCHC + 0x30, 'or', 0x10),
      s.fromSfbr(reg.SCRATCHA, 'and', 0xf0),
      s.modify(reg.SCRATCHC + 0x30, 'add', 0, true),
      s.int(1),
    )
    expect([chip.r8(reg.SFBR), chip.r8(reg.SCRATCHA), chip.r8(reg.SCRATCHC + 0x30)]).toEqual([0x31, 0x30, 0x52])
  })
})

describe('transfer control (5.6)', () => {
  test('CALL and RETURN through TEMP, relative jumps', () => {
    const chip = machine()
    chip.run(
      s.call(16, { relative: true }), // to the fourth
      s.modify(reg.SCRATCHA + 1, 'load', 2),
      s.int(7),
      s.modify(reg.SCRATCHA, 'load', 1),
      s.ret(),
    )
    expect([chip.r32(reg.DSPS), chip.r8(reg.SCRATCHA), chip.r8(reg.SCRATCHA + 1)]).toEqual([7, 1, 2])
  })

  test.each([
    ['data is equal', { data: 0x5a }, true],
    ['data is not equal', { data: 0x5b }, false],
    ['masked data is equal', { data: 0x50, mask: 0x0f }, true],
    ['not, and data is equal', { data: 0x5a, not: true }, false],
    ['not, and data is not equal', { data: 0x5b, not: true }, true],
    ['carry is set', { carry: true }, true],
    ['not carry, and it is set', { carry: true, not: true }, false],
    ['never: false without a comparison', { not: true }, false],
    ['both must be false for not: data differs, phase is equal', { data: 0x5b, phase: s.DATA_OUT, not: true }, false],
  ] as const)('INT IF %s', (_, condition, taken) => {
    const chip = machine()
    const program = [s.set(s.CARRY), s.modify(reg.SCRATCHA, 'load', 0x5a), s.toSfbr(reg.SCRATCHA, 'or', 0)]
    expect(chip.run(...program, s.int(1, condition), s.int(2))).toBe(taken ? 1 : 2)
  })

  test('an operation code that is reserved is an illegal instruction', () => {
    const chip = machine()
    chip.run([0xa0080000, 0])
    expect(chip.r8(reg.DSTAT)).toBe(reg.DSTAT_DFE | reg.DSTAT_IID)
  })
})

describe('memory moves, load and store (5.7, 5.8)', () => {
  test('MOVE MEMORY copies memory, and to registers', () => {
    const chip = machine()
    chip.put(BUFFER, 1, 2, 3, 4)
    chip.run(s.memoryMove(4, BUFFER, BUFFER + 0x100), s.memoryMove(4, BUFFER, chip.base + reg.SCRATCHA), s.int(1))
    expect(chip.bytes(BUFFER + 0x100, 4)).toEqual([1, 2, 3, 4])
    expect(chip.r32(reg.SCRATCHA)).toBe(0x04030201)
    expect(chip.bus.memory.isDirty(BUFFER + 0x100, 4)).toBe(true)
  })

  test('LOAD and STORE, absolute and relative to DSA', () => {
    const chip = machine()
    chip.put(TABLE + 0x10, 0xaa, 0xbb, 0xcc, 0xdd)
    chip.w32(reg.DSA, TABLE + 0x20)
    chip.run(s.load(reg.SCRATCHA, 4, -0x10, true), s.store(reg.SCRATCHA + 1, 2, BUFFER + 1), s.int(1))
    expect(chip.r32(reg.SCRATCHA)).toBe(0xddccbbaa)
    expect(chip.bytes(BUFFER, 4)).toEqual([0, 0xbb, 0xcc, 0])
  })

  test('a load across a dword boundary is an illegal instruction; one from no memory a bus fault', () => {
    const chip = machine()
    chip.run(s.load(reg.SCRATCHA + 2, 4, TABLE))
    expect(chip.r8(reg.DSTAT)).toBe(reg.DSTAT_DFE | reg.DSTAT_IID)
    chip.run(s.load(reg.SCRATCHA, 4, 0x7000_0000))
    expect(chip.r8(reg.DSTAT)).toBe(reg.DSTAT_DFE | reg.DSTAT_BF)
  })

  test('MOVE MEMORY to and from TEMP: drivers of chips without LOAD and STORE keep their data pointer there', () => {
    const chip = machine()
    chip.w32(reg.TEMP, 0x11223344)
    chip.run(
      s.memoryMove(4, BUFFER, chip.base + reg.SCRATCHA),
      s.memoryMove(4, chip.base + reg.TEMP, BUFFER + 4),
      s.int(1),
    )
    expect([chip.r32(reg.DSPS), chip.bus.memory.data.getUint32(BUFFER + 4, true)]).toEqual([1, 0x11223344])
    expect(chip.r32(reg.TEMP)).toBe(0x11223344)
  })

  test('a MOVE MEMORY from one alignment to another, or of no bytes, is an illegal instruction', () => {
    const chip = machine()
    for (const words of [s.memoryMove(4, BUFFER + 1, BUFFER + 2), s.memoryMove(0, BUFFER, BUFFER)]) {
      chip.run(words)
      expect(chip.r8(reg.DSTAT)).toBe(reg.DSTAT_DFE | reg.DSTAT_IID)
    }
  })

  test('LOAD and STORE do not reach the registers through memory', () => {
    const chip = machine()
    chip.run(s.store(reg.SCRATCHA, 4, chip.base + reg.DSP))
    expect(chip.r8(reg.DSTAT)).toBe(reg.DSTAT_DFE | reg.DSTAT_IID)
  })

  test('CVE-2023-0330: a program that writes DSP from itself jumps, and does not nest', () => {
    const chip = machine()
    const elsewhere = PROGRAM + 0x1000
    s.assemble(chip.bus.memory, elsewhere, s.int(0x55))
    chip.bus.memory.data.setUint32(BUFFER, elsewhere, true)
    chip.run(s.memoryMove(4, BUFFER, chip.base + reg.DSP), s.int(1))
    expect(chip.r32(reg.DSPS)).toBe(0x55)
  })

  test('without bus mastering nothing is fetched', () => {
    const chip = machine()
    chip.device.config.write(4, 2, 0x0003)
    chip.run(s.int(1))
    expect(chip.r8(reg.DSTAT)).toBe(reg.DSTAT_DFE | reg.DSTAT_BF)
  })
})

describe('64-bit addresses and their selectors (2.2.7, CCNTL1, MMRS to DBMS)', () => {
  const BF = reg.DSTAT_DFE | reg.DSTAT_BF
  const inquiry = [0x12, 0, 0, 0, 36, 0]
  /** An INQUIRY whose data goes through `move`; DSTAT at its end. */
  const through = (chip: Chip, move: readonly number[]) => {
    chip.run(...io(chip, inquiry, { data: [move] }))
    return chip.r8(reg.DSTAT)
  }
  const SIR = reg.DSTAT_DFE | reg.DSTAT_SIR

  test.each([
    ['SFS: instruction fetches', reg.SFS, s.int(1)],
    ['MMRS: MOVE MEMORY reads', reg.MMRS, s.memoryMove(4, BUFFER, BUFFER + 16)],
    ['MMWS: MOVE MEMORY writes', reg.MMWS, s.memoryMove(4, BUFFER, BUFFER + 16)],
    ['MMRS: LOAD', reg.MMRS, s.load(reg.SCRATCHA, 4, BUFFER)],
    ['MMWS: STORE', reg.MMWS, s.store(reg.SCRATCHA, 4, BUFFER)],
    ['DRS: LOAD relative to DSA', reg.DRS, s.load(reg.SCRATCHA, 4, 0x10, true)],
    ['DRS: STORE relative to DSA', reg.DRS, s.store(reg.SCRATCHA, 4, 0x10, true)],
    ['DRS: SELECT FROM', reg.DRS, s.selectAtnFrom(0x10)],
  ] as const)('%s; a place above 4 GiB is where there is no memory', (_, selector, words) => {
    const chip = machine()
    chip.bus.memory.data.setUint32(TABLE + 0x10, 3 << 16, true)
    chip.w32(reg.DSA, TABLE)
    chip.run(words, s.int(1))
    expect(chip.r8(reg.DSTAT)).toBe(SIR)
    chip.w8(reg.ISTAT0, reg.ISTAT0_SRST)
    chip.w8(reg.ISTAT0, 0)
    chip.w32(reg.DSA, TABLE)
    chip.w32(selector, 1)
    chip.run(words, s.int(1))
    expect(chip.r8(reg.DSTAT)).toBe(BF)
  })

  test('SBMS: block moves with 32-bit addresses', () => {
    const chip = machine()
    expect(through(chip, s.move(36, BUFFER, s.DATA_IN))).toBe(SIR)
    chip.w32(reg.SBMS, 1)
    expect(through(chip, s.move(36, BUFFER, s.DATA_IN))).toBe(BF)
  })

  test('EN64DBMV: a direct MOVE has the upper half in a third dword; SBMS does not count', () => {
    const chip = machine()
    chip.w8(reg.CCNTL1, reg.CCNTL1_EN64DBMV)
    chip.w32(reg.DBMS, 9)
    const move = s.move(36, BUFFER, s.DATA_IN)
    // All block moves of the program are then as long
    const wide = (high: number) =>
      io(chip, inquiry, { data: [[...move, high]] }).map((words) =>
        words.length === 2 && words[0]! >>> 30 === 0 ? [...words, 0] : words,
      )
    chip.run(...wide(0))
    expect([chip.r8(reg.DSTAT), chip.bytes(BUFFER + 8, 3)]).toEqual([SIR, [...Buffer.from('BLO')]])
    expect(chip.r32(reg.DBMS)).toBe(0)
    chip.run(...wide(2))
    expect(chip.r8(reg.DSTAT)).toBe(BF)
  })

  test.each([
    ['64TIMOD clear: the entry names a selector', 0, 0x03 << 24, reg.SCRATCHC + 12],
    ['64TIMOD clear: MMRS', 0, 0x10 << 24, reg.MMRS],
  ])('EN64TIBMV, %s', (_, mode, entry, selector) => {
    const chip = machine()
    chip.w8(reg.CCNTL1, reg.CCNTL1_EN64TIBMV | mode)
    chip.w32(reg.DSA, TABLE)
    chip.bus.memory.data.setUint32(TABLE, entry | 36, true)
    chip.bus.memory.data.setUint32(TABLE + 4, BUFFER, true)
    expect(through(chip, s.moveTable(0, s.DATA_IN))).toBe(SIR)
    chip.w32(selector, 1)
    expect(through(chip, s.moveTable(0, s.DATA_IN))).toBe(BF)
  })

  test.each([
    [0, SIR],
    [1, BF],
    [0xff, BF],
  ])('EN64TIBMV with 64TIMOD: the entry has address bits 39 to 32, %i', (high, dstat) => {
    const chip = machine()
    chip.w8(reg.CCNTL1, reg.CCNTL1_EN64TIBMV | reg.CCNTL1_64TIMOD)
    chip.w32(reg.DSA, TABLE)
    chip.bus.memory.data.setUint32(TABLE, ((high << 24) | 36) >>> 0, true)
    chip.bus.memory.data.setUint32(TABLE + 4, BUFFER, true)
    expect(through(chip, s.moveTable(0, s.DATA_IN))).toBe(dstat)
  })

  test('a selector that there is not is an illegal instruction', () => {
    const chip = machine()
    chip.w8(reg.CCNTL1, reg.CCNTL1_EN64TIBMV)
    chip.w32(reg.DSA, TABLE)
    chip.bus.memory.data.setUint32(TABLE, (0x16 << 24) | 36, true)
    expect(through(chip, s.moveTable(0, s.DATA_IN))).toBe(reg.DSTAT_DFE | reg.DSTAT_IID)
  })
})

describe('the target role (5.3, 5.4, 5.6)', () => {
  test('SET TARGET and CLEAR TARGET are SCNTL0 TRG', () => {
    const chip = machine()
    chip.run(s.set(s.TARGET), s.int(1))
    expect(chip.r8(reg.SCNTL0) & reg.SCNTL0_TRG).toBe(reg.SCNTL0_TRG)
    chip.run(s.clear(s.TARGET), s.int(2))
    expect(chip.r8(reg.SCNTL0) & reg.SCNTL0_TRG).toBe(0)
  })

  test('RESELECT wins the arbitration, finds no initiator and times out at the first instruction that needs one', () => {
    const chip = machine()
    chip.bus.memory.data.setUint32(TABLE + 4, 0x33_02_08_00, true)
    chip.w32(reg.DSA, TABLE)
    const reselectFrom = [0x42000004, 0] as const
    chip.run(s.set(s.TARGET), reselectFrom, s.modify(reg.SCRATCHA, 'load', 1), s.move(1, SCRATCH, s.MSG_IN), s.int(1))
    expect(chip.r16(reg.SIST0)).toBe(reg.SIST1_STO << 8)
    expect([chip.r8(reg.SCRATCHA), chip.r32(reg.DSP)]).toEqual([1, PROGRAM + 32])
    expect([chip.r8(reg.SDID), chip.r8(reg.SCNTL3), chip.r8(reg.SXFER)]).toEqual([2, 0x33, 0x08])
    expect(chip.r8(reg.SSTAT0) & reg.SSTAT0_WOA).toBe(reg.SSTAT0_WOA)
    expect(chip.r8(reg.SCNTL1) & reg.SCNTL1_CON).toBe(0)
  })

  test('WAIT SELECT: nobody selects; SIGP ends it at the other address', () => {
    const chip = machine()
    const way = PROGRAM + 0x800
    s.assemble(chip.bus.memory, way, s.waitDisconnect(), s.int(5))
    chip.run(s.set(s.TARGET), s.waitReselect(way), s.int(1))
    expect(chip.r8(reg.ISTAT1)).toBe(reg.ISTAT1_SRUN)
    chip.w8(reg.ISTAT0, reg.ISTAT0_SIGP)
    expect(chip.r32(reg.DSPS)).toBe(5)
  })

  test('WAIT SELECT: being reselected ends it at the other address, where the program becomes the initiator', async () => {
    const chip = ready(machine())
    chip.faulty.later()
    const way = PROGRAM + 0x800
    const [, ...rest] = takeReselection(TABLE, BUFFER)
    s.assemble(chip.bus.memory, way, s.int(3, { not: true }), s.clear(s.TARGET), ...rest, s.int(5))
    chip.run(...slowRead(chip, 1, 16), s.set(s.TARGET), s.waitReselect(way), s.int(1))
    await chip.stopped()
    expect(chip.r32(reg.DSPS)).toBe(5)
    expect(chip.bytes(TABLE, 5)).toEqual([0x80, 0x20, 1, 0, 0])
    expect(chip.bytes(BUFFER, 4096)).toEqual([...chip.content.subarray(16 * 512, 24 * 512)])
  })

  test('DISCONNECT does not wait; SET and CLEAR of ATN and ACK reach SOCL, not the bus', () => {
    const chip = machine()
    chip.run(s.set(s.TARGET), s.waitDisconnect(), s.set(s.ATN | s.ACK), s.int(1))
    expect(chip.r32(reg.DSPS)).toBe(1)
    expect([chip.r8(reg.SOCL), chip.r8(reg.SBCL)]).toEqual([s.ATN | s.ACK, 0])
    chip.run(s.clear(s.ATN), s.int(2))
    expect(chip.r8(reg.SOCL)).toBe(s.ACK)
    chip.run(s.clear(s.TARGET), s.clear(s.ACK), s.selectAtn(3), s.set(s.TARGET), s.waitDisconnect(), s.int(3))
    expect([chip.r32(reg.DSPS), chip.r8(reg.SBCL) & s.ATN]).toEqual([3, 0])
  })

  test.each(['not connected', 'connected as an initiator'])(
    'a block move waits for a connection as a target: %s',
    (how) => {
      const chip = machine()
      const select = how === 'not connected' ? [] : [s.selectAtn(3)]
      chip.put(SCRATCH, 0x80)
      chip.run(...select, s.set(s.TARGET), s.move(1, SCRATCH, s.MSG_OUT), s.int(1))
      expect([chip.r8(reg.ISTAT1), chip.r8(reg.ISTAT0) & 3]).toEqual([reg.ISTAT1_SRUN, 0])
      chip.w8(reg.ISTAT0, reg.ISTAT0_ABRT)
      expect(chip.r8(reg.DSTAT)).toBe(reg.DSTAT_DFE | reg.DSTAT_ABRT)
    },
  )

  test('IF ATN: the comparison of phases asks for SATN/ instead', () => {
    const chip = machine()
    const program = (...before: (readonly number[])[]) =>
      chip.run(...before, s.set(s.TARGET), s.int(1, { phase: s.DATA_OUT }), s.clear(s.TARGET), s.int(2))
    expect(program()).toBe(2)
    expect(program(s.clear(s.TARGET), s.selectAtn(3))).toBe(1)
  })
})

describe('illegal instructions (4, DSTAT IID)', () => {
  const carry = 1 << 21
  test.each([
    ['SELECT WITH ATN in another I/O instruction', [0x49000000, 0], false],
    ['a transfer control with its reserved bit', [0x80480000, 0], false],
    ['carry and data compared at once', [(0x800c0000 | carry) >>> 0, 0], false],
    ['carry and phase compared at once', [(0x800a0000 | carry) >>> 0, 0], false],
    ['the target role: WHEN', s.int(1, { phase: s.DATA_IN, when: true }), true],
    ['the target role: data and phase compared at once', s.int(1, { phase: s.DATA_IN, data: 1 }), true],
  ] as const)('%s', (_, words, isTarget) => {
    const chip = machine()
    chip.run(isTarget ? s.set(s.TARGET) : s.clear(s.TARGET), words)
    expect(chip.r8(reg.DSTAT)).toBe(reg.DSTAT_DFE | reg.DSTAT_IID)
    expect(chip.r32(reg.DSP)).toBe(PROGRAM + 16)
  })

  test('WAIT DISCONNECT while the target asks for more', () => {
    const chip = machine()
    chip.run(s.selectAtn(3), s.waitDisconnect(), s.int(1))
    expect(chip.r8(reg.DSTAT)).toBe(reg.DSTAT_DFE | reg.DSTAT_IID)
  })
})
