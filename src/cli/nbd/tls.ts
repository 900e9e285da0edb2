/** `--object tls-creds-…` as an NBD server or client needs it. */
import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import type { NbdServerOptions } from '../../block/protocols/nbd/server.ts'
import { readPsk, type TlsFiles } from '../../block/protocols/node/nbd.ts'
import { tlsServer } from '../../block/protocols/node/tcp.ts'
import { UsageError } from '../getopt.ts'
import type { OptionTree } from '../node-options.ts'
import type { Objects } from '../objects.ts'

function credentials(objects: Objects, id: string, endpoint: 'server' | 'client'): OptionTree {
  const object = objects.get(id)
  const type = object?.['qom-type']
  if (object === undefined || typeof type !== 'string' || !type.startsWith('tls-creds-'))
    throw new UsageError(`Failed to get TLS creds: No TLS credentials with id '${id}'`)
  if (type === 'tls-creds-anon')
    throw new UsageError('Failed to get TLS creds: tls-creds-anon is not supported, for anyone could be in the middle')
  if ((object.endpoint ?? 'client') !== endpoint)
    throw new UsageError(`Failed to get TLS creds: Expecting TLS credentials with a ${endpoint} endpoint`)
  if (typeof object.dir !== 'string') throw new UsageError(`Failed to get TLS creds: '${id}' needs dir=`)
  return object
}

function verifies(object: OptionTree): boolean {
  return !['no', 'off', 'false', false].includes((object['verify-peer'] ?? 'on') as string | boolean)
}

/** The server's half of STARTTLS. */
export function serverTls(objects: Objects, id: string): NonNullable<NbdServerOptions['startTls']> {
  const object = credentials(objects, id, 'server')
  const folder = object.dir as string
  if (object['qom-type'] === 'tls-creds-psk') {
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
  const verify = verifies(object)
  const file = (name: string) => {
    try {
      return readFileSync(path.join(folder, name))
    } catch {
      throw new UsageError(`Failed to get TLS creds: Unable to access credentials ${path.join(folder, name)}`)
    }
  }
  const revoked = path.join(folder, 'ca-crl.pem')
  return tlsServer({
    ca: file('ca-cert.pem'),
    cert: file('server-cert.pem'),
    key: file('server-key.pem'),
    ...(existsSync(revoked) ? { crl: readFileSync(revoked) } : {}),
    requestCert: verify,
    rejectUnauthorized: verify,
  })
}

/** What a client proves itself with, and `hostname` as the name that the server's certificate must have. */
export function clientTls(objects: Objects, id: string, hostname?: string): TlsFiles {
  const object = credentials(objects, id, 'client')
  const folder = object.dir as string
  if (object['qom-type'] === 'tls-creds-psk') {
    const username = typeof object.username === 'string' ? object.username : 'qemu'
    return { pskFile: path.join(folder, 'keys.psk'), username }
  }
  return {
    certificates: folder,
    verify: verifies(object),
    ...(hostname === undefined ? {} : { hostname }),
  }
}
