/** Device states in the terms of v86's state file: numbers, strings, booleans, null, typed arrays and arrays, nothing else. */
import type { Saved } from '../devices/machine.ts'

const LIST = 'list'
const RECORD = 'record'

/** Makes of a state what v86 can store. */
export function encode(value: Saved): unknown {
  if (value instanceof Uint8Array) return new Uint8Array(value)
  if (Array.isArray(value)) return [LIST, ...value.map(encode)]
  if (typeof value === 'object' && value !== null) {
    return [RECORD, ...Object.entries(value).flatMap(([key, item]) => [key, encode(item)])]
  }
  return value
}

/** The state that {@link encode} was given; throws a RangeError for anything else. */
export function decode(stored: unknown): Saved {
  if (stored === null || typeof stored === 'boolean' || typeof stored === 'number' || typeof stored === 'string') {
    return stored
  }
  if (stored instanceof Uint8Array) return stored.slice()
  if (!Array.isArray(stored)) throw new RangeError(`a saved state holds a ${typeof stored}`)
  const [kind, ...items]: unknown[] = stored
  if (kind === LIST) return items.map(decode)
  if (kind !== RECORD || items.length % 2 !== 0) throw new RangeError('a saved state holds an unknown list')
  const record: Record<string, Saved> = {}
  for (let i = 0; i < items.length; i += 2) {
    const key = items[i]
    if (typeof key !== 'string') throw new RangeError('a saved state holds a record without names')
    Object.defineProperty(record, key, { value: decode(items[i + 1]), enumerable: true })
  }
  return record
}
