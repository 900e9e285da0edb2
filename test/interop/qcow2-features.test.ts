/** What qcow2 has besides data: snapshots, bitmaps, external data, versions; made by qemu-img and read by us, and back. */
import { readFileSync, writeFileSync } from 'node:fs'
import { afterAll, describe, expect, test } from 'vitest'
import { BlockDevice } from '../../src/block/device.ts'
import { amendQcow2, preallocate } from '../../src/block/formats/qcow2/amend.ts'
import { checkQcow2 } from '../../src/block/formats/qcow2/check.ts'
import { createQcow2, type Qcow2CreateOptions } from '../../src/block/formats/qcow2/create.ts'
import { readImageHeader } from '../../src/block/formats/qcow2/image.ts'
import { infoQcow2, measureQcow2 } from '../../src/block/formats/qcow2/info.ts'
import { ImageDevice } from '../../src/block/mover.ts'
import { makeImage, openImage, TestFile } from '../block/formats/images.ts'
import { readBytes, same, writeBytes } from '../conformance/driver.ts'
import { type Random, seeded } from '../random.ts'
import { lacks, runTool, temporaryFolder } from '../tools.ts'

const folder = temporaryFolder()
afterAll(() => folder.remove())

const SIZE = 3 * 1024 * 1024

async function scribble(random: Random, disk: BlockDevice, model: Uint8Array, rounds = 30): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    const at = 512 * random.below(model.length / 512)
    const length = Math.min(model.length - at, 512 * random.between(1, 200))
    if (random.below(5) === 0) {
      await disk.zero(at, length, { unmap: random.below(2) === 0 })
      model.fill(0, at, at + length)
      continue
    }
    const bytes = random.bytes(length)
    await writeBytes(disk, at, bytes)
    model.set(bytes, at)
  }
}

async function identical(path: string, model: Uint8Array, ...options: string[]): Promise<void> {
  const out = folder.file('out.raw')
  await runTool('qemu-img', 'convert', '-f', 'qcow2', ...options, '-O', 'raw', path, out)
  same(readFileSync(out), model)
}

async function clean(path: string): Promise<void> {
  expect(await runTool('qemu-img', 'check', '-f', 'qcow2', path)).toContain('No errors')
}

describe.skipIf(lacks('qemu-img'))('snapshots', () => {
  for (const shape of [{}, { compat: '0.10' }, { extendedL2: true }, { clusterSize: 512 }] as const) {
    test(`ours, for qemu-img: ${JSON.stringify(shape)}`, () =>
      seeded(async (random) => {
        const path = folder.file('snapshots.qcow2')
        const model = new Uint8Array(SIZE)
        const { disk, image } = await makeImage(new TestFile(path, { create: true }), { ...shape, size: SIZE })
        await scribble(random, disk, model)
        const first = model.slice()
        await image.createSnapshot({ name: 'first', dateSec: 1_700_000_000, dateNsec: 5 })
        await scribble(random, disk, model)
        const second = model.slice()
        await image.createSnapshot({ name: 'second', dateSec: 5_000_000_000 % 2 ** 32 })
        await scribble(random, disk, model)
        const view = new BlockDevice(new ImageDevice(await image.snapshotView('first')))
        same(await readBytes(view, 0, SIZE), first)
        await disk.close()
        await clean(path)
        await identical(path, model)
        await identical(path, first, '-l', 'first')
        await identical(path, second, '-l', 'second')
        await runTool('qemu-img', 'snapshot', '-a', 'first', path)
        await runTool('qemu-img', 'snapshot', '-d', 'second', path)
        const again = await openImage(new TestFile(path))
        same(await readBytes(again.disk, 0, SIZE), first)
        expect((await again.image.snapshots()).map(({ name }) => name)).toEqual(['first'])
        await scribble(random, again.disk, first)
        await again.image.deleteSnapshot('first')
        same(await readBytes(again.disk, 0, SIZE), first)
        await scribble(random, again.disk, first)
        await again.disk.close()
        await clean(path)
        await identical(path, first)
      }))
  }

  test("qemu-img's, for us", () =>
    seeded(async (random) => {
      const path = folder.file('theirs.qcow2')
      await runTool('qemu-img', 'create', '-q', '-f', 'qcow2', path, String(SIZE))
      const model = new Uint8Array(SIZE)
      const states: Uint8Array[] = []
      for (let turn = 0; turn < 4; turn++) {
        const { disk } = await openImage(new TestFile(path))
        await scribble(random, disk, model, 15)
        await disk.close()
        await runTool('qemu-img', 'snapshot', '-c', `s${turn}`, path)
        states.push(model.slice())
      }
      const { disk, image } = await openImage(new TestFile(path))
      for (const [turn, state] of states.entries()) {
        const view = new BlockDevice(new ImageDevice(await image.snapshotView(`s${turn}`)))
        same(await readBytes(view, 0, SIZE), state)
      }
      await image.applySnapshot('s1')
      same(await readBytes(disk, 0, SIZE), states[1]!)
      const now = states[1]!.slice()
      await scribble(random, disk, now, 10)
      await image.deleteSnapshot('s2')
      await disk.close()
      await clean(path)
      await identical(path, now)
      await identical(path, states[3]!, '-l', 's3')
    }))

  test('a machine state is kept with its snapshot', () =>
    seeded(async (random) => {
      const path = folder.file('state.qcow2')
      const { disk, image } = await makeImage(new TestFile(path, { create: true }), { size: SIZE, clusterSize: 4096 })
      const state = random.bytes(5_000_000)
      const device = new BlockDevice(new ImageDevice(await image.machineState(state.length)))
      await writeBytes(device, 0, state)
      await image.createSnapshot({
        name: 'running',
        dateSec: 1,
        vmClockNsec: 12_345_678_901,
        vmStateSize: state.length,
      })
      await device.discard(0, device.size)
      same(await readBytes(disk, 0, SIZE), new Uint8Array(SIZE))
      await disk.close()
      await clean(path)
      expect(await runTool('qemu-img', 'snapshot', '-l', path)).toMatch(/running\s+4\.77 MiB .* 00:00:12\.345/)
      const again = await openImage(new TestFile(path))
      await again.image.applySnapshot('running')
      const back = new BlockDevice(new ImageDevice(await again.image.machineState(state.length)))
      same(await readBytes(back, 0, state.length), state)
      await again.disk.close()
      await clean(path)
    }))
})

describe.skipIf(lacks('qemu-img'))('resize', () => {
  test('grows and shrinks, with an overlay shorter than its backing file, and with snapshots', () =>
    seeded(async (random) => {
      const path = folder.file('resize.qcow2')
      const base = folder.file('base.raw')
      const backing = random.bytes(SIZE)
      writeFileSync(base, backing)
      const { disk, image } = await makeImage(
        new TestFile(path, { create: true }),
        { size: 1_000_448, clusterSize: 512, backingFile: 'base.raw', backingFmt: 'raw' },
        { backing: new BlockDevice(new TestFile(base, { readOnly: true })) },
      )
      const small = backing.slice(0, 1_000_448)
      await image.createSnapshot({ name: 'small', dateSec: 1 })
      await disk.resize(2 * SIZE)
      let model = new Uint8Array(2 * SIZE)
      model.set(small)
      same(await readBytes(disk, 0, disk.size), model)
      await scribble(random, disk, model)
      await disk.resize(1_500_160)
      model = model.slice(0, 1_500_160)
      await disk.close()
      await clean(path)
      await identical(path, model)
      // qemu-img gives a snapshot the size of the disk now, and what the smaller one had not, it shows from below.
      await runTool('qemu-img', 'snapshot', '-a', 'small', path)
      await identical(path, small)
    }))
})

describe.skipIf(lacks('qemu-img'))('external data file', () => {
  for (const raw of [false, true]) {
    test(`raw ${raw}`, () =>
      seeded(async (random) => {
        const path = folder.file('outer.qcow2')
        const data = folder.file('outer.data')
        const options = `data_file=${data},data_file_raw=${raw ? 'on' : 'off'}`
        await runTool('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', options, path, String(SIZE))
        const model = new Uint8Array(SIZE)
        const { disk } = await openImage(new TestFile(path), { dataFile: new BlockDevice(new TestFile(data)) })
        await scribble(random, disk, model)
        await disk.discard(0, 700_000)
        model.set(await readBytes(disk, 0, 700_000))
        await disk.close()
        await clean(path)
        await identical(path, model)
        if (raw) {
          writeFileSync(folder.file('model.raw'), model)
          expect(
            await runTool('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', data, folder.file('model.raw')),
          ).toContain('identical')
        }
      }))
  }
})

describe.skipIf(lacks('qemu-img'))('amend', () => {
  test('version and refcount width, there and back', () =>
    seeded(async (random) => {
      const path = folder.file('amend.qcow2')
      const model = new Uint8Array(SIZE)
      const { disk, image } = await makeImage(new TestFile(path, { create: true }), { size: SIZE })
      const device = disk.driver as ImageDevice
      await scribble(random, disk, model)
      for (const options of [
        { refcountBits: 64 },
        { refcountBits: 1 },
        { refcountBits: 16, lazyRefcounts: true },
        { compat: '0.10' },
        { compat: '1.1', refcountBits: 8 },
      ] as const) {
        await amendQcow2(device, options)
        await scribble(random, disk, model, 10)
        await disk.flush()
        const copy = folder.file('copy.qcow2')
        await runTool('cp', path, copy)
        // What was given up since the last flush may still be counted.
        await runTool('qemu-img', 'check', '-q', '-r', 'all', copy)
        await identical(copy, model)
      }
      expect(image.header.version).toBe(3)
      await disk.close()
      await clean(path)
    }))
})

describe.skipIf(lacks('qemu-img'))('bitmaps', () => {
  test('ours, for qemu-img and back', () =>
    seeded(async (random) => {
      const path = folder.file('bitmaps.qcow2')
      const model = new Uint8Array(SIZE)
      const { disk, image } = await makeImage(new TestFile(path, { create: true }), { size: SIZE })
      await image.bitmaps.add('first', 65536)
      await image.bitmaps.add('second', 512)
      await writeBytes(disk, 700_000, random.bytes(3000))
      model.set(await readBytes(disk, 700_000, 3000), 700_000)
      await image.bitmaps.enable('second', false)
      await writeBytes(disk, 0, random.bytes(512))
      model.set(await readBytes(disk, 0, 512), 0)
      await disk.close()
      await clean(path)
      await identical(path, model)
      const info = JSON.parse(await runTool('qemu-img', 'info', '--output=json', path))
      expect(info['format-specific'].data.bitmaps).toEqual([
        { flags: ['auto'], name: 'first', granularity: 65536 },
        { flags: [], name: 'second', granularity: 512 },
      ])
      await runTool('qemu-img', 'bitmap', '--add', '--disable', '-g', '4096', path, 'third')
      await runTool('qemu-img', 'bitmap', '--merge', 'first', path, 'third')
      const again = await openImage(new TestFile(path))
      const set = async (name: string) => {
        const bits = await again.image.bitmaps.bits(name)
        return Array.from({ length: bits.length * 8 }, (_, i) => i).filter((i) => (bits[i >> 3]! >> (i & 7)) & 1)
      }
      expect(await set('first')).toEqual([0, 10])
      expect(await set('second')).toEqual([1367, 1368, 1369, 1370, 1371, 1372, 1373])
      expect((await set('third')).length).toBe(32)
      await again.image.bitmaps.remove('second')
      await again.image.bitmaps.clear('third')
      await again.disk.close()
      await clean(path)
      const after = JSON.parse(await runTool('qemu-img', 'info', '--output=json', path))
      expect(after['format-specific'].data.bitmaps.map((each: { name: string }) => each.name)).toEqual([
        'first',
        'third',
      ])
    }))

  test('one that was not saved says so', () =>
    seeded(async (random) => {
      const path = folder.file('inuse.qcow2')
      const { disk, image } = await makeImage(new TestFile(path, { create: true }), { size: SIZE })
      await image.bitmaps.add('first')
      await writeBytes(disk, 0, random.bytes(512))
      await disk.flush()
      const copy = folder.file('copy.qcow2')
      await runTool('cp', path, copy)
      await disk.close()
      const info = JSON.parse(await runTool('qemu-img', 'info', '--output=json', copy))
      expect(info['format-specific'].data.bitmaps[0].flags).toEqual(['in-use', 'auto'])
      const crashed = await openImage(new TestFile(copy))
      await expect(crashed.image.bitmaps.bits('first')).rejects.toThrow('not saved properly')
      await crashed.disk.close()
    }))
})

describe.skipIf(lacks('qemu-img'))('what tools tell', () => {
  const shapes: readonly (readonly [Partial<Qcow2CreateOptions>, string])[] = [
    [{}, ''],
    [{ compat: '0.10' }, 'compat=0.10'],
    [{ clusterSize: 512, refcountBits: 64 }, 'cluster_size=512,refcount_bits=64'],
    [{ extendedL2: true, clusterSize: 2 << 20 }, 'extended_l2=on,cluster_size=2M'],
    [{ compressionType: 'zstd', lazyRefcounts: true }, 'compression_type=zstd,lazy_refcounts=on'],
  ]
  for (const [shape, options] of shapes) {
    test(`info, measure and check: ${options}`, async () => {
      const path = folder.file('told.qcow2')
      const size = 1_000_000_000 - (1_000_000_000 % 512)
      const extra = options === '' ? [] : ['-o', options]
      await createQcow2(new BlockDevice(new TestFile(path, { create: true })), { name: 'told', size, ...shape })
      const file = new BlockDevice(new TestFile(path))
      const header = await readImageHeader('told', file)
      const told = JSON.parse(await runTool('qemu-img', 'info', '--output=json', path))
      const ours = await infoQcow2('told', file, header)
      for (const [key, value] of Object.entries(ours)) expect(told[key], key).toEqual(value)
      const measured = await runTool(
        'qemu-img',
        'measure',
        '--output=json',
        '-O',
        'qcow2',
        ...extra,
        '--size',
        String(size),
      )
      expect(measureQcow2({ name: 'told', size, ...shape })).toMatchObject(JSON.parse(measured))
      const { disk } = await openImage(new TestFile(path))
      await writeBytes(disk, 123_456, new Uint8Array(1_000_000).fill(7))
      await disk.close()
      const checked = JSON.parse(await runTool('qemu-img', 'check', '--output=json', path))
      const written = new BlockDevice(new TestFile(path))
      const { messages, ...found } = await checkQcow2('told', written, await readImageHeader('told', written))
      expect(messages).toEqual([])
      for (const [key, value] of Object.entries(found)) expect(checked[key] ?? 0, key).toEqual(value)
    })
  }

  for (const mode of ['metadata', 'falloc', 'full'] as const) {
    test(`preallocation=${mode}`, async () => {
      const path = folder.file('ahead.qcow2')
      const { disk } = await makeImage(new TestFile(path, { create: true }), { size: SIZE })
      await preallocate(disk.driver as ImageDevice, mode)
      await disk.close()
      await clean(path)
      const checked = JSON.parse(await runTool('qemu-img', 'check', '--output=json', path))
      expect(checked['allocated-clusters']).toBe(SIZE / 65536)
      await identical(path, new Uint8Array(SIZE))
    })
  }
})
