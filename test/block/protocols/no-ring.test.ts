/** Files where io_uring is forbidden, as in many a sandbox. */
import fs from 'node:fs'
import { afterAll, expect, test } from 'vitest'
import { outcome, readBytes, same } from '../../conformance/driver.ts'
import { temporaryFolder } from '../../tools.ts'

process.env.BLOCK86_IO_URING = 'off'
const { host } = await import('../../../src/block/protocols/node/index.ts')
const { ring, ringReason } = await import('../../../src/block/protocols/node/ring.ts')
const { asDevice } = await import('../../../src/block/device.ts')

const folder = temporaryFolder()
afterAll(() => folder.remove())

test('says why, works on threads, and refuses aio=io_uring by name', async () => {
  expect([ring(), ringReason()]).toEqual([undefined, 'switched off by BLOCK86_IO_URING=off'])
  const name = folder.file('image')
  fs.writeFileSync(name, new Uint8Array(8192).fill(6))
  const device = asDevice(await host.openFile(name, { immediate: false }))
  same(await readBytes(device, 100, 4000), new Uint8Array(4000).fill(6))
  await device.flush()
  await device.close()
  expect(await outcome(() => host.openFile(name, { aio: 'io_uring' }))).toBe('ENOTSUP')
  expect(await outcome(async () => asDevice(await host.openFile(name)).close())).toBe('none')
})
