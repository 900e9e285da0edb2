/** Commands about the medium as a whole: capacity, cache, defects, SEEK (SBC-3 5.13, 5.15 to 5.17, 5.22). */
import { type Now, rescue } from '../../../block/now.ts'
import { type CommandSpec, u16, u32 } from '../command.ts'
import type { Task } from '../task.ts'
import { type Blocks, blockRange, checkedRange, checkRange } from './range.ts'

function readCapacity10(unit: Blocks, task: Task): void {
  const { disk, block } = unit
  const bytes = new Uint8Array(8)
  const view = new DataView(bytes.buffer)
  // FFFFFFFFh: it needs READ CAPACITY(16)
  view.setUint32(0, Math.min(disk.size / block - 1, 0xffffffff))
  view.setUint32(4, block)
  task.reply(bytes)
}

function readCapacity16(unit: Blocks, task: Task): void {
  const { disk, block } = unit
  const bytes = new Uint8Array(32)
  const view = new DataView(bytes.buffer)
  view.setBigUint64(0, BigInt(disk.size / block - 1))
  view.setUint32(8, block)
  bytes[13] = Math.log2(disk.physicalBlockSize / block)
  if (unit.isThin) bytes[14] = 0x80 | (unit.readsZeroes ? 0x40 : 0)
  task.reply(bytes, u32(task.cdb, 10))
}

const IMMED = 1 << 1

function synchronizeCache(unit: Blocks, task: Task): Now<void> {
  const { cdb, command } = task
  checkedRange(unit, cdb)
  if ((cdb[1]! & IMMED) === 0) return unit.flush(task)
  void Promise.resolve(
    rescue(
      () => unit.flush(task),
      (error) => unit.deferError(command.initiator, error),
    ),
  )
}

// SBC-3 5.16, 5.17: there are no defects, in whatever format
function readDefects(task: Task, flags: number, header: number, allocation: number): void {
  const bytes = new Uint8Array(header)
  bytes[1] = flags & 0x1f
  task.reply(bytes, allocation)
}

/** These commands of a unit. */
export function capacityCommands(unit: Blocks): CommandSpec[] {
  const sync = { access: 'write', medium: true, run: (task: Task) => synchronizeCache(unit, task) } as const
  const seek = {
    access: 'read',
    medium: true,
    run({ cdb }: Task): void {
      checkRange(unit, { lba: blockRange(cdb).lba, count: 1 })
    },
  } as const
  return [
    {
      name: 'READ CAPACITY(10)',
      opcode: 0x25,
      usage: '25 00 00 00 00 00 00 00 00 00',
      access: 'any',
      medium: true,
      run: (task) => readCapacity10(unit, task),
    },
    {
      name: 'READ CAPACITY(16)',
      opcode: 0x9e,
      action: 0x10,
      usage: '9e 1f 00 00 00 00 00 00 00 00 ff ff ff ff 00 00',
      access: 'any',
      medium: true,
      run: (task) => readCapacity16(unit, task),
    },
    { name: 'SYNCHRONIZE CACHE(10)', opcode: 0x35, usage: '35 06 ff ff ff ff 1f ff ff 00', ...sync },
    {
      name: 'SYNCHRONIZE CACHE(16)',
      opcode: 0x91,
      usage: '91 06 ff ff ff ff ff ff ff ff ff ff ff ff 1f 00',
      ...sync,
    },
    {
      name: 'READ DEFECT DATA(10)',
      opcode: 0x37,
      usage: '37 00 1f 00 00 00 00 ff ff 00',
      access: 'any',
      medium: true,
      run: (task) => readDefects(task, task.cdb[2]!, 4, u16(task.cdb, 7)),
    },
    {
      name: 'READ DEFECT DATA(12)',
      opcode: 0xb7,
      usage: 'b7 1f ff ff ff ff ff ff ff ff 00 00',
      access: 'any',
      medium: true,
      run: (task) => readDefects(task, task.cdb[1]!, 8, u32(task.cdb, 6)),
    },
    { name: 'SEEK(6)', opcode: 0x0b, usage: '0b 1f ff ff 00 00', ...seek },
    { name: 'SEEK(10)', opcode: 0x2b, usage: '2b 00 ff ff ff ff 00 00 00 00', ...seek },
  ]
}
