/** Command lines as GNU getopt_long takes them apart, which is what the programs do whose options we answer. */

/** A command line that cannot be obeyed; printed after the program's name, with exit status 1 if not told otherwise. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
  /** Exit status of the program. */
  readonly status: number

  constructor(message: string, status = 1) {
    super(message)
    this.status = status
  }
}

/** An option: its names, and whether it has a value. */
export interface Option {
  /** One character, for `-x`. */
  readonly short?: string
  /** For `--name`. */
  readonly long?: string
  readonly value?: boolean
  /** What the parsed option is called; default `long`, else `short`. */
  readonly key?: string
}

export interface Parsed {
  /** Options in their order, the value '' for those that have none. */
  readonly options: readonly { readonly key: string; readonly value: string }[]
  readonly operands: readonly string[]
  /** Whether the option was given. */
  has(key: string): boolean
  /** The last value given. */
  last(key: string): string | undefined
  /** All values given. */
  all(key: string): string[]
}

/** Takes `argv` apart: options anywhere, `-abc` for several, `-ovalue`, `--name=value`, unambiguous prefixes, `--` for the end. */
export function getopt(argv: readonly string[], known: readonly Option[]): Parsed {
  const options: { key: string; value: string }[] = []
  const operands: string[] = []
  const keyOf = (option: Option) => option.key ?? option.long ?? option.short!
  for (let i = 0; i < argv.length; i++) {
    const word = argv[i]!
    if (word === '--') {
      operands.push(...argv.slice(i + 1))
      break
    }
    if (word.startsWith('--')) {
      const equals = word.indexOf('=')
      const name = equals < 0 ? word.slice(2) : word.slice(2, equals)
      const option = longOption(name, known)
      let value = equals < 0 ? '' : word.slice(equals + 1)
      if (option.value !== true && equals >= 0)
        throw new UsageError(`option '--${option.long}' doesn't allow an argument`)
      if (option.value === true && equals < 0) {
        if (++i >= argv.length) throw new UsageError(`option '--${option.long}' requires an argument`)
        value = argv[i]!
      }
      options.push({ key: keyOf(option), value })
    } else if (word.length > 1 && word.startsWith('-')) {
      for (let at = 1; at < word.length; at++) {
        const option = known.find((candidate) => candidate.short === word[at])
        if (option === undefined) throw new UsageError(`invalid option -- '${word[at]}'`)
        if (option.value !== true) {
          options.push({ key: keyOf(option), value: '' })
          continue
        }
        const rest = word.slice(at + 1)
        if (rest === '' && ++i >= argv.length) throw new UsageError(`option requires an argument -- '${word[at]}'`)
        options.push({ key: keyOf(option), value: rest === '' ? argv[i]! : rest })
        break
      }
    } else operands.push(word)
  }
  const all = (key: string) => options.filter((option) => option.key === key).map((option) => option.value)
  return {
    options,
    operands,
    has: (key) => options.some((option) => option.key === key),
    last: (key) => all(key).at(-1),
    all,
  }
}

function longOption(name: string, known: readonly Option[]): Option {
  const exact = known.find((option) => option.long === name)
  if (exact !== undefined) return exact
  const matches = known.filter((option) => option.long?.startsWith(name))
  if (matches.length === 1 && name !== '') return matches[0]!
  if (matches.length === 0 || name === '') throw new UsageError(`unrecognized option '--${name}'`)
  throw new UsageError(
    `option '--${name}' is ambiguous; possibilities: ${matches.map((option) => `'--${option.long}'`).join(' ')}`,
  )
}
