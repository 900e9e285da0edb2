import fs from 'node:fs'
import { constants } from 'node:os'
import { expect, test } from 'vitest'
import { asDevice } from '../../../src/block/device.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { CLAIM_MIN, claiming, paysToClaim } from '../../../src/block/protocols/node/claim.ts'
import { createFile, openFile } from '../../../src/block/protocols/node/files.ts'
import { temporaryFolder } from '../../tools.ts'
import { answering, asking } from './engines.ts'

/** What reaches the host, in its order; each claim is answered with `answer`. */
function make(answer: number) {
  const calls: string[] = []
  const fallocateNow = (fd: number, mode: number, at: number, length: number) => {
    calls.push(`fallocate ${fd} ${mode} ${at} ${length}`)
    return answer
  }
  const engine = answering({
    name: 'threads',
    durableWrites: true,
    read: (at) => void calls.push(`read ${at}`),
    write: (at, from, durable) => void calls.push(`write ${at} ${from.byteLength}${durable ? ' durable' : ''}`),
    sync: async () => void calls.push('sync'),
  })
  return { calls, engine: asking(claiming(engine, { fallocateNow }, 7)) }
}

test('a long write claims its space, beyond the end of the file too, before it begins', () => {
  const { calls, engine } = make(0)
  engine.write(4096, bytesVec(new Uint8Array(CLAIM_MIN)), false)
  expect(calls).toEqual([`fallocate 7 1 4096 ${CLAIM_MIN}`, `write 4096 ${CLAIM_MIN}`])
})

test('a short write claims nothing and is not held up', () => {
  const { calls, engine } = make(0)
  expect(engine.write(0, bytesVec(new Uint8Array(CLAIM_MIN - 1)), false)).toBeUndefined()
  expect(calls).toEqual([`write 0 ${CLAIM_MIN - 1}`])
})

test('where nothing can be claimed the write is done all the same, as durable as it was to be', () => {
  const { calls, engine } = make(-constants.errno.ENOSPC)
  engine.write(0, bytesVec(new Uint8Array(CLAIM_MIN)), true)
  expect(calls.at(-1)).toBe(`write 0 ${CLAIM_MIN} durable`)
})

test('reads and syncs pass', async () => {
  const { calls, engine } = make(0)
  await engine.read(512, bytesVec(new Uint8Array(CLAIM_MIN)))
  await engine.sync()
  expect(calls).toEqual(['read 512', 'sync'])
})

test('it does not pay in the memory of /proc, nor where nothing is open', () => {
  const fd = fs.openSync('/proc/self/status', 'r')
  expect(paysToClaim(fd)).toBe(false)
  fs.closeSync(fd)
  expect(paysToClaim(-1)).toBe(false)
})

test('a file written in bulk holds what was written and takes no more space', async () => {
  const folder = temporaryFolder()
  try {
    const place = folder.file('bulk')
    await createFile(place, 16 << 20)
    const device = asDevice(await openFile(place, { immediate: false }))
    const bytes = new Uint8Array(2 << 20).map((_, at) => at * 7)
    await device.write(4 << 20, bytesVec(bytes))
    await device.flush()
    await device.close()
    const written = fs.readFileSync(place)
    expect(written.length).toBe(16 << 20)
    expect(written.subarray(4 << 20, 6 << 20).equals(bytes)).toBe(true)
    expect(fs.statSync(place).blocks * 512).toBeLessThan((2 << 20) + 65536)
  } finally {
    folder.remove()
  }
})
