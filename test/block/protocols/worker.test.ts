/** Disks in a worker thread, which may be ended at any time. */
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { afterAll, beforeAll, expect, test } from 'vitest'

const { bundle } = await import('../../../scripts/bundle.mjs' as string)
const THREADS = 3
let folder: string
let program: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'block86-worker-'))
  program = await bundle('test/block/protocols/worker.ts')
})
afterAll(async () => {
  await rm(folder, { recursive: true, force: true })
  await rm(program, { force: true })
})

async function start(name: string, lasting: boolean): Promise<Worker> {
  const file = join(folder, name)
  await writeFile(file, '')
  await truncate(file, 4 << 20)
  return new Worker(program, { workerData: { file, lasting } })
}

test('each of several threads has its own disks, and ends well', async () => {
  const codes = await Promise.all(
    Array.from({ length: THREADS }, async (_, i) => {
      const worker = await start(`own-${i}`, false)
      return new Promise((resolve, reject) => worker.once('error', reject).once('exit', resolve))
    }),
  )
  expect(codes).toEqual(Array(THREADS).fill(0))
})

test('a thread that is terminated with requests in flight takes nothing else down', async () => {
  for (let i = 0; i < THREADS; i++) {
    const worker = await start(`lasting-${i}`, true)
    await new Promise((resolve, reject) => worker.once('error', reject).once('message', resolve))
    await worker.terminate()
  }
})
