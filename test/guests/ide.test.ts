/**
 * Unmodified guests on the IDE controller, in three machines: Linux with `ata_piix` and Ultra DMA, booted by SeaBIOS from the disk; Linux
 * with `pata_oldpiix` and `ata_generic`, by DMA and by PIO, booted by SeaBIOS from the CD-ROM; and GRUB with its own ATA driver.
 */
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  ARGUMENTS_OFFSET,
  buildDebianGuest,
  CD_PATTERN_PATH,
  cdPattern,
  type DebianGuest,
  READY_MARK,
} from '../../guests/debian/index.ts'
import { bootGuest, type Guest, openGuestDisk } from '../../guests/harness.ts'
import { asDevice } from '../../src/block/device.ts'
import { Disk } from '../../src/block/disk.ts'
import { BlockError } from '../../src/block/error.ts'
import { Filter } from '../../src/block/filter.ts'
import { bytesVec, type IoVec } from '../../src/block/iovec.ts'
import type { Now } from '../../src/block/now.ts'
import { openDisk } from '../../src/block/open.ts'
import { Memory } from '../../src/block/protocols/memory.ts'
import { iso } from './iso.ts'
import { summingKernel, sumOf } from './kernel.ts'

const DATA_BYTES = 64 << 20
const BAD_LBA = 12345

/** A medium with one sector that cannot be read. */
class Scratched extends Filter {
  readonly name = 'scratched'

  override read(at: number, into: IoVec): Now<void> {
    if (at <= BAD_LBA * 512 && at + into.byteLength > BAD_LBA * 512) throw new BlockError('EIO', 'a scratch')
    return this.next.read(at, into)
  }
}

async function bytesOf(disk: Disk, at: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length)
  await disk.read(at, bytesVec(bytes))
  return bytes
}

/** Shell words that wait until the kernel has found the disk. */
const DISK_COMES = 'while [ ! -b /dev/sda ]; do usleep 50000; done'

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')
const discOf = (volume: string, text: string) =>
  new Disk(asDevice(Memory.from(iso(volume, { 'NAME.TXT': new TextEncoder().encode(text) }), { readOnly: true })))

describe('ata_piix on a PIIX4', () => {
  let debian: DebianGuest
  let guest: Guest
  const memory = new Memory(DATA_BYTES)
  const data = new Disk(asDevice(memory), { serial: 'DATA' })
  const bad = new Disk(asDevice(new Scratched(asDevice(new Memory(16 << 20)))), { serial: 'BAD' })

  beforeAll(async () => {
    debian = await buildDebianGuest()
    guest = await bootGuest({
      guest: debian,
      drives: [
        {
          if: 'ide',
          disk: await openGuestDisk(debian, { serial: 'ROOT' }),
          bootindex: 1,
          chip: 'piix4',
          wwn: 0x5000c500a1b2c3d4n,
          rotationRate: 7200,
        },
        { if: 'ide', disk: data },
        { if: 'ide', media: 'cdrom', disk: discOf('FIRST', 'the first disc') },
        { if: 'ide', disk: bad },
      ],
    })
    await guest.ready()
    // Linux numbers the disks as they come
    await guest.must(`for disk in /dev/sd?; do
      ln -s $disk /dev/ide-$(hdparm -I $disk | sed -n 's/.*Serial Number: *\\([A-Z]*\\).*/\\1/p')
    done; ls /dev/ide-ROOT /dev/ide-DATA /dev/ide-BAD`)
  })

  afterAll(() => guest?.close())

  test('negotiates Ultra DMA 2, the most that a PIIX4 does', async () => {
    const modes = await guest.must('cat /sys/class/ata_device/dev1.0/xfer_mode /sys/class/ata_device/dev2.0/xfer_mode')
    expect(modes.split(/\s+/)).toEqual(['XFER_UDMA_2', 'XFER_UDMA_2'])
    expect(await guest.must('dmesg')).toMatch(/ata1\.00: ATA-10: BLOCK86 HARDDISK.*max UDMA\/100/)
  })

  test('hdparm -I shows all that the drive is', async () => {
    const text = await guest.must('hdparm -I /dev/ide-ROOT')
    for (const line of [
      /Model Number: +BLOCK86 HARDDISK/,
      /Transport: +Parallel, ATA8-APT/,
      /LBA48 +user addressable sectors: +\d+/,
      /Nominal Media Rotation Rate: 7200/,
      /R\/W multiple sector transfer: Max = 16\tCurrent = 16/,
      /\*udma2/,
      /\*\tSMART feature set/,
      /\tSecurity Mode feature set/,
      /\*\tWrite cache/,
      /\*\tHost Protected Area feature set/,
      /\*\tMandatory FLUSH_CACHE/,
      /\*\tFLUSH_CACHE_EXT/,
      /\*\t48-bit Address feature set/,
      /\*\tGeneral Purpose Logging feature set/,
      /\*\tWRITE_\{DMA\|MULTIPLE\}_FUA_EXT/,
      /\*\tSANITIZE feature set/,
      /\*\tData Set Management TRIM supported \(limit 64 blocks\)/,
      /\*\tDeterministic read ZEROs after TRIM/,
      /Logical Unit WWN Device Identifier: 5000c500a1b2c3d4/,
      /Checksum: correct/,
    ]) {
      expect(text).toMatch(line)
    }
  })

  test('what it writes is what the host has, and what it reads back past its page cache', async () => {
    const sum = await guest.must(`dd if=/dev/urandom of=/tmp/noise bs=64k count=64 2> /dev/null
      dd if=/tmp/noise of=/dev/ide-DATA bs=1M oflag=direct seek=3 2> /dev/null
      dd if=/dev/ide-DATA bs=1M iflag=direct skip=3 count=4 2> /dev/null | cmp - /tmp/noise
      sha256sum < /tmp/noise`)
    expect(sha256(await bytesOf(data, 3 << 20, 4 << 20))).toBe(sum.split(' ')[0])
  })

  test('hdparm trims many ranges, which then read as zero', async () => {
    await data.write(0, bytesVec(new Uint8Array(2 << 20).fill(0xff)))
    const before = data.stats.zeroes
    await guest.must(`i=0; while [ $i -lt 200 ]; do echo $((i * 16)):8; i=$((i + 1)); done |
      hdparm --please-destroy-my-drive --trim-sector-ranges-stdin /dev/ide-DATA`)
    expect(data.stats.zeroes - before).toBe(200)
    const bytes = await bytesOf(data, 0, 2 << 20)
    for (const [at, value] of [
      [0, 0],
      [4095, 0],
      [4096, 0xff],
      [199 * 8192 + 4095, 0],
      [200 * 8192, 0xff],
    ] as const) {
      expect(bytes[at], `byte ${at}`).toBe(value)
    }
  })

  test('fstrim gives the free space of ext4 back', async () => {
    await guest.must(`mkfs.ext4 -q /dev/ide-DATA && mount /dev/ide-DATA /mnt
      dd if=/dev/zero of=/mnt/big bs=1M count=12 2> /dev/null && sync`)
    const before = data.stats.bytesZeroed
    await guest.must('rm /mnt/big && sync && fstrim -v /mnt && umount /mnt && e2fsck -fn /dev/ide-DATA')
    expect(data.stats.bytesZeroed - before).toBeGreaterThan(12 << 20)
  })

  test('a flush of the guest is one of the image; its switch for the write cache is the disk’s', async () => {
    await guest.must('mount /dev/ide-DATA /mnt')
    const before = data.stats.flushes
    await guest.must('echo kept > /mnt/file && sync /mnt/file')
    expect(data.stats.flushes).toBeGreaterThan(before)
    expect(await guest.must('hdparm -W0 /dev/ide-DATA')).toMatch(/write-caching = +0 \(off\)/)
    expect(data.writeCache).toBe(false)
    expect(await guest.must('hdparm -W1 /dev/ide-DATA')).toMatch(/write-caching = +1 \(on\)/)
    expect(data.writeCache).toBe(true)
    await guest.must('umount /mnt')
  })

  test('smartctl finds the drive well, and a self-test passes', async () => {
    const all = await guest.must('smartctl -a /dev/ide-DATA')
    for (const line of [
      /overall-health self-assessment test result: PASSED/,
      /241 Total_LBAs_Written/,
      /No Errors Logged/,
    ]) {
      expect(all).toMatch(line)
    }
    await guest.must('smartctl -t short /dev/ide-DATA')
    await guest.must(`for i in 1 2 3 4 5 6 7 8 9 10; do
      smartctl -l selftest /dev/ide-DATA | grep -q '# 1' && break; sleep 1
    done`)
    expect(await guest.must('smartctl -l selftest /dev/ide-DATA')).toMatch(
      /# 1 +Short offline +Completed without error +00%/,
    )
  })

  test('a sector that cannot be read is one error at its address; the drive, and its log, say so', async () => {
    const result = await guest.run('dd if=/dev/ide-BAD of=/dev/null bs=4k skip=1500 iflag=direct')
    expect(result.output).toMatch(/Input\/output error/)
    expect(await guest.must('dmesg')).toMatch(new RegExp(`I/O error, dev sd., sector ${BAD_LBA} `))
    for (const lba of [BAD_LBA - 1, BAD_LBA + 1]) {
      await guest.must(`sg_dd if=/dev/ide-BAD of=/dev/null bs=512 skip=${lba} count=1 blk_sgio=1`)
    }
    const text = (await guest.run('smartctl -l error -A /dev/ide-BAD')).output
    expect(text).toMatch(/Error: UNC/)
    expect(text).toMatch(/197 Current_Pending_Sector.* 1$/m)
    await guest.run('smartctl -t long /dev/ide-BAD; sleep 2')
    expect((await guest.run('smartctl -l selftest /dev/ide-BAD')).output).toMatch(
      new RegExp(`Extended offline +Completed: read failure.* ${BAD_LBA}$`, 'm'),
    )
  })

  test('the host protected area, security and sanitize by hdparm', async () => {
    const hdparm = (options: string) => guest.must(`hdparm ${options} /dev/ide-DATA`)
    expect(await hdparm('-N')).toMatch(/max sectors += 131072\/131072, HPA is disabled/)
    await hdparm('--user-master u --security-set-pass secret')
    expect(await hdparm('-I')).toMatch(/Security:[\s\S]*\n\t\tenabled/)
    await hdparm('--user-master u --security-erase secret')
    expect(await hdparm('-I')).toMatch(/Security:[\s\S]*\n\tnot\tenabled/)
    expect((await bytesOf(data, 0, DATA_BYTES)).every((byte) => byte === 0)).toBe(true)
    await hdparm('--yes-i-know-what-i-am-doing --sanitize-overwrite-passes 1 --sanitize-overwrite hex:2baddeed')
    await guest.must(`for i in 1 2 3 4 5 6 7 8 9 10; do
      hdparm --sanitize-status /dev/ide-DATA | grep -q 'In Process' || break; sleep 1
    done; hdparm --sanitize-status /dev/ide-DATA`)
    expect([...(await bytesOf(data, DATA_BYTES - 4, 4))]).toEqual([0xed, 0xde, 0xad, 0x2b])
  })

  test('a disc is mounted, ejected by the guest, and changed by the user', async () => {
    expect(await guest.must('mount -o ro /dev/sr0 /mnt && cat /mnt/name.txt && umount /mnt')).toBe('the first disc')
    await guest.must('eject /dev/sr0')
    expect((await guest.run('mount -o ro /dev/sr0 /mnt')).status).not.toBe(0)
    await guest.drives.eject(2)
    guest.drives.insert(2, discOf('SECOND', 'the second disc'))
    expect(await guest.must('mount -o ro /dev/sr0 /mnt && cat /mnt/name.txt')).toBe('the second disc')
    await expect(guest.drives.eject(2)).rejects.toThrow(/locked/)
    await guest.must('umount /mnt')
    await guest.drives.eject(2)
    expect((await guest.run('mount -o ro /dev/sr0 /mnt')).status).not.toBe(0)
  })
})

describe('pata_oldpiix and ata_generic on a PIIX, booted from its CD-ROM', () => {
  let guest: Guest
  const data = new Disk(asDevice(new Memory(DATA_BYTES)), { serial: 'DATA' })

  beforeAll(async () => {
    const debian = await buildDebianGuest()
    guest = await bootGuest({
      guest: debian,
      drives: [
        { if: 'ide', disk: data, chip: 'piix', bootindex: 2 },
        { if: 'ide', media: 'cdrom', disk: await openDisk(debian.cd, { format: 'raw', readOnly: true }), bootindex: 1 },
      ],
    })
    await guest.waitFor(READY_MARK, { timeout: 300_000 })
    await guest.must('dmesg -n 1; modprobe sd_mod')
    await guest.must(DISK_COMES)
  })

  afterAll(() => guest?.close())

  const modes = () => guest.must('cat /sys/class/ata_device/dev?.0/xfer_mode')
  const reload = (...modules: readonly string[]) =>
    guest.must(`cd /; umount /cdrom; busybox rmmod isofs sr_mod cdrom sd_mod ata_generic pata_oldpiix ata_piix libata
      ${modules.map((module) => `modprobe ${module}`).join('\n')}
      modprobe sd_mod; modprobe sr_mod; modprobe isofs
      ${DISK_COMES}
      while [ ! -b /dev/sr0 ]; do usleep 50000; done
      mount -t iso9660 -o ro /dev/sr0 /cdrom`)

  /** Checks the CD-ROM, and that a disk reads and writes. */
  async function exercise(at: number): Promise<void> {
    expect(await guest.must(`busybox sha256sum < /cdrom/${CD_PATTERN_PATH}`)).toContain(sha256(cdPattern()))
    await guest.must(`busybox dd if=/cdrom/${CD_PATTERN_PATH} of=/dev/sda bs=64k seek=${at} conv=fsync
      echo 3 > /proc/sys/vm/drop_caches
      busybox dd if=/dev/sda bs=64k skip=${at} count=32 | busybox cmp - /cdrom/${CD_PATTERN_PATH}`)
    expect(sha256(await bytesOf(data, at * 65536, 2 << 20))).toBe(sha256(cdPattern()))
  }

  test('pata_oldpiix, by multiword DMA', async () => {
    expect(await guest.must('cat /proc/modules')).toMatch(/^pata_oldpiix /m)
    expect(await modes()).toMatch(/XFER_MW_DMA_2/)
    await exercise(1)
  })

  test('ata_generic, by PIO', async () => {
    await reload('libata dma=0', 'ata_generic all_generic_ide=1')
    expect(await modes()).toMatch(/XFER_PIO_/)
    await exercise(100)
  })
})

test('GRUB reads with its own ATA driver, without the BIOS', async () => {
  const debian = await buildDebianGuest()
  const disk = await openGuestDisk(debian, { loader: 'ata' })
  const first = 1000
  const payload = cdPattern().subarray(0, 128 << 10)
  const kernel = summingKernel(await readFile(debian.kernel), payload)
  await disk.write(first * 512, bytesVec(kernel))
  // What GRUB reads before its configuration: the kernel as a list of sectors of its own first ATA disk
  const script = `linux (ata0)${first}+${kernel.length / 512}\nboot\n`.padEnd(512, '\n')
  await disk.write(ARGUMENTS_OFFSET, bytesVec(new TextEncoder().encode(script)))
  const guest = await bootGuest({ guest: debian, drives: [{ if: 'ide', disk, bootindex: 1 }] })
  try {
    expect(await guest.waitFor(/SUM [0-9A-F]{8}/, { timeout: 240_000 })).toBe(`SUM ${sumOf(payload)}`)
  } finally {
    await guest.close()
  }
})
