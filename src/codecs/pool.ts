// A pool of workers for bulk work: small jobs are done at once, large ones on other cores and never on the emulator's thread.

import { native } from '#codecs-native'
import { CodecError, type Codecs } from './contract.ts'
import { codecs } from './index.ts'
import type { Answer, JobName } from './jobs.ts'
import type { Port } from './native.ts'
import { source } from './pkg/worker.ts'
import { compiled } from './wasm/module.ts'

/** How large a pool is, and what it takes. */
export interface PoolOptions {
  /** The most workers; as many as the host has cores when absent. They are started as jobs come. */
  readonly workers?: number
  /**
   * Jobs of fewer bytes are done at once, on the caller's thread; when absent 16 KiB for compressing and 256 KiB for the rest,
   * some tenths of a millisecond each. Keys from passwords always go to a worker.
   */
  readonly threshold?: number
}

/** A codec that answers at once when the job is small, and later when it is not. */
type Pooled<N extends JobName> = (
  ...args: Parameters<Codecs[N]>
) => ReturnType<Codecs[N]> | Promise<ReturnType<Codecs[N]>>

/** The codecs of a pool, and its end. */
export type CodecPool = { readonly [N in JobName]: Pooled<N> } & {
  /** How many jobs may run at once: a caller that keeps twice as many going keeps every core busy. */
  readonly workers: number
  /** Ends the workers; jobs under way fail with ENOMEM. */
  close(): void
}

/** Bytes of input from which a job is worth a worker. */
const THRESHOLDS: Record<JobName, number> = {
  inflate: 256 * 1024,
  deflate: 16 * 1024,
  deflateWithin: 16 * 1024,
  zstdDecompress: 256 * 1024,
  zstdCompress: 16 * 1024,
  zstdCompressWithin: 16 * 1024,
  digest: 256 * 1024,
  blake3: 256 * 1024,
  blake3Each: 256 * 1024,
  pbkdf2: 0,
  argon2: 0,
}

/** A job that waits for its answer. */
interface Pending {
  readonly resolve: (value: Uint8Array | undefined) => void
  readonly reject: (error: Error) => void
}

/** A worker, and what it has to do. */
interface Hand {
  readonly port: Port
  readonly jobs: Map<number, Pending>
}

/** Starts a pool; its workers come with the first jobs. Where the host has no workers, every job is done at once. */
export function codecPool({ workers = native.cores, threshold }: PoolOptions = {}): CodecPool {
  const hands: Hand[] = []
  let most = Math.max(0, workers)
  let last = 0
  let closed = false

  const hire = (): Hand => {
    const jobs: Hand['jobs'] = new Map()
    const leave = (error: Error): void => {
      const place = hands.indexOf(hand)
      if (place >= 0) hands.splice(place, 1)
      for (const { reject } of jobs.values()) reject(new CodecError('ENOMEM', `A codec worker ended: ${error.message}`))
      jobs.clear()
    }
    const take = (message: unknown): void => {
      const answer = message as Answer
      const job = jobs.get(answer.id)
      jobs.delete(answer.id)
      if (jobs.size === 0) hand.port.keepAlive(false)
      if ('code' in answer) job?.reject(new CodecError(answer.code, answer.message))
      else job?.resolve(answer.value)
    }
    const hand: Hand = { port: native.start(source, take, leave), jobs }
    hand.port.post({ module: compiled() }, [])
    hands.push(hand)
    return hand
  }

  /** The worker with the least to do; a new one when all have something and there may be more. */
  const choose = (): Hand | undefined => {
    let best: Hand | undefined
    for (const hand of hands) if (!best || hand.jobs.size < best.jobs.size) best = hand
    if ((best && best.jobs.size === 0) || hands.length >= most) return best
    try {
      return hire()
    } catch {
      // No (more) workers are to be had: a policy of the page, or a limit of the host.
      most = hands.length
      return best
    }
  }

  const pooled =
    <N extends JobName>(name: N): Pooled<N> =>
    (...args) => {
      const call = codecs[name] as (...args: Parameters<Codecs[N]>) => ReturnType<Codecs[N]>
      const size = sizeOf(args)
      if (size < (THRESHOLDS[name] && (threshold ?? THRESHOLDS[name]))) return call(...args)
      if (closed) throw new CodecError('EINVAL', 'Cannot use a pool that was closed')
      const hand = choose()
      if (!hand) return call(...args)
      const { copies, transfer } = copied(args)
      const id = ++last
      if (hand.jobs.size === 0) hand.port.keepAlive(true)
      return new Promise((resolve, reject) => {
        hand.jobs.set(id, { resolve: resolve as Pending['resolve'], reject })
        hand.port.post({ id, name, args: copies }, transfer)
      })
    }

  const names = Object.keys(THRESHOLDS) as JobName[]
  const jobs = Object.fromEntries(names.map((name) => [name, pooled(name)])) as { [N in JobName]: Pooled<N> }
  return {
    ...jobs,
    workers: most,
    close() {
      closed = true
      for (const { port, jobs } of hands.splice(0)) {
        port.end()
        for (const { reject } of jobs.values()) reject(new CodecError('ENOMEM', 'The codec pool was closed'))
      }
    },
  }
}

function sizeOf(args: readonly unknown[]): number {
  let size = 0
  for (const arg of args) if (arg instanceof Uint8Array) size += arg.length
  return size
}

/** Copies of byte strings, to give away: a view would take the whole buffer under it along. */
function copied(args: readonly unknown[]): { copies: unknown[]; transfer: ArrayBuffer[] } {
  const transfer: ArrayBuffer[] = []
  const copies = args.map((arg) => {
    if (!(arg instanceof Uint8Array)) return arg
    const copy = new Uint8Array(arg)
    transfer.push(copy.buffer)
    return copy
  })
  return { copies, transfer }
}
