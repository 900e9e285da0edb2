import { describe, expect, test } from 'vitest'
import { BlockError } from '../../../src/block/error.ts'
import { Job, type JobControl, type JobErrorPolicy, type Progress } from '../../../src/block/jobs/job.ts'

/** Time that passes when it is told to. */
class Time {
  #now = 0
  #calls: { at: number; call: () => void }[] = []
  now = () => this.#now
  after = (ms: number, call: () => void) => void this.#calls.push({ at: this.#now + ms, call })

  /** Lets everything happen that is due within `ms`, one thing after the other. */
  async pass(ms: number): Promise<void> {
    const end = this.#now + ms
    for (;;) {
      for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setImmediate(resolve))
      const due = this.#calls.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0]
      if (due === undefined) break
      this.#calls.splice(this.#calls.indexOf(due), 1)
      this.#now = due.at
      due.call()
    }
    this.#now = end
  }
}

const MIB = 1 << 20

async function* copy(job: JobControl, total: number, log: number[] = []): AsyncGenerator<Progress, string, void> {
  try {
    for (let done = 0; done < total; ) {
      const length = Math.min(job.slice(MIB), total - done)
      done += length
      log.push(length)
      job.copied(length)
      yield { done, total }
    }
    return 'copied'
  } finally {
    log.push(-1)
  }
}

describe('a job', () => {
  test('is a generator of its progress that ends with its value', async () => {
    const job = new Job('copy', (control) => copy(control, 3 * MIB))
    const seen: Progress[] = []
    expect(job.status).toBe('created')
    for await (const progress of job) seen.push(progress)
    expect(seen).toEqual([1, 2, 3].map((done) => ({ done: done * MIB, total: 3 * MIB })))
    expect(job.status).toBe('concluded')
    expect(await job.run()).toBe('copied')
  })

  test('keeps to its speed, which may change, and copies less at a time when it is low', async () => {
    const time = new Time()
    const log: number[] = []
    const job = new Job('copy', (control) => copy(control, 100 * MIB, log), { clock: time, speed: MIB })
    const ran = job.run()
    await time.pass(10_000)
    const { done } = job.progress
    expect(done).toBeGreaterThan(9 * MIB)
    expect(done).toBeLessThanOrEqual(10.2 * MIB)
    expect(Math.max(...log)).toBeLessThanOrEqual(MIB / 8)
    job.speed = 10 * MIB
    await time.pass(1000)
    expect(job.progress.done - done).toBeGreaterThan(9 * MIB)
    expect(job.progress.done - done).toBeLessThanOrEqual(11.2 * MIB)
    job.speed = 0
    await time.pass(0)
    expect(await ran).toBe('copied')
    expect(() => (job.speed = -1)).toThrow('must be a number from 0 on')
  })

  test.each([1, 65537, 1234567, 9_999_991])('copies whole sectors at %d bytes in a second', async (speed) => {
    const log: number[] = []
    await new Job('copy', (control) => copy(control, MIB, log), { speed }).next()
    expect(log[0]! % 512).toBe(0)
  })

  test('is held by pause, let go by resume', async () => {
    const time = new Time()
    const job = new Job('copy', (control) => copy(control, 3 * MIB), { clock: time })
    await job.next()
    job.pause()
    const ran = job.run()
    await time.pass(1000)
    expect([job.status, job.progress.done]).toEqual(['paused', MIB])
    job.resume()
    expect(await ran).toBe('copied')
  })

  test.each(['while it waits for its speed', 'while it is paused', 'before it begins'])(
    'is canceled %s',
    async (when) => {
      const time = new Time()
      const log: number[] = []
      const job = new Job('copy', (control) => copy(control, 8 * MIB, log), { clock: time, speed: 1 })
      let ran: Promise<unknown> | undefined
      if (when !== 'before it begins') {
        if (when === 'while it is paused') job.pause()
        ran = expect(job.run()).rejects.toMatchObject({ code: 'ECANCELED' })
        await time.pass(1000)
      }
      await job.cancel()
      await ran
      expect(job.status).toBe('concluded')
      expect(log).toEqual(when === 'while it waits for its speed' ? [65536, -1] : [])
      await job.cancel()
    },
  )

  test('is canceled by leaving the loop, and by a signal', async () => {
    const log: number[] = []
    for await (const { done } of new Job('copy', (control) => copy(control, 8 * MIB, log))) if (done > MIB) break
    expect(log).toEqual([MIB, MIB, -1])
    const abort = new AbortController()
    const job = new Job('copy', (control) => copy(control, 8 * MIB), { signal: abort.signal })
    await job.next()
    abort.abort()
    await expect(job.run()).rejects.toMatchObject({ code: 'ECANCELED' })
  })

  test('fails with what its body throws, whoever asks', async () => {
    const job = new Job('copy', async function* () {
      yield { done: 0, total: 1 }
      throw new BlockError('EIO', 'no')
    })
    await job.next()
    await expect(job.next()).rejects.toThrow('no')
    await expect(job.run()).rejects.toThrow('no')
    expect(job.error).toMatchObject({ code: 'EIO' })
  })

  test.each([
    ['report', 'ENOSPC', 'fails'],
    ['ignore', 'EIO', 'goes on'],
    ['stop', 'EIO', 'pauses'],
    ['enospc', 'ENOSPC', 'pauses'],
    ['enospc', 'EIO', 'fails'],
  ] as const)('with the policy %s at %s %s', async (policy: JobErrorPolicy, code, outcome) => {
    const time = new Time()
    let tries = 0
    const job = new Job(
      'copy',
      async function* (control) {
        for (;;) {
          if (++tries > 1) return tries
          control.failed(new BlockError(code, 'no'), policy)
          yield { done: 0, total: 1 }
        }
      },
      { clock: time },
    )
    const ran = job.run().catch((error) => error.code)
    await time.pass(0)
    if (outcome === 'pauses') {
      expect([job.status, (job.error as BlockError).code, tries]).toEqual(['paused', code, 1])
      job.resume()
    }
    expect(await ran).toBe(outcome === 'fails' ? code : 2)
  })

  test('that is ready is completed in the way that was asked for', async () => {
    const job = new Job('mirror', async function* (control) {
      yield { done: 0, total: 1 }
      control.ready(true)
      while (control.completing === undefined) {
        yield { done: 1, total: 1 }
        await control.wait(new Promise(() => {}))
      }
      return control.completing.pivot ?? true
    })
    await expect(job.complete()).rejects.toMatchObject({ code: 'EBUSY' })
    let loops = 0
    for await (const _ of job) {
      loops++
      if (job.status === 'ready') expect(await job.complete({ pivot: false })).toBe(false)
    }
    expect(loops).toBe(2)
  })
})
