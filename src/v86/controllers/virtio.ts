/** virtio-blk: a PCI function for each disk. */
import type { Disk } from '../../block/disk.ts'
import { type VirtioBlkOptions, virtioBlk } from '../../devices/virtio/index.ts'
import type { ControllerKind, DriveOptions } from './kind.ts'

/** A disk behind virtio-blk, with the options of that device. */
export interface VirtioDrive extends DriveOptions, VirtioBlkOptions {
  readonly if?: 'virtio'
  readonly media?: 'disk'
  readonly disk: Disk
}

export const virtio: ControllerKind<VirtioDrive> = {
  if: 'virtio',
  plan: (drives) =>
    drives.map((drive) => ({ make: virtioBlk(drive.disk, drive), drives: [{ drive, path: 'disk@0,0' }] })),
}
