/** qcow2 under the crash explorer: its shapes and workloads. */
import { BlockDevice, type BlockDriver } from '../../src/block/device.ts'
import { checkQcow2 } from '../../src/block/formats/qcow2/check.ts'
import type { Qcow2CreateOptions } from '../../src/block/formats/qcow2/create.ts'
import { type Qcow2Image, type Qcow2Options, readImageHeader } from '../../src/block/formats/qcow2/image.ts'
import { bytesVec } from '../../src/block/iovec.ts'
import { ImageDevice } from '../../src/block/mover.ts'
import { Memory } from '../../src/block/protocols/memory.ts'
import { makeImage, openImage } from '../block/formats/images.ts'
import { type Random, random as seedRandom } from '../random.ts'
import type { Recording, Subject } from './explorer.ts'
import { DiskModel, judge, SECTOR, stamp } from './model.ts'
import { type Recorder, recordTogether } from './recorder.ts'
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
  readonly owner?: MakeOwner
  /** Its part of the states that others get, where each state of a large image takes long. */
  readonly part?: number
  /** Bytes of data that the disk begins with. */
  readonly full?: number
}

const KB = 1024

const FIRST_VERSION = 7
/** What a guest's owner does to its image now and then, and what a crash state must show of it. */
export interface Owner {
  /** Before the guest runs. */
  begin?(): Promise<void>
  act(): Promise<void>
  inspect(disk: BlockDevice, now: number): Promise<string | undefined>
}

type MakeOwner = (guest: { disk: BlockDevice; recorder: Recorder; model: DiskModel; random: Random }) => Owner

const NEVER = Number.POSITIVE_INFINITY

/** Takes, applies and deletes snapshots. */
const snapshots: MakeOwner = ({ disk, recorder, model, random }) => {
  const qcow2 = (disk.driver as ImageDevice).image as Qcow2Image
  const taken: { id: string; values: number[]; start: number; made: number; ending: number; ended: number }[] = []
  return {
    async act() {
      const here = taken.filter((each) => each.ending === NEVER)
      const kind = here.length === 0 ? 0 : random.below(3)
      if (kind === 0 && here.length < 4) {
        const id = String(taken.length + 1)
        const snapshot = {
          id,
          values: model.current(),
          start: recorder.now++,
          made: NEVER,
          ending: NEVER,
          ended: NEVER,
        }
        taken.push(snapshot)
        await qcow2.createSnapshot({ name: `s${id}`, id, dateSec: 1_700_000_000 })
        snapshot.made = recorder.now++
      } else if (kind === 1) {
        const snapshot = random.pick(here)
        const { done } = model.replace(snapshot.values, recorder.now++)
        await qcow2.applySnapshot(snapshot.id)
        done(recorder.now++)
      } else if (here.length > 0) {
        const snapshot = random.pick(here)
        snapshot.ending = recorder.now++
        await qcow2.deleteSnapshot(snapshot.id)
        snapshot.ended = recorder.now++
      }
    },
    async inspect(disk, now) {
      const image = (disk.driver as ImageDevice).image as Qcow2Image
      const found = new Set((await image.snapshots()).map(({ id }) => id))
      for (const snapshot of taken) {
        const is = found.delete(snapshot.id)
        if (is && (snapshot.start >= now || snapshot.ended < now)) return `snapshot ${snapshot.id} should not be there`
        if (!is && snapshot.made < now && snapshot.ending >= now) return `snapshot ${snapshot.id} is lost`
        if (!is) continue
        const view = new BlockDevice(new ImageDevice(await image.snapshotView(snapshot.id)))
        const content = new Uint8Array(view.size)
        await view.read(0, bytesVec(content))
        const wrong = judge(
          content,
          snapshot.values.map((value) => new Set([value])),
        )
        if (wrong !== undefined) return `snapshot ${snapshot.id}: ${wrong}`
      }
      return found.size > 0 ? `unknown snapshots ${[...found].join(', ')}` : undefined
    },
  }
}

const ZEROES = new Uint8Array(SECTOR)

/** Keeps a bitmap of all writes to a disk of zeroes, and stores it now and then. */
const bitmaps: MakeOwner = ({ disk, recorder }) => {
  const qcow2 = (disk.driver as ImageDevice).image as Qcow2Image
  let added = NEVER
  return {
    async begin() {
      await qcow2.bitmaps.add('writes', SECTOR)
      added = recorder.now++
    },
    act: () => qcow2.bitmaps.enable('writes', true),
    async inspect(disk, now) {
      const { bitmaps } = (disk.driver as ImageDevice).image as Qcow2Image
      const entry = bitmaps.list.find(({ name }) => name === 'writes')
      if (entry === undefined) return added < now ? 'the bitmap is lost' : undefined
      if (entry.flags & 1) return undefined // in use: it says itself that it is not to be trusted
      const bits = await bitmaps.bits('writes')
      const content = new Uint8Array(disk.size)
      await disk.read(0, bytesVec(content))
      for (let sector = 0; sector < disk.size / SECTOR; sector++) {
        const written = Buffer.compare(content.subarray(sector * SECTOR, (sector + 1) * SECTOR), ZEROES) !== 0
        if (written && ((bits[sector >> 3]! >> (sector & 7)) & 1) === 0) return `the bitmap lacks sector ${sector}`
      }
      return undefined
    },
  }
}

/** More than any disk that is resized here ever had. */
const LARGEST = 512 * KB

/** Shrinks and grows the disk. */
const resizes: MakeOwner = ({ disk, recorder, model, random }) => {
  const sizes = [{ size: disk.size, start: -1, end: -1 }]
  return {
    async act() {
      const size = SECTOR * random.between(1, model.size / SECTOR)
      const change = { size, start: recorder.now++, end: NEVER }
      sizes.push(change)
      const cut = size < disk.size ? model.begin('zero', size, model.size - size, change.start) : undefined
      await disk.resize(size)
      change.end = recorder.now++
      cut?.done(change.end)
    },
    async inspect(disk, now) {
      let allowed: number[] = []
      for (const { size, start, end } of sizes) {
        if (start >= now) break
        allowed = end < now ? [size] : [...allowed, size]
      }
      const { size } = disk
      if (!allowed.includes(size)) return `the disk has ${size} bytes, allowed are ${allowed.join(', ')}`
      // What was cut off does not come back, even where the power failed between the change of size and the rest of it.
      await disk.resize(LARGEST)
      const more = new Uint8Array(LARGEST - size)
      await disk.read(size, bytesVec(more))
      const shown = more.findIndex((byte) => byte !== 0)
      return shown < 0 ? undefined : `grown again, the disk shows ${more[shown]} at ${size + shown}`
    },
  }
}

const backingVersion = (sector: number) => 1000 + sector

export const workloads: readonly Workload[] = [
  {
    name: 'overwriting writes',
    shape: { clusterSize: 4096 },
    size: 64 * KB,
    mix: { write: 6, flush: 1 },
    requests: 100,
    depth: 4,
    full: 64 * KB,
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
    shape: { clusterSize: 512, refcountBits: 64 },
    size: 96 * KB,
    mix: { write: 6, zero: 2, discard: 2, flush: 2 },
    requests: 200,
    depth: 4,
  },
  {
    // A refcount table of one cluster covers 2 MiB, which is nearly full at first.
    name: 'the refcount table moves',
    shape: { clusterSize: 512, refcountBits: 64 },
    size: 2560 * KB,
    mix: { write: 8, discard: 1, flush: 1 },
    requests: 70,
    depth: 4,
    sectors: 100,
    full: 1950 * KB,
    part: 0.2,
  },
  {
    // The file is past 4 MiB: long writes leave clusters out, which the short ones and new tables get.
    name: 'long writes to aligned space',
    shape: { clusterSize: 65536 },
    size: 8192 * KB,
    mix: { write: 8, discard: 2, flush: 1 },
    requests: 60,
    depth: 4,
    sectors: 1200,
    full: 4096 * KB,
    part: 0.2,
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
  {
    name: 'lazy refcounts',
    shape: { clusterSize: 4096, lazyRefcounts: true },
    size: 256 * KB,
    mix: { write: 8, discard: 2, flush: 1 },
    requests: 120,
    depth: 4,
  },
  {
    name: 'snapshots',
    shape: { clusterSize: 1024 },
    size: 64 * KB,
    mix: { write: 8, zero: 2, flush: 1, special: 1 },
    requests: 150,
    depth: 4,
    owner: snapshots,
  },
  {
    name: 'snapshots of subclusters over a backing file',
    shape: { clusterSize: 16384, extendedL2: true, backingFile: 'backing', backingFmt: 'raw' },
    size: 256 * KB,
    mix: { write: 8, zero: 2, flush: 1, special: 1 },
    requests: 100,
    depth: 4,
    backing: 400,
    owner: snapshots,
  },
  {
    name: 'resize',
    shape: { clusterSize: 512 },
    size: 128 * KB,
    mix: { write: 8, zero: 1, discard: 1, flush: 1, special: 1 },
    requests: 150,
    depth: 4,
    owner: resizes,
  },
  {
    name: 'an external data file over a backing file',
    shape: { clusterSize: 4096, dataFile: 'data', backingFile: 'backing', backingFmt: 'raw' },
    size: 192 * KB,
    mix: { write: 6, zero: 2, discard: 2, flush: 2 },
    requests: 150,
    depth: 4,
    backing: 300,
  },
  {
    name: 'a raw external data file',
    shape: { clusterSize: 4096, dataFile: 'data', dataFileRaw: true },
    size: 192 * KB,
    mix: { write: 6, zero: 2, discard: 2, flush: 2 },
    requests: 150,
    depth: 4,
    full: 96 * KB,
  },
  {
    name: 'resize with an external data file of subclusters',
    shape: { clusterSize: 16384, extendedL2: true, dataFile: 'data' },
    size: 256 * KB,
    mix: { write: 8, zero: 1, discard: 1, flush: 1, special: 1 },
    requests: 120,
    depth: 4,
    owner: resizes,
  },
  {
    name: 'bitmaps',
    shape: { clusterSize: 512 },
    size: 64 * KB,
    mix: { write: 6, flush: 1, special: 1 },
    requests: 100,
    depth: 4,
    owner: bitmaps,
  },
  {
    name: 'resize over a backing file',
    shape: { clusterSize: 4096, backingFile: 'backing', backingFmt: 'raw' },
    size: 128 * KB,
    mix: { write: 8, zero: 1, discard: 1, flush: 1, special: 1 },
    requests: 150,
    depth: 4,
    backing: 256,
    owner: resizes,
  },
]

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
  const { dataFile: dataName, dataFileRaw: dataRaw } = workload.shape
  const parts = (data?: BlockDriver) => ({
    ...options,
    ...(sectors > 0 ? { backing: new BlockDevice(Memory.from(bytes)) } : {}),
    ...(dataName !== undefined && data ? { dataFile: new BlockDevice(data) } : {}),
  })
  const data = new Memory(dataRaw ? workload.size : 0)
  const { disk: fresh, image: empty } = await makeImage(start, { ...workload.shape, size: workload.size }, parts(data))
  const { clusterSize } = empty
  const full = workload.full ?? 0
  const first = new Uint8Array(full)
  for (let at = 0; at < first.length; at += SECTOR) stamp(first.subarray(at, at + SECTOR), at / SECTOR, FIRST_VERSION)
  await fresh.write(0, bytesVec(first))
  await fresh.close()
  const media = dataName === undefined ? [start] : [start, data]
  const [recorder, ...beside] = recordTogether(await Promise.all(media.map(contentOf)), random) as [
    Recorder,
    ...Recorder[],
  ]
  const model = new DiskModel(workload.size, (sector) =>
    sector * SECTOR < full ? FIRST_VERSION : sector < sectors ? backingVersion(sector) : 0,
  )
  const { disk } = await openImage(recorder, { ...parts(beside.at(0)), ...plant })
  const owner = workload.owner?.({ disk, recorder, model, random })
  await owner?.begin?.()
  const guest = { disk, recorder, model, random, clusterSize, ...workload }
  await runGuest(owner === undefined ? guest : { ...guest, special: () => owner.act() })
  await disk.close()
  const subject: Subject = {
    name: `qcow2, ${workload.name} (seed ${seed})`,
    qemu: 'qcow2',
    repairable: (bytes) => bytes[7] === 3 && (bytes[79]! & 1) !== 0, // version 3: the dirty bit of lazy refcounts
    ...(sectors > 0 ? { backing: { name: 'backing', bytes } } : {}),
    ...(dataName === undefined ? {} : { beside: [dataName] }),
    open: async (medium, data) => {
      const before = await damage(medium)
      if (before.length > 0) throw new Error(before.join('; '))
      return (await openImage(medium, parts(data))).disk
    },
    check: (medium) => damage(medium, true),
    inspect: async (disk: BlockDevice, now: number) => {
      const wrong = await owner?.inspect(disk, now)
      if (wrong !== undefined || !dataRaw) return wrong
      // Whoever knows nothing of qcow2 reads the disk in the data file.
      const raw = await contentOf(((disk.driver as ImageDevice).image as Qcow2Image).dataFile!)
      const torn = judge(raw.subarray(0, disk.size), model.allowed(now))
      return torn === undefined ? undefined : `the raw data file: ${torn}`
    },
  }
  return { recorder, beside, model, subject, closed: recorder.now }
}

async function contentOf(medium: BlockDriver): Promise<Uint8Array> {
  const content = new Uint8Array(medium.size)
  await medium.read(0, bytesVec(content))
  return content
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
