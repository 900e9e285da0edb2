/** Chains of qcow2 images in memory, and jobs on them while somebody writes. */
import { expect } from 'vitest'
import { BlockDevice } from '../../../src/block/device.ts'
import type { Disk } from '../../../src/block/disk.ts'
import { checkQcow2 } from '../../../src/block/formats/qcow2/check.ts'
import { readImageHeader } from '../../../src/block/formats/qcow2/image.ts'
import { qcow2 } from '../../../src/block/formats/qcow2/index.ts'
import { closedGate } from '../../../src/block/gate.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { layers } from '../../../src/block/jobs/chain.ts'
import type { Job } from '../../../src/block/jobs/job.ts'
import { openDisk, openImage } from '../../../src/block/open.ts'
import type { Random } from '../../random.ts'
import { Hammer, Lagging, readAll, sameBytes } from './hammer.ts'

const MIB = 1 << 20
export const SIZE = 6 * MIB

/** A medium with an empty qcow2 image. */
export async function emptyQcow2(random: Random, name: string, backingFile?: string): Promise<Lagging> {
  const medium = new Lagging(0, random)
  await qcow2.create(new BlockDevice(medium), {
    name,
    size: SIZE,
    gate: closedGate,
    options: {
      clusterSize: random.pick([4096, 65536]),
      ...(backingFile === undefined ? {} : { backingFile, backingFmt: 'qcow2' }),
    },
  })
  return medium
}

export interface Chain {
  readonly disk: Disk
  readonly hammer: Hammer
  /** From the lowest up. */
  readonly media: readonly Lagging[]
}

/** Opens image number `level` over those below it. */
export async function openLevel(media: readonly Lagging[], level: number, readOnly: boolean): Promise<BlockDevice> {
  const backing = level === 0 ? {} : { backing: await openLevel(media, level - 1, true) }
  return openImage(media[level]!, { format: 'qcow2', readOnly, ...backing })
}

/** A disk of `depth` images over each other, each with something in it. */
export async function chainOf(random: Random, depth: number): Promise<Chain> {
  const model = new Uint8Array(SIZE)
  const media: Lagging[] = []
  for (let level = 0; level < depth; level++) {
    media.push(await emptyQcow2(random, `level${level}`, level === 0 ? undefined : `level${level - 1}`))
    const device = await openLevel(media, level, false)
    for (let write = 0; write < 30; write++) {
      const at = random.below(SIZE / 512) * 512
      const bytes = new Uint8Array(Math.min(512 * (1 + random.below(100)), SIZE - at)).fill(1 + random.below(255))
      if (random.below(5) === 0) {
        await device.zero(at, bytes.length)
        bytes.fill(0)
      } else await device.write(at, bytesVec(bytes))
      model.set(bytes, at)
    }
    await device.close()
  }
  const backing = depth === 1 ? {} : { backing: await openLevel(media, depth - 2, true) }
  const disk = await openDisk(media.at(-1)!, { format: 'qcow2', discardMinimum: 0, ...backing })
  return { disk, hammer: new Hammer(disk, random, model), media }
}

/** Runs a job to its end, with somebody at the disk; `step` hears of each of its yields. */
export async function underLoad<T>(
  hammer: Hammer,
  job: Job<T>,
  step: (steps: number) => unknown = () => {},
): Promise<T> {
  hammer.start()
  try {
    for (let steps = 0; !(await job.next()).done; steps++) {
      await step(steps)
      await new Promise((resolve) => setImmediate(resolve))
    }
    return await job.run()
  } finally {
    await hammer.stop()
  }
}

export const depthOf = (disk: Disk) => [...layers(disk.root)].length

/** What is in the disk is what was written to it, now and when it is opened again as an image of `media`. */
export async function verify({ disk, hammer }: Chain, media: readonly Lagging[]): Promise<void> {
  sameBytes(await readAll(disk), hammer.model, 'the disk')
  await disk.close()
  const again = await openLevel(media, media.length - 1, true)
  sameBytes(await readAll(again), hammer.model, 'the image')
  await again.close()
  for (const medium of media) {
    const file = new BlockDevice(medium)
    const found = await checkQcow2('image', file, await readImageHeader('image', file))
    expect(found).toMatchObject({ corruptions: 0, leaks: 0 })
  }
}
