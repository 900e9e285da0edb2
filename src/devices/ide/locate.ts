/** Finding the sector at which a transfer fails. */
import type { Now } from '../../block/now.ts'

/** Does something with the host, and goes on with `done` or `failed` unless it is called off in between. */
export type Guard = (start: () => Now<void>, done: () => void, failed: (error: unknown) => void) => void

/**
 * Repeats a transfer from `start` to `end` (bytes, multiples of `unit` from each other) that failed, in halves, until one unit is
 * left: everything before it has been done then. `found` gets the unit's first byte.
 */
export function locate(
  range: { start: number; end: number; unit: number },
  attempt: (start: number, end: number) => Now<void>,
  guard: Guard,
  found: (bad: number) => void,
): void {
  const { start, end, unit } = range
  if (end - start <= unit) {
    found(start)
    return
  }
  const middle = start + Math.ceil((end - start) / unit / 2) * unit
  guard(
    () => attempt(start, middle),
    () => locate({ start: middle, end, unit }, attempt, guard, found),
    () => locate({ start, end: middle, unit }, attempt, guard, found),
  )
}
