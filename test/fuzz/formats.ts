/** Mutates valid images and uses what comes out: nothing but a BlockError may be thrown, and nothing may take for ever. */
import { BlockDevice } from '../../src/block/device.ts'
import { BlockError } from '../../src/block/error.ts'
import { createQcow, openQcow, readQcowHeader } from '../../src/block/formats/qcow.ts'
import { checkQcow2 } from '../../src/block/formats/qcow2/check.ts'
import { readImageHeader } from '../../src/block/formats/qcow2/image.ts'
import { checkQed } from '../../src/block/formats/qed/check.ts'
import { createQed, openQed, readQedHeader } from '../../src/block/formats/qed/index.ts'
import { bytesVec } from '../../src/block/iovec.ts'
import { ImageDevice } from '../../src/block/mover.ts'
import { Memory } from '../../src/block/protocols/memory.ts'
import { makeImage, openImage } from '../block/formats/images.ts'
import { type Random, random as seedRandom } from '../random.ts'

type Format = 'qcow2' | 'qed' | 'qcow'

interface Seed {
  readonly format: Format
  readonly bytes: Uint8Array
}

const name = 'fuzzed'
const SIZE = 1 << 18

/** What a run found. */
export interface FuzzResult {
  cases: number
  /** How many mutants could still be opened. */
  opened: number
  /** The first failure, with the number that brings it back. */
  failure?: string
}

async function bytesOf(medium: Memory): Promise<Uint8Array> {
  const bytes = new Uint8Array(medium.size)
  medium.read(0, bytesVec(bytes))
  return bytes
}

async function fill(disk: BlockDevice, random: Random): Promise<void> {
  for (let each = 0; each < 12; each++) {
    const at = 512 * random.below(disk.size / 512)
    const length = Math.min(disk.size - at, 512 * random.between(1, 60))
    if (each % 5 === 4) await disk.zero(at, length)
    else await disk.write(at, bytesVec(random.bytes(length)))
  }
}

/** The images that mutants are made of. */
async function seeds(random: Random): Promise<Seed[]> {
  const found: Seed[] = []
  for (const shape of [
    { clusterSize: 4096 },
    { clusterSize: 512, refcountBits: 64 },
    { clusterSize: 16384, extendedL2: true },
    { clusterSize: 4096, compat: '0.10' as const },
    { clusterSize: 4096, lazyRefcounts: true },
    { clusterSize: 4096, compressionType: 'zstd' as const },
  ]) {
    const medium = new Memory(0)
    const { disk, image } = await makeImage(medium, { size: SIZE, ...shape })
    await fill(disk, random)
    await (disk.driver as ImageDevice).writePacked(0, bytesVec(new Uint8Array(65536).fill(3)))
    await image.createSnapshot({ name: 'one', dateSec: 1 })
    if (shape.compat === undefined) await image.bitmaps.add('map', 4096)
    await fill(disk, random)
    await disk.close()
    found.push({ format: 'qcow2', bytes: await bytesOf(medium) })
  }
  for (const format of ['qed', 'qcow'] as const) {
    const medium = new Memory(0)
    const file = new BlockDevice(medium)
    if (format === 'qed') await createQed(file, { name, size: SIZE, clusterSize: 4096, tableSize: 2 })
    else await createQcow(file, { name, size: SIZE })
    const disk = await open(format, file, false)
    await fill(disk, random)
    await disk.close()
    found.push({ format, bytes: await bytesOf(medium) })
  }
  return found
}

async function open(format: Format, file: BlockDevice, readOnly: boolean): Promise<BlockDevice> {
  const options = { name, readOnly }
  if (format === 'qed') {
    return new BlockDevice(new ImageDevice(await openQed(file, await readQedHeader(name, file), options)))
  }
  if (format === 'qcow') {
    return new BlockDevice(new ImageDevice(await openQcow(file, await readQcowHeader(name, file), options)))
  }
  return (await openImage(file, { readOnly, metadataLimit: 1 << 20 })).disk
}

const INTERESTING = [0, 1, 2, 0x7f, 0x80, 0xff]

/** Changes a few bytes: in the header, in what looks like a table, or anywhere. */
function mutate(bytes: Uint8Array, random: Random): Uint8Array {
  const mutant = bytes.slice()
  const words: number[] = []
  for (let at = 0; at < mutant.length; at += 8)
    if (mutant[at] === 0x80 || (mutant[at + 5] !== 0 && mutant[at] === 0)) words.push(at)
  for (let each = random.between(1, 6); each > 0; each--) {
    const where = random.below(4)
    let at = random.below(mutant.length)
    if (where === 0) at = random.below(Math.min(600, mutant.length))
    if (where === 1 && words.length > 0) at = random.pick(words) + random.below(8)
    const how = random.below(4)
    if (how === 0) mutant[at] = random.below(256)
    else if (how === 1) mutant[at]! ^= 1 << random.below(8)
    else if (how === 2) mutant[at] = random.pick(INTERESTING)
    else mutant.copyWithin(at - (at % 8), 8 * random.below(mutant.length / 8 - 8), 8 * random.below(mutant.length / 8))
  }
  return random.below(8) === 0 ? mutant.subarray(0, random.below(mutant.length)) : mutant
}

async function use(format: Format, bytes: Uint8Array, random: Random): Promise<boolean> {
  const medium = Memory.from(bytes)
  const attempt = async (request: () => unknown): Promise<boolean> => {
    try {
      await request()
      return true
    } catch (error) {
      if (error instanceof BlockError) return false
      throw error
    }
  }
  const check = () =>
    attempt(async () => {
      const file = new BlockDevice(medium)
      const repair = random.pick([undefined, 'leaks', 'all'] as const)
      if (format === 'qcow2') await checkQcow2(name, file, await readImageHeader(name, file), repair)
      if (format === 'qed') await checkQed(name, file, await readQedHeader(name, file), repair)
    })
  if (random.below(2) === 0) await check()
  let disk: BlockDevice | undefined
  await attempt(async () => {
    disk = await open(format, new BlockDevice(medium), random.below(4) === 0)
  })
  if (disk !== undefined) {
    const open = disk
    for (let each = 0; each < 10; each++) {
      if (open.size < 512) break
      const at = 512 * random.below(Math.floor(open.size / 512))
      const length = Math.min(open.size - at, 512 * random.between(1, 256))
      const kind = random.below(6)
      if (kind < 2) await attempt(() => open.read(at, bytesVec(new Uint8Array(length))))
      else if (kind === 2) await attempt(() => open.write(at, bytesVec(new Uint8Array(length))))
      else if (kind === 3) await attempt(() => open.status(at, length))
      else if (kind === 4)
        await attempt(() => (random.below(2) === 0 ? open.zero(at, length) : open.discard(at, length)))
      else await attempt(() => open.flush())
    }
    if (format === 'qcow2') {
      const { image } = open.driver as ImageDevice as unknown as {
        image: import('../../src/block/formats/qcow2/image.ts').Qcow2Image
      }
      await attempt(async () => {
        for (const { id } of await image.snapshots())
          await attempt(async () => (await image.snapshotView(id)).map(0, 512))
      })
      const last = random.below(4)
      if (last === 0) await attempt(() => image.createSnapshot({ name: 'two', dateSec: 2 }))
      if (last === 1) await attempt(() => image.deleteSnapshot('one'))
      if (last === 2) await attempt(() => image.applySnapshot('one'))
      if (last === 3) await attempt(() => open.resize(SIZE + 65536))
    }
    await attempt(() => open.close())
  }
  await check()
  return disk !== undefined
}

/** Runs cases `first` to `first + count` of a seed. */
export async function fuzzFormats(seed: number, count: number, first = 0): Promise<FuzzResult> {
  const images = await seeds(seedRandom(seed))
  const result: FuzzResult = { cases: 0, opened: 0 }
  for (let each = first; each < first + count; each++) {
    const random = seedRandom((seed ^ Math.imul(each + 1, 0x9e3779b1)) >>> 0)
    const { format, bytes } = random.pick(images)
    const before = process.memoryUsage().arrayBuffers
    const start = performance.now()
    try {
      if (await use(format, mutate(bytes, random), random)) result.opened++
    } catch (error) {
      result.failure = `seed ${seed}, case ${each} (${format}): ${error instanceof Error ? error.stack : error}`
      return result
    }
    result.cases++
    const took = performance.now() - start
    const grew = process.memoryUsage().arrayBuffers - before
    if (took > 20_000) result.failure = `seed ${seed}, case ${each} (${format}): it took ${Math.round(took)} ms`
    if (grew > 100 << 20) result.failure = `seed ${seed}, case ${each} (${format}): it took ${grew} bytes`
    if (result.failure !== undefined) return result
  }
  return result
}
