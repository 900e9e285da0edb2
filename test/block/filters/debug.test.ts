/** The filters for finding faults: blkdebug, blkverify, blklogwrites, and the null disk. */
import { describe, expect, test } from 'vitest'
import { asDevice } from '../../../src/block/device.ts'
import { Blkdebug, parseBlkdebug } from '../../../src/block/filters/blkdebug.ts'
import { Blklogwrites, LOG_DISCARD, LOG_FLUSH, LOG_FUA, LOG_MAGIC } from '../../../src/block/filters/blklogwrites.ts'
import { Blkverify } from '../../../src/block/filters/blkverify.ts'
import { raw as rawFormat } from '../../../src/block/formats/raw.ts'
import { closedGate } from '../../../src/block/gate.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { Null } from '../../../src/block/protocols/null.ts'
import { driverConformance, outcome, readBytes, writeBytes } from '../../conformance/driver.ts'

driverConformance({ name: 'blkdebug without rules', make: (size) => new Blkdebug(asDevice(new Memory(size))) })
driverConformance({
  name: 'blkverify of two memories',
  make: (size) => new Blkverify(asDevice(new Memory(size)), asDevice(new Memory(size))),
})
driverConformance({
  name: 'blklogwrites',
  make: (size) => new Blklogwrites(asDevice(new Memory(size)), asDevice(new Memory(0))),
})

const MiB = 1 << 20
const closed = { readOnly: false, gate: closedGate, options: {} }
const disk = (options: ConstructorParameters<typeof Blkdebug>[1]) => {
  const filter = new Blkdebug(asDevice(new Memory(MiB)), options)
  return { filter, device: asDevice(filter) }
}

describe('blkdebug', () => {
  test('injects an error into every request until told otherwise', async () => {
    const { device } = disk({ injectError: [{ iotype: 'read', errno: 'ENOSPC' }] })
    expect(await outcome(() => readBytes(device, 0, 512))).toBe('ENOSPC')
    expect(await outcome(() => readBytes(device, 0, 512))).toBe('ENOSPC')
    expect(await outcome(() => writeBytes(device, 0, new Uint8Array(512)))).toBe('none')
  })

  test('once: only the first', async () => {
    const { device } = disk({ injectError: [{ event: 'preadv', errno: 5, once: true }] })
    expect(await outcome(() => readBytes(device, 0, 512))).toBe('EIO')
    expect(await outcome(() => readBytes(device, 0, 512))).toBe('none')
  })

  test('sector: only requests that touch it', async () => {
    const { device } = disk({ injectError: [{ sector: 4, errno: 28 }] })
    expect(await outcome(() => readBytes(device, 0, 2048))).toBe('none')
    expect(await outcome(() => readBytes(device, 0, 2049))).toBe('ENOSPC')
    expect(await outcome(() => readBytes(device, 2560, 512))).toBe('none')
  })

  test('immediately: thrown, not rejected', () => {
    const { device } = disk({ injectError: [{ immediately: true }] })
    expect(() => device.read(0, bytesVec(new Uint8Array(512)))).toThrow(/injected EIO/)
  })

  test('states: a rule holds only in its state, which events change', async () => {
    const { device, filter } = disk({
      setState: [{ event: 'flush_to_disk', state: 1, newState: 2 }],
      injectError: [{ event: 'pwritev', state: 2, errno: 'EIO' }],
    })
    expect(await outcome(() => writeBytes(device, 0, new Uint8Array(512)))).toBe('none')
    await device.flush()
    expect(filter.state).toBe(2)
    expect(await outcome(() => writeBytes(device, 0, new Uint8Array(512)))).toBe('EIO')
  })

  test('a breakpoint holds the next request until it is resumed', async () => {
    const { device, filter } = disk({})
    filter.break('pwritev', 'A')
    let done = false
    const written = writeBytes(device, 0, new Uint8Array(512).fill(1)).then(() => (done = true))
    await Promise.resolve()
    expect(filter.suspended('A')).toBe(undefined)
    expect((await readBytes(device, 0, 1))[0]).toBe(0)
    expect(done).toBe(false)
    filter.resume('A')
    await written
    expect((await readBytes(device, 0, 1))[0]).toBe(1)
    expect(filter.resume('A')).toBe(false)
  })

  test('formats announce what they do: guest data apart from metadata', async () => {
    const log: string[] = []
    const filter = new Blkdebug(asDevice(new Memory(MiB)), {
      injectError: [{ event: 'read_aio', errno: 'ENOSPC', once: true }],
      log: (text) => void log.push(text),
    })
    const raw = asDevice(await rawFormat.open(asDevice(filter), { ...closed, name: 'x' }))
    expect(await outcome(() => writeBytes(raw, 0, new Uint8Array(512)))).toBe('none')
    expect(await outcome(() => readBytes(raw, 0, 512))).toBe('ENOSPC')
    raw.debug!.break('write_aio', 'A')
    const written = Promise.resolve(writeBytes(raw, 0, new Uint8Array(512)))
    await raw.debug!.suspended('A')
    expect(raw.debug!.removeBreak('A')).toBe(true)
    await written
    expect(log).toEqual(["blkdebug: Suspended request 'A'", "blkdebug: Resuming request 'A'"])
    expect(() => raw.debug!.break('bogus', 'A')).toThrow(/no event 'bogus'/)
  })

  test('its configuration file', () => {
    const text =
      '# comment\n[inject-error]\nevent = "read_aio"\nerrno = "28"\nonce = "on"\n\n[set-state]\nevent = "none"\nstate = "1"\nnew_state = "2"\n'
    expect(parseBlkdebug(text)).toEqual({
      injectError: [{ event: 'read_aio', errno: 28, once: true }],
      setState: [{ event: 'none', state: 1, newState: 2 }],
    })
  })

  test.each([
    ['[bogus]', /unknown section 'bogus'/],
    ['errno = "5"', /line 1/],
    ['[inject-error]\nerrno = "five"', /'five' is not a number/],
    ['[inject-error]\nbogus = "1"', /no parameter 'bogus'/],
    ['[set-state]\nevent = "x"', /needs event and new_state/],
  ])('its configuration file refuses %j', (text, message) => {
    expect(() => parseBlkdebug(text)).toThrow(message)
  })
})

test('blkverify: a difference is an EIO that names the first byte', async () => {
  const good = new Memory(MiB)
  const bad = new Memory(MiB)
  const device = asDevice(new Blkverify(asDevice(bad), asDevice(good)))
  await writeBytes(device, 0, new Uint8Array(4096).fill(7))
  bad.write(1000, bytesVec(Uint8Array.of(9)))
  await expect(readBytes(device, 512, 1024)).rejects.toThrow(
    'blkverify: read offset=512 bytes=1024 contents mismatch at offset 1000',
  )
})

test('blklogwrites: superblock and entries as dm-log-writes lays them out', async () => {
  const log = new Memory(0)
  const filter = new Blklogwrites(asDevice(new Memory(MiB)), asDevice(log))
  const device = asDevice(filter)
  await writeBytes(device, 1024, new Uint8Array(512).fill(0x11))
  await device.write(4096, bytesVec(new Uint8Array(1024).fill(0x22)), { fua: true })
  await device.discard(8192, 4096)
  await device.flush()
  const bytes = await readBytes(asDevice(log), 0, log.size)
  const view = new DataView(bytes.buffer)
  const u64 = (at: number) => view.getBigUint64(at, true)
  expect([u64(0), u64(8), u64(16), view.getUint32(24, true)]).toEqual([LOG_MAGIC, 1n, 4n, 512])
  const entry = (at: number) => [u64(at), u64(at + 8), u64(at + 16)].map(Number)
  expect(entry(512)).toEqual([2, 1, 0])
  expect(bytes[1024]).toBe(0x11)
  expect(entry(1536)).toEqual([8, 2, LOG_FUA])
  expect(bytes[2048]).toBe(0x22)
  expect(entry(3072)).toEqual([16, 8, LOG_DISCARD])
  expect(entry(3584)).toEqual([0, 0, LOG_FLUSH])
})

test('null-co: takes writes, keeps none, reads zeroes if told', async () => {
  const device = asDevice(new Null({ size: MiB, readZeroes: true }))
  await writeBytes(device, 0, new Uint8Array(512).fill(1))
  expect((await readBytes(device, 0, 512)).every((byte) => byte === 0)).toBe(true)
  expect(await outcome(() => readBytes(device, MiB, 512))).toBe('EINVAL')
})
