/**
 * The host side by itself: `npm run bench -- host [--quick] [--rounds=N] [--holds]`: what is in use, how long a request holds the
 * event loop and what is copied (with `--holds` no more than that), raw images against QEMU.
 */
import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { asDevice } from '../../src/block/device.ts'
import { bytesVec } from '../../src/block/iovec.ts'
import { openImage } from '../../src/block/open.ts'
import { hostCapabilities } from '../../src/block/protocols/node/capabilities.ts'
import { host } from '../../src/block/protocols/node/index.ts'
import { type Libc, libc } from '../../src/block/protocols/node/libc.ts'
import { type Operation, Ring, ring } from '../../src/block/protocols/node/ring.ts'
import { kick } from '../../src/block/turn.ts'
import { lacks, temporaryFolder } from '../tools.ts'
import { allCells, Contest, FULL, fewCells, QUICK, tabulate } from './host/contest.ts'

/** Prints what the host does; exit status 0. */
export async function run(args: readonly string[]): Promise<number> {
  for (const { name, used, reason } of await hostCapabilities()) {
    console.log(`${name.padEnd(16)} ${used ? 'yes' : 'no '}  ${reason}`)
  }
  const folder = temporaryFolder()
  try {
    await holds(folder.file('holds.img'))
    await copies(folder.file('holds.img'))
    if (args.includes('--holds')) return 0
    if (lacks('qemu-img')) return 1
    const rounds = args.find((arg) => arg.startsWith('--rounds='))?.slice(9)
    const effort = { ...(args.includes('--quick') ? QUICK : FULL), ...(rounds ? { rounds: Number(rounds) } : {}) }
    const contest = new Contest(folder.path, path.resolve(process.cwd()))
    try {
      console.log()
      await tabulate(contest, args.includes('--quick') ? fewCells(['raw']) : allCells(['raw']), effort)
    } finally {
      contest.close()
    }
  } finally {
    folder.remove()
  }
  return 0
}

/**
 * How long one request holds the event loop, with the page cache warm and cold: its call, with what hands it in. Where the kernel
 * took the CPU away meanwhile it was another program's time, and the request does not count.
 */
async function holds(name: string): Promise<void> {
  const size = 256 << 20
  const bytes = Buffer.alloc(1 << 20, 3)
  const fd = fs.openSync(name, 'w')
  for (let at = 0; at < size; at += bytes.length) fs.writeSync(fd, bytes)
  fs.fsyncSync(fd)
  fs.closeSync(fd)
  // An emulator's memory, of which the vector is a part in its middle.
  const memory = new WebAssembly.Memory({ initial: 128 })
  host.preferLargePages?.(memory.buffer)
  console.log('\none request holds the event loop, us      p50      p99      max   (target)')
  for (const cache of ['writeback', 'none'] as const) {
    // A write past pages that wait to be written waits for them.
    if (cache === 'none') execFileSync('sync', [name])
    const device = asDevice(await host.openFile(name, { direct: cache === 'none' }))
    for (const kind of ['read', 'write'] as const) {
      for (const length of [4096, 65536, 1 << 20]) {
        for (const cold of cache === 'writeback' && kind === 'read' ? [false, true] : [cache === 'none']) {
          const vector = bytesVec(new Uint8Array(memory.buffer, 2 << 20, length))
          const times: number[] = []
          let lost = 0
          const request = async (i: number) => {
            if (cold && cache === 'writeback' && i % 50 === 0) forget(name)
            const before = libc()?.preemptions()
            const start = process.hrtime.bigint()
            const later = device[kind]((i * 37 * 2 ** 20) % size, vector)
            kick()
            const took = Number(process.hrtime.bigint() - start) / 1000
            if (before === libc()?.preemptions()) times.push(took)
            else lost++
            await later
            await new Promise((resolve) => setImmediate(resolve))
          }
          for (let i = 0; i < 200; i++) await request(i)
          times.length = lost = 0
          for (let i = 0; i < 300; i++) await request(i)
          times.sort((a, b) => a - b)
          const column = (part: number) =>
            times[Math.min(Math.floor(times.length * part), times.length - 1)]!.toFixed(1).padStart(9)
          const what = cache === 'none' ? 'past the page cache' : cold ? 'not in the cache' : 'page cache'
          console.log(
            `${kind.padEnd(6)}${String(length >> 10).padStart(5)} KiB ${what.padEnd(20)} ${column(0.5)}${column(0.99)}${column(1)}` +
              `   (${cold ? 200 : 1000})${lost > 0 ? `  ${lost} left out` : ''}`,
          )
        }
      }
    }
    await device.close()
  }
}

/** Shows by which addresses and with how many bytes copied here aligned raw requests reach the kernel. */
async function copies(name: string): Promise<void> {
  const calls = libc()
  if (calls === undefined) return
  const memory = new WebAssembly.Memory({ initial: 64 })
  const base = calls.address(memory.buffer)
  const counted = countCopies()
  console.log('\nbytes copied on the way of an aligned raw request')
  for (const cache of ['writeback', 'none'] as const) {
    const device = await openImage(name, { format: 'raw', cache, gate: 'any' })
    for (const kind of ['read', 'write'] as const) {
      for (const length of [4096, 1 << 20]) {
        const pieces = Array.from(
          { length: Math.max(1, length >> 16) },
          (_, i) => new Uint8Array(memory.buffer, 65536 + i * 131072, Math.min(length, 65536)),
        )
        const seen = watchAddresses(calls, ring())
        const before = counted.bytes
        await device[kind](1 << 20, bytesVec(...pieces))
        const inside = [...new Set(seen.end())].filter(
          (address) => address >= base && address < base + memory.buffer.byteLength,
        )
        console.log(
          `${kind.padEnd(6)}${String(length >> 10).padStart(5)} KiB in ${String(pieces.length).padStart(2)} pieces, cache=${cache.padEnd(10)} ` +
            `${counted.bytes - before} bytes; ${inside.length} of ${pieces.length} addresses of guest memory went to the kernel`,
        )
      }
    }
    await device.close()
  }
  counted.end()
}

/** Counts what any typed array copies, from now on. */
function countCopies(): { readonly bytes: number; end(): void } {
  const proto = Object.getPrototypeOf(Uint8Array.prototype)
  const { set, slice, copyWithin } = proto
  const counter = {
    bytes: 0,
    end: () => void Object.assign(proto, { set, slice, copyWithin }),
  }
  proto.set = function (this: Uint8Array, from: ArrayLike<number>, at?: number) {
    counter.bytes += from.length
    return set.call(this, from, at)
  }
  proto.slice = function (this: Uint8Array, ...range: number[]) {
    const copy = slice.apply(this, range)
    counter.bytes += copy.length
    return copy
  }
  proto.copyWithin = function (this: Uint8Array, ...range: number[]) {
    counter.bytes += this.length
    return copyWithin.apply(this, range)
  }
  return counter
}

/** Listens to what the vectored calls and the ring are given as memory. */
function watchAddresses(calls: Libc, uring: Ring | undefined): { end(): number[] } {
  const seen: number[] = []
  const { preadv2, pwritev2 } = calls
  const listen =
    (call: Libc['preadv2']): Libc['preadv2'] =>
    (fd, iov, count, at, flags) => {
      for (let i = 0; i < count; i++) seen.push(iov[i * 4]! + iov[i * 4 + 1]! * 2 ** 32)
      return call(fd, iov, count, at, flags)
    }
  calls.preadv2 = listen(preadv2)
  calls.pwritev2 = listen(pwritev2)
  if (uring !== undefined) {
    uring.add = (operation) => {
      const { fill } = operation
      Ring.prototype.add.call(uring, {
        ...describe(operation),
        done: (result) => operation.done(result),
        prepare: () => true,
        fill: (iov) => fill?.call(operation, iov),
      })
      function describe(one: Operation) {
        one.prepare?.()
        const { opcode, fd, at, address, length, flags, slow, pieces } = one
        if (pieces === 0) seen.push(address)
        else {
          const iov = new Uint32Array(4 * pieces)
          fill!.call(one, iov)
          for (let i = 0; i < pieces; i++) seen.push(iov[i * 4]! + iov[i * 4 + 1]! * 2 ** 32)
        }
        return { opcode, fd, at, address, length, flags, pieces, ...(slow === undefined ? {} : { slow }) }
      }
    }
  }
  return {
    end() {
      Object.assign(calls, { preadv2, pwritev2 })
      if (uring !== undefined) Reflect.deleteProperty(uring, 'add')
      return seen
    },
  }
}

/** Has the kernel drop the file's pages from its cache, as `dd` asks it to (posix_fadvise DONTNEED). */
function forget(name: string): void {
  execFileSync('dd', [`of=${name}`, 'oflag=nocache', 'conv=notrunc,fdatasync', 'count=0'], { stdio: 'ignore' })
}
