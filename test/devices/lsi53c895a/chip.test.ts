/** The LSI53C895A as its technical manual describes it: its PCI face, registers and interrupts. */
import { describe, expect, test } from 'vitest'
import * as reg from '../../../src/devices/lsi53c895a/registers.ts'
import { machine, PROGRAM } from './machine.ts'
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
