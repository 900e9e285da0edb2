/** The IDE controllers that block86 offers. */
import type { Disk } from '../../block/disk.ts'
import type { Bus } from '../machine.ts'
import { AtaDisk } from './ata.ts'
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

/** Makes a PIIX IDE function for a slot; throws a RangeError for a drive that cannot be. */
export function piixIde(options: PiixOptions): (bus: Bus) => Piix {
  return (bus) => {
    const model = options.model ?? 'piix3'
    const piix = new Piix(bus, model)
    options.drives.forEach((drive, index) => {
      const channel = piix.channels[index >>> 1]
      if (drive === undefined || channel === undefined) return
      const { disk } = drive
      if (disk === undefined) return
      const identity = identityOf(drive, {
        model: 'BLOCK86 HARDDISK',
        serial: disk.serial || `B86-IDE-${index}`,
        ultra: model === 'piix4',
      })
      channel.attach(index % 2 === 0 ? 0 : 1, (cable) => new AtaDisk(cable, index % 2 === 0 ? 0 : 1, disk, identity))
    })
    return piix
  }
}
