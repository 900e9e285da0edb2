/** The controllers, for any emulator that offers a {@link Bus}: what a guest can see of block86. */
export { piixIde } from './ide/index.ts'
export { type LsiOptions, lsi53c895a } from './lsi53c895a/index.ts'
export type { Bus, Clock, GuestMemory, PciDevice, PciFactory, Saved, Window } from './machine.ts'
export { PciConfig, type PciDeclaration } from './pci.ts'
export { CdUnit, DiskUnit, ScsiTarget, type UnitOptions } from './scsi/index.ts'
export { type VirtioBlkOptions, virtioBlk } from './virtio/index.ts'
