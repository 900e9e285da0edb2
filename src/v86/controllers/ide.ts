/** The PIIX's IDE function in the place of v86's own, for up to four drives. */
import type { Disk } from '../../block/disk.ts'
import { type IdeDrive as IdeUnit, type Piix, type PiixOptions, piixIde } from '../../devices/ide/index.ts'
import { removeBuiltinIde } from '../ide.ts'
import type { ControllerKind, DriveOptions } from './kind.ts'
import { choosePlaces } from './places.ts'

/** A hard disk or a CD-ROM drive on the IDE controller. */
export interface IdeDrive extends DriveOptions, Omit<IdeUnit, 'media' | 'disk'> {
  readonly if: 'ide'
  readonly media?: 'disk' | 'cdrom'
  /** Absent: a CD-ROM drive without a disc. */
  readonly disk?: Disk
  /** 0 primary master, 1 primary slave, 2 secondary master, 3 secondary slave; default the first that is free, for a CD-ROM from 2. */
  readonly index?: number
  /** Which chip the controller is, for all its drives; default `piix3`. */
  readonly chip?: NonNullable<PiixOptions['model']>
}

const PLACES = [0, 1, 2, 3]
const DISC_PLACES = [2, 3, 1, 0]
/** Beside the ISA bridge, where the PIIX3 has its IDE function. */
const BDF = (1 << 3) | 1

export const ide: ControllerKind<IdeDrive> = {
  if: 'ide',
  plan(drives) {
    const places = choosePlaces(drives, PLACES, DISC_PLACES, 'IDE drive')
    const units: (IdeUnit | undefined)[] = PLACES.map((place) => {
      const drive = drives[places.indexOf(place)]
      return drive === undefined ? undefined : { ...drive, media: drive.media ?? 'disk' }
    })
    const chip = drives.find((drive) => drive.chip !== undefined)?.chip
    const make = piixIde({ drives: units, ...(chip === undefined ? {} : { model: chip }) })
    let piix: Piix | undefined
    return [
      {
        make: (bus) => (piix = make(bus)),
        bdf: BDF,
        clear: removeBuiltinIde,
        drives: drives.map((drive, at) => {
          const place = places[at]!
          return { drive, path: `drive@${place >> 1}/disk@${place & 1}`, tray: () => piix?.tray(place) }
        }),
      },
    ]
  },
}
