/** Objects of a command line, as `--object secret,id=x,data=y` makes them, which nodes refer to by their ids. */
import { BlockError } from '../block/error.ts'
import { type OptionTree, parseKeyValues, treeOf } from './node-options.ts'

/** The types that are known here. */
const TYPES = ['secret', 'throttle-group', 'tls-creds-x509', 'tls-creds-psk', 'tls-creds-anon', 'iothread'] as const

/** Objects by their ids; the type of each is its `qom-type`. */
export type Objects = ReadonlyMap<string, OptionTree>

/** Reads all `--object` options. */
export function parseObjects(texts: readonly string[]): Objects {
  const objects = new Map<string, OptionTree>()
  for (const text of texts) {
    const tree = text.startsWith('{') ? jsonObject(text) : treeOf(parseKeyValues(text, 'qom-type'))
    const type = tree['qom-type']
    const { id } = tree
    if (typeof type !== 'string' || !(TYPES as readonly string[]).includes(type))
      throw new BlockError('EINVAL', `Parameter 'qom-type' does not accept value '${type}'`)
    if (typeof id !== 'string') throw new BlockError('EINVAL', "Parameter 'id' is missing")
    if (objects.has(id)) throw new BlockError('EEXIST', `attempt to add duplicate property '${id}' to object`)
    objects.set(id, tree)
  }
  return objects
}

function jsonObject(text: string): OptionTree {
  try {
    return JSON.parse(text) as OptionTree
  } catch {
    throw new BlockError('EINVAL', 'JSON parse error, expecting value')
  }
}

/** The object `id` of one of the types; says which id is wrong. */
export function objectOf(objects: Objects | undefined, id: string, ...types: readonly string[]): OptionTree {
  const object = objects?.get(id)
  if (object === undefined && types[0] === 'throttle-group')
    throw new BlockError('ENOENT', `Throttle group '${id}' does not exist`)
  if (object === undefined)
    throw new BlockError('ENOENT', `No ${types[0]?.replace(/-(x509|psk)$/, '')} object with id '${id}'`)
  if (types.includes(object['qom-type'] as string)) return object
  throw new BlockError('EINVAL', `Object with id '${id}' is not of type ${types.join(' or ')}`)
}
