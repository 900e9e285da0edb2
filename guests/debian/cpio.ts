/** A writer of cpio archives in the "newc" format, which the kernel unpacks as its first root. */

const MAGIC = '070701'
const TRAILER = 'TRAILER!!!'
const TYPE_DIRECTORY = 0o040000
const TYPE_CHARACTER = 0o020000
const TYPE_FILE = 0o100000
const TYPE_LINK = 0o120000

/** One thing in the archive; `path` is relative to the root and its folder must come before it. */
export type CpioEntry =
  | { readonly kind: 'folder'; readonly path: string }
  | { readonly kind: 'file'; readonly path: string; readonly data: Uint8Array | string; readonly executable?: boolean }
  | { readonly kind: 'link'; readonly path: string; readonly target: string }
  | { readonly kind: 'character'; readonly path: string; readonly major: number; readonly minor: number }

/** The archive of the entries, in their order, all owned by root and dated 0. */
export function cpio(entries: readonly CpioEntry[]): Buffer {
  const parts: Buffer[] = []
  for (const [index, entry] of entries.entries()) {
    const data =
      entry.kind === 'file' ? Buffer.from(entry.data) : Buffer.from(entry.kind === 'link' ? entry.target : '')
    const device = entry.kind === 'character' ? ([entry.major, entry.minor] as const) : ([0, 0] as const)
    parts.push(record(index + 1, entry.path, mode(entry), data, device))
  }
  parts.push(record(0, TRAILER, 0, Buffer.alloc(0), [0, 0]))
  return Buffer.concat(parts)
}

function mode(entry: CpioEntry): number {
  switch (entry.kind) {
    case 'folder':
      return TYPE_DIRECTORY | 0o755
    case 'file':
      return TYPE_FILE | (entry.executable ? 0o755 : 0o644)
    case 'link':
      return TYPE_LINK | 0o777
    case 'character':
      return TYPE_CHARACTER | 0o600
  }
}

function record(inode: number, path: string, mode: number, data: Buffer, device: readonly [number, number]): Buffer {
  const name = Buffer.from(`${path}\0`)
  // Fields: ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check.
  const fields = [inode, mode, 0, 0, 1, 0, data.length, 0, 0, device[0], device[1], name.length, 0]
  const header = Buffer.from(MAGIC + fields.map((field) => field.toString(16).padStart(8, '0')).join(''))
  return Buffer.concat([padded(Buffer.concat([header, name])), padded(data)])
}

function padded(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)])
}
