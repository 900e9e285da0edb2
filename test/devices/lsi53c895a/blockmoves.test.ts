/** Block moves behind each other: one transfer does them, and nobody can tell. */
import { describe, expect, test } from 'vitest'
import { bytesVec } from '../../../src/block/iovec.ts'
import * as reg from '../../../src/devices/lsi53c895a/registers.ts'
import { random } from '../../random.ts'
import { microtasks } from '../machine.ts'
import { BUFFER, type Chip, io, LARGE, machine, PROGRAM, READ, ready, SCRATCH, TABLE, WRITE } from './machine.ts'
import * as s from './scripts.ts'

const KIB = 1024
/** Commands that a medium has answered at once, so that the next one is relied on to be. */
const IN_A_ROW = 16
/** Offset of the data moves in the programs of {@link io}. */
const DATA = 3 * 8

/** A chip whose medium has answered at once for long enough. */
function prompt(): Chip {
  const chip = ready(machine())
  for (let i = 0; i < IN_A_ROW; i++) {
    chip.run(...io(chip, READ(0, 1), { data: [s.move(512, BUFFER, s.DATA_IN)] }))
    chip.r8(reg.DSTAT)
    chip.run(...io(chip, WRITE(0, 1), { data: [s.move(512, BUFFER, s.DATA_OUT)] }))
    chip.r8(reg.DSTAT)
  }
  chip.faulty.log.length = 0
  return chip
}

/** Puts entries of a table at DSA. */
function table(chip: Chip, entries: readonly (readonly [count: number, address: number])[]): void {
  chip.w32(reg.DSA, TABLE)
  for (const [i, words] of entries.entries())
    for (const [j, word] of words.entries()) chip.bus.memory.data.setUint32(TABLE + 8 * i + 4 * j, word, true)
}

const requests = (chip: Chip) => chip.faulty.log.map(({ operation, at, length }) => [operation, at, length])

/** Whether memory at `at` has the medium's bytes from `from` on. */
const holds = (chip: Chip, at: number, from: number, length: number) =>
  Buffer.compare(chip.bus.memory.ram.subarray(at, at + length), chip.content.subarray(from, from + length)) === 0

describe('[53C895A] 5.3 block moves behind each other', () => {
  test('a page list is one request, and the registers are those of its last move', () => {
    const chip = prompt()
    const pages = Array.from({ length: 32 }, (_, i) => [4 * KIB, LARGE + 8 * KIB * (31 - i)] as const)
    table(chip, pages)
    chip.w32(reg.CSBC, 0)
    chip.run(...io(chip, READ(8, 256), { data: [...pages.map((_, i) => s.moveTable(8 * i, s.DATA_IN)), s.int(5)] }))
    expect(requests(chip)).toEqual([['read', 4 * KIB, 128 * KIB]])
    for (const [i, [, at]] of pages.entries()) expect(holds(chip, at, 4 * KIB * (i + 1), 4 * KIB)).toBe(true)
    expect(chip.r32(reg.DSPS)).toBe(5)
    expect(chip.r32(reg.ESA)).toBe(TABLE + 8 * 31)
    expect(chip.r32(reg.DNAD)).toBe(LARGE + 4 * KIB)
    expect(chip.r32(reg.IA)).toBe(PROGRAM + DATA + 8 * 31)
    expect(chip.r32(reg.SBC) & 0xffffff).toBe(4 * KIB)
    expect(chip.r32(reg.CSBC)).toBe(128 * KIB + 3 + 10 - 2)
  })

  test('a write takes all of them to the medium as one request', () => {
    const chip = prompt()
    const pages = Array.from({ length: 32 }, (_, i) => [4 * KIB, LARGE + 8 * KIB * i] as const)
    table(chip, pages)
    for (const [i, [, at]] of pages.entries()) chip.bus.memory.ram.fill(i + 1, at, at + 4 * KIB)
    chip.run(...io(chip, WRITE(8, 256), { data: pages.map((_, i) => s.moveTable(8 * i, s.DATA_OUT)) }))
    expect(chip.r32(reg.DSPS)).toBe(0x77)
    expect(requests(chip)).toEqual([['write', 4 * KIB, 128 * KIB]])
    chip.run(...io(chip, READ(8, 256), { data: [s.move(128 * KIB, LARGE, s.DATA_IN)] }))
    for (let i = 0; i < 32; i++) expect(chip.bytes(LARGE + 4 * KIB * i + 77, 1)).toEqual([i + 1])
  })

  test('a long write is several requests, each as short as a host does at once', () => {
    const chip = prompt()
    const parts = Array.from({ length: 8 }, (_, i) => s.move(64 * KIB, LARGE + 64 * KIB * i, s.DATA_OUT))
    chip.run(...io(chip, WRITE(0, 1024), { data: parts }))
    expect(chip.r32(reg.DSPS)).toBe(0x77)
    expect(requests(chip)).toEqual([
      ['write', 0, 256 * KIB],
      ['write', 256 * KIB, 256 * KIB],
    ])
  })

  test('short reads, and media that answer later, go through a buffer', async () => {
    const chip = prompt()
    const halves = [s.move(16 * KIB, LARGE, s.DATA_IN), s.move(16 * KIB, LARGE + 16 * KIB, s.DATA_IN)]
    chip.run(...io(chip, READ(0, 64), { data: halves }))
    expect(requests(chip)).toEqual([['read', 0, 32 * KIB]])
    chip.faulty.later()
    const parts = Array.from({ length: 8 }, (_, i) => s.move(64 * KIB, LARGE + 64 * KIB * i, s.DATA_IN))
    chip.run(...io(chip, READ(0, 1024), { data: parts }))
    await chip.stopped()
    expect(requests(chip).slice(1)).toEqual([['read', 0, 512 * KIB]])
    // What was relied on once is not relied on again
    chip.run(...io(chip, READ(0, 1024), { data: parts }))
    await chip.stopped()
    expect(chip.r32(reg.DSPS)).toBe(0x77)
    expect(requests(chip).slice(2)).toEqual([
      ['read', 0, 256 * KIB],
      ['read', 256 * KIB, 256 * KIB],
    ])
  })

  test('a table entry that the data overwrites is taken as it is then', () => {
    const chip = prompt()
    // The medium has a table entry at 64 KiB: 512 bytes for BUFFER
    const entry = [0, 2, 0, 0, 0, 0, 3, 0]
    chip.put(LARGE, ...entry)
    chip.run(...io(chip, WRITE(128, 1), { data: [s.move(512, LARGE, s.DATA_OUT)] }))
    chip.r8(reg.DSTAT)
    const chunk = 64 * KIB
    table(chip, [
      [chunk, LARGE],
      [8, TABLE + 16],
      [chunk - 8, LARGE + chunk],
    ])
    const data = [...[0, 8, 16].map((offset) => s.moveTable(offset, s.DATA_IN)), s.int(5)]
    chip.put(BUFFER, 1, 2, 3)
    chip.run(...io(chip, READ(0, 256), { data }))
    expect(chip.r32(reg.DNAD)).toBe(BUFFER + 512)
    expect(holds(chip, BUFFER + 504, 64 * KIB + 512, 8)).toBe(true)
    expect(holds(chip, LARGE, 0, 512)).toBe(true)
  })

  test('an instruction that the data overwrites is executed as it is then', () => {
    const chip = prompt()
    const stop = s.int(0x1234)
    chip.bus.memory.data.setUint32(LARGE, stop[0]!, true)
    chip.bus.memory.data.setUint32(LARGE + 4, stop[1]!, true)
    chip.run(...io(chip, WRITE(128, 1), { data: [s.move(512, LARGE, s.DATA_OUT)] }))
    chip.r8(reg.DSTAT)
    const chunk = 64 * KIB
    const data = [
      s.move(chunk, LARGE, s.DATA_IN),
      s.move(8, PROGRAM + DATA + 16, s.DATA_IN),
      s.move(chunk - 8, LARGE, s.DATA_IN),
    ]
    expect(chip.run(...io(chip, READ(0, 256), { data }))).toBe(0x1234)
  })

  test('a block that cannot be read ends them there, with the residual of its move', () => {
    const chip = prompt()
    chip.w8(reg.CCNTL0, reg.CCNTL0_ENPMJ)
    chip.w32(reg.PMJAD1, PROGRAM + 0x800)
    chip.w32(reg.PMJAD2, PROGRAM + 0x800)
    s.assemble(chip.bus.memory, PROGRAM + 0x800, s.int(0x99))
    const broken = chip.faulty.read.bind(chip.faulty)
    chip.faulty.read = (at, into) => {
      if (at <= 70 * KIB && 70 * KIB < at + into.byteLength) chip.faulty.fail('read', 'EIO')
      return broken(at, into)
    }
    const parts = Array.from({ length: 4 }, (_, i) => s.move(32 * KIB, LARGE + 32 * KIB * i, s.DATA_IN))
    expect(chip.run(...io(chip, READ(0, 256), { data: parts }))).toBe(0x99)
    expect(chip.r32(reg.IA)).toBe(PROGRAM + DATA + 16)
    expect(chip.r32(reg.RBC) & 0xffffff).toBe(26 * KIB)
    expect(chip.r32(reg.UA)).toBe(LARGE + 70 * KIB)
    expect(holds(chip, LARGE, 0, 70 * KIB)).toBe(true)
    // The request that failed may have changed more of it
    expect(chip.bus.memory.isDirty(LARGE + 70 * KIB, 58 * KIB)).toBe(true)
    expect(chip.r8(reg.SSTAT1) & 7).toBe(s.STATUS)
  })

  test('one that ends just where a move does lets the next one meet the end', () => {
    const chip = prompt()
    const broken = chip.faulty.read.bind(chip.faulty)
    chip.faulty.read = (at, into) => {
      if (at <= 64 * KIB && 64 * KIB < at + into.byteLength) chip.faulty.fail('read', 'EIO')
      return broken(at, into)
    }
    const parts = Array.from({ length: 4 }, (_, i) => s.move(32 * KIB, LARGE + 32 * KIB * i, s.DATA_IN))
    chip.run(...io(chip, READ(0, 256), { data: parts }))
    expect(chip.r8(reg.SIST0)).toBe(reg.SIST0_MA)
    expect(chip.r32(reg.IA)).toBe(PROGRAM + DATA + 16)
    expect(chip.r32(reg.DBC) & 0xffffff).toBe(32 * KIB)
  })

  test('more than the target has ends with the residual, memory that is not there with a bus fault', () => {
    const chip = prompt()
    const parts = [s.move(96 * KIB, LARGE, s.DATA_IN), s.move(96 * KIB, LARGE + 96 * KIB, s.DATA_IN)]
    chip.run(...io(chip, READ(0, 256), { data: parts }))
    expect(chip.r8(reg.SIST0)).toBe(reg.SIST0_MA)
    expect(chip.r32(reg.DBC) & 0xffffff).toBe(64 * KIB)
    expect(holds(chip, LARGE, 0, 128 * KIB)).toBe(true)
    const other = prompt()
    const away = [
      s.move(64 * KIB, LARGE, s.DATA_IN),
      s.move(32 * KIB, LARGE + 64 * KIB, s.DATA_IN),
      s.move(32 * KIB, 0x700000, s.DATA_IN),
    ]
    other.run(...io(other, READ(0, 256), { data: away }))
    expect(other.r8(reg.DSTAT) & reg.DSTAT_BF).toBe(reg.DSTAT_BF)
    expect(other.r32(reg.DSP)).toBe(PROGRAM + DATA + 24)
    expect(holds(other, LARGE, 0, 96 * KIB)).toBe(true)
  })

  test('single step stops behind each of them', () => {
    const chip = prompt()
    chip.w8(reg.DCNTL, reg.DCNTL_SSM)
    const parts = Array.from({ length: 4 }, (_, i) => s.move(32 * KIB, LARGE + 32 * KIB * i, s.DATA_IN))
    chip.run(...io(chip, READ(0, 256), { data: parts }))
    for (let step = 1; step <= 7; step++) {
      expect(chip.r8(reg.DSTAT) & reg.DSTAT_SSI).toBe(reg.DSTAT_SSI)
      expect(chip.r32(reg.DSP)).toBe(PROGRAM + 8 * step)
      chip.w8(reg.DCNTL, reg.DCNTL_SSM | reg.DCNTL_STD)
    }
    expect(holds(chip, LARGE, 0, 128 * KIB)).toBe(true)
  })

  test('single step stops behind one that comes later, and behind one that waited for the next phase', async () => {
    const chip = prompt()
    chip.w8(reg.DCNTL, reg.DCNTL_SSM)
    chip.faulty.later()
    const parts = [s.move(64 * KIB, LARGE, s.DATA_IN), s.move(64 * KIB, LARGE, s.DATA_IN)]
    chip.run(...io(chip, READ(0, 256), { data: parts }))
    for (let step = 1; step <= 7; step++) {
      await chip.stopped()
      expect(chip.r8(reg.DSTAT) & reg.DSTAT_SSI).toBe(reg.DSTAT_SSI)
      expect(chip.r32(reg.DSP)).toBe(PROGRAM + 8 * step)
      chip.w8(reg.DCNTL, reg.DCNTL_SSM | reg.DCNTL_STD)
    }
    const other = ready(machine())
    other.faulty.later()
    other.w8(reg.CCNTL0, reg.CCNTL0_ENPMJ)
    other.w32(reg.PMJAD1, PROGRAM + 0x800)
    other.w8(reg.DCNTL, reg.DCNTL_SSM)
    other.run(...io(other, WRITE(8, 8), { data: [s.move(5000, LARGE, s.DATA_OUT)] }))
    for (let step = 1; step <= 3; step++) {
      other.r8(reg.DSTAT)
      other.w8(reg.DCNTL, reg.DCNTL_SSM | reg.DCNTL_STD)
    }
    await other.stopped()
    expect(other.r8(reg.DSTAT) & reg.DSTAT_SSI).toBe(reg.DSTAT_SSI)
    expect(other.r32(reg.DSP)).toBe(PROGRAM + 0x800)
  })

  test('they use up a slice as they would one after the other', () => {
    const chip = prompt()
    const pages = Array.from({ length: 256 }, (_, i) => s.move(4 * KIB, LARGE + 4 * KIB * ((37 * i) % 256), s.DATA_IN))
    chip.run(...io(chip, READ(0, 2048), { data: pages }).slice(0, -1), s.jump(PROGRAM))
    expect(chip.bus.clock.deferred).toBe(1)
    expect(requests(chip).length).toBeLessThan(5)
  })

  test('a block that cannot be read is found where a transfer starts in the middle of one', () => {
    const chip = prompt()
    const broken = chip.faulty.read.bind(chip.faulty)
    const bad = 200
    chip.faulty.read = (at, into) => {
      if (at < (bad + 1) * 512 && bad * 512 < at + into.byteLength) chip.faulty.fail('read', 'EIO')
      return broken(at, into)
    }
    const first = 66_000
    const data = [
      s.move(first, LARGE, s.DATA_IN),
      s.modify(reg.SCRATCHA, 'add', 1),
      s.move(256 * KIB - first, LARGE + first, s.DATA_IN),
    ]
    chip.run(...io(chip, READ(0, 512), { data }))
    expect(chip.r8(reg.SIST0)).toBe(reg.SIST0_MA)
    expect(chip.r32(reg.DNAD)).toBe(LARGE + bad * 512)
    chip.w32(reg.DSP, PROGRAM + DATA + 8 * data.length)
    chip.r8(reg.DSTAT)
    chip.run(...io(chip, [3, 0, 0, 0, 18, 0], { data: [s.move(18, BUFFER, s.DATA_IN)] }))
    expect(chip.bytes(BUFFER + 3, 4)).toEqual([0, 0, 0, bad])
  })

  test('a write that fails has been taken all the same', () => {
    const chip = prompt()
    chip.faulty.fail('write', 'EIO', 100)
    const parts = Array.from({ length: 4 }, (_, i) => s.move(32 * KIB, LARGE + 32 * KIB * i, s.DATA_OUT))
    chip.run(...io(chip, WRITE(0, 256), { data: parts }))
    expect(chip.r32(reg.DSPS)).toBe(0x77)
    expect(chip.bytes(SCRATCH + 0x20, 1)).toEqual([2])
    chip.run(...io(chip, [3, 0, 0, 0, 18, 0], { data: [s.move(18, BUFFER, s.DATA_IN)] }))
    expect(chip.bytes(BUFFER + 2, 1)[0]! & 0xf).toBe(0x03)
  })

  test('a write on a full host goes on when that has room again', async () => {
    const chip = prompt()
    chip.faulty.fail('write', 'ENOSPC')
    chip.bus.memory.ram.fill(0x5a, LARGE, LARGE + 128 * KIB)
    const parts = Array.from({ length: 4 }, (_, i) => s.move(32 * KIB, LARGE + 32 * KIB * i, s.DATA_OUT))
    chip.run(...io(chip, WRITE(0, 256), { data: parts }))
    await microtasks()
    expect(chip.r8(reg.ISTAT1) & reg.ISTAT1_SRUN).toBe(reg.ISTAT1_SRUN)
    chip.disk.resume()
    await chip.stopped()
    expect(chip.r32(reg.DSPS)).toBe(0x77)
    expect(chip.bytes(SCRATCH + 0x20, 1)).toEqual([0])
    const back = new Uint8Array(128 * KIB)
    void chip.disk.read(0, bytesVec(back))
    expect(back.every((byte) => byte === 0x5a)).toBe(true)
  })

  test('two to the same memory are two requests: the second one has the last word', () => {
    const chip = prompt()
    const parts = [64, 0, 64].map((to, i) => s.move((i === 2 ? 64 : 32) * KIB, LARGE + to * KIB, s.DATA_IN))
    chip.run(...io(chip, READ(0, 256), { data: parts }))
    expect(requests(chip)).toEqual([
      ['read', 0, 64 * KIB],
      ['read', 64 * KIB, 64 * KIB],
    ])
    expect(holds(chip, LARGE + 64 * KIB, 64 * KIB, 64 * KIB)).toBe(true)
  })

  test('a bus reset takes the memory of all of them back', async () => {
    const chip = prompt()
    chip.faulty.hold()
    const parts = Array.from({ length: 4 }, (_, i) => s.move(32 * KIB, LARGE + 32 * KIB * i, s.DATA_IN))
    chip.run(...io(chip, READ(0, 256), { data: parts }))
    await microtasks()
    expect(chip.faulty.held).toBe(1)
    chip.w8(reg.SCNTL1, reg.SCNTL1_RST)
    chip.faulty.release()
    await microtasks()
    await chip.device.drain()
    expect(chip.bus.memory.ram.subarray(LARGE, LARGE + 128 * KIB).every((byte) => byte === 0)).toBe(true)
  })

  test('a saved state in the middle of several goes on with them', async () => {
    const chip = prompt()
    chip.faulty.hold()
    const parts = Array.from({ length: 4 }, (_, i) => s.move(32 * KIB, LARGE + 64 * KIB * i, s.DATA_IN))
    chip.run(...io(chip, READ(8, 256), { data: parts }))
    await microtasks()
    expect(chip.faulty.held).toBe(1)
    const other = machine()
    other.device.restore(structuredClone(chip.device.save()))
    other.bus.memory.ram.set(chip.bus.memory.ram)
    await other.stopped()
    expect(other.r32(reg.DSPS)).toBe(0x77)
    expect(other.bytes(SCRATCH + 0x20, 2)).toEqual([0, 0])
    for (let i = 0; i < 4; i++) expect(holds(other, LARGE + 64 * KIB * i, 4 * KIB + 32 * KIB * i, 32 * KIB)).toBe(true)
  })

  test('a move that is longer than the data lasts until a target without disconnection has its status', async () => {
    const chip = ready(machine())
    chip.faulty.hold()
    chip.run(...io(chip, WRITE(8, 8), { data: [s.move(5000, LARGE, s.DATA_OUT)] }))
    await microtasks()
    expect(chip.r8(reg.ISTAT1) & reg.ISTAT1_SRUN).toBe(reg.ISTAT1_SRUN)
    chip.w8(reg.SCRATCHA, 1)
    const other = machine()
    other.device.restore(structuredClone(chip.device.save()))
    other.bus.memory.ram.set(chip.bus.memory.ram)
    chip.faulty.release()
    for (const each of [chip, other]) {
      await each.stopped()
      expect(each.r8(reg.SIST0)).toBe(reg.SIST0_MA)
      expect(each.r32(reg.DBC) & 0xffffff).toBe(5000 - 4096)
      expect(each.r8(reg.SSTAT1) & 7).toBe(s.STATUS)
    }
  })

  test('whatever the moves are, it comes out as one after the other', () => {
    const { below, seed } = random()
    for (let round = 0; round < 60; round++) {
      const blocks = 128 + below(256)
      const write = below(10) < 3
      const phase = write ? s.DATA_OUT : s.DATA_IN
      const entries: [number, number][] = []
      const data: (readonly number[])[] = []
      // Some land on the program and on the table; some have no memory
      const where = () =>
        below(33) === 0
          ? [TABLE, PROGRAM + DATA, 0x1ff000, 0x700000][below(4)]! + 4 * below(64)
          : LARGE + 4 * below(64 * KIB)
      for (let left = blocks * 512; left > 0; ) {
        const count = below(50) === 0 ? left + 4 : Math.min(left, 4 * (1 + below(8 * KIB)))
        left -= count
        const at = where()
        if (below(2) === 0) data.push(s.move(count, at, phase))
        else {
          entries.push([count, at])
          data.push(s.moveTable(8 * (entries.length - 1), phase))
        }
        if (below(50) === 0) data.push(s.modify(reg.SCRATCHA, 'add', 1))
      }
      const outcome = (single: boolean) => {
        const chip = prompt()
        chip.faulty.log.length = 0
        table(chip, entries)
        for (let i = 0; i < 1 << 20; i += 4 * KIB) chip.bus.memory.ram.fill(i >> 12, LARGE + i, LARGE + i + 4 * KIB)
        if (single) chip.w8(reg.DCNTL, reg.DCNTL_SSM)
        chip.run(...io(chip, (write ? WRITE : READ)(8, blocks), { data }))
        let steps = 0
        while (single && chip.r8(reg.DSTAT) & reg.DSTAT_SSI && steps++ < 400) {
          chip.w8(reg.DCNTL, reg.DCNTL_SSM | reg.DCNTL_STD)
        }
        const medium = new Uint8Array(1 << 20)
        void chip.disk.read(0, bytesVec(medium))
        const registers = [
          reg.DSP,
          reg.DBC,
          reg.DNAD,
          reg.ESA,
          reg.IA,
          reg.SBC,
          reg.CSBC,
          reg.RBC,
          reg.UA,
          reg.SCRATCHA,
        ]
        return {
          registers: registers.map((register) => chip.r32(register)),
          sfbr: chip.r8(reg.SFBR),
          sist: chip.r16(reg.SIST0),
          phase: chip.r8(reg.SSTAT1) & 7,
          status: chip.bytes(SCRATCH + 0x20, 2),
          memory: Buffer.from(chip.bus.memory.ram),
          medium: Buffer.from(medium),
        }
      }
      const end = PROGRAM + DATA + 8 * data.length + 7 * 8
      const [together, apart] = [outcome(false), outcome(true)]
      expect({ seed, round, ...together, memory: 0, medium: 0 }).toEqual({
        seed,
        round,
        ...apart,
        memory: 0,
        medium: 0,
      })
      expect([together.memory.equals(apart.memory), seed, round]).toEqual([true, seed, round])
      // Of a write that has not ended nobody knows what is there
      if (together.registers[0] === end)
        expect([together.medium.equals(apart.medium), seed, round]).toEqual([true, seed, round])
    }
  })
})
