/** What jobs on a running disk share: they have it to themselves, put a filter into it, and copy piece by piece. */
import type { BlockDevice, BlockDriver } from '../device.ts'
import type { Disk } from '../disk.ts'
import { BlockError } from '../error.ts'
import { bytesVec } from '../iovec.ts'
import { after, type Now, repeat, rescue } from '../now.ts'
import { statusAbove } from './chain.ts'
import { Job, type JobBody, type JobControl, type JobErrorPolicy, type JobOptions } from './job.ts'

/** Options of every job on a running disk. */
export interface DiskJobOptions extends JobOptions {
  /** Bytes of a part that is copied or followed as a whole, a power of two; default 64 KiB. */
  granularity?: number
  /** Most copies under way at the same time; default 8. */
  maxWorkers?: number
  /** Most bytes of one copy; default 1 MiB. */
  maxChunk?: number
}

/** A job that has the disk's image to itself, from its first `next()` to its end. */
export function diskJob<T>(type: string, disk: Disk, options: JobOptions, body: JobBody<T>): Job<T> {
  const job: Job<T> = new Job(
    type,
    async function* (control) {
      const release = disk.reserve(job)
      try {
        return yield* body(control)
      } finally {
        release()
      }
    },
    options,
  )
  return job
}

/** Puts a filter between the disk and its image, which is in the device that `make` gets. */
export function insertFilter<F extends BlockDriver>(disk: Disk, make: (image: BlockDevice) => Now<F>): Promise<F> {
  return disk.pause(async () => {
    const image = disk.root.handOver()
    try {
      const filter = await make(image)
      disk.root.replace(filter)
      return filter
    } catch (error) {
      disk.root.replace(image.driver)
      throw error
    }
  })
}

/** Takes the filter out again. */
export async function removeFilter(disk: Disk, image: BlockDevice): Promise<void> {
  await disk.pause(() => void disk.root.replace(image.driver))
}

/** What becomes of requests that fail on either side. */
export interface ErrorPolicies {
  /** For reading; default `report`. With `ignore` the part is tried again later. */
  onSourceError?: JobErrorPolicy
  /** For writing; default `report`. */
  onTargetError?: JobErrorPolicy
}

/**
 * Copies a range, zeroes as zeroes; into a target that is zeroes already they are not written. What fails is thrown as
 * {@link Failed}.
 */
export function copyRange(
  from: BlockDevice,
  to: BlockDevice,
  at: number,
  length: number,
  buffer: Uint8Array,
  options: ErrorPolicies & { targetIsZero?: boolean },
): Now<void> {
  const reading = failing(options.onSourceError)
  const writing = failing(options.onTargetError)
  let done = 0
  const piece = (): Now<void> => {
    const start = at + done
    const found = rescue(() => statusAbove(from, undefined, start, length - done), reading)
    return after(found, ({ length: most, kind }) => {
      const size = Math.min(most, length - done, kind === 'zero' ? length : buffer.length)
      done += size
      if (kind === 'zero') {
        if (options.targetIsZero) return
        return rescue(() => to.zero(start, size, { unmap: true }), writing)
      }
      const bytes = bytesVec(buffer.subarray(0, size))
      const read = rescue(() => from.read(start, bytes), reading)
      return after(read, () => rescue(() => to.write(start, bytes), writing))
    })
  }
  return repeat(() => (done < length ? after(piece(), () => true) : false))
}

function failing(policy: JobErrorPolicy = 'report'): (error: unknown) => never {
  return (error) => {
    throw new Failed(error, policy)
  }
}

/** Buffers that copies take turns with. */
export class Buffers {
  readonly #free: Uint8Array[] = []
  readonly #size: number

  constructor(size: number) {
    this.#size = size
  }

  /** Runs `body` with a buffer. */
  async use<T>(body: (buffer: Uint8Array) => Now<T>): Promise<T> {
    const buffer = this.#free.pop() ?? new Uint8Array(this.#size)
    try {
      return await body(buffer)
    } finally {
      this.#free.push(buffer)
    }
  }
}

/** Work that runs beside the job's body, several pieces at a time; a failure waits until the body asks. */
export class Workers {
  readonly #running = new Set<Promise<void>>()
  readonly #most: number
  #failures: { error: unknown; policy: JobErrorPolicy }[] = []

  constructor(most: number) {
    if (!(Number.isInteger(most) && most >= 1)) {
      throw new BlockError('EINVAL', `The number of workers is ${most}, must be at least 1`)
    }
    this.#most = most
  }

  get busy(): boolean {
    return this.#running.size > 0
  }

  /** Begins `work`; whoever throws says by which policy with {@link Failed}. */
  start(work: () => Promise<void>): void {
    const running: Promise<void> = work()
      .catch((failure) => {
        this.#failures.push(
          failure instanceof Failed ? failure : { error: failure as unknown, policy: 'report' as const },
        )
      })
      .finally(() => this.#running.delete(running))
    this.#running.add(running)
  }

  /** Waits until there is room for more work. */
  async room(): Promise<void> {
    while (this.#running.size >= this.#most) await Promise.race(this.#running)
  }

  /** Waits until a piece of work is over, if there is any. */
  async one(): Promise<void> {
    if (this.#running.size > 0) await Promise.race(this.#running)
  }

  /** Waits until all work is over. */
  async all(): Promise<void> {
    await Promise.all(this.#running)
  }

  /**
   * Hands what failed, when nothing else is under way, to the job: throws by policy `report`, pauses it by `stop`. Answers whether
   * anything did; the body then yields before it goes on.
   */
  async check(job: JobControl): Promise<boolean> {
    if (this.#failures.length === 0) return false
    await this.all()
    const failures = this.#failures
    this.#failures = []
    for (const { error, policy } of failures) job.failed(error, policy)
    return true
  }
}

/** A request that failed, with the policy for it. */
export class Failed {
  readonly error: unknown
  readonly policy: JobErrorPolicy

  constructor(error: unknown, policy: JobErrorPolicy) {
    this.error = error
    this.policy = policy
  }
}
