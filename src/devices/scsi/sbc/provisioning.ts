/** Logical block provisioning: UNMAP, WRITE SAME, GET LBA STATUS (SBC-3 4.7, 5.3, 5.28, 5.44 to 5.46). */
import type { BlockDevice, Extent } from '../../../block/device.ts'
import { bytesVec } from '../../../block/iovec.ts'
import { after, type Now, repeat } from '../../../block/now.ts'
import { type CommandSpec, u16, u32, u64 } from '../command.ts'
import { WriteExtent } from '../extent.ts'
import {
  CheckCondition,
  INVALID_FIELD_IN_PARAMETER_LIST,
  invalidCdb,
  invalidParameter,
  PARAMETER_LIST_LENGTH_ERROR,
} from '../sense.ts'
import { SLICE, Work } from '../slices.ts'
import type { Task } from '../task.ts'
import { type BlockRange, type Blocks, checkedRange, checkRange } from './range.ts'

/** Bytes that one UNMAP or WRITE SAME may cover. */
const EXTENT_LIMIT = 1 << 30
/** Descriptors in one UNMAP. */
export const UNMAP_DESCRIPTORS = 255
const UNMAP_HEADER = 8
const DESCRIPTOR = 16
const UNMAP_LIST_LIMIT = UNMAP_HEADER + DESCRIPTOR * UNMAP_DESCRIPTORS

/** Blocks that one UNMAP or WRITE SAME may cover, for VPD page B0h. */
export function extentLimit(block: number): number {
  return EXTENT_LIMIT / block
}

/** Unmaps what of the range is whole allocation units: UNMAP is a hint, and a part of a unit cannot be freed. */
function unmapRange(unit: Blocks, task: Task, { lba, count }: BlockRange): Now<void> {
  const { disk, block } = unit
  const unitBytes = disk.discardGranularity
  const end = (lba + count) * block
  const first = Math.ceil((lba * block) / unitBytes) * unitBytes
  const last = end === unit.blocks * block ? end : end - (end % unitBytes)
  if (last <= first) return
  if (unit.readsZeroes) return unit.steady(task, () => disk.zero(first, last - first, { unmap: true }))
  return unit.steady(task, () => disk.discard(first, last - first))
}

function unmap(unit: Blocks, task: Task): void {
  const { cdb } = task
  const length = u16(cdb, 7)
  unit.checkWritable()
  if (length === 0) return
  if (length < UNMAP_HEADER) throw new CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
  if (length > UNMAP_LIST_LIMIT + DESCRIPTOR) throw invalidCdb(7, 7)
  task.receive(length, (list) => {
    const ranges = unmapRanges(unit, list)
    let bytes = 0
    let i = 0
    const unmapped = repeat(() => {
      const range = ranges[i++]
      if (range === undefined || task.isAborted) return false
      bytes += range.count * unit.block
      return after(unmapRange(unit, task, range), () => true)
    })
    return after(unmapped, () => unit.allocationChanged(task, bytes))
  })
}

// SBC-3 5.28.2: all is checked before anything is unmapped; a descriptor that is cut off is none
function unmapRanges(unit: Blocks, list: Uint8Array): BlockRange[] {
  const length = Math.min(u16(list, 2), list.length - UNMAP_HEADER)
  const count = Math.floor(length / DESCRIPTOR)
  if (count > UNMAP_DESCRIPTORS) throw invalidParameter(2)
  const ranges: BlockRange[] = []
  let total = 0
  for (let i = 0; i < count; i++) {
    const at = UNMAP_HEADER + DESCRIPTOR * i
    const range = { lba: u64(list, at), count: u32(list, at + 8) }
    checkRange(unit, range)
    total += range.count
    if (total > extentLimit(unit.block))
      throw new CheckCondition(INVALID_FIELD_IN_PARAMETER_LIST, { field: { cdb: false, byte: at + 8 } })
    ranges.push(range)
  }
  return ranges
}

const UNMAP = 1 << 3
const NDOB = 1 << 0

function writeSame(unit: Blocks, task: Task): Now<void> {
  const { cdb } = task
  const { block } = unit
  const range = checkedRange(unit, cdb)
  const countAt = cdb[0] === 0x93 ? 10 : 7
  // WSNZ: no count of blocks does not mean all of them
  if (range.count === 0 || range.count > extentLimit(block)) throw invalidCdb(countAt, 7)
  unit.checkWritable()
  if (cdb[0] === 0x93 && (cdb[1]! & NDOB) !== 0) return sameBlocks(unit, task, range, undefined)
  task.receive(block, (pattern) =>
    sameBlocks(unit, task, range, pattern.some((byte) => byte !== 0) ? pattern : undefined),
  )
}

/** Writes `pattern`, or zeroes, to every block of the range. */
function sameBlocks(unit: Blocks, task: Task, { lba, count }: BlockRange, pattern: Uint8Array | undefined): Now<void> {
  const { disk, block } = unit
  const at = lba * block
  const length = count * block
  const unmap = (task.cdb[1]! & UNMAP) !== 0
  const written =
    pattern === undefined
      ? unit.steady(task, () => disk.zero(at, length, { unmap }))
      : writePattern(unit, task, at, length, pattern)
  return after(written, () => unit.allocationChanged(task, length))
}

/** Fills bytes of the medium with a pattern of a block, a slice at a time. */
export function writePattern(unit: Blocks, task: Task, at: number, length: number, pattern: Uint8Array): Now<void> {
  const { disk, block } = unit
  const bytes = new Uint8Array(Math.min(Math.max(SLICE, block), length))
  for (let i = 0; i < bytes.length; i += block) bytes.set(pattern, i)
  const extent = new WriteExtent({ disk, at, block }, length, false)
  const step = (start: number, size: number): Now<void> => {
    if (!task.isAborted) return extent.write(start, task.lend(bytesVec(bytes.subarray(0, size))))
  }
  if (length <= bytes.length) return step(0, length)
  return new Work(length).run(step, unit.turn)
}

// SBC-3 table 64: provisioning status
const MAPPED = 0
const DEALLOCATED = 1

const STATUS_DESCRIPTORS = 256
const STATUS_PROBES = 4096

/** What a range holds, through all layers: data, or nothing of its own, which reads as zeroes. */
function statusOf(device: BlockDevice, at: number, length: number): Now<Extent> {
  return after(device.status(at, length), (extent) => {
    const { backing } = device
    if (extent.kind !== 'hole' || backing === undefined || at >= backing.size) return extent
    return statusOf(backing, at, Math.min(extent.length, backing.size - at))
  })
}

function getLbaStatus(unit: Blocks, task: Task): Now<void> {
  const { cdb } = task
  const { disk, block } = unit
  const lba = u64(cdb, 2)
  const allocation = u32(cdb, 10)
  checkRange(unit, { lba, count: 1 })
  const most = Math.min(Math.max(Math.floor((allocation - 8) / DESCRIPTOR), 1), STATUS_DESCRIPTORS)
  const found: { lba: number; count: number; status: number }[] = []
  let next = lba
  let probes = 0
  const probed = repeat(() => {
    const left = unit.blocks - next
    if (left <= 0 || probes++ === STATUS_PROBES || task.isAborted) return false
    return after(statusOf(disk.device, next * block, Math.min(left, 0x7fffffff) * block), (extent) => {
      // A block that is only partly without data has data
      const whole = Math.floor(extent.length / block)
      const status = extent.kind === 'data' || whole === 0 ? MAPPED : DEALLOCATED
      const count = Math.max(whole, 1)
      const last = found.at(-1)
      if (last !== undefined && last.status === status && last.count + count <= 0xffffffff) last.count += count
      else if (found.length === most) return false
      else found.push({ lba: next, count, status })
      next += count
      return true
    })
  })
  return after(probed, () => {
    const bytes = new Uint8Array(8 + DESCRIPTOR * found.length)
    const view = new DataView(bytes.buffer)
    view.setUint32(0, 4 + DESCRIPTOR * found.length)
    found.forEach((one, i) => {
      const at = 8 + DESCRIPTOR * i
      view.setBigUint64(at, BigInt(one.lba))
      view.setUint32(at + 8, one.count)
      bytes[at + 12] = one.status
    })
    task.reply(bytes, allocation)
  })
}

/** The commands of a unit that is thin, and WRITE SAME, which every disk has. */
export function provisioningCommands(unit: Blocks): CommandSpec[] {
  const same = { access: 'write', medium: true, run: (task: Task) => writeSame(unit, task) } as const
  const specs: CommandSpec[] = [
    { name: 'WRITE SAME(10)', opcode: 0x41, usage: `41 ${unit.isThin ? '08' : '00'} ff ff ff ff 1f ff ff 00`, ...same },
    {
      name: 'WRITE SAME(16)',
      opcode: 0x93,
      usage: `93 ${unit.isThin ? '09' : '01'} ff ff ff ff ff ff ff ff ff ff ff ff 1f 00`,
      ...same,
    },
    {
      name: 'GET LBA STATUS',
      opcode: 0x9e,
      action: 0x12,
      usage: '9e 1f ff ff ff ff ff ff ff ff ff ff ff ff 00 00',
      access: 'read',
      medium: true,
      run: (task) => getLbaStatus(unit, task),
    },
  ]
  if (unit.isThin) {
    specs.push({
      name: 'UNMAP',
      opcode: 0x42,
      usage: '42 00 00 00 00 00 1f ff ff 00',
      access: 'write',
      medium: true,
      run: (task) => unmap(unit, task),
    })
  }
  return specs
}
