/** The same random operations on two images, one in QEMU's hands and one in ours: their disks stay equal. */
import { spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { afterAll, describe, expect, test } from 'vitest'
import type { BlockDevice } from '../../src/block/device.ts'
import { bytesVec } from '../../src/block/iovec.ts'
import type { ImageDevice } from '../../src/block/mover.ts'
import { openImage as openSource } from '../../src/block/open.ts'
import { openImage, TestFile } from '../block/formats/images.ts'
import { readBytes, same, writeBytes } from '../conformance/driver.ts'
import { type Random, seeded } from '../random.ts'
import { lacks, runTool, temporaryFolder } from '../tools.ts'

const folder = temporaryFolder()
afterAll(() => folder.remove())

const SIZE = 3 << 20
const CLUSTER = 65536

interface Operation {
  readonly kind: 'write' | 'pack' | 'zero' | 'discard'
  readonly at: number
  readonly length: number
  readonly pattern: number
}

function operations(
  random: Random,
  size: number,
  count: number,
  kinds: readonly Exclude<Operation['kind'], 'pack'>[],
): Operation[] {
  return Array.from({ length: count }, () => {
    const kind = random.pick(kinds)
    const unit = kind === 'discard' || random.below(3) === 0 ? CLUSTER : 512
    const at = unit * random.below(Math.floor(size / unit))
    const length = Math.min(Math.floor((size - at) / unit), random.between(1, unit === 512 ? 300 : 4)) * unit
    return { kind, at, length, pattern: random.between(1, 255) }
  })
}

/**
 * Compressed writes, each to a cluster of its own, for QEMU overwrites none so. They come first and in a process of their own:
 * QEMU 7.2 may go on filling a cluster with compressed bytes after it was discarded and taken for other data.
 */
function packs(random: Random, size: number): Operation[] {
  const clusters = Array.from({ length: 20 }, () => random.below(Math.floor(size / CLUSTER)))
  return [...new Set(clusters)].map((cluster) => {
    return { kind: 'pack', at: cluster * CLUSTER, length: CLUSTER, pattern: random.between(1, 255) }
  })
}

/** What qemu-io is told to do an operation. */
function command({ kind, at, length, pattern }: Operation): string {
  if (kind === 'discard') return `discard ${at} ${length}`
  if (kind === 'zero') return `write -z ${pattern % 2 === 0 ? '-u ' : ''}${at} ${length}`
  return `write ${kind === 'pack' ? '-c ' : ''}-P ${pattern} ${at} ${length}`
}

async function perform(disk: BlockDevice, { kind, at, length, pattern }: Operation): Promise<void> {
  if (kind === 'discard') await disk.discard(at, length)
  else if (kind === 'zero') await disk.zero(at, length, { unmap: pattern % 2 === 0 })
  else {
    const bytes = new Uint8Array(length).fill(pattern)
    if (kind === 'write') await writeBytes(disk, at, bytes)
    else await (disk.driver as ImageDevice).writePacked(at, bytesVec(bytes))
  }
}

/** What an operation makes of a disk over nothing. */
function imagine(model: Uint8Array, { kind, at, length, pattern }: Operation): void {
  model.fill(kind === 'discard' || kind === 'zero' ? 0 : pattern, at, at + length)
}

async function agree(ours: string, theirs: string): Promise<void> {
  expect(await runTool('qemu-img', 'compare', '-f', 'qcow2', '-F', 'qcow2', ours, theirs)).toContain('identical')
  for (const path of [ours, theirs]) expect(await runTool('qemu-img', 'check', path)).toContain('No errors')
}

describe.skipIf(lacks('qemu-img', 'qemu-io'))('the same operations by both', () => {
  for (const options of ['compat=1.1', 'compat=0.10', 'extended_l2=on', 'refcount_bits=8', 'compression_type=zstd']) {
    test(`${options}: writes, compressed too, zeroes, discards, snapshots, changes of size`, () =>
      seeded(async (random) => {
        const ours = folder.file('ours.qcow2')
        const theirs = folder.file('theirs.qcow2')
        for (const path of [ours, theirs]) {
          await runTool('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', options, path, String(SIZE))
        }
        let size = SIZE
        let model = new Uint8Array(SIZE)
        let taken = model
        for (let round = 0; round < 6; round++) {
          const list =
            round === 0 ? packs(random, size) : operations(random, size, 25, ['write', 'write', 'zero', 'discard'])
          await runTool('qemu-io', '-f', 'qcow2', ...list.flatMap((each) => ['-c', command(each)]), theirs)
          const { disk, image } = await openImage(new TestFile(ours))
          for (const each of list) {
            await perform(disk, each)
            imagine(model, each)
          }
          if (round === 1) taken = model.slice()
          if (round === 1 || round === 3) {
            await image.createSnapshot({ name: `s${round}`, dateSec: 1_700_000_000 })
            await runTool('qemu-img', 'snapshot', '-c', `s${round}`, theirs)
          } else if (round === 4) {
            await image.applySnapshot('s1')
            await runTool('qemu-img', 'snapshot', '-a', 's1', theirs)
            await image.deleteSnapshot('s3')
            await runTool('qemu-img', 'snapshot', '-d', 's3', theirs)
          } else if (round === 2 && !options.includes('0.10')) {
            size += 512 * random.between(1, 2000)
            await disk.resize(size)
            await runTool('qemu-img', 'resize', '-q', '-f', 'qcow2', theirs, String(size))
          }
          if (round === 4) model = taken
          size = disk.size
          const grown = new Uint8Array(size)
          grown.set(model.subarray(0, size))
          model = grown
          same(await readBytes(disk, 0, size), model)
          await disk.close()
          await agree(ours, theirs)
        }
      }))
  }

  test('over a chain of three layers', () =>
    seeded(async (random) => {
      const base = folder.file('base.raw')
      writeFileSync(base, random.bytes(SIZE - 100_352))
      const middle = folder.file('middle.qcow2')
      await runTool('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw', middle, String(SIZE - 51_200))
      await runTool('qemu-io', '-f', 'qcow2', '-c', 'write -P 7 1M 100k', '-c', 'write -z 2M 64k', middle)
      for (const options of ['compat=1.1', 'compat=0.10', 'extended_l2=on', 'cluster_size=4k']) {
        const ours = folder.file('ours.qcow2')
        const theirs = folder.file('theirs.qcow2')
        const made = ['create', '-q', '-f', 'qcow2', '-o', options, '-b', middle, '-F', 'qcow2']
        for (const path of [ours, theirs]) await runTool('qemu-img', ...made, path, String(SIZE))
        for (const list of [packs(random, SIZE), operations(random, SIZE, 60, ['write', 'write', 'zero'])]) {
          await runTool('qemu-io', '-f', 'qcow2', ...list.flatMap((each) => ['-c', command(each)]), theirs)
          const disk = await openSource(ours, { format: 'qcow2' })
          for (const each of list) await perform(disk, each)
          await disk.close()
        }
        await agree(ours, theirs)
      }
    }))
})

describe.skipIf(lacks('qemu-img', 'qemu-nbd', 'qemu-io'))('qemu-nbd writes, we read; and the reverse', () => {
  for (const options of ['compat=1.1', 'extended_l2=on', 'lazy_refcounts=on', 'cluster_size=512']) {
    test(options, () =>
      seeded(async (random) => {
        const path = folder.file('nbd.qcow2')
        const model = new Uint8Array(SIZE)
        await runTool('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', options, path, String(SIZE))
        for (let turn = 0; turn < 2; turn++) {
          const socket = folder.file(`s${turn}`)
          const server = spawn('qemu-nbd', ['-f', 'qcow2', '-k', socket, '--discard=unmap', path], { stdio: 'ignore' })
          const ended = new Promise((resolve) => server.on('exit', resolve))
          try {
            const remote = await openSource(`nbd+unix:///?socket=${socket}`, { format: 'raw', openTimeout: 20 })
            same(await readBytes(remote, 0, SIZE), model)
            for (const each of operations(random, SIZE, 40, ['write', 'write', 'zero'])) {
              const bytes = each.kind === 'zero' ? new Uint8Array(each.length) : random.bytes(each.length)
              if (each.kind === 'zero') await remote.zero(each.at, each.length, { unmap: true })
              else await writeBytes(remote, each.at, bytes)
              model.set(bytes, each.at)
            }
            await remote.flush()
            await remote.close()
            await ended
          } finally {
            server.kill()
          }
          const { disk } = await openImage(new TestFile(path))
          same(await readBytes(disk, 0, SIZE), model)
          for (const each of [...packs(random, SIZE), ...operations(random, SIZE, 40, ['write', 'zero'])]) {
            await perform(disk, each)
            model.fill(each.kind === 'zero' ? 0 : each.pattern, each.at, each.at + each.length)
          }
          await disk.close()
          expect(await runTool('qemu-img', 'check', path)).toContain('No errors')
        }
      }),
    )
  }
})
