/** Every operation of the host failing once: no flushed data is lost, no image is corrupt, and it stays of use. */
import { describe, expect, test } from 'vitest'
import { BlockDevice, type BlockDriver } from '../../../src/block/device.ts'
import { BlockError, type Errno } from '../../../src/block/error.ts'
import { checkQcow2 } from '../../../src/block/formats/qcow2/check.ts'
import { readImageHeader } from '../../../src/block/formats/qcow2/image.ts'
import { checkQed } from '../../../src/block/formats/qed/check.ts'
import { createQed, openQed, readQedHeader } from '../../../src/block/formats/qed/index.ts'
import { bytesVec, type IoVec } from '../../../src/block/iovec.ts'
import { ImageDevice } from '../../../src/block/mover.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { DiskModel, judge, SECTOR, stamp } from '../../crash/model.ts'
import { random as seedRandom } from '../../random.ts'
import { makeImage, openImage } from './images.ts'

/** A medium one of whose operations fails. */
class FailsOnce implements BlockDriver {
  readonly name = 'medium'
  readonly #medium: Memory
  readonly #nth: number
  readonly #code: Errno
  calls = 0

  constructor(medium: Memory, nth: number, code: Errno) {
    this.#medium = medium
    this.#nth = nth
    this.#code = code
  }

  get size(): number {
    return this.#medium.size
  }

  #call(): void {
    if (this.calls++ === this.#nth) throw new BlockError(this.#code, `operation ${this.#nth} fails`)
  }

  read(at: number, into: IoVec): void {
    this.#call()
    this.#medium.read(at, into)
  }

  write(at: number, from: IoVec): void {
    // A short write: the first sectors arrive.
    if (this.calls === this.#nth) this.#medium.write(at, from.slice(0, (from.byteLength >> 1) & ~511))
    this.#call()
    this.#medium.write(at, from)
  }

  zero(at: number, length: number): void {
    this.#call()
    this.#medium.zero(at, length)
  }

  flush(): void {
    this.#call()
  }

  resize(size: number): void {
    this.#call()
    this.#medium.resize(size)
  }
}

const SIZE = 96 * 1024
const BACKED = 120

interface Subject {
  readonly name: string
  make(medium: Memory): Promise<void>
  open(medium: BlockDriver): Promise<BlockDevice>
  damage(medium: Memory): Promise<string[]>
  /** Sectors of the backing layer. */
  readonly backed: number
  readonly snapshots?: boolean
}

function backing(): BlockDevice {
  const bytes = new Uint8Array(BACKED * SECTOR)
  for (let sector = 0; sector < BACKED; sector++)
    stamp(bytes.subarray(sector * SECTOR, (sector + 1) * SECTOR), sector, 9)
  return new BlockDevice(Memory.from(bytes))
}

function qcow2(name: string, shape: Parameters<typeof makeImage>[1], backed: boolean, snapshots = false): Subject {
  const parts = () => (backed ? { backing: backing() } : {})
  return {
    name,
    backed: backed ? BACKED : 0,
    snapshots,
    async make(medium) {
      await (await makeImage(medium, shape, parts())).disk.close()
    },
    open: async (medium) => (await openImage(medium, parts())).disk,
    async damage(medium) {
      const file = new BlockDevice(medium)
      const header = await readImageHeader(name, file)
      if ((header.incompatible & 1n) !== 0n) return []
      const found = await checkQcow2(name, file, header)
      return found.corruptions + found['check-errors'] > 0 ? found.messages : []
    },
  }
}

const subjects: readonly Subject[] = [
  qcow2('qcow2', { size: SIZE, clusterSize: 1024 }, false),
  qcow2('qcow2 with snapshots', { size: SIZE, clusterSize: 1024 }, false, true),
  qcow2('qcow2 over a backing file', { size: SIZE, clusterSize: 4096, backingFile: 'b' }, true),
  qcow2('qcow2 with subclusters', { size: SIZE, clusterSize: 16384, extendedL2: true, backingFile: 'b' }, true),
  qcow2('qcow2 with lazy refcounts', { size: SIZE, clusterSize: 1024, lazyRefcounts: true }, false),
  {
    name: 'qed',
    backed: BACKED,
    async make(medium) {
      const made = { name: 'qed', size: SIZE, clusterSize: 4096, tableSize: 1, backingFile: 'b' }
      await createQed(new BlockDevice(medium), made)
    },
    async open(medium) {
      const file = new BlockDevice(medium)
      const image = await openQed(file, await readQedHeader('qed', file), { name: 'qed', backing: backing() })
      return new BlockDevice(new ImageDevice(image))
    },
    async damage(medium) {
      const file = new BlockDevice(medium)
      const found = await checkQed('qed', file, await readQedHeader('qed', file))
      return found.corruptions > 0 ? found.messages : []
    },
  },
]

/** Runs a fixed workload over a medium whose operation `nth` fails; gives how many operations there were. */
async function run(subject: Subject, nth: number, code: Errno): Promise<number> {
  const medium = new Memory(0)
  await subject.make(medium)
  const failing = new FailsOnce(medium, nth, code)
  const model = new DiskModel(SIZE, (sector) => (sector < subject.backed ? 9 : 0))
  const random = seedRandom(4711)
  let now = 1
  let failures = 0
  const attempt = async (request: () => unknown): Promise<boolean> => {
    try {
      await request()
      return true
    } catch (error) {
      if (!(error instanceof BlockError) || !['EIO', 'ENOSPC'].includes(error.code)) throw error
      failures++
      return false
    }
  }
  let disk: BlockDevice | undefined
  while (disk === undefined) {
    await attempt(async () => {
      disk = await subject.open(failing)
    })
    if (failures > 1) throw new Error('the second open fails too')
  }
  const open: BlockDevice = disk
  for (let each = 0; each < 40; each++) {
    const kind = random.below(10)
    if (kind < 2) {
      const start = now++
      if (await attempt(() => open.flush())) model.flushed(start, now++)
      continue
    }
    if (subject.snapshots && each % 12 === 11) {
      const image = (open.driver as ImageDevice).image as Awaited<ReturnType<typeof openImage>>['image']
      await attempt(() => image.createSnapshot({ name: `at ${each}`, dateSec: 1 }))
    }
    const at = SECTOR * random.below(SIZE / SECTOR)
    const length = Math.min(SIZE - at, SECTOR * random.between(1, 12))
    const change = kind < 8 ? 'write' : kind === 8 ? 'zero' : 'discard'
    const { bytes, done } = model.begin(change, at, length, now++)
    const completed = await attempt(() =>
      change === 'write'
        ? open.write(at, bytesVec(bytes))
        : change === 'zero'
          ? open.zero(at, length)
          : open.discard(at, length),
    )
    if (completed) done(now++)
  }
  const start = now++
  const flushed = (await attempt(() => open.flush())) || (await attempt(() => open.flush()))
  if (flushed) model.flushed(start, now++)
  const content = new Uint8Array(SIZE)
  if (!(await attempt(() => open.read(0, bytesVec(content))))) await open.read(0, bytesVec(content))
  const live = judge(content, model.allowed(now))
  if (live !== undefined) throw new Error(`operation ${nth} fails with ${code}: while open: ${live}`)
  await attempt(() => open.close())
  expect(failures).toBeLessThanOrEqual(2)
  const wrong = await subject.damage(medium)
  if (wrong.length > 0) throw new Error(`operation ${nth} fails with ${code}: ${wrong.slice(0, 5).join('; ')}`)
  const again = await subject.open(medium)
  await again.read(0, bytesVec(content))
  const lost = judge(content, model.allowed(now))
  if (lost !== undefined) throw new Error(`operation ${nth} fails with ${code}: reopened: ${lost}`)
  await again.write(0, bytesVec(new Uint8Array(20_000)))
  await again.close()
  return failing.calls
}

describe('every operation of the host fails once', () => {
  for (const subject of subjects) {
    test(subject.name, async () => {
      const calls = await run(subject, -1, 'EIO')
      for (let nth = 0; nth < calls; nth++) {
        const code = nth % 2 === 0 ? 'EIO' : 'ENOSPC'
        try {
          await run(subject, nth, code)
        } catch (error) {
          throw new Error(`operation ${nth} fails with ${code}: ${error}`, { cause: error })
        }
      }
      expect(calls).toBeGreaterThan(50)
    })
  }
})
