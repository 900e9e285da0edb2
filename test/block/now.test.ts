import { describe, expect, test } from 'vitest'
import { all, always, after as goOn, isLater, repeat, rescue, settle } from '../../src/block/now.ts'

const boom = new Error('boom')
const fail = (): never => {
  throw boom
}

describe('values that are here, or come later', () => {
  test('after goes on at once with what is here', async () => {
    expect(goOn(1, (value) => value + 1)).toBe(2)
    expect(await goOn(Promise.resolve(1), (value) => value + 1)).toBe(2)
  })

  test('settle calls done or failed, once, and at once if it can', async () => {
    const calls: string[] = []
    settle(
      () => 1,
      () => calls.push('done'),
      () => calls.push('failed'),
    )
    settle(
      fail,
      () => calls.push('done'),
      () => calls.push('failed'),
    )
    expect(calls).toEqual(['done', 'failed'])
    settle(
      () => Promise.reject(boom),
      () => calls.push('done'),
      () => calls.push('failed later'),
    )
    expect(calls.length).toBe(2)
    await Promise.resolve()
    expect(calls).toEqual(['done', 'failed', 'failed later'])
  })

  test('settle leaves an exception of done to the caller', () => {
    let failed = false
    expect(() =>
      settle(
        () => 1,
        fail,
        () => (failed = true),
      ),
    ).toThrow(boom)
    expect(failed).toBe(false)
  })

  test('always runs its end on every way out', async () => {
    let ends = 0
    const end = () => void ends++
    expect(always(() => 5, end)).toBe(5)
    expect(() => always(fail, end)).toThrow(boom)
    expect(await always(() => Promise.resolve(5), end)).toBe(5)
    await expect(always(() => Promise.reject(boom), end)).rejects.toThrow(boom)
    expect(ends).toBe(4)
  })

  test('rescue turns a failure into a value', async () => {
    expect(
      rescue(
        () => 1,
        () => 2,
      ),
    ).toBe(1)
    expect(rescue(fail, () => 2)).toBe(2)
    expect(
      await rescue(
        () => Promise.reject(boom),
        () => 2,
      ),
    ).toBe(2)
  })

  test('repeat takes no stack, whether answers are here or later', async () => {
    let left = 1_000_000
    expect(repeat(() => --left > 0)).toBeUndefined()
    expect(left).toBe(0)
    left = 10_000
    await repeat(() => (left % 3 === 0 ? Promise.resolve(--left > 0) : --left > 0))
    expect(left).toBe(0)
    await expect((async () => repeat(() => Promise.reject(boom)))()).rejects.toThrow(boom)
  })

  test('all waits for every one and throws the first failure in their order', async () => {
    expect(all([1, undefined])).toBeUndefined()
    let late = false
    const slow = new Promise<void>((resolve) => setTimeout(resolve, 5)).then(() => {
      late = true
    })
    await expect(Promise.resolve(all([Promise.reject(boom), slow]))).rejects.toThrow(boom)
    expect(late).toBe(true)
    expect(isLater(slow)).toBe(true)
  })
})
