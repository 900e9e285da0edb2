/** The LSI53C895A as its technical manual describes it: SCRIPTS run against real targets. */
import { describe, expect, test } from 'vitest'
import { kicks } from '../../../src/block/turn.ts'
import * as reg from '../../../src/devices/lsi53c895a/registers.ts'
import { microtasks } from '../machine.ts'
import {
  abortTask,
  BUFFER,
  type Chip,
  io,
  LARGE,
  machine,
  PROGRAM,
  READ,
  ready,
  SCRATCH,
  slowRead,
  TABLE,
  TEST_UNIT_READY,
  takeReselection,
  WRITE,
} from './machine.ts'
import * as s from './scripts.ts'

describe('PCI face (chapter 4.1)', () => {
  test('the 895A: identity, three BARs', () => {
    const { device } = machine()
    expect([device.config.read(0, 2), device.config.read(2, 2), device.config.read(8, 4) >>> 8]).toEqual([
      0x1000, 0x12, 0x010000,
    ])
    expect(device.config.bars.map(({ space, size }) => [space, size])).toEqual([
      ['io', 256],
      ['mem', 1024],
      ['mem', 8192],
    ])
    expect(device.config.read(0x3d, 1)).toBe(1)
  })

  test('the 810 has no SCRIPTS RAM', () => {
    const { device } = machine('lsi53c810')
    expect([device.config.read(2, 2), device.config.bars.length]).toEqual([1, 2])
  })

  test('the registers answer through I/O as through memory', () => {
    const chip = machine()
    chip.w32(reg.SCRATCHA, 0x12345678)
    expect(chip.slot.in32(chip.slot.base(0) + reg.SCRATCHA)).toBe(0x12345678)
    chip.slot.out8(chip.slot.base(0) + reg.SCRATCHA + 1, 0xff)
    expect(chip.r32(reg.SCRATCHA)).toBe(0x1234ff78)
  })

  test('SCRIPTS RAM keeps 8 KiB and runs programs', () => {
    const chip = machine()
    const ram = chip.slot.base(2)
    const [word, code] = s.int(0x42)
    chip.slot.write(ram + 0x1ff8, 4, word!)
    chip.slot.write(ram + 0x1ffc, 4, code!)
    chip.w32(reg.DSP, ram + 0x1ff8)
    expect(chip.r32(reg.DSPS)).toBe(0x42)
    expect(chip.r8(reg.DSTAT)).toBe(reg.DSTAT_DFE | reg.DSTAT_SIR)
  })
})

describe('interrupts (2.2.14)', () => {
  test('INT: SIR, DIP, the pin; reading DSTAT clears them', () => {
    const chip = machine()
    expect(chip.run(s.int(0xabcd))).toBe(0xabcd)
    expect(chip.bus.intxLevel).toBe(true)
    expect(chip.r8(reg.ISTAT0)).toBe(reg.ISTAT0_DIP)
    expect(chip.r8(reg.DSTAT)).toBe(reg.DSTAT_DFE | reg.DSTAT_SIR)
    expect(chip.r8(reg.ISTAT0)).toBe(0)
    expect(chip.bus.intxLevel).toBe(false)
  })

  test('a masked interrupt stops SCRIPTS and shows in ISTAT, but not at the pin', () => {
    const chip = machine()
    chip.w8(reg.DIEN, 0)
    chip.run(s.int(1), s.int(2))
    expect(chip.r32(reg.DSPS)).toBe(1)
    expect(chip.r8(reg.ISTAT0)).toBe(reg.ISTAT0_DIP)
    expect(chip.bus.intxLevel).toBe(false)
    chip.w8(reg.DIEN, reg.DSTAT_SIR)
    expect(chip.bus.intxLevel).toBe(true)
  })

  test('INTFLY interrupts without stopping; writing INTF clears it', () => {
    const chip = machine()
    chip.run(s.intfly(), s.int(9))
    expect(chip.r32(reg.DSPS)).toBe(9)
    expect(chip.r8(reg.ISTAT0)).toBe(reg.ISTAT0_DIP | reg.ISTAT0_INTF)
    chip.r8(reg.DSTAT)
    expect(chip.bus.intxLevel).toBe(true)
    chip.w8(reg.ISTAT0, reg.ISTAT0_INTF)
    expect(chip.bus.intxLevel).toBe(false)
  })

  test('an interrupt behind another is stacked, and comes when the first was read', () => {
    const chip = machine()
    chip.run(s.int(1))
    chip.w8(reg.SCNTL1, reg.SCNTL1_RST)
    expect(chip.r8(reg.ISTAT0)).toBe(reg.ISTAT0_DIP)
    expect(chip.r8(reg.DSTAT) & reg.DSTAT_SIR).toBe(reg.DSTAT_SIR)
    expect(chip.r8(reg.ISTAT0)).toBe(reg.ISTAT0_SIP)
    expect(chip.r16(reg.SIST0)).toBe(reg.SIST0_RST)
    expect(chip.r8(reg.ISTAT0)).toBe(0)
  })

  test('between two stacked interrupts the pin goes away for a moment', () => {
    const chip = machine()
    chip.run(s.int(1))
    chip.w8(reg.SCNTL1, reg.SCNTL1_RST)
    const edges = chip.bus.intxEdges
    chip.r8(reg.DSTAT)
    expect(chip.bus.intxLevel).toBe(true)
    expect(chip.bus.intxEdges).toBe(edges + 1)
  })

  test('a masked interrupt that is not fatal shows in SIST1, not in ISTAT, and stacks nothing', () => {
    const chip = machine()
    chip.w8(reg.SIEN1, 0)
    chip.w8(reg.STIME1, 1)
    chip.bus.clock.advance(100)
    expect(chip.r8(reg.ISTAT0)).toBe(0)
    chip.run(s.int(1))
    expect(chip.r8(reg.ISTAT0)).toBe(reg.ISTAT0_DIP)
    expect(chip.r8(reg.DSTAT)).toBe(reg.DSTAT_DFE | reg.DSTAT_SIR)
    expect(chip.r8(reg.SIST1)).toBe(reg.SIST1_GEN)
    expect(chip.bus.intxLevel).toBe(false)
  })

  test('masking an interrupt that is at the pin does not take it away; reading it does', () => {
    const chip = machine()
    chip.run(s.int(1))
    chip.w8(reg.DIEN, 0)
    expect(chip.bus.intxLevel).toBe(true)
    chip.r8(reg.DSTAT)
    expect(chip.bus.intxLevel).toBe(false)
  })

  test('ISTAT1 SYNC_IRQD blocks the next interrupt, not the one that is there', () => {
    const chip = machine()
    chip.run(s.int(1))
    chip.w8(reg.ISTAT1, reg.ISTAT1_SI)
    expect(chip.bus.intxLevel).toBe(true)
    chip.r8(reg.DSTAT)
    chip.run(s.int(2))
    expect(chip.bus.intxLevel).toBe(false)
    expect(chip.r8(reg.ISTAT0)).toBe(reg.ISTAT0_DIP)
    chip.w8(reg.ISTAT1, 0)
    expect(chip.bus.intxLevel).toBe(true)
  })

  test('DCNTL IRQD keeps the pin quiet', () => {
    const chip = machine()
    chip.w8(reg.DCNTL, reg.DCNTL_IRQD)
    chip.run(s.int(1))
    expect(chip.bus.intxLevel).toBe(false)
  })

  test('ISTAT ABRT stops a waiting program', () => {
    const chip = machine()
    chip.run(s.waitReselect(), s.int(1))
    expect(chip.r8(reg.ISTAT1)).toBe(reg.ISTAT1_SRUN)
    chip.w8(reg.ISTAT0, reg.ISTAT0_ABRT)
    expect(chip.r8(reg.ISTAT1)).toBe(0)
    chip.w8(reg.ISTAT0, 0)
    expect(chip.r8(reg.DSTAT)).toBe(reg.DSTAT_DFE | reg.DSTAT_ABRT)
  })

  test('single step: an SSI interrupt after every instruction', () => {
    const chip = machine()
    chip.w8(reg.DCNTL, reg.DCNTL_SSM)
    chip.run(s.modify(reg.SCRATCHA, 'load', 7), s.int(5))
    expect(chip.r8(reg.DSTAT)).toBe(reg.DSTAT_DFE | reg.DSTAT_SSI)
    expect([chip.r8(reg.SCRATCHA), chip.r32(reg.DSP)]).toEqual([7, PROGRAM + 8])
    chip.w8(reg.DCNTL, reg.DCNTL_SSM | reg.DCNTL_STD)
    expect(chip.r8(reg.DSTAT)).toBe(reg.DSTAT_DFE | reg.DSTAT_SIR)
  })

  test('the general purpose timer interrupts when its time is over', () => {
    const chip = machine()
    chip.w8(reg.SIEN1, reg.SIST1_GEN)
    chip.w8(reg.STIME1, 11)
    chip.bus.clock.advance(200)
    expect(chip.r8(reg.SIST1)).toBe(0)
    chip.bus.clock.advance(50)
    expect(chip.r8(reg.SIST1)).toBe(reg.SIST1_GEN)
  })

  test('DMODE MAN: DSP does not start, DCNTL STD does', () => {
    const chip = machine()
    chip.w8(reg.DMODE, reg.DMODE_MAN)
    chip.run(s.int(3))
    expect(chip.r8(reg.ISTAT0)).toBe(0)
    chip.w8(reg.DCNTL, reg.DCNTL_STD)
    expect(chip.r32(reg.DSPS)).toBe(3)
  })

  test('soft reset: registers as after power on, programs gone', () => {
    const chip = machine()
    chip.run(s.waitReselect())
    chip.w32(reg.SCRATCHA, 5)
    chip.w8(reg.ISTAT0, reg.ISTAT0_SRST)
    chip.w8(reg.ISTAT0, 0)
    expect([chip.r32(reg.SCRATCHA), chip.r8(reg.ISTAT1), chip.r8(reg.SCNTL0), chip.r8(reg.DSTAT)]).toEqual([
      0, 0, 0xc0, 0x80,
    ])
  })
})

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

describe('commands', () => {
  test('a whole READ: selection, messages, command, data, status, message, bus free', () => {
    const chip = ready(machine())
    chip.run(...io(chip, READ(5, 2), { data: [s.move(1024, BUFFER, s.DATA_IN)] }))
    expect(chip.r32(reg.DSPS)).toBe(0x77)
    expect(chip.bytes(SCRATCH + 0x20, 2)).toEqual([0, 0])
    expect(chip.bytes(BUFFER, 1024)).toEqual([...chip.content.subarray(5 * 512, 7 * 512)])
    expect(chip.bus.memory.isDirty(BUFFER, 1024)).toBe(true)
    expect(chip.r8(reg.ISTAT0) & reg.ISTAT0_CON).toBe(0)
  })

  test('a WRITE in many pieces, direct, indirect, by table and chained', async () => {
    const chip = ready(machine())
    chip.put(BUFFER, ...Array.from({ length: 1024 }, (_, i) => (i * 3) & 0xff))
    chip.bus.memory.data.setUint32(BUFFER - 8, BUFFER + 100, true)
    const { data } = chip.bus.memory
    for (const [i, [count, at]] of [
      [412, BUFFER + 300],
      [312, BUFFER + 712],
    ].entries()) {
      data.setUint32(TABLE + 8 * i, count!, true)
      data.setUint32(TABLE + 8 * i + 4, at!, true)
    }
    chip.w32(reg.DSA, TABLE)
    const moves = [
      s.move(100, BUFFER, s.DATA_OUT),
      s.moveIndirect(200, BUFFER - 8, s.DATA_OUT),
      s.moveTable(0, s.DATA_OUT),
      s.chmovTable(8, s.DATA_OUT),
    ]
    chip.run(...io(chip, WRITE(9, 2), { data: moves }))
    await chip.stopped()
    expect(chip.bytes(SCRATCH + 0x20, 2)).toEqual([0, 0])
    chip.r8(reg.DSTAT)
    chip.run(...io(chip, READ(9, 2), { data: [s.move(1024, BUFFER + 0x1000, s.DATA_IN)] }))
    expect(chip.bytes(BUFFER + 0x1000, 1024)).toEqual(chip.bytes(BUFFER, 1024))
  })

  test('SELECT of an id that nobody has: selection time-out', () => {
    const chip = machine()
    chip.run(s.selectAtn(5), s.modify(reg.SCRATCHA, 'load', 1), s.move(1, SCRATCH, s.MSG_OUT), s.int(1))
    expect(chip.r16(reg.SIST0)).toBe(reg.SIST1_STO << 8)
    // The program had gone on to the first instruction that needs the target.
    expect([chip.r8(reg.SCRATCHA), chip.r32(reg.DSP)]).toEqual([1, PROGRAM + 24])
  })

  test('SELECT FROM takes id, SCNTL3 and SXFER from the table', () => {
    const chip = machine()
    chip.bus.memory.data.setUint32(TABLE + 4, 0x33_03_08_00, true)
    chip.w32(reg.DSA, TABLE)
    chip.run(s.selectAtnFrom(4), s.int(1, { phase: s.MSG_OUT, when: true }))
    expect([chip.r8(reg.SDID), chip.r8(reg.SCNTL3), chip.r8(reg.SXFER)]).toEqual([3, 0x33, 0x08])
    expect(chip.r32(reg.DSPS)).toBe(1)
    expect(chip.r8(reg.SBCL) & 7).toBe(s.MSG_OUT)
  })

  test('a target that has less than the program expects: phase mismatch, MA, the rest in DBC and DNAD', () => {
    const chip = ready(machine())
    chip.run(...io(chip, [0x12, 0, 0, 0, 36, 0], { data: [s.move(100, BUFFER, s.DATA_IN)] }))
    expect(chip.r16(reg.SIST0)).toBe(reg.SIST0_MA)
    expect(chip.r32(reg.DBC) & 0xffffff).toBe(64)
    expect(chip.r32(reg.DNAD)).toBe(BUFFER + 36)
    expect(chip.r8(reg.SSTAT1) & 7).toBe(s.STATUS)
  })

  test('with ENPMJ it jumps instead: PMJAD2 for data in, with RBC, UA, IA and SBC', () => {
    const chip = ready(machine())
    const handler = PROGRAM + 0x800
    s.assemble(chip.bus.memory, handler, s.int(0x99))
    chip.w8(reg.CCNTL0, reg.CCNTL0_ENPMJ | reg.CCNTL0_PMJCTL)
    chip.w32(reg.PMJAD1, 0)
    chip.w32(reg.PMJAD2, handler)
    chip.run(...io(chip, [0x12, 0, 0, 0, 36, 0], { data: [s.move(100, BUFFER, s.DATA_IN)] }))
    expect(chip.r32(reg.DSPS)).toBe(0x99)
    expect(chip.r32(reg.RBC) & 0xffffff).toBe(64)
    expect([chip.r32(reg.UA), chip.r32(reg.IA), chip.r32(reg.SBC) & 0xffffff]).toEqual([BUFFER + 36, PROGRAM + 24, 36])
  })

  test('a transfer to where there is no memory is a bus fault', () => {
    const chip = ready(machine())
    chip.run(...io(chip, READ(0, 1), { data: [s.move(512, 0x7fff_0000, s.DATA_IN)] }))
    expect(chip.r8(reg.DSTAT)).toBe(reg.DSTAT_DFE | reg.DSTAT_BF)
  })

  test('a command of the second LUN goes there', () => {
    const chip = machine()
    chip.run(...io(chip, [0x12, 0, 0, 0, 36, 0], { messages: [0x81], data: [s.move(36, BUFFER, s.DATA_IN)] }))
    expect(chip.bytes(BUFFER, 1)).toEqual([0])
    chip.r8(reg.DSTAT)
    chip.run(...io(chip, [0x12, 0, 0, 0, 36, 0], { messages: [0x85], data: [s.move(36, BUFFER, s.DATA_IN)] }))
    expect(chip.bytes(BUFFER, 1)).toEqual([0x7f])
  })
})

test('SFBR has the first byte of what came in, SIDL the last (4.2): drivers find the tag of a reselection there', () => {
  const chip = machine()
  chip.put(SCRATCH, 0x80, 1, 2, 3, 1)
  chip.run(s.selectAtn(3), s.move(5, SCRATCH, s.MSG_OUT), s.move(3, BUFFER, s.MSG_IN), s.int(1))
  expect([chip.r8(reg.SFBR), chip.r8(reg.SIDL)]).toEqual([1, 3])
})

test('the way of SeaBIOS: no SATN/, padded commands, empty data phases, no release of SACK/', () => {
  const chip = machine()
  const seabios = (cdb: number[], data: readonly number[]) => {
    chip.put(SCRATCH, 0x80)
    chip.put(SCRATCH + 0x10, ...cdb, ...new Array<number>(16 - cdb.length).fill(0))
    chip.put(SCRATCH + 0x20, 0xff, 0xff)
    chip.run(
      [0x40000000 | (3 << 16), 0],
      s.move(1, SCRATCH, s.MSG_OUT),
      s.move(16, SCRATCH + 0x10, s.COMMAND),
      s.jump(24, { phase: s.MSG_IN, not: true, relative: true }),
      s.move(2, TABLE, s.MSG_IN),
      s.waitReselect(),
      s.move(2, TABLE, s.MSG_IN),
      data,
      s.move(1, SCRATCH + 0x20, s.STATUS),
      s.move(1, SCRATCH + 0x21, s.MSG_IN),
      s.int(0),
    )
    expect([chip.r8(reg.DSTAT) & 4, chip.r8(reg.SIST0), chip.r8(reg.SIST1)]).toEqual([4, 0, 0])
    return chip.bytes(SCRATCH + 0x20, 2)
  }
  expect(seabios([0x12, 0, 0, 0, 36, 0], s.move(36, BUFFER, s.DATA_IN))).toEqual([0, 0])
  for (let tries = 0; tries < 5 && seabios(TEST_UNIT_READY, s.move(0, 0, s.DATA_OUT))[0] !== 0; tries++) {
    seabios([3, 0, 0, 0, 18, 0], s.move(18, BUFFER, s.DATA_IN))
  }
  expect(seabios(READ(7, 1), s.move(512, BUFFER, s.DATA_IN))).toEqual([0, 0])
  expect(chip.bytes(BUFFER, 512)).toEqual([...chip.content.subarray(7 * 512, 8 * 512)])
})

describe('messages (SPI-3 16)', () => {
  test.each([
    ['SDTR is answered with what the bus can', [0x80, 1, 3, 1, 0x0a, 31], [1, 3, 1, 0x0a, 31]],
    ['SDTR: too fast and too deep is brought down', [0x80, 1, 3, 1, 0x01, 0xff], [1, 3, 1, 0x0a, 31]],
    ['WDTR: 16 bits', [0x80, 1, 2, 3, 1], [1, 2, 3, 1]],
    ['PPR: no DT clocking', [0x80, 1, 6, 4, 0x09, 0, 0x3e, 1, 2], [1, 6, 4, 0x0a, 0, 31, 1, 0]],
    ['an unknown message is rejected', [0x80, 0x1f], [7]],
    ['an unknown extended message is rejected', [0x80, 1, 2, 0x55, 1], [7]],
  ])('%s', (_, messages, answer) => {
    const chip = machine()
    chip.put(SCRATCH, ...messages)
    chip.run(
      s.selectAtn(3),
      s.move(messages.length, SCRATCH, s.MSG_OUT),
      s.move(answer.length, BUFFER, s.MSG_IN),
      s.clear(s.ACK),
      s.int(1, { phase: s.COMMAND, when: true }),
    )
    expect(chip.r32(reg.DSPS)).toBe(1)
    expect(chip.bytes(BUFFER, answer.length)).toEqual(answer)
  })

  test('ABORT TASK SET frees the bus: an unexpected disconnect unless SDU was cleared', () => {
    const chip = machine()
    chip.put(SCRATCH, 0x80, 0x06)
    chip.run(s.selectAtn(3), s.move(2, SCRATCH, s.MSG_OUT), s.int(1))
    expect(chip.r16(reg.SIST0)).toBe(reg.SIST0_UDC)
    chip.run(
      s.selectAtn(3),
      s.modify(reg.SCNTL2, 'and', 0x7f),
      s.move(2, SCRATCH, s.MSG_OUT),
      s.waitDisconnect(),
      s.int(4),
    )
    expect(chip.r16(reg.SIST0)).toBe(0)
    expect(chip.r32(reg.DSPS)).toBe(4)
  })

  test('MESSAGE PARITY ERROR: the target says it again, and ends then', () => {
    const chip = ready(machine())
    chip.put(SCRATCH + 0x30, 0x09)
    const program = io(chip, TEST_UNIT_READY)
    program.splice(
      4,
      program.length,
      s.move(1, SCRATCH + 0x21, s.MSG_IN),
      s.set(s.ATN),
      s.clear(s.ACK),
      s.move(1, SCRATCH + 0x30, s.MSG_OUT),
      s.move(1, SCRATCH + 0x22, s.MSG_IN),
      s.modify(reg.SCNTL2, 'and', 0x7f),
      s.clear(s.ACK),
      s.waitDisconnect(),
      s.int(0x78),
    )
    chip.put(SCRATCH + 0x22, 0xee)
    expect(chip.run(...program)).toBe(0x78)
    expect(chip.bytes(SCRATCH + 0x21, 2)).toEqual([0, 0])
  })

  test('INITIATOR DETECTED ERROR ends the data phase with ABORTED COMMAND', () => {
    const chip = ready(machine())
    chip.put(SCRATCH + 0x30, 0x05)
    const data = [s.move(512, BUFFER, s.DATA_IN), s.set(s.ATN), s.move(1, SCRATCH + 0x30, s.MSG_OUT)]
    expect(chip.run(...io(chip, READ(4, 2), { data }))).toBe(0x77)
    expect(chip.bytes(SCRATCH + 0x20, 1)).toEqual([2])
    chip.run(...io(chip, [3, 0, 0, 0, 18, 0], { data: [s.move(18, BUFFER, s.DATA_IN)] }))
    expect([chip.bytes(BUFFER + 2, 1), chip.bytes(BUFFER + 12, 2)]).toEqual([[0x0b], [0x48, 0]])
  })

  test('MESSAGE REJECT of DISCONNECT: the target stays until it has the data', async () => {
    const chip = ready(machine())
    chip.faulty.hold()
    chip.put(SCRATCH + 0x30, 0x07)
    const program = io(chip, READ(4, 1), {
      messages: [0xc0],
      data: [
        s.move(1, SCRATCH + 0x22, s.MSG_IN),
        s.set(s.ATN),
        s.clear(s.ACK),
        s.move(1, SCRATCH + 0x30, s.MSG_OUT),
        s.move(512, BUFFER, s.DATA_IN),
      ],
    })
    chip.run(...program)
    expect(chip.bytes(SCRATCH + 0x22, 1)).toEqual([4])
    expect(chip.r8(reg.ISTAT0) & reg.ISTAT0_CON).toBe(reg.ISTAT0_CON)
    chip.faulty.release()
    await chip.stopped()
    expect(chip.r32(reg.DSPS)).toBe(0x77)
    expect(chip.bytes(BUFFER, 512)).toEqual([...chip.content.subarray(4 * 512, 5 * 512)])
  })

  test('SATN/ during the command turns the target to MESSAGE OUT', () => {
    const chip = machine()
    chip.put(SCRATCH, 0x80)
    chip.run(
      s.selectAtn(3),
      s.move(1, SCRATCH, s.MSG_OUT),
      s.set(s.ATN),
      s.int(1, { phase: s.MSG_OUT, when: true }),
      s.int(2),
    )
    expect(chip.r32(reg.DSPS)).toBe(1)
  })
})

describe('disconnection and reselection', () => {
  test('several commands in flight: each disconnects, each comes back with its tag and its data', async () => {
    const chip = ready(machine())
    chip.faulty.later()
    chip.run(
      ...slowRead(chip, 1, 16),
      ...slowRead(chip, 2, 32),
      ...takeReselection(TABLE, BUFFER),
      ...takeReselection(TABLE + 0x10, BUFFER + 0x1000),
      s.int(0x66),
    )
    expect(chip.bytes(SCRATCH + 0x120, 1)).toEqual([4])
    await chip.stopped()
    expect(chip.r32(reg.DSPS)).toBe(0x66)
    expect(chip.r8(reg.SSID)).toBe(reg.SSID_VAL | 3)
    expect(chip.r8(reg.SFBR)).toBe(0)
    expect(chip.bytes(TABLE, 5)).toEqual([0x80, 0x20, 1, 0, 0])
    expect(chip.bytes(TABLE + 0x10, 5)).toEqual([0x80, 0x20, 2, 0, 0])
    expect(chip.bytes(BUFFER, 4096)).toEqual([...chip.content.subarray(16 * 512, 24 * 512)])
    expect(chip.bytes(BUFFER + 0x1000, 4096)).toEqual([...chip.content.subarray(32 * 512, 40 * 512)])
  })

  test('without the disconnect privilege the target holds the bus until it has the data', async () => {
    const chip = ready(machine())
    chip.faulty.later()
    chip.run(...io(chip, READ(4, 1), { data: [s.move(512, BUFFER, s.DATA_IN)] }))
    expect(chip.r8(reg.ISTAT0) & reg.ISTAT0_CON).toBe(reg.ISTAT0_CON)
    await chip.stopped()
    expect(chip.r32(reg.DSPS)).toBe(0x77)
    expect(chip.bytes(BUFFER, 512)).toEqual([...chip.content.subarray(4 * 512, 5 * 512)])
  })

  test('the host is told once that no more commands come, when the program rests; not for what was there at once', async () => {
    const chip = ready(machine())
    const before = kicks()
    chip.run(...io(chip, READ(5, 2), { data: [s.move(1024, BUFFER, s.DATA_IN)] }))
    expect(kicks()).toBe(before)
    chip.faulty.hold()
    chip.run(...slowRead(chip, 1, 16), ...slowRead(chip, 2, 32), ...takeReselection(TABLE, BUFFER), s.int(0x66))
    expect(kicks()).toBe(before + 1)
    chip.faulty.release()
    await chip.stopped()
    expect(chip.r32(reg.DSPS)).toBe(0x66)
  })

  test('a target that holds the bus for the host, too', async () => {
    const chip = ready(machine())
    chip.faulty.hold()
    const before = kicks()
    chip.run(...io(chip, READ(4, 1), { data: [s.move(512, BUFFER, s.DATA_IN)] }))
    expect(kicks()).toBe(before + 1)
    chip.faulty.release()
    await chip.stopped()
    expect(chip.r32(reg.DSPS)).toBe(0x77)
  })

  test('WAIT RESELECT with SIGP set takes the other way, and CTEST2 clears it', () => {
    const chip = machine()
    const other = PROGRAM + 0x800
    s.assemble(chip.bus.memory, other, s.int(0x31))
    chip.run(s.waitReselect(other), s.int(1))
    chip.w8(reg.ISTAT0, reg.ISTAT0_SIGP)
    expect(chip.r32(reg.DSPS)).toBe(0x31)
    expect(chip.r8(reg.CTEST2) & reg.CTEST2_SIGP).toBe(reg.CTEST2_SIGP)
    expect(chip.r8(reg.CTEST2) & reg.CTEST2_SIGP).toBe(0)
  })

  test('ABORT TASK takes one of two back; the other completes', async () => {
    const chip = ready(machine())
    chip.faulty.hold()
    chip.run(
      ...slowRead(chip, 1, 16),
      ...slowRead(chip, 2, 32),
      ...abortTask(chip, 1),
      ...takeReselection(TABLE, BUFFER),
      s.int(0x66),
    )
    await microtasks()
    chip.faulty.release()
    await chip.stopped()
    expect(chip.r32(reg.DSPS)).toBe(0x66)
    expect(chip.bytes(TABLE, 4)).toEqual([0x80, 0x20, 2, 0])
  })

  test('a bus reset during a transfer: nothing of it reaches memory any more (CVE-2023-5088)', async () => {
    const chip = ready(machine())
    chip.faulty.hold()
    chip.run(...io(chip, READ(4, 8), { data: [s.move(4096, BUFFER, s.DATA_IN)] }))
    await microtasks()
    chip.w8(reg.SCNTL1, reg.SCNTL1_RST)
    chip.w8(reg.SCNTL1, 0)
    expect(chip.r16(reg.SIST0)).toBe(reg.SIST0_RST)
    chip.put(BUFFER, ...new Array<number>(4096).fill(0xee))
    chip.faulty.release()
    await microtasks()
    expect(chip.bytes(BUFFER, 4096).every((byte) => byte === 0xee)).toBe(true)
    chip.run(...io(chip, TEST_UNIT_READY))
    await chip.stopped()
    expect(chip.r32(reg.DSPS)).toBe(0x77)
    expect(chip.bytes(SCRATCH + 0x20, 1)).toEqual([2])
  })
})

describe('bad programs', () => {
  test('CVE-2019-12068: an endless program lets the host go on, and loses the guest its controller', () => {
    const chip = machine()
    chip.run(s.jump(PROGRAM))
    expect(chip.r8(reg.ISTAT1)).toBe(reg.ISTAT1_SRUN)
    expect(chip.bus.clock.deferred).toBe(1)
    for (let i = 0; i < 5000 && chip.bus.clock.deferred > 0; i++) chip.bus.clock.turn()
    expect(chip.r8(reg.DSTAT)).toBe(reg.DSTAT_DFE | reg.DSTAT_ABRT)
  })

  test('a slice is bounded by the bytes that it moves, too', () => {
    const chip = machine()
    chip.bus.memory.dirtied.length = 0
    chip.run(s.memoryMove(0x80000, LARGE, LARGE + 0x80000), s.jump(PROGRAM))
    expect(chip.bus.clock.deferred).toBe(1)
    expect(chip.bus.memory.dirtied.length).toBeLessThan(4)
  })

  test('a megabyte of messages, and of a command of no known length, is taken in no time and kept in no memory', () => {
    const chip = ready(machine())
    chip.bus.memory.ram.fill(0x08, LARGE, LARGE + 0x100000)
    chip.bus.memory.ram[LARGE] = 0x80
    chip.put(SCRATCH + 0x20, 0xee)
    chip.run(
      s.selectAtn(3),
      s.move(0x100000, LARGE, s.MSG_OUT),
      s.modify(reg.SFBR, 'load', 0),
      s.int(1, { phase: s.COMMAND, when: true }),
    )
    expect(chip.r32(reg.DSPS)).toBe(1)
    chip.bus.memory.ram.fill(0xff, LARGE, LARGE + 0x100000)
    chip.run(s.move(0x100000, LARGE, s.COMMAND), s.move(1, SCRATCH + 0x20, s.STATUS), s.int(2))
    expect([chip.r32(reg.DSPS), chip.bytes(SCRATCH + 0x20, 1)]).toEqual([2, [2]])
    machine().device.restore(chip.device.save())
  })

  test('MESSAGE PARITY ERROR 300 times over: the target says its message again once, not as often', () => {
    const chip = ready(machine())
    chip.put(SCRATCH, 0x80, 0x12)
    chip.put(BUFFER, ...new Array<number>(300).fill(0x09))
    chip.run(s.selectAtn(3), s.move(2, SCRATCH, s.MSG_OUT), s.move(1, SCRATCH + 0x20, s.MSG_IN), s.int(1))
    expect([chip.r32(reg.DSPS), chip.bytes(SCRATCH + 0x20, 1)]).toEqual([1, [7]])
    chip.r8(reg.DSTAT)
    for (let round = 0; round < 3; round++) {
      chip.put(LARGE, ...new Array<number>(300).fill(0xee))
      chip.run(s.set(s.ATN), s.clear(s.ACK), s.move(300, BUFFER, s.MSG_OUT), s.move(300, LARGE, s.MSG_IN), s.int(2))
      expect(chip.r16(reg.SIST0) & 0xff).toBe(reg.SIST0_MA)
      expect([chip.r32(reg.DBC) & 0xffffff, chip.bytes(LARGE, 2)]).toEqual([299, [7, 0xee]])
      machine().device.restore(chip.device.save())
    }
  })

  const rejected = new Array<number>(300).fill(0x12)
  const agreements = Array.from({ length: 60 }, () => [1, 3, 1, 10, 8]).flat()
  const send = [s.set(s.ATN), s.move(300, BUFFER, s.MSG_OUT)]
  const takeAll = s.move(300, LARGE, s.MSG_IN)
  const sayAgain = [s.set(s.ATN), s.move(1, SCRATCH + 0x10, s.MSG_OUT)]

  test.each([
    ['messages to be rejected', rejected, [send, send, send, send]],
    ['agreements', agreements, [send, send, send, send]],
    [
      'answers that are asked for again behind others',
      rejected,
      [send, [takeAll, s.set(s.ATN), s.clear(s.ACK)], send, send, send, sayAgain],
    ],
  ])('%s: the target gives up a connection whose initiator takes no answers', (_, messages, steps) => {
    const chip = ready(machine())
    chip.put(SCRATCH, 0x80)
    chip.put(SCRATCH + 0x10, 0x09)
    chip.put(BUFFER, ...messages)
    const program = [s.selectAtn(3), s.move(1, SCRATCH, s.MSG_OUT)]
    // The last step is what the target does not bear
    const before = steps.slice(0, -1).flat()
    expect(chip.run(...program, ...before, s.int(1))).toBe(1)
    expect(chip.r16(reg.SIST0) & 0xff).toBe(0)
    chip.r8(reg.DSTAT)
    machine().device.restore(chip.device.save())
    chip.run(...steps.at(-1)!, s.int(2))
    expect(chip.r16(reg.SIST0) & 0xff).toBe(reg.SIST0_UDC)
    expect(chip.r8(reg.SCNTL1) & reg.SCNTL1_CON).toBe(0)
    chip.run(...io(chip, TEST_UNIT_READY))
    expect([chip.r32(reg.DSPS), chip.bytes(SCRATCH + 0x20, 1)]).toEqual([0x77, [0]])
  })

  test('the command of a connection that the target gives up is no more', async () => {
    const chip = ready(machine())
    chip.put(BUFFER, ...new Array<number>(300).fill(0x12))
    const [select, identify, command] = io(chip, READ(0, 1))
    const rounds = Array.from({ length: 5 }, () => [s.set(s.ATN), s.move(300, BUFFER, s.MSG_OUT)]).flat()
    chip.run(select!, identify!, command!, ...rounds, s.int(1))
    expect(chip.r16(reg.SIST0) & 0xff).toBe(reg.SIST0_UDC)
    expect(chip.target.unit(0)!.tasks).toEqual([])
    chip.run(...io(chip, TEST_UNIT_READY))
    await chip.stopped()
    expect([chip.r32(reg.DSPS), chip.bytes(SCRATCH + 0x20, 1)]).toEqual([0x77, [0]])
  })

  test('CVE-2022-0216: the same command aborted again and again', () => {
    const chip = machine()
    chip.put(SCRATCH, 0xc0, 0x20, 9, ...new Array<number>(64).fill(0x0d))
    for (let i = 0; i < 10; i++) {
      chip.run(
        s.selectAtn(3),
        s.modify(reg.SCNTL2, 'and', 0x7f),
        s.move(60, SCRATCH, s.MSG_OUT),
        s.waitDisconnect(),
        s.int(i),
      )
      chip.r16(reg.SIST0)
      chip.r8(reg.DSTAT)
    }
    chip.run(...io(chip, TEST_UNIT_READY))
    expect(chip.r32(reg.DSPS)).toBe(0x77)
  })

  test('CVE-2024-6519: a program resets bus and chip under its own commands, whose answers come later', async () => {
    for (const [register, value] of [
      [reg.SCNTL1, reg.SCNTL1_RST],
      [reg.ISTAT0, reg.ISTAT0_SRST],
    ] as const) {
      const chip = ready(machine())
      chip.faulty.hold()
      chip.put(TABLE + (register & 3), value)
      chip.run(
        ...slowRead(chip, 1, 16),
        ...slowRead(chip, 2, 32),
        s.memoryMove(1, TABLE + (register & 3), chip.base + register),
        ...takeReselection(BUFFER + 0x8000, BUFFER),
        s.int(0x66),
      )
      await microtasks()
      chip.put(BUFFER, ...new Array<number>(8192).fill(0xee))
      chip.faulty.release()
      await microtasks()
      chip.bus.clock.turn()
      expect(chip.bytes(BUFFER, 8192).every((byte) => byte === 0xee)).toBe(true)
      chip.w8(register, 0)
      chip.r16(reg.SIST0)
      chip.r8(reg.DSTAT)
      chip.run(...io(chip, TEST_UNIT_READY))
      await chip.stopped()
      expect(chip.r32(reg.DSPS)).toBe(0x77)
      expect(chip.bytes(SCRATCH + 0x20, 1)).toEqual([2])
    }
  })

  test('a program that is started while a block move of another waits for the host goes on by itself', async () => {
    const chip = ready(machine())
    chip.faulty.hold()
    chip.run(...io(chip, READ(4, 1024), { data: [s.move(1024 * 512, LARGE, s.DATA_IN)] }))
    await microtasks()
    chip.faulty.release()
    chip.faulty.hold()
    await microtasks()
    expect(chip.faulty.held).toBe(1)
    chip.run(s.int(0x31, { phase: s.STATUS, when: true }), s.int(0x32))
    expect(chip.r8(reg.ISTAT1)).toBe(reg.ISTAT1_SRUN)
    chip.faulty.release()
    await chip.stopped()
    expect(chip.r32(reg.DSPS)).toBe(0x31)
    expect(chip.r16(reg.SIST0)).toBe(0)
  })

  test('random words are run without an exception, and the chip can be reset after them', async () => {
    let x = 0x2545f491
    const random = () => {
      x ^= x << 13
      x ^= x >>> 17
      x ^= x << 5
      return x >>> 0
    }
    for (let round = 0; round < 80; round++) {
      const chip = machine()
      chip.w32(reg.DSA, TABLE)
      for (let i = 0; i < 256; i++) {
        const word = random()
        chip.bus.memory.data.setUint32(
          PROGRAM + 4 * i,
          i % 2 === 0 ? word : (word % 3 === 0 ? PROGRAM + ((word % 1024) & ~7) : BUFFER) >>> 0,
          true,
        )
      }
      chip.w32(reg.DSP, PROGRAM)
      for (let i = 0; i < 8; i++) {
        chip.r8(reg.DSTAT)
        chip.r16(reg.SIST0)
        chip.w8(random() & 0xff, random() & 0xff)
        chip.w32(reg.DSP, PROGRAM + ((random() % 1024) & ~7))
        chip.bus.clock.turn()
      }
      await chip.device.reset()
      chip.bus.clock.turn()
      chip.device.config.setBar(1, chip.base)
      chip.device.config.write(4, 2, 7)
      expect(chip.run(s.int(0x12))).toBe(0x12)
    }
  })
})
