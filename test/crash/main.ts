/** What `npm run crash` runs: every workload, with as many crash states as are wanted. */
import { parseArgs } from 'node:util'
import { lacks, temporaryFolder } from '../tools.ts'
import { explore } from './explorer.ts'
import { record, workloads } from './qcow2.ts'
import { qedWorkloads, recordQed } from './qed.ts'

/** Runs the explorer; gives the exit status. */
export async function run(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      states: { type: 'string' },
      seed: { type: 'string' },
      rounds: { type: 'string' },
      only: { type: 'string' },
    },
  })
  const states = Number(values.states ?? 10_000)
  const first = Number(values.seed ?? Date.now() % 2 ** 31)
  const rounds = Number(values.rounds ?? 1)
  const folder = temporaryFolder()
  const qemuEvery = lacks('qemu-img') ? 0 : Math.max(20, Math.ceil(states / 100))
  let failed = 0
  const runs = [
    ...workloads.map((workload) => ({
      name: `qcow2: ${workload.name}`,
      part: workload.part ?? 1,
      run: (seed: number) => record(workload, seed),
    })),
    ...qedWorkloads.map((workload) => ({
      name: `${workload.format}${workload.backed ? ' over a backing file' : ''}`,
      part: 1,
      run: (seed: number) => recordQed(workload, seed),
    })),
  ].filter(({ name }) => values.only === undefined || name.includes(values.only))
  const total = { states: 0, qemu: 0 }
  try {
    for (let seed = first; seed < first + rounds; seed++) {
      console.log(`seed ${seed}, about ${states} states each`)
      for (const { name, part, run } of runs) {
        const found = await explore(await run(seed), {
          states: Math.ceil(states * part),
          seed,
          qemuEvery,
          file: folder.file('state'),
        })
        total.states += found.states
        total.qemu += found.qemu
        const verdict = found.failure === undefined ? 'good' : 'BAD '
        console.log(`${verdict}  ${name}: ${found.states} states, ${found.qemu} by qemu-img`)
        if (found.failure === undefined) continue
        console.log(found.failure)
        failed++
      }
    }
  } finally {
    folder.remove()
  }
  console.log(`${total.states} states, ${total.qemu} by qemu-img; ${failed} failures`)
  return failed === 0 ? 0 : 1
}
