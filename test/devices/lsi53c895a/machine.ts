/** A machine with the chip, two disks on one target, and the programs that drivers run on it. */
import { asDevice } from '../../../src/block/device.ts'
import { Disk } from '../../../src/block/disk.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { lsi53c895a } from '../../../src/devices/lsi53c895a/index.ts'
import * as reg from '../../../src/devices/lsi53c895a/registers.ts'
import { DiskUnit, ScsiTarget } from '../../../src/devices/scsi/index.ts'
import { Faulty } from '../../conformance/faulty.ts'
import { microtasks, plug, testBus } from '../machine.ts'
import * as s from './scripts.ts'

export const PROGRAM = 0x10000
export const TABLE = 0x20000
export const BUFFER = 0x30000
export const SCRATCH = 0x40000
/** Where there is room for a mebibyte. */
export const LARGE = 0x100000

const content = new Uint8Array(1 << 20)
for (let i = 0; i < content.length; i++) content[i] = (i >> 9) + i

export function machine(model: 'lsi53c895a' | 'lsi53c810' = 'lsi53c895a') {
  const bus = testBus({ ramSize: 2 << 20 })
  const faulty = new Faulty(asDevice(Memory.from(content)))
  const disk = new Disk(asDevice(faulty))
  const target = new ScsiTarget()
    .attach(0, new DiskUnit(disk))
    .attach(1, new DiskUnit(new Disk(asDevice(new Memory(1 << 20)))))
  const slot = plug(bus, lsi53c895a({ targets: new Map([[3, target]]), model }))
  const base = slot.base(1)
  const chip = {
    bus,
    slot,
    content,
    faulty,
    disk,
    target,
    base,
    device: slot.device,
    r8: (offset: number) => slot.read(base + offset, 1),
    r16: (offset: number) => slot.read(base + offset, 2),
    r32: (offset: number) => slot.read(base + offset, 4),
    w8: (offset: number, value: number) => slot.write(base + offset, 1, value),
    w32: (offset: number, value: number) => slot.write(base + offset, 4, value),
    put: (at: number, ...bytes: number[]) => bus.memory.ram.set(bytes, at),
    bytes: (at: number, length: number) => [...bus.memory.ram.subarray(at, at + length)],
    /** Assembles and runs a program, and gives DSPS of the INT that ended it. */
    run(...program: (readonly number[])[]): number {
      s.assemble(bus.memory, PROGRAM, ...program)
      chip.w32(reg.DSP, PROGRAM)
      return chip.r32(reg.DSPS)
    },
    /** Waits until the program has stopped. */
    async stopped(): Promise<void> {
      for (let i = 0; i < 1000 && chip.r8(reg.ISTAT1) & reg.ISTAT1_SRUN; i++) {
        await microtasks()
        bus.clock.turn()
      }
    },
  }
  chip.w8(reg.DIEN, 0x7d)
  chip.w8(reg.SIEN0, 0x8f)
  chip.w8(reg.SIEN1, 0x04)
  return chip
}

export type Chip = ReturnType<typeof machine>

/** A program that sends a command with its messages and takes what comes, then INT 0x77. */
export function io(
  chip: Chip,
  cdb: number[],
  options: { data?: readonly (readonly number[])[]; messages?: number[] } = {},
): (readonly number[])[] {
  const messages = options.messages ?? [0x80]
  chip.put(SCRATCH, ...messages)
  chip.put(SCRATCH + 0x10, ...cdb)
  return [
    s.selectAtn(3),
    s.move(messages.length, SCRATCH, s.MSG_OUT),
    s.move(cdb.length, SCRATCH + 0x10, s.COMMAND),
    ...(options.data ?? []),
    s.move(1, SCRATCH + 0x20, s.STATUS),
    s.move(1, SCRATCH + 0x21, s.MSG_IN),
    s.modify(reg.SCNTL2, 'and', 0x7f),
    s.clear(s.ACK),
    s.waitDisconnect(),
    s.int(0x77),
  ]
}

export const READ = (lba: number, blocks: number) => [
  0x28,
  0,
  0,
  0,
  lba >> 8,
  lba & 0xff,
  0,
  blocks >> 8,
  blocks & 0xff,
  0,
]
export const WRITE = (lba: number, blocks: number) => [0x2a, ...READ(lba, blocks).slice(1)]
export const TEST_UNIT_READY = [0, 0, 0, 0, 0, 0]

/** Takes the unit attentions that a unit has after power on. */
export function ready(chip: Chip): Chip {
  for (let tries = 0; tries < 5; tries++) {
    chip.run(...io(chip, TEST_UNIT_READY))
    chip.r8(reg.DSTAT)
    if (chip.bytes(SCRATCH + 0x20, 1)[0] === 0) return chip
    chip.run(...io(chip, [3, 0, 0, 0, 18, 0], { data: [s.move(18, BUFFER, s.DATA_IN)] }))
    chip.r8(reg.DSTAT)
  }
  throw new Error('the unit does not get ready')
}

/** Sends a tagged READ whose disk answers later: the target disconnects, and the program waits for reselection. */
export function slowRead(chip: Chip, tag: number, lba: number): (readonly number[])[] {
  chip.put(SCRATCH + 0x100 * tag, 0xc0, 0x20, tag)
  chip.put(SCRATCH + 0x100 * tag + 0x10, ...READ(lba, 8))
  return [
    s.selectAtn(3),
    s.move(3, SCRATCH + 0x100 * tag, s.MSG_OUT),
    s.move(10, SCRATCH + 0x100 * tag + 0x10, s.COMMAND),
    s.move(1, SCRATCH + 0x100 * tag + 0x20, s.MSG_IN),
    s.modify(reg.SCNTL2, 'and', 0x7f),
    s.clear(s.ACK),
    s.waitDisconnect(),
  ]
}

/** Takes the command of a {@link slowRead} back by ABORT TASK. */
export function abortTask(chip: Chip, tag: number): (readonly number[])[] {
  chip.put(SCRATCH, 0xc0, 0x20, tag, 0x0d)
  return [s.selectAtn(3), s.modify(reg.SCNTL2, 'and', 0x7f), s.move(4, SCRATCH, s.MSG_OUT), s.waitDisconnect()]
}

export const takeReselection = (at: number, buffer: number) => [
  s.waitReselect(),
  s.move(1, at, s.MSG_IN),
  s.clear(s.ACK),
  s.move(2, at + 1, s.MSG_IN),
  s.clear(s.ACK),
  s.move(4096, buffer, s.DATA_IN),
  s.move(1, at + 3, s.STATUS),
  s.move(1, at + 4, s.MSG_IN),
  s.modify(reg.SCNTL2, 'and', 0x7f),
  s.clear(s.ACK),
  s.waitDisconnect(),
]
