/** Programs that a driver would not write: none takes the host with it. */
import { describe, expect, test } from 'vitest'
import * as reg from '../../../src/devices/lsi53c895a/registers.ts'
import { microtasks } from '../machine.ts'
import {
  BUFFER,
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
} from './machine.ts'
import * as s from './scripts.ts'

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
