/** Drives for v86: the entrance to everything that knows the emulator. */
import type { Disk } from './block/disk.ts'
import { BlockError, messageOf } from './block/error.ts'
import type { Job } from './block/jobs/job.ts'
import {
  type BackupDiskOptions,
  backup,
  type CommitOptions,
  commit,
  type DirtyBitmaps,
  dirtyBitmaps,
  type MirrorDiskOptions,
  mirror,
  type SnapshotOptions,
  type StreamOptions,
  snapshot,
  stream,
} from './block/live.ts'
import { type Controller, type Drive, type Planned, planControllers } from './v86/controllers/index.ts'
import { orderBoot, pciPath } from './v86/firmware.ts'
import { cpuOf, type Emulator, type V86Cpu } from './v86/internals.ts'
import { machineOf } from './v86/machine.ts'

export type { Drive, IdeDrive, ScsiDrive, VirtioDrive } from './v86/controllers/index.ts'
export { type Emulator, TESTED_VERSIONS } from './v86/internals.ts'

export interface AttachOptions {
  /** Called when a drive's error policy has stopped the guest; `emulator.run()` tries the request again. */
  onStop?(disk: Disk, error: BlockError): void
  /** Called with what a device threw, which is a mistake of ours; default: written to the console. */
  onMistake?(error: unknown): void
}

/** The drives of one {@link attachDrives}. */
export interface Drives {
  /** The disks that are in the drives now, in the order of the drives. */
  readonly disks: readonly Disk[]
  /** Puts a medium into drive number `drive`, 0 the first, whose tray is then closed; throws a BlockError if it cannot. */
  insert(drive: number, disk: Disk): void
  /** Takes the medium out of a drive and gives it to the caller, who closes it; a guest that has locked it yields to `force` only. */
  eject(drive: number, options?: { force?: boolean }): Promise<Disk | undefined>
  /** Takes an external snapshot of the disk in drive number `drive`: its image stays as it is, the guest goes on in a new file. */
  snapshot(drive: number, options: SnapshotOptions): Job
  /** Takes what the images below the drive's own hold up into that, which then needs them no more. */
  stream(drive: number, options?: StreamOptions): Job
  /** Takes what an image of the drive holds down into one below it; of the drive's own image, the guest goes on in that. */
  commit(drive: number, options?: CommitOptions): Job
  /** Copies the disk while the guest writes, until the two are the same and `complete()` lets the guest go on with the copy, or not. */
  mirror(drive: number, options: MirrorDiskOptions): Job
  /** Copies the disk as it is at the job's first step, while the guest writes. */
  backup(drive: number, options: BackupDiskOptions): Job
  /** The dirty bitmaps of the drive's qcow2 image, by which backups are incremental. */
  bitmaps(drive: number): DirtyBitmaps
  /** Changes the capacity, and the guest is told; a smaller one only with `shrink`, for what is past the new end is lost. */
  resize(drive: number, size: number, options?: { shrink?: boolean }): Promise<void>
  /** Completes when no request is with the host. */
  drain(): Promise<void>
  /** Cancels jobs, drains, flushes and closes the disks, which releases their locks; the guest's requests fail from then on. */
  close(): Promise<void>
}

/**
 * Slots whose controllers have few others on their interrupt line, whose driver looks at its own device at every interrupt: firmware
 * routes the first of them to a line that none of v86's default devices uses, the second to that of its network card, and so on in turn.
 */
const QUIET_SLOTS = [0x03, 0x0d, 0x0f, 0x11, 0x13, 0x15, 0x17, 0x19, 0x1b, 0x1d]
const FUNCTIONS = 8

/**
 * Attaches drives to an emulator before its guest runs: right after `new V86()`, `autostart` or not. Rejects with a BlockError,
 * and attaches nothing, if one of them cannot be attached; the disks are then still the caller's.
 */
export function attachDrives(
  emulator: Emulator,
  drives: readonly Drive[],
  options: AttachOptions = {},
): Promise<Drives> {
  return new Promise((resolve, reject) => {
    const attach = () => {
      try {
        const cpu = cpuOf(emulator)
        if (cpu === undefined) return false
        resolve(plugIn(emulator, cpu, drives, options))
      } catch (error) {
        reject(error)
      }
      return true
    }
    if (attach()) return
    const ready = () => {
      emulator.remove_listener('emulator-ready', ready)
      attach()
    }
    emulator.add_listener('emulator-ready', ready)
  })
}

function plugIn(emulator: Emulator, cpu: V86Cpu, drives: readonly Drive[], options: AttachOptions): Drives {
  if (emulator.get_instruction_counter() > 0) {
    throw new BlockError('EBUSY', 'Cannot attach drives: the guest runs already; attach them right after new V86()')
  }
  const disks = drives.flatMap(({ disk }) => disk ?? [])
  const twice = disks.find((disk, index) => disks.indexOf(disk) !== index)
  if (twice !== undefined) throw new BlockError('EBUSY', `Cannot attach ${twice.name} twice`)
  const serials = disks.map(({ serial }) => serial)
  const undo: (() => void)[] = [() => disks.forEach((disk, index) => void (disk.serial = serials[index]!))]
  try {
    for (const { disk, serial } of drives) if (disk !== undefined && serial !== undefined) disk.serial = serial
    const controllers = planControllers(drives)
    const machine = machineOf(emulator, cpu, options.onMistake ?? reportMistake)
    for (const { clear } of controllers) if (clear !== undefined) undo.push(clear(cpu))
    const places = placesFor(controllers, machine.pci.freeSlots())
    const sockets = controllers.map(({ make }, index) => machine.prepare(make, places[index]!))
    for (const socket of sockets) machine.plug(socket)
    orderBoot(
      cpu,
      controllers.flatMap((controller, at) =>
        controller.drives.flatMap(({ drive, path }) =>
          drive.bootindex === undefined ? [] : [{ index: drive.bootindex, path: pciPath(places[at]!, path) }],
        ),
      ),
    )
    const planned = controllers.flatMap((controller) => controller.drives)
    const inOrder = drives.map((drive) => planned.find((one) => one.drive === drive)!)
    return new AttachedDrives(emulator, inOrder, () => machine.drain(), options)
  } catch (error) {
    for (const step of undo.reverse()) step()
    throw error
  }
}

/** Where each controller goes: its own place, or the free slots in ascending order, several functions to a slot if need be. */
function placesFor(controllers: readonly Controller<Drive>[], free: readonly number[]): number[] {
  const floating = controllers.filter(({ bdf }) => bdf === undefined).length
  const quiet = free.filter((slot) => QUIET_SLOTS.includes(slot))
  const slots = floating <= quiet.length ? quiet : free
  if (floating > slots.length * FUNCTIONS) {
    throw new BlockError(
      'ENOSPC',
      `Cannot attach ${floating} drives: the PCI bus has room for ${slots.length * FUNCTIONS}; attach fewer`,
    )
  }
  const perSlot = Math.max(1, Math.ceil(floating / Math.max(slots.length, 1)))
  let next = 0
  return controllers.map(({ bdf }) => {
    if (bdf !== undefined) return bdf
    const place = slots[Math.floor(next / perSlot)]! * FUNCTIONS + (next % perSlot)
    next++
    return place
  })
}

class AttachedDrives implements Drives {
  readonly drain: () => Promise<void>
  readonly #drives: readonly Planned<Drive>[]
  /** What is in each drive, and what ends the watch over it. */
  readonly #media: ({ readonly disk: Disk; readonly forget: () => void } | undefined)[]
  readonly #watch: (disk: Disk) => () => void
  readonly #detach: () => void
  #closed: Promise<void> | undefined

  constructor(
    emulator: Emulator,
    drives: readonly Planned<Drive>[],
    drain: () => Promise<void>,
    options: AttachOptions,
  ) {
    this.drain = drain
    this.#drives = drives
    this.#watch = (disk) =>
      disk.onStop((error) => {
        if (emulator.is_running()) void emulator.stop()
        options.onStop?.(disk, error)
      })
    this.#media = drives.map(({ drive: { disk } }) => (disk === undefined ? undefined : this.#taken(disk)))
    const resume = () => {
      for (const disk of this.disks) if (disk.held > 0) disk.resume()
    }
    emulator.add_listener('emulator-started', resume)
    this.#detach = () => emulator.remove_listener('emulator-started', resume)
  }

  get disks(): readonly Disk[] {
    return this.#media.flatMap((medium) => medium?.disk ?? [])
  }

  insert(drive: number, disk: Disk): void {
    const tray = this.#tray(drive, 'insert')
    if (this.disks.includes(disk)) throw new BlockError('EBUSY', `Cannot insert ${disk.name}: it is in use`)
    tray.insert(disk)
    this.#media[drive] = this.#taken(disk)
  }

  async eject(drive: number, options: { force?: boolean } = {}): Promise<Disk | undefined> {
    const disk = await this.#tray(drive, 'eject').eject(options.force)
    this.#media[drive]?.forget()
    this.#media[drive] = undefined
    return disk
  }

  snapshot(drive: number, options: SnapshotOptions): Job {
    return snapshot(this.#disk(drive, 'take a snapshot of'), options)
  }

  stream(drive: number, options?: StreamOptions): Job {
    return stream(this.#disk(drive, 'stream into'), options)
  }

  commit(drive: number, options?: CommitOptions): Job {
    return commit(this.#disk(drive, 'commit'), options)
  }

  mirror(drive: number, options: MirrorDiskOptions): Job {
    return mirror(this.#disk(drive, 'mirror'), options)
  }

  backup(drive: number, options: BackupDiskOptions): Job {
    return backup(this.#disk(drive, 'back up'), options)
  }

  bitmaps(drive: number): DirtyBitmaps {
    return dirtyBitmaps(this.#disk(drive, 'use bitmaps of'))
  }

  async resize(drive: number, size: number, options: { shrink?: boolean } = {}): Promise<void> {
    const disk = this.#disk(drive, 'resize')
    if (size < disk.size && options.shrink !== true) {
      throw new BlockError(
        'EBUSY',
        `Cannot shrink ${disk.name} to ${size} bytes while a guest uses it: what is past its new end is lost; if that is meant, say shrink: true`,
      )
    }
    await disk.resize(size)
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  #disk(drive: number, verb: string): Disk {
    const disk = this.#media[drive]?.disk
    if (disk !== undefined) return disk
    const reason = this.#drives[drive] === undefined ? 'there is no such drive' : 'it is empty'
    throw new BlockError('ENOMEDIUM', `Cannot ${verb} drive ${drive}: ${reason}`)
  }

  #taken(disk: Disk): { disk: Disk; forget: () => void } {
    return { disk, forget: this.#watch(disk) }
  }

  #tray(drive: number, verb: string) {
    const tray = this.#drives[drive]?.tray?.()
    if (tray !== undefined) return tray
    const reason = this.#drives[drive] === undefined ? 'there is no such drive' : 'its medium is fixed'
    throw new BlockError('ENOTSUP', `Cannot ${verb} the medium of drive ${drive}: ${reason}`)
  }

  async #close(): Promise<void> {
    this.#detach()
    for (const medium of this.#media) medium?.forget()
    const results = await Promise.allSettled(this.disks.map(async (disk) => disk.close()))
    for (const result of results) if (result.status === 'rejected') throw result.reason
  }
}

function reportMistake(error: unknown): void {
  console.error(`block86: a device made a mistake: ${messageOf(error)}`, error)
}
