/** A fixed share of what `npm run fuzz -- formats` does. */
import { expect, test } from 'vitest'
import { fuzzFormats } from './formats.ts'

test('mutated images do no harm', async () => {
  const seed = Number(process.env.BLOCK86_SEED ?? Date.now() % 2 ** 31)
  const found = await fuzzFormats(seed, Number(process.env.BLOCK86_FUZZ_CASES ?? 1200))
  expect(found.failure).toBeUndefined()
  expect(found.opened).toBeGreaterThan(found.cases / 10)
})
