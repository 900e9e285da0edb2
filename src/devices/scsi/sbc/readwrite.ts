/** READ and WRITE (SBC-3 5.8 to 5.12, 5.32 to 5.38). */
import type { Disk } from '../../../block/disk.ts'
import { type CommandSpec, u16, u24, u32, u64 } from '../command.ts'
import { ReadExtent, WriteExtent } from '../extent.ts'
import { CheckCondition, LBA_OUT_OF_RANGE, WRITE_PROTECTED } from '../sense.ts'
import type { Task } from '../task.ts'

/** The part of a unit that moves blocks. */
export interface BlockMover {
  readonly disk: Disk
  readonly block: number
  readonly blocks: number
}

/** A run of logical blocks. */
export interface BlockRange {
  readonly lba: number
  readonly count: number
}

/** LBA and TRANSFER LENGTH of a CDB of any group; a zero length of a 6-byte CDB is 256 (SBC-3 5.8). */
export function blockRange(cdb: Uint8Array): BlockRange {
  switch (cdb[0]! >>> 5) {
    case 0:
      return { lba: u24(cdb, 1) & 0x1fffff, count: cdb[4]! || 256 }
    case 4:
      return { lba: u64(cdb, 2), count: u32(cdb, 10) }
    case 5:
      return { lba: u32(cdb, 2), count: u32(cdb, 6) }
    default:
      return { lba: u32(cdb, 2), count: u16(cdb, 7) }
  }
}

/** Throws LOGICAL BLOCK ADDRESS OUT OF RANGE for blocks that are not all on the medium. */
export function checkRange(unit: BlockMover, { lba, count }: BlockRange): void {
  if (lba + count > unit.blocks) throw new CheckCondition(LBA_OUT_OF_RANGE)
}

const FUA = 1 << 3

function read(unit: BlockMover, task: Task): void {
  const range = blockRange(task.cdb)
  checkRange(unit, range)
  const { disk, block } = unit
  task.dataIn(new ReadExtent({ disk, at: range.lba * block, block }, range.count * block))
}

function write(unit: BlockMover, task: Task): void {
  const { cdb } = task
  const range = blockRange(cdb)
  checkRange(unit, range)
  const { disk, block } = unit
  if (disk.readOnly) throw new CheckCondition(WRITE_PROTECTED)
  const fua = cdb[0]! >= 0x20 && (cdb[1]! & FUA) !== 0
  task.dataOut(new WriteExtent({ disk, at: range.lba * block, block }, range.count * block, fua))
}

function transfers(
  name: string,
  opcodes: readonly number[],
  access: 'read' | 'write',
  run: (task: Task) => void,
): CommandSpec[] {
  return [
    { name: `${name}(6)`, opcode: opcodes[0]!, usage: ' 1f ff ff ff 00', access, medium: true, run },
    { name: `${name}(10)`, opcode: opcodes[1]!, usage: ' fb ff ff ff ff 1f ff ff 00', access, medium: true, run },
    { name: `${name}(12)`, opcode: opcodes[2]!, usage: ' fb ff ff ff ff ff ff ff ff 1f 00', access, medium: true, run },
    {
      name: `${name}(16)`,
      opcode: opcodes[3]!,
      usage: ' fb ff ff ff ff ff ff ff ff ff ff ff ff 1f 00',
      access,
      medium: true,
      run,
    },
  ].map((spec) => ({ ...spec, usage: spec.opcode.toString(16).padStart(2, '0') + spec.usage }))
}

export function readWriteCommands(unit: BlockMover): CommandSpec[] {
  return [
    ...transfers('READ', [0x08, 0x28, 0xa8, 0x88], 'read', (task) => read(unit, task)),
    ...transfers('WRITE', [0x0a, 0x2a, 0xaa, 0x8a], 'write', (task) => write(unit, task)),
  ]
}
