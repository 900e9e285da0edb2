/** SCSI targets on an LSI 53C895A. */
import type { Disk } from '../../block/disk.ts'
import { type LsiOptions, lsi53c895a } from '../../devices/lsi53c895a/index.ts'
import { CdUnit, DiskUnit, type MediumUnit, ScsiTarget, type UnitOptions } from '../../devices/scsi/index.ts'
import type { ControllerKind, DriveOptions } from './kind.ts'
import { choosePlaces } from './places.ts'

/** A disk or a CD-ROM drive on the SCSI controller, with the properties of `-device scsi-hd`. */
export interface ScsiDrive extends DriveOptions, UnitOptions {
  readonly if: 'scsi'
  readonly media?: 'disk' | 'cdrom'
  /** Absent: a CD-ROM drive without a disc. */
  readonly disk?: Disk
  /** SCSI ID, 0 to 6 or 8 to 15; default the first that is free. */
  readonly index?: number
  /** Which chip the controller is, for all its drives; default `lsi53c895a`. */
  readonly chip?: NonNullable<LsiOptions['model']>
  readonly serial?: string
}

/** WBUS16 and SYNC: what the bus can, which drivers then negotiate (SPI-4 15.3.1). */
const PORT_FLAGS = { byte7: 0x30 }

/** 7 is the controller itself. */
const PLACES = [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15]

export const scsi: ControllerKind<ScsiDrive> = {
  if: 'scsi',
  plan(drives) {
    const places = choosePlaces(drives, PLACES, PLACES, 'SCSI ID')
    const targets = new Map<number, ScsiTarget>()
    const planned = drives.map((drive, at) => {
      const target = new ScsiTarget({ portFlags: PORT_FLAGS })
      const unit = unitOf(drive)
      target.attach(0, unit)
      targets.set(places[at]!, target)
      return { drive, path: `*@0/*@${places[at]!.toString(16)},0`, tray: () => (unit.removable ? unit : undefined) }
    })
    const chip = drives.find((drive) => drive.chip !== undefined)?.chip
    return [{ make: lsi53c895a({ targets, ...(chip === undefined ? {} : { model: chip }) }), drives: planned }]
  },
}

function unitOf(drive: ScsiDrive): MediumUnit {
  if (drive.disk === undefined || drive.media === 'cdrom') return new CdUnit(drive.disk, drive)
  return new DiskUnit(drive.disk, drive)
}
