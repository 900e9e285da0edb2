/** QED and qcow images go back and forth between qemu-img 7.2 and us, byte for byte. */
import { readFileSync, writeFileSync } from 'node:fs'
import { afterAll, describe, expect, test } from 'vitest'
import { BlockDevice } from '../../src/block/device.ts'
import { createQcow, openQcow, readQcowHeader } from '../../src/block/formats/qcow.ts'
import { createQed, openQed, readQedHeader } from '../../src/block/formats/qed/index.ts'
import { bytesVec } from '../../src/block/iovec.ts'
import { ImageDevice } from '../../src/block/mover.ts'
import { TestFile } from '../block/formats/images.ts'
import { readBytes, same, writeBytes } from '../conformance/driver.ts'
import { type Random, seeded } from '../random.ts'
import { lacks, runTool, temporaryFolder } from '../tools.ts'

const folder = temporaryFolder()
afterAll(() => folder.remove())

const SIZE = 3 * 1024 * 1024 + 512
const PACKED_SIZE = 3 * 1024 * 1024 // whole clusters, which qemu-img -c wants
const name = 'test'

async function open(format: 'qed' | 'qcow', path: string, backing?: string): Promise<BlockDevice> {
  const file = new BlockDevice(new TestFile(path))
  const options =
    backing === undefined ? { name } : { name, backing: new BlockDevice(new TestFile(backing, { readOnly: true })) }
  const image =
    format === 'qed'
      ? await openQed(file, await readQedHeader(name, file), options)
      : await openQcow(file, await readQcowHeader(name, file), options)
  return new BlockDevice(new ImageDevice(image))
}

/** `zeroes` says no where QEMU 7.2 would fill a zero cluster from the backing file when it writes part of it. */
async function scribble(random: Random, disk: BlockDevice, model: Uint8Array, zeroes = true): Promise<void> {
  for (let round = 0; round < 80; round++) {
    const at = random.below(2) === 0 ? random.below(SIZE) : 4096 * random.below(SIZE / 4096)
    const length = Math.min(SIZE - at, random.pick([1, 512, 4096, 70_000, 200_000]))
    const kind = random.below(6)
    if (kind === 0 && zeroes) {
      await disk.zero(at, length, { unmap: true })
      model.fill(0, at, at + length)
    } else if (kind === 1) await disk.flush()
    else {
      const bytes = random.bytes(length)
      await writeBytes(disk, at, bytes)
      model.set(bytes, at)
    }
  }
}

async function identical(format: string, path: string, model: Uint8Array): Promise<void> {
  const out = folder.file('out.raw')
  await runTool('qemu-img', 'convert', '-f', format, '-O', 'raw', path, out)
  same(readFileSync(out), model)
}

const shapes = [
  ['qed', ''],
  ['qed', 'cluster_size=4096,table_size=2'], // QEMU 7.2 cannot open what it makes with tables of one cluster
  ['qed', 'cluster_size=1M,table_size=16'],
  ['qcow', ''],
] as const

describe.skipIf(lacks('qemu-img'))('in turn', () => {
  for (const [format, options] of shapes) {
    for (const backed of [false, true]) {
      test(`${format} ${options}${backed ? ' over a backing file' : ''}`, () =>
        seeded(async (random) => {
          const path = folder.file(`turns.${format}`)
          const base = folder.file('base.raw')
          const model = new Uint8Array(SIZE)
          const extra = options === '' ? [] : ['-o', options]
          if (backed) {
            const bytes = random.bytes(SIZE - 700_416)
            writeFileSync(base, bytes)
            model.set(bytes)
            extra.push('-b', base, '-F', 'raw')
          }
          await runTool('qemu-img', 'create', '-q', '-f', format, ...extra, path, String(SIZE))
          for (let turn = 0; turn < 3; turn++) {
            const commands: string[] = []
            for (let each = 0; each < 15; each++) {
              const at = 512 * random.below(SIZE / 512)
              const length = Math.min(SIZE - at, 512 * random.between(1, 200))
              const pattern = random.between(1, 255)
              commands.push('-c', `write -P ${pattern} ${at} ${length}`)
              model.fill(pattern, at, at + length)
            }
            await runTool('qemu-io', '-f', format, ...commands, path)
            const disk = await open(format, path, backed ? base : undefined)
            same(await readBytes(disk, 0, SIZE), model)
            await scribble(random, disk, model, !backed)
            await disk.close()
            await identical(format, path, model)
            if (format === 'qed') {
              const { stdout } = await runCheck(path)
              expect(stdout).not.toContain('corruption')
            }
          }
        }))
    }
  }

  test('ours from the start', () =>
    seeded(async (random) => {
      for (const format of ['qed', 'qcow'] as const) {
        const path = folder.file(`ours.${format}`)
        const file = new BlockDevice(new TestFile(path, { create: true }))
        if (format === 'qed') await createQed(file, { name, size: SIZE })
        else await createQcow(file, { name, size: SIZE })
        const model = new Uint8Array(SIZE)
        const disk = await open(format, path)
        await scribble(random, disk, model)
        await disk.close()
        await identical(format, path, model)
        const info = JSON.parse(await runTool('qemu-img', 'info', '--output=json', path))
        expect(info).toMatchObject({ format, 'virtual-size': SIZE })
      }
    }))

  test('qcow, compressed by either', () =>
    seeded(async (random) => {
      const path = folder.file('packed.qcow')
      const model = new Uint8Array(PACKED_SIZE)
      for (let at = 0; at < PACKED_SIZE; at += 50_000) {
        if (random.below(2) === 0) model.fill(random.below(256), at, at + 50_000)
        else model.set(random.bytes(Math.min(50_000, PACKED_SIZE - at)), at)
      }
      // qemu-img 7.2 fails to convert -c to qcow; qemu-io compresses.
      await runTool('qemu-img', 'create', '-q', '-f', 'qcow', path, String(PACKED_SIZE))
      const patterns = Array.from({ length: 40 }, (_, cluster) => cluster + 1)
      const commands = patterns.flatMap((pattern) => ['-c', `write -c -P ${pattern} ${pattern * 8192} 4096`])
      await runTool('qemu-io', '-f', 'qcow', ...commands, path)
      const theirs = await open('qcow', path)
      for (const pattern of patterns) {
        same(await readBytes(theirs, pattern * 8192, 4096), new Uint8Array(4096).fill(pattern))
      }
      await theirs.close()
      await createQcow(new BlockDevice(new TestFile(path, { create: true })), { name, size: PACKED_SIZE })
      const ours = await open('qcow', path)
      await (ours.driver as ImageDevice).writePacked(0, bytesVec(model))
      same(await readBytes(ours, 0, PACKED_SIZE), model)
      await ours.close()
      await identical('qcow', path, model)
    }))
})

/** qemu-img check tells leaks by its exit status; QED has them wherever zeroes took a cluster's place. */
async function runCheck(path: string): Promise<{ stdout: string }> {
  return { stdout: await runTool('sh', '-c', `qemu-img check -f qed '${path}' 2>&1 || test $? -eq 3`) }
}
