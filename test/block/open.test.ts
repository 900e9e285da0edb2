import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { bytesVec } from '../../src/block/iovec.ts'
import { createImage, type OpenDiskOptions, openDisk, openImage, type Source } from '../../src/block/open.ts'
import { Memory } from '../../src/block/protocols/memory.ts'
import { readBytes, same, writeBytes } from '../conformance/driver.ts'

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'block86-open-'))
afterAll(() => fs.rmSync(folder, { recursive: true }))

let files = 0
function image(content: Uint8Array | number): string {
  const name = path.join(folder, `disk${files++}.img`)
  fs.writeFileSync(name, typeof content === 'number' ? '' : content)
  if (typeof content === 'number') fs.truncateSync(name, content)
  return name
}

/** The error that `openDisk` ends with. */
async function refusal(source: Parameters<typeof openDisk>[0], options: Parameters<typeof openDisk>[1]) {
  const before =
    typeof source === 'string' && fs.existsSync(source) && fs.statSync(source).isFile()
      ? fs.readFileSync(source)
      : undefined
  let error: { code: string; message: string } | undefined
  try {
    await (await openDisk(source, options)).close()
  } catch (thrown) {
    error = thrown as { code: string; message: string }
  }
  if (before) same(fs.readFileSync(source as string), before, 'the file')
  if (error === undefined) throw new Error('it was opened')
  return error
}

describe('openDisk', () => {
  test('discards in units of discardGranularity, from discardMinimum on', async () => {
    const bytes = new Uint8Array(1 << 20).fill(7)
    const open = async (options: OpenDiskOptions) => {
      const memory = new Memory(bytes.length)
      memory.write(0, bytesVec(bytes))
      return openDisk(memory, { format: 'raw', ...options })
    }
    const zeroes = async (options: OpenDiskOptions, at: number, length: number) => {
      const disk = await open(options)
      await disk.discard(at, length)
      await disk.flush()
      const found = await readBytes(disk.device, 0, bytes.length)
      await disk.close()
      return found.reduce((sum, byte) => sum + (byte === 0 ? 1 : 0), 0)
    }
    expect(await zeroes({ discardMinimum: 0 }, 4096, 200_704)).toBe(200_704)
    expect(await zeroes({ discardMinimum: 0, discardGranularity: 65536 }, 4096, 200_704)).toBe(131_072)
    expect(await zeroes({ discardMinimum: 262_144, discardGranularity: 65536 }, 4096, 200_704)).toBe(0)
    expect(await zeroes({ discardGranularity: 65536 }, 4096, 200_704)).toBe(131_072)
  })

  test('opens a raw file and writes to it', async () => {
    const name = image(1 << 20)
    const disk = await openDisk(name, { format: 'raw', cache: 'writeback', discard: 'unmap', serial: 'root' })
    expect([disk.size, disk.serial, disk.readOnly, disk.cache]).toEqual([1 << 20, 'root', false, 'writeback'])
    await disk.write(512, bytesVec(new Uint8Array(512).fill(7)))
    await disk.flush()
    await disk.close()
    expect(fs.readFileSync(name)[1023]).toBe(7)
  })

  test('a terabyte opens at once', async () => {
    const disk = await openDisk(image(2 ** 40), { format: 'raw' })
    expect(disk.size).toBe(2 ** 40)
    await disk.close()
  })

  test.each<[string, () => Source, object, string, RegExp]>([
    [
      'a missing file',
      () => path.join(folder, 'missing.img'),
      { format: 'raw' },
      'ENOENT',
      /missing\.img: there is no such file/,
    ],
    ['a directory', () => folder, { format: 'raw' }, 'EISDIR', /is a directory/],
    [
      'a size that is no multiple of 512',
      () => image(1000),
      { format: 'raw' },
      'EINVAL',
      /1000 is no multiple of 512.*1024.*size=512/,
    ],
    ['an unknown format', () => image(512), { format: 'zip' }, 'EINVAL', /unknown format 'zip'; known are .*raw/],
    ['no format', () => image(512), {}, 'EINVAL', /not named; say format: 'raw'/],
    [
      'an unknown key',
      () => image(512),
      { format: 'raw', cach: 'none' },
      'EINVAL',
      /unknown option 'cach'; known are .*cache/,
    ],
    ['two unknown keys', () => image(512), { format: 'raw', a: 1, b: 2 }, 'EINVAL', /unknown options 'a', 'b'/],
    [
      'a key of another value',
      () => image(512),
      { format: 'raw', cache: 'fast' },
      'EINVAL',
      /cache is 'fast', must be writeback, none/,
    ],
    ['an unknown protocol', () => 'gopher://host/disk', { format: 'raw' }, 'EINVAL', /unknown protocol 'gopher'/],
    [
      'an unknown throttling key',
      () => image(512),
      { format: 'raw', throttling: { iops: 1 } },
      'EINVAL',
      /throttling option 'iops'; known are .*iopsTotal/,
    ],
    [
      'throttling without sense',
      () => image(512),
      { format: 'raw', throttling: { iopsTotal: 1, iopsRead: 1 } },
      'EINVAL',
      /exclude each other/,
    ],
    ['a bad serial', () => image(512), { format: 'raw', serial: 'x'.repeat(21) }, 'EINVAL', /serial/],
    [
      'a bad block size',
      () => image(512),
      { format: 'raw', logicalBlockSize: 600 },
      'EINVAL',
      /logical_block_size is 600/,
    ],
    [
      'a disk of half a block',
      () => image(512),
      { format: 'raw', logicalBlockSize: 4096 },
      'EINVAL',
      /no multiple of 4096/,
    ],
    ['a bad offset', () => image(512), { format: 'raw', offset: -1 }, 'EINVAL', /offset is -1/],
    ['an offset past the end', () => image(512), { format: 'raw', offset: 1024 }, 'EINVAL', /passes its 512 bytes/],
    [
      'snapshot and readOnly',
      () => image(512),
      { format: 'raw', snapshot: true, readOnly: true },
      'EINVAL',
      /exclude each other/,
    ],
    ['a read-only medium', () => new Memory(512, { readOnly: true }), { format: 'raw' }, 'EROFS', /can only be read/],
  ])('refuses %s in one sentence, and leaves nothing open', async (_, source, options, code, message) => {
    const place = source()
    const error = await refusal(place, options as OpenDiskOptions)
    expect(error.message).toMatch(message)
    expect(error.code).toBe(code)
    expect(error.message).not.toContain('\n')
    if (
      typeof place === 'string' &&
      fs.existsSync(place) &&
      fs.statSync(place).size % 512 === 0 &&
      fs.statSync(place).isFile()
    ) {
      await (await openDisk(place, { format: 'raw' })).close()
    }
  })

  test('a second opener is told which file is in use', async () => {
    const name = image(512)
    const disk = await openDisk(name, { format: 'raw' })
    const error = await refusal(name, { format: 'raw' })
    expect(error.code).toBe('EBUSY')
    expect(error.message).toContain(name)
    await disk.close()
  })

  test('a window of a file: offset and size', async () => {
    const bytes = new Uint8Array(4096)
    bytes.fill(3, 1000, 2024)
    const name = image(bytes)
    const disk = await openDisk(name, { format: 'raw', offset: 1000, size: 1024 })
    expect(disk.size).toBe(1024)
    same(await readBytes(disk.device, 0, 1024), new Uint8Array(1024).fill(3))
    await writeBytes(disk.device, 0, Uint8Array.of(9))
    await disk.close()
    expect([...fs.readFileSync(name).subarray(999, 1002)]).toEqual([0, 9, 3])
  })

  test('probe finds raw where nothing else fits', async () => {
    const device = await openImage(image(512), { format: 'probe' })
    expect(device.name).toBe('raw')
    await device.close()
  })

  test('snapshot leaves the image alone', async () => {
    const content = new Uint8Array(1 << 20).fill(1)
    const name = image(content)
    const disk = await openDisk(name, { format: 'raw', snapshot: true })
    expect(disk.readOnly).toBe(false)
    await disk.write(700, bytesVec(new Uint8Array(10_000).fill(2)))
    await disk.zero(65536, 4096)
    await disk.discard(131072, 65536)
    await disk.flush()
    const expected = content.slice()
    expected.fill(2, 700, 10_700)
    expected.fill(0, 65536, 69632)
    expected.fill(0, 131072, 196608)
    same(await readBytes(disk.device, 0, 1 << 20), expected)
    const other = await openDisk(name, { format: 'raw', snapshot: true })
    same(await readBytes(other.device, 0, 1 << 20), content)
    await other.close()
    await disk.close()
    same(fs.readFileSync(name), content)
  })

  test('detectZeroes frees what is written with zeroes', async () => {
    const disk = await openDisk(new Memory(1 << 20), { format: 'raw', detectZeroes: 'unmap' })
    await disk.write(0, bytesVec(new Uint8Array(131072).fill(1)))
    await disk.write(0, bytesVec(new Uint8Array(65536)))
    expect(await disk.device.allocated()).toBe(65536)
    await disk.close()
  })

  test('a Blob is a disk that can be read', async () => {
    const disk = await openDisk(new Blob([new Uint8Array(1024).fill(4)]), { format: 'raw' })
    expect(disk.readOnly).toBe(true)
    same(await readBytes(disk.device, 100, 600), new Uint8Array(600).fill(4))
    await disk.close()
  })
})

describe('createImage', () => {
  test('makes a raw image', async () => {
    const name = path.join(folder, 'new.img')
    await createImage(name, 'raw', 1 << 20)
    expect(fs.statSync(name).size).toBe(1 << 20)
    const device = await openImage(name, { format: 'raw' })
    await expect(createImage(name, 'raw', 512)).rejects.toThrow(/has it open/)
    await device.close()
  })

  test.each([
    ['a bad size', -1, {}, /size is -1/],
    ['an unknown option', 512, { clusterSiz: 1 }, /unknown option 'clusterSiz'/],
  ])('refuses %s before the file is touched', async (_, size, options, message) => {
    const name = path.join(folder, 'none.img')
    await expect(createImage(name, 'raw', size, options)).rejects.toThrow(message)
    expect(fs.existsSync(name)).toBe(false)
  })
})
