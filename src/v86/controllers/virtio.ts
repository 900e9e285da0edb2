/** virtio-blk: a PCI function for each disk. */
import type { Disk } from '../../block/disk.ts'
import { passthrough } from '../../devices/scsi/index.ts'
import { type ScsiHandler, type VirtioBlkOptions, virtioBlk } from '../../devices/virtio/index.ts'
import type { ControllerKind, DriveOptions } from './kind.ts'

/** A disk behind virtio-blk, with the options of that device. */
export interface VirtioDrive extends DriveOptions, Omit<VirtioBlkOptions, 'scsi'> {
  readonly if?: 'virtio'
  readonly media?: 'disk'
  readonly disk: Disk
  /** Take SCSI commands on the legacy interface, by a handler of one's own or the disk's own unit; default false. */
  readonly scsi?: boolean | ScsiHandler
}

export const virtio: ControllerKind<VirtioDrive> = {
  if: 'virtio',
  plan: (drives) =>
    drives.map((drive) => ({ make: virtioBlk(drive.disk, optionsOf(drive)), drives: [{ drive, path: 'disk@0,0' }] })),
}

function optionsOf({ scsi, ...options }: VirtioDrive): VirtioBlkOptions {
  if (scsi === undefined || scsi === false) return options
  return { ...options, scsi: scsi === true ? passthrough(options.disk) : scsi }
}
