/** Random garbage in rings and registers: no exception, no hang, nothing unbounded, and a reset mends all of it. */
import { expect, test } from 'vitest'
import { Slow } from '../slow.ts'
import { wreck } from './garbage.ts'

const seed = Number(process.env.SEED ?? Date.now() % 2 ** 31)

test(`a driver that follows no rule (SEED=${seed})`, async () => {
  for (let i = 0; i < 12; i++) {
    const slow = new Slow()
    slow.direct = i % 2 === 0
    await wreck(seed + i, 400, slow)
    expect(slow.pending).toEqual([])
  }
})
