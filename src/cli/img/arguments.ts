/** Command lines of the `img` verbs, and the values in them. */
import type { CacheMode } from '../../block/disk.ts'
import { getopt, type Option, type Parsed, UsageError } from '../getopt.ts'
import { parseObjects } from '../objects.ts'
import { parseSize } from '../units.ts'
import { type Console, Failure, Helped, misuse, PROGRAM } from './console.ts'
import { fitted } from './usage.ts'

/** Options that every verb has. */
export const COMMON: readonly Option[] = [
  { short: 'h', long: 'help' },
  { long: 'object', value: true },
  { long: 'image-opts' },
]

/** Takes a verb's command line apart, objects too; with `--help` among it, prints the usage and throws {@link Helped}. */
export function parse(argv: readonly string[], options: readonly Option[], usage: string, console: Console): Parsed {
  let parsed: Parsed
  try {
    parsed = getopt(argv, [...COMMON, ...options])
  } catch (error) {
    if (error instanceof UsageError) throw misuse(inTheirWords(error.message))
    throw error
  }
  if (parsed.has('help')) {
    console.out.write(fitted(usage, console.terminal?.columns))
    throw new Helped()
  }
  console.objects = parseObjects(parsed.all('object'))
  return parsed
}

function inTheirWords(message: string): string {
  const unknown = /^invalid option -- '(.)'/.exec(message)
  if (unknown) return `unrecognized option '-${unknown[1]}'`
  const lacking = /^option requires an argument -- '(.)'/.exec(message) ?? /^option '--(.*)' requires an/.exec(message)
  if (lacking) return `missing argument for option '${lacking[1]!.length === 1 ? '-' : '--'}${lacking[1]}'`
  return message
}

/** `human` or `json`. */
export function outputFormat(parsed: Parsed): 'human' | 'json' {
  const text = parsed.last('output') ?? 'human'
  if (text !== 'human' && text !== 'json') throw new Failure('--output must be used with human or json as argument.')
  return text
}

/** A size from the command line, which messages call `name`. */
export function sizeArgument(text: string, name: string, least = 0, most = 2 ** 63 - 1): number {
  const value = /^\s*-/.test(text) ? undefined : parseSize(text.trim())
  const digits = /^\s*(?:0x[0-9a-f]+|\d+(?:\.\d+)?)[bkmgtpe]?$/i.test(text)
  if (value === undefined && !digits) {
    throw new Failure(
      `Invalid ${name} specified. You may use k, M, G, T, P or E suffixes for\n` +
        `${PROGRAM}: kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.`,
    )
  }
  if (value !== undefined && value >= least && value <= most) return value
  const limit = most === 2 ** 63 - 1 ? '9223372036854775807' : String(most)
  throw new Failure(`Invalid ${name} specified. Must be between ${least} and ${limit}.`)
}

/** A cache mode as `-t` names it; `what` is what a wrong one is called. */
export function cacheMode(text: string, what: string): CacheMode {
  const name = text === 'off' ? 'none' : text
  const modes: readonly string[] = ['writeback', 'none', 'writethrough', 'directsync', 'unsafe']
  if (!modes.includes(name)) throw new Failure(`Invalid ${what} option: ${text}`)
  return name as CacheMode
}

/** The value of an on/off option. */
export function onOff(text: string, key: string): boolean {
  if (text === 'on' || text === 'yes' || text === 'true' || text === 'y') return true
  if (text === 'off' || text === 'no' || text === 'false' || text === 'n') return false
  throw new Failure(`Parameter '${key}' expects 'on' or 'off'`)
}

/** A command line without its last word, which is no option even when it begins with a minus; a `--` before it is gone too. */
export function onLastWord(argv: readonly string[]): { readonly rest: readonly string[]; readonly last: string } {
  if (argv.some((word) => word === '--help' || word === '-h')) return { rest: argv, last: '' }
  return { rest: argv.slice(0, -1), last: argv.at(-1) ?? '' }
}
