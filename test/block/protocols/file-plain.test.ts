/** Files on `node:fs` alone, as where koffi is not installed or Linux is not underneath. */
import fs from 'node:fs'
import { afterAll, expect, test } from 'vitest'
import { driverConformance, outcome, readBytes, same, writeBytes } from '../../conformance/driver.ts'
import { temporaryFolder } from '../../tools.ts'

process.env.BLOCK86_KOFFI = 'off'
const { host } = await import('../../../src/block/protocols/node/index.ts')
const { libc, libcReason } = await import('../../../src/block/protocols/node/libc.ts')
const { asDevice } = await import('../../../src/block/device.ts')

const folder = temporaryFolder()
afterAll(() => folder.remove())
let files = 0
function fresh(size: number): string {
  const name = folder.file(`disk${files++}.img`)
  fs.writeFileSync(name, '')
  fs.truncateSync(name, size)
  return name
}

let last = ''
driverConformance({
  name: 'a file without the C library',
  make: (size) => {
    last = fresh(size)
    return host.openFile(last)
  },
  reopen: () => host.openFile(last),
})

driverConformance({
  name: 'a file without the C library, with O_DIRECT',
  make: (size) => host.openFile(fresh(size), { direct: true }),
})

test('says why', () => {
  expect([libc(), libcReason()]).toEqual([undefined, 'switched off by BLOCK86_KOFFI=off'])
})

test('a zeroed range is written, a discard does nothing, all is data', async () => {
  const device = asDevice(await host.openFile(fresh(65536)))
  await writeBytes(device, 0, new Uint8Array(65536).fill(1))
  await device.zero(4096, 4096, { unmap: true })
  await device.discard(8192, 4096)
  const expected = new Uint8Array(65536).fill(1)
  expected.fill(0, 4096, 8192)
  same(await readBytes(device, 0, 65536), expected)
  expect([device.canDiscard, await device.status(0, 65536)]).toEqual([false, { length: 65536, kind: 'data' }])
  await device.close()
})

test('what needs the C library is refused by name', async () => {
  expect(await outcome(() => host.openFile(fresh(512), { aio: 'io_uring' }))).toBe('ENOTSUP')
  expect(await outcome(() => host.openFile(fresh(512), { locking: 'on' }))).toBe('ENOTSUP')
  expect(await outcome(() => host.createFile(folder.file('x'), 512, 'falloc'))).toBe('ENOTSUP')
})
