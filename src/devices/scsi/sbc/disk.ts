/** A direct-access block device (SBC-3). */
import type { Disk } from '../../../block/disk.ts'
import type { Now } from '../../../block/now.ts'
import { CommandTable, type Row } from '../command.ts'
import { type Identity, identity, type UnitOptions } from '../identity.ts'
import { identityPages, inquiryCommand, type VpdPage } from '../spc/inquiry.ts'
import { primaryCommands } from '../spc/primary.ts'
import type { Task } from '../task.ts'
import { LogicalUnit } from '../unit.ts'
import { readWriteCommands } from './readwrite.ts'

// SPC-4 6.6.2: version descriptors of SAM-5, SPC-4 and SBC-3, no version claimed
const VERSIONS = [0x00a0, 0x0460, 0x04c0]

/** A disk on a SCSI target. */
export class DiskUnit extends LogicalUnit {
  readonly deviceType = 0x00
  readonly identity: Identity
  readonly removable: boolean
  readonly versions = VERSIONS
  readonly disk: Disk
  readonly vpdPages: readonly VpdPage[]
  protected readonly table: CommandTable

  constructor(disk: Disk, options: UnitOptions = {}) {
    super()
    this.disk = disk
    this.identity = identity(options, 'HARDDISK', disk.serial)
    this.removable = options.removable ?? false
    this.vpdPages = identityPages(this.identity)
    this.table = new CommandTable([...primaryCommands(this), inquiryCommand(this), ...readWriteCommands(this)], true)
  }

  /** Bytes of a logical block. */
  get block(): number {
    return this.disk.logicalBlockSize
  }

  /** Logical blocks of the medium. */
  get blocks(): number {
    return this.disk.size / this.block
  }

  drain(): Now<void> {
    return this.disk.drain()
  }

  protected resetUnit(): Now<void> {
    return this.disk.cancel()
  }

  protected dropHeld(): void {}
  protected checkMedium(): void {}
  protected checkBusy(_row: Row): void {}

  protected mayRun(_row: Row, _task: Task): boolean {
    return true
  }

  protected readonly descriptorSense = false
  protected readonly announcesAborts = false
  protected readonly queueErrors = 'none'
}
