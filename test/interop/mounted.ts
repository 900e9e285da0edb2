/** A file system of its own, in a file, for tests of what only some of them do. */
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import type { temporaryFolder } from '../tools.ts'

/**
 * Makes a file system of `size` bytes by `command`, and mounts it; undefined where that cannot be: only the superuser mounts, and not
 * in every container.
 */
export function mounted(folder: ReturnType<typeof temporaryFolder>, size: number, ...command: [string, ...string[]]) {
  if (process.getuid?.() !== 0) return undefined
  const place = folder.file('mounted')
  const disk = folder.file('disk')
  fs.mkdirSync(place)
  fs.writeFileSync(disk, '')
  fs.truncateSync(disk, size)
  const [program, ...args] = command
  if (spawnSync(program, [...args, disk]).status !== 0) return undefined
  return spawnSync('mount', ['-o', 'loop', disk, place]).status === 0 ? place : undefined
}
