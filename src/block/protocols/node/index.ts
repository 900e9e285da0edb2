/** What Node's host offers; `#host` outside browsers. */
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import type { Host } from '../../protocol.ts'
import { cloneFile, createFile, openFile, temporaryFile } from './files.ts'
import { libc } from './libc.ts'
import { nbd } from './nbd.ts'
import { preferLargePages } from './vector.ts'

export const host: Host = {
  protocols: [nbd],
  openFile,
  createFile,
  cloneFile,
  temporaryFile: () => temporaryFile(process.env.TMPDIR ?? os.tmpdir()),
  preferLargePages(memory) {
    const calls = libc()
    if (calls !== undefined) preferLargePages(calls, memory)
  },
  resolveName: (name, base) => path.resolve(base === undefined ? '.' : path.dirname(base), name),
  async isBelow(name, base) {
    const real = async (place: string) => {
      try {
        return await fs.promises.realpath(place)
      } catch {
        return path.resolve(place)
      }
    }
    const [folder, target] = await Promise.all([real(path.dirname(path.resolve(base))), real(name)])
    return target.startsWith(folder.endsWith(path.sep) ? folder : folder + path.sep)
  },
}
