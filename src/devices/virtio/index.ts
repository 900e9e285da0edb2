/** Virtio devices, to be plugged into a PCI slot. */
import type { Disk } from '../../block/disk.ts'
import type { Bus } from '../machine.ts'
import { Blk, type BlkOptions, checkBlkOptions, type RunningRequest } from './blk.ts'
import { type VirtioPci, type VirtioPciOptions, virtioPci } from './pci.ts'

export type { Lifetime, ScsiHandler } from './blk.ts'
export type { ScsiOutcome, ScsiRequest } from './request.ts'

/** Options of {@link virtioBlk}: those of the disk, of the rings and of the PCI transport. */
export interface VirtioBlkOptions extends BlkOptions, VirtioPciOptions {}

/** A virtio block device on `disk`, as `-device virtio-blk-pci` makes one; throws a BlockError if an option is out of range. */
export function virtioBlk(disk: Disk, options: VirtioBlkOptions = {}): (bus: Bus) => VirtioPci<RunningRequest, Blk> {
  checkBlkOptions(options)
  return virtioPci(options, (host) => new Blk(host, disk, options))
}
