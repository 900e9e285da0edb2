/** What the host can do, and why not: the facts behind `block86 info --host`. */
import fs from 'node:fs'
import os from 'node:os'
import { messageOf } from '../../error.ts'
import { probeAlignment } from './direct.ts'
import { temporaryFile } from './files.ts'
import { libc, libcReason, RWF_NOWAIT } from './libc.ts'
import { mapped } from './mapped.ts'
import { ring, ringReason } from './ring.ts'
import { second } from './second.ts'
import { Addresses } from './vector.ts'

/** One thing that the host has or lacks, and a sentence about it. */
export interface Capability {
  readonly name: string
  readonly used: boolean
  readonly reason: string
}

/** What is in use on this host for files in `folder` (default: for temporary files), and why. */
export async function hostCapabilities(folder: string = os.tmpdir()): Promise<readonly Capability[]> {
  const calls = libc()
  return [
    { name: 'system calls', used: calls !== undefined, reason: libcReason() },
    { name: 'io_uring', used: ring() !== undefined, reason: ringReason() },
    {
      name: 'threads',
      used: ring() === undefined,
      reason: `${process.env.UV_THREADPOOL_SIZE ?? 4} threads of Node, for aio=threads and where io_uring is not used`,
    },
    largePages(calls !== undefined),
    ...(await onFile(folder)),
  ]
}

function largePages(canAsk: boolean): Capability {
  const name = 'large pages'
  if (!canAsk) return { name, used: false, reason: 'they are asked for by a system call' }
  try {
    const used = !fs.readFileSync('/sys/kernel/mm/transparent_hugepage/enabled', 'latin1').includes('[never]')
    return { name, used, reason: used ? 'asked for under memory of 4 MiB and more' : 'the host gives none to anybody' }
  } catch {
    return { name, used: false, reason: 'the kernel does not have them' }
  }
}

async function onFile(folder: string): Promise<Capability[]> {
  const calls = libc()
  const found: Capability[] = []
  const add = (name: string, result: number, good: string, bad = 'the file system refuses it') =>
    found.push({ name, used: result >= 0, reason: result >= 0 ? good : bad })
  let driver: Awaited<ReturnType<typeof temporaryFile>>
  try {
    driver = await temporaryFile(folder)
  } catch (error) {
    return [{ name: 'files', used: false, reason: messageOf(error) }]
  }
  try {
    const { fd } = driver.parts
    fs.writeSync(fd, new Uint8Array(65536), 0, 65536, 0)
    if (calls !== undefined) {
      const iov = new Uint32Array(4)
      const bytes = new Uint8Array(4096)
      const address = calls.address(bytes.buffer)
      iov.set([address, address / 2 ** 32, bytes.length, 0])
      add('immediate reads', calls.preadv2(fd, iov, 1, 0, RWF_NOWAIT), 'preadv2 with RWF_NOWAIT')
      const map = mapped(calls, new Addresses(calls), fd, 65536)
      const by = second(calls) === undefined ? '' : ', by two threads where that is quicker'
      add('mapped reads', map === undefined ? -1 : 0, `long ones are copied from a mapping of the file${by}`)
      add('zero ranges', await calls.fallocate(fd, 16 | 1, 0, 4096), 'fallocate ZERO_RANGE', 'zeroes are written')
      add('holes', await calls.fallocate(fd, 2 | 1, 4096, 4096), 'fallocate PUNCH_HOLE', 'discards have no effect')
      add('maps of holes', await calls.seek(fd, 0, 4), 'lseek SEEK_HOLE and SEEK_DATA', 'everything counts as data')
    }
    found.push(await bypass(fd))
  } finally {
    await driver.close()
  }
  return found
}

async function bypass(fd: number): Promise<Capability> {
  const name = 'O_DIRECT'
  try {
    const direct = fs.openSync(`/proc/self/fd/${fd}`, fs.constants.O_RDONLY | fs.constants.O_DIRECT)
    try {
      const { request, memory } = await probeAlignment(direct, 65536, 'a temporary file')
      return { name, used: true, reason: `requests aligned to ${request} bytes, memory to ${memory}` }
    } finally {
      fs.closeSync(direct)
    }
  } catch (error) {
    return { name, used: false, reason: messageOf(error) }
  }
}
