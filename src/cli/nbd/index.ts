/** `block86 nbd`: serves images over NBD with qemu-nbd's command line. */
import { spawn } from 'node:child_process'
import { existsSync, rmSync, statSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import path from 'node:path'
import { BlockError } from '../../block/error.ts'
import { listExports } from '../../block/protocols/nbd/negotiate.ts'
import { type NbdServerOptions, serveNbd } from '../../block/protocols/nbd/server.ts'
import { tlsConnectionOptions } from '../../block/protocols/node/nbd.ts'
import { dial, SocketStream, tlsClient } from '../../block/protocols/node/tcp.ts'
import type { ByteStream } from '../../block/protocols/stream.ts'
import { getopt, type Option, type Parsed, UsageError } from '../getopt.ts'
import { type Console, PROGRAM } from '../img/console.ts'
import { strerror } from '../img/reasons.ts'
import { type Objects, parseObjects } from '../objects.ts'
import { openServed, type Served } from './exports.ts'
import { describeListed } from './list.ts'
import { clientTls, serverTls } from './tls.ts'

/** Options of the program. */
export const OPTIONS: readonly Option[] = [
  { short: 'h', long: 'help' },
  { short: 'V', long: 'version' },
  { short: 'p', long: 'port', value: true },
  { short: 'b', long: 'bind', value: true },
  { short: 'k', long: 'socket', value: true },
  { short: 'e', long: 'shared', value: true },
  { short: 't', long: 'persistent' },
  { short: 'v', long: 'verbose' },
  { short: 'x', long: 'export-name', value: true },
  { short: 'D', long: 'description', value: true },
  { short: 'o', long: 'offset', value: true },
  { short: 'A', long: 'allocation-depth' },
  { short: 'B', long: 'bitmap', value: true },
  { short: 'L', long: 'list' },
  { long: 'object', value: true },
  { long: 'tls-creds', value: true },
  { long: 'fork' },
  { long: 'pid-file', value: true },
  { short: 'f', long: 'format', value: true },
  { short: 'r', long: 'read-only' },
  { short: 's', long: 'snapshot' },
  { short: 'l', long: 'load-snapshot', value: true },
  { short: 'n', long: 'nocache' },
  { long: 'cache', value: true },
  { long: 'aio', value: true },
  { long: 'discard', value: true },
  { long: 'detect-zeroes', value: true },
  { long: 'image-opts' },
  { long: 'tls-authz', value: true },
  { long: 'selinux-label', value: true },
  { short: 'T', long: 'trace', value: true },
  { short: 'c', long: 'connect', value: true },
  { short: 'd', long: 'disconnect' },
]

const HELP = `Usage: block86 nbd [OPTIONS] FILE...
  or:  block86 nbd -L [OPTIONS]
Serves disk images over NBD, with the command line of qemu-nbd.

  -h, --help                display this help and exit
  -V, --version             output version information and exit

Connection properties:
  -p, --port=PORT           port to listen on (default '10809')
  -b, --bind=IFACE          interface to bind to (default '127.0.0.1')
  -k, --socket=PATH         path of the Unix socket to listen on instead
  -e, --shared=NUM          device can be shared by NUM clients (default '1', 0: any number)
  -t, --persistent          don't exit on the last connection
  -v, --verbose             say why connections ended
  -x, --export-name=NAME    expose export by name (default is empty string); once for each FILE
  -D, --description=TEXT    export a human-readable description; once for each FILE

Exposing part of the image:
  -o, --offset=OFFSET       offset into the image
  -A, --allocation-depth    expose the allocation depth
  -B, --bitmap=NAME         expose a persistent dirty bitmap

General purpose options:
  -L, --list                list exports available from another NBD server
  --object type,id=ID,...   tls-creds-x509 or tls-creds-psk, with dir=, endpoint=, verify-peer=
  --tls-creds=ID            use id of an earlier --object to provide TLS
  --fork                    fork off the server process and exit the parent once the server is running
  --pid-file=PATH           store the server's process ID in the given file

Block device options:
  -f, --format=FORMAT       set image format (raw, qcow2, ...)
  -r, --read-only           export read-only
  -s, --snapshot            redirect writes to a temporary file
  -l, --load-snapshot=SNAPSHOT_PARAM
                            export an internal snapshot, read-only: 'snapshot.id=[ID],snapshot.name=[NAME]'
                            or '[ID_OR_NAME]'
  -n, --nocache             disable host cache
      --cache=MODE          'none', 'writeback' (default), 'writethrough', 'directsync' or 'unsafe'
      --aio=MODE            native, io_uring or threads
      --discard=MODE        ignore, unmap
      --detect-zeroes=MODE  off, on, unmap
      --image-opts          treat FILE as a full set of image options

To connect the kernel's NBD client, run nbd-client against this server.
`

/** Set for the child of `--fork`: it says there when it listens. */
const READY = 'BLOCK86_NBD_READY'

/** What is only for QEMU's own ways, and what to do instead. */
const REFUSED: Readonly<Record<string, string>> = {
  connect: 'start the server, then run nbd-client',
  disconnect: 'run nbd-client -d',
  'tls-authz': 'every client whose certificate the CA signed, or that has a key, is let in',
  'selinux-label': 'label the socket from outside',
  trace: 'there are no trace events',
}

/** Runs the verb on a console; resolves to its exit status. */
export async function runNbd(argv: readonly string[], version: string, console: Console): Promise<number> {
  try {
    return await serve(argv, version, console)
  } catch (error) {
    if (!(error instanceof UsageError) && !(error instanceof BlockError)) throw error
    console.err.write(`${PROGRAM}: ${error.message}\n`)
    return error instanceof UsageError ? error.status : 1
  }
}

async function serve(argv: readonly string[], version: string, console: Console): Promise<number> {
  const args = parse(argv)
  if (args.has('help')) return print(console, HELP)
  if (args.has('version')) return print(console, `block86 nbd ${version}\n`)
  for (const [option, instead] of Object.entries(REFUSED)) {
    if (args.has(option)) throw new UsageError(`option '--${option}' is not supported: ${instead}`)
  }
  const objects = parseObjects(args.all('object'))
  const socket = args.last('socket')
  if (socket !== undefined && !path.isAbsolute(socket)) throw new UsageError('socket path must be absolute')
  if (args.has('list')) return list(args, objects, console)
  if (args.operands.length === 0) {
    throw new UsageError("Invalid number of arguments\nTry `block86 nbd --help' for more information.")
  }
  if (args.has('image-opts') && args.has('format')) throw new UsageError('--image-opts and -f are mutually exclusive')
  count(args.last('shared') ?? '1')
  if (args.has('fork') && process.env[READY] === undefined) return fork(argv)
  return new Server(args, objects, console).run()
}

function parse(argv: readonly string[]): Parsed {
  try {
    return getopt(argv, OPTIONS)
  } catch (error) {
    if (!(error instanceof UsageError)) throw error
    throw new UsageError(`${error.message}\n${PROGRAM}: Try \`block86 nbd --help' for more information.`)
  }
}

function print(console: Console, text: string): number {
  console.out.write(text)
  return 0
}

/** Starts the server as a process of its own and waits until it listens. */
function fork(argv: readonly string[]): Promise<number> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [process.argv[1]!, 'nbd', ...argv], {
      detached: true,
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, [READY]: '1' },
    })
    child.stdout!.once('data', () => {
      child.stdout!.destroy()
      child.unref()
      resolve(0)
    })
    child.once('exit', (status) => resolve(status ?? 1))
  })
}

async function list(args: Parsed, objects: Objects, console: Console): Promise<number> {
  if (args.operands.length > 0) throw new UsageError('List mode is incompatible with a file name')
  const credentials = args.last('tls-creds')
  const socket = args.last('socket')
  const hostname = args.last('bind') ?? 'localhost'
  const secure =
    credentials === undefined ? undefined : tlsClient(tlsConnectionOptions(clientTls(objects, credentials), hostname))
  let stream: ByteStream
  try {
    stream = await dial(socket === undefined ? { host: hostname, port: port(args) } : { path: socket })
  } catch (error) {
    const why = strerror(error instanceof Error ? error.cause : error)
    throw new UsageError(`Failed to connect to '${socket ?? `${hostname}:${port(args)}`}': ${why}`)
  }
  const listed = await listExports(stream, secure)
  console.out.write(`exports available: ${listed.length}\n${listed.map(describeListed).join('')}`)
  return 0
}

function port(args: Parsed): number {
  const text = args.last('port') ?? '10809'
  const value = Number(text)
  if (!/^\d+$/.test(text) || value > 65535)
    throw new UsageError(
      `address resolution failed for ${args.last('bind') ?? '127.0.0.1'}:${text}: Servname not supported for ai_socktype`,
    )
  return value
}

function count(text: string): number {
  if (!/^\d+$/.test(text)) throw new UsageError(`Invalid shared device number '${text}'`)
  return Number(text)
}

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

class Server {
  readonly #args: Parsed
  readonly #objects: Objects
  readonly #console: Console
  readonly #sockets = new Set<net.Socket>()
  readonly #waiting = new Set<net.Socket>()
  readonly #server: net.Server
  readonly #shared: number
  #end: (() => void) | undefined
  #options: NbdServerOptions = { exports: [] }

  constructor(args: Parsed, objects: Objects, console: Console) {
    this.#args = args
    this.#objects = objects
    this.#console = console
    this.#shared = count(args.last('shared') ?? '1')
    this.#server = net.createServer({ allowHalfOpen: false }, (socket) => this.#accept(socket))
  }

  async run(): Promise<number> {
    const args = this.#args
    const credentials = args.last('tls-creds')
    const secure = credentials === undefined ? undefined : serverTls(this.#objects, credentials)
    const served: Served[] = []
    const end = () => this.#end?.()
    try {
      await this.#open(served)
      this.#options = { exports: served.map(({ item }) => item), ...(secure ? { startTls: secure } : {}) }
      const ended = new Promise<void>((resolve) => {
        this.#end = resolve
      })
      for (const signal of SIGNALS) process.on(signal, end)
      await this.#listen()
      const pidFile = args.last('pid-file')
      if (pidFile !== undefined) writeFileSync(pidFile, `${process.pid}\n`)
      if (process.env[READY] !== undefined) process.stdout.write('ready\n')
      await ended
      this.#server.close()
      for (const socket of [...this.#sockets, ...this.#waiting]) socket.destroy()
      if (pidFile !== undefined) rmSync(pidFile, { force: true })
    } finally {
      for (const signal of SIGNALS) process.off(signal, end)
      for (const each of served) await each.close()
      const socket = args.last('socket')
      if (socket !== undefined) rmSync(socket, { force: true })
    }
    return 0
  }

  /** Opens every FILE; with several of them each has its own `-x`. */
  async #open(served: Served[]): Promise<void> {
    const { operands } = this.#args
    const names = this.#args.all('export-name')
    const texts = this.#args.all('description')
    if (operands.length > 1 && new Set(names).size !== operands.length)
      throw new UsageError(`${operands.length} files need as many different names: say -x NAME for each`)
    for (const [index, file] of operands.entries()) {
      const own =
        operands.length === 1
          ? { name: names.at(-1) ?? '', description: texts.at(-1) }
          : { name: names[index]!, description: texts[index] }
      served.push(await openServed(this.#args, this.#objects, this.#console, file, own))
    }
  }

  #listen(): Promise<void> {
    const args = this.#args
    const socket = args.last('socket')
    if (socket !== undefined && existsSync(socket) && statSync(socket).isSocket()) rmSync(socket)
    if (socket !== undefined && !existsSync(path.dirname(socket)))
      throw new UsageError(`Failed to bind socket to ${socket}: ${strerror({ code: 'ENOENT' })}`)
    const place = socket ?? `${args.last('bind') ?? '127.0.0.1'}:${port(args)}`
    return new Promise((resolve, reject) => {
      this.#server.once('error', (error) =>
        reject(
          new UsageError(`Failed to bind socket${socket === undefined ? '' : ` to ${place}`}: ${strerror(error)}`),
        ),
      )
      if (socket !== undefined) this.#server.listen(socket, resolve)
      else this.#server.listen(port(args), args.last('bind') ?? '127.0.0.1', resolve)
    })
  }

  #accept(socket: net.Socket): void {
    if (this.#shared > 0 && this.#sockets.size >= this.#shared) {
      // Who comes too many waits, as one does whom the server does not accept.
      this.#waiting.add(socket)
      socket.on('error', () => {}).on('close', () => this.#waiting.delete(socket))
      return
    }
    this.#sockets.add(socket)
    let served = false
    const options = {
      ...this.#options,
      onExport: () => {
        served = true
      },
    }
    void serveNbd(new SocketStream(socket, 'client'), options).then((why) => {
      if (why !== undefined && this.#args.has('verbose')) this.#console.err.write(`${PROGRAM}: a client left: ${why}\n`)
      this.#sockets.delete(socket)
      const [next] = this.#waiting
      if (next !== undefined) {
        this.#waiting.delete(next)
        this.#accept(next)
      }
      // One that only looked around is not the last to leave.
      if (this.#sockets.size === 0 && served && !this.#args.has('persistent')) this.#end?.()
    })
  }
}

/** Runs the verb on this process' standard output and error. */
export function nbd(argv: readonly string[], version: string): Promise<number> {
  return runNbd(argv, version, { out: process.stdout, err: process.stderr })
}
