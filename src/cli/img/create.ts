/** `block86 img create`: makes an image. */

import { host } from '#host'
import { formats } from '../../block/formats/index.ts'
import { parseFileName } from '../node-options.ts'
import { parse, sizeArgument } from './arguments.ts'
import { type Console, Failure, misuse, printer } from './console.ts'
import { checkLists, optionsHelp, optionsOf, readOptions, shown, wantsHelp } from './format-options.ts'
import { creatable, makeImage } from './make.ts'
import { openPlace, reasonOf, resolveBacking } from './open.ts'

const USAGE = `usage: block86 img create [--object OBJECTDEF] [-q] [-f FMT] [-b BACKING_FILE [-F BACKING_FMT]] [-u] [-o OPTIONS] FILENAME [SIZE]

  -f FMT           format of the new image (default raw)
  -b BACKING_FILE  image that shows through where this one has nothing
  -F BACKING_FMT   format of the backing file
  -u               do not open the backing file
  -o OPTIONS       options of the format, name=value,...; -o help lists them
  -q               print errors alone
`

/** Runs the verb. */
export async function create(argv: readonly string[], console: Console): Promise<number> {
  const args = parse(
    argv,
    [
      { short: 'F', key: 'backing-format', value: true },
      { short: 'b', key: 'backing', value: true },
      { short: 'f', key: 'format', value: true },
      { short: 'o', key: 'options', value: true },
      { short: 'q', long: 'quiet' },
      { short: 'u', key: 'unsafe' },
    ],
    USAGE,
    console,
  )
  const print = printer(console, args.has('quiet'))
  const formatName = args.last('format') ?? 'raw'
  const lists = args.all('options')
  checkLists(lists)
  const [name, sizeText, more] = args.operands
  if (wantsHelp(lists)) {
    print(createHelp(formatName, name))
    return 0
  }
  if (name === undefined) throw misuse('Expecting image file name')
  const given = sizeText === undefined ? undefined : sizeArgument(sizeText, 'image size')
  if (more !== undefined) throw misuse(`Unexpected argument: ${more}`)
  try {
    await createImage(name, formatName, given, lists, {
      backing: args.last('backing'),
      backingFormat: args.last('backing-format'),
      unsafe: args.has('unsafe'),
      print,
    })
  } catch (error) {
    if (error instanceof Failure) throw new Failure(`${name}: ${error.message}`)
    throw error
  }
  return 0
}

/** What `-o help` tells. */
export function createHelp(formatName: string, name: string | undefined): string {
  if (!formats.some((format) => format.name === formatName)) throw new Failure(`Unknown file format '${formatName}'`)
  creatable(formatName)
  if (name !== undefined) return optionsHelp(formatName, true, 'Supported options:\n')
  const title = `Supported ${formatName} options:\n`
  const more =
    '\nThe protocol level may support further options.\nSpecify the target filename to include those options.\n'
  return optionsHelp(formatName, false, title) + more
}

interface Wanted {
  readonly backing: string | undefined
  readonly backingFormat: string | undefined
  readonly unsafe: boolean
  print(text: string): void
}

async function createImage(
  name: string,
  formatName: string,
  given: number | undefined,
  lists: readonly string[],
  wanted: Wanted,
): Promise<void> {
  const format = creatable(formatName)
  const scheme = /^([a-z][a-z0-9+.-]*):/i.exec(name.split('/', 1)[0]!)?.[1]
  if (scheme !== undefined && scheme !== 'file' && !host.protocols.some(({ schemes }) => schemes.includes(scheme)))
    throw new Failure(`Unknown protocol '${scheme}'`)
  const known = optionsOf(formatName)
  const values = readOptions(lists, known)
  if (values.has('size') && given !== undefined) throw new Failure('The image size must be specified only once')
  if (given !== undefined) values.set('size', given)
  if (wanted.backing !== undefined) {
    if (!known.some((option) => option.name === 'backing_file'))
      throw new Failure(`Backing file not supported for file format '${formatName}'`)
    values.set('backing_file', wanted.backing)
  }
  if (wanted.backingFormat !== undefined) {
    if (!known.some((option) => option.name === 'backing_fmt'))
      throw new Failure(`Backing format not supported for file format '${formatName}'`)
    values.set('backing_fmt', wanted.backingFormat)
  }
  await sizeFromBacking(name, values, wanted)
  const size = values.get('size')
  if (size === undefined) throw new Failure('Image creation needs a size parameter')
  wanted.print(`Formatting '${name}', fmt=${formatName} ${shown(known, values)}\n`)
  await makeImage(name, format, Number(size), known, values)
}

/** Opens the backing file, to see that it is there, and how large it is. */
async function sizeFromBacking(
  name: string,
  values: Map<string, string | number | boolean>,
  wanted: Wanted,
): Promise<void> {
  const backing = values.get('backing_file')
  if (backing === undefined) return
  if (backing === '') throw new Failure('Expected backing file name, got empty string')
  if (backing === name) throw new Failure('Error: Trying to create an image with the same filename as the backing file')
  const format = values.get('backing_fmt')
  if (wanted.unsafe && values.has('size')) return
  const full = resolveBacking(name, String(backing))
  const formatText = format === undefined ? undefined : String(format)
  let opened: Awaited<ReturnType<typeof openPlace>>
  try {
    opened = await openPlace(parseFileName(full), full, formatText, { readOnly: true, noBacking: true }, [])
  } catch (error) {
    throw new Failure(`${reasonOf(error, full)}\nCould not open backing image.`)
  }
  const { size } = opened.device
  const found = opened.format
  await opened.close()
  if (format === undefined) {
    throw new Failure(`Backing file specified without backing format\nDetected format of ${found}.`)
  }
  if (!values.has('size')) values.set('size', size)
}
