/** The commands that open and close the image. */
import { messageOf } from '../../block/error.ts'
import { parseKeyValues } from '../node-options.ts'
import { type Command, misused, takeApart } from './command.ts'
import type { OpenFlags } from './open.ts'
import type { Session } from './session.ts'

type Mutable<T> = { -readonly [K in keyof T]: T[K] }

const CACHES = ['none', 'writeback', 'writethrough', 'directsync', 'unsafe'] as const

/** A cache mode as `-t` names it, or undefined, and said so. */
export function cacheOf(session: Session, text: string): NonNullable<OpenFlags['cache']> | undefined {
  const found = CACHES.find((mode) => mode === (text === 'off' ? 'none' : text))
  if (found === undefined) session.complain(`Invalid cache option: ${text}`)
  return found
}

/** Takes the flags that `open` and the program itself have in common; undefined, and said why, if one is wrong. */
export function flagsOf(
  session: Session,
  line: { has(key: string): boolean; value(key: string): string | undefined },
): Mutable<OpenFlags> | undefined {
  const flags: Mutable<OpenFlags> = {}
  if (line.has('r')) flags.readOnly = true
  if (line.has('s')) flags.snapshot = true
  if (line.has('C')) flags.copyOnRead = true
  if (line.has('U')) flags.forceShare = true
  if (line.has('n')) flags.cache = 'none'
  if (line.has('k')) flags.aio = 'native'
  const cache = line.value('t')
  if (cache !== undefined) {
    const mode = cacheOf(session, cache)
    if (mode === undefined) return undefined
    flags.cache = mode
  }
  const aio = line.value('i')
  if (aio !== undefined) {
    if (aio !== 'threads' && aio !== 'native' && aio !== 'io_uring') {
      session.complain(`Invalid aio option: ${aio}`)
      return undefined
    }
    flags.aio = aio
  }
  const discard = line.value('d')
  if (discard !== undefined) {
    if (!['ignore', 'unmap', 'on', 'off'].includes(discard)) {
      session.complain(`Invalid discard option: ${discard}`)
      return undefined
    }
    flags.discard = discard === 'unmap' || discard === 'on' ? 'unmap' : 'ignore'
  }
  return flags
}

export const open: Command = {
  name: 'open',
  short: 'o',
  least: 1,
  most: Infinity,
  alone: true,
  usage: '[-rsCnkU] [-t cache] [-d discard] [-o options] [path]',
  summary: 'open the file specified by path',
  help: `
 opens a new file in the requested mode

 Example:
 'open -n -o driver=raw /tmp/data' - opens raw data file read-write, uncached

 Opens a file for subsequent use by all of the other commands.
 -r, -- open file read-only
 -s, -- use snapshot file
 -C, -- use copy-on-read
 -n, -- disable host cache, short for -t none
 -U, -- force shared permissions
 -k, -- use kernel AIO implementation (Linux only, prefer use of -i)
 -i, -- use AIO mode (threads, native or io_uring)
 -t, -- use the given cache mode for the image
 -d, -- use the given discard mode for the image
 -o, -- options to be given to the block driver
`,
  run(session, words) {
    const line = takeApart(session, open, words, 'snCro:ki:t:d:U')
    const flags = flagsOf(session, line)
    if (flags === undefined) return false
    const options = line.value('o')
    if (options !== undefined) flags.options = options
    if (line.operands.length > 1) throw misused(open)
    return session.open(line.operands[0], flags)
  },
}

export const close: Command = {
  name: 'close',
  short: 'c',
  least: 0,
  most: 0,
  usage: '',
  summary: 'close the current open file',
  async run(session) {
    try {
      await session.close()
      return true
    } catch (error) {
      return session.complain(messageOf(error))
    }
  },
}

export const reopen: Command = {
  name: 'reopen',
  least: 0,
  most: Infinity,
  usage: '[(-r|-w)] [-c cache] [-o options]',
  summary: 'reopens an image with new options',
  help: `
 Changes the open options of an already opened image

 Example:
 'reopen -o lazy-refcounts=on' - activates lazy refcount writeback on a qcow2 image

 -r, -- Reopen the image read-only
 -w, -- Reopen the image read-write
 -c, -- Change the cache mode to the given value
 -o, -- Changes block driver options (cf. 'open' command)

`,
  run(session, words) {
    const line = takeApart(session, reopen, words, 'c:o:rw')
    const change: Mutable<OpenFlags> = {}
    const cache = line.value('c')
    if (cache !== undefined) {
      const mode = cacheOf(session, cache)
      if (mode === undefined) return false
      change.cache = mode
    }
    if (line.has('r') && line.has('w')) return session.complain('Only one -r/-w option may be given')
    if (line.has('r') || line.has('w')) change.readOnly = line.has('r')
    if (line.operands.length > 0) throw misused(reopen)
    for (const [key, value] of line.value('o') === undefined ? [] : parseKeyValues(line.value('o')!)) {
      if (key === 'read-only' && !line.has('r') && !line.has('w')) change.readOnly = value === 'on'
      else return session.complain(`Cannot change the option '${key}'`)
    }
    return session.reopen(change)
  },
}
