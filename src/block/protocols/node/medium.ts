/** What lies under an open descriptor: a regular file or a block device, and its measures. */
import type fs from 'node:fs'
import { BlockError } from '../../error.ts'
import type { Libc } from './libc.ts'
import { deviceSpace, fileSpace, type Space } from './space.ts'

export interface Medium {
  readonly kind: 'file' | 'host_device'
  /** Bytes. */
  readonly size: number
  /** Sector that the guest should see, bytes; of a file unknown. */
  readonly logicalBlockSize?: number
  readonly physicalBlockSize?: number
  readonly readOnly: boolean
  readonly space: Space | undefined
}

// linux/fs.h
const BLKROGET = 0x125e
const BLKSSZGET = 0x1268
const BLKPBSZGET = 0x127b
const BLKGETSIZE64 = 0x80081272

/** Asks a device for a number of four bytes. */
function ask(libc: Libc, fd: number, request: number): number | undefined {
  const answer = new Uint32Array(2)
  return libc.ioctl(fd, request, new Uint8Array(answer.buffer)) < 0 ? undefined : answer[0]
}

function deviceSize(libc: Libc, fd: number, name: string): number {
  const answer = new BigUint64Array(1)
  if (libc.ioctl(fd, BLKGETSIZE64, new Uint8Array(answer.buffer)) < 0) {
    throw new BlockError('EIO', `Cannot open ${name}: the device does not tell its size`)
  }
  return Number(answer[0])
}

/** Measures what `fd` is; `libc` is needed for block devices, and for a file's {@link Medium.space}. */
export function measure(libc: Libc | undefined, fd: number, stat: fs.Stats, name: string): Medium {
  if (stat.isFile()) {
    return {
      kind: 'file',
      size: stat.size,
      readOnly: false,
      space: libc && fileSpace(libc, fd, name, Math.max(stat.blksize, 512)),
    }
  }
  if (libc === undefined) {
    throw new BlockError('ENOTSUP', `Cannot open ${name}: block devices need the package 'koffi'; install it`)
  }
  const logical = ask(libc, fd, BLKSSZGET) ?? 512
  return {
    kind: 'host_device',
    size: deviceSize(libc, fd, name),
    logicalBlockSize: logical,
    physicalBlockSize: ask(libc, fd, BLKPBSZGET) ?? logical,
    readOnly: (ask(libc, fd, BLKROGET) ?? 0) !== 0,
    space: deviceSpace(libc, fd, name, logical),
  }
}
