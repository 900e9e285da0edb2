/** A CD-ROM or DVD-ROM drive (MMC-6), for a host adapter or behind ATA PACKET. */
import type { Disk } from '../../../block/disk.ts'
import type { Now } from '../../../block/now.ts'
import type { Saved } from '../../machine.ts'
import { type CommandSpec, CommandTable, u16, u32 } from '../command.ts'
import { type Place, ReadExtent } from '../extent.ts'
import type { UnitOptions } from '../identity.ts'
import { MediumUnit } from '../medium.ts'
import { fieldsOf, flagOf, listOf, numberOf } from '../saved.ts'
import { blockRange } from '../sbc/range.ts'
import { forms } from '../sbc/readwrite.ts'
import { MEDIUM_NOT_PRESENT_TRAY_OPEN, OPERATOR_MEDIUM_REMOVAL_REQUEST } from '../sense.ts'
import type { VpdPage } from '../spc/inquiry.ts'
import type { LogPage } from '../spc/log.ts'
import { ModePages } from '../spc/mode.ts'
import { controlPage, exceptionsPage, powerPage } from '../spc/pages.ts'
import type { Task } from '../task.ts'
import { BLOCK } from './address.ts'
import {
  type CdDrive,
  checkBlocks,
  EVENT_EJECT_REQUEST,
  EVENT_MEDIA_REMOVAL,
  EVENT_NEW_MEDIA,
  MediaEvents,
} from './drive.ts'
import { eventCommand } from './events.ts'
import { configurationCommand } from './features.ts'
import { cdModePages, TOP_SPEED } from './pages.ts'
import { readCdCommands } from './readcd.ts'
import { tocCommands } from './toc.ts'

// SPC-4 6.6.2: SAM-5, SPC-4 and MMC-6, no version claimed
const VERSIONS = [0x00a0, 0x0460, 0x04e0]

// MMC-2 table 104: medium types of the mode parameter header, which old drivers look at
const TYPE_DATA_CD = 0x01
const TYPE_NO_DISC = 0x70
const TYPE_DOOR_OPEN = 0x71

const INTERFACE_SCSI = 1

/** A CD-ROM drive with a tray. */
export class CdUnit extends MediumUnit implements CdDrive {
  readonly deviceType = 0x05
  readonly removable = true
  readonly block = BLOCK
  readonly versions = VERSIONS
  readonly modes: ModePages
  readonly vpdPages: readonly VpdPage[]
  readonly logPages: readonly LogPage[]
  readonly events = new MediaEvents()
  speed = TOP_SPEED
  protected table: CommandTable
  /** The user took the medium out, and the guest has not been told. */
  #unnoticed = false

  /** A drive with `disk` in its tray, or nothing. */
  constructor(disk?: Disk, options: UnitOptions = {}) {
    super(disk, options, 'CD-ROM')
    this.modes = new ModePages(this, [
      ...cdModePages(this),
      controlPage,
      powerPage,
      exceptionsPage((condition) => this.attention(condition)),
    ])
    this.vpdPages = this.identityPages()
    this.logPages = [...this.logs.pages, this.diagnostics.page]
    this.table = new CommandTable(
      [
        ...this.commonCommands(),
        ...this.#commands(),
        ...readCdCommands(this),
        ...tocCommands(this),
        configurationCommand(this, this.identity.serial),
        eventCommand(this),
      ],
      false,
    )
  }

  get isReady(): boolean {
    return this.notReady === undefined
  }

  get physicalInterface(): number {
    return this.portFlags.interface ?? INTERFACE_SCSI
  }

  get mediumType(): number {
    if (this.trayOpen) return TYPE_DOOR_OPEN
    return this.medium === undefined ? TYPE_NO_DISC : TYPE_DATA_CD
  }

  readonly deviceSpecific = 0
  readonly describesBlocks = false

  get geometry(): { blocks: number; block: number } {
    return { blocks: this.blocks, block: BLOCK }
  }

  place(lba: number): Place {
    return { disk: this.disk, at: lba * BLOCK, block: BLOCK }
  }

  protected override mediumCame(): void {
    // A guest that missed the empty drive would take the new disc for the old one (MMC-6 annex of SFF-8020i hosts)
    if (this.#unnoticed) this.attention(MEDIUM_NOT_PRESENT_TRAY_OPEN)
    this.#unnoticed = false
    this.events.add(EVENT_NEW_MEDIA)
    super.mediumCame()
  }

  protected override mediumWent(): void {
    this.#unnoticed = this.medium === undefined
    this.events.add(EVENT_MEDIA_REMOVAL)
  }

  protected override ejectWanted(): void {
    this.events.add(EVENT_EJECT_REQUEST)
    this.attention(OPERATOR_MEDIUM_REMOVAL_REQUEST)
  }

  protected override checkMedium(): void {
    if (!this.isReady) this.#unnoticed = false
    super.checkMedium()
  }

  override save(): Saved {
    return { ...fieldsOf(super.save()), events: this.events.codes, speed: this.speed, unnoticed: this.#unnoticed }
  }

  override restore(state: Saved): Now<void> {
    const saved = fieldsOf(state)
    this.events.restore(listOf(saved.events, 16).map((code) => numberOf(code, EVENT_MEDIA_REMOVAL)))
    this.speed = numberOf(saved.speed, TOP_SPEED)
    this.#unnoticed = flagOf(saved.unnoticed)
    return super.restore(state)
  }

  #read(task: Task): void {
    const { lba, count } = blockRange(task.cdb)
    checkBlocks(this, lba, count)
    this.logs.moved('read', count * BLOCK)
    task.dataIn(new ReadExtent(this.place(lba), count * BLOCK))
  }

  #commands(): CommandSpec[] {
    const reads = { access: 'read', run: (task: Task) => this.#read(task) } as const
    return [
      ...forms('READ', [0x08, 0x28, 0xa8], 0x18, reads),
      {
        name: 'READ FORMAT CAPACITIES',
        opcode: 0x23,
        usage: '23 00 00 00 00 00 00 ff ff 00',
        access: 'any',
        run: (task) => this.#formatCapacities(task),
      },
      {
        name: 'READ CAPACITY',
        opcode: 0x25,
        usage: '25 00 00 00 00 00 00 00 00 00',
        access: 'any',
        medium: true,
        run: (task) => {
          const bytes = new Uint8Array(8)
          const view = new DataView(bytes.buffer)
          view.setUint32(0, Math.max(this.blocks - 1, 0))
          view.setUint32(4, BLOCK)
          task.reply(bytes)
        },
      },
      {
        name: 'SEEK(10)',
        opcode: 0x2b,
        usage: '2b 00 ff ff ff ff 00 00 00 00',
        access: 'read',
        medium: true,
        run: ({ cdb }) => checkBlocks(this, u32(cdb, 2), 1),
      },
      {
        name: 'SET READ AHEAD',
        opcode: 0xa7,
        usage: 'a7 00 ff ff ff ff ff ff ff ff 00 00',
        access: 'read',
        medium: true,
        run: ({ cdb }) => {
          checkBlocks(this, u32(cdb, 2), 1)
          checkBlocks(this, u32(cdb, 6), 1)
        },
      },
      {
        name: 'SET CD SPEED',
        opcode: 0xbb,
        usage: 'bb 03 ff ff ff ff 00 00 00 00 00 00',
        access: 'own',
        run: ({ cdb }) => {
          this.speed = Math.min(u16(cdb, 2), TOP_SPEED)
        },
      },
      {
        name: 'MECHANISM STATUS',
        opcode: 0xbd,
        usage: 'bd 00 00 00 00 00 00 00 ff ff 00 00',
        access: 'any',
        run: (task) => {
          // No changer, no slots; idle
          const bytes = Uint8Array.of(0, this.trayOpen ? 0x10 : 0, 0, 0, 0, 0, 0, 0)
          task.reply(bytes, u16(task.cdb, 8))
        },
      },
    ]
  }

  // MMC-6 6.23: one descriptor, of a medium that is formatted, or of none
  #formatCapacities(task: Task): void {
    const bytes = new Uint8Array(12)
    const view = new DataView(bytes.buffer)
    bytes[3] = 8
    view.setUint32(4, this.isReady ? this.blocks : 0)
    view.setUint32(8, ((this.isReady ? 2 : 3) << 24) | BLOCK)
    task.reply(bytes, u16(task.cdb, 7))
  }
}
