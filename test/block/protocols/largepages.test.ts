import fs from 'node:fs'
import { afterAll, describe, expect, test } from 'vitest'
import { asDevice } from '../../../src/block/device.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { host } from '../../../src/block/protocols/node/index.ts'
import { libc } from '../../../src/block/protocols/node/libc.ts'
import { temporaryFolder } from '../../tools.ts'

const folder = temporaryFolder()
afterAll(() => folder.remove())
const calls = libc()
const MIB = 1 << 20

/** Whether the kernel was asked for large pages under the buffer's middle. */
function isAdvised(buffer: ArrayBufferLike): boolean {
  const address = calls!.address(buffer) + buffer.byteLength / 2
  let inside = false
  for (const line of fs.readFileSync('/proc/self/smaps', 'latin1').split('\n')) {
    const range = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line)
    if (range !== null) inside = parseInt(range[1]!, 16) <= address && address < parseInt(range[2]!, 16)
    else if (inside && line.startsWith('VmFlags:')) return / hg( |$)/.test(line)
  }
  return false
}

const memory = (mib: number) => new WebAssembly.Memory({ initial: mib * 16, maximum: 64 * 16 })

describe.runIf(calls !== undefined && fs.existsSync('/sys/kernel/mm/transparent_hugepage'))('large pages', () => {
  test('are asked for under a large memory when it is first used, and again when it has grown', async () => {
    const name = folder.file('image')
    fs.writeFileSync(name, new Uint8Array(MIB))
    const file = asDevice(await host.openFile(name))
    const large = memory(16)
    expect(isAdvised(large.buffer)).toBe(false)
    await file.read(0, bytesVec(new Uint8Array(large.buffer, 65536, 4096)))
    expect(isAdvised(large.buffer)).toBe(true)
    large.grow(32 * 16)
    await file.read(0, bytesVec(new Uint8Array(large.buffer, 65536, 4096)))
    expect(isAdvised(large.buffer)).toBe(true)
    const small = memory(1)
    await file.read(0, bytesVec(new Uint8Array(small.buffer, 0, 4096)))
    expect(isAdvised(small.buffer)).toBe(false)
    await file.close()
  })

  test('can be asked for before the memory is filled', () => {
    const large = memory(8)
    host.preferLargePages!(large.buffer)
    expect(isAdvised(large.buffer)).toBe(true)
  })
})
