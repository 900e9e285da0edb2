/** The list of the kinds of controllers: a new one is an entry here, and a member of {@link Drive}. */
import { BlockError } from '../../block/error.ts'
import { type IdeDrive, ide } from './ide.ts'
import type { Controller, ControllerKind } from './kind.ts'
import { type ScsiDrive, scsi } from './scsi.ts'
import { type VirtioDrive, virtio } from './virtio.ts'

export type { IdeDrive } from './ide.ts'
export type { Controller, Planned, Tray } from './kind.ts'
export type { ScsiDrive } from './scsi.ts'
export type { VirtioDrive } from './virtio.ts'

/** A drive of any kind. */
export type Drive = VirtioDrive | IdeDrive | ScsiDrive

const kinds = [virtio, ide, scsi] as unknown as readonly ControllerKind<Drive>[]

/** The controllers for `drives`, in the order of the kinds. */
export function planControllers(drives: readonly Drive[]): Controller<Drive>[] {
  const names = kinds.map((kind) => kind.if)
  for (const drive of drives) {
    const name: string = nameOf(drive)
    if (!names.includes(name)) {
      throw new BlockError(
        'EINVAL',
        `Cannot attach a drive: unknown interface '${name}'; known are ${names.join(', ')}`,
      )
    }
    const media: string = drive.media ?? 'disk'
    if (media !== 'disk' && (media !== 'cdrom' || name === 'virtio')) {
      throw new BlockError('EINVAL', `Cannot attach a drive: ${name} has no drives for media '${media}'`)
    }
    if (media === 'disk' && drive.disk === undefined) {
      throw new BlockError('EINVAL', 'Cannot attach a drive without a disk; only a CD-ROM drive may be empty')
    }
  }
  return kinds.flatMap((kind) => {
    const own = drives.filter((drive) => nameOf(drive) === kind.if)
    return own.length === 0 ? [] : kind.plan(own)
  })
}

function nameOf(drive: Drive): string {
  return drive.if ?? virtio.if
}
