/** What the host alone takes for a request: the bare calls by which block86 reaches it, with nothing above them. */
import fs from 'node:fs'
import { type Libc, libc } from '../../../src/block/protocols/node/libc.ts'
import {
  IORING_OP_READ,
  IORING_OP_WRITE,
  type Operation,
  type Ring,
  ring,
} from '../../../src/block/protocols/node/ring.ts'

/** Requests of one kind on the raw image. */
export interface Kind {
  /** Bytes of one request. */
  readonly size: number
  readonly random: boolean
  readonly write: boolean
  readonly depth: number
  readonly cache: 'writeback' | 'none'
}

/** Bytes of a large page. */
const LARGE_PAGE = 2 << 20
/** How long one kind is measured, ms. */
const SPAN = 120

/** Measures each kind once: `preadv2` or `pwritev2` in a loop, or, for more than one past the page cache, io_uring in batches. */
export class Floors {
  readonly #image: string
  readonly #disk: number
  readonly #known = new Map<string, number>()

  /** `image` is a raw image of `disk` bytes. */
  constructor(image: string, disk: number) {
    this.#image = image
    this.#disk = disk
  }

  /** Microseconds of a request, or undefined where there is no way to measure them. */
  async of(kind: Kind, stride: number): Promise<number | undefined> {
    const calls = libc()
    if (calls === undefined) return undefined
    const { size, random, write, cache } = kind
    const depth = cache === 'none' ? kind.depth : 1 // the page cache answers one call after the other
    const key = [size, random, write, depth, cache].join()
    const known = this.#known.get(key)
    if (known !== undefined) return known
    const flags = (write ? fs.constants.O_RDWR : fs.constants.O_RDONLY) | (cache === 'none' ? fs.constants.O_DIRECT : 0)
    const fd = fs.openSync(this.#image, flags)
    try {
      const uring = depth > 1 ? ring() : undefined
      if (depth > 1 && uring === undefined) return undefined
      const memory = new WebAssembly.Memory({ initial: Math.ceil((depth * size) / 65536) + 64 }).buffer
      const start = Math.ceil(calls.address(memory) / LARGE_PAGE) * LARGE_PAGE
      calls.preferLargePages(start, Math.ceil((depth * size) / LARGE_PAGE) * LARGE_PAGE)
      new Uint8Array(memory).fill(90)
      const place = { fd, base: start, next: offsets(stride, this.#disk) }
      const found =
        uring === undefined
          ? inTurn(calls, size, write, place)
          : await together(uring, { size, write, depth, ...place })
      this.#known.set(key, found)
      return found
    } finally {
      fs.closeSync(fd)
    }
  }
}

interface Place {
  readonly fd: number
  /** Address of the memory. */
  readonly base: number
  /** Offset of the next request. */
  next(): number
}

function offsets(stride: number, disk: number): () => number {
  let at = -stride
  return () => {
    at = (at + stride) % disk
    return at
  }
}

function inTurn(calls: Libc, size: number, write: boolean, { fd, base, next }: Place): number {
  const iov = Uint32Array.of(base, base / 2 ** 32, size, 0)
  const call = write ? calls.pwritev2 : calls.preadv2
  const one = () => {
    const result = call(fd, iov, 1, next(), 0)
    if (result !== size) throw new Error(`the bare call gave ${result}`)
  }
  for (let i = 0; i < 2000 && i * size < 64 << 20; i++) one()
  const start = performance.now()
  let count = 0
  let now = start
  for (; now < start + SPAN; now = performance.now()) for (let i = 0; i < 16; i++, count++) one()
  return ((now - start) / count) * 1000
}

/** `depth` at a time; those that completed are handed in again together. */
function together(uring: Ring, kind: Place & { size: number; write: boolean; depth: number }): Promise<number> {
  const { fd, base, next, size, write, depth } = kind
  return new Promise((resolve, reject) => {
    let count = 0
    let left = depth
    const start = performance.now()
    const over = () => performance.now() > start + SPAN
    const send = (slot: number) => {
      const operation: Operation = {
        opcode: write ? IORING_OP_WRITE : IORING_OP_READ,
        fd,
        at: next(),
        address: base + slot * size,
        length: size,
        flags: 0,
        pieces: 0,
        done(result) {
          count++
          if (result !== size) reject(new Error(`the bare call gave ${result}`))
          else if (!over()) send(slot)
          else if (--left === 0) resolve(((performance.now() - start) / count) * 1000)
        },
      }
      uring.add(operation)
    }
    for (let slot = 0; slot < depth; slot++) send(slot)
    uring.submit()
  })
}
