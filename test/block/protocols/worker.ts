/** What runs in the threads of worker.test.ts. */
import { parentPort, workerData } from 'node:worker_threads'
import { bytesVec } from '../../../src/block/iovec.ts'
import { openDisk } from '../../../src/block/open.ts'

const { file, lasting } = workerData as { file: string; lasting: boolean }
const PIECE = 64 << 10
const PIECES = 32
const disk = await openDisk(file, { format: 'raw', discard: 'unmap' })

async function lap(turn: number): Promise<void> {
  await Promise.all(
    Array.from({ length: PIECES }, async (_, i) => {
      const bytes = new Uint8Array(PIECE).fill(turn + i)
      await disk.write(i * PIECE, bytesVec(bytes))
      const back = new Uint8Array(PIECE)
      await disk.read(i * PIECE, bytesVec(back))
      if (Buffer.compare(back, bytes) !== 0) throw new Error(`piece ${i} is not what was written`)
    }),
  )
  await disk.flush()
  await disk.discard(0, PIECE)
}

for (let turn = 0; turn < 10; turn++) await lap(turn)
if (lasting) {
  setTimeout(() => parentPort!.postMessage('in flight'), 20)
  for (;;) await lap(1)
}
await disk.close()
