/** Saved states of the chip: what was under way goes on in a chip that was made anew. */
import { expect, test } from 'vitest'
import * as reg from '../../../src/devices/lsi53c895a/registers.ts'
import { fieldsOf } from '../../../src/devices/scsi/saved.ts'
import { seeded } from '../../random.ts'
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

/** A chip in another machine that takes up the state of the first, RAM and medium included. */
function again(first: Chip): Chip {
  const saved = structuredClone(first.device.save())
  const second = machine()
  second.faulty.later()
  second.device.restore(saved)
  second.bus.memory.ram.set(first.bus.memory.ram)
  return second
}

test('a saved state goes on where it was', () => {
  const chip = machine()
  chip.w32(reg.SCRATCHA, 0xcafe)
  chip.run(s.set(s.CARRY), s.waitReselect(), s.int(1))
  const other = again(chip)
  other.bus.clock.turn()
  expect(other.r32(reg.SCRATCHA)).toBe(0xcafe)
  expect(other.r8(reg.ISTAT1)).toBe(reg.ISTAT1_SRUN)
  const way = PROGRAM + 0x800
  s.assemble(other.bus.memory, way, s.int(0x21, { carry: true }))
  s.assemble(other.bus.memory, PROGRAM + 8, s.waitReselect(way))
  other.w8(reg.ISTAT0, reg.ISTAT0_SIGP)
  expect(other.r32(reg.DSPS)).toBe(0x21)
  expect(() => other.device.restore({ registers: 5 })).toThrow(RangeError)
  expect(other.device.config.read(4, 2)).toBe(0)
})

test('commands with the host, disconnected: they reselect with their data', async () => {
  const chip = ready(machine())
  chip.faulty.hold()
  chip.run(
    ...slowRead(chip, 1, 16),
    ...slowRead(chip, 2, 32),
    ...takeReselection(TABLE, BUFFER),
    ...takeReselection(TABLE + 0x10, BUFFER + 0x1000),
    s.int(0x66),
  )
  await microtasks()
  const other = again(chip)
  expect(other.bytes(BUFFER + 32, 16).every((byte) => byte === 0)).toBe(true)
  await other.stopped()
  expect(other.r32(reg.DSPS)).toBe(0x66)
  expect(other.bytes(TABLE, 5)).toEqual([0x80, 0x20, 1, 0, 0])
  expect(other.bytes(TABLE + 0x10, 5)).toEqual([0x80, 0x20, 2, 0, 0])
  expect(other.bytes(BUFFER, 4096)).toEqual([...chip.content.subarray(16 * 512, 24 * 512)])
  expect(other.bytes(BUFFER + 0x1000, 4096)).toEqual([...chip.content.subarray(32 * 512, 40 * 512)])
})

test('a target that waits to reselect, and a chip that an interrupt has stopped', async () => {
  const chip = ready(machine())
  chip.faulty.later()
  chip.run(...slowRead(chip, 1, 16), s.int(0x11))
  await microtasks()
  await chip.device.drain()
  const other = again(chip)
  expect(other.r8(reg.DSTAT)).toBe(reg.DSTAT_DFE | reg.DSTAT_SIR)
  other.run(...takeReselection(TABLE, BUFFER), s.int(0x66))
  await other.stopped()
  expect(other.r32(reg.DSPS)).toBe(0x66)
  expect(other.bytes(BUFFER, 4096)).toEqual([...chip.content.subarray(16 * 512, 24 * 512)])
})

test('a block move in the middle of a target that holds the bus', async () => {
  const blocks = 1024
  const chip = ready(machine())
  chip.faulty.hold()
  const data = [s.move(1000, LARGE, s.DATA_IN), s.move(blocks * 512 - 1000, LARGE + 1000, s.DATA_IN)]
  chip.run(...io(chip, READ(4, blocks), { data }))
  await microtasks()
  chip.faulty.release()
  chip.faulty.hold()
  await microtasks()
  expect(chip.r8(reg.ISTAT1)).toBe(reg.ISTAT1_SRUN)
  expect(chip.bytes(LARGE, 2000)).toEqual([...chip.content.subarray(2048, 4048)])
  const other = again(chip)
  other.put(LARGE, ...new Array<number>(1000).fill(0xee))
  await other.stopped()
  expect(other.r32(reg.DSPS)).toBe(0x77)
  expect(other.bytes(SCRATCH + 0x20, 2)).toEqual([0, 0])
  expect(other.bytes(LARGE, 1000).every((byte) => byte === 0xee)).toBe(true)
  expect(
    Buffer.compare(
      other.bus.memory.ram.subarray(LARGE + 1000, LARGE + blocks * 512),
      chip.content.subarray(3048, 2048 + blocks * 512),
    ),
  ).toBe(0)
})

test('a block move whose bytes are there, and which the program has not been told of', async () => {
  const length = 512 << 10
  for (let turns = 0; turns < 24; turns++) {
    const chip = ready(machine())
    chip.faulty.later()
    const data = [s.move(1000, LARGE, s.DATA_IN), s.move(length - 1000, LARGE + 1000, s.DATA_IN)]
    chip.run(...io(chip, READ(4, length / 512), { data }))
    for (let turn = 0; turn < turns; turn++) await undefined
    const other = again(chip)
    await other.stopped()
    expect([turns, other.r32(reg.DSPS), other.bytes(SCRATCH + 0x20, 2)]).toEqual([turns, 0x77, [0, 0]])
    const moved = other.bus.memory.ram.subarray(LARGE, LARGE + length)
    expect(Buffer.compare(moved, chip.content.subarray(2048, 2048 + length))).toBe(0)
  }
})

test('a message that is shorter than its move, while the target waits for its medium', async () => {
  const chip = ready(machine())
  chip.faulty.hold()
  const negotiation = [1, 3, 1, 25, 8]
  chip.put(SCRATCH, 0x80, ...negotiation)
  chip.put(SCRATCH + 0x10, ...READ(4, 8))
  chip.run(
    s.selectAtn(3),
    s.move(6, SCRATCH, s.MSG_OUT),
    s.move(5, SCRATCH + 0x20, s.MSG_IN),
    s.set(s.ATN),
    s.move(10, SCRATCH + 0x10, s.COMMAND),
    s.move(5, SCRATCH + 1, s.MSG_OUT),
    s.move(16, SCRATCH + 0x40, s.MSG_IN),
    s.int(0x55),
  )
  await microtasks()
  expect(chip.r8(reg.ISTAT1)).toBe(reg.ISTAT1_SRUN)
  const other = again(chip)
  chip.faulty.release()
  for (const each of [chip, other]) {
    await each.stopped()
    expect(each.r8(reg.SIST0)).toBe(reg.SIST0_MA)
    expect(each.r8(reg.SSTAT1) & 7).toBe(s.DATA_IN)
    expect(each.r32(reg.DBC) & 0xffffff).toBe(11)
    expect(each.bytes(SCRATCH + 0x40, 16)).toEqual([...negotiation, ...new Array<number>(11).fill(0)])
  }
})

test('bytes of a write that a unit takes up again count as moved, however it has answered before', async () => {
  const bytes = 128 << 10
  const part = 100_000
  const first = ready(machine())
  for (let i = 0; i < 256; i++) first.bus.memory.ram.fill(i + 1, LARGE + i * 512, LARGE + (i + 1) * 512)
  const data = [s.move(part, LARGE, s.DATA_OUT), s.int(0x11), s.move(bytes - part, LARGE + part, s.DATA_OUT)]
  expect(first.run(...io(first, WRITE(8, 256), { data }))).toBe(0x11)
  const second = ready(machine())
  for (let i = 0; i < 16; i++) {
    second.run(...io(second, WRITE(0, 1), { data: [s.move(512, LARGE, s.DATA_OUT)] }))
    second.r8(reg.DSTAT)
  }
  second.faulty.hold()
  second.device.restore(structuredClone(first.device.save()))
  second.bus.memory.ram.set(first.bus.memory.ram)
  const third = again(second)
  second.faulty.release()
  for (const each of [second, third]) {
    await microtasks()
    each.bus.clock.turn()
    each.r8(reg.DSTAT)
    each.w8(reg.DCNTL, reg.DCNTL_STD)
    await each.stopped()
    expect(each.r32(reg.DSPS)).toBe(0x77)
    expect(each.bytes(SCRATCH + 0x20, 2)).toEqual([0, 0])
    each.r8(reg.DSTAT)
    each.run(...io(each, READ(8, 256), { data: [s.move(bytes, LARGE, s.DATA_IN)] }))
    await each.stopped()
    for (let i = 0; i < 256; i++) expect([i, ...each.bytes(LARGE + i * 512, 1)]).toEqual([i, (i + 1) & 0xff])
  }
})

test('a write in the middle, its bytes partly with the host', async () => {
  const blocks = 1024
  const chip = ready(machine())
  chip.bus.memory.ram.fill(0xa5, LARGE, LARGE + blocks * 512)
  chip.faulty.hold()
  const data = [s.move(1000, LARGE, s.DATA_OUT), s.move(blocks * 512 - 1000, LARGE + 1000, s.DATA_OUT)]
  chip.run(...io(chip, WRITE(4, blocks), { data }))
  await microtasks()
  expect(chip.r8(reg.ISTAT1)).toBe(reg.ISTAT1_SRUN)
  expect(chip.faulty.held).toBe(1)
  const other = again(chip)
  await other.stopped()
  expect(other.r32(reg.DSPS)).toBe(0x77)
  expect(other.bytes(SCRATCH + 0x20, 2)).toEqual([0, 0])
  expect(other.faulty.log.filter(({ operation }) => operation === 'write').at(-1)).toMatchObject({
    at: 2048 + 256 * 1024,
    length: 256 * 1024,
  })
  other.run(...io(other, READ(4, blocks), { data: [s.move(blocks * 512, LARGE, s.DATA_IN)] }))
  await other.stopped()
  expect(other.bus.memory.ram.subarray(LARGE, LARGE + blocks * 512).every((byte) => byte === 0xa5)).toBe(true)
})

test('an abort that waits for the host', async () => {
  const chip = ready(machine())
  chip.faulty.hold()
  chip.run(...slowRead(chip, 1, 16), ...abortTask(chip, 1), s.int(0x44))
  await microtasks()
  const other = again(chip)
  await other.stopped()
  expect(other.r32(reg.DSPS)).toBe(0x44)
  other.run(...io(other, TEST_UNIT_READY), s.int(1))
  await other.stopped()
  expect(other.bytes(SCRATCH + 0x20, 2)).toEqual([0, 0])
})

test('ordered commands keep their order; sense data that waits does too', async () => {
  const chip = ready(machine())
  chip.faulty.hold()
  chip.put(SCRATCH + 0x900, 0xc0, 0x22, 2)
  chip.put(SCRATCH + 0x910, ...WRITE(16, 8))
  chip.run(
    ...slowRead(chip, 1, 16),
    s.selectAtn(3),
    s.move(3, SCRATCH + 0x900, s.MSG_OUT),
    s.move(10, SCRATCH + 0x910, s.COMMAND),
    s.move(1, SCRATCH + 0x920, s.MSG_IN),
    s.modify(reg.SCNTL2, 'and', 0x7f),
    s.clear(s.ACK),
    s.waitDisconnect(),
    ...takeReselection(TABLE, BUFFER),
    s.waitReselect(),
    s.move(1, TABLE + 0x10, s.MSG_IN),
    s.clear(s.ACK),
    s.move(2, TABLE + 0x11, s.MSG_IN),
    s.clear(s.ACK),
    s.move(4096, BUFFER + 0x2000, s.DATA_OUT),
    s.int(0x55),
  )
  await microtasks()
  const other = again(chip)
  await other.stopped()
  expect(other.r32(reg.DSPS)).toBe(0x55)
  expect(other.bytes(TABLE, 5)).toEqual([0x80, 0x20, 1, 0, 0])
  expect(other.bytes(TABLE + 0x10, 3)).toEqual([0x80, 0x20, 2])
  expect(other.bytes(BUFFER, 4096)).toEqual([...chip.content.subarray(16 * 512, 24 * 512)])
})

test('stacked interrupts, a selection that times out, and the timer', async () => {
  const chip = machine()
  chip.w8(reg.SIEN1, 0x06)
  chip.w8(reg.STIME1, 0x0f)
  chip.bus.clock.advance(1000)
  chip.run(s.int(1))
  chip.w8(reg.SCNTL1, reg.SCNTL1_RST)
  chip.w8(reg.SCNTL1, 0)
  const other = again(chip)
  expect(other.r8(reg.DSTAT) & reg.DSTAT_SIR).toBe(reg.DSTAT_SIR)
  expect(other.r16(reg.SIST0)).toBe(reg.SIST0_RST)
  other.bus.clock.advance(2000)
  expect(other.r8(reg.SIST1)).toBe(0)
  other.bus.clock.advance(1000)
  expect(other.r8(reg.SIST1)).toBe(reg.SIST1_GEN)
})

test('the units: mode pages, reservations and attentions are those of the saved ones', async () => {
  const chip = ready(machine())
  chip.put(SCRATCH + 0x40, 0, 0, 0, 0, 0x08, 0x12, ...new Array<number>(18).fill(0))
  chip.run(...io(chip, [0x15, 0x10, 0, 0, 24, 0], { data: [s.move(24, SCRATCH + 0x40, s.DATA_OUT)] }))
  expect(chip.bytes(SCRATCH + 0x20, 1)).toEqual([0])
  chip.r8(reg.DSTAT)
  const other = again(chip)
  other.bus.clock.turn()
  other.run(...io(other, [0x1a, 8, 0x08, 0, 24, 0], { data: [s.move(24, BUFFER, s.DATA_IN)] }))
  await other.stopped()
  expect(other.bytes(SCRATCH + 0x20, 1)).toEqual([0])
  expect(other.bytes(BUFFER + 4, 3)).toEqual([0x88, 0x12, 0x00])
})

test('whatever a program is in the middle of, a chip that takes up its state goes on and can be saved again', () =>
  seeded(async ({ below }) => {
    for (let round = 0; round < 40; round++) {
      const chip = ready(machine())
      if (round % 2 === 0) chip.faulty.later()
      else chip.faulty.hold()
      const parts = [
        ...slowRead(chip, 1, 16),
        ...slowRead(chip, 2, 32),
        ...io(chip, WRITE(4, 700), { data: [s.move(1000, LARGE, s.DATA_OUT), s.move(357400, LARGE, s.DATA_OUT)] }),
        ...takeReselection(TABLE, BUFFER),
      ]
      chip.run(...Array.from({ length: 60 }, () => parts[below(parts.length)]!))
      for (let turns = below(6); turns > 0; turns--) {
        await microtasks()
        chip.bus.clock.turn()
      }
      const other = again(chip)
      const first = other.device.save()
      for (let turns = 0; turns < 6; turns++) {
        await microtasks()
        other.bus.clock.turn()
        other.r16(reg.SIST0)
        other.r8(reg.DSTAT)
        other.w32(reg.DSP, PROGRAM + 8 * below(60))
      }
      expect(fieldsOf(first).registers).toEqual(fieldsOf(chip.device.save()).registers)
      await other.device.reset()
    }
  }))

test('drain: nothing to wait for at rest; with commands under way until the host has answered', async () => {
  const chip = ready(machine())
  expect(chip.device.drain()).toBeUndefined()
  chip.faulty.hold()
  chip.run(...slowRead(chip, 1, 16), ...takeReselection(TABLE, BUFFER), s.int(0x66))
  let rested = false
  const rest = Promise.resolve(chip.device.drain()).then(() => {
    rested = true
  })
  await microtasks()
  chip.bus.clock.turn()
  expect(rested).toBe(false)
  chip.faulty.release()
  for (let i = 0; i < 10 && !rested; i++) {
    await microtasks()
    chip.bus.clock.turn()
  }
  await rest
  expect(chip.r32(reg.DSPS)).toBe(0x66)
})

test('drain: a read that was aborted and never ends is nothing to wait for', async () => {
  const chip = ready(machine())
  chip.faulty.hold()
  chip.run(...slowRead(chip, 1, 16), ...abortTask(chip, 1), s.int(0x44))
  expect(chip.r32(reg.DSPS)).toBe(0x44)
  await microtasks()
  expect(chip.faulty.held).toBe(1)
  expect(chip.device.drain()).toBeUndefined()
})

test('drain: a program that never ends does not keep a state from being saved', async () => {
  const chip = machine()
  // A move that is as long as a whole slice of the program.
  const move = s.memoryMove(1 << 20, LARGE, LARGE)
  chip.run(...io(chip, TEST_UNIT_READY).slice(0, -1), move, s.jump(PROGRAM))
  let rested = false
  void Promise.resolve(chip.device.drain()).then(() => {
    rested = true
  })
  for (let i = 0; i < 2000 && !rested; i++) {
    await microtasks()
    chip.bus.clock.turn()
  }
  expect(rested).toBe(true)
  expect(chip.r8(reg.ISTAT1)).toBe(reg.ISTAT1_SRUN)
})

test.each([
  ['nothing', null],
  ['another thing', 5],
  ['a bus that is none', 'bus'],
  ['a target that is not there', 'targets'],
])('%s is a RangeError, and the chip is as after power on', (_, spoil) => {
  const chip = machine()
  const state = fieldsOf(chip.device.save())
  const bus = fieldsOf(state.bus)
  const bad =
    spoil === 'bus'
      ? { ...state, bus: [] }
      : spoil === 'targets'
        ? { ...state, bus: { ...bus, targets: [{ id: 4, units: [] }] } }
        : spoil
  expect(() => chip.device.restore(bad)).toThrow(RangeError)
  expect(chip.device.config.read(4, 2)).toBe(0)
})

test.each([0, 1, 3])('phase %i without a connection or without its command is a RangeError', async (phase) => {
  const chip = ready(machine())
  chip.faulty.hold()
  chip.run(...io(chip, READ(4, 1024), { data: [s.move(1024 * 512, LARGE, s.DATA_IN)] }))
  await microtasks()
  const state = fieldsOf(chip.device.save())
  const bus = fieldsOf(state.bus)
  const connections = fieldsOf(bus.connections)
  expect(connections.current).toBe(0)
  const [nexus] = connections.nexuses as Record<string, never>[]
  for (const spoiled of [
    { ...connections, current: -1 },
    { ...connections, nexuses: [{ ...nexus, task: null }] },
  ]) {
    const other = machine()
    const bad = { ...state, bus: { ...bus, phase, connections: spoiled } }
    expect(() => other.device.restore(structuredClone(bad))).toThrow(RangeError)
    other.bus.clock.turn()
  }
})
