// What the codecs are measured at, in any host: each task by several contenders, in turns, so that all see the same weather.

import { cbc, ecb } from '@noble/ciphers/aes.js'
import * as fflate from 'fflate'
import * as fzstd from 'fzstd'
import * as hashWasm from 'hash-wasm'
import type { Codecs } from '../../../src/codecs/contract.ts'

/** Speeds of one task, in MB/s (or in what `unit` says), by contender. */
export interface Row {
  readonly task: string
  readonly unit: string
  readonly speeds: Readonly<Record<string, number>>
}

/** Who takes part: our module, this host's choice of paths, and what the host has of its own. */
export interface Field {
  readonly module: Codecs
  readonly face?: Codecs
  /** The host's own way to do a task, by the task's name. */
  readonly own?: Readonly<Record<string, () => void>>
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
export const each = (parts: readonly Uint8Array[], work: (part: Uint8Array) => unknown) => (): void => {
  for (const part of parts) work(part)
}

/** Runs the contenders in turns, and keeps the best round of each; `amount` is what one call does. */
function contest(
  task: string,
  unit: string,
  amount: number,
  contenders: Record<string, (() => void) | undefined>,
): Row {
  const best: Record<string, number> = {}
  const spent: Record<string, number> = {}
  for (let round = 0; ; round++) {
    let playing = false
    for (const [name, call] of Object.entries(contenders)) {
      if (!call || (spent[name] ?? 0) > CONTENDER_MS) continue
      playing = true
      const start = performance.now()
      let calls = 0
      let took = 0
      while (took < (round === 0 ? WARM_UP_MS : ROUND_MS)) {
        call()
        calls++
        took = performance.now() - start
      }
      if (round === 0) continue
      spent[name] = (spent[name] ?? 0) + took
      best[name] = Math.max(best[name] ?? 0, (amount * calls) / took / 1000)
    }
    if (!playing) break
  }
  return { task, unit, speeds: best }
}

/** Measures all tasks, or those whose name contains one of `wanted`. */
export async function measure(field: Field, inputs: Inputs, wanted: readonly string[]): Promise<Row[]> {
  const { module, face, own = {} } = field
  const { data, cluster } = inputs
  const clusters: Uint8Array[] = []
  for (let at = 0; at + cluster <= data.length; at += cluster) clusters.push(data.subarray(at, at + cluster))
  const total = clusters.length * cluster
  const output = new Uint8Array(cluster)
  const rows: Row[] = []
  const add = (task: string, amount: number, contenders: Record<string, (() => void) | undefined>, unit = 'MB/s') => {
    if (wanted.length > 0 && !wanted.some((part) => task.toLowerCase().includes(part.toLowerCase()))) return
    rows.push(contest(task, unit, amount, { ...contenders, ...(own[task] ? { host: own[task] } : {}) }))
  }
  add('inflate, 64 KiB clusters', total, {
    module: each(inputs.deflated, (packed) => module.inflateInto(packed, output)),
    fflate: each(inputs.deflated, (packed) => fflate.inflateSync(packed, { out: output })),
  })
  add('inflate, 512 KiB', data.length, {
    module: () => module.inflate(inputs.deflatedWhole, data.length),
    fflate: () => fflate.inflateSync(inputs.deflatedWhole, { out: new Uint8Array(data.length) }),
  })
  for (const level of [1, 6] as const)
    add(`deflate, level ${level}, 64 KiB clusters`, total, {
      module: each(clusters, (part) => module.deflate(part, { level })),
      fflate: each(clusters, (part) => fflate.deflateSync(part, { level })),
    })
  add('zstd decompress, 64 KiB clusters', total, {
    module: each(inputs.zstd, (packed) => module.zstdDecompressInto(packed, output)),
    fzstd: each(inputs.zstd, (packed) => fzstd.decompress(packed, output)),
  })
  add('zstd decompress, 512 KiB', data.length, {
    module: () => module.zstdDecompress(inputs.zstdWhole, data.length),
    fzstd: () => fzstd.decompress(inputs.zstdWhole, new Uint8Array(data.length)),
  })
  for (const level of [1, 3, 6])
    add(`zstd compress, level ${level}, 64 KiB clusters`, total, {
      module: each(clusters, (part) => module.zstdCompress(part, { level })),
    })

  const key = crypto.getRandomValues(new Uint8Array(64))
  const run = data.slice(0, cluster)
  for (const size of [4096, cluster]) {
    const part = run.subarray(0, size)
    const noble = nobleXts(key.subarray(0, 32), size)
    const [ours, faces] = [module, face].map((codecs) => codecs?.createCipher({ mode: 'xts', key }))
    add(`AES-256-XTS, ${size / 1024} KiB runs`, size, {
      module: () => ours!.encrypt(part, 1),
      ...(faces ? { face: () => faces.encrypt(part, 1) } : {}),
      '@noble/ciphers': () => noble(part),
    })
  }
  const essiv = { mode: 'cbc', iv: 'essiv', key: key.subarray(0, 32) } as const
  const [moduleCbc, faceCbc] = [module, face].map((codecs) => codecs?.createCipher(essiv))
  const iv = key.subarray(0, 16)
  for (const way of ['encrypt', 'decrypt'] as const)
    add(`AES-256-CBC-ESSIV ${way}, 64 KiB runs`, cluster, {
      module: () => moduleCbc![way](run, 1),
      ...(faceCbc ? { face: () => faceCbc[way](run, 1) } : {}),
      '@noble/ciphers': () => {
        for (let at = 0; at < run.length; at += 512)
          cbc(essiv.key, iv, { disablePadding: true })[way](run.subarray(at, at + 512))
      },
    })

  const hashers = {
    blake3: await hashWasm.createBLAKE3(),
    sha1: await hashWasm.createSHA1(),
    sha256: await hashWasm.createSHA256(),
    sha512: await hashWasm.createSHA512(),
    crc32: await hashWasm.createCRC32(),
    crc32c: await hashWasm.createCRC32(0x82f63b78),
    adler32: await hashWasm.createAdler32(),
  }
  const byHashWasm = (name: keyof typeof hashers) =>
    each(clusters, (part) => hashers[name].init().update(part).digest('binary'))
  add('BLAKE3, 64 KiB clusters', total, {
    module: each(clusters, (part) => module.blake3(part)),
    'hash-wasm': byHashWasm('blake3'),
  })
  add('BLAKE3, 4 KiB each', total, {
    module: each(clusters, (part) => module.blake3Each(part, 4096)),
    'hash-wasm': each(clusters, (part) => {
      for (let at = 0; at < part.length; at += 4096)
        hashers.blake3
          .init()
          .update(part.subarray(at, at + 4096))
          .digest('binary')
    }),
  })
  for (const name of ['sha1', 'sha256', 'sha512'] as const)
    add(`${name}, 64 KiB clusters`, total, {
      module: each(clusters, (part) => module.digest(name, part)),
      ...(face ? { face: each(clusters, (part) => face.digest(name, part)) } : {}),
      'hash-wasm': byHashWasm(name),
    })
  for (const name of ['crc32', 'crc32c', 'adler32'] as const)
    add(`${name}, 64 KiB clusters`, total, {
      module: each(clusters, (part) => module[name](part)),
      ...(face && face[name] !== module[name] ? { face: each(clusters, (part) => face[name](part)) } : {}),
      'hash-wasm': byHashWasm(name),
    })
  const zeroes = new Uint8Array(cluster)
  add('all zero, 64 KiB of zeroes', cluster, {
    module: () => module.isAllZero(zeroes),
    ...(face && face.isAllZero !== module.isAllZero ? { face: () => face.isAllZero(zeroes) } : {}),
    'a loop': () => zeroes.every((byte) => byte === 0),
  })
  const password = key.subarray(0, 12)
  const salt = key.subarray(12, 44)
  const iterations = 5000
  add(
    'PBKDF2-SHA-256',
    iterations * 1000,
    {
      module: () => module.pbkdf2('sha256', password, salt, iterations, 32),
      ...(face ? { face: () => face.pbkdf2('sha256', password, salt, iterations, 32) } : {}),
    },
    'K iterations/s',
  )
  const cost = { password, salt, iterations: 1, memory: 16384, lanes: 4, length: 32 }
  add('Argon2id, 16 MiB', 16.8e6, { module: () => module.argon2({ kind: 'argon2id', ...cost }) })
  return rows
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
