/** SCSI targets on an LSI 53C895A. */
import type { Disk } from '../../block/disk.ts'
import { BlockError } from '../../block/error.ts'
import { type LsiOptions, lsi53c895a } from '../../devices/lsi53c895a/index.ts'
import { CdUnit, DiskUnit, type PortFlags, ScsiTarget, type UnitOptions } from '../../devices/scsi/index.ts'
import type { Controller, ControllerKind, DriveOptions } from './kind.ts'

/** A disk or a CD-ROM drive on the SCSI controller, with the properties of `-device scsi-hd` and `scsi-cd`. */
export interface ScsiDrive extends DriveOptions, UnitOptions {
  readonly if: 'scsi'
  readonly media?: 'disk' | 'cdrom'
  /** Absent: a CD-ROM drive without a disc. */
  readonly disk?: Disk
  /** SCSI ID, 0 to 6 or 8 to 15; default the first whose {@link lun} is free. */
  readonly scsiId?: number
  /** The same by the name that drives of every kind have. */
  readonly index?: number
  /** Number of the logical unit on its target, 0 (default) to 63. */
  readonly lun?: number
  /** Which chip it is on, each kind being a controller of its own; default `lsi53c895a`. A `lsi53c810` has the IDs 0 to 6. */
  readonly chip?: NonNullable<LsiOptions['model']>
  readonly serial?: string
}

// SYNC, and WBUS16 where the bus is wide: what drivers then negotiate (SPI-4 15.3.1)
const BUSES: Readonly<Record<string, { readonly flags: PortFlags; readonly ids: readonly number[] }>> = {
  lsi53c895a: { flags: { byte7: 0x30 }, ids: [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15] },
  lsi53c810: { flags: { byte7: 0x10 }, ids: [0, 1, 2, 3, 4, 5, 6] },
}

/** LUNs that IDENTIFY can name. */
const LUNS = 64

export const scsi: ControllerKind<ScsiDrive> = {
  if: 'scsi',
  plan(drives) {
    const chips = [...new Set(drives.map(chipOf))]
    return chips.map((chip) =>
      controllerOf(
        chip,
        drives.filter((drive) => chipOf(drive) === chip),
      ),
    )
  },
}

type Chip = NonNullable<LsiOptions['model']>

const chipOf = ({ chip = 'lsi53c895a' }: ScsiDrive): Chip => chip

function controllerOf(chip: Chip, drives: readonly ScsiDrive[]): Controller<ScsiDrive> {
  const bus = BUSES[chip]
  if (bus === undefined) {
    throw new BlockError('EINVAL', `Cannot attach a drive to ${chip}: there are ${Object.keys(BUSES).join(', ')}`)
  }
  const targets = new Map<number, ScsiTarget>()
  const units = drives.map((drive) => unitOf(drive))
  const planned = placesOf(drives, bus.ids).map(({ id, lun }, at) => {
    const unit = units[at]!
    const target = targets.get(id) ?? new ScsiTarget({ portFlags: bus.flags })
    targets.set(id, target.attach(lun, unit))
    return { drive: drives[at]!, path: `*@0/*@${id.toString(16)},${lun.toString(16)}`, tray: () => trayOf(unit) }
  })
  return { make: lsi53c895a({ targets, model: chip }), drives: planned }
}

function unitOf(drive: ScsiDrive): CdUnit | DiskUnit {
  return drive.media === 'cdrom' ? new CdUnit(drive.disk, drive) : new DiskUnit(drive.disk, drive)
}

function trayOf(unit: CdUnit | DiskUnit): CdUnit | DiskUnit | undefined {
  return unit.removable ? unit : undefined
}

/** ID and LUN of each drive: those it asks for, else the first ID where its LUN is free. */
function placesOf(drives: readonly ScsiDrive[], ids: readonly number[]): { id: number; lun: number }[] {
  const taken = new Set<string>()
  const luns = drives.map(({ lun = 0 }) => {
    if (Number.isInteger(lun) && lun >= 0 && lun < LUNS) return lun
    throw new BlockError('EINVAL', `Cannot attach a drive as LUN ${lun}: it must be 0 to ${LUNS - 1}`)
  })
  const wanted = drives.map(({ scsiId, index }, at) => {
    const id = scsiId ?? index
    if (id === undefined) return undefined
    if (!ids.includes(id)) {
      throw new BlockError('EINVAL', `Cannot attach a drive at SCSI ID ${id}: there are ${ids.join(', ')}`)
    }
    const place = `${id}, LUN ${luns[at]}`
    if (taken.has(place)) throw new BlockError('EBUSY', `Cannot attach a drive at SCSI ID ${place}: it is taken`)
    taken.add(place)
    return id
  })
  return luns.map((lun, at) => {
    const id = wanted[at] ?? ids.find((free) => !taken.has(`${free}, LUN ${lun}`))
    if (id === undefined) {
      throw new BlockError('ENOSPC', `Cannot attach ${drives.length} drives: there are ${ids.length} SCSI IDs`)
    }
    taken.add(`${id}, LUN ${lun}`)
    return { id, lun }
  })
}
