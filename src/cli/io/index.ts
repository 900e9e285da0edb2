/** `block86 io`: exercises a disk with the command lines of qemu-io, from `-c` options or typed. */
import { createInterface } from 'node:readline'
import { messageOf } from '../../block/error.ts'
import { getopt, type Option, UsageError } from '../getopt.ts'
import type { Console } from '../img/console.ts'
import { Refused, usageLine } from './command.ts'
import { commands, findCommand } from './commands.ts'
import { flagsOf } from './manage.ts'
import { Session } from './session.ts'

/** Options of the program. */
export const OPTIONS: readonly Option[] = [
  { short: 'h', long: 'help', key: 'h' },
  { short: 'V', long: 'version', key: 'V' },
  { short: 'c', long: 'cmd', value: true, key: 'c' },
  { short: 'f', long: 'format', value: true, key: 'f' },
  { short: 'r', long: 'read-only', key: 'r' },
  { short: 's', long: 'snapshot', key: 's' },
  { short: 'n', long: 'nocache', key: 'n' },
  { short: 'C', long: 'copy-on-read', key: 'C' },
  { short: 'm', long: 'misalign', key: 'm' },
  { short: 'k', long: 'native-aio', key: 'k' },
  { short: 'i', long: 'aio', value: true, key: 'i' },
  { short: 't', long: 'cache', value: true, key: 't' },
  { short: 'd', long: 'discard', value: true, key: 'd' },
  { short: 'T', long: 'trace', value: true, key: 'T' },
  { short: 'U', long: 'force-share', key: 'U' },
  { long: 'image-opts' },
  { long: 'object', value: true },
]

const HELP = `Usage: block86 io [OPTIONS]... [-c STRING]... [file]
Exercises a disk, with the command lines of qemu-io.

      --object OBJECTDEF   define an object such as a throttle-group
      --image-opts         treat file as option string
  -c, --cmd STRING         execute command with its arguments from the given string
  -f, --format FMT         format of the image (default: guessed)
  -r, --read-only          open the image read-only
  -s, --snapshot           write to a temporary file instead of the image
  -n, --nocache            disable host cache, short for -t none
  -C, --copy-on-read       keep in the image what is read from its backing file
  -m, --misalign           misalign memory (as it is always allowed to be)
  -k, --native-aio         use kernel AIO implementation (Linux only, prefer use of -i)
  -i, --aio=MODE           use AIO mode (threads, native or io_uring)
  -t, --cache=MODE         use the given cache mode for the image
  -d, --discard=MODE       use the given discard mode for the image
  -U, --force-share        open the image though others have it open
  -h, --help               display this help and exit
  -V, --version            output version information and exit

'block86 io -c help' tells the commands; without -c they are read from standard input.
`

/** Where the run gets its commands from when there are none on the command line. */
export interface IoConsole extends Console {
  readonly input: NodeJS.ReadableStream
  /** Somebody types. */
  readonly typed?: boolean
}

/** Runs the verb on a console; resolves to its exit status. */
export async function runIo(argv: readonly string[], version: string, console: IoConsole): Promise<number> {
  let parsed: ReturnType<typeof getopt>
  try {
    parsed = getopt(argv, OPTIONS)
  } catch (error) {
    if (!(error instanceof UsageError)) throw error
    console.err.write(`block86: ${error.message}\n`)
    console.out.write(HELP)
    return 1
  }
  if (parsed.has('h') || parsed.operands.length > 1) {
    console.out.write(HELP)
    return parsed.has('h') ? 0 : 1
  }
  if (parsed.has('V')) {
    console.out.write(`block86 io version ${version}\n`)
    return 0
  }
  const session = new Session(console, parsed.all('object'))
  if (parsed.has('T')) return failed(session, 'option -T is not supported: there are no trace events')
  const flags = flagsOf(session, { has: (key) => parsed.has(key), value: (key) => parsed.last(key) })
  if (flags === undefined) return 1
  const [name] = parsed.operands
  const format = parsed.last('f')
  if (parsed.has('image-opts') && format !== undefined)
    return failed(session, '--image-opts and -f are mutually exclusive')
  if (name !== undefined) {
    if (format !== undefined) flags.format = format
    if (parsed.has('image-opts')) flags.imageOptions = true
    if (!(await session.open(name, flags))) return 1
  }
  const scripts = parsed.all('c')
  let good = true
  try {
    if (scripts.length === 0) good = await runTyped(session, console)
    for (const script of scripts) {
      if (session.ended) break
      if (!(await runCommand(session, script))) good = false
    }
  } finally {
    try {
      await session.end()
    } catch (error) {
      good = session.complain(messageOf(error))
    }
  }
  return good ? 0 : 1
}

function failed(session: Session, message: string): number {
  session.complain(message)
  return 1
}

/** Runs one line; resolves to whether it succeeded. */
export async function runCommand(session: Session, text: string): Promise<boolean> {
  const words = text.split(' ').filter((word) => word !== '')
  const [name] = words
  if (name === undefined) return true
  const command = findCommand(name)
  if (command === undefined) {
    session.err(`command "${name}" not found\n`)
    return false
  }
  if (!command.alone && session.image === undefined) {
    session.err("no file open, try 'help open'\n")
    return false
  }
  const count = words.length - 1
  if (count < command.least || count > command.most) {
    session.err(`bad argument count ${count} to ${name}, expected ${expected(command.least, command.most)} arguments\n`)
    return false
  }
  if (command.writes && session.device.readOnly) return session.complain('Block node is read-only')
  try {
    return await command.run(session, words)
  } catch (error) {
    if (error instanceof Refused) session.out(`${error.message}\n`)
    else session.complain(messageOf(error))
    return false
  }
}

function expected(least: number, most: number): string {
  if (most === Infinity) return `at least ${least}`
  return least === most ? String(least) : `between ${least} and ${most}`
}

const PROMPT = 'qemu-io> '

/** Commands from standard input; resolves to whether all succeeded. */
async function runTyped(session: Session, console: IoConsole): Promise<boolean> {
  let good = true
  const lines = createInterface({
    input: console.input,
    ...(console.typed ? { output: process.stdout, completer: complete } : {}),
    terminal: console.typed === true,
    prompt: 'block86 io> ',
  })
  const prompt = () => (console.typed ? lines.prompt() : session.out(PROMPT))
  prompt()
  for await (const line of lines) {
    if (!(await runCommand(session, line))) good = false
    if (session.ended) break
    prompt()
  }
  lines.close()
  return good
}

/** What a typed word can become: names of commands, and behind `help` too. */
function complete(line: string): [string[], string] {
  const word = line.split(' ').at(-1)!
  if (line !== word && !line.startsWith('help ')) {
    const command = findCommand(line.split(' ', 1)[0]!)
    return command === undefined || word !== '' ? [[], word] : [[usageLine(command).trimEnd(), ''], word]
  }
  return [commands.map(({ name }) => name).filter((name) => name.startsWith(word)), word]
}

/** Runs the verb on this process' standard input, output and error. */
export function io(argv: readonly string[], version: string): Promise<number> {
  const { stdin, stdout, stderr } = process
  return runIo(argv, version, { out: stdout, err: stderr, input: stdin, typed: stdin.isTTY && stdout.isTTY })
}
