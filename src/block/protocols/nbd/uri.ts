/** NBD URIs, as the NBD project's "NBD Uniform Resource Indicator" specifies them. */
import { BlockError } from '../../error.ts'

/** Where an export is. */
export interface NbdAddress {
  readonly exportName: string
  readonly tls: boolean
  readonly socket: { readonly path: string } | { readonly host: string; readonly port: number }
  /** Query parameters `tls-certificates`, `tls-username`, `tls-psk-file`, `tls-hostname` where given. */
  readonly parameters: Readonly<Record<string, string>>
}

/** The port that IANA gave to NBD. */
export const NBD_PORT = 10809
const PARAMETERS = ['socket', 'tls-certificates', 'tls-username', 'tls-psk-file', 'tls-hostname']

/** Takes apart `nbd://`, `nbds://`, `nbd+unix://` and `nbds+unix://`, and the old `nbd:host:port:exportname=x`, `nbd:unix:path`. */
export function parseNbdUri(uri: string): NbdAddress {
  const scheme = /^(nbds?)(\+unix)?:\/\//.exec(uri)
  if (scheme === null) return parseOld(uri)
  const tls = scheme[1] === 'nbds'
  let url: URL
  try {
    url = new URL(uri.replace(/^[^:]*:/, 'http:').replace(/^http:\/\/\//, 'http://none/'))
  } catch (cause) {
    throw new BlockError('EINVAL', `Cannot parse the NBD URI '${uri}'`, { cause })
  }
  const parameters: Record<string, string> = {}
  for (const [key, value] of url.searchParams) {
    if (!PARAMETERS.includes(key))
      throw new BlockError('EINVAL', `The NBD URI '${uri}' has an unknown parameter '${key}'`)
    parameters[key] = value
  }
  const exportName = decodeURIComponent(url.pathname.replace(/^\//, ''))
  if (scheme[2] !== undefined) {
    const path = parameters.socket
    if (path === undefined) throw new BlockError('EINVAL', `The NBD URI '${uri}' lacks the parameter 'socket'`)
    return { exportName, tls, socket: { path }, parameters }
  }
  if (parameters.socket !== undefined)
    throw new BlockError('EINVAL', `The NBD URI '${uri}' has a socket, but is not nbd+unix`)
  const host = url.hostname.replace(/^\[|\]$/g, '')
  const explicit = /^[^:]*:\/\/(?:[^@/]*@)?(?:\[[^\]]*\]|[^:/?]*):(\d+)/.exec(uri)
  return { exportName, tls, socket: { host, port: explicit ? Number(explicit[1]) : NBD_PORT }, parameters }
}

function parseOld(uri: string): NbdAddress {
  const unix = /^nbd:unix:([^:]+)(?::exportname=(.*))?$/.exec(uri)
  if (unix) return { exportName: unix[2] ?? '', tls: false, socket: { path: unix[1]! }, parameters: {} }
  const tcp = /^nbd:(\[[^\]]*\]|[^:/]+):(\d+)(?::exportname=(.*))?$/.exec(uri)
  if (tcp) {
    const host = tcp[1]!.replace(/^\[|\]$/g, '')
    return { exportName: tcp[3] ?? '', tls: false, socket: { host, port: Number(tcp[2]) }, parameters: {} }
  }
  throw new BlockError(
    'EINVAL',
    `'${uri}' is not an NBD address: nbd://host:port/export or nbd+unix:///export?socket=path`,
  )
}
