import { expect, test } from 'vitest'
import type { Now } from '../../src/block/now.ts'
import { Rounds } from '../../src/block/rounds.ts'

test('rounds never overlap, and each asker gets a whole round after it asked', async () => {
  let running = 0
  let begun = 0
  const rounds = new Rounds(async () => {
    expect(++running).toBe(1)
    begun++
    for (let turn = 0; turn < 3; turn++) await undefined
    running--
  })
  const asked: Promise<void>[] = []
  // An asker in every turn of the microtask queue: also in those between the end of a round and the begin of the next.
  for (let turn = 0; turn < 40; turn++) {
    const before = begun
    asked.push(
      Promise.resolve(rounds.run()).then(() => {
        expect(begun).toBeGreaterThan(before)
      }),
    )
    await undefined
  }
  await Promise.all(asked)
  expect(rounds.busy).toBe(false)
})

test('a round that fails fails its own askers, and the next begins', async () => {
  let round = 0
  const rounds = new Rounds(async () => {
    await undefined
    if (++round === 1) throw new Error('first')
  })
  const first = rounds.run() as Promise<void>
  const second = rounds.run()
  await expect(first).rejects.toThrow('first')
  await second
  expect(round).toBe(2)
})

test('a round that is over at once answers at once', () => {
  let count = 0
  const rounds = new Rounds((): Now<void> => {
    count++
  })
  expect(rounds.run()).toBeUndefined()
  expect(rounds.run()).toBeUndefined()
  expect(count).toBe(2)
})
