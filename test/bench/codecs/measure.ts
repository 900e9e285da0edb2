// What the codecs are measured at, in any host: each task by several contenders, in turns, so that all see the same weather.

import { init as initZstdWasm, compress as zstdWasm } from '@bokuweb/zstd-wasm'
import { cbc, ecb } from '@noble/ciphers/aes.js'
import * as fflate from 'fflate'
import * as fzstd from 'fzstd'
import * as hashWasm from 'hash-wasm'
import type { Codecs } from '../../../src/codecs/contract.ts'

/** Who takes part in a task: our module, the face (this host's choice of paths), the host's own, and the best-known npm package. */
export const contenders = ['crate', 'face', 'host', 'npm'] as const
export type Contender = (typeof contenders)[number]

/** Does a task once. */
export type Work = () => unknown

/** One task: speeds in MB/s (or in what `unit` says), or why there are none. */
export interface Row {
  readonly task: string
  readonly unit: string
  /** The npm package that was compared. */
  readonly npm: string
  readonly speeds: Readonly<Partial<Record<Contender, number | string>>>
}

/** What a host brings: our module, the face where it is another, and the host's own ways. */
export interface Field {
  readonly module: Codecs
  readonly face?: Codecs
  /** The host's own way to do a task, by the task's name, or why there is none. */
  readonly own: (task: string) => Work | string
  /** Where the WebAssembly of `@bokuweb/zstd-wasm` is, when it does not know itself. */
  readonly zstdWasm?: string
}

/** The inputs, which every host gets the same. */
export interface Inputs {
  readonly data: Uint8Array
  readonly cluster: number
  /** Clusters deflated by zlib with a window of 12 bits, as in qcow2, and all at once. */
  readonly deflated: readonly Uint8Array[]
  readonly deflatedWhole: Uint8Array
  readonly zstd: readonly Uint8Array[]
  readonly zstdWhole: Uint8Array
}

/**
 * Rounds are short and many, and the best one counts: on a busy machine that is the one that nobody interrupted. Before them
 * everybody warms up, until the engine has compiled what it runs.
 */
const ROUND_MS = 4
const WARM_UP_MS = 200
/** What one contender may take for one task. */
const CONTENDER_MS = 500

/** A call that does its work on each part. */
export const each =
  (parts: readonly Uint8Array[], work: (part: Uint8Array) => unknown): Work =>
  () => {
    for (const part of parts) work(part)
  }

/** Runs the contenders in turns, and keeps the best round of each; `amount` is what one call does. */
async function contest(amount: number, all: Partial<Record<Contender, Work | string>>): Promise<Row['speeds']> {
  const speeds: Partial<Record<Contender, number | string>> = {}
  const spent: Partial<Record<Contender, number>> = {}
  for (let round = 0; ; round++) {
    let playing = false
    for (const name of contenders) {
      const call = all[name]
      if (typeof call === 'string') speeds[name] = call
      if (typeof call !== 'function' || (spent[name] ?? 0) > CONTENDER_MS) continue
      playing = true
      const start = performance.now()
      let calls = 0
      let took = 0
      while (took < (round === 0 ? WARM_UP_MS : ROUND_MS)) {
        const answer = call()
        if (answer instanceof Promise) await answer
        calls++
        took = performance.now() - start
      }
      if (round === 0) continue
      spent[name] = (spent[name] ?? 0) + took
      speeds[name] = Math.max(Number(speeds[name] ?? 0), (amount * calls) / took / 1000)
    }
    if (!playing) return speeds
  }
}

/** A task, and the ways to do it; what the host has of its own comes from the field. */
interface Task {
  readonly task: string
  readonly amount: number
  readonly unit?: string
  /** By a set of codecs: the module's, and the face's where they are not the same function. */
  readonly by: (codecs: Codecs) => Work
  /** The functions that the task calls. */
  readonly calls: keyof Codecs
  readonly npm: readonly [name: string, work: Work] | string
}

/** Measures all tasks, or those whose name contains one of `wanted`. */
export async function measure(field: Field, inputs: Inputs, wanted: readonly string[]): Promise<Row[]> {
  await initZstdWasm(field.zstdWasm)
  const rows: Row[] = []
  for (const { task, amount, unit = 'MB/s', by, calls, npm } of await tasks(inputs)) {
    if (wanted.length > 0 && !wanted.some((part) => task.toLowerCase().includes(part.toLowerCase()))) continue
    const { module, face } = field
    const speeds = await contest(amount, {
      crate: by(module),
      ...(face ? { face: face[calls] === module[calls] ? 'the crate' : by(face) } : {}),
      ...(face ? { host: field.own(task) } : {}),
      npm: typeof npm === 'string' ? npm : npm[1],
    })
    rows.push({ task, unit, npm: typeof npm === 'string' ? '' : npm[0], speeds })
  }
  return rows
}

/** All tasks. */
async function tasks(inputs: Inputs): Promise<Task[]> {
  const { data, cluster } = inputs
  const clusters: Uint8Array[] = []
  for (let at = 0; at + cluster <= data.length; at += cluster) clusters.push(data.subarray(at, at + cluster))
  const total = clusters.length * cluster
  const output = new Uint8Array(cluster)
  const made: Task[] = [
    {
      task: 'inflate, 64 KiB clusters',
      amount: total,
      calls: 'inflateInto',
      by: ({ inflateInto }) => each(inputs.deflated, (packed) => inflateInto(packed, output)),
      npm: ['fflate', each(inputs.deflated, (packed) => fflate.inflateSync(packed, { out: output }))],
    },
    {
      task: 'inflate, 512 KiB',
      amount: data.length,
      calls: 'inflate',
      by:
        ({ inflate }) =>
        () =>
          inflate(inputs.deflatedWhole, data.length),
      npm: ['fflate', () => fflate.inflateSync(inputs.deflatedWhole, { out: new Uint8Array(data.length) })],
    },
  ]
  for (const level of [1, 6, 9] as const)
    made.push({
      task: `deflate, level ${level}, 64 KiB clusters`,
      amount: total,
      calls: 'deflate',
      by: ({ deflate }) => each(clusters, (part) => deflate(part, { level })),
      npm: ['fflate', each(clusters, (part) => fflate.deflateSync(part, { level }))],
    })
  made.push(
    {
      task: 'zstd decompress, 64 KiB clusters',
      amount: total,
      calls: 'zstdDecompressInto',
      by: ({ zstdDecompressInto }) => each(inputs.zstd, (packed) => zstdDecompressInto(packed, output)),
      npm: ['fzstd', each(inputs.zstd, (packed) => fzstd.decompress(packed, output))],
    },
    {
      task: 'zstd decompress, 512 KiB',
      amount: data.length,
      calls: 'zstdDecompress',
      by:
        ({ zstdDecompress }) =>
        () =>
          zstdDecompress(inputs.zstdWhole, data.length),
      npm: ['fzstd', () => fzstd.decompress(inputs.zstdWhole, new Uint8Array(data.length))],
    },
  )
  for (const level of [1, 3, 6])
    made.push({
      task: `zstd compress, level ${level}, 64 KiB clusters`,
      amount: total,
      calls: 'zstdCompress',
      by: ({ zstdCompress }) => each(clusters, (part) => zstdCompress(part, { level })),
      npm: ['@bokuweb/zstd-wasm', each(clusters, (part) => zstdWasm(part, level))],
    })
  made.push(...ciphers(data.slice(0, cluster)), ...(await hashes(clusters, total)))
  const zeroes = new Uint8Array(cluster)
  made.push({
    task: 'all zero, 64 KiB of zeroes',
    amount: cluster,
    calls: 'isAllZero',
    by:
      ({ isAllZero }) =>
      () =>
        isAllZero(zeroes),
    npm: ['none: every()', () => zeroes.every((byte) => byte === 0)],
  })
  const iterations = 5000
  for (const hash of ['sha1', 'sha256', 'sha512'] as const) {
    const make = { sha1: hashWasm.createSHA1, sha256: hashWasm.createSHA256, sha512: hashWasm.createSHA512 }[hash]
    made.push({
      task: `PBKDF2, ${hash}`,
      amount: iterations * 1000,
      unit: 'K iterations/s',
      calls: 'pbkdf2',
      by:
        ({ pbkdf2 }) =>
        () =>
          pbkdf2(hash, PASSWORD, SALT, iterations, 20),
      npm: [
        'hash-wasm',
        () =>
          hashWasm.pbkdf2({
            ...{ password: PASSWORD, salt: SALT, iterations, hashLength: 20 },
            ...{ hashFunction: make(), outputType: 'binary' },
          }),
      ],
    })
  }
  for (const kind of ['argon2i', 'argon2id'] as const) {
    const derive = { argon2i: hashWasm.argon2i, argon2id: hashWasm.argon2id }[kind]
    made.push({
      task: `${kind}, 16 MiB, 1 pass`,
      amount: 16384 * 1024,
      calls: 'argon2',
      by:
        ({ argon2 }) =>
        () =>
          argon2({ kind, password: PASSWORD, salt: SALT, iterations: 1, memory: 16384, lanes: 4, length: 32 }),
      npm: [
        'hash-wasm',
        () =>
          derive({
            ...{ password: PASSWORD, salt: SALT, iterations: 1, memorySize: 16384, parallelism: 4 },
            ...{ hashLength: 32, outputType: 'binary' },
          }),
      ],
    })
  }
  return made
}

const KEY = crypto.getRandomValues(new Uint8Array(64))
/** What every host derives keys from. */
export const PASSWORD: Uint8Array = KEY.subarray(0, 12)
export const SALT: Uint8Array = KEY.subarray(12, 44)

function ciphers(run: Uint8Array): Task[] {
  const made: Task[] = []
  for (const [bits, size] of [
    [128, run.length],
    [256, run.length],
    [256, 4096],
  ] as const) {
    const part = run.subarray(0, size)
    const noble = nobleXts(KEY.subarray(0, bits / 8), size)
    made.push({
      task: `AES-${bits}-XTS, ${size / 1024} KiB runs`,
      amount: size,
      calls: 'createCipher',
      by: ({ createCipher }) => {
        const cipher = createCipher({ mode: 'xts', key: KEY.subarray(0, bits / 4) })
        return () => cipher.encrypt(part, 1)
      },
      npm: ['@noble/ciphers', () => noble(part)],
    })
  }
  const key = KEY.subarray(0, 32)
  const iv = KEY.subarray(0, 16)
  for (const kind of ['plain', 'plain64', 'essiv'] as const)
    for (const way of ['encrypt', 'decrypt'] as const)
      made.push({
        task: `AES-256-CBC-${kind} ${way}, 64 KiB runs`,
        amount: run.length,
        calls: 'createCipher',
        by: ({ createCipher }) => {
          const cipher = createCipher({ mode: 'cbc', iv: kind, key })
          return () => cipher[way](run, 1)
        },
        npm: [
          '@noble/ciphers',
          () => {
            for (let at = 0; at < run.length; at += 512)
              cbc(key, iv, { disablePadding: true })[way](run.subarray(at, at + 512))
          },
        ],
      })
  return made
}

async function hashes(clusters: readonly Uint8Array[], total: number): Promise<Task[]> {
  const hashers = {
    blake3: await hashWasm.createBLAKE3(),
    sha1: await hashWasm.createSHA1(),
    sha224: await hashWasm.createSHA224(),
    sha256: await hashWasm.createSHA256(),
    sha384: await hashWasm.createSHA384(),
    sha512: await hashWasm.createSHA512(),
    ripemd160: await hashWasm.createRIPEMD160(),
    crc32: await hashWasm.createCRC32(),
    crc32c: await hashWasm.createCRC32(0x82f63b78),
    adler32: await hashWasm.createAdler32(),
  }
  const one = (name: keyof typeof hashers, part: Uint8Array) => hashers[name].init().update(part).digest('binary')
  const npm = (name: keyof typeof hashers) => ['hash-wasm', each(clusters, (part) => one(name, part))] as const
  const made: Task[] = [
    {
      task: 'BLAKE3, 64 KiB clusters',
      amount: total,
      calls: 'blake3',
      by: ({ blake3 }) => each(clusters, (part) => blake3(part)),
      npm: npm('blake3'),
    },
    {
      task: 'BLAKE3, 4 KiB each',
      amount: total,
      calls: 'blake3Each',
      by: ({ blake3Each }) => each(clusters, (part) => blake3Each(part, 4096)),
      npm: [
        'hash-wasm',
        each(clusters, (part) => {
          for (let at = 0; at < part.length; at += 4096) one('blake3', part.subarray(at, at + 4096))
        }),
      ],
    },
  ]
  for (const name of ['sha1', 'sha224', 'sha256', 'sha384', 'sha512', 'ripemd160'] as const)
    made.push({
      task: `${name}, 64 KiB clusters`,
      amount: total,
      calls: 'digest',
      by: ({ digest }) => each(clusters, (part) => digest(name, part)),
      npm: npm(name),
    })
  for (const name of ['crc32', 'crc32c', 'adler32'] as const)
    made.push({
      task: `${name}, 64 KiB clusters`,
      amount: total,
      calls: name,
      by: (codecs) => each(clusters, (part) => codecs[name](part)),
      npm: npm(name),
    })
  return made
}

/** XTS as one would make it of @noble/ciphers: the tweaks are even given, one ECB call, and words mixed before and after. */
function nobleXts(key: Uint8Array, size: number): (data: Uint8Array) => void {
  const masks = crypto.getRandomValues(new Uint32Array(size / 4))
  const mixed = new Uint32Array(size / 4)
  const bytes = new Uint8Array(mixed.buffer)
  return (data) => {
    bytes.set(data)
    for (let at = 0; at < masks.length; at++) mixed[at]! ^= masks[at]!
    ecb(key, { disablePadding: true }).encrypt(bytes, bytes)
    for (let at = 0; at < masks.length; at++) mixed[at]! ^= masks[at]!
    data.set(bytes)
  }
}
