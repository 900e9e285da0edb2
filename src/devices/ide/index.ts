/** The IDE controllers that block86 offers. */
import type { Disk } from '../../block/disk.ts'
import { BlockError } from '../../block/error.ts'
import type { Bus } from '../machine.ts'
import { CdUnit, ScsiTarget } from '../scsi/index.ts'
import { AtaDisk } from './ata.ts'
import { AtapiDrive } from './atapi.ts'
import { type IdentityOptions, identityOf } from './identity.ts'
import { Piix, type PiixModel } from './piix.ts'

export type { IdentityOptions } from './identity.ts'
export { Piix, type PiixModel } from './piix.ts'

/** A drive on a cable: a hard disk, or a CD-ROM drive with or without a disc in it. */
export interface IdeDrive extends IdentityOptions {
  readonly media: 'disk' | 'cdrom'
  readonly disk?: Disk
}

export interface PiixOptions {
  /** Default `piix3`. */
  readonly model?: PiixModel
  /** Primary master, primary slave, secondary master, secondary slave. */
  readonly drives: readonly (IdeDrive | undefined)[]
}

/** Makes a PIIX IDE function for a slot; throws a BlockError for a drive that cannot be. */
export function piixIde(options: PiixOptions): (bus: Bus) => Piix {
  const model = options.model ?? 'piix3'
  return (bus) => {
    const piix = new Piix(bus, model)
    options.drives.forEach((drive, place) => {
      if (drive === undefined) return
      if (drive.media === 'cdrom') attachCdrom(piix, place, drive, model)
      else attachDisk(piix, place, drive, model)
    })
    return piix
  }
}

function attachDisk(piix: Piix, place: number, drive: IdeDrive, model: PiixModel): void {
  const { disk } = drive
  if (disk === undefined) throw new BlockError('EINVAL', `Cannot attach IDE drive ${place}: a hard disk needs an image`)
  const serial = disk.serial || `B86-IDE-${place}`
  const identity = identityOf(drive, { model: 'BLOCK86 HARDDISK', serial, ultra: model === 'piix4' })
  piix.attach(place, (cable, unit) => new AtaDisk(cable, unit, disk, identity))
}

function attachCdrom(piix: Piix, place: number, drive: IdeDrive, model: PiixModel): void {
  const identity = identityOf(drive, {
    model: 'BLOCK86 CD-ROM',
    serial: drive.disk?.serial || `B86-IDE-${place}`,
    ultra: model === 'piix4',
  })
  const unit = new CdUnit(drive.disk, { serial: identity.serial, ver: identity.firmware.slice(0, 4) })
  const target = new ScsiTarget({ portFlags: { interface: 2 } }).attach(0, unit)
  piix.attach(place, (cable, position) => new AtapiDrive(cable, position, target, identity), unit)
}
