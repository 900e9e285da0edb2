/** Repairs of qcow2 images: what each mends, what it leaves alone, and what a power cut in the middle of one leaves. */
import { createHash } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { BlockDevice, type BlockDriver } from '../../../src/block/device.ts'
import { checkQcow2 } from '../../../src/block/formats/qcow2/check.ts'
import { createQcow2 } from '../../../src/block/formats/qcow2/create.ts'
import { readImageHeader } from '../../../src/block/formats/qcow2/image.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { outcome, readBytes, writeBytes } from '../../conformance/driver.ts'
import { Recorder, Replay } from '../../crash/recorder.ts'
import { random } from '../../random.ts'
import { makeImage, openImage } from './images.ts'

const CLUSTER = 4096
const SIZE = 1 << 18
const COPIED = 1n << 63n

/** An image's bytes, to be damaged. */
class Damaged {
  readonly bytes: Uint8Array
  readonly #view: DataView

  constructor(bytes: Uint8Array) {
    this.bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  }

  get64(at: number): bigint {
    return this.#view.getBigUint64(at)
  }

  put64(at: number, value: bigint): void {
    this.#view.setBigUint64(at, value)
  }

  get l1(): number {
    return Number(this.get64(40))
  }

  get refcountTable(): number {
    return Number(this.get64(48))
  }

  /** Where an entry of the first L2 table is. */
  l2(index: number): number {
    return Number(this.get64(this.l1) & 0x00fffffffffffe00n) + index * 8
  }

  /** Cluster that an entry of the first L2 table shows. */
  cluster(index: number): number {
    return Number(this.get64(this.l2(index)) & 0x00fffffffffffe00n) / CLUSTER
  }

  count(cluster: number): number {
    return this.#view.getUint16(Number(this.get64(this.refcountTable)) + cluster * 2)
  }

  setCount(cluster: number, count: number): void {
    this.#view.setUint16(Number(this.get64(this.refcountTable)) + cluster * 2, count)
  }
}

/** An image with data in its first 60 clusters, the number of each in all its bytes; `snapshot` shares them. */
async function image(damage: (image: Damaged) => void, snapshot = false): Promise<Uint8Array> {
  const medium = new Memory(0)
  const { disk, image } = await makeImage(medium, { size: SIZE, clusterSize: CLUSTER })
  for (let each = 0; each < 60; each++) {
    await writeBytes(disk, each * CLUSTER, new Uint8Array(CLUSTER).fill(each + 1))
  }
  if (snapshot) await image.createSnapshot({ name: 'one', dateSec: 0 })
  if (snapshot) await writeBytes(disk, 5 * CLUSTER, new Uint8Array(CLUSTER).fill(99))
  await disk.close()
  const bytes = await readBytes(medium, 0, medium.size)
  damage(new Damaged(bytes))
  return bytes
}

async function check(medium: BlockDriver, repair?: 'leaks' | 'all') {
  const file = new BlockDevice(medium)
  return checkQcow2('image', file, await readImageHeader('image', file), repair)
}

async function content(medium: Memory): Promise<string> {
  const { disk } = await openImage(medium, { readOnly: true })
  const bytes = await readBytes(disk, 0, SIZE)
  await disk.close()
  return createHash('sha1').update(bytes).digest('hex')
}

const leak = (image: Damaged) => {
  image.setCount(image.cluster(3), 2)
  image.put64(image.l2(3), image.get64(image.l2(3)) & ~COPIED)
}
const shared = (image: Damaged) => image.put64(image.l2(7), image.get64(image.l2(8)))
const lostCount = (image: Damaged) => image.setCount(image.cluster(9), 0)
const lostBlock = (image: Damaged) => image.put64(image.refcountTable, 0n)
const flags = (image: Damaged) => {
  for (const at of [image.l2(10), image.l2(40), image.l1]) image.put64(at, image.get64(at) & ~COPIED)
}
const misplaced = (image: Damaged) => image.put64(image.l2(100), COPIED | BigInt(image.cluster(20) * CLUSTER + 513))
const far = (image: Damaged) => image.put64(image.refcountTable + 64, 1n << 40n)

/** Each with what a repair of all says of it in the end. */
const DAMAGES: readonly (readonly [string, (image: Damaged) => void, corruptions: number, leaks: number])[] = [
  ['a count that is too high, and no COPIED flag for it', leak, 1, 1],
  ['two entries that show one cluster', shared, 3, 1],
  ['a count of 0', lostCount, 1, 0],
  ['no refcount block', lostBlock, 64, 0],
  ['COPIED flags that are lost', flags, 3, 0],
  ['a preallocated cluster that is misplaced', misplaced, 1, 0],
  ['a refcount block far after the end', far, 1, 0],
  [
    'all that can be mended in place',
    (image) => {
      for (const damage of [leak, shared, flags, misplaced]) damage(image)
    },
    8,
    2,
  ],
]

/**
 * An image of 4 KiB clusters whose metadata were preallocated, and most of whose clusters were given back: `tables` L2 tables, each
 * before its 512 clusters, of which each 128th is in use. The data itself is a hole.
 */
async function preallocated(tables: number): Promise<Memory> {
  const medium = new Memory(0)
  await createQcow2(new BlockDevice(medium), { name: 'image', size: tables * 512 * CLUSTER, clusterSize: CLUSTER })
  const header = await readImageHeader('image', new BlockDevice(medium))
  const l1 = header.l1Offset / CLUSTER
  const first = l1 + Math.ceil((header.l1Size * 8) / CLUSTER)
  const after = first + tables * 513
  // The refcount structure is after all that.
  const blocks = Math.ceil((after * 1.001 + 8) / 2048)
  const length = Math.ceil((blocks * 8) / CLUSTER)
  medium.resize((after + length + blocks) * CLUSTER)
  const table = new Uint8Array(length * CLUSTER)
  for (let block = 0; block < blocks; block++) {
    new DataView(table.buffer).setBigUint64(block * 8, BigInt((after + length + block) * CLUSTER))
  }
  const counts = new Uint8Array(blocks * CLUSTER)
  const use = (cluster: number) => {
    counts[cluster * 2 + 1] = 1
  }
  const entries = new Uint8Array((first - l1) * CLUSTER)
  for (let index = 0; index < tables; index++) {
    const place = first + index * 513
    new DataView(entries.buffer).setBigUint64(index * 8, COPIED | BigInt(place * CLUSTER))
    use(place)
    const bytes = new Uint8Array(CLUSTER)
    for (let each = 0; each < 512; each += 128) {
      new DataView(bytes.buffer).setBigUint64(each * 8, COPIED | BigInt((place + 1 + each) * CLUSTER))
      use(place + 1 + each)
    }
    medium.write(place * CLUSTER, bytesVec(bytes))
  }
  for (let cluster = l1; cluster < first; cluster++) use(cluster)
  for (let cluster = after; cluster < after + length + blocks; cluster++) use(cluster)
  use(0)
  medium.write(l1 * CLUSTER, bytesVec(entries))
  medium.write(after * CLUSTER, bytesVec(table))
  medium.write((after + length) * CLUSTER, bytesVec(counts))
  const shown = new DataView(new ArrayBuffer(12))
  shown.setBigUint64(0, BigInt(after * CLUSTER))
  shown.setUint32(8, length)
  medium.write(48, bytesVec(new Uint8Array(shown.buffer)))
  return medium
}

test('a large image that takes little is checked, and opened though it was not closed', async () => {
  const tables = 12_800
  const medium = await preallocated(tables)
  const found = await check(medium)
  expect(found).toMatchObject({ corruptions: 0, leaks: 0, 'check-errors': 0, 'allocated-clusters': tables * 4 })
  medium.write(79, bytesVec(Uint8Array.of(1)))
  const { disk } = await openImage(medium)
  await disk.close()
  expect((await readImageHeader('image', new BlockDevice(medium))).incompatible).toBe(0n)
})

describe('a repair', () => {
  for (const [what, damage, corruptions, leaks] of DAMAGES) {
    test(`of ${what}`, async () => {
      for (const snapshot of [false, true]) {
        const medium = Memory.from(await image(damage, snapshot))
        const before = await content(medium)
        const found = await check(medium, 'all')
        expect(found).toMatchObject({ corruptions: 0, leaks: 0, 'check-errors': 0 })
        if (!snapshot) expect([found['corruptions-fixed'], found['leaks-fixed']]).toEqual([corruptions, leaks])
        expect(await content(medium)).toBe(before)
        expect(await check(medium)).toMatchObject({ corruptions: 0, leaks: 0, 'check-errors': 0 })
      }
    })

    test(`of ${what}, cut off at any moment, loses nothing and can be done again`, async () => {
      for (const snapshot of [false, true]) {
        const start = await image(damage, snapshot)
        const before = await content(Memory.from(start))
        const recorder = new Recorder(start)
        await check(recorder, 'all')
        const replay = new Replay(recorder)
        const chance = random(7)
        for (let now = 0; now <= recorder.now; now++) {
          const few = replay.to(now) <= 3
          const states = few ? [...replay.whole()] : Array.from({ length: 8 }, () => replay.sample(chance))
          for (const { bytes, story } of states) {
            const medium = Memory.from(bytes.slice())
            expect(await content(medium), story).toBe(before)
            const again = await check(medium, 'all')
            expect({ story, ...again }).toMatchObject({ corruptions: 0, leaks: 0, 'check-errors': 0 })
            expect(await content(medium), story).toBe(before)
          }
        }
      }
    })
  }

  test('sets no COPIED flag before the count of 1 is durable', async () => {
    const recorder = new Recorder(await image(leak))
    const found = await check(recorder, 'leaks')
    expect(found).toMatchObject({ corruptions: 0, leaks: 0, 'corruptions-fixed': 1, 'leaks-fixed': 1 })
    const replay = new Replay(recorder)
    let states = 0
    for (let now = 0; now <= recorder.now; now++) {
      replay.to(now)
      for (const { bytes, story } of replay.whole()) {
        states++
        const { messages } = await check(Memory.from(bytes.slice()))
        // Without the flag the cluster is only copied when it is written: with it and a count of 2, it would be changed in place.
        expect(messages.join(), story).not.toMatch(/OFLAG_COPIED data cluster: l2_entry=8[0-9a-f]{15} /)
      }
    }
    expect(states).toBeGreaterThan(4)
  })

  test('writes no more than the counts and flags that are wrong, and leaves the file as long as it was', async () => {
    const start = await image((damaged) => {
      for (const damage of [leak, shared, flags]) damage(damaged)
    })
    const medium = Memory.from(start.slice())
    await check(medium, 'all')
    expect(medium.size).toBe(start.length)
    const now = await readBytes(medium, 0, medium.size)
    const changed = [...start.keys()].filter((at) => start[at] !== now[at])
    // Counts of 3 clusters; the flags of 3 + 1 + 2 entries.
    expect(changed.length).toBe(9)
  })

  test('of leaks alone changes the counts of leaks alone where something is corrupt', async () => {
    const start = await image((damaged) => {
      for (const damage of [leak, shared, flags]) damage(damaged)
    })
    const medium = Memory.from(start.slice())
    const before = await check(medium)
    const found = await check(medium, 'leaks')
    expect(found).toMatchObject({ leaks: 0, 'leaks-fixed': 2, 'corruptions-fixed': 0 })
    const now = new Damaged(await readBytes(medium, 0, medium.size))
    const old = new Damaged(start)
    // What leaked has no flag; the count of 1 for it makes that one more that is wrong.
    expect(found.corruptions).toBe(before.corruptions + 1)
    const changed = [...start.keys()].filter((at) => start[at] !== now.bytes[at])
    expect(changed.length).toBe(2)
    expect([now.count(old.cluster(3)), now.count(old.cluster(8))]).toEqual([1, 1])
  })

  test('of leaks alone gives up where the refcount structure must be rebuilt, and writes nothing', async () => {
    const start = await image((damaged) => {
      leak(damaged)
      lostCount(damaged)
    })
    const recorder = new Recorder(start)
    expect(await outcome(() => check(recorder, 'leaks'))).toBe('EIO')
    expect(recorder.changes).toEqual([])
  })

  test('changes no flag in what is not a table alone', async () => {
    // The L2 table of the second half of a larger disk lies, it says, where the refcount table is.
    const medium = new Memory(0)
    const { disk } = await makeImage(medium, { size: 4 << 20, clusterSize: CLUSTER })
    await writeBytes(disk, 0, new Uint8Array(CLUSTER).fill(1))
    await disk.close()
    const damaged = new Damaged(await readBytes(medium, 0, medium.size))
    damaged.put64(damaged.l1 + 8, COPIED | BigInt(damaged.l1))
    const bad = Memory.from(damaged.bytes.slice())
    const found = await check(bad, 'all')
    expect(found.corruptions).toBeGreaterThan(0)
    const now = new Damaged(await readBytes(bad, 0, bad.size))
    expect(now.get64(now.l1)).toBe(damaged.get64(damaged.l1))
    expect(now.get64(now.l1 + 8)).toBe(damaged.get64(damaged.l1 + 8))
  })

  test('sets no COPIED flag for a cluster with more uses than its refcount can say', async () => {
    const medium = new Memory(0)
    const { disk } = await makeImage(medium, { size: SIZE, clusterSize: CLUSTER, refcountBits: 1 })
    await writeBytes(disk, 0, new Uint8Array(4 * CLUSTER).fill(1))
    await disk.close()
    const damaged = new Damaged(await readBytes(medium, 0, medium.size))
    const twice = BigInt(damaged.cluster(1) * CLUSTER)
    for (const index of [1, 2]) damaged.put64(damaged.l2(index), twice)
    damaged.put64(damaged.l2(0), damaged.get64(damaged.l2(0)) & ~COPIED)
    const bad = Memory.from(damaged.bytes)
    const found = await check(bad, 'all')
    expect(found.corruptions).toBe(3)
    const now = new Damaged(await readBytes(bad, 0, bad.size))
    expect([1, 2].map((index) => now.get64(now.l2(index)))).toEqual([twice, twice])
    expect(now.get64(now.l2(0)) & COPIED).toBe(COPIED)
  })

  test('gives nothing back where the snapshots cannot be read', async () => {
    const start = await image((damaged) => {
      leak(damaged)
      damaged.put64(Number(damaged.get64(64)), 0x90200n)
    }, true)
    for (const repair of ['leaks', 'all'] as const) {
      const recorder = new Recorder(start)
      expect((await check(recorder, repair))['check-errors']).toBe(1)
      expect(recorder.changes).toEqual([])
    }
  })

  test('tells of everything, and keeps the first thousand messages', async () => {
    const medium = Memory.from(
      await image((damaged) => {
        for (let index = 0; index < 60; index++) damaged.put64(damaged.l2(index), BigInt(2 ** 40 + index * CLUSTER))
        for (let index = 64; index < 256; index++) damaged.put64(damaged.l2(index), BigInt(2 ** 41 + 512))
        for (let index = 256; index < 512; index++) damaged.put64(damaged.l2(index), 0x0300000000000600n)
      }),
    )
    const file = new BlockDevice(medium)
    const told: string[] = []
    const tell = (message: string) => void told.push(message)
    const found = await checkQcow2('image', file, await readImageHeader('image', file), undefined, tell)
    expect(found.messages).toEqual(told.slice(0, 1000))
    expect(told.length).toBeGreaterThan(1000)
    expect(found.corruptions + found.leaks).toBe(told.length)
  })
})
