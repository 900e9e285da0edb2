/** An unmodified Debian on virtio-blk: firmware, boot loader and kernel read from block86, and what goes wrong goes wrong well. */
import { truncate, writeFile } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { buildDebianGuest } from '../../guests/debian/index.ts'
import { bootGuest, type Guest, openGuestDisk } from '../../guests/harness.ts'
import { BlockDevice, type BlockDriver } from '../../src/block/device.ts'
import { Disk } from '../../src/block/disk.ts'
import { BlockError, type Errno } from '../../src/block/error.ts'
import type { IoVec } from '../../src/block/iovec.ts'
import { openDisk } from '../../src/block/open.ts'
import { Memory } from '../../src/block/protocols/memory.ts'
import { lacks, runTool, temporaryFolder } from '../tools.ts'

const MIB = 1 << 20

/** A disk in memory that answers late, or fails, when it is told to. */
class Moody implements BlockDriver {
  readonly name = 'moody'
  readonly memory = new Memory(16 * MIB)
  /** Milliseconds until an answer comes; 0: at once. */
  delay = 0
  failure: Errno | undefined
  writes = 0

  get size(): number {
    return this.memory.size
  }

  read(at: number, into: IoVec): void | Promise<void> {
    return this.#answer(() => this.memory.read(at, into))
  }

  write(at: number, from: IoVec): void | Promise<void> {
    this.writes++
    return this.#answer(() => this.memory.write(at, from))
  }

  flush(): void {}

  #answer(body: () => void): void | Promise<void> {
    if (this.failure !== undefined) throw new BlockError(this.failure, `moody says ${this.failure}`)
    if (this.delay === 0) return body()
    return new Promise<void>((resolve) => setTimeout(resolve, this.delay)).then(body)
  }
}

const folder = temporaryFolder()
const image = folder.file('data.img')
const moody = new Moody()
let guest: Guest
let root: Disk
let data: Disk
let onStop: (message: string) => void
const stopped = new Promise<string>((resolve) => {
  onStop = resolve
})

beforeAll(async () => {
  const debian = await buildDebianGuest()
  await writeFile(image, '')
  await truncate(image, 64 * MIB)
  await writeFile(folder.file('huge.img'), '')
  await truncate(folder.file('huge.img'), 2 ** 40)
  root = await openGuestDisk(debian)
  data = await openDisk(image, { format: 'raw', cache: 'none' })
  const huge = await openDisk(folder.file('huge.img'), { format: 'raw' })
  guest = await bootGuest({
    guest: debian,
    drives: [
      { if: 'virtio', disk: root, serial: 'root', bootindex: 1 },
      { if: 'virtio', disk: data, serial: 'data' },
      { if: 'virtio', disk: new Disk(new BlockDevice(moody), { name: 'moody' }), serial: 'moody' },
      { if: 'virtio', disk: huge, serial: 'huge' },
    ],
    onStop: (_, error) => onStop(error.message),
  })
  await guest.ready()
})

afterAll(async () => {
  await guest?.close()
  folder.remove()
})

describe('a Debian guest', () => {
  test('has its root on the disk that the firmware booted from, and knows every disk by serial and size', async () => {
    expect(await guest.must("sed -n 's, / .*,,p' /proc/mounts")).toBe('/dev/vda1')
    const facts = await guest.must('cd /sys/block; for d in vd?; do echo $d $(cat $d/serial) $(cat $d/size); done')
    expect(facts.split('\n')).toEqual([
      'vda root 1048576',
      `vdb data ${(64 * MIB) / 512}`,
      `vdc moody ${(16 * MIB) / 512}`,
      `vdd huge ${2 ** 40 / 512}`,
    ])
  })

  test('reads the last sector of a terabyte that is not there', async () => {
    const last = 2 ** 40 / 4096 - 1
    expect(await guest.must(`dd if=/dev/vdd bs=4k skip=${last} count=1 iflag=direct 2> /dev/null | md5sum`)).toContain(
      '620f0b67a91f7f74151bc5be745b7110',
    )
  })

  test('formats, writes, syncs and trims; flushes and discards reach the image', async () => {
    await guest.must('mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/vdb && mount /dev/vdb /mnt')
    await guest.must('dd if=/dev/urandom of=/mnt/a bs=1M count=8 2> /dev/null; cp /mnt/a /mnt/b; sync')
    await guest.must('md5sum /mnt/b > /mnt/sum')
    const full = await data.device.allocated()
    const { flushes } = data.stats
    expect(flushes).toBeGreaterThan(0)
    await guest.must('rm /mnt/a; sync; fstrim /mnt')
    expect(data.stats.discards).toBeGreaterThan(0)
    expect(await data.device.allocated()).toBeLessThan(full - 7 * MIB)
  })

  test('notices that a disk has grown', async () => {
    await data.resize(80 * MIB)
    expect(await guest.must('sleep 0.1; cat /sys/block/vdb/size')).toBe(String((80 * MIB) / 512))
    await guest.must('resize2fs /dev/vdb')
    expect(Number(await guest.must("df -m /mnt | awk 'END { print $2 }'"))).toBeGreaterThan(60)
  })

  test('is told EIO, and goes on', async () => {
    moody.failure = 'EIO'
    const { status, output } = await guest.run('dd if=/dev/vdc of=/dev/null bs=4k count=1 iflag=direct')
    moody.failure = undefined
    expect([status !== 0, output.includes('Input/output error')]).toEqual([true, true])
    await guest.must('dd if=/dev/vdc of=/dev/null bs=4k count=1 iflag=direct')
  })

  test('is stopped by ENOSPC, and runs on when there is room again', async () => {
    moody.failure = 'ENOSPC'
    const written = guest.run('dd if=/dev/zero of=/dev/vdc bs=64k count=4 oflag=direct')
    expect(await stopped).toBe('moody is stopped: moody says ENOSPC')
    await expect.poll(() => guest.emulator.is_running()).toBe(false)
    moody.failure = undefined
    await guest.emulator.run()
    expect((await written).status).toBe(0)
  })

  test('is saved in the middle of writing, and writes the same again when it is restored', async () => {
    await guest.must('dd if=/dev/urandom of=/tmp/pattern bs=1M count=6 2> /dev/null')
    moody.delay = 2
    const before = moody.writes
    const writing = guest.run('dd if=/tmp/pattern of=/dev/vdc bs=32k oflag=direct && echo 3 > /proc/sys/vm/drop_caches')
    await expect.poll(() => moody.writes - before, { interval: 1, timeout: 60_000 }).toBeGreaterThan(20)
    const state = await guest.emulator.save_state()
    const saved = moody.writes - before
    expect((await writing).status).toBe(0)
    const all = moody.writes - before
    expect(saved).toBeLessThan(all)
    moody.memory.zero(MIB * 6 - 32768, 32768)
    await guest.emulator.restore_state(state)
    await guest.waitFor(/\n>=\d+= 0\n/)
    expect(moody.writes - before).toBe(all + all - saved)
    moody.delay = 0
    await guest.must('cmp -n $((6 << 20)) /tmp/pattern /dev/vdc')
  })

  test('finds its data again when it is reset in the middle of writing', async () => {
    moody.delay = 5
    const before = moody.writes
    guest.type('dd if=/tmp/pattern of=/dev/vdc bs=32k oflag=direct\n')
    await expect.poll(() => moody.writes - before, { interval: 1, timeout: 60_000 }).toBeGreaterThan(3)
    guest.emulator.restart()
    moody.delay = 0
    await guest.ready()
    expect(await guest.must('mount /dev/vdb /mnt && md5sum -c /mnt/sum')).toBe('/mnt/b: OK')
    await guest.must('umount /mnt; e2fsck -fn /dev/vdb')
  })

  test('turns itself off, and another program finds the file system sound', async () => {
    guest.type('poweroff\n')
    await guest.poweredOff
    await guest.close()
    if (!lacks('e2fsck')) await runTool('e2fsck', '-fn', image)
  })
})
