/** `block86 img bench` answers the command lines of `qemu-img bench` as that does. */
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import { afterAll, describe, expect, test } from 'vitest'
import { lacks, temporaryFolder } from '../tools.ts'
import { normal, ours as run } from './img-golden.ts'

const folder = temporaryFolder()
afterAll(() => folder.remove())
const image = folder.file('image')
fs.writeFileSync(image, Buffer.alloc(8 << 20, 1))

const ours = (args: readonly string[]) => run(['bench', ...args])

/** Without the time, which is never the same. */
const timeless = (text: string) => text.replace(/in [\d.]+ seconds/, 'in T seconds')

describe.skipIf(lacks('qemu-img'))('img bench', () => {
  test.each([
    ['-c 100 -d 4'],
    ['-c 100 -d 1 -s 64k -S 128k'],
    ['-c 100 -o 1M -d 8 -t none -n'],
    ['-c 100 -d 8 -i io_uring'],
    ['-w -c 100 -d 8 --pattern=0x5a'],
    ['-w -c 100 -d 8 --flush-interval=10'],
    ['-w -c 100 -d 8 --flush-interval=10 --no-drain'],
    ['-c 0'],
  ])('%s prints the same', async (line) => {
    const args = ['-f', 'raw', ...line.split(' '), image]
    const theirs = spawnSync('qemu-img', ['bench', ...args], { encoding: 'utf8' })
    expect(theirs.stderr).toBe('')
    expect(timeless((await ours(args)).out)).toBe(timeless(theirs.stdout))
  })

  test.each([
    ['-c x'],
    ['-d x'],
    ['-s x'],
    ['-S x'],
    ['-o x'],
    ['-t x'],
    ['-i x'],
    ['-w --pattern=300'],
    ['-w --flush-interval=x'],
    ['--flush-interval=5'],
    ['-w -d 4 --flush-interval=2'],
  ])('%s fails with the same words', async (line) => {
    const args = ['-f', 'raw', ...line.split(' '), image]
    const theirs = spawnSync('qemu-img', ['bench', ...args], { encoding: 'utf8' })
    expect(normal((await ours(args)).err)).toBe(normal(theirs.stderr))
  })

  test('a pattern is what is written', async () => {
    await ours(['-f', 'raw', '-w', '-c', '8', '-d', '2', '--pattern=90', image])
    expect(
      fs
        .readFileSync(image)
        .subarray(0, 8 * 4096)
        .every((byte) => byte === 90),
    ).toBe(true)
  })

  test('a request past the end fails, and what it was is said', async () => {
    expect((await ours(['-f', 'raw', '-c', '2', '-s', '16M', image])).err).toBe(
      'block86: Failed request: Invalid argument\n',
    )
  })
})
