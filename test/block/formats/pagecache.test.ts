/** Pages of tables that come from the medium together, more of them than memory is for: none is forgotten before it was changed. */
import { expect, test } from 'vitest'
import { BlockDevice, type BlockDriver } from '../../../src/block/device.ts'
import { checkQcow2 } from '../../../src/block/formats/qcow2/check.ts'
import { readImageHeader } from '../../../src/block/formats/qcow2/image.ts'
import type { IoVec } from '../../../src/block/iovec.ts'
import { Page, PageCache } from '../../../src/block/pages.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { readBytes, writeBytes } from '../../conformance/driver.ts'
import { makeImage, openImage } from './images.ts'

const CLUSTER = 65536
const SLICE = 2048 * CLUSTER
const SLICES = 64

/** Answers all reads of a turn together, later. */
function late(medium: Memory): BlockDriver {
  let waiting: (() => void)[] = []
  const turn = () =>
    new Promise<void>((resolve) => {
      if (waiting.length === 0)
        setImmediate(() => {
          const all = waiting
          waiting = []
          for (const each of all) each()
        })
      waiting.push(resolve)
    })
  return {
    name: 'late',
    readOnly: false,
    get size() {
      return medium.size
    },
    read: async (at: number, into: IoVec) => {
      await turn()
      await medium.read(at, into)
    },
    write: async (at: number, from: IoVec) => {
      await turn()
      await medium.write(at, from)
    },
    flush: async () => {
      await turn()
    },
    resize: (size: number) => medium.resize(size),
  } as unknown as BlockDriver
}

test('qcow2: writes that wait for many tables at once, with little memory, are all kept', async () => {
  const medium = new Memory(0)
  const size = SLICES * SLICE
  const made = await makeImage(medium, { size, clusterSize: CLUSTER })
  // Tables that are held as bytes: of too many runs.
  for (let at = 0; at < size; at += SLICE)
    for (let each = 0; each < 300; each++)
      await writeBytes(made.disk, at + 2 * each * CLUSTER, new Uint8Array(1).fill(1))
  await made.image.close()
  const { image, disk } = await openImage(late(medium), { metadataLimit: 65536 })
  for (let round = 0; round < 4; round++) {
    await Promise.all(
      Array.from({ length: SLICES }, (_, each) =>
        writeBytes(disk, each * SLICE + (1 + 2 * round) * CLUSTER, new Uint8Array(512).fill(1 + each)),
      ),
    )
  }
  await disk.flush()
  for (let round = 0; round < 4; round++)
    for (let each = 0; each < SLICES; each++)
      expect((await readBytes(disk, each * SLICE + (1 + 2 * round) * CLUSTER, 1))[0], `${round} ${each}`).toBe(1 + each)
  await image.close()
  const file = new BlockDevice(medium)
  expect(await checkQcow2('x', file, await readImageHeader('x', file))).toMatchObject({ corruptions: 0, leaks: 0 })
})

test('who is told of a page by a promise has it before it can be forgotten, however many pass it on', async () => {
  class Large extends Page {
    readonly cost = 16384
    bytes = () => new Uint8Array(512)
  }
  const cache = new PageCache<Large>(65536)
  const load = (key: number) =>
    cache.load(key, async () => {
      for (let turn = 0; turn < 8 * key; turn++) await undefined
      return new Large(key)
    })
  const passed = async (key: number, on: number): Promise<Large> =>
    on === 0 ? await load(key) : await passed(key, on - 1)
  const changed = await Promise.all(
    Array.from({ length: 64 }, async (_, key) => {
      const page = await passed(key, 100)
      page.touch(0, 8)
      return page
    }),
  )
  for (const page of changed) expect(cache.get(page.key)).toBe(page)
  for (const page of changed) page.dirty = 0
  await new Promise((resolve) => setImmediate(resolve))
  cache.relax()
  cache.relax()
  expect(cache.cost).toBeLessThanOrEqual(65536)
})
