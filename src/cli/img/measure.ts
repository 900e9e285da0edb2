/** `block86 img measure`: tells how large a new image will get. */
import type { BlockDevice } from '../../block/device.ts'
import { formats } from '../../block/formats/index.ts'
import { BITMAP_IN_USE } from '../../block/formats/qcow2/bitmaptable.ts'
import type { Qcow2CreateOptions } from '../../block/formats/qcow2/create.ts'
import type { Qcow2Image } from '../../block/formats/qcow2/image.ts'
import { measureQcow2 } from '../../block/formats/qcow2/info.ts'
import { shows } from '../../block/jobs/holes.ts'
import { outputFormat, parse, sizeArgument } from './arguments.ts'
import { type Console, Failure } from './console.ts'
import { libraryOptions, type OptionValues, optionsOf, readOptions } from './format-options.ts'
import { prettyJson } from './json.ts'
import { checkValues } from './make.ts'
import { type Opened, openGiven } from './open.ts'
import { snapshotDevice, snapshotKey } from './snapshot-source.ts'

const USAGE = `usage: block86 img measure [--output=OFMT] [-O OUTPUT_FMT] [-o OPTIONS] [--size N | [--object OBJECTDEF] [--image-opts] [-f FMT] [-l SNAPSHOT_PARAM] [-U] FILENAME]

  --size N           size of the new disk
  FILENAME           or the image that it will hold
  -O OUTPUT_FMT      format of the new image (default raw)
  -o OPTIONS         its options, name=value,...
  -f FMT             format of the image (default: guessed)
  -l SNAPSHOT_PARAM  measure an internal snapshot
  --output=OFMT      human (default) or json
  -U                 open the image though another program writes to it
`

interface Measured {
  required: number
  'fully-allocated': number
  bitmaps?: number
}

/** Runs the verb. */
export async function measure(argv: readonly string[], console: Console): Promise<number> {
  const args = parse(
    argv,
    [
      { short: 'f', key: 'format', value: true },
      { short: 'O', key: 'output-format', value: true },
      { short: 'o', key: 'options', value: true },
      { short: 'l', key: 'snapshot', value: true },
      { long: 'output', value: true },
      { long: 'size', value: true },
      { short: 'U', long: 'force-share' },
    ],
    USAGE,
    console,
  )
  const output = outputFormat(args)
  const sizeText = args.last('size')
  const given = sizeText === undefined ? undefined : sizeArgument(sizeText, 'image size')
  const snapshot = args.last('snapshot')
  const key = snapshot === undefined ? undefined : snapshotKey(snapshot)
  const [name, ...more] = args.operands
  if (more.length > 0) throw new Failure('At most one filename argument is allowed.')
  if (name === undefined && (args.has('image-opts') || args.has('format') || key !== undefined))
    throw new Failure('--image-opts, -f, and -l require a filename argument.')
  if (name === undefined && given === undefined) throw new Failure('Either --size N or one filename must be specified.')
  if (name !== undefined && given !== undefined) throw new Failure('--size N cannot be used together with a filename.')
  let source: Opened | undefined
  try {
    if (name !== undefined) {
      const flags = { readOnly: true, forceShare: args.has('force-share') }
      source = await openGiven(console, name, args.last('format'), flags, args.has('image-opts'))
    }
    const device = key === undefined ? source?.device : await snapshotDevice(source!, key)
    const found = await measured(args.last('output-format') ?? 'raw', args.all('options'), given, source, device)
    console.out.write(output === 'json' ? `${prettyJson(found)}\n` : human(found))
  } finally {
    await source?.close()
  }
  return 0
}

function human(found: Measured): string {
  const bitmaps = found.bitmaps === undefined ? '' : `bitmaps size: ${found.bitmaps}\n`
  return `required size: ${found.required}\nfully allocated size: ${found['fully-allocated']}\n${bitmaps}`
}

async function measured(
  format: string,
  lists: readonly string[],
  given: number | undefined,
  source: Opened | undefined,
  device: BlockDevice | undefined,
): Promise<Measured> {
  if (!formats.some((each) => each.name === format)) throw new Failure(`Unknown file format '${format}'`)
  const known = optionsOf(format)
  const values = options(format, lists)
  if (format !== 'qcow2' && format !== 'raw')
    throw new Failure(`Block driver '${format}' does not support size measurement`)
  const size = device?.size ?? given!
  const rounded = Math.ceil(size / 512) * 512
  if (format === 'raw') return { required: rounded, 'fully-allocated': rounded }
  checkValues(format, rounded, values)
  const { preallocation, size: _, ...own } = libraryOptions(known, values)
  const wanted: Qcow2CreateOptions = { ...own, name: 'the new image', size: rounded }
  const clusterSize = wanted.clusterSize ?? 65536
  const data = device === undefined ? 0 : await dataOf(device, clusterSize)
  const found: Measured = measureQcow2(wanted, data)
  if (preallocation === 'full' || preallocation === 'falloc') found.required = found['fully-allocated']
  const old = wanted.compat === '0.10' || wanted.compat === 'v2'
  const bitmaps = source?.format === 'qcow2' && (source.image as Qcow2Image).header.version === 3
  if (bitmaps && !old) found.bitmaps = bitmapsOf(source, clusterSize)
  return found
}

function options(format: string, lists: readonly string[]): OptionValues {
  try {
    return readOptions(lists, optionsOf(format))
  } catch (error) {
    if (error instanceof Failure)
      throw new Failure(`${error.message}\nblock86: Invalid options for file format '${format}'`)
    throw error
  }
}

/** Bytes of all clusters in which the disk has data. */
async function dataOf(device: BlockDevice, clusterSize: number): Promise<number> {
  let data = 0
  let counted = 0
  for (let at = 0; at < device.size; ) {
    const run = await shows(device, at, device.size - at)
    if (run.kind === 'data') {
      const first = Math.max(counted, at - (at % clusterSize))
      counted = Math.ceil((at + run.length) / clusterSize) * clusterSize
      data += Math.max(0, counted - first)
    }
    at += run.length
  }
  return data
}

/** What the source's persistent bitmaps will take. */
function bitmapsOf(source: Opened, clusterSize: number): number {
  const up = (bytes: number, unit: number) => Math.ceil(bytes / unit) * unit
  let total = 0
  let directory = 0
  for (const { name, flags, granularityBits } of (source.image as Qcow2Image).bitmaps.list) {
    if (flags & BITMAP_IN_USE) continue
    const bytes = Math.ceil(Math.ceil(source.device.size / 2 ** granularityBits) / 8)
    const clusters = Math.ceil(bytes / clusterSize)
    total += clusters * clusterSize + up(clusters * 8, clusterSize)
    directory += up(24 + new TextEncoder().encode(name).length, 8)
  }
  return total + up(directory, clusterSize)
}
