/** Space on the medium claimed before much is written into it. */
import fs from 'node:fs'
import type { Engine } from './engine.ts'
import type { Libc } from './libc.ts'
import { FALLOC_FL_KEEP_SIZE } from './space.ts'

/** Shortest write that space is claimed for, bytes: a call more is nothing beside it. */
export const CLAIM_MIN = 1 << 20

// statfs(2)
const EXT4_SUPER_MAGIC = 0xef53

/** Whether long writes to the regular file `fd` end sooner where their space is claimed first. */
export function paysToClaim(fd: number): boolean {
  try {
    return fs.statfsSync(`/proc/self/fd/${fd}`).type === EXT4_SUPER_MAGIC
  } catch {
    return false
  }
}

/**
 * An engine that claims space for long writes before they begin. ext4 reserves what it will place later block by block, but finds
 * space that a file has at once: writing 2 GiB took a fifth less. The claim waits for writes that are under way, some milliseconds
 * of this thread's time; handed to another thread, it cost what it saved. One that fails is not looked at: the write meets what is
 * in its way.
 */
export function claiming(engine: Engine, calls: Pick<Libc, 'fallocateNow'>, fd: number): Engine {
  return {
    ...engine,
    write(at, from, durable, waiter, lone) {
      const { byteLength } = from
      if (byteLength >= CLAIM_MIN) calls.fallocateNow(fd, FALLOC_FL_KEEP_SIZE, at, byteLength)
      engine.write(at, from, durable, waiter, lone)
    },
  }
}
