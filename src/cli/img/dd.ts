/** `block86 img dd`: copies blocks, with the options of dd. */

import { formats } from '../../block/formats/index.ts'
import { convert } from '../../block/jobs/convert.ts'
import { parse, sizeArgument } from './arguments.ts'
import { type Console, Failure, report } from './console.ts'
import { optionsOf } from './format-options.ts'
import { interruptible } from './interrupt.ts'
import { creatable } from './make.ts'
import { openGiven, openPlace } from './open.ts'
import { Reason, strerror } from './reasons.ts'
import { Target } from './target.ts'

const USAGE = `usage: block86 img dd [--image-opts] [-U] [-f FMT] [-O OUTPUT_FMT] [bs=BLOCK_SIZE] [count=BLOCKS] [skip=BLOCKS] if=INPUT of=OUTPUT

  -f FMT         format of the input (default: guessed)
  -O OUTPUT_FMT  format of the output (default raw)
  -U             open the input though another program writes to it
`

const MOST = 2 ** 31 - 1

/** Runs the verb. */
export async function dd(argv: readonly string[], console: Console): Promise<number> {
  const args = parse(
    argv,
    [
      { short: 'f', key: 'format', value: true },
      { short: 'O', key: 'output-format', value: true },
      { short: 'U', long: 'force-share' },
    ],
    USAGE,
    console,
  )
  const operands = readOperands(args.operands)
  const { input, output, block, count, skip } = operands
  if (input === undefined || output === undefined) throw new Failure('Must specify both input and output files')
  const formatName = args.last('output-format') ?? 'raw'
  const flags = { readOnly: true, forceShare: args.has('force-share'), bulk: true }
  const source = await openGiven(console, input, args.last('format'), flags, args.has('image-opts'))
  try {
    if (!formats.some((format) => format.name === formatName)) throw new Failure('Unknown file format')
    const format = creatable(formatName)
    const offset = skip * block
    // As qemu-img has it: what is skipped counts too.
    const end = count === undefined ? source.device.size : Math.min(source.device.size, count * block)
    if (offset > source.device.size) report(console, `${input}: cannot skip to specified offset`)
    const length = Math.max(0, end - offset)
    await interruptible(async (signal) => {
      const target = await make(output, format, length)
      try {
        const opened = await openPlace(
          target.path,
          target.path,
          formatName,
          { readOnly: false, exact: true, bulk: true, cache: 'unsafe' },
          [],
        )
        try {
          const job = convert(
            [{ device: source.device, offset: Math.min(offset, source.device.size), length }],
            opened.device,
            { signal, ...(target.fresh ? { zeroFrom: 0 } : {}) },
          )
          for await (const _ of job);
          signal.throwIfAborted()
          await opened.device.flush()
        } finally {
          await opened.close()
        }
        target.keep()
      } catch (error) {
        target.abandon()
        if (signal.aborted || error instanceof Failure) throw error
        if (error instanceof Reason) throw new Failure(`Could not open '${output}': ${error.message}`)
        throw new Failure(`error while reading from input image file: ${strerror(error)}`)
      }
    })
  } finally {
    await source.close()
  }
  return 0

  async function make(name: string, format: ReturnType<typeof creatable>, length: number): Promise<Target> {
    try {
      return await Target.make(name, format, length, optionsOf(format.name), new Map([['size', length]]), false)
    } catch (error) {
      if (error instanceof Failure || error instanceof Reason)
        throw new Failure(`${name}: error while creating output image: ${error.message}`)
      throw error
    }
  }
}

interface Operands {
  input?: string
  output?: string
  block: number
  count?: number
  skip: number
}

function readOperands(words: readonly string[]): Operands {
  const operands: Operands = { block: 512, skip: 0 }
  for (const word of words) {
    const equals = word.indexOf('=')
    const [key, value] = equals < 0 ? [word, undefined] : [word.slice(0, equals), word.slice(equals + 1)]
    if (value === undefined) throw new Failure(`unrecognized operand ${word}`)
    if (key === 'if') operands.input = value
    else if (key === 'of') operands.output = value
    else if (key === 'bs') operands.block = sizeArgument(value, 'bs', 1, MOST)
    else if (key === 'count') operands.count = sizeArgument(value, 'count')
    else if (key === 'skip') operands.skip = sizeArgument(value, 'skip')
    else throw new Failure(`unrecognized operand ${key}`)
  }
  return operands
}
