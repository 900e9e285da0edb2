/** QED and qcow after power cuts. */
import { afterAll, describe, expect, test } from 'vitest'
import { lacks, temporaryFolder } from '../tools.ts'
import { explore } from './explorer.ts'
import { qedWorkloads, recordQed } from './qed.ts'

const folder = temporaryFolder()
afterAll(() => folder.remove())
const states = Number(process.env.BLOCK86_CRASH_STATES ?? 500)
const seed = Number(process.env.BLOCK86_SEED ?? Date.now() % 2 ** 31)

describe('a power cut at any moment', () => {
  const qemuEvery = lacks('qemu-img') ? 0 : Math.ceil(states / 20)
  for (const workload of qedWorkloads) {
    test(`${workload.format}${workload.backed ? ' over a backing file' : ''}`, async () => {
      const recording = await recordQed(workload, seed)
      const found = await explore(recording, { states, seed, qemuEvery, file: folder.file('state') })
      expect(found.failure).toBeUndefined()
    })
  }
})

describe('a barrier that is left out', () => {
  // A commit with new links flushes twice: before its tables and after them.
  for (const odd of [0, 1]) {
    test(`qed: every ${odd === 0 ? 'first' : 'second'} flush`, async () => {
      const recording = await recordQed(qedWorkloads[1], seed, (count) => count % 2 === odd)
      const found = await explore(recording, { states: 20_000, seed })
      expect(found.failure, `not found in ${found.states} states with BLOCK86_SEED=${seed}`).toBeDefined()
    })
  }
})
