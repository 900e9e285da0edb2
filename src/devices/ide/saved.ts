/** Reading a saved state: every field is there, of its type and inside its bounds, or a RangeError says which is not. */
import type { Saved } from '../machine.ts'

/** A saved object. */
export type Fields = { readonly [key: string]: Saved }

/** The object that `state` must be. */
export function takeFields(state: Saved | undefined, what: string): Fields {
  if (typeof state !== 'object' || state === null || state instanceof Uint8Array || Array.isArray(state)) {
    throw new RangeError(`the saved state has no ${what}`)
  }
  return state as Fields
}

function take(state: Saved, key: string): Saved | undefined {
  return takeFields(state, 'fields')[key]
}

/** An integer from 0 to `limit`. */
export function takeNumber(state: Saved, key: string, limit = Number.MAX_SAFE_INTEGER): number {
  const value = take(state, key)
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > limit) {
    throw new RangeError(`${key} of the saved state is ${String(value)}, must be 0 to ${limit}`)
  }
  return value
}

export function takeBoolean(state: Saved, key: string): boolean {
  const value = take(state, key)
  if (typeof value !== 'boolean') throw new RangeError(`${key} of the saved state is neither true nor false`)
  return value
}

export function takeString(state: Saved, key: string): string {
  const value = take(state, key)
  if (typeof value !== 'string') throw new RangeError(`${key} of the saved state is no string`)
  return value
}

/** At most `limit` bytes. */
export function takeBytes(state: Saved, key: string, limit: number): Uint8Array<ArrayBuffer> {
  const value = take(state, key)
  if (!(value instanceof Uint8Array) || value.length > limit) {
    throw new RangeError(`${key} of the saved state is not up to ${limit} bytes`)
  }
  return new Uint8Array(value)
}

/** A list of at most `limit` values. */
export function takeList(state: Saved, key: string, limit: number): readonly Saved[] {
  const value = take(state, key)
  if (!Array.isArray(value) || value.length > limit) {
    throw new RangeError(`${key} of the saved state is no list of up to ${limit}`)
  }
  return value as readonly Saved[]
}
