/** The other ways to the same disk: a kernel booted directly, ACPI with its I/O APIC, several queues, packed rings, O_DIRECT. */
import { truncate, writeFile } from 'node:fs/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { buildDebianGuest } from '../../guests/debian/index.ts'
import { bootGuest, type Guest, openGuestDisk } from '../../guests/harness.ts'
import { openDisk } from '../../src/block/open.ts'
import { temporaryFolder } from '../tools.ts'

const folder = temporaryFolder()
let guest: Guest

beforeAll(async () => {
  const debian = await buildDebianGuest()
  const image = folder.file('data.img')
  await writeFile(image, '')
  await truncate(image, 32 << 20)
  guest = await bootGuest({
    guest: debian,
    kernel: debian.kernel,
    initrd: debian.initrd,
    append: debian.append,
    acpi: true,
    drives: [
      { if: 'virtio', disk: await openGuestDisk(debian), disableLegacy: true },
      {
        if: 'virtio',
        disk: await openDisk(image, { format: 'raw', cache: 'none' }),
        numQueues: 2,
        packed: true,
        inOrder: true,
      },
    ],
  })
  await guest.ready()
})

afterAll(async () => {
  await guest?.close()
  folder.remove()
})

test('interrupts come through the I/O APIC, and no device is ejected', async () => {
  expect(await guest.must('grep virtio /proc/interrupts')).toContain('IO-APIC')
  expect(await guest.must('ls /sys/bus/pci/devices | wc -l')).toBe(
    await guest.must('sleep 2; ls /sys/bus/pci/devices | wc -l'),
  )
  expect(await guest.must('ls -1 /dev/vda /dev/vdb')).toBe('/dev/vda\n/dev/vdb')
})

test('fio reads back what it wrote with many requests under way', async () => {
  const job = [
    'fio --name=verify --filename=/dev/vdb --ioengine=libaio --direct=1 --iodepth=16 --rw=randwrite --bsrange=4k-64k',
    '--size=12m --verify=crc32c --verify_fatal=1 --do_verify=1 --fsync=32 --output-format=terse',
  ]
  await guest.must(job.join(' '), { timeout: 300_000 })
  expect(guest.drives.disks[1]!.stats).toMatchObject({ errors: 0 })
  expect(guest.drives.disks[1]!.stats.bytesWritten).toBeGreaterThanOrEqual(12 << 20)
})

test('the machine turns itself off through ACPI', async () => {
  guest.type('poweroff\n')
  await guest.poweredOff
})
