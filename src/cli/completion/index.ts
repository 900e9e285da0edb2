/** `block86 completion`: the scripts that complete the tool's command lines in bash and zsh. */
import { formats } from '../../block/formats/index.ts'
import { UsageError } from '../getopt.ts'
import { commandNames, runImg } from '../img/index.ts'
import { commands } from '../io/commands.ts'
import { OPTIONS as IO_OPTIONS } from '../io/index.ts'
import { OPTIONS as NBD_OPTIONS } from '../nbd/index.ts'
import { RUN_OPTIONS } from '../run.ts'
import { verbSummaries } from '../verbs.ts'
import { bashScript } from './bash.ts'
import { zshScript } from './zsh.ts'

/** What a script completes. */
export interface Lines {
  /** Verbs, and what each does. */
  readonly verbs: Readonly<Record<string, string>>
  /** Sub-commands of `img`. */
  readonly img: readonly string[]
  /** Options by `VERB` or `img COMMAND`. */
  readonly options: Readonly<Record<string, readonly string[]>>
  /** What can follow an option: by the place, or `*` for any, and the option. */
  readonly values: readonly (readonly [place: string, option: string, values: readonly string[]])[]
}

const CACHES = ['none', 'writeback', 'writethrough', 'directsync', 'unsafe']
const AIO = ['threads', 'native', 'io_uring']

/** All there is to complete, from the tables that the verbs themselves use. */
export async function completions(): Promise<Lines> {
  const verbs = verbSummaries()
  const options: Record<string, readonly string[]> = {
    run: RUN_OPTIONS.map((name) => `-${name}`),
    io: spelled(IO_OPTIONS),
    nbd: spelled(NBD_OPTIONS),
    completion: [],
  }
  const img = commandNames()
  for (const name of img) options[`img ${name}`] = await optionsOfHelp(name)
  const names = formats.map((format) => format.name)
  const values: [string, string, readonly string[]][] = []
  const add = (place: string, spellings: string, words: readonly string[]) => {
    for (const option of spellings.split(' ')) values.push([place, option, words])
  }
  add('completion', 'completion', ['bash', 'zsh'])
  add(
    'io',
    '-c --cmd',
    commands.map((command) => command.name),
  )
  add('io', '-t --cache', CACHES)
  add('io', '-i --aio', AIO)
  add('io', '-d --discard', ['ignore', 'unmap'])
  add('nbd', '--cache', CACHES)
  add('nbd', '--aio', AIO)
  add('nbd', '--discard', ['ignore', 'unmap'])
  add('nbd', '--detect-zeroes', ['off', 'on', 'unmap'])
  add('img bench', '-i --aio', AIO)
  for (const name of img) add(`img ${name}`, '-t', CACHES)
  for (const name of ['convert', 'rebase', 'compare']) add(`img ${name}`, '-T', CACHES)
  add('*', '--output', ['human', 'json'])
  add('*', '--preallocation', ['off', 'metadata', 'falloc', 'full'])
  add('*', '-f -F -O --format', names)
  return { verbs, img, options, values }
}

function spelled(options: readonly { readonly short?: string; readonly long?: string }[]): string[] {
  return options.flatMap(({ short, long }) => [
    ...(short === undefined ? [] : [`-${short}`]),
    ...(long === undefined ? [] : [`--${long}`]),
  ])
}

/** The options that a sub-command of `img` tells in its help. */
async function optionsOfHelp(name: string): Promise<string[]> {
  let text = ''
  const out = { write: (piece: string) => void (text += piece) }
  await runImg([name, '--help'], '', { out, err: out })
  const found = new Set(['--help'])
  for (const [, option] of text.matchAll(/(?<![\w-])(--?[A-Za-z][\w-]*)/g)) found.add(option!)
  return [...found]
}

const HELP = `Usage: block86 completion bash|zsh
Prints a script that completes the command lines of block86.

  bash:  source <(block86 completion bash)                        in ~/.bashrc
  zsh:   block86 completion zsh > ~/.zfunc/_block86               with ~/.zfunc in fpath before compinit
`

/** Runs the verb; resolves to its exit status. */
export async function completion(argv: readonly string[]): Promise<number> {
  const [shell, ...more] = argv
  if (shell === '--help' || shell === '-h') {
    process.stdout.write(HELP)
    return 0
  }
  if ((shell !== 'bash' && shell !== 'zsh') || more.length > 0)
    throw new UsageError(
      "completion: say for which shell, bash or zsh\nTry 'block86 completion --help' for more information.",
    )
  const lines = await completions()
  process.stdout.write(shell === 'bash' ? bashScript(lines) : zshScript(lines))
  return 0
}
