/** `block86 img commit`: writes an image down into its backing file. */
import type { Qcow2Image } from '../../block/formats/qcow2/image.ts'
import { commit as commitJob } from '../../block/jobs/commit.ts'
import { ConvertError } from '../../block/jobs/convert.ts'
import { cacheMode, parse, sizeArgument } from './arguments.ts'
import { type Console, Failure, misuse, printer } from './console.ts'
import { interruptible } from './interrupt.ts'
import { type Flags, type Opened, openGiven } from './open.ts'
import { Progress } from './progress.ts'
import { strerror } from './reasons.ts'

const USAGE = `usage: block86 img commit [--object OBJECTDEF] [--image-opts] [-q] [-f FMT] [-t CACHE] [-b BASE] [-r RATE_LIMIT] [-d] [-p] FILENAME

  -b BASE        write down to this image of the chain (default: the backing file)
  -d             leave the image as it is; else it is emptied
  -f FMT         format of the image (default: guessed)
  -t CACHE       cache mode
  -r RATE_LIMIT  bytes per second
  -p             show progress
  -q             print errors alone
`

/** Runs the verb. */
export async function commit(argv: readonly string[], console: Console): Promise<number> {
  const args = parse(
    argv,
    [
      { short: 'f', key: 'format', value: true },
      { short: 't', key: 'cache', value: true },
      { short: 'b', key: 'base', value: true },
      { short: 'd', key: 'drop' },
      { short: 'p', key: 'progress' },
      { short: 'q', key: 'quiet' },
      { short: 'r', key: 'rate', value: true },
    ],
    USAGE,
    console,
  )
  const rate = args.last('rate')
  const speed = rate === undefined ? 0 : sizeArgument(rate, 'rate limit')
  const [name, ...more] = args.operands
  if (name === undefined || more.length > 0) throw misuse('Expecting one image file name')
  const cache = cacheMode(args.last('cache') ?? 'writeback', 'cache')
  const base = args.last('base')
  const print = printer(console, args.has('quiet'))
  const flags: Flags = { readOnly: false, cache }
  const open = (more: Partial<Flags>) =>
    openGiven(console, name, args.last('format'), { ...flags, ...more }, args.has('image-opts'))
  return interruptible(async (signal) => {
    const looked = await open({})
    const progress = new Progress(console, args.has('progress') && !args.has('quiet'), 1)
    try {
      let depth: number
      try {
        progress.set(0)
        depth = baseDepth(looked, name, base)
      } finally {
        await looked.close()
      }
      const top = await open({ writableDepth: depth })
      try {
        await run(top, depth, speed, signal, progress)
        if (depth === 1 && base === undefined && !args.has('drop')) await empty(top)
      } finally {
        await top.close()
      }
    } finally {
      progress.end()
    }
    print('Image committed.\n')
    return 0
  })
}

/** How far down the chain the image to write to is. */
function baseDepth(top: Opened, name: string, base: string | undefined): number {
  if (top.backing === undefined) throw new Failure('Image does not have a backing file')
  if (base === undefined) return 1
  let depth = 1
  for (let layer: Opened | undefined = top.backing; layer !== undefined; layer = layer.backing, depth++) {
    if (layer.name === base) return depth
  }
  throw new Failure(`Did not find '${base}' in the backing chain of '${name}'`)
}

async function run(top: Opened, depth: number, speed: number, signal: AbortSignal, progress: Progress): Promise<void> {
  let base = top
  for (let step = 0; step < depth; step++) base = base.backing!
  let percent = 0
  try {
    const job = commitJob(top.device, base.device, { signal, ...(speed > 0 ? { speed } : {}) })
    for await (const { done, total } of job) {
      percent = total === 0 ? 100 : (done / total) * 100
      progress.set(percent, done)
    }
    signal.throwIfAborted()
  } catch (error) {
    if (signal.aborted) throw error
    throw new Failure(
      error instanceof ConvertError ? `Block job failed: ${strerror(error)}` : String((error as Error).message),
    )
  }
  if (percent < 100) progress.set(100)
}

/** What was written down is given up above; where a format cannot do that, it stays. */
async function empty({ device, image, format }: Opened): Promise<void> {
  if (format !== 'qcow2') return
  const { clusters, clusterSize } = image as Qcow2Image
  await clusters.drop(0, Math.ceil(device.size / clusterSize) * clusterSize)
  await device.flush()
}
