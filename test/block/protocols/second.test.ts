/** The second thread that helps with long copies. */
import fs from 'node:fs'
import { afterAll, describe, expect, test } from 'vitest'
import { bytesVec } from '../../../src/block/iovec.ts'
import { type Libc, libc } from '../../../src/block/protocols/node/libc.ts'
import { Mapped } from '../../../src/block/protocols/node/mapped.ts'
import { Second, SHARED_MIN } from '../../../src/block/protocols/node/second.ts'
import { Addresses } from '../../../src/block/protocols/node/vector.ts'
import { seeded } from '../../random.ts'
import { temporaryFolder } from '../../tools.ts'

const calls = libc()
const KIB = 1024
const source = new Uint8Array(1 << 20).map((_, i) => (i * 7) ^ (i >> 8) ^ (i >> 16))
const target = new Uint8Array(1 << 20)

/** Copies between the arrays, on a clock that says that copies follow each other at once. */
function copy(second: Second, to: number, from: number, length: number) {
  second.copy(calls!.address(target.buffer) + to, calls!.address(source.buffer) + from, length)
}

/**
 * A thread that is ready. By its clock a copy takes 0.01 ms, and one that is shared as long as `together` says; `pause` gives the time
 * that has gone by since it was asked last.
 */
async function started(together = () => 0, pause = () => 0): Promise<Second> {
  let now = 0
  let shared = 0
  const timed: Libc = {
    ...calls!,
    copy(to, from, length) {
      calls!.copy(to, from, length)
      if (length >= SHARED_MIN) now += 0.01
    },
  }
  const second: Second = new Second(timed, () => {
    now += pause()
    if (second.shared > shared) now += together()
    shared = second.shared
    return now
  })
  second.start()
  while (!second.ready) await new Promise((resolve) => setTimeout(resolve, 5))
  return second
}

describe.runIf(calls !== undefined)('a second thread that copies', () => {
  const all: Second[] = []
  afterAll(() => Promise.all(all.map((second) => second.stop())))

  test('copies exactly what was asked, in every mode, whether it is awake or asleep', async () => {
    const second = await started()
    all.push(second)
    await seeded(async (random) => {
      for (let round = 0; round < 1500; round++) {
        const length = random.below(4) === 0 ? random.between(1, 300 * KIB) : random.between(SHARED_MIN, 256 * KIB)
        const to = random.below(target.length - length)
        const from = random.below(source.length - length)
        target.fill(0xee, Math.max(0, to - 64), Math.min(target.length, to + length + 64))
        copy(second, to, from, length)
        expect(Buffer.compare(target.subarray(to, to + length), source.subarray(from, from + length))).toBe(0)
        if (to >= 64) expect(target[to - 1]).toBe(0xee)
        if (to + length < target.length) expect(target[to + length]).toBe(0xee)
        if (round % 200 === 0) await new Promise((resolve) => setTimeout(resolve, 20))
      }
    })
    expect(second.shared).toBeGreaterThan(500)
  })

  test('is not asked where copies are far apart, and not started before many were close', () => {
    let now = 0
    const second = new Second(calls!, () => (now += 1))
    all.push(second)
    for (let round = 0; round < 300; round++) copy(second, 0, 0, SHARED_MIN)
    expect(second.running).toBe(false)
    const close = new Second(calls!, () => 0)
    all.push(close)
    for (let round = 0; round < 300; round++) copy(close, 0, 0, SHARED_MIN - 1)
    expect(close.running).toBe(false)
    for (let round = 0; round < 300; round++) copy(close, 0, 0, SHARED_MIN)
    expect(close.running).toBe(true)
  })

  test('goes on being used where it is quicker, and is hardly tried where it is not', async () => {
    let together = 0
    const second = await started(() => together)
    all.push(second)
    const run = (count: number) => {
      const before = second.shared
      for (let round = 0; round < count; round++) copy(second, 0, 0, SHARED_MIN)
      return second.shared - before
    }
    expect(run(5000)).toBeGreaterThan(3000)
    together = 0.05
    run(20_000)
    expect(run(20_000)).toBeLessThan(1000)
    together = 0
    run(20_000)
    expect(run(20_000)).toBeGreaterThan(15_000)
  })

  test('is woken up by who expects several copies, also a long time after the last ones', async () => {
    let gone = 0
    const pause = () => {
      const ms = gone
      gone = 0
      return ms
    }
    const second = await started(() => 0, pause)
    all.push(second)
    for (let round = 0; round < 5000; round++) copy(second, 0, 0, SHARED_MIN)
    const after = (ms: number, ready: () => void) => {
      const before = second.shared
      gone = ms
      ready()
      copy(second, 0, 0, SHARED_MIN)
      return second.shared - before
    }
    const rounds = Array.from({ length: 100 }, () => [after(1, () => {}), after(1, () => second.expect())])
    expect(rounds.every(([unexpected]) => unexpected === 0)).toBe(true)
    expect(rounds.filter(([, expected]) => expected === 1).length).toBeGreaterThan(50)
  })

  test('helps with reads from a mapping', async () => {
    const second = await started()
    all.push(second)
    const folder = temporaryFolder()
    const path = folder.file('mapped')
    fs.writeFileSync(path, source)
    const fd = fs.openSync(path, 'r')
    const map = new Mapped(calls!, new Addresses(calls!), fd, 1, second)
    await seeded((random) => {
      for (let round = 0; round < 600; round++) {
        const length = random.between(64 * KIB, 256 * KIB)
        const from = random.below(source.length - length)
        const cut = random.between(16 * KIB, length - 16 * KIB)
        const pieces =
          random.below(2) === 0 ? [new Uint8Array(length)] : [new Uint8Array(cut), new Uint8Array(length - cut)]
        const into = bytesVec(...pieces)
        expect(map.read(from, into)).toBe(length)
        expect(Buffer.compare(into.gather(), source.subarray(from, from + length))).toBe(0)
      }
    })
    expect(second.shared).toBeGreaterThan(100)
    map.close()
    fs.closeSync(fd)
    folder.remove()
  })

  test('copies alone once it has ended', async () => {
    const second = await started()
    await second.stop()
    const shared = second.shared
    for (let round = 0; round < 300; round++) copy(second, 0, 0, 128 * KIB)
    expect(second.shared).toBe(shared)
    expect(Buffer.compare(target.subarray(0, 128 * KIB), source.subarray(0, 128 * KIB))).toBe(0)
  })
})
