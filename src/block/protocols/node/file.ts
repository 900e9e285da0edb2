/** Files and host block devices. */
import { randomUUID } from 'node:crypto'
import fs from 'node:fs'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import type { BlockDriver, WriteOptions } from '../../device.ts'
import { BlockError, errnoOf } from '../../error.ts'
import type { IoVec } from '../../iovec.ts'
import type { Now } from '../../now.ts'
import type { FileOptions, Preallocation } from '../../protocol.ts'
import type { Engine } from './engine.ts'
import { EAGAIN, EOPNOTSUPP, hostError, nodeError } from './failure.ts'
import { type Libc, libc, RWF_NOWAIT } from './libc.ts'
import { lockImage, refuseIfUsed } from './lock.ts'
import { ring, ringReason } from './ring.ts'
import { threads } from './threads.ts'
import { uring } from './uring.ts'
import { Addresses, IOV_MAX, rest } from './vector.ts'

const { O_CREAT, O_DIRECT, O_EXCL, O_RDONLY, O_RDWR } = fs.constants

/** Longest read that is tried at once, bytes: copying more would hold up the guest's CPU for too long. */
const IMMEDIATE_MAX = 1 << 20

const openLater = promisify(fs.open)
const statLater = promisify(fs.fstat)
const closeLater = promisify(fs.close)
const truncateLater = promisify(fs.ftruncate)
const syncLater = promisify(fs.fsync)
const writeLater = (fd: number, bytes: Uint8Array, start: number, length: number, at: number) =>
  promisify(fs.write)(fd, bytes, start, length, at).then(({ bytesWritten }) => bytesWritten)

class FileDriver implements BlockDriver {
  readonly name = 'file'
  readonly fua = true
  readonly readOnly: boolean
  readonly #path: string
  readonly #fd: number
  readonly #engine: Engine
  readonly #libc: Libc | undefined
  readonly #addresses: Addresses | undefined
  readonly #iov = new Uint32Array(4 * IOV_MAX)
  #size: number
  #immediate: boolean
  /** Writes that completed, and how many of them the last sync that succeeded covers; the file's past counts as one write. */
  #written = 1
  #synced = 0
  #syncing: { covers: number; done: Promise<void> } | undefined
  /** After a sync has failed the kernel may have dropped what it could not write: nothing is durable until it is opened anew. */
  #broken: BlockError | undefined
  #busy = 0
  #idle: (() => void) | undefined

  constructor(path: string, fd: number, size: number, engine: Engine, options: FileOptions) {
    this.#path = path
    this.#fd = fd
    this.#size = size
    this.#engine = engine
    this.readOnly = options.readOnly ?? false
    this.#libc = libc()
    this.#addresses = this.#libc && new Addresses(this.#libc)
    this.#immediate = this.#libc !== undefined && !options.direct && (options.immediate ?? true)
  }

  get size(): number {
    return this.#size
  }

  read(at: number, into: IoVec): Now<void> {
    const done = this.#immediate && into.byteLength <= IMMEDIATE_MAX ? this.#readNow(at, into) : 0
    if (done === into.byteLength) return
    return this.#track(this.#engine.read(at + done, rest(into, done)))
  }

  write(at: number, from: IoVec, options?: WriteOptions): Promise<void> {
    this.#check()
    const durable = options?.fua === true
    const atOnce = durable && this.#engine.durableWrites
    return this.#track(
      this.#engine.write(at, from, atOnce).then(
        () => {
          if (atOnce) return
          this.#written++
          if (durable) return this.flush()
        },
        (error) => {
          this.#written++
          if (atOnce && errnoOf(error) === 'EIO') this.#broken = nodeError(error, `Cannot write to ${this.#path}`)
          throw error
        },
      ),
    )
  }

  flush(): Now<void> {
    this.#check()
    const covers = this.#written
    if (covers === this.#synced) return
    if (this.#syncing?.covers === covers) return this.#syncing.done
    const done = this.#track(
      this.#engine.sync().then(
        () => {
          if (this.#syncing?.done === done) this.#syncing = undefined
          this.#check()
          if (covers > this.#synced) this.#synced = covers
        },
        (error) => {
          this.#broken = nodeError(error, `Cannot flush ${this.#path}`)
          throw error
        },
      ),
    )
    this.#syncing = { covers, done }
    return done
  }

  resize(size: number): Now<void> {
    this.#check()
    try {
      fs.ftruncateSync(this.#fd, size)
    } catch (error) {
      throw nodeError(error, `Cannot resize ${this.#path} to ${size} bytes`)
    }
    this.#size = size
    this.#written++
  }

  async allocated(): Promise<number> {
    return (await statLater(this.#fd)).blocks * 512
  }

  async close(): Promise<void> {
    if (this.#busy > 0) {
      await new Promise<void>((resolve) => {
        this.#idle = resolve
      })
    }
    await closeLater(this.#fd)
  }

  /** Reads what the page cache has, from the start on, and answers how many bytes that were. */
  #readNow(at: number, into: IoVec): number {
    const libc = this.#libc!
    const views = into.views()
    let done = 0
    for (let first = 0; first < views.length; first += IOV_MAX) {
      const wanted = this.#addresses!.fill(this.#iov, views, first)
      const result = libc.preadv2(this.#fd, this.#iov, Math.min(views.length - first, IOV_MAX), at + done, RWF_NOWAIT)
      if (result < 0) {
        if (result !== -EAGAIN) this.#immediate = false
        return done
      }
      done += result
      if (result < wanted) return done
    }
    return done
  }

  #check(): void {
    if (this.#broken === undefined) return
    throw new BlockError(
      'EIO',
      `${this.#path} failed to flush before, so what was written to it may be lost; close it and check the host's disk (${this.#broken.message})`,
    )
  }

  #track(request: Promise<void>): Promise<void> {
    this.#busy++
    return request.finally(() => {
      if (--this.#busy === 0) this.#idle?.()
    })
  }
}

/** The engine that the options name, or the best that works. */
function engineFor(fd: number, path: string, options: FileOptions): Engine {
  const shared = options.aio === 'threads' ? undefined : ring()
  if (shared !== undefined) return uring(shared, new Addresses(libc()!), fd, path)
  if (options.aio === 'io_uring')
    throw new BlockError('ENOTSUP', `Cannot open ${path} with aio=io_uring: ${ringReason()}`)
  return threads(fd, path)
}

/** Says what is wrong with the place that should be opened, in one sentence. */
function openError(error: unknown, path: string, readOnly: boolean): BlockError {
  const code = (error as NodeJS.ErrnoException).code
  if (code === 'ENOENT') return new BlockError('ENOENT', `Cannot open ${path}: there is no such file; check the name`)
  if (!readOnly && (code === 'EACCES' || code === 'EPERM' || code === 'EROFS')) {
    return new BlockError(
      code,
      `Cannot open ${path} for writing: it is read-only here; open it with readOnly: true, or change its permissions`,
    )
  }
  return nodeError(error, `Cannot open ${path}`)
}

/** Opens the file or block device at `path`. */
export async function openFile(path: string, options: FileOptions = {}): Promise<BlockDriver> {
  const readOnly = options.readOnly ?? false
  const direct = options.direct ?? false
  let fd: number
  try {
    const kind = await promisify(fs.stat)(path)
    if (kind.isDirectory()) throw new BlockError('EISDIR', `Cannot open ${path}: it is a directory; name a file in it`)
    if (!kind.isFile() && !kind.isBlockDevice()) {
      throw new BlockError('EINVAL', `Cannot open ${path}: it is neither a file nor a block device`)
    }
    fd = await openLater(path, (readOnly ? O_RDONLY : O_RDWR) | (direct ? O_DIRECT : 0))
  } catch (error) {
    throw error instanceof BlockError ? error : openError(error, path, readOnly)
  }
  try {
    const { size } = await statLater(fd)
    const calls = libc()
    const locking = options.locking ?? 'auto'
    if (locking !== 'off') {
      const locked = calls !== undefined && lockImage(calls, fd, path, readOnly)
      if (!locked && locking === 'on') {
        throw new BlockError('ENOTSUP', `Cannot lock ${path}: there are no locks here; open it with locking: 'off'`)
      }
    }
    return new FileDriver(path, fd, size, engineFor(fd, path, options), options)
  } catch (error) {
    await closeLater(fd)
    throw error
  }
}

/** Makes `path` a file of `size` zero bytes, unless someone uses it; what is there is emptied. The result is durable. */
export async function createFile(path: string, size: number, preallocation: Preallocation = 'off'): Promise<void> {
  let fd: number
  try {
    fd = await openLater(path, O_RDWR | O_CREAT, 0o644)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code === 'ENOENT')
      throw new BlockError('ENOENT', `Cannot create ${path}: its folder does not exist; make it first`)
    throw nodeError(error, `Cannot create ${path}`)
  }
  try {
    if (!(await statLater(fd)).isFile())
      throw new BlockError('EINVAL', `Cannot create ${path}: what is there is not a file`)
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

/** Gives the bytes of a new file their space on the medium before they are used. */
async function preallocate(fd: number, path: string, size: number, how: Preallocation): Promise<void> {
  if (how === 'off' || size === 0) return
  if (how === 'falloc') {
    const result = (await libc()?.fallocate(fd, 0, 0, size)) ?? -EOPNOTSUPP
    if (result < 0) throw hostError(-result, `Cannot preallocate ${size} bytes for ${path}`)
    return
  }
  const zeroes = new Uint8Array(Math.min(size, 1 << 20))
  for (let at = 0; at < size; ) {
    at += await writeLater(fd, zeroes, 0, Math.min(zeroes.length, size - at), at)
  }
}

/** Makes the name of a new file durable. Some file systems and platforms cannot sync a folder: then it is as durable as they are. */
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

/** A writable file of no size in `folder` that has no name any more. */
export async function temporaryFile(folder: string): Promise<BlockDriver> {
  const path = join(folder, `block86-${process.pid}-${randomUUID()}.tmp`)
  let fd: number
  try {
    fd = await openLater(path, O_RDWR | O_CREAT | O_EXCL, 0o600)
  } catch (error) {
    throw nodeError(error, `Cannot make a temporary file in ${folder}`)
  }
  await promisify(fs.unlink)(path)
  return new FileDriver(path, fd, 0, engineFor(fd, path, {}), {})
}
