/** Power cuts while a job runs, above all while it puts another image in the place of the disk's. */
import { expect, test } from 'vitest'
import { BlockDevice } from '../../src/block/device.ts'
import type { Disk } from '../../src/block/disk.ts'
import { checkQcow2 } from '../../src/block/formats/qcow2/check.ts'
import { readImageHeader } from '../../src/block/formats/qcow2/image.ts'
import { qcow2 } from '../../src/block/formats/qcow2/index.ts'
import { closedGate } from '../../src/block/gate.ts'
import { bytesVec } from '../../src/block/iovec.ts'
import { Borrowed, layers } from '../../src/block/jobs/chain.ts'
import type { Job } from '../../src/block/jobs/job.ts'
import { snapshot } from '../../src/block/jobs/snapshot.ts'
import { commit, mirror, stream } from '../../src/block/live.ts'
import { openDisk, openImage } from '../../src/block/open.ts'
import { Memory } from '../../src/block/protocols/memory.ts'
import { type Random, random as seedRandom } from '../random.ts'
import { type Recorder, Replay, recordTogether } from './recorder.ts'

const SIZE = 512 << 10
const states = Math.ceil(Number(process.env.BLOCK86_CRASH_STATES ?? 500) / 4)
const seed = Number(process.env.BLOCK86_SEED ?? Date.now() % 2 ** 31)

interface Scenario {
  readonly name: string
  readonly depth: number
  begin(disk: Disk, target: BlockDevice): Job
  /** Number of the medium that holds the disk when the job has ended; the target is the last. */
  readonly after: (depth: number) => number
}

const scenarios: Scenario[] = [
  { name: 'stream', depth: 3, begin: (disk) => stream(disk), after: (depth) => depth - 1 },
  {
    name: 'stream to a base with a long name',
    depth: 3,
    begin: (disk) => stream(disk, { base: [...layers(disk.root)][2]!, backingFile: `${'x/'.repeat(200)}level0` }),
    after: (depth) => depth - 1,
  },
  {
    name: 'commit of an image between',
    depth: 3,
    begin(disk) {
      const [, top, base] = [...layers(disk.root)]
      return commit(disk, { top: top!, base: base!, backingFile: 'level0' })
    },
    after: (depth) => depth - 1,
  },
  { name: 'commit of the disk', depth: 3, begin: (disk) => commit(disk), after: () => 0 },
  { name: 'mirror', depth: 2, begin: (disk, target) => mirror(disk, { target }), after: (depth) => depth },
  {
    name: 'mirror that blocks writes',
    depth: 2,
    begin: (disk, target) => mirror(disk, { target, copyMode: 'write-blocking' }),
    after: (depth) => depth,
  },
]

async function emptyImage(name: string, backingFile?: string): Promise<Memory> {
  const memory = new Memory(0)
  const backing = backingFile === undefined ? {} : { backingFile, backingFmt: 'qcow2' }
  const options = { clusterSize: 4096, ...backing }
  await qcow2.create(new BlockDevice(memory), { name, size: SIZE, gate: closedGate, options })
  return memory
}

async function contents(device: { readonly size: number } & Pick<BlockDevice, 'read'>): Promise<Uint8Array> {
  const bytes = new Uint8Array(device.size)
  await device.read(0, bytesVec(bytes))
  return bytes
}

/** Opens image number `level` over what its header names. */
async function openChain(media: readonly Memory[], level: number, readOnly = true): Promise<BlockDevice> {
  const { backingFile } = await readImageHeader('image', new BlockDevice(media[level]!))
  const below = backingFile === undefined ? undefined : Number(/level(\d)$/.exec(backingFile)?.[1])
  if (below !== undefined && !(below < level)) throw new Error(`the header names ${backingFile}`)
  const backing = below === undefined ? {} : { backing: await openChain(media, below) }
  return openImage(media[level]!, { format: 'qcow2', readOnly, ...backing })
}

/** Images over each other with something in each, and what they show. */
async function makeChain(random: Random, depth: number): Promise<{ media: Memory[]; model: Uint8Array }> {
  const media: Memory[] = []
  const model = new Uint8Array(SIZE)
  for (let level = 0; level < depth; level++) {
    media.push(await emptyImage(`level${level}`, level === 0 ? undefined : `level${level - 1}`))
    const device = await openChain(media, level, false)
    for (let write = 0; write < 12; write++) {
      const at = random.below(SIZE / 512) * 512
      const bytes = new Uint8Array(Math.min(512 * (1 + random.below(30)), SIZE - at)).fill(1 + random.below(255))
      await device.write(at, bytesVec(bytes))
      model.set(bytes, at)
    }
    await device.close()
  }
  return { media, model }
}

/** Recorders that begin with what the media hold. */
function recordersOf(media: readonly Memory[], random: Random): Recorder[] {
  const starts = media.map((memory) => {
    const bytes = new Uint8Array(memory.size)
    memory.read(0, bytesVec(bytes))
    return bytes
  })
  return recordTogether(starts, random)
}

test.each(scenarios)('$name: at any moment the disk is what was flushed', async ({ depth, begin, after, name }) => {
  const random = seedRandom(seed)
  const { media, model } = await makeChain(random, depth)
  media.push(await emptyImage('target'))
  const recorders = recordersOf(media, random)
  const readOnly = async (level: number): Promise<BlockDevice> =>
    openImage(recorders[level]!, {
      format: 'qcow2',
      readOnly: true,
      ...(level === 0 ? {} : { backing: await readOnly(level - 1) }),
    })
  const disk = await openDisk(recorders[depth - 1]!, { format: 'qcow2', backing: await readOnly(depth - 2) })
  const target = await openImage(recorders[depth]!, { format: 'qcow2' })
  const job = begin(disk, target)
  while (!(await job.next()).done) if (job.status === 'ready') await job.complete()
  await job.run()
  const ended = recorders[0]!.now
  // What is flushed after the end is in the image that the disk goes on with.
  const last = new Uint8Array(20 * 512).fill(0xab)
  const place = random.below(SIZE / 512 - 20) * 512
  await disk.write(place, bytesVec(last))
  await disk.flush()
  const flushed = recorders[0]!.now
  const later = model.slice()
  later.set(last, place)
  await disk.close()

  const replays = recorders.map((recorder) => new Replay(recorder))
  const moments = recorders[0]!.now
  let looked = 0
  for (let now = 0; now <= moments; now++) {
    const pending = replays.map((replay) => replay.to(now)).reduce((sum, each) => sum + each, 0)
    const wanted = Math.min(pending === 0 ? 1 : 8, Math.ceil((states * (now + 1)) / moments) - looked)
    for (let each = 0; each < wanted; each++) {
      looked++
      const cut = replays.map((replay) => replay.sample(random))
      const story = cut.map((state, index) => `medium ${index}: ${state.story}`).join('\n')
      const doing = `${name}, BLOCK86_SEED=${seed}, moment ${now} of ${moments} (ended ${ended}, flushed ${flushed})\n${story}`
      const left = cut.map(({ bytes }) => Memory.from(bytes))
      // Until the job has ended its user knows the old image; from then on the new one.
      const level = now <= ended ? depth - 1 : after(depth)
      const image = await openChain(left, level, false).catch((error) => {
        throw new Error(`${doing}\ncannot be opened: ${error}`, { cause: error })
      })
      const found = await contents(image)
      const wrong = found.findIndex((byte, at) =>
        now <= ended
          ? byte !== model[at]
          : now >= flushed
            ? byte !== later[at]
            : byte !== model[at] && byte !== later[at],
      )
      if (wrong >= 0) throw new Error(`${doing}\nhas ${found[wrong]} at ${wrong}, not ${model[wrong]}`)
      await image.close()
      const file = new BlockDevice(left[level]!)
      const { corruptions } = await checkQcow2('image', file, await readImageHeader('image', file), 'leaks')
      expect(corruptions, doing).toBe(0)
    }
  }
  expect(looked).toBeGreaterThan(50)
})

test('snapshot: what was written before it and flushed after it is there', async () => {
  const random = seedRandom(seed)
  const recorders = recordersOf([new Memory(SIZE), new Memory(0)], random)
  const disk = await openDisk(recorders[0]!, { format: 'raw' })
  const model = new Uint8Array(SIZE)
  const write = async (count: number) => {
    for (let each = 0; each < count; each++) {
      const at = random.below(SIZE / 512 - 40) * 512
      const bytes = new Uint8Array(512 * (1 + random.below(40))).fill(1 + random.below(255))
      await disk.write(at, bytesVec(bytes))
      model.set(bytes, at)
    }
  }
  await write(10)
  await snapshot(disk, async (image) => {
    const options = { clusterSize: 4096, backingFile: 'level0', backingFmt: 'raw' }
    await qcow2.create(new BlockDevice(recorders[1]!), { name: 'over', size: SIZE, gate: closedGate, options })
    const below = new BlockDevice(new Borrowed(image))
    return { image: await openImage(recorders[1]!, { format: 'qcow2', backing: below }), below }
  }).run()
  await write(5)
  await disk.flush()
  const flushed = recorders[0]!.now
  await disk.close()
  const replays = recorders.map((recorder) => new Replay(recorder))
  for (let now = flushed; now <= recorders[0]!.now; now++) {
    for (const replay of replays) replay.to(now)
    for (let each = 0; each < 8; each++) {
      const cut = replays.map((replay) => replay.sample(random))
      const [base, over] = cut.map(({ bytes }) => Memory.from(bytes))
      const image = await openImage(over!, {
        format: 'qcow2',
        backing: await openImage(base!, { format: 'raw', readOnly: true }),
      })
      const found = await contents(image)
      const wrong = found.findIndex((byte, at) => byte !== model[at])
      const story = cut.map((state, index) => `medium ${index}: ${state.story}`).join('\n')
      expect(wrong, `BLOCK86_SEED=${seed}, moment ${now}\n${story}`).toBe(-1)
      await image.close()
    }
  }
})
