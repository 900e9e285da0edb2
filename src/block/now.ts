/** Values that are here, or come later: one calling convention for answers from a cache and answers from a disk. */

/** A value, or the promise of one; a caller that gets the value itself must not wait for it. */
export type Now<T> = T | Promise<T>

/** Tells whether an answer comes later. */
export function isLater<T>(value: Now<T>): value is Promise<T> {
  return value instanceof Promise
}

/**
 * Goes on with `next` at once if `value` is here, else when it comes. Not called `then`: a module that exports that is a
 * thenable, and `import()` would call it instead of giving the module.
 */
export function after<T, U>(value: Now<T>, next: (value: T) => Now<U>): Now<U> {
  return value instanceof Promise ? value.then(next) : next(value)
}

/**
 * Runs `start` and calls exactly one of `done` and `failed`: before it returns if the answer is here, else later.
 * The one place where a device meets a {@link Now}. An exception of `done` is the caller's, not a failure of `start`.
 */
export function settle<T>(start: () => Now<T>, done: (value: T) => void, failed: (error: unknown) => void): void {
  let value: Now<T>
  try {
    value = start()
  } catch (error) {
    failed(error)
    return
  }
  if (value instanceof Promise) value.then(done, failed)
  else done(value)
}

/** Runs `body`, then `last`, which must not throw, whether it succeeded or not. */
export function always<T>(body: () => Now<T>, last: () => void): Now<T> {
  let value: Now<T>
  try {
    value = body()
  } catch (error) {
    last()
    throw error
  }
  if (value instanceof Promise) value.then(last, last)
  else last()
  return value
}

/** Runs `body`; a failure, at once or later, becomes the value of `rescue`. */
export function rescue<T>(body: () => Now<T>, rescue: (error: unknown) => Now<T>): Now<T> {
  let value: Now<T>
  try {
    value = body()
  } catch (error) {
    return rescue(error)
  }
  return value instanceof Promise ? value.catch(rescue) : value
}

/** Calls `step` until it answers false; takes no stack and no promise while the answers are here. */
export function repeat(step: () => Now<boolean>): Now<void> {
  for (;;) {
    const more = step()
    if (more instanceof Promise) return resume(step, more)
    if (!more) return
  }
}

async function resume(step: () => Now<boolean>, first: Promise<boolean>): Promise<void> {
  if (!(await first)) return
  for (;;) {
    const more = step()
    if (!(more instanceof Promise ? await more : more)) return
  }
}

/** Waits for all of `values`, the failed ones too; then throws the first failure in their order. */
export function all(values: readonly Now<unknown>[]): Now<void> {
  const later = values.filter((value) => value instanceof Promise)
  if (later.length === 0) return
  return Promise.allSettled(later).then((results) => {
    for (const result of results) if (result.status === 'rejected') throw result.reason
  })
}
