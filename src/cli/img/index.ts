/** `block86 img`: the sub-commands of qemu-img; each is loaded when it is called. */
import { messageOf } from '../../block/error.ts'
import { Helped } from './arguments.ts'
import { type Console, Failure, misuse, PROGRAM, report } from './console.ts'

/** A sub-command: takes what follows it on the command line, resolves to the exit status. */
export type Command = (argv: readonly string[], console: Console) => Promise<number>

const commands: Readonly<Record<string, { readonly summary: string; load(): Promise<Command> }>> = {
  bench: { summary: 'measure requests on an image', load: async () => (await import('./bench.ts')).benchCommand },
  check: { summary: 'check an image, and repair it', load: async () => (await import('./check.ts')).check },
  compare: {
    summary: 'say whether two images hold the same',
    load: async () => (await import('./compare.ts')).compare,
  },
  create: { summary: 'make an image', load: async () => (await import('./create.ts')).create },
  info: { summary: 'tell about an image', load: async () => (await import('./info.ts')).info },
  map: { summary: 'tell where in its files an image has what', load: async () => (await import('./map.ts')).map },
  resize: { summary: 'change the size of a disk', load: async () => (await import('./resize.ts')).resize },
  snapshot: {
    summary: 'list, make, apply or delete internal snapshots',
    load: async () => (await import('./snapshot.ts')).snapshot,
  },
}

function help(): string {
  const lines = Object.entries(commands).map(([name, { summary }]) => `  ${name.padEnd(10)}${summary}`)
  return `usage: ${PROGRAM} img command [command options]
Works on disk images, with the command lines of qemu-img.

  -h, --help     display this help and exit
  -V, --version  output version information and exit

Commands:
${lines.join('\n')}

${PROGRAM} img COMMAND --help tells the options of a command.
`
}

/** Runs the verb on a console; resolves to the exit status. */
export async function runImg(argv: readonly string[], version: string, console: Console): Promise<number> {
  try {
    const [name, ...rest] = argv
    if (name === '--version' || name === '-V') {
      console.out.write(`block86 img version ${version}\n`)
      return 0
    }
    if (name === undefined) throw misuse('Not enough arguments')
    if (name === '--help' || name === '-h' || name === 'help') {
      console.out.write(help())
      return 0
    }
    if (name.startsWith('-')) throw misuse(`unrecognized option '${name}'`)
    if (!Object.hasOwn(commands, name)) throw misuse(`Command not found: ${name}`)
    const command = await commands[name]!.load()
    return await command(rest, console)
  } catch (error) {
    if (error instanceof Helped) return 0
    report(console, messageOf(error))
    return error instanceof Failure ? error.status : 1
  }
}

/** Runs the verb on this process' standard output and error. */
export function img(argv: readonly string[], version: string): Promise<number> {
  const { stdout, stderr } = process
  return runImg(argv, version, {
    out: stdout,
    err: stderr,
    ...(stdout.isTTY ? { terminal: { columns: stdout.columns } } : {}),
  })
}
