/** The guests that are measured, with a disk of each kind that is asked for. */
import { truncate, writeFile } from 'node:fs/promises'
import type { DebianGuest } from '../../../guests/debian/index.ts'
import { bootGuest, type Guest, openGuestDisk } from '../../../guests/harness.ts'
import { openDisk } from '../../../src/block/open.ts'
import type { Drive } from '../../../src/v86.ts'

/** Bytes of each disk. */
export const SIZE = 32 << 20

/**
 * `v86-ide` is v86's own disk, which it holds in RAM; `brd` is a RAM disk inside the guest, which has neither requests nor interrupts;
 * `null` is Linux's request layer (null_blk) in front of no device and no data: the most that any controller can do.
 */
export const DEVICES = ['virtio', 'ide', 'scsi', 'v86-ide', 'brd', 'null'] as const
export type Device = (typeof DEVICES)[number]

const MODULES: Partial<Record<Device, string>> = { ide: 'ata_piix', scsi: 'sym53c8xx', 'v86-ide': 'ata_piix' }

/** A guest and where its disks are, by their device. */
export interface Machine {
  readonly guest: Guest
  readonly paths: ReadonlyMap<Device, string>
}

/** Sorts devices into machines: block86's IDE controller takes the place of v86's. */
export function machinesFor(devices: readonly Device[]): Device[][] {
  if (!devices.includes('ide') || !devices.includes('v86-ide')) return [[...devices]]
  const others = devices.filter((device) => device !== 'ide')
  return [others, devices.filter((device) => ['ide', 'virtio', 'brd', 'null'].includes(device))]
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
  const guest = await bootGuest({
    guest: debian,
    drives,
    ...(devices.includes('v86-ide') ? { v86: { hda: { buffer: new ArrayBuffer(SIZE) } } } : {}),
  })
  await guest.ready()
  const paths = new Map<Device, string>()
  for (const device of devices) {
    if (device === 'virtio') paths.set(device, '/dev/vdb')
    else if (device === 'brd') {
      await guest.must(`modprobe brd rd_nr=1 rd_size=${SIZE / 1024}`)
      paths.set(device, '/dev/ram0')
    } else if (device === 'null') {
      await guest.must('modprobe null_blk queue_mode=2 irqmode=1 submit_queues=1 gb=1 nr_devices=1')
      // What Linux gives to a disk with one queue; null_blk gets none.
      await guest.must('echo mq-deadline > /sys/block/nullb0/queue/scheduler')
      paths.set(device, '/dev/nullb0')
    } else {
      const path = `/dev/sd${'abc'[[...paths.values()].filter((other) => other.startsWith('/dev/sd')).length]}`
      await guest.must(
        `modprobe -a sd_mod ${MODULES[device]}; for i in $(seq 300); do [ -b ${path} ] && break; sleep 0.1; done; [ -b ${path} ]`,
      )
      paths.set(device, path)
    }
    // Written to, so that none has holes.
    await guest.must(`dd if=/dev/zero of=${paths.get(device)} bs=1M count=${SIZE >> 20} 2> /dev/null; sync`)
    const queue = `/sys/block/${paths.get(device)!.slice(5)}/queue/scheduler`
    if (scheduler !== undefined && device !== 'brd') await guest.must(`echo ${scheduler} > ${queue}`)
  }
  return { guest, paths }
}

function isController(device: Device): boolean {
  return device === 'virtio' || device === 'ide' || device === 'scsi'
}
