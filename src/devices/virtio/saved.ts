/** Checks on saved states, which may come from anywhere. */

/** Whether `value` is an integer from 0 to `most`. */
export function isUint(value: unknown, most: number): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= most
}

/** The fields of a saved object; undefined if it is none. */
export function fields(value: unknown): Record<string, unknown> | undefined {
  if (typeof value !== 'object' || value === null || Array.isArray(value) || value instanceof Uint8Array) return
  return value as Record<string, unknown>
}

/** Whether `value` is a list of `length` integers from 0 to `most`. */
export function isUints(value: unknown, length: number, most: number): value is number[] {
  return Array.isArray(value) && value.length === length && value.every((item) => isUint(item, most))
}
