/** qcow2 images go back and forth between qemu-img 7.2 and us, byte for byte. */
import { readFileSync, writeFileSync } from 'node:fs'
import { afterAll, describe, expect, test } from 'vitest'
import type { BlockDevice } from '../../src/block/device.ts'
import type { Qcow2CreateOptions } from '../../src/block/formats/qcow2/create.ts'
import { bytesVec } from '../../src/block/iovec.ts'
import { makeImage, openImage, TestFile } from '../block/formats/images.ts'
import { readBytes, same, writeBytes } from '../conformance/driver.ts'
import { type Random, seeded } from '../random.ts'
import { lacks, runTool, temporaryFolder } from '../tools.ts'

const folder = temporaryFolder()
afterAll(() => folder.remove())

const SIZE = 5 * 1024 * 1024 + 512

/** A disk's content: data, zeroes, and data that compresses. */
function content(random: Random, size: number): Uint8Array {
  const bytes = new Uint8Array(size)
  for (let at = 0; at < size; ) {
    const length = Math.min(size - at, random.between(1, 300_000))
    const kind = random.below(3)
    if (kind === 0) bytes.set(random.bytes(length), at)
    if (kind === 1) bytes.fill(random.between(1, 255), at, at + length)
    at += length
  }
  return bytes
}

const theirs: readonly (readonly [string, readonly string[]])[] = [
  ['version 3', []],
  ['version 2', ['-o', 'compat=0.10']],
  ['512-byte clusters', ['-o', 'cluster_size=512']],
  ['2 MiB clusters', ['-o', 'cluster_size=2M']],
  ['1-bit refcounts', ['-o', 'refcount_bits=1']],
  ['64-bit refcounts', ['-o', 'refcount_bits=64']],
  ['lazy refcounts', ['-o', 'lazy_refcounts=on']],
  ['extended L2 entries', ['-o', 'extended_l2=on']],
  ['extended L2 entries and 16 KiB clusters', ['-o', 'extended_l2=on,cluster_size=16k']],
  ['zlib', ['-c']],
  ['zlib and 4 KiB clusters', ['-c', '-o', 'cluster_size=4k']],
  ['zlib and extended L2 entries', ['-c', '-o', 'extended_l2=on']],
  ['zstd', ['-c', '-o', 'compression_type=zstd']],
  ['preallocated metadata', ['-o', 'preallocation=metadata']],
  ['full preallocation', ['-o', 'preallocation=full']],
]

describe.skipIf(lacks('qemu-img'))('qemu-img writes, we read', () => {
  for (const [what, options] of theirs) {
    test(what, () =>
      seeded(async (random) => {
        const bytes = content(random, SIZE)
        const raw = folder.file('theirs.raw')
        const path = folder.file('theirs.qcow2')
        writeFileSync(raw, bytes)
        await runTool('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', ...options, raw, path)
        const { disk } = await openImage(new TestFile(path))
        same(await readBytes(disk, 0, SIZE), bytes)
        for (let round = 0; round < 50; round++) {
          const at = random.below(SIZE)
          const length = Math.min(SIZE - at, random.between(1, 200_000))
          same(await readBytes(disk, at, length), bytes.subarray(at, at + length))
        }
        await disk.close()
        expect(await runTool('qemu-img', 'check', path)).toContain('No errors')
      }),
    )
  }
})

const ours: readonly (readonly [string, Partial<Qcow2CreateOptions>])[] = [
  ['version 3', {}],
  ['version 2', { compat: '0.10' }],
  ['512-byte clusters', { clusterSize: 512 }],
  ['2 MiB clusters', { clusterSize: 2 << 20 }],
  ['1-bit refcounts', { refcountBits: 1 }],
  ['64-bit refcounts and 512-byte clusters', { refcountBits: 64, clusterSize: 512 }],
  ['lazy refcounts', { lazyRefcounts: true }],
  ['extended L2 entries', { extendedL2: true }],
  ['extended L2 entries and 16 KiB clusters', { extendedL2: true, clusterSize: 16384 }],
  ['zstd', { compressionType: 'zstd' }],
]

/** Random requests on a disk, and what they leave. */
async function exercise(random: Random, disk: BlockDevice, model: Uint8Array, rounds: number): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    const at = random.below(3) === 0 ? random.below(model.length) : 4096 * random.below(model.length / 4096)
    const length = Math.min(model.length - at, random.pick([1, 512, 4096, 4096, 70_000, 300_000]))
    const kind = random.below(8)
    if (kind < 4) {
      const bytes = random.bytes(length)
      await writeBytes(disk, at, bytes)
      model.set(bytes, at)
    } else if (kind === 4) {
      await disk.zero(at, length, { unmap: random.below(2) === 0 })
      model.fill(0, at, at + length)
    } else if (kind === 5) {
      await disk.discard(at, length)
      model.set(await readBytes(disk, at, length), at)
    } else if (kind === 6) await disk.flush()
    else same(await readBytes(disk, at, length), model.subarray(at, at + length))
  }
}

describe.skipIf(lacks('qemu-img'))('we write, qemu-img checks and compares', () => {
  for (const [what, shape] of ours) {
    test(what, () =>
      seeded(async (random) => {
        const raw = folder.file('ours.raw')
        const path = folder.file('ours.qcow2')
        const model = new Uint8Array(SIZE)
        const { disk } = await makeImage(new TestFile(path, { create: true }), { ...shape, size: SIZE })
        await exercise(random, disk, model, 200)
        await disk.close()
        writeFileSync(raw, model)
        expect(await runTool('qemu-img', 'check', path)).toContain('No errors')
        expect(await runTool('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', path, raw)).toContain('identical')
      }),
    )
  }

  test('overlay on their image, and theirs on ours', () =>
    seeded(async (random) => {
      for (const shape of [{}, { compat: '0.10' }, { extendedL2: true }, { clusterSize: 2 << 20 }] as const) {
        const raw = folder.file('base.raw')
        const base = folder.file('base.qcow2')
        const path = folder.file('over.qcow2')
        const short = SIZE - 700_416
        const model = new Uint8Array(SIZE)
        model.set(content(random, short))
        writeFileSync(raw, model.subarray(0, short))
        await runTool('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', raw, base)
        const backing = (await openImage(new TestFile(base, { readOnly: true }), { readOnly: true })).disk
        const { disk } = await makeImage(
          new TestFile(path, { create: true }),
          { ...shape, size: SIZE, backingFile: 'base.qcow2', backingFmt: 'qcow2' },
          { backing },
        )
        same(await readBytes(disk, 0, SIZE), model)
        await exercise(random, disk, model, 100)
        await disk.close()
        writeFileSync(raw, model)
        expect(await runTool('qemu-img', 'check', path)).toContain('No errors')
        expect(await runTool('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', path, raw)).toContain('identical')
      }
    }))

  test('an image that qemu-io and we write in turn', () =>
    seeded(async (random) => {
      for (const options of ['compat=1.1', 'compat=0.10', 'extended_l2=on', 'cluster_size=512', 'refcount_bits=1']) {
        const path = folder.file('turns.qcow2')
        const raw = folder.file('turns.raw')
        await runTool('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', options, path, String(SIZE))
        const model = new Uint8Array(SIZE)
        for (let turn = 0; turn < 4; turn++) {
          const commands: string[] = []
          for (let i = 0; i < 20; i++) {
            const at = 512 * random.below(SIZE / 512)
            const length = Math.min(SIZE - at, 512 * random.between(1, 300))
            const pattern = random.between(1, 255)
            const zero = random.below(4) === 0
            commands.push('-c', zero ? `write -z -u ${at} ${length}` : `write -P ${pattern} ${at} ${length}`)
            model.fill(zero ? 0 : pattern, at, at + length)
          }
          await runTool('qemu-io', '-f', 'qcow2', ...commands, path)
          const { disk } = await openImage(new TestFile(path))
          same(await readBytes(disk, 0, SIZE), model)
          await exercise(random, disk, model, 40)
          await disk.close()
          expect(await runTool('qemu-img', 'check', path)).toContain('No errors')
        }
        writeFileSync(raw, model)
        expect(await runTool('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', path, raw)).toContain('identical')
      }
    }))
})

describe.skipIf(lacks('qemu-img'))('compressed writes', () => {
  for (const [what, shape] of [
    ['zlib', {}],
    ['zstd', { compressionType: 'zstd' }],
    ['zlib, 4 KiB clusters', { clusterSize: 4096 }],
    ['zlib, 1-bit refcounts', { refcountBits: 1 }],
  ] as const) {
    test(what, () =>
      seeded(async (random) => {
        const raw = folder.file('packed.raw')
        const path = folder.file('packed.qcow2')
        const model = content(random, SIZE)
        const { disk } = await makeImage(new TestFile(path, { create: true }), { ...shape, size: SIZE })
        const driver = disk.driver as import('../../src/block/mover.ts').ImageDevice
        await driver.writePacked(0, bytesVec(model))
        same(await readBytes(disk, 0, SIZE), model)
        await exercise(random, disk, model, 60)
        await disk.close()
        writeFileSync(raw, model)
        expect(await runTool('qemu-img', 'check', path)).toContain('No errors')
        expect(await runTool('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', path, raw)).toContain('identical')
        expect(readFileSync(path).length).toBeGreaterThan(0)
      }),
    )
  }
})
