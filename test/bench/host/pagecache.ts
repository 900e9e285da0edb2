/** The host's page cache, brought into the same state before each run: else runs measure what was before them. */
import { execFileSync } from 'node:child_process'
import { readFileSync, rmSync } from 'node:fs'

/**
 * Reads the file into the page cache anew. How the cache holds what was written (in pages or in large folios) depends on the
 * writes' sizes, and so does the speed of reading it; what was read ahead is held alike for all formats.
 */
export function cacheAnew(place: string): void {
  execFileSync('dd', [`of=${place}`, 'oflag=nocache', 'conv=notrunc,fdatasync', 'count=0'], { stdio: 'ignore' })
  readFileSync(place)
}

/**
 * Waits for what runs before have left to be written, then uses and gives back `bytes` of memory beside `place`: a virtual machine's
 * free memory may be its host's again, and who takes it first waits for it.
 */
export function calm(place: string, bytes: number): void {
  execFileSync('sync')
  const beside = `${place}.calm`
  execFileSync('dd', ['if=/dev/zero', `of=${beside}`, 'bs=1M', `count=${Math.ceil(bytes / 2 ** 20)}`], {
    stdio: 'ignore',
  })
  rmSync(beside)
}
