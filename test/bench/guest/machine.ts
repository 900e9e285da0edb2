/** The guests that are measured, with a disk of each kind that is asked for. */
import { truncate, writeFile } from 'node:fs/promises'
import type { V86Options } from 'v86'
import type { DebianGuest } from '../../../guests/debian/index.ts'
import { bootGuest, type Guest, openGuestDisk } from '../../../guests/harness.ts'
import { openDisk } from '../../../src/block/open.ts'
import type { Drive } from '../../../src/v86.ts'

type V86Image = NonNullable<V86Options['hda']>

/** Bytes of each disk, or of what is written and what is read of it. */
export const SIZE = 32 << 20

/**
 * `v86-ide` is v86's own disk, which it holds in RAM. `v86-ide-file` is v86's own disk with its image on the host's disk, through v86's
 * own loader of ranges: each read opens the file, reads and closes it, by asynchronous calls of Node. What is written never gets to the
 * file: v86 keeps it in pieces of 256 bytes in RAM, for ever, and reads it there. So reads and writes have an image's half each: reads
 * come from the file, and writes go where v86 has them go.
 *
 * `brd` is a RAM disk inside the guest, which has neither requests nor interrupts; `null` is Linux's request layer (null_blk) in front
 * of no device and no data: the most that any controller can do.
 */
export const DEVICES = ['virtio', 'ide', 'scsi', 'v86-ide', 'v86-ide-file', 'brd', 'null'] as const
export type Device = (typeof DEVICES)[number]

const MODULES: Partial<Record<Device, string>> = {
  ide: 'ata_piix',
  scsi: 'sym53c8xx',
  'v86-ide': 'ata_piix',
  'v86-ide-file': 'ata_piix',
}

/** Where a disk is in the guest. */
export interface Place {
  readonly path: string
  /** Where on it is written, bytes. */
  readonly writesAt: number
}

/** A guest and where its disks are, by their device. */
export interface Machine {
  readonly guest: Guest
  readonly places: ReadonlyMap<Device, Place>
}

/** Sorts devices into machines: block86's IDE controller takes the place of v86's. */
export function machinesFor(devices: readonly Device[]): Device[][] {
  const others = devices.filter((device) => device !== 'ide')
  if (others.length === devices.length || !others.some(isBuiltin)) return [[...devices]]
  return [others, devices.filter((device) => device === 'ide' || device === 'virtio')]
}

/** Boots a guest with `devices`; `file` names the image of one. `scheduler` is what its disks get, if not what Linux chooses. */
export async function startMachine(
  debian: DebianGuest,
  devices: readonly Device[],
  file: (name: string) => string,
  scheduler?: string,
): Promise<Machine> {
  const root = await openGuestDisk(debian, { arguments: 'drivers=virtio_pci,virtio_blk' })
  const drives: Drive[] = [{ if: 'virtio', disk: root, bootindex: 1 }]
  for (const device of devices) {
    if (!isController(device)) continue
    const image = file(`${device}.img`)
    await writeFile(image, '')
    await truncate(image, SIZE)
    drives.push({ if: device, disk: await openDisk(image, { format: 'raw' }) } as Drive)
  }
  const builtin: V86Image[] = []
  if (devices.includes('v86-ide')) builtin.push({ buffer: new ArrayBuffer(SIZE) })
  if (devices.includes('v86-ide-file')) {
    const image = file('v86-ide-file.img')
    await writeFile(image, new Uint8Array(2 * SIZE).fill(0x86))
    builtin.push({ url: image, async: true, size: 2 * SIZE })
  }
  const [hda, hdb] = builtin
  const guest = await bootGuest({
    guest: debian,
    drives,
    v86: { ...(hda === undefined ? {} : { hda }), ...(hdb === undefined ? {} : { hdb }) },
  })
  await guest.ready()
  const places = new Map<Device, Place>()
  const put = (device: Device, path: string) =>
    places.set(device, { path, writesAt: device === 'v86-ide-file' ? SIZE : 0 })
  for (const device of devices) {
    if (device === 'virtio') put(device, '/dev/vdb')
    else if (device === 'brd') {
      await guest.must(`modprobe brd rd_nr=1 rd_size=${SIZE / 1024}`)
      put(device, '/dev/ram0')
    } else if (device === 'null') {
      await guest.must('modprobe null_blk queue_mode=2 irqmode=1 submit_queues=1 gb=1 nr_devices=1')
      // What Linux gives to a disk with one queue; null_blk gets none.
      await guest.must('echo mq-deadline > /sys/block/nullb0/queue/scheduler')
      put(device, '/dev/nullb0')
    } else {
      const path = `/dev/sd${'abc'[[...places.values()].filter((other) => other.path.startsWith('/dev/sd')).length]}`
      await guest.must(
        `modprobe -a sd_mod ${MODULES[device]}; for i in $(seq 300); do [ -b ${path} ] && break; sleep 0.1; done; [ -b ${path} ]`,
      )
      put(device, path)
    }
    const { path, writesAt } = places.get(device)!
    // Written to, so that none has holes.
    await guest.must(
      `dd if=/dev/zero of=${path} bs=1M count=${SIZE >> 20} seek=${writesAt >> 20} conv=fsync,notrunc 2> /dev/null`,
    )
    const queue = `/sys/block/${path.slice(5)}/queue/scheduler`
    if (scheduler !== undefined && device !== 'brd') await guest.must(`echo ${scheduler} > ${queue}`)
  }
  return { guest, places }
}

function isBuiltin(device: Device): boolean {
  return device === 'v86-ide' || device === 'v86-ide-file'
}

function isController(device: Device): boolean {
  return device === 'virtio' || device === 'ide' || device === 'scsi'
}
