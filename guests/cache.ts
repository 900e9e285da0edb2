/** Where what was fetched and what was built is kept, and how a half-built thing is never taken for a whole one. */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readdir, rename, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { basename, dirname, join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

const LOCK_POLL_MS = 100
const UNFINISHED = '.unfinished'

/** The cache's folder, absolute: `BLOCK86_CACHE` if set, otherwise `.cache` beside the nearest `package.json`. */
export function cacheDirectory(): string {
  const chosen = process.env.BLOCK86_CACHE
  if (chosen) return resolve(chosen)
  let folder = dirname(fileURLToPath(import.meta.url))
  while (!existsSync(join(folder, 'package.json'))) {
    if (dirname(folder) === folder) return resolve('.cache')
    folder = dirname(folder)
  }
  return join(folder, '.cache')
}

/** A name for what the parts say, 16 hexadecimal digits: equal parts, equal name. */
export function fingerprint(...parts: readonly string[]): string {
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 16)
}

/**
 * Gives the folder `target`, calling `fill` with a fresh empty folder when it does not exist yet. It appears under its
 * name only when `fill` has ended well; what a killed process left unfinished beside it is removed.
 */
export async function folderOnce(target: string, fill: (folder: string) => Promise<void>): Promise<string> {
  if (existsSync(target)) return target
  const parent = dirname(target)
  return withLock(parent, async () => {
    if (existsSync(target)) return target
    await mkdir(parent, { recursive: true })
    for (const name of await readdir(parent)) {
      if (name.endsWith(UNFINISHED)) await rm(join(parent, name), { recursive: true, force: true })
    }
    const unfinished = target + UNFINISHED
    await mkdir(unfinished)
    await fill(unfinished)
    await rename(unfinished, target)
    return target
  })
}

/**
 * Runs `work` while no other process on this machine runs work under the same path. The lock is an abstract Unix
 * socket: the kernel takes it back from a process that dies, so none is ever stale.
 */
export async function withLock<T>(path: string, work: () => Promise<T>): Promise<T> {
  const server = createServer()
  const name = `\0block86-${basename(path)}-${fingerprint(resolve(path))}`
  while (!(await listens(name))) await sleep(LOCK_POLL_MS)
  try {
    return await work()
  } finally {
    await new Promise((done) => server.close(done))
  }

  function listens(address: string): Promise<boolean> {
    return new Promise((answer, fail) => {
      server.once('error', (error: NodeJS.ErrnoException) => {
        server.removeAllListeners()
        if (error.code === 'EADDRINUSE') answer(false)
        else fail(error)
      })
      server.listen(address, () => {
        server.removeAllListeners()
        answer(true)
      })
    })
  }
}
