/** `block86 img map`: tells where in its files an image has what. */
import { writeFileSync } from 'node:fs'
import { outputFormat, parse, sizeArgument } from './arguments.ts'
import { type Console, Failure, misuse } from './console.ts'
import { type Opened, openGiven } from './open.ts'
import { strerror } from './reasons.ts'
import { type Run, walk } from './status.ts'

const USAGE = `usage: block86 img map [--object OBJECTDEF] [--image-opts] [-f FMT] [--start-offset=OFFSET] [--max-length=LEN] [--output=OFMT] [--picture=FILE.svg] [-U] FILENAME

  -f FMT                     format of the image (default: guessed)
  -s, --start-offset=OFFSET  where to begin
  -l, --max-length=LEN       how far to go
  --output=OFMT              human (default) or json
  --picture=FILE.svg         draw it instead: what is where in the image and its chain
  -U                         open it though another program writes to it
`

/** Runs the verb. */
export async function map(argv: readonly string[], console: Console): Promise<number> {
  const args = parse(
    argv,
    [
      { short: 'f', long: 'format', value: true },
      { long: 'output', value: true },
      { short: 's', long: 'start-offset', value: true },
      { short: 'l', long: 'max-length', value: true },
      { long: 'picture', value: true },
      { short: 'U', long: 'force-share' },
    ],
    USAGE,
    console,
  )
  const size = (key: string, name: string) => {
    const text = args.last(key)
    return text === undefined ? undefined : sizeArgument(text, name)
  }
  const from = size('start-offset', 'start offset') ?? 0
  const most = size('max-length', 'max length')
  const [name, ...more] = args.operands
  if (name === undefined || more.length > 0) throw misuse('Expecting one image file name')
  const output = outputFormat(args)
  const flags = { readOnly: true, forceShare: args.has('force-share') }
  const opened = await openGiven(console, name, args.last('format'), flags, args.has('image-opts'))
  try {
    const end = most === undefined ? opened.device.size : Math.min(opened.device.size, from + most)
    const picture = args.last('picture')
    if (picture !== undefined) {
      const { drawMap } = await import('./picture.ts')
      writeFileSync(picture, await drawMap(opened))
      return 0
    }
    await (output === 'json' ? tellJson(opened, from, end, console) : tellHuman(opened, from, end, console))
  } finally {
    await opened.close()
  }
  return 0
}

/** Runs that follow each other and are of one kind, as one. */
async function joined(opened: Opened, from: number, end: number, visit: (run: Run) => void): Promise<void> {
  let current: Run | undefined
  try {
    await walk(opened, from, end, (run) => {
      if (current !== undefined && continues(current, run))
        current = { ...current, length: current.length + run.length }
      else {
        if (current !== undefined) visit(current)
        current = run
      }
    })
  } catch (error) {
    if (error instanceof Failure) throw error
    throw new Failure(`Could not read file metadata: ${strerror(error)}`)
  }
  if (current !== undefined) visit(current)
}

function continues(a: Run, b: Run): boolean {
  return (
    a.depth === b.depth &&
    a.zero === b.zero &&
    a.data === b.data &&
    a.present === b.present &&
    a.compressed === b.compressed &&
    (a.offset === undefined ? b.offset === undefined : a.offset + a.length === b.offset)
  )
}

async function tellJson(opened: Opened, from: number, end: number, console: Console): Promise<void> {
  const lines: string[] = []
  await joined(opened, from, end, (run) => {
    const offset = run.offset === undefined ? '' : `, "offset": ${run.offset}`
    lines.push(
      `{ "start": ${run.start}, "length": ${run.length}, "depth": ${run.depth}, "present": ${run.present}, ` +
        `"zero": ${run.zero}, "data": ${run.data}${offset}}`,
    )
  })
  console.out.write(`[${lines.join(',\n')}]\n`)
}

async function tellHuman(opened: Opened, from: number, end: number, console: Console): Promise<void> {
  const row = (...columns: string[]) => {
    console.out.write(
      `${columns
        .slice(0, 3)
        .map((each) => each.padEnd(16))
        .join('')}${columns[3]}\n`,
    )
  }
  const hex = (value: number) => (value === 0 ? '0' : `0x${value.toString(16)}`)
  row('Offset', 'Length', 'Mapped to', 'File')
  await joined(opened, from, end, (run) => {
    if (!run.data || run.zero) return
    if (run.offset === undefined) throw new Failure('File contains external, encrypted or compressed clusters.')
    row(hex(run.start), hex(run.length), hex(run.offset), run.layer.name)
  })
}
