/** What `info` calls an image: names of NBD exports in the one form that all their spellings have in common. */
import { type OptionTree, parseKeyValues, treeOf } from '../node-options.ts'

/** The name that is shown for one that was given. */
export function shownName(name: string, imageOptions = false): string {
  if (imageOptions) return nodeName(treeOf(parseKeyValues(name))) ?? name
  const unix = /^nbd:unix:([^:]+)(?::exportname=(.*))?$/s.exec(name)
  if (unix) return unixName(unix[1]!, unix[2])
  const tcp = /^nbd:([^/:]+|\[[^\]]+\]):(\d+)(?::exportname=(.*))?$/s.exec(name)
  if (tcp) return tcpName(tcp[1]!, tcp[2]!, tcp[3])
  return name.replace(/^(nbds?\+unix:\/\/)\/\?/, '$1?')
}

/** The name of a tree that is a file, an export, or a format in one of these. */
function nodeName(tree: OptionTree): string | undefined {
  const { driver, file, filename } = tree
  if (driver === 'nbd') {
    const server = (typeof tree.server === 'object' && !Array.isArray(tree.server) ? tree.server : tree) as OptionTree
    const name = typeof tree.export === 'string' ? tree.export : undefined
    if (server.path !== undefined) return unixName(String(server.path), name)
    return tcpName(String(server.host ?? 'localhost'), String(server.port ?? 10809), name)
  }
  if (typeof filename === 'string') return filename
  if (typeof file === 'string') return file
  return typeof file === 'object' && !Array.isArray(file) ? nodeName(file) : undefined
}

const unixName = (path: string, name: string | undefined) => `nbd+unix://${name ? `/${name}` : ''}?socket=${path}`
const tcpName = (host: string, port: string, name: string | undefined) =>
  `nbd://${host}:${port}${name ? `/${name}` : ''}`
