/** Writes an image that nobody else uses down into a layer of its chain. */
import type { BlockDevice } from '../device.ts'
import { convert } from './convert.ts'
import { Job, type JobOptions } from './job.ts'

/** Copies all that `top` has above its layer `base` into that, which becomes as large as `top`; durable when it ends. */
export function commit(top: BlockDevice, base: BlockDevice, options: JobOptions = {}): Job {
  return new Job(
    'commit',
    async function* () {
      if (top.size > base.size) await base.resize(top.size)
      const copy = convert([{ device: top }], base, { ...options, base })
      try {
        for await (const progress of copy) yield progress
      } finally {
        await copy.cancel()
      }
      await base.flush()
    },
    options.signal === undefined ? {} : { signal: options.signal },
  )
}
