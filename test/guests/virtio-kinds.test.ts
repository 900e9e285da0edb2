/** An unmodified Linux on every kind of virtio-blk that the device can be; SeaBIOS and GRUB on either interface. */
import { createHash } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { buildDebianGuest, type DebianGuest } from '../../guests/debian/index.ts'
import { bootGuest, type Guest, openGuestDisk } from '../../guests/harness.ts'
import { asDevice } from '../../src/block/device.ts'
import { Disk } from '../../src/block/disk.ts'
import { bytesVec } from '../../src/block/iovec.ts'
import { Memory } from '../../src/block/protocols/memory.ts'
import type { VirtioBlkOptions } from '../../src/devices/virtio/index.ts'

const DISK = 48 << 20

interface Kind {
  readonly options: VirtioBlkOptions
  /** Feature bits that Linux negotiates, and some that it must not. */
  readonly has: readonly number[]
  readonly lacks: readonly number[]
  readonly logicalBlockSize?: number
}

/** By serial. */
const KINDS: Readonly<Record<string, Kind>> = {
  legacy: { options: { disableModern: true }, has: [9, 28, 29], lacks: [32] },
  modern: { options: { disableLegacy: true }, has: [9, 13, 14, 28, 29, 32], lacks: [34] },
  packed: { options: { packed: true }, has: [28, 29, 32, 34], lacks: [] },
  plain: { options: { eventIdx: false, indirectDesc: false }, has: [32], lacks: [28, 29] },
  packedplain: { options: { packed: true, eventIdx: false, indirectDesc: false }, has: [32, 34], lacks: [28, 29] },
  small: { options: { queueSize: 4, packed: true }, has: [34], lacks: [] },
  queues: { options: { numQueues: 4 }, has: [12], lacks: [] },
  sizemax: { options: { secureErase: true, sizeMax: 65536 }, has: [1], lacks: [] },
  block4k: { options: {}, has: [6], lacks: [], logicalBlockSize: 4096 },
}

describe('Linux', () => {
  let guest: Guest
  const disks = new Map<string, Disk>()

  beforeAll(async () => {
    const debian = await buildDebianGuest()
    for (const [serial, { logicalBlockSize = 512 }] of Object.entries(KINDS)) {
      disks.set(serial, new Disk(asDevice(new Memory(DISK)), { serial, logicalBlockSize }))
    }
    guest = await bootGuest({
      guest: debian,
      drives: [
        { if: 'virtio', disk: await openGuestDisk(debian), serial: 'root', bootindex: 1 },
        ...Object.entries(KINDS).map(([serial, { options }]) => ({
          if: 'virtio' as const,
          disk: disks.get(serial)!,
          ...options,
        })),
      ],
    })
    await guest.ready()
    await guest.must(`for disk in /sys/block/vd*; do
      [ "$(cat $disk/serial)" ] && ln -s /dev/\${disk##*/} /dev/serial-$(cat $disk/serial)
    done; ls /dev/serial-*; dd if=/dev/urandom of=/tmp/noise bs=64k count=48`)
  })

  afterAll(() => guest?.close())

  describe.each(Object.entries(KINDS))('%s', (serial, { has, lacks }) => {
    const device = `/dev/serial-${serial}`

    test('negotiates what it should', async () => {
      const features = await guest.must(`cat /sys/block/$(basename $(readlink ${device}))/device/features`)
      for (const bit of has) expect(features[bit], `feature ${bit}`).toBe('1')
      for (const bit of lacks) expect(features[bit], `feature ${bit}`).toBe('0')
    })

    test('reads back what it wrote, through its page cache and past it', async () => {
      const sum = await guest.must(`dd if=/tmp/noise of=${device} bs=1M oflag=direct
        dd if=${device} bs=64k count=48 iflag=direct | cmp - /tmp/noise || exit
        dd if=${device} bs=4k count=768 | cmp - /tmp/noise || exit
        sha256sum < /tmp/noise`)
      const bytes = new Uint8Array(48 * 65536)
      await disks.get(serial)!.read(0, bytesVec(bytes))
      expect(sum.split('\n').at(-1)!.split(' ')[0]).toBe(createHash('sha256').update(bytes).digest('hex'))
    })

    test('carries a file system that is sound after writes, syncs and trims', async () => {
      await guest.must(`mkfs.ext4 -q ${device} && mount ${device} /mnt && cp /tmp/noise /mnt && sync &&
        rm /mnt/noise && fstrim -v /mnt && umount /mnt && e2fsck -fn ${device}`)
    })

    test('takes many requests at once', async () => {
      await guest.must(`fio --name=mix --filename=${device} --rw=randrw --bs=4k --direct=1 --ioengine=libaio --iodepth=32 \\
        --size=16m --io_size=4m --verify=crc32c --do_verify=1 --fsync=64`)
    })
  })

  test('discards and zeroes reach the disk', async () => {
    const { stats } = disks.get('modern')!
    const before = { ...stats }
    await guest.must('blkdiscard /dev/serial-modern && blkdiscard --zeroout /dev/serial-modern')
    expect(stats.discards).toBeGreaterThan(before.discards)
    expect(stats.zeroes).toBeGreaterThan(before.zeroes)
  })

  test('the write cache follows the guest', async () => {
    const cache = '/sys/block/$(basename $(readlink /dev/serial-modern))/cache_type'
    expect(await guest.must(`cat ${cache}`)).toBe('write back')
    await guest.must(`echo "write through" > ${cache}`)
    expect(disks.get('modern')!.writeCache).toBe(false)
    await guest.must(`echo "write back" > ${cache}`)
    expect(disks.get('modern')!.writeCache).toBe(true)
  })

  test('nothing of this made the kernel complain', async () => {
    expect(await guest.must('dmesg | grep -E "I/O error|virtio.*([Ff]ail|[Ee]rror)|BUG:|Call Trace" || true')).toBe('')
  })
})

describe('SeaBIOS, GRUB and Linux boot, and boot again', () => {
  test.each([
    // The legacy interface has no FEATURES_OK.
    ['through the legacy interface', { disableModern: true }, '0x00000007'],
    ['through the modern interface', { disableLegacy: true }, '0x0000000f'],
    ['with packed rings and in-order use', { packed: true, inOrder: true, numQueues: 2 }, '0x0000000f'],
  ])('%s', async (_, options, status) => {
    const debian: DebianGuest = await buildDebianGuest()
    const disk = await openGuestDisk(debian)
    const guest = await bootGuest({ guest: debian, drives: [{ if: 'virtio', disk, bootindex: 1, ...options }] })
    try {
      await guest.ready()
      guest.type('reboot\n')
      await guest.ready()
      expect(await guest.must('cut -d " " -f 1 /proc/mounts | grep ^/dev/vda')).toBe('/dev/vda1')
      expect(await guest.must('cat /sys/block/vda/device/status')).toBe(status)
    } finally {
      await guest.close()
    }
  })
})
