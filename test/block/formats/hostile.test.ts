/** Images made to do harm: each known vulnerability of such parts elsewhere, tried here. */
import { writeFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { BlockDevice } from '../../../src/block/device.ts'
import { BlockError } from '../../../src/block/error.ts'
import { createQcow, openQcow, readQcowHeader } from '../../../src/block/formats/qcow.ts'
import { checkQcow2 } from '../../../src/block/formats/qcow2/check.ts'
import { createQcow2, type Qcow2CreateOptions } from '../../../src/block/formats/qcow2/create.ts'
import { readImageHeader } from '../../../src/block/formats/qcow2/image.ts'
import { qcow2 } from '../../../src/block/formats/qcow2/index.ts'
import { checkQed } from '../../../src/block/formats/qed/check.ts'
import { createQed, openQed, readQedHeader } from '../../../src/block/formats/qed/index.ts'
import { closedGate } from '../../../src/block/gate.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { ImageDevice } from '../../../src/block/mover.ts'
import { openImage as openSource } from '../../../src/block/open.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { outcome, readBytes, same, writeBytes } from '../../conformance/driver.ts'
import { temporaryFolder } from '../../tools.ts'
import { makeImage, openImage } from './images.ts'

const name = 'hostile'

function put32(medium: Memory, at: number, value: number): void {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setUint32(0, value)
  medium.write(at, bytesVec(bytes))
}

function put64(medium: Memory, at: number, value: bigint): void {
  const bytes = new Uint8Array(8)
  new DataView(bytes.buffer).setBigUint64(0, value)
  medium.write(at, bytesVec(bytes))
}

async function get64(medium: Memory, at: number): Promise<bigint> {
  const bytes = await readBytes(medium, at, 8)
  return new DataView(bytes.buffer).getBigUint64(0)
}

async function image(shape: Partial<Qcow2CreateOptions> = {}): Promise<Memory> {
  const medium = new Memory(0)
  const { disk } = await makeImage(medium, { size: 1 << 20, ...shape })
  await writeBytes(disk, 0, new Uint8Array(300_000).fill(1))
  await disk.close()
  return medium
}

/** What opening the image as it is now leads to. */
async function opening(medium: Memory): Promise<string> {
  return outcome(async () => (await openImage(medium)).disk.close())
}

describe('qcow2 headers (CVE-2014-0143, -0144, -0147)', () => {
  const cases: readonly (readonly [string, (medium: Memory) => void])[] = [
    ['cluster_bits 8', (medium) => put32(medium, 20, 8)],
    ['cluster_bits 22', (medium) => put32(medium, 20, 22)],
    ['cluster_bits 63', (medium) => put32(medium, 20, 63)],
    ['a size that no number holds', (medium) => put64(medium, 24, 1n << 62n)],
    ['a size that is negative to some', (medium) => put64(medium, 24, (1n << 63n) | 512n)],
    ['crypt_method 3', (medium) => put32(medium, 32, 3)],
    ['an L1 table of 2^32 - 1 entries', (medium) => put32(medium, 36, 0xffffffff)],
    ['an L1 table that is too small', (medium) => put32(medium, 36, 0)],
    ['an L1 table after the end', (medium) => put64(medium, 40, 1n << 40n)],
    ['a misaligned L1 table', (medium) => put64(medium, 40, 0x30200n)],
    ['an L1 table whose end overflows', (medium) => put64(medium, 40, 0xffffffffffff0000n)],
    ['no refcount table', (medium) => put64(medium, 48, 0n)],
    ['a misaligned refcount table', (medium) => put64(medium, 48, 0x10001n)],
    ['a refcount table of 2^31 clusters', (medium) => put32(medium, 56, 0x80000000)],
    ['a refcount table of no cluster', (medium) => put32(medium, 56, 0)],
    ['2^32 - 1 snapshots', (medium) => put32(medium, 60, 0xffffffff)],
    ['a misaligned snapshot table', (medium) => put64(medium, 64, 5n)],
    ['refcount_order 7', (medium) => put32(medium, 96, 7)],
    ['header_length 4', (medium) => put32(medium, 100, 4)],
    ['header_length 2^31', (medium) => put32(medium, 100, 0x80000000)],
    ['compression type without its bit', (medium) => medium.write(104, bytesVec(Uint8Array.of(1)))],
    ['an extension that passes the cluster', (medium) => put32(medium, 116, 0x7ffffff8)],
    ['a backing file name after the cluster', (medium) => put64(medium, 8, 1n << 33n)],
    [
      'a backing file name of 2^32 - 1 bytes',
      (medium) => {
        put64(medium, 8, 0x400n)
        put32(medium, 16, 0xffffffff)
      },
    ],
  ]
  for (const [what, spoil] of cases) {
    test(`refuses ${what}`, async () => {
      const medium = await image()
      spoil(medium)
      expect(await opening(medium)).toBe('EINVAL')
    })
  }

  test('refuses unknown incompatible features by the name that the image gives them', async () => {
    const medium = await image()
    put64(medium, 72, 1n << 60n)
    await expect(openImage(medium)).rejects.toThrow('incompatible feature bit 60')
  })

  test('refuses encryption clearly', async () => {
    const medium = await image()
    put32(medium, 32, 2)
    await expect(openImage(medium)).rejects.toThrow('encrypted (LUKS), not supported')
  })
})

describe('qcow2 tables', () => {
  const L2_OF = async (medium: Memory) => Number((await get64(medium, 0x30000)) & 0x00fffffffffffe00n)

  test('an L2 table that is misaligned marks the image corrupt, and writes are refused from then on', async () => {
    const medium = await image()
    put64(medium, 0x30000, (1n << 63n) | 0x40200n)
    const { disk } = await openImage(medium)
    expect(await outcome(() => readBytes(disk, 0, 512))).toBe('EIO')
    expect(await outcome(() => writeBytes(disk, 900_000, new Uint8Array(512)))).toBe('EIO')
    await disk.close()
    const header = await readImageHeader(name, new BlockDevice(medium))
    expect(header.incompatible & 2n).toBe(2n)
    expect(await opening(medium)).toBe('EACCES')
    const { disk: look } = await openImage(medium, { readOnly: true })
    await look.close()
  })

  test('a data cluster that is misaligned', async () => {
    const medium = await image()
    put64(medium, await L2_OF(medium), (1n << 63n) | 0x50200n)
    const { disk } = await openImage(medium)
    expect(await outcome(() => readBytes(disk, 0, 512))).toBe('EIO')
    await disk.close()
  })

  test('a data cluster over the refcount table is not written (overlap)', async () => {
    for (const target of [0n, 0x10000n, 0x20000n, 0x30000n]) {
      const medium = await image()
      put64(medium, await L2_OF(medium), (1n << 63n) | (target === 0n ? 0x30000n : target))
      const { disk } = await openImage(medium)
      expect(await outcome(() => writeBytes(disk, 0, new Uint8Array(512).fill(0xff)))).toBe('EIO')
      await disk.close()
      const header = await readImageHeader(name, new BlockDevice(medium))
      expect(header.incompatible & 2n).toBe(2n)
    }
  })

  test('free clusters that are not free: metadata is not allocated again', async () => {
    const medium = await image()
    for (let cluster = 0; cluster < 16; cluster++) medium.write(0x20000 + cluster * 2, bytesVec(Uint8Array.of(0, 0)))
    const { disk } = await openImage(medium)
    expect(await outcome(() => writeBytes(disk, 900_000, new Uint8Array(512)))).toBe('EIO')
    await disk.close()
  })

  test('an L2 table far after the end of the file reads as zeroes and is reported', async () => {
    const medium = await image()
    put64(medium, 0x30000, (1n << 63n) | (1n << 50n))
    const { disk } = await openImage(medium)
    expect(['EIO', 'none']).toContain(await outcome(() => readBytes(disk, 0, 512)))
    await disk.close()
    const file = new BlockDevice(medium)
    const found = await checkQcow2(name, file, await readImageHeader(name, file))
    expect(found.corruptions).toBeGreaterThan(0)
  })

  test('one L2 table for every L1 entry does not keep a check busy', async () => {
    const medium = new Memory(0)
    const { disk } = await makeImage(medium, { size: 2 ** 40, clusterSize: 65536 })
    await writeBytes(disk, 0, new Uint8Array(512).fill(1))
    await disk.close()
    const first = await get64(medium, 0x30000)
    for (let entry = 1; entry < 2048; entry++) put64(medium, 0x30000 + entry * 8, first)
    const file = new BlockDevice(medium)
    const found = await checkQcow2(name, file, await readImageHeader(name, file))
    expect(found.corruptions).toBeGreaterThan(0)
  })

  test('entries that lie far apart do not make a check take memory without bound', async () => {
    const medium = new Memory(0)
    const { disk } = await makeImage(medium, { size: 2 ** 36, clusterSize: 65536 })
    for (let table = 0; table < 8; table++) await writeBytes(disk, table * 2 ** 29, new Uint8Array(512).fill(1))
    await disk.close()
    for (let table = 0; table < 8; table++) {
      const at = Number((await get64(medium, 0x30000 + table * 8)) & 0x00fffffffffffe00n)
      for (let entry = 0; entry < 8192; entry++) {
        put64(medium, at + entry * 8, (1n << 63n) | (BigInt(table * 8192 + entry + 1) << 26n))
      }
    }
    medium.resize(2 ** 43)
    const file = new BlockDevice(medium)
    for (const repair of [undefined, 'leaks', 'all'] as const) {
      const found = await checkQcow2(name, file, await readImageHeader(name, file), repair)
      expect(found['check-errors']).toBe(1)
      expect(found.messages.at(-1)).toContain('too far apart')
      expect(found.messages.length).toBeLessThanOrEqual(1000)
    }
  })

  test('a repair of an image whose file says it has an exabyte is refused (refcount table of 8 MiB)', async () => {
    const medium = await image({ clusterSize: 512, refcountBits: 64 })
    medium.resize(2 ** 52)
    put64(medium, Number(await get64(medium, 48)), 0n) // the first refcount block is lost
    const file = new BlockDevice(medium)
    expect(await outcome(async () => checkQcow2(name, file, await readImageHeader(name, file), 'all'))).toBe('EFBIG')
  })

  test('version 2 never shows again what the backing file holds (discard)', async () => {
    const medium = new Memory(0)
    const backing = () => new BlockDevice(Memory.from(new Uint8Array(1 << 20).fill(9)))
    const shape = { size: 1 << 20, clusterSize: 4096, compat: '0.10' as const, backingFile: 'b' }
    const { disk } = await makeImage(medium, shape, { backing: backing() })
    await writeBytes(disk, 0, new Uint8Array(65536).fill(1))
    await disk.discard(0, 65536)
    await disk.zero(65536, 65536, { unmap: true })
    await disk.close()
    const { disk: again } = await openImage(medium, { backing: backing() })
    expect(new Set(await readBytes(again, 0, 65536))).toEqual(new Set([1]))
    expect(new Set(await readBytes(again, 65536, 65536))).toEqual(new Set([0]))
    await again.close()
  })

  test('a refcount of too few bits refuses the snapshot (CVE-2014-0147), and nothing is lost', async () => {
    const medium = new Memory(0)
    const { disk, image: qcow } = await makeImage(medium, { size: 1 << 20, refcountBits: 1 })
    await writeBytes(disk, 0, new Uint8Array(70_000).fill(5))
    await expect(qcow.createSnapshot({ name: 's', dateSec: 0 })).rejects.toThrow('too many for its refcounts')
    expect((await readBytes(disk, 69_999, 1))[0]).toBe(5)
    await writeBytes(disk, 500_000, new Uint8Array(70_000).fill(6))
    await disk.close()
    const file = new BlockDevice(medium)
    const found = await checkQcow2(name, file, await readImageHeader(name, file))
    expect([found.corruptions, found.leaks]).toEqual([0, 0])
  })
})

describe('qcow2 snapshots (CVE-2014-0143, -0145)', () => {
  async function snapshotted(): Promise<{ medium: Memory; table: number }> {
    const medium = await image()
    const { disk, image: qcow } = await openImage(medium)
    await qcow.createSnapshot({ name: 'one', dateSec: 0 })
    await disk.close()
    return { medium, table: Number(await get64(medium, 64)) }
  }
  const cases: readonly (readonly [string, (medium: Memory, table: number) => void])[] = [
    ['an L1 table of 2^32 - 1 entries', (medium, table) => put32(medium, table + 8, 0xffffffff)],
    ['an L1 table after the end', (medium, table) => put64(medium, table, 1n << 45n)],
    ['extra data of 2^32 - 1 bytes', (medium, table) => put32(medium, table + 36, 0xffffffff)],
    ['a name that passes the end', (medium, table) => put32(medium, table + 12, 0xffffffff)],
    ['a table after the end', (medium) => put64(medium, 64, 1n << 44n)],
    ['65536 snapshots', (medium) => put32(medium, 60, 65536)],
  ]
  for (const [what, spoil] of cases) {
    test(`refuses ${what}; the disk itself stays readable`, async () => {
      const { medium, table } = await snapshotted()
      spoil(medium, table)
      const { disk, image: qcow } = await openImage(medium)
      for (const request of [
        () => qcow.applySnapshot('one'),
        () => qcow.deleteSnapshot('one'),
        async () => (await qcow.snapshotView('one')).map(0, 512),
      ]) {
        expect(['EINVAL', 'EIO', 'ENOENT', 'none']).toContain(await outcome(request))
      }
      await disk.close()
      const file = new BlockDevice(medium)
      await checkQcow2(name, file, await readImageHeader(name, file))
    })
  }
})

describe('what an image names (CVE-2024-4467, CVE-2024-32498)', () => {
  const options = { name, readOnly: true, gate: closedGate, options: {} }

  test('an external data file is opened through the gate alone', async () => {
    const medium = new Memory(0)
    await createQcow2(new BlockDevice(medium), {
      name,
      size: 1 << 20,
      dataFile: 'json:{"driver":"file","filename":"/etc/passwd"}',
    })
    await expect(qcow2.open(new BlockDevice(medium), options)).rejects.toThrow('may open no other file')
  })

  test('a backing file is opened through the gate alone', async () => {
    const medium = new Memory(0)
    await createQcow2(new BlockDevice(medium), { name, size: 1 << 20, backingFile: '/etc/passwd', backingFmt: 'raw' })
    await expect(qcow2.open(new BlockDevice(medium), options)).rejects.toThrow('may open no other file')
  })

  test('a data file that is named without its feature bit is not opened', async () => {
    const medium = new Memory(0)
    await createQcow2(new BlockDevice(medium), { name, size: 1 << 20, dataFile: 'secret' })
    put64(medium, 72, 0n)
    const driver = await qcow2.open(new BlockDevice(medium), options)
    await driver.close?.()
  })
})

describe('qcow (CVE-2014-0222, CVE-2014-0223)', () => {
  const cases: readonly (readonly [string, (medium: Memory) => void])[] = [
    ['a size of 0', (medium) => put64(medium, 24, 0n)],
    ['a size that is negative to some', (medium) => put64(medium, 24, 1n << 63n)],
    ['a size whose L1 table is too large', (medium) => put64(medium, 24, 1n << 52n)],
    ['cluster_bits 8', (medium) => medium.write(32, bytesVec(Uint8Array.of(8)))],
    ['cluster_bits 40', (medium) => medium.write(32, bytesVec(Uint8Array.of(40)))],
    ['l2_bits 5', (medium) => medium.write(33, bytesVec(Uint8Array.of(5)))],
    ['l2_bits 30', (medium) => medium.write(33, bytesVec(Uint8Array.of(30)))],
    ['crypt_method 2', (medium) => put32(medium, 36, 2)],
    ['an L1 table after the end', (medium) => put64(medium, 40, 1n << 40n)],
    [
      'a backing file name of 2^31 bytes',
      (medium) => {
        put64(medium, 8, 48n)
        put32(medium, 16, 0x80000000)
      },
    ],
  ]
  for (const [what, spoil] of cases) {
    test(`refuses ${what}`, async () => {
      const medium = new Memory(0)
      await createQcow(new BlockDevice(medium), { name, size: 1 << 20 })
      spoil(medium)
      expect(await outcome(() => readQcowHeader(name, new BlockDevice(medium)))).toBe('EINVAL')
    })
  }

  test('an L2 table and a cluster anywhere', async () => {
    const medium = new Memory(0)
    const file = new BlockDevice(medium)
    await createQcow(file, { name, size: 1 << 20 })
    put64(medium, 48, 0x7fffffffffffff00n)
    const disk = new BlockDevice(new ImageDevice(await openQcow(file, await readQcowHeader(name, file), { name })))
    expect(await outcome(() => readBytes(disk, 0, 512))).toBe('EIO')
  })
})

describe('QED', () => {
  const le32 = (value: number) => {
    const bytes = new Uint8Array(4)
    new DataView(bytes.buffer).setUint32(0, value, true)
    return bytesVec(bytes)
  }
  const cases: readonly (readonly [string, number, number])[] = [
    ['a cluster size of 0', 4, 0],
    ['a cluster size of 2^31', 4, 0x80000000],
    ['a cluster size that is no power of two', 4, 65537],
    ['tables of 0 clusters', 8, 0],
    ['tables of 3 clusters', 8, 3],
    ['a header of 0 clusters', 12, 0],
    ['a header of 2^32 - 1 clusters', 12, 0xffffffff],
    ['a misaligned L1 table', 40, 65537],
    ['an L1 table after the end', 44, 1],
    ['a size that is too large', 52, 0x100000],
  ]
  for (const [what, at, value] of cases) {
    test(`refuses ${what}`, async () => {
      const medium = new Memory(0)
      await createQed(new BlockDevice(medium), { name, size: 1 << 20 })
      medium.write(at, le32(value))
      expect(await outcome(() => readQedHeader(name, new BlockDevice(medium)))).toBe('EINVAL')
    })
  }

  test('entries that point at the header or at each other are cleared after an unclean close', async () => {
    const medium = new Memory(0)
    const file = new BlockDevice(medium)
    await createQed(file, { name, size: 1 << 20 })
    const disk = new BlockDevice(new ImageDevice(await openQed(file, await readQedHeader(name, file), { name })))
    await writeBytes(disk, 0, new Uint8Array(200_000).fill(7))
    await disk.flush()
    const bytes = await readBytes(medium, 0, medium.size)
    const left = Memory.from(bytes)
    const view = new DataView(bytes.buffer)
    const table = Number(view.getBigUint64(Number(view.getBigUint64(40, true)), true))
    left.write(table, bytesVec(bytes.slice(table + 8, table + 16)))
    const again = new BlockDevice(left)
    const header = await readQedHeader(name, again)
    expect(header.features & 2n).toBe(2n)
    const mended = new BlockDevice(new ImageDevice(await openQed(again, header, { name })))
    const clusters = await Promise.all([0, 65536, 131072].map((at) => readBytes(mended, at, 1)))
    expect(clusters.map((each) => each[0]).sort()).toEqual([0, 7, 7])
    await mended.close()
  })
})

test('QED clusters that lie far apart do not make a check take memory without bound', async () => {
  const medium = new Memory(0)
  const file = new BlockDevice(medium)
  await createQed(file, { name, size: 2 ** 36, clusterSize: 4096, tableSize: 16 })
  const header = await readQedHeader(name, file)
  const table = new Uint8Array(65536)
  const view = new DataView(table.buffer)
  for (let each = 0; each < 9; each++) {
    const at = (1 << 20) + each * 65536
    view.setBigUint64(each * 8, BigInt(at), true)
    const entries = new Uint8Array(65536)
    const words = new DataView(entries.buffer)
    for (let entry = 0; entry < 8192; entry++) {
      words.setBigUint64(entry * 8, BigInt(each * 8192 + entry + 1) << 26n, true)
    }
    medium.write(at, bytesVec(entries))
  }
  medium.write(header.l1Offset, bytesVec(table.slice(0, 72)))
  medium.resize(2 ** 43)
  expect(await outcome(() => checkQed(name, file, header))).toBe('EFBIG')
})

test('an image that fails while it is opened leaves nothing behind (CVE-2014-0146)', async () => {
  const medium = await image()
  const { disk, image: qcow } = await openImage(medium)
  await qcow.createSnapshot({ name: 'one', dateSec: 0 })
  await disk.close()
  const before = await readBytes(medium, 0, medium.size)
  put64(medium, 40, 1n << 44n) // the L1 table, after the end
  expect(await opening(medium)).toBe('EINVAL')
  put64(medium, 40, new DataView(before.buffer).getBigUint64(40))
  put64(medium, 48, 1n << 44n) // the refcount table
  expect(await opening(medium)).toBe('EINVAL')
  put64(medium, 48, new DataView(before.buffer).getBigUint64(48))
  same(await readBytes(medium, 0, medium.size), before)
  expect(await opening(medium)).toBe('none')
})

test('a raw disk in which a guest writes a header stays raw, also when its size changes (CVE-2008-2004, CVE-2026-24708)', async () => {
  const folder = temporaryFolder()
  try {
    const path = folder.file('disk')
    const options = { format: 'raw', gate: 'any' } as const
    const head = await readBytes(await image(), 0, 65536)
    writeFileSync(path, new Uint8Array(1 << 20))
    const disk = await openSource(path, options)
    await disk.write(0, bytesVec(head))
    await disk.resize(2 << 20)
    await disk.close()
    const again = await openSource(path, options)
    expect(again.size).toBe(2 << 20)
    expect(await readBytes(again, 0, head.length)).toEqual(head)
    await again.close()
  } finally {
    folder.remove()
  }
})

test('what is thrown is a BlockError', async () => {
  const medium = await image()
  put32(medium, 20, 99)
  await expect(openImage(medium)).rejects.toBeInstanceOf(BlockError)
})
