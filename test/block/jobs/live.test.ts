import { describe, expect, test } from 'vitest'
import { BlockDevice } from '../../../src/block/device.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { layers } from '../../../src/block/jobs/chain.ts'
import { backup, commit, mirror, stream } from '../../../src/block/live.ts'
import { openImage } from '../../../src/block/open.ts'
import { seeded } from '../../random.ts'
import { chainOf, depthOf, emptyQcow2, SIZE, underLoad, verify } from './chains.ts'
import { Lagging, readAll, sameBytes } from './hammer.ts'

describe('while somebody writes', () => {
  test('stream takes in the whole chain', () =>
    seeded(async (random) => {
      const chain = await chainOf(random, 3)
      const { disk, hammer, media } = chain
      await underLoad(hammer, stream(disk))
      expect(depthOf(disk)).toBe(1)
      hammer.start()
      await hammer.work(50)
      await hammer.stop()
      await verify(chain, media.slice(2))
    }))

  test('stream takes in what is above the base', () =>
    seeded(async (random) => {
      const chain = await chainOf(random, 4)
      const { disk, hammer, media } = chain
      const base = [...layers(disk.root)][2]!
      await underLoad(hammer, stream(disk, { base, backingFile: 'level1' }))
      expect(depthOf(disk)).toBe(3)
      await verify(chain, [media[0]!, media[1]!, media[3]!])
    }))

  test('commit takes the disk down into its base and goes on there', () =>
    seeded(async (random) => {
      const chain = await chainOf(random, 3)
      const { disk, hammer, media } = chain
      const job = commit(disk)
      await underLoad(hammer, job, () => {
        if (job.status === 'ready' && hammer.requests > 200) void job.complete()
      })
      expect(depthOf(disk)).toBe(1)
      hammer.start()
      await hammer.work(50)
      await hammer.stop()
      await verify(chain, media.slice(0, 1))
    }))

  test('commit takes images between down', () =>
    seeded(async (random) => {
      const chain = await chainOf(random, 4)
      const { disk, hammer, media } = chain
      const [, , top, base] = [...layers(disk.root)]
      await underLoad(hammer, commit(disk, { top: top!, base: base!, backingFile: 'level0' }))
      expect(depthOf(disk)).toBe(3)
      expect([...layers(disk.root)].map(({ readOnly }) => readOnly)).toEqual([false, true, true])
      await verify(chain, [media[0]!, media[2]!, media[3]!])
    }))

  test.each(['background', 'write-blocking'] as const)(
    'mirror (%s) follows until it takes the place of the disk',
    (copyMode) =>
      seeded(async (random) => {
        const chain = await chainOf(random, 2)
        const { disk, hammer } = chain
        const target = await emptyQcow2(random, 'target')
        const device = await openImage(target, { format: 'qcow2' })
        const job = mirror(disk, {
          target: device,
          copyMode,
          targetIsZero: random.below(2) === 0,
          granularity: random.pick([4096, 65536]),
        })
        await underLoad(hammer, job, () => {
          if (job.status === 'ready' && hammer.requests > 300) void job.complete()
        })
        hammer.start()
        await hammer.work(50)
        await hammer.stop()
        await verify(chain, [target])
      }),
  )

  test.each(['background', 'write-blocking'] as const)('mirror (%s) without a pivot leaves a copy', (copyMode) =>
    seeded(async (random) => {
      const chain = await chainOf(random, 2)
      const { disk, hammer, media } = chain
      const target = new Lagging(SIZE, random)
      target.memory.write(0, bytesVec(new Uint8Array(SIZE).fill(0xee)))
      const job = mirror(disk, { target: new BlockDevice(target), copyMode })
      hammer.start()
      while (job.status !== 'ready' || hammer.requests < 200) await job.next()
      await hammer.stop()
      await job.complete({ pivot: false })
      sameBytes(await readAll(new BlockDevice(target)), hammer.model, 'the copy')
      hammer.start()
      await hammer.work(20)
      await hammer.stop()
      await verify(chain, media)
    }),
  )

  test('backup copies the moment at which it began', () =>
    seeded(async (random) => {
      const chain = await chainOf(random, 2)
      const { disk, hammer, media } = chain
      const target = await emptyQcow2(random, 'target')
      const device = await openImage(target, { format: 'qcow2' })
      const job = backup(disk, { target: device, granularity: random.pick([65536, 131072]), maxChunk: 131072 })
      await job.next()
      const moment = hammer.model.slice()
      await underLoad(hammer, job)
      sameBytes(await readAll(device), moment, 'the copy')
      expect(Buffer.compare(moment, hammer.model)).not.toBe(0)
      await device.close()
      await verify(chain, media)
    }))
})
