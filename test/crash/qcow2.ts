/** qcow2 under the crash explorer: its shapes and workloads. */
import { BlockDevice } from '../../src/block/device.ts'
import { checkQcow2 } from '../../src/block/formats/qcow2/check.ts'
import type { Qcow2CreateOptions } from '../../src/block/formats/qcow2/create.ts'
import { type Qcow2Options, readImageHeader } from '../../src/block/formats/qcow2/image.ts'
import { bytesVec } from '../../src/block/iovec.ts'
import { Memory } from '../../src/block/protocols/memory.ts'
import { makeImage, openImage } from '../block/formats/images.ts'
import { random as seedRandom } from '../random.ts'
import type { Recording, Subject } from './explorer.ts'
import { DiskModel, SECTOR, stamp } from './model.ts'
import { Recorder } from './recorder.ts'
import { type Mix, runGuest } from './workload.ts'

/** A kind of image and what is done to it. */
export interface Workload {
  readonly name: string
  readonly shape: Partial<Qcow2CreateOptions>
  readonly size: number
  readonly mix: Mix
  readonly requests: number
  readonly depth: number
  /** Most sectors of a request. */
  readonly sectors?: number
  /** Sectors of the backing layer, which is shorter than the disk; 0 for none. */
  readonly backing?: number
  readonly open?: Partial<Qcow2Options>
  /** The disk is full of data at first. */
  readonly full?: boolean
}

const KB = 1024

export const workloads: readonly Workload[] = [
  {
    name: 'overwriting writes',
    shape: { clusterSize: 4096 },
    size: 64 * KB,
    mix: { write: 6, flush: 1 },
    requests: 100,
    depth: 4,
    full: true,
  },
  {
    name: 'allocating and overwriting writes',
    shape: { clusterSize: 4096 },
    size: 256 * KB,
    mix: { write: 8, flush: 1 },
    requests: 120,
    depth: 4,
  },
  {
    name: 'writes, zeroes and discards, small clusters',
    shape: { clusterSize: 512 },
    size: 96 * KB,
    mix: { write: 6, zero: 2, discard: 2, flush: 2 },
    requests: 200,
    depth: 4,
  },
  {
    name: 'the refcount table moves',
    shape: { clusterSize: 512, refcountBits: 64 },
    size: 6144 * KB,
    mix: { write: 8, discard: 1, flush: 1 },
    requests: 150,
    depth: 4,
    sectors: 250,
  },
  {
    name: 'copy-up over a backing file',
    shape: { clusterSize: 4096, backingFile: 'backing', backingFmt: 'raw' },
    size: 192 * KB,
    mix: { write: 6, zero: 2, discard: 2, flush: 2 },
    requests: 150,
    depth: 4,
    backing: 300,
  },
  {
    name: 'copy-up in version 2',
    shape: { clusterSize: 4096, compat: '0.10', backingFile: 'backing', backingFmt: 'raw' },
    size: 192 * KB,
    mix: { write: 6, zero: 2, discard: 2, flush: 2 },
    requests: 150,
    depth: 4,
    backing: 300,
  },
  {
    name: 'subclusters over a backing file',
    shape: { clusterSize: 16384, extendedL2: true, backingFile: 'backing', backingFmt: 'raw' },
    size: 512 * KB,
    mix: { write: 6, zero: 2, discard: 2, flush: 2 },
    requests: 150,
    depth: 4,
    backing: 800,
  },
  {
    name: 'compressed writes',
    shape: { clusterSize: 4096 },
    size: 128 * KB,
    mix: { pack: 4, write: 2, discard: 1, flush: 1 },
    requests: 120,
    depth: 3,
  },
]

const FIRST_VERSION = 7
const backingVersion = (sector: number) => 1000 + sector

/** Runs a workload and records it. */
export async function record(workload: Workload, seed: number, plant: Partial<Qcow2Options> = {}): Promise<Recording> {
  const random = seedRandom(seed)
  const start = new Memory(0)
  const options: Partial<Qcow2Options> = { ...workload.open }
  const sectors = workload.backing ?? 0
  const bytes = new Uint8Array(sectors * SECTOR)
  for (let sector = 0; sector < sectors; sector++) {
    stamp(bytes.subarray(sector * SECTOR, (sector + 1) * SECTOR), sector, backingVersion(sector))
  }
  const backed = () => (sectors > 0 ? { ...options, backing: new BlockDevice(Memory.from(bytes)) } : options)
  const { disk: fresh, image: empty } = await makeImage(start, { ...workload.shape, size: workload.size }, backed())
  const { clusterSize } = empty
  const first = new Uint8Array(workload.full ? workload.size : 0)
  for (let at = 0; at < first.length; at += SECTOR) stamp(first.subarray(at, at + SECTOR), at / SECTOR, FIRST_VERSION)
  await fresh.write(0, bytesVec(first))
  await fresh.close()
  const content = new Uint8Array(start.size)
  await new BlockDevice(start).read(0, bytesVec(content))
  const recorder = new Recorder(content, random)
  const model = new DiskModel(workload.size, (sector) =>
    workload.full ? FIRST_VERSION : sector < sectors ? backingVersion(sector) : 0,
  )
  const { disk } = await openImage(recorder, { ...backed(), ...plant })
  await runGuest({ disk, recorder, model, random, clusterSize, ...workload })
  await disk.close()
  const subject: Subject = {
    name: `qcow2, ${workload.name} (seed ${seed})`,
    qemu: 'qcow2',
    ...(sectors > 0 ? { backing: { name: 'backing', bytes } } : {}),
    open: async (medium) => {
      const before = await damage(medium)
      if (before.length > 0) throw new Error(before.join('; '))
      return (await openImage(medium, { ...backed() })).disk
    },
    check: (medium) => damage(medium, true),
  }
  return { recorder, model, subject }
}

/** What a check finds corrupt; with `repair`, leaks are repaired and must then be gone. */
async function damage(medium: Memory, repair = false): Promise<string[]> {
  const file = new BlockDevice(medium)
  const header = await readImageHeader('crashed.qcow2', file)
  if ((header.incompatible & 1n) !== 0n) return []
  const found = await checkQcow2('crashed.qcow2', file, header)
  if (found.corruptions > 0 || found['check-errors'] > 0) return found.messages
  if (!repair || found.leaks === 0) return []
  const mended = await checkQcow2('crashed.qcow2', file, header, 'leaks')
  return mended.corruptions + mended.leaks + mended['check-errors'] > 0 ? ['after repair:', ...mended.messages] : []
}
