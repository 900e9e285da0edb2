import { describe, expect, test } from 'vitest'
import { BlockError } from '../../../src/block/error.ts'
import { bytesVec, type IoVec, joinVec } from '../../../src/block/iovec.ts'
import { batched } from '../../../src/block/protocols/node/batch.ts'
import { kick } from '../../../src/block/turn.ts'
import { outcome, same } from '../../conformance/driver.ts'
import { type Answers, answering, asking } from './engines.ts'

const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

/** An engine over an array, which fails every request that touches `bad`. */
function make(bad?: number) {
  const content = new Uint8Array(1 << 20).map((_, i) => i >> 9)
  const log: string[] = []
  const check = (kind: string, at: number, vector: IoVec) => {
    log.push(`${kind} ${at}+${vector.byteLength}`)
    if (bad !== undefined && at <= bad && bad < at + vector.byteLength) throw new BlockError('EIO', 'bad sector')
  }
  const engine: Answers = {
    name: 'threads',
    durableWrites: true,
    async read(at, into) {
      check('read', at, into)
      into.scatter(content.subarray(at, at + into.byteLength))
    },
    async write(at, from, durable) {
      check(durable ? 'durable' : 'write', at, from)
      content.set(from.gather(), at)
    },
    async sync() {
      log.push('sync')
    },
  }
  return { content, log, engine: asking(batched(answering(engine))) }
}

const sector = (value = 0) => bytesVec(new Uint8Array(512).fill(value))

describe('requests of one turn', () => {
  test('that are adjacent are one request behind the first, and each gets its bytes', async () => {
    const { content, log, engine } = make()
    const vectors = Array.from({ length: 32 }, () => sector())
    await Promise.all(vectors.map((vector, i) => engine.read(4096 + i * 512, vector)))
    expect(log).toEqual(['read 4096+512', 'read 4608+15872'])
    for (const [i, vector] of vectors.entries()) {
      same(vector.gather(), content.subarray(4096 + i * 512, 4608 + i * 512))
    }
  })

  test('that are not, or of another kind, stay apart', async () => {
    const { log, engine } = make()
    await Promise.all([
      engine.write(0, sector(1), false),
      engine.write(512, sector(2), false),
      engine.write(1024, sector(3), true),
      engine.read(1536, sector()),
      engine.read(4096, sector()),
    ])
    expect(log).toEqual(['write 0+512', 'write 512+512', 'durable 1024+512', 'read 1536+512', 'read 4096+512'])
  })

  test('kick sends them before the turn ends', async () => {
    const { log, engine } = make()
    const reads = [engine.read(0, sector()), engine.read(512, sector()), engine.read(1024, sector())]
    expect(log).toEqual(['read 0+512'])
    kick()
    expect(log).toEqual(['read 0+512', 'read 512+1024'])
    await Promise.all(reads)
    await turn()
    expect(log.length).toBe(2)
  })

  test('when one of them fails, only that one has failed', async () => {
    const { engine } = make(1024)
    const codes = await Promise.all([0, 512, 1024, 1536].map((at) => outcome(() => engine.write(at, sector(9), false))))
    expect(codes).toEqual(['none', 'none', 'EIO', 'none'])
  })

  test('when one of them was called back, the others are done', async () => {
    const { content, engine } = make()
    const vectors = [sector(7), sector(8), sector(9)]
    const writes = vectors.map((vector, i) => outcome(() => engine.write(i * 512, vector, false)))
    vectors[1]!.revoke()
    expect(await Promise.all(writes)).toEqual(['none', 'ECANCELED', 'none'])
    expect([content[0], content[512], content[1024]]).toEqual([7, 1, 9])
  })

  test('do not grow without bound', async () => {
    const { log, engine } = make()
    await Promise.all(Array.from({ length: 300 }, (_, i) => engine.read(i * 512, sector())))
    expect(log.length).toBe(4)
  })
})

/** An engine whose requests end when the test says so; `log` tells what it was given. */
function slow(later: boolean) {
  const time = { now: 0 }
  const log: string[] = []
  const ends: (() => void)[] = []
  const engine: Answers = {
    name: 'threads',
    durableWrites: true,
    read(at, into, lone) {
      log.push(`${lone ? 'lone' : 'read'} ${at}+${into.byteLength}`)
      if (later) return new Promise<void>((resolve) => ends.push(resolve))
    },
    write: () => {},
    sync: async () => {},
  }
  return { log, ends, time, engine: asking(batched(answering(engine), () => time.now)) }
}

describe('a request that is all that its device has', () => {
  test('is told so to the engine when that was right some times before', () => {
    const { log, engine } = slow(false)
    for (let i = 0; i < 6; i++) {
      expect(engine.read(i * 4096, sector())).toBe(undefined)
      kick()
    }
    expect(log.slice(0, 4).every((line) => line.startsWith('read'))).toBe(true)
    expect(log.slice(5)).toEqual(['lone 20480+512'])
  })

  test('is none without kicks, nor where two came before a kick, nor while another is under way', async () => {
    const silent = slow(false)
    for (let i = 0; i < 20; i++) silent.engine.read(i * 512, sector())
    const pairs = slow(false)
    for (let i = 0; i < 20; i++) {
      pairs.engine.read(i * 1024, sector())
      pairs.engine.read(i * 1024 + 512, sector())
      kick()
    }
    const deep = slow(true)
    const reads = []
    for (let i = 0; i < 20; i++) {
      reads.push(deep.engine.read(i * 1024, sector()))
      kick()
    }
    for (let ended = 0; ended < 20; ended += deep.ends.splice(0).map((end) => end()).length) await turn()
    await Promise.all(reads)
    expect([...silent.log, ...pairs.log, ...deep.log].filter((line) => line.startsWith('lone'))).toEqual([])
  })
})

test('a request that goes by itself is handed in at once, also one that is all that its device has', () => {
  let submits = 0
  const engine = asking(
    batched(
      answering({
        name: 'io_uring',
        durableWrites: true,
        read: () => {},
        write: () => new Promise(() => {}),
        sync: async () => {},
        submit: () => void submits++,
      }),
    ),
  )
  for (let i = 0; i < 6; i++) {
    void engine.read(i * 4096, sector())
    kick()
  }
  submits = 0
  void engine.write(0, sector(), true)
  expect(submits).toBe(1)
})

describe('behind many that are under way', () => {
  /** 33 requests that are under way, and 100 that have ended one right after the other. */
  async function busy() {
    const made = slow(true)
    const reads: unknown[] = []
    for (let i = 0; i < 133; i++) reads.push(made.engine.read(i * 4096, sector()))
    kick()
    for (const end of made.ends.splice(0, 100)) end()
    await Promise.all(reads.slice(0, 100))
    made.log.length = 0
    return { ...made, reads }
  }

  test('new ones wait until they are half as many, and may join', async () => {
    const { log, ends, engine } = await busy()
    const more: unknown[] = []
    for (let i = 0; i < 16; i++) more.push(engine.read(2 ** 20 + i * 512, sector()))
    kick()
    expect(log).toEqual([])
    more.push(engine.read(2 ** 20 + 8192, sector()))
    kick()
    expect(log).toEqual([`read ${2 ** 20}+8704`])
    for (const end of ends) end()
    await Promise.all(more)
  })

  test('but not for long, even if none of those ends', async () => {
    const { log, ends, engine, reads } = await busy()
    const one = engine.read(0, sector())
    kick()
    expect(log).toEqual([])
    while (log.length === 0) await new Promise((resolve) => setTimeout(resolve, 1))
    expect(log).toEqual(['read 0+512'])
    for (const end of ends) end()
    await Promise.all([one, ...reads])
  })

  test('and not at all where they end slowly', async () => {
    const { log, ends, time, engine, reads } = await busy()
    for (const end of ends.splice(0, 20)) {
      time.now += 0.1
      await turn()
      end()
    }
    await turn()
    const one = engine.read(0, sector())
    kick()
    expect(log).toEqual(['read 0+512'])
    for (const end of ends) end()
    await Promise.all([one, ...reads])
  })
})

test('a joined list is its parts one after the other, sliced anywhere', () => {
  const joined = joinVec([bytesVec(Uint8Array.of(1, 2), Uint8Array.of(3)), bytesVec(Uint8Array.of(4, 5, 6))])
  for (let start = 0; start <= 6; start++) {
    for (let end = start; end <= 6; end++) {
      expect([...joined.slice(start, end).gather()]).toEqual([1, 2, 3, 4, 5, 6].slice(start, end))
    }
  }
})
