/** What a kind of controllers says about itself. */
import type { Disk } from '../../block/disk.ts'
import type { Now } from '../../block/now.ts'
import type { PciFactory } from '../../devices/machine.ts'
import type { V86Cpu } from '../internals.ts'

/** What every drive has, by the names of `-drive`. */
export interface DriveOptions {
  /** Serial number that the guest sees; default the disk's own. */
  readonly serial?: string
  /** Place in the firmware's boot order, lower first; without one the firmware decides. */
  readonly bootindex?: number
}

/** A drive whose medium a user may change. */
export interface Tray {
  /** Puts a medium in; throws a BlockError if there is one, or if it does not fit. */
  insert(disk: Disk): void
  /** Takes the medium out, also by force against a guest that has locked it; completes when nobody uses it any more. */
  eject(force?: boolean): Now<Disk | undefined>
}

/** A drive behind a controller. */
export interface Planned<D> {
  readonly drive: D
  /** Its firmware path below that of the controller's function. */
  readonly path: string
  /** The way to its medium, once the controller is made. */
  readonly tray?: () => Tray | undefined
}

/** One PCI function to be plugged in. */
export interface Controller<D> {
  readonly make: PciFactory
  /** Its place on bus 0, slot * 8 + function; default a free slot. */
  readonly bdf?: number
  /** Removes what v86 has of its own in its place; returns what puts it back. */
  clear?(cpu: V86Cpu): () => void
  readonly drives: readonly Planned<D>[]
}

/** A kind of controllers, for drives of type `D`. */
export interface ControllerKind<D> {
  /** The drives' `if`. */
  readonly if: string
  /** The functions for these drives, at least one of them, in their order; throws a BlockError if they cannot be had. */
  plan(drives: readonly D[]): readonly Controller<D>[]
}
