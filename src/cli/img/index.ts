/** `block86 img`: the sub-commands of qemu-img; each is loaded when it is called. */
import { messageOf } from '../../block/error.ts'
import { type Console, Helped, misuse, PROGRAM, report } from './console.ts'

/** A sub-command: takes what follows it on the command line, resolves to the exit status. */
export type Command = (argv: readonly string[], console: Console) => Promise<number>

const commands: Readonly<Record<string, { readonly summary: string; load(): Promise<Command> }>> = {
  amend: { summary: 'change options of an existing image', load: async () => (await import('./amend.ts')).amend },
  bench: { summary: 'measure requests on an image', load: async () => (await import('./bench.ts')).bench },
  bitmap: {
    summary: 'add, remove, clear, enable, disable or merge bitmaps',
    load: async () => (await import('./bitmap.ts')).bitmap,
  },
  check: { summary: 'check an image, and repair it', load: async () => (await import('./check.ts')).check },
  commit: {
    summary: 'write an image down into its backing file',
    load: async () => (await import('./commit.ts')).commit,
  },
  compare: {
    summary: 'say whether two images hold the same',
    load: async () => (await import('./compare.ts')).compare,
  },
  convert: { summary: 'copy images into one of any format', load: async () => (await import('./convert.ts')).convert },
  create: { summary: 'make an image', load: async () => (await import('./create.ts')).create },
  dd: { summary: 'copy blocks, with the options of dd', load: async () => (await import('./dd.ts')).dd },
  info: { summary: 'tell about an image', load: async () => (await import('./info.ts')).info },
  map: { summary: 'tell where in its files an image has what', load: async () => (await import('./map.ts')).map },
  measure: { summary: 'tell how large a new image will get', load: async () => (await import('./measure.ts')).measure },
  rebase: { summary: 'put an image on another backing file', load: async () => (await import('./rebase.ts')).rebase },
  resize: { summary: 'change the size of a disk', load: async () => (await import('./resize.ts')).resize },
  snapshot: {
    summary: 'list, make, apply or delete internal snapshots',
    load: async () => (await import('./snapshot.ts')).snapshot,
  },
}

/** Names of the commands. */
export function commandNames(): string[] {
  return Object.keys(commands)
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
    return await command(rest, { ...console })
  } catch (error) {
    if (error instanceof Helped) return 0
    report(console, messageOf(error))
    const status = typeof error === 'object' && error !== null ? Reflect.get(error, 'status') : undefined
    return typeof status === 'number' ? status : 1
  }
}

/** Runs the verb on this process' standard output and error. */
export function img(argv: readonly string[], version: string): Promise<number> {
  const { stdout, stderr } = process
  // Whoever read the output may have seen enough; the work goes on.
  for (const stream of [stdout, stderr]) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') throw error
    })
  }
  return runImg(argv, version, {
    out: stdout,
    err: stderr,
    ...(stdout.isTTY ? { terminal: { columns: stdout.columns || 80 } } : {}),
  })
}
