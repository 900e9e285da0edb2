/** `block86 img check`: checks an image, and repairs it. */

import type { CheckResult } from '../../block/checkresult.ts'
import type { BlockDevice } from '../../block/device.ts'
import { errnoOf } from '../../block/error.ts'
import { checkQcow2 } from '../../block/formats/qcow2/check.ts'
import { readImageHeader } from '../../block/formats/qcow2/image.ts'
import { checkQed, type QedCheckResult } from '../../block/formats/qed/check.ts'
import { readQedHeader } from '../../block/formats/qed/index.ts'
import { parseFileName } from '../node-options.ts'
import { cacheMode, outputFormat, parse } from './arguments.ts'
import { type Console, Failure, misuse, printer } from './console.ts'
import { prettyJson } from './json.ts'
import { type Flags, type Opened, openFile, openGiven } from './open.ts'
import { Reason, strerror } from './reasons.ts'

const USAGE = `usage: block86 img check [--object OBJECTDEF] [--image-opts] [-q] [-f FMT] [--output=OFMT] [-r [leaks | all]] [-T SRC_CACHE] [-U] FILENAME

  -f FMT         format of the image (default: guessed)
  --output=OFMT  human (default) or json
  -r leaks       give back clusters that nothing uses
  -r all         mend everything that can be mended
  -T SRC_CACHE   cache mode
  -U             open it though another program writes to it
  -q             print errors alone

Exit status: 0 no errors, 1 the check failed, 2 the image is corrupt, 3 it has leaked clusters, 63 its format has no checks.
`

/** What a check found: QED compresses nothing. */
type Found = QedCheckResult & Partial<CheckResult>

/** Runs the verb. */
export async function check(argv: readonly string[], console: Console): Promise<number> {
  const args = parse(
    argv,
    [
      { short: 'f', long: 'format', value: true },
      { short: 'r', long: 'repair', value: true },
      { long: 'output', value: true },
      { short: 'T', key: 'source-cache', value: true },
      { short: 'q', long: 'quiet' },
      { short: 'U', long: 'force-share' },
    ],
    USAGE,
    console,
  )
  const repair = args.last('repair')
  if (repair !== undefined && repair !== 'leaks' && repair !== 'all')
    throw misuse(`Unknown option value for -r (expecting 'leaks' or 'all'): ${repair}`)
  const [name, ...more] = args.operands
  if (name === undefined || more.length > 0) throw misuse('Expecting one image file name')
  const output = outputFormat(args)
  const cache = cacheMode(args.last('source-cache') ?? 'writeback', 'source cache')
  const forceShare = args.has('force-share')
  if (forceShare && repair !== undefined)
    throw new Failure(`Could not open '${name}': force-share=on can only be used with read-only images`)
  const print = printer(console, args.has('quiet'))
  const flags: Flags = { readOnly: true, cache, forceShare }
  const { format, found } = await run(console, name, args.last('format'), flags, args.has('image-opts'), repair)
  if (found['check-errors'] > 0) console.err.write('block86: Check failed\n')
  if (output === 'json') print(`${prettyJson(forJson(found, name, format))}\n`)
  else print(human(found, format))
  if (found['check-errors'] > 0) return 1
  if (found.corruptions > 0) return 2
  return found.leaks > 0 ? 3 : 0
}

async function run(
  console: Console,
  name: string,
  wanted: string | undefined,
  flags: Flags,
  imageOptions: boolean,
  repair: 'leaks' | 'all' | undefined,
): Promise<{ format: string; found: Found }> {
  // The file is taken first: what is looked at is what will be mended.
  const mended = repair === undefined ? undefined : await openToMend(name, flags, imageOptions)
  let opened: Opened | undefined
  try {
    const looked = mended === undefined ? flags : { ...flags, forceShare: true }
    opened = await openGiven(console, name, wanted, looked, imageOptions)
    const { format } = opened
    if (format !== 'qcow2' && format !== 'qed') throw new Failure('This image format does not support checks', 63)
    const tell = (message: string) => console.err.write(`${message}\n`)
    const found = await checkFile(opened.name, format, mended ?? opened.file, repair, tell)
    await mended?.flush()
    return { format, found }
  } catch (error) {
    if (error instanceof Failure) throw error
    if (repair !== undefined || errnoOf(error) !== 'EINVAL') throw new Failure(`Check failed: ${strerror(error)}`)
    throw error
  } finally {
    await opened?.close()
    await mended?.close()
  }
}

async function openToMend(name: string, flags: Flags, imageOptions: boolean): Promise<BlockDevice> {
  const place = imageOptions ? undefined : parseFileName(name)
  if (typeof place !== 'string') throw new Failure(`Could not open '${name}': it cannot be repaired by that name`)
  try {
    return await openFile(place, { ...flags, readOnly: false })
  } catch (error) {
    throw error instanceof Reason ? new Failure(`Could not open '${name}': ${error.message}`) : error
  }
}

/** Checks the image in a file that nobody else writes. */
async function checkFile(
  name: string,
  format: 'qcow2' | 'qed',
  file: BlockDevice,
  repair: 'leaks' | 'all' | undefined,
  tell: (message: string) => void,
): Promise<Found> {
  if (format === 'qcow2') return checkQcow2(name, file, await readImageHeader(name, file), repair, tell)
  const found = await checkQed(name, file, await readQedHeader(name, file), repair)
  for (const message of found.messages) tell(message)
  return found
}

function forJson(found: Found, name: string, format: string): object {
  const { messages: _, 'check-errors': errors, ...counts } = found
  const counted = Object.fromEntries(Object.entries(counts).filter(([, count]) => count !== 0))
  if (format === 'qed') delete counted['image-end-offset']
  return { ...counted, 'check-errors': errors, filename: name, format }
}

function human(found: Found, format: string): string {
  let text = ''
  const { corruptions, leaks } = found
  if (found['leaks-fixed'] > 0 || found['corruptions-fixed'] > 0) {
    text +=
      'The following inconsistencies were found and repaired:\n\n' +
      `    ${found['leaks-fixed']} leaked clusters\n    ${found['corruptions-fixed']} corruptions\n\n` +
      'Double checking the fixed image now...\n'
  }
  if (corruptions === 0 && leaks === 0 && found['check-errors'] === 0) text += 'No errors were found on the image.\n'
  if (corruptions > 0)
    text += `\n${corruptions} errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.\n`
  if (leaks > 0)
    text += `\n${leaks} leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.\n`
  if (found['check-errors'] > 0) text += `\n${found['check-errors']} internal errors have occurred during the check.\n`
  const total = found['total-clusters']
  const allocated = found['allocated-clusters']
  const percent = (part: number, whole: number) => `${((part * 100) / whole).toFixed(2)}%`
  if (total !== 0 && allocated !== 0) {
    text +=
      `${allocated}/${total} = ${percent(allocated, total)} allocated, ` +
      `${percent(found['fragmented-clusters'], allocated)} fragmented, ` +
      `${percent(found['compressed-clusters'] ?? 0, allocated)} compressed clusters\n`
  }
  if (format !== 'qed' && found['image-end-offset'] > 0) text += `Image end offset: ${found['image-end-offset']}\n`
  return text
}
