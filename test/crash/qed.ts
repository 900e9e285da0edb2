/** QED and qcow under the crash explorer. */
import { BlockDevice, type BlockDriver } from '../../src/block/device.ts'
import { createQcow, openQcow, readQcowHeader } from '../../src/block/formats/qcow.ts'
import { checkQed } from '../../src/block/formats/qed/check.ts'
import { createQed, openQed, readQedHeader } from '../../src/block/formats/qed/index.ts'
import { bytesVec } from '../../src/block/iovec.ts'
import { ImageDevice } from '../../src/block/mover.ts'
import { Memory } from '../../src/block/protocols/memory.ts'
import { random as seedRandom } from '../random.ts'
import type { Recording } from './explorer.ts'
import { DiskModel, SECTOR, stamp } from './model.ts'
import { Recorder } from './recorder.ts'
import { type Mix, runGuest } from './workload.ts'

const name = 'crashed'
const SIZE = 256 * 1024
const BACKED = 300
const backingVersion = (sector: number) => 1000 + sector

export const qedWorkloads = [
  { format: 'qed', backed: false, mix: { write: 8, zero: 1, discard: 1, flush: 1 } },
  { format: 'qed', backed: true, mix: { write: 8, zero: 1, discard: 1, flush: 1 } },
  { format: 'qcow', backed: false, mix: { write: 8, discard: 1, pack: 1, flush: 1 } },
  { format: 'qcow', backed: true, mix: { write: 8, zero: 1, flush: 1 } },
] as const satisfies readonly { format: string; backed: boolean; mix: Mix }[]

/** Runs a workload and records it; `plant` may leave out flushes of the file by their number. */
export async function recordQed(
  workload: (typeof qedWorkloads)[number],
  seed: number,
  skipFlush: (count: number) => boolean = () => false,
): Promise<Recording> {
  const { format, backed, mix } = workload
  const random = seedRandom(seed)
  const sectors = backed ? BACKED : 0
  const bytes = new Uint8Array(sectors * SECTOR)
  for (let sector = 0; sector < sectors; sector++) {
    stamp(bytes.subarray(sector * SECTOR, (sector + 1) * SECTOR), sector, backingVersion(sector))
  }
  const open = async (medium: BlockDriver) => {
    const file = new BlockDevice(medium)
    const options = backed ? { name, backing: new BlockDevice(Memory.from(bytes)) } : { name }
    const image =
      format === 'qed'
        ? await openQed(file, await readQedHeader(name, file), options)
        : await openQcow(file, await readQcowHeader(name, file), options)
    return new BlockDevice(new ImageDevice(image))
  }
  const start = new Memory(0)
  const made = { name, size: SIZE, ...(backed ? { backingFile: 'backing', backingFmt: 'raw' } : {}) }
  if (format === 'qed') await createQed(new BlockDevice(start), { ...made, clusterSize: 4096, tableSize: 2 })
  else await createQcow(new BlockDevice(start), made)
  const content = new Uint8Array(start.size)
  start.read(0, bytesVec(content))
  const recorder = new Recorder(content, random)
  let flushes = 0
  const flush = recorder.flush.bind(recorder)
  recorder.flush = () => (skipFlush(flushes++) ? undefined : flush())
  const model = new DiskModel(SIZE, (sector) => (sector < sectors ? backingVersion(sector) : 0))
  const disk = await open(recorder)
  const clusterSize = (disk.driver as ImageDevice).image.clusterSize
  await runGuest({ disk, recorder, model, random, clusterSize, mix, requests: 150, depth: 4 })
  await disk.close()
  return {
    recorder,
    model,
    closed: recorder.now,
    subject: {
      name: `${format}${backed ? ' over a backing file' : ''} (seed ${seed})`,
      ...(format === 'qed' ? { qemu: 'qed' } : {}),
      ...(backed ? { backing: { name: 'backing', bytes } } : {}),
      repairable: (state) => (state[16]! & 2) !== 0, // the need-check bit
      open,
      async check(medium) {
        if (format !== 'qed') return []
        const file = new BlockDevice(medium)
        const found = await checkQed(name, file, await readQedHeader(name, file))
        return found.corruptions > 0 ? found.messages : []
      },
    },
  }
}
