/** `block86 img bitmap`: persistent bitmaps of what was written. */
import { BlockError, messageOf } from '../../block/error.ts'
import type { Bitmaps } from '../../block/formats/qcow2/bitmaps.ts'
import { BITMAP_IN_USE } from '../../block/formats/qcow2/bitmaptable.ts'
import type { Qcow2Image } from '../../block/formats/qcow2/image.ts'
import { parse, sizeArgument } from './arguments.ts'
import { type Console, Failure } from './console.ts'
import { type Opened, openGiven } from './open.ts'

const USAGE = `usage: block86 img bitmap (--merge SOURCE | --add | --remove | --clear | --enable | --disable)... [-b SOURCE_FILE [-F SOURCE_FMT]]
         [-g GRANULARITY] [--object OBJECTDEF] [--image-opts | -f FMT] FILENAME BITMAP

  --add             make it; -g GRANULARITY says how much of the disk a bit is for (default 64k)
  --remove          delete it
  --clear           clear its bits
  --enable          let it follow writes
  --disable         let it be as it is
  --merge SOURCE    set what is set in another, of SOURCE_FILE if that is given
  -f FMT            format of the image (default: guessed)
`

const ACTIONS = ['add', 'remove', 'clear', 'enable', 'disable', 'merge']

/** Runs the verb. */
export async function bitmap(argv: readonly string[], console: Console): Promise<number> {
  const args = parse(
    argv,
    [
      { short: 'b', long: 'source-file', value: true },
      { short: 'f', key: 'format', value: true },
      { short: 'F', long: 'source-format', value: true },
      { short: 'g', long: 'granularity', value: true },
      { long: 'add' },
      { long: 'remove' },
      { long: 'clear' },
      { long: 'enable' },
      { long: 'disable' },
      { long: 'merge', value: true },
    ],
    USAGE,
    console,
  )
  const text = args.last('granularity')
  const granularity = text === undefined ? undefined : sizeArgument(text, 'granularity', 1)
  const [name, tag, ...more] = args.operands
  if (name === undefined || tag === undefined || more.length > 0)
    throw new Failure('Expecting filename and bitmap name')
  const actions = args.options.filter(({ key }) => ACTIONS.includes(key))
  if (actions.length === 0)
    throw new Failure('Need at least one of --add, --remove, --clear, --enable, --disable, or --merge')
  if (granularity !== undefined && !args.has('add')) throw new Failure('granularity only supported with --add')
  const sourceFile = args.last('source-file')
  if (args.has('source-format') && sourceFile === undefined) throw new Failure('-F only supported with -b')
  if (sourceFile !== undefined && !args.has('merge'))
    throw new Failure('Merge bitmap source file only supported with --merge')
  const opened = await openGiven(console, name, args.last('format'), { readOnly: false }, args.has('image-opts'))
  let source: Opened | undefined
  try {
    if (sourceFile !== undefined)
      source = await openGiven(console, sourceFile, args.last('source-format'), { readOnly: true })
    for (const { key, value } of actions) {
      try {
        await act(opened, source ?? opened, tag, key, value, granularity)
      } catch (error) {
        throw new Failure(`Operation ${key} on bitmap ${tag} failed: ${messageOf(error)}`)
      }
    }
  } finally {
    await source?.close()
    await opened.close()
  }
  return 0
}

async function act(
  opened: Opened,
  source: Opened,
  tag: string,
  action: string,
  value: string,
  granularity = 65536,
): Promise<void> {
  if (action === 'add') checkNew(opened, tag, granularity)
  const bitmaps = bitmapsOf(opened)
  if (action !== 'add') find(bitmaps, tag)
  switch (action) {
    case 'add':
      return bitmaps!.add(tag, granularity)
    case 'remove':
      return bitmaps!.remove(tag)
    case 'clear':
      return bitmaps!.clear(tag)
    case 'enable':
      return bitmaps!.enable(tag, true)
    case 'disable':
      return bitmaps!.enable(tag, false)
    default: {
      const from = bitmapsOf(source)
      const { flags, granularityBits } = find(from, value)
      if (flags & BITMAP_IN_USE)
        throw new Failure(
          `Bitmap '${value}' is inconsistent and cannot be used\nTry block-dirty-bitmap-remove to delete this bitmap from disk`,
        )
      await bitmaps!.merge(tag, await from!.bits(value), 2 ** granularityBits)
    }
  }
}

function bitmapsOf(opened: Opened): Bitmaps | undefined {
  return opened.format === 'qcow2' ? (opened.image as Qcow2Image).bitmaps : undefined
}

function find(bitmaps: Bitmaps | undefined, name: string) {
  const found = bitmaps?.list.find((entry) => entry.name === name)
  if (found === undefined) throw new BlockError('ENOENT', `Dirty bitmap '${name}' not found`)
  return found
}

function checkNew(opened: Opened, tag: string, granularity: number): void {
  if (!Number.isInteger(Math.log2(granularity)) || granularity < 512)
    throw new Failure('Granularity must be power of 2 and at least 512')
  if (tag === '') throw new Failure('Bitmap name cannot be empty')
  if (new TextEncoder().encode(tag).length > 1023) throw new Failure('Bitmap name is too long')
  if (opened.format !== 'qcow2')
    throw new Failure(`Can't store persistent bitmaps to ${opened.name}: Operation not supported`)
  const image = opened.image as Qcow2Image
  if (image.bitmaps.list.some((entry) => entry.name === tag)) throw new Failure(`Bitmap already exists: ${tag}`)
  if (image.header.version === 2) {
    throw new Failure(
      `Can't make bitmap '${tag}' persistent in '${opened.name}': Cannot store dirty bitmaps in qcow2 v2 files`,
    )
  }
}
