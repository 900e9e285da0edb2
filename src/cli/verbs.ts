/** The tool `block86`: finds the verb's program, loads that one alone, and says what went wrong. */
import { messageOf } from '../block/error.ts'
import { version } from './version.ts'

/** A verb: takes what follows it on the command line, resolves to the exit status. */
type Verb = (argv: readonly string[], version: string) => Promise<number>

const verbs: Readonly<Record<string, { readonly summary: string; load(): Promise<Verb> }>> = {
  run: {
    summary: 'boot a machine in this terminal, with the options of qemu-system-i386',
    load: async () => (await import('./run.ts')).run,
  },
  img: {
    summary: 'make, copy, check and change disk images, with the options of qemu-img',
    load: async () => (await import('./img/index.ts')).img,
  },
  info: {
    summary: 'tell with --host what of this host is used for images, and why',
    load: async () => (await import('./info.ts')).info,
  },
  io: {
    summary: 'exercise a disk, with the options and commands of qemu-io',
    load: async () => (await import('./io/index.ts')).io,
  },
  nbd: {
    summary: 'serve an image over NBD, with the options of qemu-nbd',
    load: async () => (await import('./nbd/index.ts')).nbd,
  },
  completion: {
    summary: 'print what completes these command lines in bash or zsh',
    load: async () => (await import('./completion/index.ts')).completion,
  },
}

/** The verbs, and what each does. */
export function verbSummaries(): Readonly<Record<string, string>> {
  return Object.fromEntries(Object.entries(verbs).map(([name, { summary }]) => [name, summary]))
}

function help(): string {
  const lines = Object.entries(verbs).map(([name, { summary }]) => `  ${name.padEnd(12)}${summary}`)
  return `Usage: block86 VERB [OPTION...]
Storage for PC emulators: disk images, what they are made with, tried with and served with, and a machine to boot them.

${lines.join('\n')}

  -h, --help        display this help and exit
  -V, --version     output version information and exit

block86 VERB --help tells the options of a verb, block86 img COMMAND --help those of a command.
`
}

/** Runs the tool; `argv` is the command line behind its name. Resolves to the exit status. */
export async function main(argv: readonly string[]): Promise<number> {
  const [name, ...rest] = argv
  // Who reads the output may stop before its end, as head does.
  process.stdout.on('error', () => {})
  if (name === undefined || name === 'help' || name === '--help' || name === '-h') {
    process[name === undefined ? 'stderr' : 'stdout'].write(help())
    return name === undefined ? 1 : 0
  }
  if (name === '--version' || name === '-V') {
    process.stdout.write(`block86 ${version}\n`)
    return 0
  }
  if (!Object.hasOwn(verbs, name)) {
    process.stderr.write(`block86: unknown verb '${name}'; one of ${Object.keys(verbs).join(', ')}\n`)
    return 1
  }
  try {
    const verb = await verbs[name]!.load()
    return await verb(rest, version)
  } catch (error) {
    process.stderr.write(`block86: ${messageOf(error)}\n`)
    const status = typeof error === 'object' && error !== null ? Reflect.get(error, 'status') : undefined
    return typeof status === 'number' ? status : 1
  }
}
