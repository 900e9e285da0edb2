/** READ and WRITE (SBC-3 5.8 to 5.12, 5.32 to 5.38). */
import type { Now } from '../../../block/now.ts'
import type { CommandSpec } from '../command.ts'
import { ReadExtent, WriteExtent } from '../extent.ts'
import type { Task } from '../task.ts'
import { type Blocks, checkedRange } from './range.ts'

export const FUA = 1 << 3

/** Whether a CDB asks for FUA, which 6-byte ones cannot. */
export function forcesUnitAccess(cdb: Uint8Array): boolean {
  return cdb[0]! >= 0x20 && (cdb[1]! & FUA) !== 0
}

function read(unit: Blocks, task: Task): Now<void> {
  const { disk, block } = unit
  const { lba, count } = checkedRange(unit, task.cdb)
  task.dataIn(new ReadExtent({ disk, at: lba * block, block }, count * block))
  unit.logs.moved('read', count * block)
  // SBC-3 4.15: what is newer in a volatile cache goes to the medium before a read that must come from there
  if (forcesUnitAccess(task.cdb) && disk.writeCache) return unit.flush(task)
}

function write(unit: Blocks, task: Task): void {
  const { disk, block } = unit
  const { lba, count } = checkedRange(unit, task.cdb)
  unit.checkWritable()
  const length = count * block
  const written = () => {
    unit.logs.moved('write', length)
    return unit.allocationChanged(task, length)
  }
  task.dataOut(new WriteExtent({ disk, at: lba * block, block }, length, forcesUnitAccess(task.cdb), written))
}

/** The forms of a command that moves blocks, of 6, 10, 12 and 16 bytes; `bits` of byte 1 are looked at. */
export function forms(
  name: string,
  opcodes: readonly (number | undefined)[],
  bits: number,
  rest: Pick<CommandSpec, 'access' | 'run'>,
): CommandSpec[] {
  const usages = [
    '1f ff ff ff 00',
    'ff ff ff ff 1f ff ff 00',
    'ff ff ff ff ff ff ff ff 1f 00',
    'ff ff ff ff ff ff ff ff ff ff ff ff 1f 00',
  ]
  const specs: CommandSpec[] = []
  opcodes.forEach((opcode, i) => {
    if (opcode === undefined) return
    const head = i === 0 ? hex(opcode) : `${hex(opcode)} ${hex(bits)}`
    specs.push({ name: `${name}(${[6, 10, 12, 16][i]})`, opcode, usage: `${head} ${usages[i]}`, medium: true, ...rest })
  })
  return specs
}

function hex(byte: number): string {
  return byte.toString(16).padStart(2, '0')
}

/** READ and WRITE, 6, 10, 12 and 16. */
export function readWriteCommands(unit: Blocks): CommandSpec[] {
  const forced = unit.dpofua ? 0x18 : 0
  // RARC is looked at: no recovery is ever repeated
  return [
    ...forms('READ', [0x08, 0x28, 0xa8, 0x88], forced | 0x04, { access: 'read', run: (task) => read(unit, task) }),
    ...forms('WRITE', [0x0a, 0x2a, 0xaa, 0x8a], forced, { access: 'write', run: (task) => write(unit, task) }),
  ]
}
