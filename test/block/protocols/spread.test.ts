import { expect, test } from 'vitest'
import { bytesVec } from '../../../src/block/iovec.ts'
import type { Engine } from '../../../src/block/protocols/node/engine.ts'
import { spread } from '../../../src/block/protocols/node/spread.ts'
import { answering, asking } from './engines.ts'

const sector = bytesVec(new Uint8Array(512))

/** Both engines, whose writes take their own time each; the test's clock is the sum. */
function make(costs: { io_uring: number; threads: number }) {
  let now = 0
  const writes: Engine['name'][] = []
  const others: string[] = []
  const under: { name: Engine['name']; end: () => void }[] = []
  const engine = (name: Engine['name']) =>
    answering({
      name,
      durableWrites: name === 'io_uring',
      read: () => void others.push(`read ${name}`),
      write: (_at, _from, durable) => {
        if (durable) return void others.push(`durable ${name}`)
        writes.push(name)
        return new Promise<void>((end) => under.push({ name, end }))
      },
      sync: async () => void others.push(`sync ${name}`),
    })
  const both = asking(spread(engine('io_uring'), engine('threads'), () => now))
  /** So many writes, `depth` at a time. */
  const busy = async (count: number, depth: number) => {
    for (let done = 0; done < count || under.length > 0; ) {
      while (done < count && under.length < depth) {
        both.write(0, sector, false)
        done++
      }
      const { name, end } = under.shift()!
      now += costs[name]
      end()
      for (let i = 0; i < 4; i++) await Promise.resolve()
    }
  }
  return { both, writes, others, busy, costs }
}

const share = (writes: readonly string[], name: string) => writes.filter((one) => one === name).length / writes.length

test.each(['io_uring', 'threads'] as const)('many writes take the engine that is quicker: %s', async (quicker) => {
  const { writes, busy } = make({ io_uring: quicker === 'io_uring' ? 1 : 2, threads: quicker === 'threads' ? 1 : 2 })
  await busy(10_000, 16)
  expect([...new Set(writes)].sort()).toEqual(['io_uring', 'threads'])
  expect(share(writes.slice(500), quicker)).toBeGreaterThan(0.9)
})

test('and the other one when that has become the quicker', async () => {
  const { writes, busy, costs } = make({ io_uring: 1, threads: 2 })
  await busy(10_000, 16)
  expect(share(writes.slice(-1000), 'io_uring')).toBe(1)
  costs.io_uring = 4
  await busy(30_000, 16)
  expect(share(writes.slice(-1000), 'threads')).toBeGreaterThan(0.8)
})

test('one at a time goes through the ring, and so do durable writes, reads and syncs', async () => {
  const { both, writes, others, busy } = make({ io_uring: 2, threads: 1 })
  await busy(2000, 1)
  expect(share(writes, 'io_uring')).toBe(1)
  both.read(0, sector)
  both.write(0, sector, true)
  await both.sync()
  expect(others).toEqual(['read io_uring', 'durable io_uring', 'sync io_uring'])
})
