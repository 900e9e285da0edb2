/** `block86 img amend`: changes options of an existing image. */
import { messageOf } from '../../block/error.ts'
import { formats } from '../../block/formats/index.ts'
import { amendQcow2, type Qcow2AmendOptions } from '../../block/formats/qcow2/amend.ts'
import type { Qcow2Image } from '../../block/formats/qcow2/image.ts'
import type { ImageDevice } from '../../block/mover.ts'
import { cacheMode, parse } from './arguments.ts'
import { type Console, Failure, misuse } from './console.ts'
import {
  checkLists,
  FORMAT_OPTIONS,
  type OptionValues,
  optionsHelp,
  optionsOf,
  readOptions,
  wantsHelp,
} from './format-options.ts'
import { type Opened, openGiven } from './open.ts'
import { Progress } from './progress.ts'

const USAGE = `usage: block86 img amend [--object OBJECTDEF] [--image-opts] [-p] [-q] [-f FMT] [-t CACHE] [--force] -o OPTIONS FILENAME

  -o OPTIONS  what to change, name=value,...; -o help lists it
  -f FMT      format of the image (default: guessed)
  -t CACHE    cache mode
  --force     allow what may lose data
  -p          show progress
  -q          print errors alone
`

/** Runs the verb. */
export async function amend(argv: readonly string[], console: Console): Promise<number> {
  const args = parse(
    argv,
    [
      { short: 'o', key: 'options', value: true },
      { short: 'f', key: 'format', value: true },
      { short: 't', key: 'cache', value: true },
      { short: 'p', key: 'progress' },
      { short: 'q', key: 'quiet' },
      { long: 'force' },
    ],
    USAGE,
    console,
  )
  const lists = args.all('options')
  if (lists.length === 0) throw misuse('Must specify options (-o)')
  checkLists(lists)
  const progress = new Progress(console, args.has('progress') && !args.has('quiet'), 1)
  try {
    const wanted = args.last('format')
    if (wanted !== undefined && wantsHelp(lists)) {
      console.out.write(amendHelp(wanted))
      return 0
    }
    const [name, ...more] = args.operands
    if (name === undefined || more.length > 0) throw new Failure('Expecting one image file name')
    const cache = cacheMode(args.last('cache') ?? 'writeback', 'cache')
    const opened = await openGiven(console, name, wanted, { readOnly: false, cache }, args.has('image-opts'))
    try {
      if (wantsHelp(lists)) console.out.write(amendHelp(opened.format))
      else await change(opened, lists, progress)
    } finally {
      await opened.close()
    }
  } finally {
    progress.end()
  }
  return 0
}

function amendHelp(format: string): string {
  if (!formats.some((each) => each.name === format)) throw new Failure(`Unknown file format '${format}'`)
  if (format !== 'qcow2') throw new Failure(`Format driver '${format}' does not support option amendment`)
  return optionsHelp(format, false, `Amend options for '${format}':\n`, true)
}

async function change(opened: Opened, lists: readonly string[], progress: Progress): Promise<void> {
  const { format } = opened
  if (format !== 'qcow2') throw new Failure(`Format driver '${format}' does not support option amendment`)
  progress.set(0)
  const values = read(lists)
  const image = opened.image as Qcow2Image
  check(image, values)
  const size = values.get('size')
  const options: Record<string, unknown> = {}
  for (const { name, key } of FORMAT_OPTIONS.qcow2!) {
    const value = values.get(name)
    if (value !== undefined && key !== undefined && key !== 'size' && !key.startsWith('backing') && key !== 'dataFile')
      options[key] = value
  }
  try {
    await amendQcow2(opened.device.driver as ImageDevice, options as Qcow2AmendOptions)
    if (size !== undefined) await opened.device.resize(Math.ceil(Number(size) / 512) * 512)
    await opened.device.flush()
  } catch (error) {
    throw new Failure(messageOf(error).replace(`Cannot amend ${opened.name}: `, ''))
  }
  progress.set(100)
}

/** The options, if they may be changed. */
function read(lists: readonly string[]): OptionValues {
  const known = FORMAT_OPTIONS.qcow2!.filter((option) => option.amend)
  try {
    return readOptions(lists, known)
  } catch (error) {
    const strange = error instanceof Failure ? /^Invalid parameter '(.*)'$/.exec(error.message)?.[1] : undefined
    if (strange !== undefined && optionsOf('qcow2').some(({ name }) => name === strange))
      throw new Failure(`Invalid parameter '${strange}'\nThis option is only supported for image creation`)
    throw error
  }
}

function check(image: Qcow2Image, values: OptionValues): void {
  const compat = values.get('compat')
  if (compat !== undefined && !['0.10', '1.1', 'v2', 'v3'].includes(String(compat)))
    throw new Failure(`Unknown compatibility level ${compat}`)
  if (values.has('backing_file') || values.has('backing_fmt'))
    throw new Failure("Cannot amend the backing file\nYou can use 'qemu-img rebase' instead.")
  if (values.has('data_file')) {
    throw new Failure(
      image.dataFile === undefined
        ? 'data-file can only be set for images that use an external data file'
        : "Parameter 'data_file' is not supported by block86",
    )
  }
  const { header } = image
  if (values.get('data_file_raw') === true && (header.autoclear & 2n) === 0n)
    throw new Failure('data-file-raw cannot be set on existing images')
  const bits = Number(values.get('refcount_bits') ?? 2 ** header.refcountOrder)
  if (!Number.isInteger(Math.log2(bits)) || bits > 64)
    throw new Failure('Refcount width must be a power of two and may not exceed 64 bits')
  const version = compat === undefined ? header.version : compat === '0.10' || compat === 'v2' ? 2 : 3
  if (version === 2 && values.get('lazy_refcounts') === true)
    throw new Failure(
      'Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)',
    )
  if (version === 2 && header.version === 2 && bits !== 16)
    throw new Failure(
      'Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)',
    )
  if (version === 2 && bits !== 16) throw new Failure('compat=0.10 requires refcount_bits=16')
}
