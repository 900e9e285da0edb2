/** What `npm run fuzz -- formats` runs. */
import { parseArgs } from 'node:util'
import { fuzzFormats } from './formats.ts'

/** Runs the fuzzer; gives the exit status. */
export async function run(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: { cases: { type: 'string' }, seed: { type: 'string' }, first: { type: 'string' } },
  })
  const seed = Number(values.seed ?? Date.now() % 2 ** 31)
  const cases = Number(values.cases ?? 20_000)
  const first = Number(values.first ?? 0)
  console.log(`seed ${seed}, cases ${first} to ${first + cases - 1}`)
  const found = await fuzzFormats(seed, cases, first)
  console.log(`${found.cases} mutants, ${found.opened} could be opened`)
  if (found.failure !== undefined) console.error(found.failure)
  return found.failure === undefined ? 0 : 1
}
