import { existsSync } from 'node:fs'
import path from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { asDevice } from '../../../src/block/device.ts'
import type { Disk } from '../../../src/block/disk.ts'
import { BlockError } from '../../../src/block/error.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { layers } from '../../../src/block/jobs/chain.ts'
import type { Job } from '../../../src/block/jobs/job.ts'
import { layerOf } from '../../../src/block/layer.ts'
import { backup, commit, dirtyBitmaps, mirror, snapshot, stream } from '../../../src/block/live.ts'
import { createImage, openDisk, openImage } from '../../../src/block/open.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { type Random, seeded } from '../../random.ts'
import { lacks, runTool, temporaryFolder } from '../../tools.ts'
import { Hammer, readAll, sameBytes } from './hammer.ts'

const MIB = 1 << 20
const SIZE = 8 * MIB

const folder = temporaryFolder()
afterAll(() => folder.remove())
let made = 0

/** A new name in the folder. */
const place = (name: string) => folder.file(`${++made}-${name}.qcow2`)

async function open(random: Random, file: string, format = 'qcow2'): Promise<{ disk: Disk; hammer: Hammer }> {
  const disk = await openDisk(file, { format, discardMinimum: 0 })
  return { disk, hammer: new Hammer(disk, random, await readAll(disk)) }
}

async function newDisk(random: Random): Promise<{ disk: Disk; hammer: Hammer; file: string }> {
  const file = place('disk')
  await createImage(file, 'qcow2', SIZE)
  return { file, ...(await open(random, file)) }
}

async function work(hammer: Hammer, requests = 60): Promise<void> {
  hammer.start()
  await hammer.work(requests)
  await hammer.stop()
}

/** Runs a job while the hammer works. */
async function underLoad(hammer: Hammer, job: Job, complete = false): Promise<void> {
  hammer.start()
  await hammer.work(20)
  if (complete) {
    while (job.status !== 'ready') await job.next()
    await hammer.work(20)
    await job.complete()
  } else await job.run()
  await hammer.work(20)
  await hammer.stop()
}

const files = (disk: Disk) => [...layers(disk.root)].map((layer) => layerOf(layer)?.file)

/** What the file holds, and other programs find sound, is what was written. */
async function verify({ disk, hammer }: { disk: Disk; hammer: Hammer }, file: string, format = 'qcow2'): Promise<void> {
  sameBytes(await readAll(disk), hammer.model, 'the disk')
  await disk.close()
  await holds(file, hammer.model, format)
}

/** The files of a chain as qemu-img finds them through the headers. */
async function chainByQemu(file: string): Promise<string[]> {
  const text = await runTool('qemu-img', 'info', '-U', '--output=json', '--backing-chain', file)
  return (JSON.parse(text) as { filename: string }[]).map(({ filename }) => path.resolve(folder.path, filename))
}

async function holds(file: string, bytes: Uint8Array, format = 'qcow2'): Promise<void> {
  const image = await openImage(file, { format, readOnly: true })
  sameBytes(await readAll(image), bytes, file)
  await image.close()
  if (lacks('qemu-img') || format !== 'qcow2') return
  await runTool('qemu-img', 'check', '-f', format, file)
}

describe('on files', () => {
  test('snapshots pile up; commit and stream take them away; everything is named, locked and let go', () =>
    seeded(async (random) => {
      const { disk, hammer, file } = await newDisk(random)
      const [one, two, three] = [place('one'), place('two'), place('three')]
      await work(hammer)
      const moments: Uint8Array[] = []
      for (const snapshotFile of [one, two, three]) {
        moments.push(hammer.model.slice())
        await snapshot(disk, { snapshotFile }).run()
        await work(hammer)
      }
      expect(files(disk)).toEqual([three, two, one, file])
      await holds(file, moments[0]!)
      await holds(two, moments[2]!)
      await expect(openImage(three, { format: 'qcow2' })).rejects.toMatchObject({ code: 'EBUSY' })
      await underLoad(hammer, commit(disk, { top: two, base: one }))
      expect(files(disk)).toEqual([three, one, file])
      if (!lacks('qemu-img')) expect(await chainByQemu(three)).toEqual([three, one, file])
      await (await openImage(two, { format: 'qcow2' })).close()
      await holds(one, moments[2]!)
      await underLoad(hammer, stream(disk, { base: file }))
      expect(files(disk)).toEqual([three, file])
      if (!lacks('qemu-img')) expect(await chainByQemu(three)).toEqual([three, file])
      await underLoad(hammer, commit(disk), true)
      expect(files(disk)).toEqual([file])
      await (await openImage(three, { format: 'raw' })).close()
      await snapshot(disk, { snapshotFile: one, create: { clusterSize: 4096 } }).run()
      await underLoad(hammer, stream(disk))
      expect(files(disk)).toEqual([one])
      await verify({ disk, hammer }, one)
    }))

  test.each(['qcow2', 'qed'])('a snapshot and a stream into %s under load lose nothing', (format) =>
    seeded(async (random) => {
      const { disk, hammer } = await newDisk(random)
      const over = place('over')
      await underLoad(hammer, snapshot(disk, { snapshotFile: over, format }))
      await underLoad(hammer, stream(disk))
      expect(files(disk)).toEqual([over])
      await verify({ disk, hammer }, over, format)
    }),
  )

  test.each([
    ['full', 'qcow2', 'background'],
    ['full', 'raw', 'write-blocking'],
    ['top', 'qcow2', 'write-blocking'],
    ['none', 'qcow2', 'background'],
  ] as const)('mirror sync=%s to a new %s file (%s)', (sync, format, copyMode) =>
    seeded(async (random) => {
      const { disk, hammer, file } = await newDisk(random)
      await work(hammer)
      const [over, target] = [place('over'), place('target')]
      await snapshot(disk, { snapshotFile: over }).run()
      await work(hammer)
      await underLoad(hammer, mirror(disk, { target, sync, format, copyMode }), true)
      expect(files(disk)).toEqual({ full: [target], top: [target, file], none: [target, over, file] }[sync])
      if (sync !== 'none') await (await openImage(over, { format: 'raw' })).close()
      await verify({ disk, hammer }, target, format)
    }),
  )

  test.each(['full', 'top'] as const)('backup sync=%s to a new file', (sync) =>
    seeded(async (random) => {
      const { disk, hammer } = await newDisk(random)
      await work(hammer)
      const [over, target] = [place('over'), place('target')]
      await snapshot(disk, { snapshotFile: over }).run()
      await work(hammer)
      const job = backup(disk, { target, sync })
      await job.next()
      const moment = hammer.model.slice()
      await underLoad(hammer, job)
      await holds(target, moment)
      await verify({ disk, hammer }, over)
    }),
  )

  test('backups are incremental by a bitmap, which a failed or canceled one leaves as it was', () =>
    seeded(async (random) => {
      const { disk, hammer, file } = await newDisk(random)
      const bitmaps = dirtyBitmaps(disk)
      await bitmaps.add('since', { granularity: 65536 })
      const full = place('full')
      await work(hammer)
      const first = backup(disk, { target: full, sync: 'bitmap', bitmap: 'since', bitmapMode: 'on-success' })
      await first.next()
      let moment = hammer.model.slice()
      expect(bitmaps.list()).toEqual([
        { name: 'since', granularity: 65536, recording: true, busy: true, inconsistent: false },
      ])
      await expect(bitmaps.remove('since')).rejects.toMatchObject({ code: 'EBUSY' })
      await underLoad(hammer, first)
      await holds(full, moment)
      await hammer.work(0)
      for (const fate of ['canceled', 'finished', 'finished'] as const) {
        await disk.write(0, bytesVec(new Uint8Array(512).fill(1 + random.below(255))))
        hammer.model.set(await readAll(disk, 0, 512), 0)
        const job = backup(disk, {
          target: full,
          mode: 'existing',
          format: 'qcow2',
          sync: 'incremental',
          bitmap: 'since',
          maxWorkers: 1,
        })
        await job.next()
        if (fate === 'canceled') {
          await work(hammer, 20)
          await job.cancel()
          continue
        }
        moment = hammer.model.slice()
        await underLoad(hammer, job)
        await holds(full, moment)
      }
      await disk.close()
      const again = await openDisk(file, { format: 'qcow2' })
      expect(dirtyBitmaps(again).list()).toMatchObject([{ name: 'since', inconsistent: false, recording: true }])
      await again.close()
    }))

  test('bitmapMode=always forgets what a failed backup copied, and nothing else', () =>
    seeded(async (random) => {
      const { disk, hammer, file } = await newDisk(random)
      const memory = new Memory(SIZE)
      const limit = { end: 6 * 65536 }
      const target = asDevice({
        name: 'limited',
        size: SIZE,
        read: (at, into) => memory.read(at, into),
        write(at, from) {
          if (at >= limit.end) throw new BlockError('ENOSPC', 'no space left')
          return memory.write(at, from)
        },
      })
      const bitmaps = dirtyBitmaps(disk)
      await bitmaps.add('since')
      const touch = (granule: number) => disk.write(granule * 65536 + 512, bytesVec(new Uint8Array(512).fill(granule)))
      for (const granule of [1, 3, 5, 7, 9]) await touch(granule)
      const by = { target, sync: 'bitmap', bitmap: 'since', bitmapMode: 'always', maxWorkers: 1 } as const
      await expect(backup(disk, by).run()).rejects.toMatchObject({ code: 'ENOSPC' })
      await touch(4)
      const left = backup(disk, { target: place('left'), sync: 'bitmap', bitmap: 'since', bitmapMode: 'never' })
      await left.run()
      expect(left.progress.done).toBe(3 * 65536)
      limit.end = SIZE
      await backup(disk, by).run()
      const copied = new Uint8Array(SIZE)
      await target.read(0, bytesVec(copied))
      sameBytes(copied, await readAll(disk), 'the target')
      hammer.model.set(await readAll(disk))
      await verify({ disk, hammer }, file)
    }))

  test.skipIf(lacks('qemu-img'))('bitmaps stay with the image that a snapshot or a pivot leaves', () =>
    seeded(async (random) => {
      const { disk, hammer, file } = await newDisk(random)
      const named = async (name: string) => {
        const info = JSON.parse(await runTool('qemu-img', 'info', '-U', '--output=json', name))
        return (info['format-specific'].data.bitmaps ?? []).map((bitmap: { name: string; flags: string[] }) => [
          bitmap.name,
          ...bitmap.flags,
        ])
      }
      await dirtyBitmaps(disk).add('old')
      await work(hammer)
      const over = place('over')
      await snapshot(disk, { snapshotFile: over }).run()
      expect(dirtyBitmaps(disk).list()).toEqual([])
      expect(await named(file)).toEqual([['old', 'auto']])
      await dirtyBitmaps(disk).add('new')
      await work(hammer)
      const copy = place('copy')
      await underLoad(hammer, mirror(disk, { target: copy }), true)
      expect(dirtyBitmaps(disk).list()).toEqual([])
      expect(await named(over)).toEqual([['new', 'auto']])
      await verify({ disk, hammer }, copy)
    }),
  )

  test('bitmaps are added, cleared, switched, merged and removed while the disk is in use', () =>
    seeded(async (random) => {
      const { disk, hammer, file } = await newDisk(random)
      const bitmaps = dirtyBitmaps(disk)
      /** What a backup by the bitmap copies, bytes. */
      const counted = async (bitmap: string) => {
        const job = backup(disk, { target: place('x'), sync: 'bitmap', bitmap, bitmapMode: 'never' })
        await job.run()
        return job.progress.done
      }
      const touch = (granule: number) => disk.write(granule * 65536 + 512, bytesVec(new Uint8Array(512).fill(1)))
      await bitmaps.add('a')
      await bitmaps.add('b', { granularity: 131072, disabled: true })
      await expect(bitmaps.add('a')).rejects.toMatchObject({ code: 'EEXIST' })
      await touch(1)
      await touch(2)
      expect([await counted('a'), await counted('b')]).toEqual([131072, 0])
      await bitmaps.disable('a')
      await bitmaps.enable('b')
      await touch(5)
      expect([await counted('a'), await counted('b')]).toEqual([131072, 131072])
      await bitmaps.merge('b', ['a'])
      expect(await counted('b')).toBe(3 * 131072)
      await expect(bitmaps.merge('b', ['c'])).rejects.toMatchObject({ code: 'ENOENT' })
      await bitmaps.clear('b')
      expect(await counted('b')).toBe(0)
      await bitmaps.remove('b')
      expect(bitmaps.list().map(({ name, recording }) => [name, recording])).toEqual([['a', false]])
      hammer.model.set(await readAll(disk))
      await verify({ disk, hammer }, file)
    }))

  test('a disk that is closed cancels its job, and the target is let go', () =>
    seeded(async (random) => {
      const { disk, hammer, file } = await newDisk(random)
      await work(hammer)
      const target = place('target')
      const job = mirror(disk, { target })
      await job.next()
      await verify({ disk, hammer }, file)
      await expect(job.run()).rejects.toMatchObject({ code: 'ECANCELED' })
      await (await openImage(target, { format: 'qcow2' })).close()
    }))

  test('what cannot be is refused by name, and leaves the disk as it was', () =>
    seeded(async (random) => {
      const { disk, hammer, file } = await newDisk(random)
      await work(hammer, 10)
      const missing = folder.file('no/where.qcow2')
      await expect(snapshot(disk, { snapshotFile: missing }).run()).rejects.toMatchObject({ code: 'ENOENT' })
      await expect(snapshot(disk, { snapshotFile: file }).run()).rejects.toMatchObject({ code: 'EBUSY' })
      await expect(commit(disk).run()).rejects.toThrow('is not below')
      await expect(stream(disk, { base: 'other' }).run()).rejects.toThrow('Cannot find the base other')
      await expect(backup(disk, { target: place('x'), sync: 'incremental' }).run()).rejects.toThrow('needs a bitmap')
      await expect(mirror(disk, { target: place('x'), granularity: 1000 }).run()).rejects.toThrow('power of two')
      const job = mirror(disk, { target: place('x') })
      await job.next()
      await expect(snapshot(disk, { snapshotFile: place('x') }).run()).rejects.toThrow('a mirror of it is under way')
      await job.cancel()
      expect(existsSync(missing)).toBe(false)
      await work(hammer, 10)
      await verify({ disk, hammer }, file)
    }))
})
