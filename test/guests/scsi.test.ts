/** An unmodified Linux with its sym53c8xx driver, and SeaBIOS with its own, on the 53C895A; sg3-utils ask the target. */
import { spawnSync } from 'node:child_process'
import { closeSync, ftruncateSync, mkdirSync, openSync, writeSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { buildDebianGuest } from '../../guests/debian/index.ts'
import { bootGuest, type Guest, openGuestDisk } from '../../guests/harness.ts'
import { asDevice } from '../../src/block/device.ts'
import { Disk } from '../../src/block/disk.ts'
import type { IoVec } from '../../src/block/iovec.ts'
import type { Now } from '../../src/block/now.ts'
import { createImage, openDisk } from '../../src/block/open.ts'
import { Memory } from '../../src/block/protocols/memory.ts'
import { Faulty } from '../conformance/faulty.ts'
import { temporaryFolder } from '../tools.ts'
import { iso } from './iso.ts'

const DISK = 64 << 20

/** A medium that takes its time, and loses the answer of a read now and then. */
class Forgetful extends Faulty {
  /** Reads that will not be answered any more. */
  losing = 0
  lost = 0
  readonly #late: (() => void)[] = []
  /** Milliseconds for each request. */
  delay = 0

  /** Answers the lost reads after all, so that the disk can be closed. */
  remember(): void {
    for (const answer of this.#late.splice(0)) answer()
  }

  override read(at: number, into: IoVec): Now<void> {
    if (this.losing > 0) {
      this.losing--
      this.lost++
      return new Promise((resolve) => this.#late.push(resolve))
    }
    if (this.delay === 0) return super.read(at, into)
    return new Promise<void>((resolve) => setTimeout(resolve, this.delay)).then(() => super.read(at, into))
  }

  override write(...request: Parameters<Faulty['write']>): Now<void> {
    if (this.delay === 0) return super.write(...request)
    return new Promise<void>((resolve) => setTimeout(resolve, this.delay)).then(() => super.write(...request))
  }
}

const folder = temporaryFolder()
const discOf = (volume: string, text: string) =>
  new Disk(asDevice(Memory.from(iso(volume, { 'NAME.TXT': new TextEncoder().encode(text) }), { readOnly: true })))

let guest: Guest
const memory = new Memory(DISK)
const faulty = new Forgetful(asDevice(memory))
const disk = new Disk(asDevice(faulty), { serial: 'SCSI-TEST-1' })
const small = new Memory(16 << 20)
const second = new Disk(asDevice(small))
/** A file in the file system of 12 free MiB that the thin disk is in, where this user may mount one; without it there is more room. */
let ballast: number | undefined

/** Where the drives are among those of the machine. */
const DISC = 6

/** A sparse image of 64 MiB. Its file system has no name any more: it goes with this process, however that ends. */
async function thinImage(): Promise<Disk> {
  const tiny = folder.file('tiny')
  mkdirSync(tiny)
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64M', 'tmpfs', tiny]).status === 0
  try {
    if (mounted) {
      ballast = openSync(path.join(tiny, 'ballast'), 'w')
      writeSync(ballast, Buffer.alloc(52 << 20))
    }
    const name = path.join(tiny, 'thin.qcow2')
    await createImage(name, 'qcow2', DISK)
    return await openDisk(name, { format: 'qcow2', discard: 'unmap', werror: 'report', serial: 'THIN' })
  } finally {
    if (mounted) spawnSync('umount', ['--lazy', tiny])
  }
}

beforeAll(async () => {
  const debian = await buildDebianGuest()
  guest = await bootGuest({
    guest: debian,
    drives: [
      { if: 'scsi', disk: await openGuestDisk(debian), bootindex: 1 },
      {
        if: 'scsi',
        scsiId: 3,
        disk,
        vendor: 'ACME',
        product: 'ROCKET',
        ver: '2.5',
        wwn: 0x5000c50012345678n,
        rotationRate: 1,
      },
      { if: 'scsi', scsiId: 9, disk: second },
      { if: 'scsi', scsiId: 9, lun: 3, disk: new Disk(asDevice(new Memory(4 << 20))), removable: true },
      { if: 'scsi', scsiId: 4, disk: await thinImage() },
      { if: 'scsi', chip: 'lsi53c810', disk: new Disk(asDevice(new Memory(8 << 20))) },
      { if: 'scsi', scsiId: 5, media: 'cdrom', disk: discOf('FIRST', 'the first disc') },
    ],
  })
  await guest.ready()
  await guest.must(`for d in /sys/block/sd* /sys/block/sr*; do
    case $(readlink $d/device) in
      *0:0:3:0) n=three;; *0:0:9:0) n=nine;; *0:0:9:3) n=lun;; *0:0:4:0) n=thin;; *0:0:5:0) n=disc;; *) continue;;
    esac
    ln -sf /dev/\${d##*/} /dev/$n
  done; ls -l /dev/three /dev/nine /dev/lun /dev/thin /dev/disc`)
})

afterAll(async () => {
  faulty.remember()
  await guest?.close()
  if (ballast !== undefined) closeSync(ballast)
  folder.remove()
})

describe('Linux', () => {
  test('the root file system is on SCSI disk 0, which SeaBIOS booted from', async () => {
    expect(await guest.must('readlink /sys/block/$(basename $(findmnt -no SOURCE / | tr -d 0-9))/device')).toMatch(
      /0:0:0:0$/,
    )
  })

  test('negotiates wide and fast transfers and tagged commands', async () => {
    expect(await guest.must('cat /sys/class/spi_transport/target0:0:3/width')).toBe('1')
    expect(Number(await guest.must('cat /sys/class/spi_transport/target0:0:3/offset'))).toBeGreaterThan(0)
    expect(await guest.must('cat /sys/class/scsi_device/0:0:3:0/device/queue_depth')).toBe('16')
  })

  test('sees the identity, and a disk that does not rotate', async () => {
    expect(await guest.must('sg_inq /dev/three')).toMatch(
      /Vendor identification: ACME[\s\S]*ROCKET[\s\S]*2\.5[\s\S]*SCSI-TEST-1/,
    )
    expect(await guest.must('cat /sys/block/$(basename $(readlink /dev/three))/queue/rotational')).toBe('0')
    expect(await guest.must('sg_vpd -p di /dev/three')).toMatch(/5000c50012345678/)
  })

  test.each(['sv', 'sn', 'di', 'bl', 'bdc', 'lbpv'])('sg_vpd -p %s', async (page) => {
    expect(await guest.must(`sg_vpd -p ${page} /dev/three`)).toMatch(/VPD|page|serial/i)
  })

  test('sg_modes, sg_logs, sg_opcodes, sg_readcap --16, sg_luns, sg_requests', async () => {
    expect(await guest.must('sg_modes -a /dev/three')).toMatch(/Caching/)
    expect(await guest.must('sg_logs -a /dev/three')).toMatch(/Supported log pages/)
    expect(await guest.must('sg_opcodes /dev/three')).toMatch(/Unmap[\s\S]*Compare and write/i)
    expect(await guest.must('sg_opcodes --opcode=0x42 --mask /dev/three')).toMatch(/usage/i)
    expect(await guest.must('sg_opcodes --tmf /dev/three')).toMatch(/Logical unit reset/i)
    expect(await guest.must('sg_readcap --16 /dev/three')).toMatch(/lbpme=1, lbprz=1[\s\S]*131072/)
    expect(await guest.must('sg_luns /dev/three')).toMatch(/0000000000000000/)
    await guest.must('sg_requests /dev/three')
  })

  test('sg_unmap and sg_get_lba_status: a range is given up and says so', async () => {
    await guest.must('dd if=/dev/urandom of=/dev/three bs=64k count=4 oflag=direct conv=fsync')
    expect(await guest.must('sg_get_lba_status --lba=0 /dev/three')).toMatch(/mapped/)
    await guest.must('sg_unmap --force --lba=0 --num=128 /dev/three')
    expect(await guest.must('sg_get_lba_status --lba=0 /dev/three')).toMatch(/deallocated/)
    await guest.must('cmp -n 65536 /dev/three /dev/zero')
  })

  test('sg_write_same, sg_compare_and_write, sg_verify, sg_sync, sg_prefetch', async () => {
    await guest.must('dd if=/dev/urandom of=/tmp/block bs=512 count=1')
    await guest.must('sg_write_same --16 --in=/tmp/block --lba=1000 --num=50 --xferlen=512 /dev/three')
    await guest.must(
      'for i in 0 1 49; do dd if=/dev/three bs=512 skip=$((1000+i)) count=1 iflag=direct | cmp - /tmp/block || exit 1; done',
    )
    await guest.must('sg_verify --lba=1000 --count=50 /dev/three')
    await guest.must(
      'cat /tmp/block /dev/zero | head -c 1024 > /tmp/caw; sg_compare_and_write --in=/tmp/caw --lba=1000 --num=1 --xferlen=1024 /dev/three',
    )
    expect(
      (await guest.run('sg_compare_and_write --in=/tmp/caw --lba=1000 --num=1 --xferlen=1024 /dev/three')).status,
    ).toBe(14)
    await guest.must('sg_sync /dev/three')
  })

  test('sg_persist: register, reserve, release', async () => {
    await guest.must('sg_persist --out --register --param-sark=0x1234 /dev/three')
    expect(await guest.must('sg_persist --in -k /dev/three')).toMatch(/0x1234/)
    await guest.must('sg_persist --out --reserve --param-rk=0x1234 --prout-type=1 /dev/three')
    expect(await guest.must('sg_persist --in -r /dev/three')).toMatch(/Write Exclusive/)
    await guest.must('sg_persist --out --release --param-rk=0x1234 --prout-type=1 /dev/three')
    await guest.must('sg_persist --out --register --param-rk=0x1234 --param-sark=0 /dev/three')
  })

  test('mkfs, fstrim and blkdiscard: space comes back', async () => {
    await guest.must(
      'mkfs.ext4 -q -F /dev/nine && mount /dev/nine /mnt && dd if=/dev/urandom of=/mnt/f bs=1M count=6 conv=fsync && rm /mnt/f && sync',
    )
    const before = small.allocated()
    await guest.must('fstrim -v /mnt && umount /mnt')
    expect(small.allocated()).toBeLessThan(before - (5 << 20))
    await guest.must('blkdiscard /dev/nine')
    await guest.must('cmp -n 4194304 /dev/nine /dev/zero')
  })

  test('fio verifies what it wrote at queue depth 32, with a disk that answers later, is reset, saved and restored', async () => {
    faulty.delay = 1
    const job =
      '--name=v --filename=/dev/three --size=4M --rw=randwrite --bsrange=4k-64k --ioengine=libaio --iodepth=32 --direct=1'
    const fio = guest.run(
      `( (sleep 0.3; sg_reset -b -N /dev/three > /dev/null 2>&1) & ); fio ${job} --verify=crc32c --do_verify=1 --minimal | cut -d';' -f5`,
      { timeout: 240_000 },
    )
    const before = faulty.counts.write
    await expect.poll(() => faulty.counts.write - before, { interval: 1, timeout: 120_000 }).toBeGreaterThan(50)
    const state = await guest.emulator.save_state()
    const saved = faulty.counts.write
    expect((await fio).output.trim()).toBe('0')
    expect(faulty.counts.write).toBeGreaterThan(saved + 20)
    const all = faulty.counts.write
    await guest.emulator.restore_state(state)
    expect(await guest.waitFor(/\d+\n\n>=\d+= 0\n/, { timeout: 120_000 })).toMatch(/^0\n/)
    expect(faulty.counts.write).toBeGreaterThan(all + 20)
    faulty.delay = 0
  })

  test('a command whose answer is lost is aborted, and sent again', async () => {
    const name = await guest.must('basename $(readlink /dev/three)')
    await guest.must(`echo 2 > /sys/block/${name}/device/timeout; dmesg -C`)
    faulty.losing = 1
    await guest.must('dd if=/dev/three of=/dev/null bs=4k count=1 skip=999 iflag=direct')
    expect([faulty.losing, faulty.lost]).toEqual([0, 1])
    expect(await guest.must('dmesg')).toMatch(/ABORT operation complete/)
    faulty.losing = 3
    await guest.must('for i in 1 2 3; do dd if=/dev/three of=/dev/null bs=4k count=1 skip=$i iflag=direct & done; wait')
    await guest.must('dd if=/dev/three of=/dev/null bs=64k count=10 iflag=direct')
    expect(faulty.lost).toBe(4)
    await guest.must(`echo 30 > /sys/block/${name}/device/timeout`)
  })

  test('an error of the host is a medium error in the guest, and a reset of device and bus goes well', async () => {
    faulty.fail('read', 'EIO', 50)
    expect((await guest.run('dd if=/dev/three of=/dev/null bs=4k count=1 iflag=direct')).status).not.toBe(0)
    faulty.fail('read', 'EIO', 0)
    await guest.must('sg_reset -d -N /dev/three')
    await guest.must('sg_reset -b -N /dev/three')
    await guest.must('dd if=/dev/three of=/dev/null bs=4k count=10 iflag=direct')
  })

  test('a second LUN of the target is another disk, and says that it is removable', async () => {
    const name = await guest.must('basename $(readlink /dev/lun)')
    expect(await guest.must(`cat /sys/block/${name}/removable /sys/block/${name}/size`)).toBe(`1\n${(4 << 20) / 512}`)
    expect(await guest.must('sg_luns /dev/nine')).toMatch(/0000000000000000[\s\S]*0003000000000000/)
    await guest.must('dd if=/dev/urandom of=/dev/lun bs=64k count=4 oflag=direct')
  })

  test('a disk on a 53C810, which has no SCRIPTS RAM and a narrow bus', async () => {
    // Linux numbers the host adapters as it likes
    await guest.must(`for d in /sys/block/sd*; do [ $(cat $d/size) != 16384 ] || ln -sf /dev/\${d##*/} /dev/old; done`)
    const address = await guest.must('basename $(readlink /sys/block/$(basename $(readlink /dev/old))/device)')
    expect(address).toMatch(/^[1-9]:0:0:0$/)
    const agreements = await guest.must(`ls /sys/class/spi_transport/target${address.slice(0, 5)}`)
    expect(agreements).toMatch(/\boffset\b/)
    expect(agreements).not.toMatch(/width/)
    await guest.must(
      'dd if=/dev/urandom of=/tmp/noise bs=64k count=8 && dd if=/tmp/noise of=/dev/old bs=64k oflag=direct',
    )
    await guest.must('dd if=/dev/old bs=64k count=8 iflag=direct | cmp - /tmp/noise')
  })

  test('a CD-ROM is mounted, and the disc changed by the user and ejected by the guest', async () => {
    expect(await guest.must('mount -o ro /dev/disc /mnt && cat /mnt/name.txt && umount /mnt')).toBe('the first disc')
    await guest.drives.eject(DISC)
    expect((await guest.run('dd if=/dev/disc of=/dev/null bs=2k count=1')).status).not.toBe(0)
    guest.drives.insert(DISC, discOf('SECOND', 'the second disc'))
    expect(await guest.must('mount -o ro /dev/disc /mnt && cat /mnt/name.txt && umount /mnt')).toBe('the second disc')
    await guest.must('eject /dev/disc')
    expect((await guest.run('sg_turs /dev/disc')).status).not.toBe(0)
    await guest.must('eject -t /dev/disc && mount -o ro /dev/disc /mnt && umount /mnt')
  })

  test('the guest is told when the image has grown to a threshold, and of a host that is full', async ({ skip }) => {
    if (ballast === undefined) skip('this user may not mount a file system to fill')
    await guest.must('dmesg -C; dd if=/dev/urandom of=/dev/thin bs=1M count=1 oflag=direct')
    expect(await guest.must('sg_logs -p 0xc /dev/thin')).toMatch(/Used LBA mapping threshold resource count:/)
    // LBPERE, then the first threshold: 5 MiB used
    const zeroes = (count: number) => new Array<string>(count).fill('0').join(',')
    await guest.must(`sg_wr_mode -p 1 -c 1,a,0,0,0,0,0,80,0,0,0,0 -m 0,0,0,0,0,0,0,80,0,0,0,0 /dev/thin`)
    await guest.must(
      `sg_wr_mode -p 1c,2 -c 5c,2,0,2c,${zeroes(12)},81,2,0,0,0,0,0,5,${zeroes(24)} ` +
        `-m ${zeroes(16)},ff,ff,0,0,ff,ff,ff,ff,${zeroes(24)} /dev/thin`,
    )
    expect(await guest.must('dmesg')).not.toMatch(/soft threshold/)
    await guest.must('dd if=/dev/urandom of=/dev/thin bs=64k seek=16 count=96 oflag=direct')
    expect((await guest.must('dmesg')).match(/reached a thin provisioning soft threshold/g)).toHaveLength(1)
    const full = await guest.run('dd if=/dev/urandom of=/dev/thin bs=64k seek=160 count=200 oflag=direct')
    expect([full.status, full.output]).toEqual([1, expect.stringContaining('No space left on device')])
    expect(await guest.must('dmesg')).toMatch(/Space allocation failed write protect|critical space allocation error/)
    ftruncateSync(ballast!, 0)
    await guest.must('blkdiscard -o $((1 << 20)) -l $((8 << 20)) /dev/thin')
    await guest.must('dd if=/dev/urandom of=/dev/thin bs=64k seek=160 count=8 oflag=direct')
  })

  test('sg_sanitize overwrites all of it', async () => {
    await guest.must(
      'yes | sg_sanitize --overwrite --zero --quick --wait /dev/nine || sg_sanitize --overwrite --zero --quick --wait --early /dev/nine',
      { timeout: 240_000 },
    )
    await guest.must('cmp -n 1048576 /dev/nine /dev/zero')
  })
})
