/** Pages of tables that were held as a few runs count for what they take once they are changed. */
import { afterEach, expect, test, vi } from 'vitest'
import { PageCache } from '../../../src/block/pages.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { readBytes, writeBytes } from '../../conformance/driver.ts'
import { makeImage, openImage } from './images.ts'

const CLUSTER = 4096
const TABLE = (CLUSTER / 8) * CLUSTER
const TABLES = 400
const LIMIT = 256 << 10

afterEach(() => vi.restoreAllMocks())

test('qcow2: changes of many tables keep to the limit, and so do reads after them', async () => {
  const medium = new Memory(0)
  const size = TABLES * TABLE
  const made = await makeImage(medium, { size, clusterSize: CLUSTER })
  const sector = new Uint8Array(512).fill(1)
  for (let at = 0; at < size; at += TABLE) await writeBytes(made.disk, at, sector)
  await made.image.close()
  const { image, disk } = await openImage(medium, { metadataLimit: LIMIT })
  const added = vi.spyOn(PageCache.prototype, 'add')
  let most = 0
  const measure = () => {
    const pages = new Set<{ cost: number }>()
    for (const cache of new Set(added.mock.contexts))
      for (const page of (cache as PageCache<never>).values()) pages.add(page)
    most = Math.max(
      most,
      [...pages].reduce((sum, page) => sum + page.cost, 0),
    )
  }
  for (let round = 1; round <= 3; round++) {
    for (let at = 0; at < size; at += TABLE) {
      await writeBytes(disk, at + round * 2 * CLUSTER, sector)
      measure()
    }
    await disk.flush()
    for (let at = 0; at < size; at += TABLE) {
      expect((await readBytes(disk, at, 1))[0]).toBe(1)
      measure()
    }
  }
  expect(most).toBeLessThan(LIMIT * 1.25)
  expect(image.metadataCost).toBeGreaterThan(0)
  await image.close()
})
