import { describe, expect, test } from 'vitest'
import { RangeLock } from '../../src/block/rangelock.ts'
import { seeded } from '../random.ts'

/** A body that runs until it is told to end. */
function body(log: string[], name: string) {
  let end = () => {}
  const done = new Promise<void>((resolve) => {
    end = resolve
  })
  return {
    end,
    run: () => {
      log.push(name)
      return done
    },
  }
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

describe('a range lock', () => {
  test('answers at once when nothing is in the way', () => {
    const lock = new RangeLock()
    expect(lock.exclusive(0, 10, () => 'x')).toBe('x')
    expect(lock.shared(0, 10, () => 'y')).toBe('y')
    expect(() =>
      lock.exclusive(0, 10, () => {
        throw new Error('boom')
      }),
    ).toThrow('boom')
    expect(lock.exclusive(0, 10, () => 'z')).toBe('z')
  })

  test('shared claims run together, an exclusive one waits and holds what comes after it', async () => {
    const lock = new RangeLock()
    const log: string[] = []
    const [a, b, c, d] = ['a', 'b', 'c', 'd'].map((name) => body(log, name)) as [
      ReturnType<typeof body>,
      ReturnType<typeof body>,
      ReturnType<typeof body>,
      ReturnType<typeof body>,
    ]
    const runs = [
      lock.shared(0, 10, a.run),
      lock.shared(5, 10, b.run),
      lock.exclusive(8, 1, c.run),
      lock.shared(0, 20, d.run),
    ]
    expect(log).toEqual(['a', 'b'])
    a.end()
    await turn()
    expect(log).toEqual(['a', 'b'])
    b.end()
    await turn()
    expect(log).toEqual(['a', 'b', 'c'])
    c.end()
    await turn()
    expect(log).toEqual(['a', 'b', 'c', 'd'])
    d.end()
    await Promise.all(runs)
  })

  test('claims that only touch do not wait', () => {
    const lock = new RangeLock()
    const log: string[] = []
    const held = body(log, 'held')
    lock.exclusive(0, 512, held.run)
    expect(lock.exclusive(512, 512, () => 'next')).toBe('next')
    held.end()
  })

  test('a body that fails lets go', async () => {
    const lock = new RangeLock()
    const failed = lock.exclusive(0, 1, () => Promise.reject(new Error('boom')))
    const next = lock.exclusive(0, 1, () => 'next')
    await expect(failed).rejects.toThrow('boom')
    expect(await next).toBe('next')
  })

  test('at no time an exclusive claim runs with another over it, and all get their turn', async () => {
    await seeded(async (random) => {
      const lock = new RangeLock()
      const running = new Set<{ start: number; end: number; exclusive: boolean }>()
      const runs: unknown[] = []
      for (let i = 0; i < 400; i++) {
        const start = random.below(100)
        const claim = { start, end: start + random.between(1, 20), exclusive: random.below(2) === 0 }
        const run = async () => {
          for (const other of running) {
            const over = other.start < claim.end && claim.start < other.end
            if (over && (other.exclusive || claim.exclusive))
              throw new Error(`${JSON.stringify([claim, other])} together`)
          }
          running.add(claim)
          for (let waits = random.below(4); waits > 0; waits--) await turn()
          running.delete(claim)
        }
        runs.push(
          claim.exclusive ? lock.exclusive(start, claim.end - start, run) : lock.shared(start, claim.end - start, run),
        )
      }
      await Promise.all(runs)
    })
  })
})
