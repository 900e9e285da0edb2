/** aio=threads: Node's own thread pool. Works everywhere. */
import fs from 'node:fs'
import { BlockError } from '../../error.ts'
import type { IoVec } from '../../iovec.ts'
import type { Engine, Waiter } from './engine.ts'
import { nodeError } from './failure.ts'
import { atMost, IOV_MAX, rest } from './vector.ts'

type Transfer = (
  fd: number,
  views: readonly NodeJS.ArrayBufferView[],
  at: number,
  done: (error: NodeJS.ErrnoException | null, bytes: number) => void,
) => void

/** Moves all of `vector`, in as many calls as the kernel wants. Every call takes fresh views: memory may have moved. */
function transfer(call: Transfer, fd: number, at: number, vector: IoVec, doing: () => string, waiter: Waiter): void {
  let moved = 0
  const step = () => {
    try {
      call(fd, atMost(rest(vector, moved).views(), IOV_MAX), at + moved, (error, bytes) => {
        if (error) waiter.failed(nodeError(error, doing()))
        else if (bytes === 0) waiter.failed(new BlockError('EIO', `${doing()}: the file ends there`))
        else if ((moved += bytes) >= vector.byteLength) waiter.done()
        else step()
      })
    } catch (error) {
      waiter.failed(nodeError(error, doing()))
    }
  }
  step()
}

/** The thread pool's engine for the open file `fd`, called `name` in messages. */
export function threads(fd: number, name: string): Engine {
  return {
    name: 'threads',
    durableWrites: false,
    read: (at, into, waiter) =>
      transfer(fs.readv, fd, at, into, () => `Cannot read ${into.byteLength} bytes at ${at} of ${name}`, waiter),
    write: (at, from, _durable, waiter) =>
      transfer(fs.writev, fd, at, from, () => `Cannot write ${from.byteLength} bytes at ${at} of ${name}`, waiter),
    sync: () =>
      new Promise((resolve, reject) => {
        fs.fdatasync(fd, (error) => (error ? reject(nodeError(error, `Cannot flush ${name}`)) : resolve()))
      }),
  }
}
