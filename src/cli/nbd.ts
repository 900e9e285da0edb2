/** `block86 nbd`: serves images over NBD with qemu-nbd's command line. */
import { spawn } from 'node:child_process'
import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import path from 'node:path'
import type { BlockDevice } from '../block/device.ts'
import { asDevice } from '../block/device.ts'
import { messageOf } from '../block/error.ts'
import { DetectZeroes } from '../block/filters/detect-zeroes.ts'
import { Overlay } from '../block/filters/overlay.ts'
import { openImage } from '../block/open.ts'
import { allocationDepth } from '../block/protocols/nbd/export.ts'
import { listExports } from '../block/protocols/nbd/negotiate.ts'
import { type NbdExport, type NbdServerOptions, serveNbd } from '../block/protocols/nbd/server.ts'
import { parseNbdUri } from '../block/protocols/nbd/uri.ts'
import { host } from '../block/protocols/node/index.ts'
import { readPsk } from '../block/protocols/node/nbd.ts'
import { dial, SocketStream, tlsServer } from '../block/protocols/node/tcp.ts'
import { getopt, type Option, type Parsed, UsageError } from './getopt.ts'
import { parseKeyValues } from './node-options.ts'
import { type NodeDefaults, openNode } from './nodes.ts'
import { parseSize } from './units.ts'

const OPTIONS: readonly Option[] = [
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
]

const HELP = `Usage: block86 nbd [OPTIONS] FILE
  or:  block86 nbd -L [OPTIONS]
Serves a disk image over NBD.

  -h, --help                display this help and exit
  -V, --version             output version information and exit

Connection properties:
  -p, --port=PORT           port to listen on (default '10809')
  -b, --bind=IFACE          interface to bind to (default '127.0.0.1')
  -k, --socket=PATH         path of the Unix socket to listen on instead
  -e, --shared=NUM          device can be shared by NUM clients (default '1', 0: any number)
  -t, --persistent          don't exit on the last connection
  -v, --verbose             say why connections ended
  -x, --export-name=NAME    expose export by name (default is empty string)
  -D, --description=TEXT    export a human-readable description

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
  -l, --load-snapshot=NAME  export an internal snapshot, read-only
  -n, --nocache             disable host cache
      --cache=MODE          'none', 'writeback' (default), 'writethrough', 'directsync' or 'unsafe'
      --aio=MODE            native, io_uring or threads
      --discard=MODE        ignore, unmap
      --detect-zeroes=MODE  off, on, unmap
      --image-opts          treat FILE as a full set of image options
`

/** Set for the child of `--fork`: it says there when it listens. */
const READY = 'BLOCK86_NBD_READY'

/** Runs the verb to its end; resolves to its exit status. */
export async function nbd(argv: readonly string[], version: string): Promise<number> {
  const args = getopt(argv, OPTIONS)
  if (args.has('help')) return print(HELP)
  if (args.has('version')) return print(`block86 nbd ${version}\n`)
  if (args.has('list')) return list(args)
  if (args.operands.length !== 1) {
    throw new UsageError("Invalid number of arguments\nTry `block86 nbd --help' for more information.")
  }
  if (args.has('fork') && process.env[READY] === undefined) return fork(argv)
  return new Server(args).run()
}

function print(text: string): number {
  process.stdout.write(text)
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

async function list(args: Parsed): Promise<number> {
  if (args.operands.length > 0) throw new UsageError('List mode is incompatible with a file name')
  const socket = args.last('socket')
  const address = parseNbdUri(
    socket === undefined
      ? `nbd://${args.last('bind') ?? 'localhost'}:${port(args)}`
      : `nbd+unix:///?socket=${encodeURIComponent(socket)}`,
  )
  const listed = await listExports(await dial(address.socket))
  process.stdout.write(`exports available: ${listed.length}\n`)
  for (const item of listed) {
    process.stdout.write(` export: '${item.name}'\n`)
    if (item.description) process.stdout.write(`  description: ${item.description}\n`)
  }
  return 0
}

function port(args: Parsed): number {
  const text = args.last('port') ?? '10809'
  const value = Number(text)
  if (!Number.isInteger(value) || value < 1 || value > 65535) throw new UsageError(`Invalid port number '${text}'`)
  return value
}

/** What `--object tls-creds-…` names, as the server's half of STARTTLS. */
function startTls(args: Parsed): NbdServerOptions['startTls'] {
  const id = args.last('tls-creds')
  if (id === undefined) return undefined
  const object = args
    .all('object')
    .map((text) => new Map(parseKeyValues(text, 'qom-type')))
    .find((options) => options.get('id') === id)
  if (object === undefined) throw new UsageError(`No TLS credentials with id '${id}'`)
  const folder = object.get('dir')
  if (folder === undefined) throw new UsageError(`TLS credentials '${id}' need dir=`)
  const file = (name: string) => readFileSync(path.join(folder, name))
  if (object.get('qom-type') === 'tls-creds-psk') {
    const keys = path.join(folder, 'keys.psk')
    return tlsServer({
      pskCallback: (_, identity) => {
        try {
          return readPsk(keys, identity)
        } catch {
          return null
        }
      },
      ciphers: 'PSK',
      maxVersion: 'TLSv1.2',
    })
  }
  if (object.get('qom-type') !== 'tls-creds-x509')
    throw new UsageError(`Object type '${object.get('qom-type')}' is not supported`)
  const verify = object.get('verify-peer') !== 'no' && object.get('verify-peer') !== 'off'
  return tlsServer({
    ca: file('ca-cert.pem'),
    cert: file('server-cert.pem'),
    key: file('server-key.pem'),
    requestCert: verify,
    rejectUnauthorized: verify,
  })
}

class Server {
  readonly #args: Parsed
  readonly #sockets = new Set<net.Socket>()
  readonly #server: net.Server
  readonly #shared: number
  #device: BlockDevice | undefined
  #end: (() => void) | undefined
  #options: NbdServerOptions = { exports: [] }

  constructor(args: Parsed) {
    this.#args = args
    this.#shared = count(args.last('shared') ?? '1')
    this.#server = net.createServer({ allowHalfOpen: false }, (socket) => this.#accept(socket))
  }

  async run(): Promise<number> {
    const args = this.#args
    const secure = startTls(args)
    this.#device = await openExport(args)
    try {
      this.#options = { exports: [exportOf(args, this.#device)], ...(secure ? { startTls: secure } : {}) }
      const ended = new Promise<void>((resolve) => {
        this.#end = resolve
      })
      for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => this.#end?.())
      await this.#listen()
      const pidFile = args.last('pid-file')
      if (pidFile !== undefined) writeFileSync(pidFile, `${process.pid}\n`)
      if (process.env[READY] !== undefined) process.stdout.write('ready\n')
      await ended
      this.#server.close()
      for (const socket of this.#sockets) socket.destroy()
      if (pidFile !== undefined) rmSync(pidFile, { force: true })
      if (!this.#device.readOnly) await this.#device.flush()
    } finally {
      await this.#device.close()
      const socket = args.last('socket')
      if (socket !== undefined) rmSync(socket, { force: true })
    }
    return 0
  }

  #listen(): Promise<void> {
    const args = this.#args
    const socket = args.last('socket')
    if (socket !== undefined && existsSync(socket) && statSync(socket).isSocket()) rmSync(socket)
    return new Promise((resolve, reject) => {
      this.#server.once('error', (error) => reject(new UsageError(`Failed to listen: ${messageOf(error)}`)))
      if (socket !== undefined) this.#server.listen(socket, resolve)
      else this.#server.listen(port(args), args.last('bind') ?? '127.0.0.1', resolve)
    })
  }

  #accept(socket: net.Socket): void {
    if (this.#shared > 0 && this.#sockets.size >= this.#shared) {
      socket.destroy()
      return
    }
    this.#sockets.add(socket)
    void serveNbd(new SocketStream(socket, 'client'), this.#options).then((why) => {
      if (why !== undefined && this.#args.has('verbose')) process.stderr.write(`block86 nbd: a client left: ${why}\n`)
      this.#sockets.delete(socket)
      if (this.#sockets.size === 0 && !this.#args.has('persistent')) this.#end?.()
    })
  }
}

function count(text: string): number {
  if (!/^\d+$/.test(text)) throw new UsageError(`Invalid shared device number '${text}'`)
  return Number(text)
}

function exportOf(args: Parsed, device: BlockDevice): NbdExport {
  const description = args.last('description')
  return {
    name: args.last('export-name') ?? '',
    device,
    readOnly: args.has('read-only') || args.has('load-snapshot'),
    ...(description === undefined ? {} : { description }),
    ...(args.has('allocation-depth') ? { contexts: [allocationDepth(device)] } : {}),
  }
}

async function openExport(args: Parsed): Promise<BlockDevice> {
  for (const refused of ['bitmap', 'load-snapshot'] as const) {
    if (args.has(refused)) throw new UsageError(`option '--${refused}' is not supported yet`)
  }
  const snapshot = args.has('snapshot')
  const readOnly = args.has('read-only') || snapshot
  const cache = args.has('nocache') ? 'none' : args.last('cache')
  const defaults: Record<string, unknown> = {
    format: args.last('format') ?? 'probe',
    readOnly,
    cache,
    aio: args.last('aio'),
  }
  for (const key of Object.keys(defaults)) if (defaults[key] === undefined) delete defaults[key]
  const name = args.operands[0]!
  let device: BlockDevice
  try {
    device = await openNode(name, defaults as NodeDefaults, args.has('image-opts'))
  } catch (error) {
    throw new UsageError(`Failed to open '${name}': ${messageOf(error)}`)
  }
  try {
    const offset = args.last('offset')
    if (offset !== undefined) {
      const bytes = parseSize(offset)
      if (bytes === undefined) throw new UsageError(`Invalid offset '${offset}'`)
      device = await openImage(device, { format: 'raw', offset: bytes, readOnly })
    }
    if (snapshot) device = asDevice(new Overlay(device, asDevice(await host.temporaryFile())))
    const zeroes = args.last('detect-zeroes') ?? 'off'
    if (!/^(off|on|unmap)$/.test(zeroes)) throw new UsageError(`Invalid detect-zeroes mode '${zeroes}'`)
    return zeroes === 'off' ? device : asDevice(new DetectZeroes(device, zeroes === 'unmap'))
  } catch (error) {
    await device.close()
    throw error
  }
}
