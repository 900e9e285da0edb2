/** Commands, messages and reselections: SCRIPTS run against real targets. */
import { describe, expect, test } from 'vitest'
import { kicks } from '../../../src/block/turn.ts'
import * as reg from '../../../src/devices/lsi53c895a/registers.ts'
import { microtasks } from '../machine.ts'
import {
  abortTask,
  BUFFER,
  io,
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
