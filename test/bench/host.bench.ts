/**
 * The host side by itself: `npm run bench -- host [--rounds=N] [--holds]`: what is in use, how long a request holds the event
 * loop (with `--holds` no more than that), raw images against QEMU.
 */
import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { asDevice } from '../../src/block/device.ts'
import { bytesVec } from '../../src/block/iovec.ts'
import { hostCapabilities } from '../../src/block/protocols/node/capabilities.ts'
import { host } from '../../src/block/protocols/node/index.ts'
import { lacks, temporaryFolder } from '../tools.ts'
import { allCells, Contest, tabulate } from './host/contest.ts'

/** Prints what the host does; exit status 0. */
export async function run(args: readonly string[]): Promise<number> {
  for (const { name, used, reason } of await hostCapabilities()) {
    console.log(`${name.padEnd(16)} ${used ? 'yes' : 'no '}  ${reason}`)
  }
  const folder = temporaryFolder()
  try {
    await holds(folder.file('holds.img'))
    if (args.includes('--holds')) return 0
    if (lacks('qemu-img')) return 1
    const rounds = Number(args.find((arg) => arg.startsWith('--rounds='))?.slice(9) ?? 3)
    const contest = new Contest(folder.path, path.resolve(process.cwd()))
    try {
      console.log()
      tabulate(contest, allCells(['raw']), rounds)
    } finally {
      contest.close()
    }
  } finally {
    folder.remove()
  }
  return 0
}

/** How long the call of one request holds the event loop, with the page cache warm and cold. */
async function holds(name: string): Promise<void> {
  const size = 256 << 20
  const bytes = Buffer.alloc(1 << 20, 3)
  const fd = fs.openSync(name, 'w')
  for (let at = 0; at < size; at += bytes.length) fs.writeSync(fd, bytes)
  fs.fsyncSync(fd)
  fs.closeSync(fd)
  const device = asDevice(await host.openFile(name))
  const memory = new WebAssembly.Memory({ initial: 16 })
  console.log('\none request holds the event loop, us      p50      p99      max')
  for (const kind of ['read', 'write'] as const) {
    for (const length of [4096, 65536, 1 << 20]) {
      for (const cold of kind === 'read' ? [false, true] : [false]) {
        const vector = bytesVec(new Uint8Array(memory.buffer, 0, length))
        const times: number[] = []
        const count = cold ? 100 : 200
        if (!cold) for (let i = 0; i < count; i++) await device[kind]((i * 2 ** 20) % size, vector)
        for (let i = 0; i < count; i++) {
          if (cold && i % 50 === 0) forget(name)
          const at = (i * 37 * 2 ** 20) % size
          const start = process.hrtime.bigint()
          const request = device[kind](at, vector)
          times.push(Number(process.hrtime.bigint() - start) / 1000)
          await request
          await new Promise((resolve) => setImmediate(resolve))
        }
        times.sort((a, b) => a - b)
        const column = (part: number) =>
          times[Math.min(Math.floor(times.length * part), times.length - 1)]!.toFixed(1).padStart(9)
        console.log(
          `${kind.padEnd(6)}${String(length >> 10).padStart(5)} KiB ${(cold ? 'not in the cache' : 'page cache').padEnd(20)} ${column(0.5)}${column(0.99)}${column(1)}`,
        )
      }
    }
  }
  await device.close()
}

/** Has the kernel drop the file's pages from its cache, as `dd` asks it to (posix_fadvise DONTNEED). */
function forget(name: string): void {
  execFileSync('dd', [`of=${name}`, 'oflag=nocache', 'conv=notrunc,fdatasync', 'count=0'], { stdio: 'ignore' })
}
