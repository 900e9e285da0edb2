/** Runs of logical blocks, as CDBs give them (SBC-3 4.22, 5). */
import type { Disk } from '../../../block/disk.ts'
import type { Now } from '../../../block/now.ts'
import { u16, u24, u32, u64 } from '../command.ts'
import { CheckCondition, LBA_OUT_OF_RANGE } from '../sense.ts'
import type { Turn } from '../slices.ts'
import type { Logs } from '../spc/logs.ts'
import type { Task } from '../task.ts'

/** The part of a unit that the block commands work on. */
export interface Blocks {
  /** Throws NOT READY without a medium. */
  readonly disk: Disk
  readonly block: number
  readonly blocks: number
  /** Whether DPO and FUA are offered. */
  readonly dpofua: boolean
  /** Whether blocks can be unmapped. */
  readonly isThin: boolean
  /** Whether unmapped blocks read as zeroes. */
  readonly readsZeroes: boolean
  readonly logs: Logs
  readonly turn: Turn
  /** Throws DATA PROTECT unless the medium may be written. */
  checkWritable(): void
  steady(task: Task, request: () => Now<void>): Now<void>
  flush(task: Task): Now<void>
  /** Takes note that the allocation of the medium may have changed by up to `bytes`. */
  allocationChanged(task: Task, bytes: number): Now<void>
  /** Tells an initiator port of an error of work that its command did not wait for. */
  deferError(initiator: number, error: unknown): void
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

/** The range of a CDB; throws LOGICAL BLOCK ADDRESS OUT OF RANGE for blocks that are not all on the medium. */
export function checkedRange(unit: Blocks, cdb: Uint8Array): BlockRange {
  const range = blockRange(cdb)
  checkRange(unit, range)
  return range
}

/** Throws LOGICAL BLOCK ADDRESS OUT OF RANGE for blocks that are not all on the medium. */
export function checkRange(unit: Blocks, { lba, count }: BlockRange): void {
  if (lba + count > unit.blocks) throw new CheckCondition(LBA_OUT_OF_RANGE)
}
