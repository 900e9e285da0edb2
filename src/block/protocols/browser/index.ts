/** What a browser offers; `#host` there. Disks come as Blob or File, or by URL; there are no files by name. */
import { BlockError } from '../../error.ts'
import type { Host } from '../../protocol.ts'
import { Memory } from '../memory.ts'

const noFiles = (name: string) =>
  Promise.reject(
    new BlockError('ENOTSUP', `Cannot open ${name}: a web page has no files by name; pass a Blob, or a URL`),
  )

export const host: Host = {
  protocols: [],
  openFile: noFiles,
  createFile: noFiles,
  cloneFile: () => Promise.resolve(false),
  temporaryFile: () => Promise.resolve(new Memory(0)),
  resolveName(name, base) {
    try {
      return base === undefined ? name : new URL(name, base).href
    } catch {
      return name
    }
  },
  isBelow: (name, base) =>
    Promise.resolve(/^[a-z][a-z0-9+.-]*:/i.test(base) && name.startsWith(new URL('.', base).href)),
}
