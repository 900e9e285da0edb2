/** What every test file begins with. */
import { expect } from 'vitest'

const DONE = Symbol.for('block86 test setup')

// Files share a process.
if (!Reflect.has(globalThis, DONE)) {
  Reflect.set(globalThis, DONE, true)
  // Left to itself `toEqual` looks at the bytes one by one, as properties; it still does where they differ, to tell how.
  expect.addEqualityTesters([
    (one, other) => {
      const comparable =
        one instanceof Uint8Array && other instanceof Uint8Array && one.constructor === other.constructor
      return comparable && Buffer.compare(one, other) === 0 ? true : undefined
    },
  ])
}
