import { expect, test } from 'vitest'
import { Brief } from '../../../src/block/protocols/node/brief.ts'

/** How many of so many requests are waited for, where each n-th answer is too late. */
function waits(brief: Brief, count: number, late: (n: number) => boolean): number {
  let waited = 0
  for (let n = 0; n < count; n++) {
    if (!brief.worth(4096)) continue
    waited++
    brief.did(!late(n))
  }
  return waited
}

test('a quick device is waited for, also if every fifth answer is late', () => {
  expect(waits(new Brief(), 1000, () => false)).toBe(1000)
  expect(waits(new Brief(), 1000, (n) => n % 5 === 0)).toBe(1000)
})

test('a slow one hardly ever, and it is noticed when it has become quick', () => {
  const brief = new Brief()
  expect(waits(brief, 100_000, () => true)).toBeLessThan(60)
  waits(brief, 5000, () => false)
  expect(waits(brief, 1000, () => false)).toBe(1000)
})

test('where a wait overslept, waiting ceases for long, and for longer each time', () => {
  const brief = new Brief()
  const rests: number[] = []
  for (let i = 0; i < 4; i++) {
    expect(brief.worth(4096)).toBe(true)
    brief.did(true, 3)
    let rest = 0
    while (!brief.worth(4096)) rest++
    brief.did(true, 0.03)
    rests.push(rest)
  }
  expect(rests).toEqual([128, 256, 512, 1024])
  waits(brief, 2000, () => false)
  brief.did(true, 3)
  let rest = 0
  while (!brief.worth(4096)) rest++
  expect(rest).toBe(128)
})

test('large requests are not waited for', () => {
  expect(new Brief().worth(65537)).toBe(false)
})
