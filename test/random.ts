/** Reproducible randomness for property tests: the seed is printed with every failure and can be given back. */

export interface Random {
  readonly seed: number
  /** An integer from 0 up to, and not including, `below`. */
  below(below: number): number
  /** An integer from `low` to `high`, both included. */
  between(low: number, high: number): number
  pick<T>(values: readonly T[]): T
  bytes(length: number): Uint8Array
}

const STEP = 0x6d2b79f5

/** A generator (mulberry32) of `seed`; default BLOCK86_SEED, or one from the clock. */
export function random(seed = Number(process.env.BLOCK86_SEED ?? Date.now() % 2 ** 31)): Random {
  let state = seed | 0
  const next = () => {
    state = (state + STEP) | 0
    return mix(state) >>> 0
  }
  const below = (limit: number) => Math.floor((next() / 2 ** 32) * limit)
  return {
    seed,
    below,
    between: (low, high) => low + below(high - low + 1),
    pick: (values) => values[below(values.length)]!,
    bytes: (length) => {
      const words = new Int32Array(Math.ceil(length / 4))
      for (let i = 0, at = state; i < words.length; i++) {
        at = (at + STEP) | 0
        words[i] = mix(at)
      }
      state = (state + Math.imul(length, STEP)) | 0
      const bytes = new Uint8Array(words.buffer)
      return length === bytes.length ? bytes : bytes.slice(0, length)
    },
  }
}

function mix(state: number): number {
  let mixed = Math.imul(state ^ (state >>> 15), state | 1)
  mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
  return mixed ^ (mixed >>> 14)
}

/** Runs `body` with a generator; a failure names the seed that brings it back. */
export async function seeded(body: (random: Random) => Promise<void> | void): Promise<void> {
  const source = random()
  try {
    await body(source)
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error)
    throw new Error(`with BLOCK86_SEED=${source.seed}: ${message}`, { cause: error })
  }
}
