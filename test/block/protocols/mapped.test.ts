import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import { afterAll, describe, expect, test } from 'vitest'
import { bytesVec } from '../../../src/block/iovec.ts'
import { openImage } from '../../../src/block/open.ts'
import { libc } from '../../../src/block/protocols/node/libc.ts'
import { Mapped, mapped } from '../../../src/block/protocols/node/mapped.ts'
import { Addresses } from '../../../src/block/protocols/node/vector.ts'
import { outcome, same } from '../../conformance/driver.ts'
import { temporaryFolder } from '../../tools.ts'

const folder = temporaryFolder()
afterAll(() => folder.remove())
const calls = libc()
const KIB = 1024
const WINDOW = 64 << 20
const pattern = (length: number, seed: number) => new Uint8Array(length).map((_, i) => (i * seed) ^ (i >> 8))

/** A file that the page cache holds, mapped at the first read. */
function make(name: string, content: Uint8Array, at = 0) {
  const path = folder.file(name)
  const fd = fs.openSync(path, 'w+')
  fs.writeSync(fd, content, 0, content.length, at)
  return { path, fd, map: new Mapped(calls!, new Addresses(calls!), fd, 1) }
}

/** Whether the process has the file mapped. */
const isMapped = (path: string) => fs.readFileSync('/proc/self/maps', 'latin1').includes(path)

describe.runIf(calls !== undefined)('long reads from a mapping', () => {
  test('give what the file has, in any pieces, also what was written just now', () => {
    const content = pattern(1 << 20, 7)
    const { fd, map } = make('content', content)
    const pieces = [new Uint8Array(4 * KIB), new Uint8Array(100 * KIB + 1), new Uint8Array(3 * KIB - 1)]
    expect(map.read(12_345, bytesVec(...pieces))).toBe(bytesVec(...pieces).byteLength)
    same(bytesVec(...pieces).gather(), content.subarray(12_345, 12_345 + 107 * KIB))
    const fresh = pattern(64 * KIB, 8)
    fs.writeSync(fd, fresh, 0, fresh.length, 200_000)
    const back = new Uint8Array(64 * KIB)
    expect(map.read(200_000, bytesVec(back))).toBe(back.length)
    same(back, fresh)
    map.close()
    fs.closeSync(fd)
  })

  test('do nothing where the page cache lacks a page, the file has become shorter, or the memory was taken back', async () => {
    const { path, fd, map } = make('lacks', pattern(1 << 20, 9))
    const back = new Uint8Array(64 * KIB)
    expect(map.read(0, bytesVec(back))).toBe(back.length)
    const revoked = bytesVec(back)
    revoked.revoke()
    expect(await outcome(async () => void map.read(0, revoked))).toBe('ECANCELED')
    fs.ftruncateSync(fd, 100 * KIB)
    back.fill(0)
    expect(map.read(50 * KIB, bytesVec(back))).toBe(0)
    expect(map.read(512 * KIB, bytesVec(back))).toBe(0)
    expect(map.read(2 ** 40, bytesVec(back))).toBe(0)
    // A window keeps pages from being dropped while they are mapped in, but not those that were never touched.
    map.close()
    execFileSync('dd', [`of=${path}`, 'oflag=nocache', 'conv=notrunc,fdatasync', 'count=0'], { stdio: 'ignore' })
    expect(map.read(0, bytesVec(back))).toBe(0)
    same(back, new Uint8Array(64 * KIB))
    map.close()
    fs.closeSync(fd)
  })

  test('are not for what is short, too long, or lies in two windows', () => {
    const { fd, map } = make('sizes', pattern(1 << 20, 3), WINDOW - (512 << 10))
    const read = (at: number, length: number) => map.read(at, bytesVec(new Uint8Array(length)))
    expect(read(WINDOW - 256 * KIB, 256 * KIB)).toBe(256 * KIB)
    expect(read(WINDOW, 256 * KIB)).toBe(256 * KIB)
    expect(read(WINDOW, 32 * KIB)).toBe(0)
    expect(read(WINDOW - 128 * KIB, 256 * KIB)).toBe(0)
    expect(read(WINDOW, 1028 * KIB)).toBe(0)
    const pieces = Array.from({ length: 16 }, () => new Uint8Array(4 * KIB))
    expect(map.read(WINDOW, bytesVec(...pieces))).toBe(0)
    map.close()
    fs.closeSync(fd)
  })

  test('begin when a stretch was wanted often, and leave nothing mapped, of which the locks would stay', async () => {
    const path = folder.file('disk.raw')
    const content = pattern(4 << 20, 5)
    fs.writeFileSync(path, content)
    const disk = await openImage(path, { format: 'raw', gate: 'any' })
    const back = new Uint8Array(256 * KIB)
    for (let i = 0; i < 64; i++) {
      const at = (i * 300_000) % (content.length - back.length)
      await disk.read(at, bytesVec(back.fill(0)))
      same(back, content.subarray(at, at + back.length))
      if (i === 8) expect(isMapped(path)).toBe(false)
    }
    const local = fs.statfsSync(path).type !== 0x794c7630 // on overlayfs nothing is mapped
    expect(isMapped(path)).toBe(local)
    await disk.close()
    expect(isMapped(path)).toBe(false)
  })

  test('are for each part of a longer read that the page cache has', async () => {
    const path = folder.file('long.raw')
    const content = pattern(6 << 20, 8)
    fs.writeFileSync(path, content)
    const disk = await openImage(path, { format: 'raw', gate: 'any' })
    for (let i = 0; i < 200; i++) {
      if (i % 50 === 49) {
        const dropped = ['oflag=nocache', 'conv=notrunc,fdatasync', 'count=0', 'bs=4096', `seek=${i * 7}`]
        execFileSync('dd', [`of=${path}`, ...dropped], { stdio: 'ignore' })
      }
      const back = new Uint8Array(200 * KIB + ((i * 87_654) % (1024 * KIB)))
      const at = (i * 300_007) % (content.length - back.length)
      const half = Math.floor(back.length / 2) + (i % 7)
      await disk.read(at, bytesVec(back.subarray(0, half), back.subarray(half)))
      same(back, content.subarray(at, at + back.length))
    }
    expect(isMapped(path)).toBe(fs.statfsSync(path).type !== 0x794c7630)
    await disk.close()
    expect(isMapped(path)).toBe(false)
  })

  test('leave the rest of a long read to others where the pages have to be mapped first', () => {
    const { fd } = make('slow', pattern(1 << 20, 4))
    const slow = {
      ...calls!,
      copy(to: number, from: number, length: number) {
        calls!.copy(to, from, length)
        for (const end = performance.now() + 0.2; performance.now() < end; );
      },
    }
    const map = new Mapped(slow, new Addresses(calls!), fd, 1)
    const back = new Uint8Array(1 << 20)
    expect(map.read(0, bytesVec(back))).toBe(256 * KIB)
    same(back.subarray(0, 256 * KIB), pattern(1 << 20, 4).subarray(0, 256 * KIB))
    expect(map.read(0, bytesVec(back.subarray(256 * KIB), back.subarray(0, 100 * KIB)))).toBe(256 * KIB)
    expect(map.read(0, bytesVec(back.subarray(0, 256 * KIB)))).toBe(256 * KIB)
    map.close()
    fs.closeSync(fd)
  })

  test('are left out where mincore would not tell the truth', () => {
    const { path, fd } = make('other', pattern(100, 1))
    const addresses = new Addresses(calls!)
    expect(mapped(calls!, addresses, fd, 100)).toBeDefined()
    const lying = {
      ...calls!,
      mincore(_at: number, _length: number, pages: Uint8Array) {
        pages.fill(1)
        return 0
      },
    }
    expect(mapped(lying, addresses, fd, 100)).toBe(undefined)
    const proc = fs.openSync('/proc/self/maps', 'r')
    expect(mapped(calls!, addresses, proc, 100)).toBe(undefined)
    for (const one of [fd, proc]) fs.closeSync(one)
    expect(isMapped(path)).toBe(false)
  })
})
