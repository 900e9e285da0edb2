/** Convert into an ext4 that runs full, where space is claimed before it is written to: the error is told, and nothing is left. */
import { spawnSync } from 'node:child_process'
import { randomFillSync } from 'node:crypto'
import fs from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { lacks, runTool, temporaryFolder } from '../tools.ts'
import { ours } from './img-golden.ts'
import { mounted } from './mounted.ts'

const folder = temporaryFolder()
const mount = lacks('mkfs.ext4', 'qemu-img') ? undefined : mounted(folder, 64 << 20, 'mkfs.ext4', '-q', '-F')
const place = mount ?? ''

describe.skipIf(mount === undefined)('convert into a small ext4', () => {
  const [large, fitting, target] = [folder.file('large.raw'), folder.file('fitting.raw'), `${place}/target`]
  const free = () => {
    spawnSync('sync', ['-f', place])
    return fs.statfsSync(place).bfree
  }
  beforeAll(() => {
    const bytes = randomFillSync(Buffer.alloc(96 << 20))
    fs.writeFileSync(large, bytes)
    fs.writeFileSync(fitting, bytes.subarray(0, 24 << 20))
  })
  afterAll(() => {
    spawnSync('umount', [place])
  })

  test.each(['raw', 'qcow2', 'qed'])('%s: ENOSPC is told by name, and the space is free again', async (format) => {
    const before = free()
    const { status, err } = await ours(['convert', '-f', 'raw', '-O', format, large, target])
    expect(status).toBe(1)
    expect(err).toMatch(/^block86: error while writing at byte \d+: No space left on device\n$/)
    expect(fs.readdirSync(place)).toEqual(['lost+found'])
    expect(free()).toBe(before)
  })

  test.each(['raw', 'qcow2', 'qed'])('%s: what fits is whole, and takes no more than it holds', async (format) => {
    expect((await ours(['convert', '-f', 'raw', '-O', format, fitting, target])).status).toBe(0)
    await runTool('qemu-img', 'compare', '-f', 'raw', '-F', format, fitting, target)
    spawnSync('sync', ['-f', place])
    expect(fs.statSync(target).blocks * 512).toBeLessThan((24 << 20) + (2 << 20))
    fs.rmSync(target)
  })
})
