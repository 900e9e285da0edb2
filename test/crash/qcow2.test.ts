/** qcow2 after power cuts: nothing flushed is lost, nothing is corrupt. */
import { afterAll, describe, expect, test } from 'vitest'
import { lacks, temporaryFolder } from '../tools.ts'
import { explore } from './explorer.ts'
import { record, workloads } from './qcow2.ts'

const folder = temporaryFolder()
afterAll(() => folder.remove())
const states = Number(process.env.BLOCK86_CRASH_STATES ?? 500)
/** Recordings in which a planted bug is looked for, with ever more states. */
const ROUNDS = 12
const seed = Number(process.env.BLOCK86_SEED ?? Date.now() % 2 ** 31)

test('the explorer takes the same choices for the same seed', async () => {
  const workload = workloads.find(({ name }) => name === 'copy-up over a backing file')!
  const first = await record(workload, seed)
  const second = await record(workload, seed)
  expect(second.recorder.changes).toEqual(first.recorder.changes)
  expect(second.recorder.flushes).toEqual(first.recorder.flushes)
})

describe('a power cut at any moment', () => {
  const qemuEvery = lacks('qemu-img') ? 0 : Math.ceil(states / 20)
  for (const workload of workloads) {
    test(`qcow2: ${workload.name}`, async () => {
      const recording = await record(workload, seed)
      const share = Math.ceil(states * (workload.part ?? 1))
      const found = await explore(recording, { states: share, seed, qemuEvery, file: folder.file('state.qcow2') })
      expect(found.failure).toBeUndefined()
      expect(found.states).toBeGreaterThan(share / 3)
    })
  }
})

describe('a barrier that is left out', () => {
  for (const [barrier, name] of [
    ['blocks', 'writes, zeroes and discards, small clusters'],
    ['table', 'the refcount table moves'],
    ['links', 'copy-up over a backing file'],
    ['commit', 'allocating and overwriting writes'],
    ['flush', 'overwriting writes'],
    ['links', 'lazy refcounts'],
    ['commit', 'lazy refcounts'],
    ['clean', 'lazy refcounts'],
    ['links', 'an external data file over a backing file'],
    ['flush', 'a raw external data file'],
    ['header', 'resize'],
    ['shadow', 'snapshots'],
  ] as const) {
    test(`qcow2: ${barrier}, ${name}`, async () => {
      const workload = workloads.find((each) => each.name === name)!
      let looked = 0
      // Whether a barrier is needed hangs on what the workload happens to do: others are recorded, rather than more states looked at.
      for (let round = 0; round < ROUNDS; round++) {
        const recording = await record(workload, seed + round, {
          barrier: (which, flush) => (which === barrier ? undefined : flush()),
        })
        const found = await explore(recording, { states: 500 * (1 + round), seed: seed + round })
        if (found.failure !== undefined) return
        looked += found.states
      }
      expect.fail(`not found in ${looked} states with BLOCK86_SEED=${seed}`)
    })
  }
})
