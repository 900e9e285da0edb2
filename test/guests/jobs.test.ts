/** Jobs on the disk of a Debian guest while fio writes to it and verifies what it wrote. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { buildDebianGuest } from '../../guests/debian/index.ts'
import { bootGuest, type Guest, openGuestDisk } from '../../guests/harness.ts'
import type { Disk } from '../../src/block/disk.ts'
import { bytesVec } from '../../src/block/iovec.ts'
import { layers } from '../../src/block/jobs/chain.ts'
import type { Job } from '../../src/block/jobs/job.ts'
import { createImage, openDisk, openImage } from '../../src/block/open.ts'
import { lacks, runTool, temporaryFolder } from '../tools.ts'

const MIB = 1 << 20
const SIZE = 24 * MIB
const DATA = 1

const folder = temporaryFolder()
let guest: Guest
let data: Disk

beforeAll(async () => {
  const debian = await buildDebianGuest()
  await createImage(folder.file('data.qcow2'), 'qcow2', SIZE)
  data = await openDisk(folder.file('data.qcow2'), { format: 'qcow2' })
  guest = await bootGuest({
    guest: debian,
    drives: [
      { if: 'virtio', disk: await openGuestDisk(debian), serial: 'root', bootindex: 1 },
      { if: 'virtio', disk: data, serial: 'data' },
    ],
  })
  await guest.ready()
  // Each round writes all over the disk, overwrites and trims some of it, and reads all of it back.
  await guest.must(`cat > /tmp/load << 'END'
n=0
while [ ! -e /tmp/stop ]; do
  fio --name=load --filename=/dev/vdb --ioengine=libaio --direct=1 --iodepth=8 --rw=randwrite --bsrange=4k-64k \\
    --size=4m --offset=$((n % 5 * 4))m --randseed=$n --verify=crc32c --verify_fatal=1 --do_verify=1 --fsync=32 \\
    > /tmp/fio.log 2>&1 || { echo failed > /tmp/verdict; exit; }
  n=$((n + 1)); echo $n > /tmp/rounds
done
echo sound > /tmp/verdict
END
echo 0 > /tmp/rounds; sh /tmp/load > /dev/null 2>&1 &`)
})

afterAll(async () => {
  await guest?.close()
  folder.remove()
})

/** Waits until fio has read back what it wrote before. */
async function aRound(): Promise<void> {
  await guest.must(
    'n=$(cat /tmp/rounds); while [ $(cat /tmp/rounds) -lt $((n + 1)) ] && [ ! -e /tmp/verdict ]; do sleep 0.2; done; [ ! -e /tmp/verdict ]',
  )
}

async function written(rounds: number): Promise<void> {
  const before = data.stats.writes
  while (data.stats.writes < before + rounds) await new Promise((resolve) => setTimeout(resolve, 20))
}

async function bytesOf(device: { size: number; read(at: number, into: ReturnType<typeof bytesVec>): unknown }) {
  const bytes = new Uint8Array(device.size)
  await device.read(0, bytesVec(bytes))
  return bytes
}

async function imageBytes(file: string, format: string): Promise<Uint8Array> {
  const image = await openImage(file, { format, readOnly: true })
  const bytes = await bytesOf(image)
  await image.close()
  return bytes
}

/** Holds the guest's CPU while `body` runs. */
async function stopped<T>(body: () => Promise<T>): Promise<T> {
  await guest.emulator.stop()
  await guest.drives.drain()
  try {
    return await body()
  } finally {
    await guest.emulator.run()
  }
}

async function untilReady(job: Job): Promise<void> {
  while (job.status !== 'ready') await job.next()
}

const depth = () => [...layers(data.root)].length

describe('while fio writes and verifies', () => {
  test('a backup is the disk of the moment at which it began, though a state is saved meanwhile', async () => {
    await written(50)
    const target = folder.file('backup.raw')
    const job = guest.drives.backup(DATA, { target, format: 'raw', maxChunk: 65536, maxWorkers: 2 })
    const moment = await stopped(async () => {
      await job.next()
      return bytesOf(data)
    })
    let seen = 0
    for await (const { done, total } of job) {
      expect(done).toBeLessThanOrEqual(total)
      if (++seen === 5) expect((await guest.emulator.save_state()).byteLength).toBeGreaterThan(MIB)
    }
    expect(seen).toBeGreaterThan(10)
    expect(Buffer.compare(await imageBytes(target, 'raw'), moment)).toBe(0)
    await written(10)
    expect(Buffer.compare(await bytesOf(data), moment)).not.toBe(0)
  })

  test('an incremental backup brings it up to date', async () => {
    const bitmaps = guest.drives.bitmaps(DATA)
    await bitmaps.add('since')
    const target = folder.file('chain.qcow2')
    await guest.drives.backup(DATA, { target, sync: 'full' }).run()
    await written(30)
    const job = guest.drives.backup(DATA, { target, mode: 'existing', sync: 'incremental', bitmap: 'since' })
    const moment = await stopped(async () => {
      await job.next()
      return bytesOf(data)
    })
    await job.run()
    expect(job.progress.done).toBeLessThanOrEqual(SIZE)
    expect(Buffer.compare(await imageBytes(target, 'qcow2'), moment)).toBe(0)
    await bitmaps.remove('since')
  })

  test('a mirror that is not pivoted to is the disk of the moment at which it was completed', async () => {
    const target = folder.file('mirror.qcow2')
    const job = guest.drives.mirror(DATA, { target, copyMode: 'background', create: { clusterSize: 4096 } })
    await untilReady(job)
    await written(30)
    const moment = await stopped(async () => {
      await job.complete({ pivot: false })
      return bytesOf(data)
    })
    expect(Buffer.compare(await imageBytes(target, 'qcow2'), moment)).toBe(0)
  })

  test('the guest goes on in a mirror that takes the place of its disk', async () => {
    const target = folder.file('next.qcow2')
    const job = guest.drives.mirror(DATA, { target, copyMode: 'write-blocking' })
    await untilReady(job)
    await guest.emulator.save_state()
    await written(30)
    await job.complete()
    if (!lacks('qemu-img')) await runTool('qemu-img', 'check', '-q', folder.file('data.qcow2'))
    await aRound()
  })

  test('a snapshot is taken, and streamed into what is over it', async () => {
    await guest.drives.snapshot(DATA, { snapshotFile: folder.file('over.qcow2') }).run()
    expect(depth()).toBe(2)
    await written(50)
    const job = guest.drives.stream(DATA, { speed: 64 * MIB })
    await job.next()
    job.pause()
    const ran = job.run()
    const { done } = job.progress
    await written(20)
    expect([job.status, job.progress.done]).toEqual(['paused', done])
    job.resume()
    await ran
    expect(depth()).toBe(1)
    await aRound()
  })

  test('a snapshot is taken back by committing what was written since', async () => {
    await guest.drives.snapshot(DATA, { snapshotFile: folder.file('top.qcow2') }).run()
    await written(50)
    const job = guest.drives.commit(DATA)
    await untilReady(job)
    await written(20)
    await job.complete()
    expect(depth()).toBe(1)
    await aRound()
  })

  test('the guest notices that its disk has grown', async () => {
    await guest.drives.resize(DATA, SIZE + 16 * MIB)
    expect(await guest.must('sleep 0.2; blockdev --getsize64 /dev/vdb')).toBe(String(SIZE + 16 * MIB))
    await expect(guest.drives.resize(DATA, SIZE)).rejects.toMatchObject({ code: 'EBUSY' })
  })

  test('all that fio wrote was there, and the copies are the same', async () => {
    await guest.must('touch /tmp/stop; while [ ! -e /tmp/verdict ]; do sleep 0.2; done')
    expect(await guest.must('cat /tmp/verdict')).toBe('sound')
    const target = folder.file('last.qcow2')
    const job = guest.drives.mirror(DATA, { target })
    await untilReady(job)
    await job.complete({ pivot: false })
    guest.type('poweroff\n')
    await guest.poweredOff
    await guest.close()
    if (lacks('qemu-img')) return
    await runTool('qemu-img', 'compare', folder.file('over.qcow2'), target)
    for (const file of ['over.qcow2', 'last.qcow2', 'mirror.qcow2']) {
      await runTool('qemu-img', 'check', '-q', folder.file(file))
    }
  })
})
