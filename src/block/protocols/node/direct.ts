/** O_DIRECT: what of a request must be aligned, found out by trying, and what to do with memory that is not. */
import fs from 'node:fs'
import { BlockError, errnoOf } from '../../error.ts'
import type { IoVec } from '../../iovec.ts'
import { copyVec } from '../../iovec.ts'
import { settle } from '../../now.ts'
import { asked, type Engine, type Waiter } from './engine.ts'
import { nodeError } from './failure.ts'
import { type AlignedPool, alignedPool, BUFFER_MAX } from './pool.ts'
import type { Addresses } from './vector.ts'

/** What a file wants of requests that bypass the page cache, bytes, powers of two. */
export interface Alignment {
  /** Of offsets and lengths, also of the length of each piece of memory. */
  readonly request: number
  /** Of the address of each piece of memory. */
  memory: number
}

/** What is right wherever O_DIRECT works at all. */
const SAFE = 4096

/**
 * Less than a sector is not tried: since Linux 6.18 reads into such memory work here and there, but a write that a page border
 * cuts inside a sector fails half done, and a file system was seen to show old blocks in its place.
 */
const MEMORIES = [512, 1024, 2048, 4096]
const REQUESTS = [...MEMORIES, 8192, 16384, 32768, 65536]

/** Reads into `piece` at `at`; false if that is refused as misaligned. */
function attempt(fd: number, at: number, piece: Uint8Array): Promise<boolean> {
  return new Promise((resolve, reject) => {
    fs.read(fd, piece, 0, piece.length, at, (error) => {
      if (error === null || error.code !== 'EINVAL') error === null ? resolve(true) : reject(error)
      else resolve(false)
    })
  })
}

async function least(candidates: readonly number[], works: (candidate: number) => Promise<boolean>): Promise<number> {
  for (const candidate of candidates) if (await works(candidate)) return candidate
  throw new BlockError('EINVAL', 'it refuses every alignment up to 64 KiB')
}

/**
 * Finds out what the open file `fd` of `size` bytes wants, each demand by itself. A file system that takes everything shows the
 * least demand that is tried; of an empty file nothing can be found out, and what is safe is taken.
 */
export async function probeAlignment(fd: number, size: number, name: string): Promise<Alignment> {
  if (size < SAFE) return { request: SAFE, memory: SAFE }
  const pages = new WebAssembly.Memory({ initial: 2 })
  const buffer = (offset: number, length: number) => new Uint8Array(pages.buffer, offset, length)
  try {
    const length = await least(REQUESTS, (value) => attempt(fd, 0, buffer(0, value)))
    const offset = await least(REQUESTS, (value) => attempt(fd, value, buffer(0, 65536)))
    const request = Math.max(length, offset)
    const memory = await least(MEMORIES, (value) => attempt(fd, 0, buffer(value, Math.max(request, SAFE))))
    return { request, memory }
  } catch (error) {
    throw nodeError(error, `Cannot find out how ${name} wants to be read past the page cache`)
  }
}

/** What of `engine` takes any memory: aligned memory goes through as it is, other through buffers of the pool. */
export function direct(
  engine: Engine,
  alignment: Alignment,
  addresses: Addresses | undefined,
  pool: AlignedPool = alignedPool(),
): Engine {
  const fits = (vector: IoVec) => {
    if (addresses === undefined) return false
    for (const view of vector.views()) {
      if (addresses.of(view) % alignment.memory !== 0 || view.length % alignment.request !== 0) return false
    }
    return true
  }
  const steps = async (length: number, step: (start: number, end: number) => Promise<void>) => {
    for (let start = 0; start < length; start += BUFFER_MAX) await step(start, Math.min(start + BUFFER_MAX, length))
  }
  const read = (at: number, into: IoVec) =>
    steps(into.byteLength, (start, end) =>
      pool.lend(end - start, async (buffer) => {
        await asked((waiter) => engine.read(at + start, buffer, waiter))
        copyVec(buffer, into.slice(start, end))
      }),
    )
  const write = (at: number, from: IoVec, durable: boolean) =>
    steps(from.byteLength, (start, end) =>
      pool.lend(end - start, async (buffer) => {
        copyVec(from.slice(start, end), buffer)
        await asked((waiter) => engine.write(at + start, buffer, durable, waiter))
      }),
    )
  const through = (waiter: Waiter, start: () => Promise<void>) =>
    settle(
      start,
      () => waiter.done(),
      (error) => waiter.failed(error),
    )
  /** A write may want more than the reads by which the demands were found out. */
  const learning = (waiter: Waiter, again: () => Promise<void>): Waiter => ({
    done: () => waiter.done(),
    failed(error) {
      if (errnoOf(error) !== 'EINVAL') return waiter.failed(error)
      alignment.memory = SAFE
      through(waiter, again)
    },
  })
  /** Begins `straight` if the memory is right for it, else `again`. */
  const choose = (vector: IoVec, waiter: Waiter, straight: (to: Waiter) => void, again: () => Promise<void>): void => {
    let fit: boolean
    try {
      fit = fits(vector)
    } catch (error) {
      waiter.failed(error)
      return
    }
    if (fit) straight(learning(waiter, again))
    else through(waiter, again)
  }
  return {
    name: engine.name,
    durableWrites: engine.durableWrites,
    submit: () => engine.submit?.(),
    read: (at, into, waiter, lone) =>
      choose(
        into,
        waiter,
        (to) => engine.read(at, into, to, lone),
        () => read(at, into),
      ),
    write: (at, from, durable, waiter, lone) =>
      choose(
        from,
        waiter,
        (to) => engine.write(at, from, durable, to, lone),
        () => write(at, from, durable),
      ),
    sync: () => engine.sync(),
  }
}
