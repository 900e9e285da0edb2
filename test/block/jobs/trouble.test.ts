import { describe, expect, test } from 'vitest'
import { BlockDevice } from '../../../src/block/device.ts'
import type { BlockError } from '../../../src/block/error.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import type { Job } from '../../../src/block/jobs/job.ts'
import { backup, commit, mirror, stream } from '../../../src/block/live.ts'
import { type Random, seeded } from '../../random.ts'
import { type Chain, chainOf, depthOf, SIZE, underLoad, verify } from './chains.ts'
import { Lagging, readAll, sameBytes } from './hammer.ts'

const KINDS = ['stream', 'commit', 'mirror', 'blocking mirror', 'backup'] as const

function begin(kind: (typeof KINDS)[number], { disk }: Chain, target: Lagging, random: Random): Job {
  const options = { target: new BlockDevice(target), maxChunk: 65536, maxWorkers: random.pick([1, 4]) }
  switch (kind) {
    case 'stream':
      return stream(disk, { maxChunk: 65536 })
    case 'commit':
      return commit(disk, options)
    case 'mirror':
      return mirror(disk, options)
    case 'blocking mirror':
      return mirror(disk, { ...options, copyMode: 'write-blocking' })
    case 'backup':
      return backup(disk, options)
  }
}

describe('a job that is canceled', () => {
  test.each(KINDS)('at any step leaves the disk as it was: %s', (kind) =>
    seeded(async (random) => {
      const chain = await chainOf(random, 2)
      const { disk, hammer, media } = chain
      for (const steps of [0, 1, 2, 5, 10, 20, 40]) {
        const job = begin(kind, chain, new Lagging(SIZE, random), random)
        hammer.start()
        for (let step = 0; step < steps && !(await job.next()).done; step++) await hammer.work(1)
        const concluded = job.status === 'concluded'
        await job.cancel()
        await hammer.work(10)
        await hammer.stop()
        if (concluded) break
        expect(depthOf(disk)).toBe(2)
        expect(disk.root.backing!.readOnly).toBe(true)
      }
      await verify(chain, media.slice(2 - depthOf(disk)))
    }),
  )
})

describe('a target without room', () => {
  test.each(['mirror', 'blocking mirror', 'backup'] as const)(
    'holds up a %s until there is, by onTargetError',
    (kind) =>
      seeded(async (random) => {
        const chain = await chainOf(random, 1)
        const { disk, hammer } = chain
        const target = new Lagging(SIZE, random)
        const options = { target: new BlockDevice(target), onTargetError: 'enospc', maxChunk: 65536 } as const
        const job =
          kind === 'backup'
            ? backup(disk, options)
            : mirror(disk, { ...options, copyMode: kind === 'mirror' ? 'background' : 'write-blocking' })
        await job.next()
        const moment = hammer.model.slice()
        target.failures.push({ kind: 'write', code: 'ENOSPC', times: 2 })
        while (job.status === 'running') await job.next()
        expect([job.status, (job.error as BlockError).code]).toEqual(['paused', 'ENOSPC'])
        target.failures = []
        job.resume()
        if (kind === 'backup') {
          await underLoad(hammer, job)
          sameBytes(await readAll(new BlockDevice(target)), moment, 'the copy')
        } else {
          await underLoad(hammer, job, () => {
            if (job.status === 'ready' && hammer.requests > 100) void job.complete()
          })
          sameBytes(await readAll(disk), hammer.model, 'the disk')
          sameBytes(await readAll(new BlockDevice(target)), hammer.model, 'the copy')
        }
        await disk.close()
      }),
  )

  test.each([
    ['break-snapshot', undefined],
    ['break-guest-write', 'EIO'],
  ] as const)('at a write of the user: %s', (onCbwError, code) =>
    seeded(async (random) => {
      const { disk, hammer } = await chainOf(random, 1)
      const target = new Lagging(SIZE, random)
      const job = backup(disk, { target: new BlockDevice(target), sync: 'none', onCbwError })
      await job.next()
      target.failures.push({ kind: 'write', code: 'EIO', times: 1 })
      const write = Promise.resolve().then(() => disk.write(0, bytesVec(new Uint8Array(512).fill(7))))
      if (code === undefined) {
        await write
        await expect(job.run()).rejects.toMatchObject({ code: 'EIO' })
      } else {
        await expect(write).rejects.toMatchObject({ code })
        const moment = hammer.model.slice()
        await disk.write(0, bytesVec(new Uint8Array(512).fill(7)))
        sameBytes(await readAll(new BlockDevice(target), 0, 65536), moment.subarray(0, 65536), 'the copy')
        await job.cancel()
      }
      hammer.model.set(new Uint8Array(512).fill(7))
      sameBytes(await readAll(disk), hammer.model, 'the disk')
      await disk.close()
    }),
  )
})

describe('an image below that cannot be read', () => {
  test.each(['report', 'ignore', 'stop'] as const)('and a stream with onError=%s', (onError) =>
    seeded(async (random) => {
      const chain = await chainOf(random, 2)
      const { disk, hammer, media } = chain
      const job = stream(disk, { onError, maxChunk: 65536 })
      await job.next()
      media[0]!.failures.push({ kind: 'read', code: 'EIO', times: 1 })
      if (onError === 'stop') {
        while (job.status === 'running') await job.next()
        expect([job.status, (job.error as BlockError).code]).toEqual(['paused', 'EIO'])
        job.resume()
        await underLoad(hammer, job)
        expect(depthOf(disk)).toBe(1)
      } else {
        await expect(job.run()).rejects.toMatchObject({ code: 'EIO' })
        expect(depthOf(disk)).toBe(2)
      }
      await verify(chain, media.slice(2 - depthOf(disk)))
    }),
  )
})
