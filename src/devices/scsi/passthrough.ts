/** A disk's SCSI unit behind an adapter that carries a command, its data and its status in one request (virtio 1.2, 5.2.6.3). */
import type { Disk } from '../../block/disk.ts'
import type { IoVec } from '../../block/iovec.ts'
import { after, type Now } from '../../block/now.ts'
import { STATUS_BUSY } from './command.ts'
import { execute } from './execute.ts'
import type { UnitOptions } from './identity.ts'
import { DiskUnit } from './sbc/disk.ts'
import { ScsiTarget } from './target.ts'

/** A command with all of its buffers. */
export interface WholeCommand {
  readonly cdb: Uint8Array
  readonly dataOut: IoVec
  readonly dataIn: IoVec
}

/** What it came to. */
export interface WholeOutcome {
  /** SCSI status byte. */
  readonly status: number
  readonly sense: Uint8Array
  /** Bytes of the buffer that the command was given and did not move. */
  readonly residual: number
}

const INITIATOR = 0
const TAGS = 0x10000

/** Runs commands on the unit of `disk`, which is ready from the start: whoever drives the disk otherwise knows of its power on. */
export function passthrough(disk: Disk, options: UnitOptions = {}): (command: WholeCommand) => Now<WholeOutcome> {
  const unit = new DiskUnit(disk, options)
  const target = new ScsiTarget().attach(0, unit)
  unit.pendingAttention(INITIATOR, true)
  let last = 0
  return ({ cdb, dataIn, dataOut }) => {
    last = (last + 1) % TAGS
    const task = target.submit({ initiator: INITIATOR, lun: 0, cdb, attribute: 'simple', tag: last, autosense: true })
    return after(execute(task, { in: dataIn, out: dataOut }), ({ phase, status, sense, transferred }) => ({
      status: phase === 'aborted' ? STATUS_BUSY : status,
      sense,
      residual: dataOut.byteLength + dataIn.byteLength - transferred,
    }))
  }
}
