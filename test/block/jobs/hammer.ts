/** Somebody who uses a disk hard while a job works on it, and knows what must be on it. */
import type { BlockDevice, BlockDriver } from '../../../src/block/device.ts'
import type { Disk } from '../../../src/block/disk.ts'
import { BlockError, type Errno } from '../../../src/block/error.ts'
import { bytesVec, type IoVec } from '../../../src/block/iovec.ts'
import { after, type Now } from '../../../src/block/now.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import type { Random } from '../../random.ts'

const SECTOR = 512

/** A medium in memory that answers after a while, in any order, and fails when it is told to. */
export class Lagging implements BlockDriver {
  readonly name = 'lagging'
  readonly fua = true
  readonly memory: Memory
  readonly #random: Random | undefined
  /** What the next requests of a kind fail with. */
  failures: { kind: 'read' | 'write' | 'flush'; code: Errno; times: number }[] = []
  closed = 0

  constructor(size: number, random?: Random, memory = new Memory(size)) {
    this.memory = memory
    this.#random = random
  }

  get size(): number {
    return this.memory.size
  }

  read(at: number, into: IoVec): Now<void> {
    return this.#later('read', () => this.memory.read(at, into))
  }

  write(at: number, from: IoVec): Now<void> {
    return this.#later('write', () => this.memory.write(at, from))
  }

  zero(at: number, length: number): Now<void> {
    return this.#later('write', () => this.memory.zero(at, length))
  }

  discard(at: number, length: number): Now<void> {
    return this.#later('write', () => this.memory.discard(at, length))
  }

  flush(): Now<void> {
    return this.#later('flush', () => {})
  }

  status(at: number, length: number) {
    return this.memory.status(at, length)
  }

  resize(size: number): void {
    this.memory.resize(size)
  }

  close(): void {
    this.closed++
  }

  #later(kind: 'read' | 'write' | 'flush', body: () => void): Now<void> {
    const failure = this.failures.find((each) => each.kind === kind && each.times > 0)
    const run = () => {
      if (failure !== undefined) throw new BlockError(failure.code, `lagging says ${failure.code}`)
      body()
    }
    if (failure !== undefined) failure.times--
    const turns = this.#random?.below(5) ?? 0
    if (turns === 0) return run()
    return (async () => {
      for (let turn = 0; turn < turns; turn++) {
        if (turn === 3) await new Promise((resolve) => setImmediate(resolve))
        else await undefined
      }
      run()
    })()
  }
}

/** Writes, zeroes, discards, reads and flushes at random places, several at a time, none over another. */
export class Hammer {
  readonly model: Uint8Array
  readonly #disk: Disk
  readonly #random: Random
  readonly #busy = new Set<{ start: number; end: number }>()
  readonly #running = new Set<Promise<void>>()
  #loop: Promise<void> | undefined
  #on = false
  requests = 0
  failure: unknown
  /** Called after each request. */
  onRequest: () => void = () => {}

  constructor(disk: Disk, random: Random, model = new Uint8Array(disk.size)) {
    this.#disk = disk
    this.#random = random
    this.model = model
  }

  start(): void {
    this.#on = true
    this.#loop = this.#run()
  }

  /** Ends when everything that was begun is over. */
  async stop(): Promise<void> {
    this.#on = false
    await this.#loop
    await Promise.all(this.#running)
    if (this.failure !== undefined) throw this.failure
  }

  /** Lets it work for so many requests. */
  async work(requests: number): Promise<void> {
    const until = this.requests + requests
    while (this.requests < until && this.failure === undefined) await new Promise((resolve) => setImmediate(resolve))
  }

  async #run(): Promise<void> {
    while (this.#on) {
      while (this.#running.size >= 6) await Promise.race(this.#running)
      this.#begin()
      if (this.#random.below(4) === 0) await new Promise((resolve) => setImmediate(resolve))
    }
  }

  #begin(): void {
    const sectors = this.model.length / SECTOR
    const most = this.#random.below(8) === 0 ? 400 : 20
    const start = this.#random.below(sectors) * SECTOR
    const end = Math.min(start + (1 + this.#random.below(most)) * SECTOR, this.model.length)
    for (const other of this.#busy) if (other.start < end && start < other.end) return
    const range = { start, end }
    this.#busy.add(range)
    const running = this.#request(start, end)
      .catch((error) => {
        this.failure ??= error
        this.#on = false
      })
      .finally(() => {
        this.#busy.delete(range)
        this.#running.delete(running)
        this.requests++
        this.onRequest()
      })
    this.#running.add(running)
  }

  async #request(start: number, end: number): Promise<void> {
    const disk = this.#disk
    const part = this.model.subarray(start, end)
    switch (this.#random.below(12)) {
      case 0:
        await disk.zero(start, end - start, { unmap: this.#random.below(2) === 0 })
        part.fill(0)
        return
      case 1:
        await disk.discard(start, end - start)
        part.set(await readAll(disk, start, end - start))
        return
      case 2:
        return disk.flush()
      case 3:
      case 4: {
        const read = await readAll(disk, start, end - start)
        const wrong = read.findIndex((byte, index) => byte !== part[index])
        if (wrong >= 0) throw new Error(`read ${read[wrong]} at ${start + wrong}, where ${part[wrong]} was written`)
        return
      }
      default: {
        const bytes = new Uint8Array(end - start)
        for (let at = 0; at < bytes.length; at += SECTOR) bytes.fill(1 + this.#random.below(255), at, at + SECTOR)
        await disk.write(start, bytesVec(bytes))
        part.set(bytes)
      }
    }
  }
}

/** Reads a range of a disk or a device. */
export async function readAll(
  from: Disk | BlockDevice,
  at = 0,
  length = from.size - at,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(length)
  await after(from.read(at, bytesVec(bytes)), () => {})
  return bytes
}

/** Fails with the first difference. */
export function sameBytes(found: Uint8Array, wanted: Uint8Array, what: string): void {
  if (found.length !== wanted.length) throw new Error(`${what} has ${found.length} bytes, not ${wanted.length}`)
  if (Buffer.compare(found, wanted) === 0) return
  const at = found.findIndex((byte, index) => byte !== wanted[index])
  throw new Error(`${what} has ${found[at]} at ${at} (granule ${at >> 16}), not ${wanted[at]}`)
}
