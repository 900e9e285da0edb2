/** `block86 img rebase`: puts an image on another backing file. */

import { formats } from '../../block/formats/index.ts'
import { changeBacking } from '../../block/formats/qcow2/amend.ts'
import type { Qcow2Image } from '../../block/formats/qcow2/image.ts'
import { FEATURE_BACKING, FEATURE_BACKING_RAW, headerBytes } from '../../block/formats/qed/header.ts'
import { readQedHeader } from '../../block/formats/qed/index.ts'
import { bytesVec } from '../../block/iovec.ts'
import { rebase as rebaseJob } from '../../block/jobs/rebase.ts'
import { parseFileName } from '../node-options.ts'
import { cacheMode, parse } from './arguments.ts'
import { type Console, Failure, misuse } from './console.ts'
import { interruptible } from './interrupt.ts'
import { type Flags, type Opened, openFile, openGiven, openPlace, reasonOf, resolveBacking } from './open.ts'
import { Progress } from './progress.ts'
import { strerror } from './reasons.ts'

const USAGE = `usage: block86 img rebase [--object OBJECTDEF] [--image-opts] [-U] [-q] [-f FMT] [-t CACHE] [-T SRC_CACHE] [-p] [-u] -b BACKING_FILE [-F BACKING_FMT] FILENAME

  -b BACKING_FILE  the new backing file; '' for none
  -F BACKING_FMT   its format
  -u               only name it: what the disk shows may change
  -f FMT           format of the image (default: guessed)
  -t, -T CACHE     cache modes of the image and of the backing files
  -p               show progress
  -q               print errors alone
`

/** Runs the verb. */
export async function rebase(argv: readonly string[], console: Console): Promise<number> {
  const args = parse(
    argv,
    [
      { short: 'f', key: 'format', value: true },
      { short: 'F', key: 'backing-format', value: true },
      { short: 'b', key: 'backing', value: true },
      { short: 'u', key: 'unsafe' },
      { short: 'p', key: 'progress' },
      { short: 't', key: 'cache', value: true },
      { short: 'T', key: 'source-cache', value: true },
      { short: 'q', key: 'quiet' },
      { short: 'U', long: 'force-share' },
    ],
    USAGE,
    console,
  )
  const [name, ...more] = args.operands
  if (name === undefined || more.length > 0) throw misuse('Expecting one image file name')
  const unsafe = args.has('unsafe')
  const backing = args.last('backing')
  if (!unsafe && backing === undefined) throw misuse('Must specify backing file (-b) or use unsafe mode (-u)')
  const cache = cacheMode(args.last('cache') ?? 'writeback', 'cache')
  cacheMode(args.last('source-cache') ?? 'writeback', 'source cache')
  const format = args.last('backing-format')
  const flags: Flags = { readOnly: false, cache, noBacking: unsafe }
  return interruptible(async (signal) => {
    const progress = new Progress(console, args.has('progress') && !args.has('quiet'), 1)
    try {
      const opened = await openGiven(console, name, args.last('format'), flags, args.has('image-opts'))
      try {
        progress.set(0)
        if (format !== undefined && !formats.some((each) => each.name === format))
          throw new Failure(`Invalid format name: '${format}'`)
        if (!unsafe) await copyUp(opened, backing!, format, progress, signal)
        await change(opened, backing === '' ? undefined : backing, format)
        progress.set(100)
      } finally {
        await opened.close()
      }
    } finally {
      progress.end()
    }
    return 0
  })
}

async function copyUp(
  top: Opened,
  name: string,
  format: string | undefined,
  progress: Progress,
  signal: AbortSignal,
): Promise<void> {
  let next: Opened | undefined
  if (name !== '') {
    const full = resolveBacking(top.name, name)
    try {
      next = await openPlace(parseFileName(full), full, format, { readOnly: true }, [])
    } catch (error) {
      throw new Failure(`Could not open new backing file '${name}': ${reasonOf(error, full)}`)
    }
  }
  try {
    if (top.image === undefined) return
    for await (const { done, total } of rebaseJob(top.device, next?.device, { signal })) {
      progress.set(total === 0 ? 100 : (done / total) * 100, done)
    }
    signal.throwIfAborted()
  } catch (error) {
    if (signal.aborted) throw error
    throw new Failure(`Error while writing to COW image: ${strerror(error)}`)
  } finally {
    await next?.close()
  }
}

/** Names the new backing file in the image. */
async function change(opened: Opened, backing: string | undefined, format: string | undefined): Promise<void> {
  const failed = (why: string) => new Failure(`Could not change the backing file to '${backing ?? ''}': ${why}`)
  if (opened.format !== 'qcow2' && opened.format !== 'qed') throw failed('Operation not supported')
  if (backing !== undefined && format === undefined) throw failed('backing format must be specified')
  try {
    if (opened.format === 'qcow2') await changeBacking(opened.image as Qcow2Image, backing, format)
    else await changeQed(opened, backing, format)
  } catch (error) {
    if (error instanceof Error && /too long/.test(error.message)) {
      throw new Failure(`Could not change the backing file to '${backing}': No space left in the file header`)
    }
    throw failed(strerror(error))
  }
}

/** Writes the header of an image that is closed: an open one writes its own. */
async function changeQed(
  { name, device }: Opened,
  backing: string | undefined,
  format: string | undefined,
): Promise<void> {
  await device.close()
  const file = await openFile(name, { readOnly: false })
  try {
    const header = await readQedHeader(name, file)
    header.features &= ~(FEATURE_BACKING | FEATURE_BACKING_RAW)
    if (backing !== undefined) header.features |= FEATURE_BACKING | (format === 'raw' ? FEATURE_BACKING_RAW : 0n)
    header.backingFile = backing
    await file.write(0, bytesVec(headerBytes(name, header)))
    await file.flush()
  } finally {
    await file.close()
  }
}
