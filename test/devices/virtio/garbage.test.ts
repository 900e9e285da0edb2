/** Random garbage in rings and registers: no exception, no hang, nothing unbounded, and a reset mends all of it. */
import { expect, test } from 'vitest'
import { random } from '../../random.ts'
import { Slow } from '../slow.ts'
import { OK } from './driver.ts'
import { wreck } from './garbage.ts'

const { seed } = random()

test(`a driver that follows no rule (BLOCK86_SEED=${seed})`, { timeout: 60_000 }, async () => {
  let done = 0
  const faults = new Set<string>()
  for (let i = 0; i < 10; i++) {
    const slow = new Slow()
    slow.direct = i % 2 === 0
    const wreckage = await wreck(seed + i, 400, slow)
    expect(slow.pending).toEqual([])
    done += wreckage.statuses.get(OK) ?? 0
    for (const fault of wreckage.faults.keys()) faults.add(fault)
  }
  // The garbage must be good enough to get somewhere.
  expect(done).toBeGreaterThan(100)
  expect(faults.size).toBeGreaterThan(4)
})
