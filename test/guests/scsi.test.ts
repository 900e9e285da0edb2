/** An unmodified Linux with its sym53c8xx driver, and SeaBIOS with its own, on the 53C895A; sg3-utils ask the target. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { buildDebianGuest } from '../../guests/debian/index.ts'
import { bootGuest, type Guest, openGuestDisk } from '../../guests/harness.ts'
import { asDevice } from '../../src/block/device.ts'
import { Disk } from '../../src/block/disk.ts'
import { Memory } from '../../src/block/protocols/memory.ts'
import { Faulty } from '../conformance/faulty.ts'

const DISK = 64 << 20

let guest: Guest
const memory = new Memory(DISK)
const faulty = new Faulty(asDevice(memory))
const disk = new Disk(asDevice(faulty), { serial: 'SCSI-TEST-1' })
const small = new Memory(16 << 20)
const second = new Disk(asDevice(small))

beforeAll(async () => {
  const debian = await buildDebianGuest()
  guest = await bootGuest({
    guest: debian,
    drives: [
      { if: 'scsi', disk: await openGuestDisk(debian), bootindex: 1 },
      {
        if: 'scsi',
        index: 3,
        disk,
        vendor: 'ACME',
        product: 'ROCKET',
        ver: '2.5',
        wwn: 0x5000c50012345678n,
        rotationRate: 1,
      },
      { if: 'scsi', index: 9, disk: second },
    ],
  })
  await guest.ready()
  await guest.must(`for d in /sys/block/sd*; do
    case $(readlink $d/device) in *0:0:3:0) ln -sf /dev/\${d##*/} /dev/three;; *0:0:9:0) ln -sf /dev/\${d##*/} /dev/nine;; esac
  done; ls -l /dev/three /dev/nine`)
})

afterAll(() => guest?.close())

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
    expect(await guest.must('sg_readcap --16 /dev/three')).toMatch(/lbpme=1, lbprz=1[\s\S]*131072/)
    expect(await guest.must('sg_luns /dev/three')).toMatch(/0000000000000000/)
    await guest.must('sg_requests /dev/three')
  })

  test('sg_unmap and sg_get_lba_status: a range is given up and says so', async () => {
    await guest.must('dd if=/dev/urandom of=/dev/three bs=64k count=4 oflag=direct conv=fsync')
    expect(await guest.must('sg_get_lba_status --lba=0 /dev/three')).toMatch(/mapped/)
    await guest.must('sg_unmap --lba=0 --num=128 /dev/three')
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

  test('fio verifies what it wrote at queue depth 32, with a disk that answers later', async () => {
    faulty.later()
    const job =
      '--name=v --filename=/dev/three --size=8M --rw=randwrite --bsrange=4k-64k --ioengine=libaio --iodepth=32 --direct=1'
    expect(
      await guest.must(`fio ${job} --verify=crc32c --do_verify=1 --minimal | cut -d';' -f5`, { timeout: 240_000 }),
    ).toBe('0')
  })

  test('an error of the host is a medium error in the guest, and a reset of device and bus goes well', async () => {
    faulty.fail('read', 'EIO', 50)
    expect((await guest.run('dd if=/dev/three of=/dev/null bs=4k count=1 iflag=direct')).status).not.toBe(0)
    faulty.fail('read', 'EIO', 0)
    await guest.must('sg_reset -d /dev/three')
    await guest.must('sg_reset -b /dev/three')
    await guest.must('dd if=/dev/three of=/dev/null bs=4k count=10 iflag=direct')
  })

  test('sg_sanitize overwrites all of it', async () => {
    await guest.must(
      'yes | sg_sanitize --overwrite --zero --quick --wait /dev/nine || sg_sanitize --overwrite --zero --quick --wait --early /dev/nine',
      { timeout: 240_000 },
    )
    await guest.must('cmp -n 1048576 /dev/nine /dev/zero')
  })
})
