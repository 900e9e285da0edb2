/** Where the file system shares space between files, convert copies a plain image by sharing it. */
import { spawnSync } from 'node:child_process'
import { randomFillSync } from 'node:crypto'
import fs from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { lacks, runTool, temporaryFolder } from '../tools.ts'
import { ours } from './img-golden.ts'
import { mounted } from './mounted.ts'

const folder = temporaryFolder()
const mount = lacks('mkfs.btrfs') ? undefined : mounted(folder, 256 << 20, 'mkfs.btrfs', '-q')
const place = mount ?? ''

describe.skipIf(mount === undefined)('convert on btrfs', () => {
  const [source, target] = [`${place}/source.raw`, `${place}/target.raw`]
  const bytes = Buffer.alloc(32 << 20)
  beforeAll(() => {
    fs.writeFileSync(source, randomFillSync(bytes))
    spawnSync('sync', ['-f', place])
  })
  afterAll(() => {
    spawnSync('umount', [place])
  })

  /** Bytes of a file that no other has. */
  async function exclusive(name: string): Promise<number> {
    spawnSync('sync', ['-f', place])
    const out = await runTool('btrfs', 'filesystem', 'du', '--raw', '-s', name)
    return Number(out.trim().split('\n')[1]!.trim().split(/\s+/)[1])
  }

  test.each([
    ['by itself', ['-f', 'raw', '-O', 'raw'], 0],
    ['with -C', ['-C', '-f', 'raw', '-O', 'raw'], 0],
    ['not when zeroes are to be found', ['-S', '4k', '-f', 'raw', '-O', 'raw'], bytes.length],
  ])('%s', async (_, options, wanted) => {
    expect(await ours(['convert', ...options, source, target])).toEqual({ out: '', err: '', status: 0 })
    expect(fs.readFileSync(target).equals(bytes)).toBe(true)
    expect(await exclusive(target)).toBe(wanted)
    fs.rmSync(target)
  })

  test('by the host with -C, from a window of a disk too', async () => {
    const window = `driver=raw,offset=1M,size=8M,file.filename=${source}`
    expect((await ours(['convert', '-C', '--image-opts', window, target])).err).toBe('')
    expect(fs.readFileSync(target).equals(bytes.subarray(1 << 20, 9 << 20))).toBe(true)
    expect(await exclusive(target)).toBe(0)
  })
})

afterAll(() => folder.remove())
