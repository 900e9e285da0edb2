/** NBD over Node's sockets: `nbd://`, `nbds://`, `nbd+unix://`, `nbds+unix://`. */
import fs from 'node:fs'
import path from 'node:path'
import type { ConnectionOptions } from 'node:tls'
import { BlockError, blockError } from '../../error.ts'
import type { ProtocolDriver } from '../../protocol.ts'
import { NbdClient, type NbdClientOptions } from '../nbd/client.ts'
import { type NbdAddress, parseNbdUri } from '../nbd/uri.ts'
import { dial, tlsClient } from './tcp.ts'

/** Where a client's TLS identity comes from: a folder of X.509 files, or a file of pre-shared keys. */
export interface TlsFiles {
  /** Folder with `ca-cert.pem` and, for a server that asks, `client-cert.pem` and `client-key.pem`. */
  readonly certificates?: string
  /** File of `user:hexkey` lines. */
  readonly pskFile?: string
  readonly username?: string
  /** Name that the server's certificate must have; default the host's. */
  readonly hostname?: string
  /** Whether the server's certificate must be good; default true. */
  readonly verify?: boolean
}

/** A pre-shared key of a file of `user:hexkey` lines. */
export function readPsk(file: string, username: string): Buffer {
  const lines = readFile(file).toString('latin1').split('\n')
  const line = lines.find((candidate) => candidate.startsWith(`${username}:`))
  if (line === undefined) throw new BlockError('ENOENT', `Cannot use TLS: ${file} has no key for user '${username}'`)
  return Buffer.from(line.slice(username.length + 1).trim(), 'hex')
}

/** What `node:tls` needs to connect with this identity. */
export function tlsConnectionOptions(files: TlsFiles, host: string): ConnectionOptions {
  if (files.pskFile !== undefined) {
    const identity = files.username ?? process.env.USER ?? 'nbd'
    const psk = readPsk(files.pskFile, identity)
    return {
      pskCallback: () => ({ psk, identity }),
      ciphers: 'PSK',
      maxVersion: 'TLSv1.2',
      checkServerIdentity: () => undefined,
    }
  }
  const options: ConnectionOptions = { servername: files.hostname ?? host }
  const folder = files.certificates
  if (folder === undefined) return options
  options.ca = readFile(path.join(folder, 'ca-cert.pem'))
  if (files.verify === false) options.rejectUnauthorized = false
  if (fs.existsSync(path.join(folder, 'client-cert.pem'))) {
    options.cert = readFile(path.join(folder, 'client-cert.pem'))
    options.key = readFile(path.join(folder, 'client-key.pem'))
  }
  return options
}

function readFile(name: string): Buffer {
  try {
    return fs.readFileSync(name)
  } catch (error) {
    throw blockError(error, 'Cannot use TLS')
  }
}

function startTlsOf(address: NbdAddress, files: TlsFiles | undefined): ReturnType<typeof tlsClient> | undefined {
  if (!address.tls) return undefined
  const { parameters, socket } = address
  const named: { -readonly [K in keyof TlsFiles]: TlsFiles[K] } = { ...files }
  if (parameters['tls-certificates'] !== undefined) named.certificates = parameters['tls-certificates']
  if (parameters['tls-psk-file'] !== undefined) named.pskFile = parameters['tls-psk-file']
  if (parameters['tls-username'] !== undefined) named.username = parameters['tls-username']
  if (parameters['tls-hostname'] !== undefined) named.hostname = parameters['tls-hostname']
  return tlsClient(tlsConnectionOptions(named, 'host' in socket ? socket.host : 'localhost'))
}

export const nbd: ProtocolDriver = {
  name: 'nbd',
  schemes: ['nbd', 'nbds', 'nbd+unix', 'nbds+unix'],
  openOptions: ['reconnectDelay', 'openTimeout', 'tls', 'xDirtyBitmap'],
  async open(url, { readOnly, options }) {
    const address = parseNbdUri(url)
    const startTls = startTlsOf(address, options.tls as TlsFiles | undefined)
    const wish = { exportName: address.exportName, ...(startTls ? { startTls } : {}) }
    const bitmap = options.xDirtyBitmap
    const client: NbdClientOptions = {
      readOnly,
      reconnectDelay: seconds(options, 'reconnectDelay', url),
      ...(typeof bitmap === 'string' ? { context: bitmap } : {}),
    }
    const until = Date.now() + 1000 * seconds(options, 'openTimeout', url)
    for (;;) {
      try {
        return await NbdClient.connect(url, () => dial(address.socket), wish, client)
      } catch (error) {
        if (Date.now() >= until) throw error
        await new Promise((resolve) => setTimeout(resolve, 250))
      }
    }
  },
}

function seconds(options: Readonly<Record<string, unknown>>, key: string, url: string): number {
  const value = options[key] ?? 0
  if (typeof value === 'number' && value >= 0 && value <= 86_400) return value
  throw new BlockError('EINVAL', `Cannot open ${url}: ${key} is '${value}', must be a number of seconds up to 86400`)
}
