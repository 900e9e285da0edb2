import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { asDevice } from '../../../src/block/device.ts'
import type { FileOptions } from '../../../src/block/protocol.ts'
import { host } from '../../../src/block/protocols/node/index.ts'
import { libc, libcReason } from '../../../src/block/protocols/node/libc.ts'
import { driverConformance, outcome, readBytes, same, writeBytes } from '../../conformance/driver.ts'

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'block86-file-'))
afterAll(() => fs.rmSync(folder, { recursive: true }))

let files = 0
function fresh(size = 0): string {
  const name = path.join(folder, `disk${files++}.img`)
  fs.writeFileSync(name, '')
  fs.truncateSync(name, size)
  return name
}

const variants: [string, FileOptions][] = [
  ['a file', {}],
  ['a file with aio=threads, never at once', { aio: 'threads', immediate: false }],
  ['a file with aio=io_uring, never at once', { aio: 'io_uring', immediate: false }],
  ['a file with O_DIRECT', { direct: true }],
  ['a file with O_DIRECT and aio=threads', { aio: 'threads', direct: true }],
  ['a file with O_DIRECT and aio=io_uring', { aio: 'io_uring', direct: true }],
]
for (const [name, options] of variants) {
  let last = ''
  driverConformance({
    name,
    make: (size) => {
      last = fresh(size)
      return host.openFile(last, options)
    },
    reopen: () => host.openFile(last, options),
  })
}

driverConformance({
  name: 'a file with O_DIRECT whose end is no whole block',
  size: 1_050_113,
  sizeUnit: 1,
  make: (size) => host.openFile(fresh(size), { direct: true }),
})

driverConformance({
  name: 'a temporary file',
  async make(size) {
    const file = await host.temporaryFile()
    await file.resize!(size)
    return file
  },
})

test.skipIf(process.platform !== 'linux')(
  'a temporary file has no name that another could take or follow, and only its owner may open it (CVE-2012-2652)',
  async () => {
    const before = process.env.TMPDIR
    const own = fs.mkdtempSync(path.join(folder, 'tmp-'))
    try {
      process.env.TMPDIR = own
      const file = await host.temporaryFile()
      expect(fs.readdirSync(own)).toEqual([])
      const held = fs.readdirSync('/proc/self/fd').filter((fd) => linkOf(`/proc/self/fd/${fd}`).startsWith(own))
      expect(held).toHaveLength(1)
      expect(linkOf(`/proc/self/fd/${held[0]}`)).toMatch(/ \(deleted\)$/)
      expect(fs.fstatSync(Number(held[0])).mode & 0o777).toBe(0o600)
      await file.close!()
      // Where none can be made there, none is made elsewhere.
      process.env.TMPDIR = path.join(own, 'none')
      expect(await outcome(() => host.temporaryFile())).toBe('ENOENT')
    } finally {
      if (before === undefined) delete process.env.TMPDIR
      else process.env.TMPDIR = before
    }
  },
)

/** Where a link leads; nowhere if it is gone. */
function linkOf(name: string): string {
  try {
    return fs.readlinkSync(name)
  } catch {
    return ''
  }
}

describe('opening a file', () => {
  test.each([
    ['a missing file', () => path.join(folder, 'none.img'), 'ENOENT', /none\.img: there is no such file/],
    ['a directory', () => folder, 'EISDIR', /is a directory/],
    ['a device that is no disk', () => '/dev/null', 'EINVAL', /neither a file nor a block device/],
  ])('%s is refused by name', async (_, name, code, message) => {
    const error = await host.openFile(name()).catch((reason) => reason)
    expect(error.code).toBe(code)
    expect(error.message).toMatch(message)
  })

  test('creating over a file empties it', async () => {
    const name = fresh(4096)
    fs.writeFileSync(name, 'old')
    await host.createFile(name, 8192, 'full')
    same(fs.readFileSync(name), Buffer.alloc(8192))
    expect(await outcome(() => host.createFile(path.join(folder, 'none', 'x'), 512))).toBe('ENOENT')
  })

  test('a file that was cut short gives EIO, not garbage', async () => {
    const name = fresh(8192)
    const disk = asDevice(await host.openFile(name))
    fs.truncateSync(name, 4096)
    expect(await outcome(() => readBytes(disk, 2048, 4096))).toBe('EIO')
    await disk.close()
  })

  test('what the page cache holds is answered at once', async ({ skip }) => {
    if (libc() === undefined) skip(`the C library is ${libcReason()}`)
    const name = fresh()
    fs.writeFileSync(name, Buffer.alloc(65536, 5))
    const disk = asDevice(await host.openFile(name))
    const bytes = new Uint8Array(4096)
    const { bytesVec } = await import('../../../src/block/iovec.ts')
    expect(disk.read(8192, bytesVec(bytes))).toBeUndefined()
    same(bytes, new Uint8Array(4096).fill(5))
    await disk.close()
  })
})

test('a thousand requests for space at once are all done', async ({ skip }) => {
  if (libc() === undefined) skip(`the C library is ${libcReason()}`)
  const name = fresh()
  fs.writeFileSync(name, Buffer.alloc(8 << 20, 1))
  const disk = asDevice(await host.openFile(name))
  const even = Array.from({ length: 1000 }, (_, i) => i * 8192)
  await Promise.all(even.map((at) => disk.zero(at, 4096, { unmap: true })))
  const bytes = fs.readFileSync(name)
  expect(even.filter((at) => bytes[at] !== 0 || bytes[at + 4096] !== 1)).toEqual([])
  await disk.close()
})

describe('locks', () => {
  test('one writer keeps out all others, and is named', async ({ skip }) => {
    if (libc() === undefined) skip(`the C library is ${libcReason()}`)
    const name = fresh(4096)
    const first = asDevice(await host.openFile(name))
    for (const readOnly of [false, true]) {
      const error = await host.openFile(name, { readOnly }).catch((reason) => reason)
      expect(error.code).toBe('EBUSY')
      expect(error.message).toContain(name)
    }
    expect(await outcome(() => host.createFile(name, 512))).toBe('EBUSY')
    const unlocked = asDevice(await host.openFile(name, { locking: 'off' }))
    await unlocked.close()
    await first.close()
    const second = asDevice(await host.openFile(name))
    await second.close()
  })

  test('readers share, and keep out writers', async ({ skip }) => {
    if (libc() === undefined) skip(`the C library is ${libcReason()}`)
    const name = fresh(4096)
    const readers = [await host.openFile(name, { readOnly: true }), await host.openFile(name, { readOnly: true })]
    expect(await outcome(() => host.openFile(name))).toBe('EBUSY')
    for (const reader of readers) await reader.close!()
    const writer = asDevice(await host.openFile(name))
    await writeBytes(writer, 0, Uint8Array.of(1))
    await writer.close()
  })
})
