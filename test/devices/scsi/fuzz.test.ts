/** A fixed share of random commands. */
import { test } from 'vitest'
import { random, seeded } from '../../random.ts'
import { fuzzTarget } from './fuzz.ts'

test.each([1, 2, 3, 4])(
  'random commands of seed %i end with a status',
  async (seed) => {
    await fuzzTarget(random(seed), 500)
  },
  30_000,
)

test('random commands end with a status', () => seeded((source) => fuzzTarget(source, 500)), 30_000)
