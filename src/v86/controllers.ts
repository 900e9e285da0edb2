/** The kinds of controllers that drives are attached to: a kind is one entry of the list at the end. */
import type { Disk } from '../block/disk.ts'
import { BlockError } from '../block/error.ts'
import { type IdeDrive as IdeUnit, type PiixOptions, piixIde } from '../devices/ide/index.ts'
import { type LsiOptions, lsi53c895a } from '../devices/lsi53c895a/index.ts'
import type { PciFactory } from '../devices/machine.ts'
import { DiskUnit, ScsiTarget, type UnitOptions } from '../devices/scsi/index.ts'
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

/** A SCSI disk on the 53C895A, with the options of the unit. */
export interface ScsiDrive extends DriveOptions, Omit<UnitOptions, 'serial'> {
  readonly if: 'scsi'
  readonly media?: 'disk'
  readonly disk: Disk
  /** SCSI id, 0 to 6 or 8 to 15; default the first that is free. */
  readonly scsiId?: number
  /** Logical unit number at that id; default 0. */
  readonly lun?: number
  /** Which chip the adapter is, for all its drives; default `lsi53c895a`. */
  readonly adapter?: LsiOptions['model']
}

/** A drive of any kind. */
export type Drive = VirtioDrive | IdeDrive | ScsiDrive

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
  return drive.if === undefined || drive.if === 'virtio'
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

/** Ids in the order in which a bus gives them out; 7 is the adapter's own. */
const SCSI_IDS = [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15]

/** One adapter for all of them. */
const scsi: ControllerKind = {
  if: 'scsi',
  plan(drives) {
    const wanted = drives.filter((drive) => drive.if === 'scsi')
    if (wanted.length === 0) return []
    const ids = scsiIds(wanted)
    const targets = new Map<number, ScsiTarget>()
    for (const [at, drive] of wanted.entries()) {
      const target = targets.get(ids[at]!) ?? new ScsiTarget()
      targets.set(ids[at]!, target.attach(drive.lun ?? 0, new DiskUnit(drive.disk, drive)))
    }
    const adapter = wanted.find((drive) => drive.adapter !== undefined)?.adapter
    return [
      {
        make: lsi53c895a({ targets, ...(adapter === undefined ? {} : { model: adapter }) }),
        drives: wanted.map((drive, at) => ({
          drive,
          path: `channel@0/disk@${ids[at]!.toString(16)},${(drive.lun ?? 0).toString(16)}`,
        })),
      },
    ]
  },
}

/** Ids of the drives: those without one get the first that none has asked for. */
function scsiIds(drives: readonly ScsiDrive[]): number[] {
  const taken = new Set(drives.map(({ scsiId }) => scsiId))
  return drives.map(({ scsiId }) => {
    if (scsiId !== undefined) return scsiId
    const free = SCSI_IDS.find((id) => !taken.has(id))
    if (free === undefined)
      throw new BlockError('ENOSPC', `Cannot attach ${drives.length} SCSI drives: there are 15 ids`)
    taken.add(free)
    return free
  })
}

export const controllerKinds: readonly ControllerKind[] = [virtio, ide, scsi]

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
