/** Arbitration, selection and bytes through registers alone, step by step as the technical manual has it (SCNTL0, SCNTL1, SOCL, SBCL). */
import { describe, expect, test } from 'vitest'
import * as reg from '../../../src/devices/lsi53c895a/registers.ts'
import { microtasks } from '../machine.ts'
import { BUFFER, type Chip, io, machine, PROGRAM, READ, ready, SCRATCH, slowRead, TEST_UNIT_READY } from './machine.ts'
import * as s from './scripts.ts'

const OWN = 7
const FULL = reg.SCNTL0_ARB
const { SOCL_REQ: REQ, SOCL_ACK: ACK, SOCL_BSY: BSY, SOCL_SEL: SEL, SOCL_ATN: ATN } = reg

/** The chip as id 7, in low level mode. */
function lowLevel(chip = machine()): Chip {
  chip.w8(reg.SCID, reg.SCID_RRE | OWN)
  chip.w8(reg.RESPID0, 1 << OWN)
  chip.w8(reg.STEST2, reg.STEST2_LOW)
  return chip
}

/** Full arbitration, selection of id 3. */
function select(chip: Chip, withAttention = true): void {
  chip.w8(reg.SDID, 3)
  chip.w8(reg.SCNTL0, FULL | reg.SCNTL0_START | (withAttention ? reg.SCNTL0_WATN : 0))
  expect(chip.r16(reg.SIST0)).toBe(reg.SIST0_CMP)
  if (withAttention) chip.w8(reg.SOCL, ATN)
}

/** Waits for SREQ/; gives the phase. */
async function request(chip: Chip): Promise<number> {
  for (let tries = 0; tries < 100; tries++) {
    const lines = chip.r8(reg.SBCL)
    if (lines & REQ) return lines & 7
    await microtasks()
  }
  throw new Error(`no SREQ/ with SBCL ${chip.r8(reg.SBCL).toString(16)}`)
}

/** Sends bytes; SATN/, if it is asserted, is negated before the last one, as SPI-3 10.8.5 wants. */
async function send(chip: Chip, phase: number, bytes: readonly number[]): Promise<void> {
  for (const [at, byte] of bytes.entries()) {
    expect(await request(chip)).toBe(phase)
    const attention = phase === s.MSG_OUT && at < bytes.length - 1 ? ATN : 0
    chip.w8(reg.SODL, byte)
    chip.w8(reg.SCNTL1, reg.SCNTL1_ADB)
    chip.w8(reg.SOCL, attention)
    chip.w8(reg.SOCL, attention | ACK)
    expect(chip.r8(reg.SBCL) & REQ).toBe(0)
    chip.w8(reg.SOCL, attention)
    chip.w8(reg.SCNTL1, 0)
  }
}

/** Receives bytes. */
async function receive(chip: Chip, phase: number, count: number): Promise<number[]> {
  const bytes: number[] = []
  while (bytes.length < count) {
    expect(await request(chip)).toBe(phase)
    bytes.push(chip.r8(reg.SBDL))
    chip.w8(reg.SOCL, ACK)
    expect(chip.r8(reg.SBCL) & (REQ | ACK | 7)).toBe(ACK | phase)
    expect(chip.r8(reg.SIDL)).toBe(bytes.at(-1))
    chip.w8(reg.SOCL, 0)
  }
  return bytes
}

describe('full arbitration, selection (SCNTL0 ARB = 11)', () => {
  test('a target that is there: WOA, CMP, CON; START clears itself; WATN is SATN/', () => {
    const chip = lowLevel()
    chip.w8(reg.SDID, 3)
    chip.w8(reg.SIEN0, reg.SIST0_CMP)
    chip.w8(reg.SCNTL0, FULL | reg.SCNTL0_START | reg.SCNTL0_WATN)
    expect(chip.r8(reg.SCNTL0)).toBe(FULL | reg.SCNTL0_WATN)
    expect(chip.r8(reg.SSTAT0) & reg.SSTAT0_WOA).toBe(reg.SSTAT0_WOA)
    expect(chip.r8(reg.SCNTL1) & reg.SCNTL1_CON).toBe(reg.SCNTL1_CON)
    expect(chip.r8(reg.ISTAT0)).toBe(reg.ISTAT0_CON | reg.ISTAT0_SIP)
    expect(chip.bus.intxLevel).toBe(true)
    expect(chip.r16(reg.SIST0)).toBe(reg.SIST0_CMP)
    expect(chip.bus.intxLevel).toBe(false)
    expect(chip.r8(reg.SBCL)).toBe(REQ | BSY | ATN | s.MSG_OUT)
  })

  test('without WATN the target asks for a command', () => {
    const chip = lowLevel()
    select(chip, false)
    expect(chip.r8(reg.SBCL)).toBe(REQ | BSY | s.COMMAND)
  })

  test('nobody there: STO, not connected, SATN/ negated', () => {
    const chip = lowLevel()
    chip.w8(reg.SDID, 5)
    chip.w8(reg.SCNTL0, FULL | reg.SCNTL0_START | reg.SCNTL0_WATN)
    expect(chip.r16(reg.SIST0)).toBe(reg.SIST1_STO << 8)
    expect([chip.r8(reg.SCNTL0), chip.r8(reg.SCNTL1) & reg.SCNTL1_CON, chip.r8(reg.SBCL)]).toEqual([
      FULL | reg.SCNTL0_WATN,
      0,
      0,
    ])
  })

  test('in the target role it reselects, and no initiator answers', () => {
    const chip = lowLevel()
    chip.w8(reg.SDID, 3)
    chip.w8(reg.SCNTL0, FULL | reg.SCNTL0_START | reg.SCNTL0_TRG)
    expect(chip.r16(reg.SIST0)).toBe(reg.SIST1_STO << 8)
    expect(chip.r8(reg.SSTAT0) & reg.SSTAT0_WOA).toBe(reg.SSTAT0_WOA)
  })

  test('while the bus is taken START waits for bus free; cleared before, nothing happens', async () => {
    for (const abort of [false, true]) {
      const chip = lowLevel()
      select(chip)
      chip.w8(reg.SCNTL0, FULL | reg.SCNTL0_START)
      expect(chip.r8(reg.SCNTL0)).toBe(FULL | reg.SCNTL0_START)
      if (abort) chip.w8(reg.SCNTL0, FULL)
      await send(chip, s.MSG_OUT, [0x80, 0x06])
      expect(chip.r8(reg.SIST0)).toBe(reg.SIST0_UDC | (abort ? 0 : reg.SIST0_CMP))
      expect(chip.r8(reg.SCNTL0)).toBe(FULL)
      expect(chip.r8(reg.SCNTL1) & reg.SCNTL1_CON).toBe(abort ? 0 : reg.SCNTL1_CON)
      expect(chip.r8(reg.SBCL)).toBe(abort ? 0 : REQ | BSY | s.COMMAND)
    }
  })

  test('while SCRIPTS run the bit is theirs; no SCRIPTS run in low level mode', () => {
    const chip = machine()
    chip.w8(reg.SDID, 3)
    chip.run(s.waitReselect())
    chip.w8(reg.SCNTL0, FULL | reg.SCNTL0_START)
    expect([chip.r8(reg.SCNTL0), chip.r8(reg.SCNTL1) & reg.SCNTL1_CON]).toEqual([FULL, 0])
    chip.w8(reg.STEST2, reg.STEST2_LOW)
    chip.run(s.int(5))
    expect([chip.r32(reg.DSP), chip.r8(reg.ISTAT0)]).toEqual([PROGRAM, 0])
    chip.w8(reg.STEST2, 0)
    expect([chip.r32(reg.DSPS), chip.r8(reg.ISTAT0)]).toEqual([5, reg.ISTAT0_DIP])
  })

  test('a selection through registers, and the command by SCRIPTS', () => {
    const chip = ready(machine())
    chip.w8(reg.SDID, 3)
    chip.w8(reg.SCNTL0, FULL | reg.SCNTL0_START | reg.SCNTL0_WATN)
    expect(chip.r16(reg.SIST0)).toBe(reg.SIST0_CMP)
    chip.run(...io(chip, READ(5, 1), { data: [s.move(512, BUFFER, s.DATA_IN)] }).slice(1))
    expect(chip.r32(reg.DSPS)).toBe(0x77)
    expect(chip.bytes(BUFFER, 512)).toEqual([...chip.content.subarray(5 * 512, 6 * 512)])
  })
})

describe('simple arbitration (SCNTL0 ARB = 00), low level selection', () => {
  test('AIP, CMP and CON; SBSY/ and the id on the bus, no higher id, not lost', () => {
    const chip = lowLevel()
    chip.w8(reg.SCNTL0, reg.SCNTL0_START)
    expect(chip.r8(reg.SCNTL0)).toBe(0)
    expect(chip.r16(reg.SIST0)).toBe(reg.SIST0_CMP)
    expect(chip.r8(reg.SSTAT0) & (reg.SSTAT0_AIP | reg.SSTAT0_LOA | reg.SSTAT0_WOA)).toBe(reg.SSTAT0_AIP)
    expect(chip.r8(reg.SCNTL1) & reg.SCNTL1_CON).toBe(reg.SCNTL1_CON)
    expect([chip.r8(reg.SBCL), chip.r16(reg.SBDL)]).toEqual([BSY, 1 << OWN])
  })

  test('SSEL/ with the ids in SODL selects: the target answers with SBSY/, and asks when SSEL/ is gone', () => {
    const chip = lowLevel()
    chip.w8(reg.SCNTL0, reg.SCNTL0_START)
    chip.w8(reg.SOCL, BSY | SEL)
    expect(chip.r8(reg.SBCL)).toBe(BSY | SEL)
    chip.w8(reg.SODL, (1 << OWN) | (1 << 3))
    chip.w8(reg.SCNTL1, reg.SCNTL1_CON | reg.SCNTL1_ADB)
    expect(chip.r16(reg.SBDL)).toBe(0x88)
    chip.w8(reg.SOCL, SEL | ATN)
    expect(chip.r8(reg.SBCL)).toBe(BSY | SEL | ATN)
    chip.w8(reg.SOCL, ATN)
    expect(chip.r8(reg.SBCL)).toBe(REQ | BSY | ATN | s.MSG_OUT)
    expect(chip.r8(reg.SSTAT0) & reg.SSTAT0_AIP).toBe(0)
  })

  test.each([
    ['nobody has the id', 0x90],
    ['two ids beside the own one', 0x8a],
    ['no other id', 0x80],
  ])('%s: no SBSY/, and the bus is free when SSEL/ is gone', (_, ids) => {
    const chip = lowLevel()
    chip.w8(reg.SCNTL0, reg.SCNTL0_START)
    chip.w8(reg.SODL, ids)
    chip.w8(reg.SCNTL1, reg.SCNTL1_CON | reg.SCNTL1_ADB)
    chip.w8(reg.SOCL, SEL | ATN)
    expect(chip.r8(reg.SBCL) & BSY).toBe(0)
    chip.w8(reg.SOCL, 0)
    chip.w8(reg.SCNTL1, 0)
    expect([chip.r8(reg.SBCL), chip.r8(reg.SCNTL1), chip.r16(reg.SBDL)]).toEqual([0, 0, 0])
  })

  test('an arbitration that was won is over when SCRIPTS connect, and selects nobody beside them', () => {
    const chip = ready(machine())
    chip.w8(reg.SCID, OWN)
    chip.w8(reg.SCNTL0, reg.SCNTL0_START)
    expect(chip.r8(reg.SSTAT0) & reg.SSTAT0_AIP).toBe(reg.SSTAT0_AIP)
    chip.run(...io(chip, READ(5, 1), { data: [s.move(512, BUFFER, s.DATA_IN)] }))
    expect(chip.r32(reg.DSPS)).toBe(0x77)
    expect([chip.r8(reg.SSTAT0) & reg.SSTAT0_AIP, chip.r8(reg.SCNTL1) & reg.SCNTL1_CON]).toEqual([0, 0])
  })

  test('clearing CON gives the bus up', () => {
    const chip = lowLevel()
    chip.w8(reg.SCNTL0, reg.SCNTL0_START)
    chip.w8(reg.SCNTL1, 0)
    expect([chip.r8(reg.SCNTL1), chip.r8(reg.SBCL), chip.r8(reg.SSTAT0) & reg.SSTAT0_AIP]).toEqual([0, 0, 0])
  })
})

describe('programmed I/O (SOCL, SODL, SBDL, SIDL)', () => {
  test('a READ by hand, byte by byte, from a disk that answers later', async () => {
    const chip = lowLevel(ready(machine()))
    chip.faulty.later()
    select(chip)
    await send(chip, s.MSG_OUT, [0x80])
    await send(chip, s.COMMAND, READ(5, 1))
    expect(await receive(chip, s.DATA_IN, 512)).toEqual([...chip.content.subarray(5 * 512, 6 * 512)])
    expect(await receive(chip, s.STATUS, 1)).toEqual([0])
    expect(await receive(chip, s.MSG_IN, 1)).toEqual([0])
    expect([chip.r8(reg.SBCL), chip.r8(reg.SCNTL1)]).toEqual([0, 0])
    // Any disconnect in low level mode is unexpected (SIEN0, UDC)
    expect(chip.r16(reg.SIST0)).toBe(reg.SIST0_UDC)
  })

  test('a byte that was looked at is not acknowledged before SACK/ is asserted', async () => {
    const chip = lowLevel(ready(machine()))
    select(chip)
    await send(chip, s.MSG_OUT, [0x80])
    await send(chip, s.COMMAND, TEST_UNIT_READY)
    expect(await receive(chip, s.STATUS, 1)).toEqual([0])
    expect(await request(chip)).toBe(s.MSG_IN)
    for (let look = 0; look < 3; look++) {
      expect(chip.r8(reg.SBCL)).toBe(REQ | BSY | s.MSG_IN)
      chip.w8(reg.SOCL, 0)
    }
    expect(await receive(chip, s.MSG_IN, 1)).toEqual([0])
    expect(chip.r8(reg.SBCL)).toBe(0)
  })

  test('a bus reset that is under way keeps START waiting', async () => {
    const chip = ready(machine())
    chip.w8(reg.SCID, OWN)
    chip.faulty.hold()
    const [connect, message, command, ...rest] = slowRead(chip, 1, 16)
    chip.put(SCRATCH + 0x110, 0x2a, ...READ(9, 1).slice(1))
    chip.run(connect!, message!, command!, s.move(512, BUFFER, s.DATA_OUT), ...rest, s.int(1))
    expect(chip.faulty.held).toBe(1)
    chip.r8(reg.DSTAT)
    chip.w8(reg.SCNTL1, reg.SCNTL1_RST)
    chip.w8(reg.SCNTL1, 0)
    chip.r16(reg.SIST0)
    chip.w8(reg.SDID, 3)
    chip.w8(reg.SCNTL0, FULL | reg.SCNTL0_START)
    expect(chip.r8(reg.SCNTL0)).toBe(FULL | reg.SCNTL0_START)
    chip.faulty.release()
    for (let tries = 0; tries < 100 && chip.r8(reg.SCNTL0) & reg.SCNTL0_START; tries++) await microtasks()
    expect(chip.r16(reg.SIST0)).toBe(reg.SIST0_CMP)
    expect(chip.r8(reg.SBCL)).toBe(REQ | BSY | s.COMMAND)
  })

  test('a WRITE by hand, then by SCRIPTS what it wrote', async () => {
    const chip = lowLevel(ready(machine()))
    const data = Array.from({ length: 512 }, (_, i) => (i * 5) & 0xff)
    select(chip)
    await send(chip, s.MSG_OUT, [0x80])
    await send(chip, s.COMMAND, [0x2a, ...READ(9, 1).slice(1)])
    await send(chip, s.DATA_OUT, data)
    expect(await receive(chip, s.STATUS, 1)).toEqual([0])
    expect(await receive(chip, s.MSG_IN, 1)).toEqual([0])
    chip.w8(reg.STEST2, 0)
    chip.r16(reg.SIST0)
    chip.run(...io(chip, READ(9, 1), { data: [s.move(512, BUFFER, s.DATA_IN)] }))
    expect(chip.bytes(BUFFER, 512)).toEqual(data)
  })

  test('messages of several bytes, and the answer to them', async () => {
    const chip = lowLevel()
    select(chip)
    await send(chip, s.MSG_OUT, [0x80, 1, 3, 1, 0x01, 0xff])
    expect(await receive(chip, s.MSG_IN, 5)).toEqual([1, 3, 1, 0x0a, 31])
    expect(await request(chip)).toBe(s.COMMAND)
  })

  test('a saved state in the middle of a byte goes on there', async () => {
    const chip = lowLevel(ready(machine()))
    select(chip)
    await send(chip, s.MSG_OUT, [0x80])
    await send(chip, s.COMMAND, READ(5, 1))
    await receive(chip, s.DATA_IN, 100)
    expect(await request(chip)).toBe(s.DATA_IN)
    const other = machine()
    other.device.restore(structuredClone(chip.device.save()))
    await microtasks()
    expect(await receive(other, s.DATA_IN, 412)).toEqual([...chip.content.subarray(5 * 512 + 100, 6 * 512)])
    expect(await receive(other, s.STATUS, 1)).toEqual([0])
  })

  test('a bus reset ends it, wherever it is', async () => {
    const chip = lowLevel(ready(machine()))
    select(chip)
    await send(chip, s.MSG_OUT, [0x80])
    await send(chip, s.COMMAND, READ(5, 1))
    await request(chip)
    chip.w8(reg.SOCL, ACK)
    chip.w8(reg.SCNTL1, reg.SCNTL1_RST)
    chip.w8(reg.SCNTL1, 0)
    expect([chip.r8(reg.SBCL), chip.r8(reg.SOCL), chip.r8(reg.SCNTL1)]).toEqual([0, 0, 0])
    expect(chip.r16(reg.SIST0)).toBe(reg.SIST0_RST)
    select(chip)
    expect(chip.r8(reg.SBCL)).toBe(REQ | BSY | ATN | s.MSG_OUT)
  })
})

describe('reselection without SCRIPTS (SCID RRE)', () => {
  test.each([
    ['answered: RSL, SSID, IDENTIFY', reg.SCID_RRE | OWN, 1 << OWN, true],
    ['not enabled', OWN, 1 << OWN, false],
    ['another id', reg.SCID_RRE | OWN, 1 << 2, false],
  ])('%s', async (_, scid, respid, answers) => {
    const chip = ready(machine())
    chip.w8(reg.SCID, scid)
    chip.w8(reg.RESPID0, respid)
    chip.faulty.later()
    chip.run(...slowRead(chip, 1, 16), s.int(1))
    chip.r8(reg.DSTAT)
    chip.w8(reg.STEST2, reg.STEST2_LOW)
    await microtasks()
    expect(chip.r16(reg.SIST0)).toBe(answers ? reg.SIST0_RSL : 0)
    expect(chip.r8(reg.SCNTL1) & reg.SCNTL1_CON).toBe(answers ? reg.SCNTL1_CON : 0)
    if (!answers) return
    expect(chip.r8(reg.SSID)).toBe(reg.SSID_VAL | 3)
    expect(await receive(chip, s.MSG_IN, 3)).toEqual([0x80, 0x20, 1])
    expect((await receive(chip, s.DATA_IN, 4096)).slice(0, 512)).toEqual([...chip.content.subarray(16 * 512, 17 * 512)])
  })
})

describe('immediate arbitration (SCNTL1 IARB)', () => {
  test('wins the bus when an expected disconnect frees it; the next selection clears it', () => {
    const chip = ready(machine())
    chip.w8(reg.SCNTL1, reg.SCNTL1_IARB)
    chip.run(...io(chip, TEST_UNIT_READY).slice(0, -1), s.int(1))
    // The selection that the program began with has cleared it
    expect(chip.r8(reg.SCNTL1)).toBe(0)
    const program = io(chip, TEST_UNIT_READY)
    program.splice(1, 0, s.modify(reg.SCNTL1, 'or', reg.SCNTL1_IARB))
    chip.run(...program)
    expect(chip.r8(reg.SCNTL1)).toBe(reg.SCNTL1_IARB)
    expect(chip.r8(reg.SSTAT0) & reg.SSTAT0_WOA).toBe(reg.SSTAT0_WOA)
    chip.r8(reg.DSTAT)
    chip.run(...io(chip, TEST_UNIT_READY))
    expect(chip.r8(reg.SCNTL1)).toBe(0)
  })

  test('an unexpected disconnect clears it', () => {
    const chip = machine()
    chip.put(SCRATCH, 0x80, 0x06)
    chip.run(s.selectAtn(3), s.modify(reg.SCNTL1, 'or', reg.SCNTL1_IARB), s.move(2, SCRATCH, s.MSG_OUT), s.int(1))
    expect(chip.r16(reg.SIST0)).toBe(reg.SIST0_UDC)
    expect(chip.r8(reg.SCNTL1)).toBe(0)
  })

  test('abort: ABRT, then IARB is cleared', () => {
    const chip = machine()
    chip.run(s.waitReselect())
    chip.w8(reg.SCNTL1, reg.SCNTL1_IARB)
    chip.w8(reg.ISTAT0, reg.ISTAT0_ABRT)
    chip.w8(reg.ISTAT0, 0)
    expect(chip.r8(reg.DSTAT)).toBe(reg.DSTAT_DFE | reg.DSTAT_ABRT)
    chip.w8(reg.SCNTL1, 0)
    expect(chip.r8(reg.SCNTL1)).toBe(0)
  })
})

describe('loopback (STEST2 SLB)', () => {
  test('SOCL drives all lines, SBCL shows them; CON is what is written', () => {
    const chip = machine()
    chip.w8(reg.STEST2, reg.STEST2_LOW | reg.STEST2_SLB)
    for (let line = 1; line < 0x100; line <<= 1) {
      chip.w8(reg.SOCL, line)
      expect(chip.r8(reg.SBCL)).toBe(line)
    }
    chip.w8(reg.SODL, 0x5a)
    chip.w8(reg.SCNTL1, reg.SCNTL1_ADB | reg.SCNTL1_CON)
    expect([chip.r8(reg.SBDL), chip.r8(reg.SCNTL1)]).toEqual([0x5a, reg.SCNTL1_ADB | reg.SCNTL1_CON])
    chip.w8(reg.SCNTL1, 0)
    expect([chip.r8(reg.SBDL), chip.r8(reg.SCNTL1)]).toEqual([0, 0])
    chip.w8(reg.STEST2, 0)
    expect(chip.r8(reg.SBCL)).toBe(0)
  })
})
