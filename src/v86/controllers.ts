/** The kinds of controllers that drives are attached to: a kind is one entry of the list at the end. */
import type { Disk } from '../block/disk.ts'
import { BlockError } from '../block/error.ts'
import type { PciFactory } from '../devices/machine.ts'
import { type VirtioBlkOptions, virtioBlk } from '../devices/virtio/index.ts'
import type { V86Cpu } from './internals.ts'

/** What every drive has, by the names of `-drive`. */
interface DriveOptions {
  /** Serial number that the guest sees; default the disk's own. */
  readonly serial?: string
  /** Place in the firmware's boot order, lower first; without one the firmware decides. */
  readonly bootindex?: number
}

/** A disk behind virtio-blk, each on a PCI function of its own, with the options of that device. */
export interface VirtioDrive extends DriveOptions, VirtioBlkOptions {
  readonly if?: 'virtio'
  readonly media?: 'disk'
  readonly disk: Disk
}

/** A drive of any kind. */
export type Drive = VirtioDrive

/** One PCI function to be plugged in. */
export interface Controller {
  readonly make: PciFactory
  /** Its place on bus 0, slot * 8 + function; default a free slot. */
  readonly bdf?: number
  /** Removes what v86 has of its own in its place; returns what puts it back. */
  clear?(cpu: V86Cpu): () => void
  /** The drives behind it, with their firmware paths below that of the function. */
  readonly drives: readonly { readonly drive: Drive; readonly path: string }[]
}

/** A kind of controllers. */
export interface ControllerKind {
  readonly if: NonNullable<Drive['if']>
  /** The functions that these drives need, in the order of the drives; throws a BlockError if they cannot be had. */
  plan(drives: readonly Drive[]): readonly Controller[]
}

const virtio: ControllerKind = {
  if: 'virtio',
  plan: (drives) =>
    drives.map((drive) => ({ make: virtioBlk(drive.disk, drive), drives: [{ drive, path: 'disk@0,0' }] })),
}

export const controllerKinds: readonly ControllerKind[] = [virtio]

/** The controllers for `drives`. */
export function planControllers(drives: readonly Drive[]): Controller[] {
  for (const drive of drives) {
    if (controllerKinds.some((kind) => kind.if === (drive.if ?? 'virtio'))) continue
    const known = controllerKinds.map((kind) => kind.if).join(', ')
    throw new BlockError(
      'EINVAL',
      `Cannot attach ${drive.disk.name}: unknown interface '${drive.if}'; known are ${known}`,
    )
  }
  return controllerKinds.flatMap((kind) => kind.plan(drives.filter((drive) => (drive.if ?? 'virtio') === kind.if)))
}
