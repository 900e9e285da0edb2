/** The kinds of controllers that drives are attached to: a kind is one entry of the list at the end. */
import type { Disk } from '../block/disk.ts'
import { BlockError } from '../block/error.ts'
import { type IdeDrive as IdeUnit, type PiixOptions, piixIde } from '../devices/ide/index.ts'
import type { PciFactory } from '../devices/machine.ts'
import { type VirtioBlkOptions, virtioBlk } from '../devices/virtio/index.ts'
import { removeBuiltinIde } from './ide.ts'
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

/** A hard disk or a CD-ROM drive on the IDE controller, which takes the place of v86's own. */
export interface IdeDrive extends DriveOptions, Omit<IdeUnit, 'media' | 'disk'> {
  readonly if: 'ide'
  readonly media?: 'disk' | 'cdrom'
  /** Absent: a CD-ROM drive without a disc. */
  readonly disk?: Disk
  /** 0 primary master, 1 primary slave, 2 secondary master, 3 secondary slave; default the first that is free, for a CD-ROM from 2. */
  readonly index?: number
  /** Which chip the controller is, for all its drives; default `piix3`. */
  readonly chip?: PiixOptions['model']
}

/** A drive of any kind. */
export type Drive = VirtioDrive | IdeDrive

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

/** One function for each disk. */
const virtio: ControllerKind = {
  if: 'virtio',
  plan: (drives) =>
    drives.filter(isVirtio).map((drive) => ({
      make: virtioBlk(drive.disk, drive),
      drives: [{ drive, path: 'disk@0,0' }],
    })),
}

function isVirtio(drive: Drive): drive is VirtioDrive {
  return drive.if !== 'ide'
}

const IDE_DRIVES = 4
/** Beside the ISA bridge, where the PIIX3 has its IDE function. */
const IDE_BDF = (1 << 3) | 1

/** One function for up to four drives. */
const ide: ControllerKind = {
  if: 'ide',
  plan(drives) {
    const wanted = drives.filter((drive) => drive.if === 'ide')
    if (wanted.length === 0) return []
    const places = idePlaces(wanted)
    const units: (IdeUnit | undefined)[] = new Array(IDE_DRIVES).fill(undefined)
    for (const [at, drive] of wanted.entries()) units[places[at]!] = { ...drive, media: drive.media ?? 'disk' }
    const chip = wanted.find((drive) => drive.chip !== undefined)?.chip
    return [
      {
        make: piixIde({ drives: units, ...(chip === undefined ? {} : { model: chip }) }),
        bdf: IDE_BDF,
        clear: removeBuiltinIde,
        drives: wanted.map((drive, at) => ({
          drive,
          path: `drive@${places[at]! >> 1}/disk@${places[at]! & 1}`,
        })),
      },
    ]
  },
}

function idePlaces(drives: readonly IdeDrive[]): number[] {
  const taken = new Set<number>()
  const places: number[] = []
  const take = (at: number, place: number) => {
    taken.add(place)
    places[at] = place
  }
  for (const [at, { index }] of drives.entries()) {
    if (index === undefined) continue
    if (!(Number.isInteger(index) && index >= 0 && index < IDE_DRIVES) || taken.has(index)) {
      throw new BlockError('EINVAL', `Cannot attach IDE drive ${index}: drives are 0 to 3, each once`)
    }
    take(at, index)
  }
  for (const [at, { index, media }] of drives.entries()) {
    if (index !== undefined) continue
    const order = media === 'cdrom' ? [2, 3, 1, 0] : [0, 1, 2, 3]
    const free = order.find((place) => !taken.has(place))
    if (free === undefined)
      throw new BlockError('ENOSPC', `Cannot attach ${drives.length} IDE drives: there is room for 4`)
    take(at, free)
  }
  return places
}

export const controllerKinds: readonly ControllerKind[] = [virtio, ide]

/** The controllers for `drives`. */
export function planControllers(drives: readonly Drive[]): Controller[] {
  for (const drive of drives) {
    const media: string = drive.media ?? 'disk'
    if (media === 'disk' && drive.disk === undefined)
      throw new BlockError('EINVAL', 'Cannot attach a drive without a disk')
    if (controllerKinds.some((kind) => kind.if === (drive.if ?? 'virtio'))) continue
    const known = controllerKinds.map((kind) => kind.if).join(', ')
    throw new BlockError('EINVAL', `Cannot attach a drive: unknown interface '${drive.if}'; known are ${known}`)
  }
  return controllerKinds.flatMap((kind) => kind.plan(drives.filter((drive) => (drive.if ?? 'virtio') === kind.if)))
}
