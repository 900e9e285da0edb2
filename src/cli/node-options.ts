/** Block nodes as option strings: `driver=qcow2,file.filename=x`, `json:{...}`, and the old `blkdebug:config:image` names. */
import { BlockError } from '../block/error.ts'

/** A tree of options: values as typed, children as trees. */
export interface OptionTree {
  [key: string]: string | number | boolean | OptionTree | OptionList
}
/** A list in a tree, from `json:` or from keys `x.0`, `x.1`. */
export type OptionList = (string | number | boolean | OptionTree)[]

/** A tree without inherited keys, so that no name in it has a meaning of its own. */
function emptyTree(): OptionTree {
  return Object.create(null) as OptionTree
}

/** Splits `a=b,c=d`; a comma in a value is doubled. A word without `=` is `implied=word`, or `word=on`, or `noword` → `word=off`. */
export function parseKeyValues(text: string, implied?: string): [string, string][] {
  const pairs: [string, string][] = []
  let rest = text
  for (let first = true; rest !== '' || first; first = false) {
    const [piece, left] = untilComma(rest)
    const equals = piece.indexOf('=')
    if (equals > 0) pairs.push([piece.slice(0, equals), piece.slice(equals + 1)])
    else if (first && implied !== undefined) pairs.push([implied, piece])
    else if (piece !== '') throw new BlockError('EINVAL', `Expected '=' after parameter '${piece}'`)
    if (left === undefined) break
    rest = left
  }
  return pairs
}

function untilComma(text: string): [string, string | undefined] {
  let piece = ''
  for (let at = 0; at < text.length; at++) {
    if (text[at] !== ',') piece += text[at]
    else if (text[at + 1] === ',') piece += text[++at]
    else return [piece, text.slice(at + 1)]
  }
  return [piece, undefined]
}

/** Makes a tree of pairs: `file.filename` is `filename` of the child `file`; children `0`, `1`, … are a list. */
export function treeOf(pairs: readonly (readonly [string, string])[]): OptionTree {
  const root = emptyTree()
  for (const [key, value] of pairs) {
    const steps = key.split('.')
    let place = root
    for (const step of steps.slice(0, -1)) {
      const next = (place[step] ??= emptyTree())
      if (typeof next !== 'object' || Array.isArray(next)) {
        throw new BlockError('EINVAL', `Parameter '${key}' is below '${step}', which has a value`)
      }
      place = next
    }
    place[steps.at(-1)!] = value
  }
  return root
}

/** The tree of `json:{...}`; keys with dots are taken apart as in an option string. */
export function parseJsonName(name: string): OptionTree {
  let parsed: unknown
  try {
    parsed = JSON.parse(name.slice('json:'.length))
  } catch (cause) {
    throw new BlockError('EINVAL', 'Could not parse the JSON options', { cause })
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    throw new BlockError('EINVAL', 'Could not parse the JSON options: they are not an object')
  }
  return undot(parsed as OptionTree)
}

function undot(tree: OptionTree): OptionTree {
  const flat = emptyTree()
  for (const [key, value] of Object.entries(tree)) {
    const whole = typeof value === 'object' && !Array.isArray(value) ? undot(value) : value
    const steps = key.split('.')
    let place = flat
    for (const step of steps.slice(0, -1)) place = (place[step] ??= emptyTree()) as OptionTree
    place[steps.at(-1)!] = whole
  }
  return flat
}

/** What a file name stands for: a tree for `json:` and the old filter prefixes, else the name itself. */
export function parseFileName(name: string): string | OptionTree {
  if (name.startsWith('json:')) return parseJsonName(name)
  const debug = /^blkdebug:([^:]*):(.+)$/s.exec(name)
  if (debug) return { driver: 'blkdebug', ...(debug[1] ? { config: debug[1] } : {}), image: nested(debug[2]!) }
  const verify = /^blkverify:([^:]+):(.+)$/s.exec(name)
  if (verify) return { driver: 'blkverify', raw: nested(verify[1]!), test: nested(verify[2]!) }
  if (name.startsWith('null-co://')) return { driver: 'null-co' }
  return name
}

function nested(name: string): OptionTree {
  const parsed = parseFileName(name)
  return typeof parsed === 'string' ? { filename: parsed } : parsed
}
