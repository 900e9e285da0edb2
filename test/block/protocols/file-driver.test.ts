/** The file driver over an engine that the test holds in its hands. */
import fs from 'node:fs'
import path from 'node:path'
import { afterAll, afterEach, beforeEach, describe, expect, test } from 'vitest'
import { asDevice, type BlockDevice } from '../../../src/block/device.ts'
import { Disk } from '../../../src/block/disk.ts'
import { BlockError } from '../../../src/block/error.ts'
import { raw } from '../../../src/block/formats/raw.ts'
import { closedGate } from '../../../src/block/gate.ts'
import { bytesVec, type Grant, type IoVec, sliceBounds, VecBase } from '../../../src/block/iovec.ts'
import type { Engine, Waiter } from '../../../src/block/protocols/node/engine.ts'
import { FileDriver } from '../../../src/block/protocols/node/file.ts'
import { host } from '../../../src/block/protocols/node/index.ts'
import { libc, libcReason } from '../../../src/block/protocols/node/libc.ts'
import { ring, ringReason } from '../../../src/block/protocols/node/ring.ts'
import { outcome, same } from '../../conformance/driver.ts'
import { temporaryFolder } from '../../tools.ts'

const SIZE = 1 << 20

interface Call {
  readonly kind: 'read' | 'write' | 'durable write' | 'sync'
  readonly at: number
  readonly vector?: IoVec
  end(error?: unknown): void
}

/** An engine that completes nothing by itself. */
class Held implements Engine {
  readonly name = 'threads'
  readonly durableWrites: boolean
  readonly calls: Call[] = []

  constructor(durableWrites: boolean) {
    this.durableWrites = durableWrites
  }

  read(at: number, into: IoVec, waiter: Waiter): void {
    this.#call('read', at, waiter, into)
  }

  write(at: number, from: IoVec, durable: boolean, waiter: Waiter): void {
    this.#call(durable ? 'durable write' : 'write', at, waiter, from)
  }

  sync(): Promise<void> {
    return new Promise((resolve, reject) => this.#call('sync', 0, { done: resolve, failed: reject }))
  }

  get kinds(): string[] {
    return this.calls.map((call) => call.kind)
  }

  #call(kind: Call['kind'], at: number, waiter: Waiter, vector?: IoVec): void {
    const call = { kind, at, end: (error?: unknown) => (error === undefined ? waiter.done() : waiter.failed(error)) }
    this.calls.push(vector === undefined ? call : { ...call, vector })
  }
}

const folder = temporaryFolder()
let fd = 0
let open = true
beforeEach(() => {
  open = true
  fd = fs.openSync(folder.file('image'), 'w+')
})
afterEach(() => {
  if (open) fs.closeSync(fd)
})
afterAll(() => folder.remove())

function make(durableWrites = false) {
  const engine = new Held(durableWrites)
  const driver = new FileDriver({
    path: 'image',
    fd,
    medium: { kind: 'file', size: SIZE, readOnly: false, space: undefined },
    readOnly: false,
    engine,
    align: 1,
    tail: { engine: () => engine, close: async () => {} },
    libc: undefined,
    readMax: 1 << 20,
  })
  return { engine, device: asDevice(driver) }
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve))
const sector = () => bytesVec(new Uint8Array(512))

describe('a flush', () => {
  test('the first one syncs even if nothing was written: the file has a past', async () => {
    const { engine, device } = make()
    const flush = device.flush()
    expect(engine.kinds).toEqual(['sync'])
    engine.calls[0]!.end()
    await flush
    expect(device.flush()).toBeUndefined()
    expect(engine.kinds).toEqual(['sync'])
  })

  test('covers what completed before it, and only that', async () => {
    const { engine, device } = make()
    const writes = [device.write(0, sector()), device.write(512, sector())]
    engine.calls[0]!.end()
    await writes[0]
    const first = device.flush()
    engine.calls[1]!.end()
    await writes[1]
    engine.calls[2]!.end()
    await first
    const second = device.flush()
    expect(engine.kinds).toEqual(['write', 'write', 'sync', 'sync'])
    engine.calls[3]!.end()
    await second
    expect(device.flush()).toBeUndefined()
  })

  test('two at the same time with nothing between share one sync', async () => {
    const { engine, device } = make()
    const both = [device.flush(), device.flush()]
    expect(engine.kinds).toEqual(['sync'])
    engine.calls[0]!.end()
    await Promise.all(both)
  })

  test('a write that completes while a sync runs needs another one', async () => {
    const { engine, device } = make()
    const first = device.flush()
    const write = device.write(0, sector())
    engine.calls[1]!.end()
    await write
    const second = device.flush()
    expect(engine.kinds).toEqual(['sync', 'write', 'sync'])
    engine.calls[2]!.end()
    await second
    engine.calls[0]!.end()
    await first
    expect(device.flush()).toBeUndefined()
  })
})

describe('a forced write', () => {
  test('is one durable write where the engine has them', async () => {
    const { engine, device } = make(true)
    const write = device.write(0, sector(), { fua: true })
    expect(engine.kinds).toEqual(['durable write'])
    engine.calls[0]!.end()
    await write
    expect(engine.kinds).toEqual(['durable write'])
  })

  test('is a write and then a sync where it has not', async () => {
    const { engine, device } = make(false)
    let done = false
    const write = Promise.resolve(device.write(0, sector(), { fua: true })).then(() => {
      done = true
    })
    engine.calls[0]!.end()
    await turn()
    expect([engine.kinds, done]).toEqual([['write', 'sync'], false])
    engine.calls[1]!.end()
    await write
  })
})

describe('a sync that failed is not forgotten', () => {
  test.each([false, true])(
    'until the image is opened anew all writes and flushes fail (durable writes: %s)',
    async (durable) => {
      const { engine, device } = make(durable)
      const flush = outcome(() => device.flush())
      engine.calls[0]!.end(new BlockError('EIO', 'Cannot flush'))
      expect(await flush).toBe('EIO')
      for (const request of [
        () => device.flush(),
        () => device.write(0, sector()),
        () => device.write(0, sector(), { fua: true }),
      ])
        expect(await outcome(request)).toBe('EIO')
      expect(engine.kinds).toEqual(['sync'])
    },
  )

  test('also when it was part of a forced write, and when the disk ran out of space', async () => {
    for (const [durable, code] of [
      [false, 'EIO'],
      [true, 'EIO'],
      [false, 'ENOSPC'],
    ] as const) {
      const { engine, device } = make(durable)
      const write = outcome(() => device.write(0, sector(), { fua: true }))
      if (!durable) {
        engine.calls[0]!.end()
        await turn()
      }
      engine.calls.at(-1)!.end(new BlockError(code, 'Cannot flush'))
      expect(await write).toBe(code)
      expect(await outcome(() => device.flush())).toBe('EIO')
    }
  })

  test('a flush that was under way beside the failed one fails too', async () => {
    const { engine, device } = make()
    const first = outcome(() => device.flush())
    const write = device.write(0, sector())
    engine.calls[1]!.end()
    await write
    const second = outcome(() => device.flush())
    engine.calls[0]!.end(new BlockError('EIO', 'Cannot flush'))
    await first
    engine.calls[2]!.end()
    expect(await second).toBe('EIO')
  })

  test('a write that failed is only that: the next one may succeed', async () => {
    const { engine, device } = make()
    const write = outcome(() => device.write(0, sector()))
    engine.calls[0]!.end(new BlockError('ENOSPC', 'Cannot write'))
    expect(await write).toBe('ENOSPC')
    const again = outcome(() => device.write(0, sector()))
    engine.calls[1]!.end()
    expect(await again).toBe('none')
  })
})

test('closing waits for what is under way', async () => {
  const { engine, device } = make()
  const write = device.write(0, sector())
  let closed = false
  const close = Promise.resolve(device.close()).then(() => {
    closed = true
  })
  await turn()
  expect(closed).toBe(false)
  engine.calls[0]!.end()
  await Promise.all([write, close])
  open = false
})

describe('guest memory', () => {
  /** Ranges of a WebAssembly memory, as an emulator's RAM is one. */
  class Ram extends VecBase {
    readonly #memory: WebAssembly.Memory
    readonly #ranges: readonly (readonly [number, number])[]
    readonly byteLength: number

    constructor(memory: WebAssembly.Memory, ranges: readonly (readonly [number, number])[], grant?: Grant) {
      super(grant)
      this.#memory = memory
      this.#ranges = ranges
      this.byteLength = ranges.reduce((sum, [, length]) => sum + length, 0)
    }

    views(): readonly Uint8Array[] {
      this.held()
      return this.#ranges.map(([at, length]) => new Uint8Array(this.#memory.buffer, at, length))
    }

    slice(start: number, end = this.byteLength): IoVec {
      sliceBounds(this.byteLength, start, end)
      const ranges: [number, number][] = []
      let at = 0
      for (const [from, length] of this.#ranges) {
        const first = Math.max(start - at, 0)
        const last = Math.min(end - at, length)
        if (first < last) ranges.push([from + first, last - first])
        at += length
      }
      return new Ram(this.#memory, ranges, this.grant)
    }

    filled(): void {}
  }

  test('reaches the engine itself: nothing on the way of an aligned raw request copies it', () => {
    const { engine, device } = make()
    const image: BlockDevice = asDevice(
      raw.open(device, { name: 'raw', readOnly: false, gate: closedGate, options: {} }),
    )
    const disk = new Disk(image)
    const vector = new Ram(new WebAssembly.Memory({ initial: 1 }), [
      [0, 512],
      [8192, 512],
    ])
    void disk.read(4096, vector)
    void disk.write(4096, vector)
    expect(engine.calls.map((call) => call.vector)).toEqual([vector, vector])
    for (const call of engine.calls) call.end()
  })

  for (const aio of ['threads', 'io_uring'] as const) {
    for (const direct of [false, true]) {
      test(`may grow while ${aio} ${direct ? 'with O_DIRECT ' : ''}reads into it and writes from it`, async ({
        skip,
      }) => {
        if (aio === 'io_uring' && ring() === undefined) skip(`io_uring ${ringReason()}`)
        if (direct && libc() === undefined) skip(`the C library is ${libcReason()}`)
        const name = path.join(folder.path, 'grow')
        const content = new Uint8Array(SIZE)
        for (let i = 0; i < SIZE; i++) content[i] = (i * 7) ^ (i >> 9)
        fs.writeFileSync(name, content)
        const device = asDevice(await host.openFile(name, { aio, direct, immediate: false }))
        const memory = new WebAssembly.Memory({ initial: 64, maximum: 4096 })
        const pieces = (start: number): [number, number][] =>
          Array.from({ length: 64 }, (_, i) => [start + i * 8192, 4096])
        for (let round = 0; round < 8; round++) {
          const at = (round % 4) * 262144
          const read = device.read(at, new Ram(memory, pieces(0)))
          memory.grow(16)
          await turn()
          memory.grow(16)
          await read
          same(new Ram(memory, pieces(0)).gather(), content.subarray(at, at + 262144), 'what was read')
          const source = new Ram(memory, pieces(2 << 20))
          source.fill(round + 1)
          const write = device.write(at, source)
          memory.grow(16)
          await turn()
          memory.grow(16)
          await write
          same(
            fs.readFileSync(name).subarray(at, at + 262144),
            new Uint8Array(262144).fill(round + 1),
            'what was written',
          )
          content.fill(round + 1, at, at + 262144)
        }
        await device.close()
      })
    }
  }
})
