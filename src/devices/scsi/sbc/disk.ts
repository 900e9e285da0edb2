/** A direct-access block device (SBC-3). */
import type { Disk } from '../../../block/disk.ts'
import { BlockError } from '../../../block/error.ts'
import { after, type Now } from '../../../block/now.ts'
import type { Saved } from '../../machine.ts'
import { CommandTable } from '../command.ts'
import type { UnitOptions } from '../identity.ts'
import { MediumUnit } from '../medium.ts'
import { conditionsOf, fieldsOf, flagOf } from '../saved.ts'
import { CheckCondition, type Condition } from '../sense.ts'
import type { VpdPage } from '../spc/inquiry.ts'
import { LOG_SOLID_STATE, type LogPage } from '../spc/log.ts'
import { ModePages } from '../spc/mode.ts'
import { controlPage, disconnectPage, exceptionsPage, PAGE_EXCEPTIONS, powerPage } from '../spc/pages.ts'
import type { Task } from '../task.ts'
import { capacityCommands } from './capacity.ts'
import { formatCommands, resumeJob } from './format.ts'
import { cachingPage, diskVpdPages, geometryPages, PAGE_RECOVERY, recoveryPage, reportsThresholds } from './pages.ts'
import { provisioningCommands } from './provisioning.ts'
import { readWriteCommands } from './readwrite.ts'
import { SUBPAGE_PROVISIONING, THRESHOLD_SET, Thresholds } from './thresholds.ts'
import { verifyCommands } from './verify.ts'

// SPC-4 6.6.2: SAM-5, SPC-4 and SBC-3, no version claimed
const VERSIONS = [0x00a0, 0x0460, 0x04c0]

const WP = 1 << 7
const DPOFUA = 1 << 4
const ROTATION_NONE = 1

/** A disk on a SCSI target. */
export class DiskUnit extends MediumUnit {
  readonly deviceType = 0x00
  readonly removable: boolean
  readonly rotationRate: number
  readonly dpofua: boolean
  readonly versions = VERSIONS
  readonly modes: ModePages
  readonly vpdPages: readonly VpdPage[]
  readonly logPages: readonly LogPage[]
  /** What every command that needs the medium gets, after a SANITIZE that failed. */
  failure: Condition | undefined
  failureEnds = false
  protected table: CommandTable
  readonly #block: number
  readonly #thresholds: Thresholds

  /** A disk with `disk` as its medium; only a removable one may have none. */
  constructor(disk: Disk | undefined, options: UnitOptions = {}) {
    super(disk, options, 'HARDDISK')
    this.removable = options.removable ?? false
    if (disk === undefined && !this.removable) {
      throw new BlockError('EINVAL', 'Cannot make a disk without a medium: it is not removable')
    }
    this.rotationRate = checkedRate(options.rotationRate ?? ROTATION_NONE)
    this.dpofua = options.dpofua ?? true
    this.#block = disk?.logicalBlockSize ?? 512
    this.#thresholds = new Thresholds(
      this,
      () => this.modes.values(PAGE_EXCEPTIONS, SUBPAGE_PROVISIONING),
      () => reportsThresholds(this.modes.values(PAGE_RECOVERY)),
    )
    this.modes = new ModePages(this, [
      recoveryPage,
      disconnectPage,
      ...geometryPages(this),
      cachingPage(this),
      controlPage,
      powerPage,
      exceptionsPage((condition) => this.attention(condition)),
      ...(this.isThin ? [this.#thresholds.page] : []),
    ])
    this.vpdPages = [...this.identityPages(), ...diskVpdPages(this)]
    this.logPages = [
      ...this.logs.pages,
      this.diagnostics.page,
      ...(this.isThin ? [this.#thresholds.log] : []),
      ...(this.rotationRate === ROTATION_NONE ? [endurancePage] : []),
    ]
    this.table = this.#commands()
  }

  // What a medium can do decides which commands there are
  #commands(): CommandTable {
    return new CommandTable(
      [
        ...this.commonCommands(),
        ...readWriteCommands(this),
        ...verifyCommands(this),
        ...provisioningCommands(this),
        ...capacityCommands(this),
        ...formatCommands(this),
      ],
      true,
    )
  }

  get block(): number {
    return this.#block
  }

  get isThin(): boolean {
    return this.medium?.canDiscard ?? false
  }

  /** Unmapping zeroes where the image has a way to do that which is not writing. */
  get readsZeroes(): boolean {
    return this.medium?.device.driver.zero !== undefined
  }

  get thresholdExponent(): number {
    return Math.log2(Math.max(THRESHOLD_SET / this.#block, 1))
  }

  readonly mediumType = 0
  readonly describesBlocks = true

  get deviceSpecific(): number {
    return (this.writeProtected ? WP : 0) | (this.dpofua ? DPOFUA : 0)
  }

  get geometry(): { blocks: number; block: number } {
    return { blocks: this.blocks, block: this.#block }
  }

  allocationChanged(task: Task, bytes: number): Now<void> {
    return this.#thresholds.changed(task.command.initiator, bytes)
  }

  override save(): Saved {
    return {
      ...fieldsOf(super.save()),
      failure: this.failure ?? null,
      failureEnds: this.failureEnds,
      job: this.occupation?.saved ?? null,
    }
  }

  override restore(state: Saved): Now<void> {
    const { failure, failureEnds, job } = fieldsOf(state)
    this.failure = failure === null ? undefined : conditionsOf([failure!], 1)[0]
    this.failureEnds = flagOf(failureEnds)
    return after(super.restore(state), () => {
      if (job !== null) resumeJob(this, job!)
    })
  }

  protected override checkMedium(): void {
    super.checkMedium()
    if (this.failure !== undefined) throw new CheckCondition(this.failure)
  }

  protected override mediumCame(): void {
    this.table = this.#commands()
    super.mediumCame()
  }

  protected override checkFits(disk: Disk): void {
    if (disk.logicalBlockSize !== this.#block) {
      throw new BlockError(
        'EINVAL',
        `Cannot insert ${disk.name}: its blocks have ${disk.logicalBlockSize} bytes, the drive's ${this.#block}`,
      )
    }
  }
}

// SBC-3 6.3.5: nothing of the endurance is used
const endurancePage: LogPage = {
  code: LOG_SOLID_STATE,
  parameters: () => [{ code: 1, kind: 'list', value: Uint8Array.of(0, 0, 0, 0) }],
}

// SBC-3 table 196: 0 says nothing, 1 is a medium that does not rotate, the others are rotations per minute
function checkedRate(rate: number): number {
  if (rate === 0 || rate === ROTATION_NONE || (Number.isInteger(rate) && rate > 0x400 && rate < 0xffff)) return rate
  throw new BlockError('EINVAL', `Cannot use rotation_rate ${rate}: it must be 0, 1, or 1025 to 65534`)
}
