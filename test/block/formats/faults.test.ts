/** Every operation of the host failing once: no flushed data is lost, no image is corrupt, and it stays of use. */
import { describe, expect, test } from 'vitest'
import { BlockDevice, type BlockDriver } from '../../../src/block/device.ts'
import { BlockError, type Errno } from '../../../src/block/error.ts'
import { createQcow, openQcow, readQcowHeader } from '../../../src/block/formats/qcow.ts'
import { checkQcow2 } from '../../../src/block/formats/qcow2/check.ts'
import type { Qcow2CreateOptions } from '../../../src/block/formats/qcow2/create.ts'
import { readImageHeader } from '../../../src/block/formats/qcow2/image.ts'
import { checkQed } from '../../../src/block/formats/qed/check.ts'
import { createQed, openQed, readQedHeader } from '../../../src/block/formats/qed/index.ts'
import { bytesVec, type IoVec } from '../../../src/block/iovec.ts'
import { ImageDevice } from '../../../src/block/mover.ts'
import type { Now } from '../../../src/block/now.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { DiskModel, judge, SECTOR, stamp } from '../../crash/model.ts'
import { random as seedRandom } from '../../random.ts'
import { makeImage, openImage } from './images.ts'

/** What the operations of an image's files share: the one that fails. */
class Fault {
  readonly nth: number
  readonly code: Errno
  /** Answers come some turns of the microtask queue later. */
  readonly later: boolean
  calls = 0

  constructor(nth: number, code: Errno, later: boolean) {
    this.nth = nth
    this.code = code
    this.later = later
  }
}

/** A medium one of whose operations fails. */
class FailsOnce implements BlockDriver {
  readonly name = 'medium'
  readonly #medium: Memory
  readonly #fault: Fault

  constructor(medium: Memory, fault: Fault) {
    this.#medium = medium
    this.#fault = fault
  }

  get size(): number {
    return this.#medium.size
  }

  #call(body: () => void, short?: () => void): Now<void> {
    const { nth, code, later, calls } = this.#fault
    this.#fault.calls++
    const run = () => {
      if (calls !== nth) return body()
      short?.()
      throw new BlockError(code, `operation ${nth} fails`)
    }
    if (!later) return run()
    return (async () => {
      for (let turn = calls % 4; turn >= 0; turn--) await undefined
      run()
    })()
  }

  read(at: number, into: IoVec): Now<void> {
    return this.#call(() => this.#medium.read(at, into))
  }

  write(at: number, from: IoVec): Now<void> {
    // A short write: the first sectors arrive.
    const part = (from.byteLength >> 1) & ~511
    return this.#call(
      () => this.#medium.write(at, from),
      () => this.#medium.write(at, from.slice(0, part)),
    )
  }

  zero(at: number, length: number): Now<void> {
    return this.#call(() => this.#medium.zero(at, length))
  }

  discard(at: number, length: number): Now<void> {
    return this.zero(at, length)
  }

  flush(): Now<void> {
    return this.#call(() => {})
  }

  resize(size: number): Now<void> {
    return this.#call(() => this.#medium.resize(size))
  }
}

const SIZE = 96 * 1024
const BACKED = 120

/** The media of an image: its file, and the external data file of some. */
interface Media {
  readonly file: Memory
  readonly data: Memory
}

type Wrap = (medium: Memory) => BlockDriver

interface Subject {
  readonly name: string
  make(media: Media): Promise<void>
  open(media: Media, wrap: Wrap): Promise<BlockDevice>
  damage(media: Media): Promise<string[]>
  /** Sectors of the backing layer. */
  readonly backed: number
  /** What its owner does now and then. */
  readonly owner?: 'snapshots' | 'resizes' | 'packs' | 'bitmaps'
}

function backing(): BlockDevice {
  const bytes = new Uint8Array(BACKED * SECTOR)
  for (let sector = 0; sector < BACKED; sector++)
    stamp(bytes.subarray(sector * SECTOR, (sector + 1) * SECTOR), sector, 9)
  return new BlockDevice(Memory.from(bytes))
}

function qcow2(name: string, shape: Partial<Qcow2CreateOptions>, owner?: Subject['owner']): Subject {
  const backed = shape.backingFile !== undefined
  const parts = (data: BlockDriver) => ({
    ...(backed ? { backing: backing() } : {}),
    ...(shape.dataFile === undefined ? {} : { dataFile: new BlockDevice(data) }),
  })
  return {
    name,
    backed: backed ? BACKED : 0,
    ...(owner === undefined ? {} : { owner }),
    async make({ file, data }) {
      if (shape.dataFileRaw) data.resize(SIZE)
      await (await makeImage(file, { size: SIZE, ...shape }, parts(data))).disk.close()
    },
    open: async ({ file, data }, wrap) => (await openImage(wrap(file), parts(wrap(data)))).disk,
    async damage(media) {
      const file = new BlockDevice(media.file)
      const header = await readImageHeader(name, file)
      if ((header.incompatible & 1n) !== 0n) return []
      const found = await checkQcow2(name, file, header)
      return found.corruptions + found['check-errors'] > 0 ? found.messages : []
    },
  }
}

const small = { clusterSize: 1024 }
const over = { clusterSize: 4096, backingFile: 'b' }

const subjects: readonly Subject[] = [
  qcow2('qcow2', small),
  qcow2('qcow2, version 2', { ...small, compat: '0.10' }),
  qcow2('qcow2 with snapshots', small, 'snapshots'),
  qcow2('qcow2 that changes its size', { clusterSize: 512 }, 'resizes'),
  qcow2('qcow2 with compressed clusters', small, 'packs'),
  qcow2('qcow2 with bitmaps', small, 'bitmaps'),
  qcow2('qcow2 over a backing file', over),
  qcow2('qcow2, version 2, over a backing file', { ...over, compat: '0.10' }),
  qcow2('qcow2 with subclusters', { clusterSize: 16384, extendedL2: true, backingFile: 'b' }),
  qcow2(
    'qcow2 with subclusters and snapshots',
    { clusterSize: 16384, extendedL2: true, backingFile: 'b' },
    'snapshots',
  ),
  qcow2('qcow2 with lazy refcounts', { ...small, lazyRefcounts: true }),
  qcow2('qcow2 with an external data file', { ...small, dataFile: 'd' }),
  qcow2('qcow2 with a raw external data file', { ...small, dataFile: 'd', dataFileRaw: true }),
  {
    name: 'qed',
    backed: BACKED,
    async make({ file }) {
      const made = { name: 'qed', size: SIZE, clusterSize: 4096, tableSize: 1, backingFile: 'b' }
      await createQed(new BlockDevice(file), made)
    },
    async open(media, wrap) {
      const file = new BlockDevice(wrap(media.file))
      const image = await openQed(file, await readQedHeader('qed', file), { name: 'qed', backing: backing() })
      return new BlockDevice(new ImageDevice(image))
    },
    async damage(media) {
      const file = new BlockDevice(media.file)
      const found = await checkQed('qed', file, await readQedHeader('qed', file))
      return found.corruptions > 0 ? found.messages : []
    },
  },
  {
    name: 'qcow',
    backed: BACKED,
    owner: 'packs',
    make: ({ file }) => createQcow(new BlockDevice(file), { name: 'qcow', size: SIZE, backingFile: 'b' }),
    async open(media, wrap) {
      const file = new BlockDevice(wrap(media.file))
      const image = await openQcow(file, await readQcowHeader('qcow', file), { name: 'qcow', backing: backing() })
      return new BlockDevice(new ImageDevice(image))
    },
    damage: async () => [],
  },
]

/** The content of a disk whose owner cut it short may be lost there; both sizes are possible after a failure. */
async function resize(disk: BlockDevice, model: DiskModel, size: number, now: () => number): Promise<void> {
  const before = disk.size
  const gone = Math.min(before, size)
  const { done } = model.begin('zero', gone, SIZE - gone, now())
  await disk.resize(size)
  done(now())
}

/** Runs a fixed workload over a medium whose operation `nth` fails; gives how many operations there were. */
async function run(subject: Subject, nth: number, code: Errno, later: boolean): Promise<number> {
  const media = { file: new Memory(0), data: new Memory(0) }
  await subject.make(media)
  const fault = new Fault(nth, code, later)
  const model = new DiskModel(SIZE, (sector) => (sector < subject.backed ? 9 : 0))
  const random = seedRandom(4711)
  let moment = 1
  const now = () => moment++
  let failures = 0
  const attempt = async (request: () => unknown): Promise<boolean> => {
    try {
      await request()
      return true
    } catch (error) {
      if (!(error instanceof BlockError) || !['EIO', 'ENOSPC', 'ENOENT'].includes(error.code)) throw error
      if (error.code !== 'ENOENT') failures++
      return false
    }
  }
  let disk: BlockDevice | undefined
  while (disk === undefined) {
    await attempt(async () => {
      disk = await subject.open(media, (medium) => new FailsOnce(medium, fault))
    })
    if (failures > 1) throw new Error('the second open fails too')
  }
  const open: BlockDevice = disk
  const { image } = open.driver as ImageDevice
  const qcow2 = image as Awaited<ReturnType<typeof openImage>>['image']
  const kept = new Map<string, number[]>()
  if (subject.owner === 'bitmaps') await attempt(() => qcow2.bitmaps.add('writes', 512))
  const flying = new Set<Promise<unknown>>()
  for (let each = 0; each < 40; each++) {
    const kind = random.below(10)
    if (flying.size >= (later ? 3 : 1)) await Promise.all(flying)
    const fly = (request: Promise<unknown>) => {
      const tracked: Promise<unknown> = request.finally(() => flying.delete(tracked))
      flying.add(tracked)
    }
    if (kind < 2) {
      const start = now()
      fly(attempt(() => open.flush()).then((good) => good && model.flushed(start, now())))
      continue
    }
    if (subject.owner !== undefined && each % 8 === 7) {
      await Promise.all(flying)
      if (subject.owner === 'resizes') {
        const size = SECTOR * random.between(100, SIZE / SECTOR)
        await attempt(() => resize(open, model, size, now))
      } else if (subject.owner === 'bitmaps') await attempt(() => qcow2.bitmaps.enable('writes', true))
      else if (subject.owner === 'packs') {
        const at = image.clusterSize * random.below(Math.floor(SIZE / image.clusterSize))
        const length = Math.min(SIZE - at, image.clusterSize)
        const { bytes, done } = model.begin('write', at, length, now())
        if (await attempt(() => (open.driver as ImageDevice).writePacked(at, bytesVec(bytes)))) done(now())
      } else if (each === 7 || each === 31) {
        if (!model.certain()) continue // a request failed: what the snapshot holds is not known
        kept.set(`at ${each}`, model.current())
        await attempt(() => qcow2.createSnapshot({ name: `at ${each}`, dateSec: 1 }))
      } else if (each === 15) {
        const { done } = model.replace(kept.get('at 7') ?? model.current(), now())
        if (await attempt(() => qcow2.applySnapshot('at 7'))) done(now())
      } else await attempt(() => qcow2.deleteSnapshot('at 7'))
      continue
    }
    const at = SECTOR * random.below(open.size / SECTOR)
    const length = Math.min(open.size - at, SECTOR * random.between(1, 12))
    if (!model.idle(at, length)) continue
    const change = kind < 8 ? 'write' : kind === 8 || subject.owner === 'snapshots' ? 'zero' : 'discard'
    const { bytes, done } = model.begin(change, at, length, now())
    const request = () =>
      change === 'write'
        ? open.write(at, bytesVec(bytes))
        : change === 'zero'
          ? open.zero(at, length)
          : open.discard(at, length)
    fly(attempt(request).then((good) => (good ? done(now()) : model.release(at, length))))
  }
  await Promise.all(flying)
  const start = now()
  const flushed = (await attempt(() => open.flush())) || (await attempt(() => open.flush()))
  if (flushed) model.flushed(start, now())
  const look = async (disk: BlockDevice, when: string) => {
    const content = new Uint8Array(disk.size)
    if (!(await attempt(() => disk.read(0, bytesVec(content))))) await disk.read(0, bytesVec(content))
    const wrong = judge(content, model.allowed(now()))
    if (wrong !== undefined) throw new Error(`${when}: ${wrong}`)
  }
  await look(open, 'while open')
  await attempt(() => open.close())
  // What fails once may fail those that wait for it too, but not what comes after.
  if (failures > (later ? 4 : 2)) throw new Error(`${failures} requests failed`)
  const wrong = await subject.damage(media)
  if (wrong.length > 0) throw new Error(wrong.slice(0, 5).join('; '))
  const again = await subject.open(media, (medium) => medium)
  await look(again, 'reopened')
  await again.write(0, bytesVec(new Uint8Array(20_000)))
  await again.close()
  const after = await subject.damage(media)
  if (after.length > 0) throw new Error(`after more writes: ${after.slice(0, 5).join('; ')}`)
  return fault.calls
}

describe('every operation of the host fails once', () => {
  for (const subject of subjects) {
    for (const later of [false, true]) {
      test(`${subject.name}${later ? ', several requests at a time' : ''}`, async () => {
        const calls = await run(subject, -1, 'EIO', later)
        for (let nth = 0; nth < calls; nth++) {
          // Alone, each operation fails in both ways; among others, in one of them.
          for (const code of later ? ([nth % 2 === 0 ? 'EIO' : 'ENOSPC'] as const) : (['EIO', 'ENOSPC'] as const)) {
            try {
              await run(subject, nth, code, later)
            } catch (error) {
              throw new Error(`operation ${nth} of ${calls} fails with ${code}: ${error}`, { cause: error })
            }
          }
        }
        expect(calls).toBeGreaterThan(50)
      })
    }
  }
})
