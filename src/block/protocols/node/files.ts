/** Opening and making files. */
import { randomUUID } from 'node:crypto'
import fs from 'node:fs'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import type { BlockDriver } from '../../device.ts'
import { BlockError } from '../../error.ts'
import type { FileOptions, Preallocation } from '../../protocol.ts'
import { batched } from './batch.ts'
import { claiming, paysToClaim } from './claim.ts'
import { type Alignment, direct, probeAlignment } from './direct.ts'
import type { Engine } from './engine.ts'
import { EOPNOTSUPP, hostError, nodeError } from './failure.ts'
import { FileDriver, READ_MAX, type Tail } from './file.ts'
import { Lent } from './lent.ts'
import { libc } from './libc.ts'
import { lockImage, refuseIfUsed } from './lock.ts'
import { mapped } from './mapped.ts'
import { measure } from './medium.ts'
import { ring, ringReason } from './ring.ts'
import { spread } from './spread.ts'
import { threads } from './threads.ts'
import { uring } from './uring.ts'
import { Addresses } from './vector.ts'

const { O_CREAT, O_DIRECT, O_EXCL, O_RDONLY, O_RDWR } = fs.constants

const openLater = promisify(fs.open)
const statLater = promisify(fs.fstat)
const closeLater = promisify(fs.close)
const truncateLater = promisify(fs.ftruncate)
const syncLater = promisify(fs.fsync)

/** Opens the file or block device at `path`. */
export async function openFile(path: string, options: FileOptions = {}): Promise<BlockDriver> {
  const readOnly = options.readOnly ?? false
  if (options.direct && O_DIRECT === undefined) {
    throw new BlockError(
      'ENOTSUP',
      `Cannot open ${path} past the page cache: this system has no O_DIRECT; use cache=writeback`,
    )
  }
  const fd = await openPlace(path, readOnly, options.direct ?? false)
  try {
    const stat = await statLater(fd)
    const locking = options.locking ?? 'auto'
    if (locking !== 'off') {
      const calls = libc()
      const locked = calls !== undefined && lockImage(calls, fd, path, readOnly)
      if (!locked && locking === 'on') {
        throw new BlockError('ENOTSUP', `Cannot lock ${path}: there are no locks here; open it with locking: 'off'`)
      }
    }
    return await driver(path, fd, stat, options)
  } catch (error) {
    await closeLater(fd)
    throw error
  }
}

/** Makes `path` a file of `size` zero bytes, unless someone uses it; what is there is emptied. The result is durable. */
export async function createFile(path: string, size: number, preallocation: Preallocation = 'off'): Promise<void> {
  let fd: number
  try {
    fd = await openLater(path, O_RDWR | O_CREAT, 0o666)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      throw new BlockError('ENOENT', `Cannot create ${path}: its folder does not exist; make it first`)
    }
    throw nodeError(error, `Cannot create ${path}`)
  }
  try {
    if (!(await statLater(fd)).isFile())
      throw new BlockError('EINVAL', `Cannot create ${path}: what is there is no file`)
    const calls = libc()
    if (calls !== undefined) refuseIfUsed(calls, fd, path)
    await truncateLater(fd, 0)
    await truncateLater(fd, size)
    await preallocate(fd, path, size, preallocation)
    await syncLater(fd)
  } catch (error) {
    throw nodeError(error, `Cannot create ${path} of ${size} bytes`)
  } finally {
    await closeLater(fd)
  }
  await syncFolder(path)
}

/** Makes `to` a copy of `from` that shares its space; false, with nothing made, where the file system cannot. */
export async function cloneFile(from: string, to: string): Promise<boolean> {
  const { COPYFILE_EXCL, COPYFILE_FICLONE_FORCE } = fs.constants
  try {
    await promisify(fs.copyFile)(from, to, COPYFILE_EXCL | COPYFILE_FICLONE_FORCE)
    await syncFolder(to)
    return true
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? ''
    if (['ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EXDEV', 'EINVAL', 'ENOTTY'].includes(code)) return false
    throw nodeError(error, `Cannot clone ${from} to ${to}`)
  }
}

/** A writable file of no size in `folder` that has no name any more. */
export async function temporaryFile(folder: string): Promise<FileDriver> {
  const path = join(folder, `block86-${process.pid}-${randomUUID()}.tmp`)
  let fd: number
  try {
    fd = await openLater(path, O_RDWR | O_CREAT | O_EXCL, 0o600)
  } catch (error) {
    throw nodeError(error, `Cannot make a temporary file in ${folder}`)
  }
  await promisify(fs.unlink)(path)
  return driver(path, fd, await statLater(fd), {})
}

/** Gives bytes of an open file their space on the medium before they are used. */
export async function preallocate(fd: number, path: string, size: number, how: Preallocation): Promise<void> {
  if (how === 'off' || size === 0) return
  if (how === 'falloc') {
    const result = (await libc()?.fallocate(fd, 0, 0, size)) ?? -EOPNOTSUPP
    if (result < 0) throw hostError(-result, `Cannot preallocate ${size} bytes for ${path}`)
    return
  }
  const zeroes = new Uint8Array(Math.min(size, 1 << 20))
  const write = promisify(fs.write)
  for (let at = 0; at < size; ) {
    at += (await write(fd, zeroes, 0, Math.min(zeroes.length, size - at), at)).bytesWritten
  }
}

/** The descriptor of the place, or one sentence that says what is wrong with it. */
async function openPlace(path: string, readOnly: boolean, bypass: boolean): Promise<number> {
  try {
    const kind = await promisify(fs.stat)(path)
    if (kind.isDirectory()) throw new BlockError('EISDIR', `Cannot open ${path}: it is a directory; name a file in it`)
    if (!kind.isFile() && !kind.isBlockDevice()) {
      throw new BlockError('EINVAL', `Cannot open ${path}: it is neither a file nor a block device`)
    }
    return await openLater(path, (readOnly ? O_RDONLY : O_RDWR) | (bypass ? O_DIRECT : 0))
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code === 'ENOENT') throw new BlockError('ENOENT', `Cannot open ${path}: there is no such file; check the name`)
    if (!readOnly && (code === 'EACCES' || code === 'EPERM' || code === 'EROFS')) {
      throw new BlockError(
        code,
        `Cannot open ${path} for writing: it is read-only here; open it with readOnly: true (readonly=on), or change its permissions`,
      )
    }
    if (bypass && code === 'EINVAL' && !(error instanceof BlockError)) {
      throw new BlockError(
        'EINVAL',
        `Cannot open ${path} past the page cache: its file system has no O_DIRECT; use cache=writeback or writethrough`,
      )
    }
    throw nodeError(error, `Cannot open ${path}`)
  }
}

/** Puts together the driver of an open file. */
async function driver(path: string, fd: number, stat: fs.Stats, options: FileOptions): Promise<FileDriver> {
  const calls = libc()
  const medium = measure(calls, fd, stat, path)
  const readOnly = options.readOnly ?? false
  if (medium.readOnly && !readOnly) {
    throw new BlockError(
      'EROFS',
      `Cannot open ${path} for writing: the device is read-only; open it with readOnly: true (readonly=on)`,
    )
  }
  const addresses = calls && new Addresses(calls)
  let engine = engineFor(fd, path, options, addresses)
  let align = medium.logicalBlockSize ?? 1
  if (options.direct) {
    const alignment: Alignment = await probeAlignment(fd, medium.size, path)
    engine = batched(direct(engine, alignment, addresses))
    align = Math.max(align, alignment.request)
  } else if (options.immediate === false && calls !== undefined && !readOnly && medium.kind === 'file') {
    if (paysToClaim(fd)) engine = claiming(engine, calls, fd)
  }
  const immediate =
    calls !== undefined && addresses !== undefined && !options.direct && (options.immediate ?? true)
      ? { libc: calls, addresses }
      : undefined
  return new FileDriver({
    path,
    fd,
    medium,
    readOnly,
    engine,
    align,
    immediate,
    mapped:
      immediate === undefined || medium.kind !== 'file'
        ? undefined
        : mapped(immediate.libc, immediate.addresses, fd, medium.size),
    lent:
      calls === undefined || !readOnly || options.direct || medium.kind !== 'file'
        ? undefined
        : new Lent(calls, fd, medium.size),
    libc: calls,
    readMax: options.readMax ?? READ_MAX,
    tail: tailOf(path, fd, readOnly),
  })
}

/** The engine that the options name, or the best that works. */
function engineFor(fd: number, path: string, options: FileOptions, addresses: Addresses | undefined): Engine {
  const shared = options.aio === 'threads' ? undefined : ring()
  if (shared !== undefined && addresses !== undefined) {
    const engine = uring(shared, addresses, fd, path, !options.direct)
    return options.direct && options.aio === undefined ? spread(engine, threads(fd, path)) : engine
  }
  if (options.aio === 'io_uring')
    throw new BlockError('ENOTSUP', `Cannot open ${path} with aio=io_uring: ${ringReason()}`)
  return threads(fd, path)
}

function tailOf(path: string, fd: number, readOnly: boolean): Tail {
  let opened: { fd: number; engine: Engine } | undefined
  return {
    engine() {
      if (opened === undefined) {
        const second = fs.openSync(`/proc/self/fd/${fd}`, readOnly ? O_RDONLY : O_RDWR)
        opened = { fd: second, engine: threads(second, path) }
      }
      return opened.engine
    },
    async close() {
      if (opened !== undefined) await closeLater(opened.fd)
    },
  }
}

/** Makes the name of a new file durable. Where a folder cannot be synced, the name is as durable as the platform makes it. */
async function syncFolder(path: string): Promise<void> {
  try {
    const fd = await openLater(dirname(path), O_RDONLY)
    try {
      await syncLater(fd)
    } finally {
      await closeLater(fd)
    }
  } catch {}
}
