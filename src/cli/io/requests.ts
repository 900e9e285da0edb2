/** The commands that read and write and wait for it. */
import { readFileSync } from 'node:fs'
import { BlockError, messageOf } from '../../block/error.ts'
import { bytesVec, type IoVec } from '../../block/iovec.ts'
import { ImageDevice, imageDriver } from '../../block/mover.ts'
import { strerror } from '../img/reasons.ts'
import { type Command, misused, Refused, takeApart } from './command.ts'
import { type Session, secondsSince } from './session.ts'
import { dumpText, LARGEST_REQUEST, patternOf, reportText, sizeOf } from './values.ts'

const SECTOR = 512

/** What memory holds before it is read into, and what is written if no pattern is given. */
const UNREAD = 0xab
const DEFAULT_PATTERN = 0xcd

/** A size on a command's line; throws what is wrong with it. */
export function size(text: string): number {
  const value = sizeOf(text)
  if (typeof value === 'string') throw new Refused(value)
  return value
}

/** The value of `-P`. */
export function pattern(text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const value = patternOf(text)
  if (value === undefined) throw new Refused(`${text} is not a valid pattern byte`)
  return value
}

function bounded(text: string, length: number, unless = ''): number {
  if (length > LARGEST_REQUEST) throw new Refused(`length cannot exceed ${LARGEST_REQUEST}${unless}, given ${text}`)
  return length
}

function wholeSectors(at: number, length: number): void {
  for (const [what, value] of [
    ['offset', at],
    ['count', length],
  ] as const) {
    if (value % SECTOR !== 0) throw new Refused(`${value} is not a sector-aligned value for '${what}'`)
  }
}

/** Memory of the lengths that the words name, one buffer for each. */
export function buffers(words: readonly string[], fill: number): Uint8Array[] {
  let total = 0
  for (const word of words) {
    const length = size(word)
    if (length > LARGEST_REQUEST) throw new Refused(`Argument '${word}' exceeds maximum size ${LARGEST_REQUEST}`)
    total += length
    if (total > LARGEST_REQUEST)
      throw new Refused(`The total number of bytes exceed the maximum size ${LARGEST_REQUEST}`)
  }
  return words.map((word) => new Uint8Array(size(word)).fill(fill))
}

/** Whether every byte is `wanted`; says where not. */
export function verify(session: Session, bytes: Uint8Array, wanted: number, at: number): boolean {
  if (bytes.every((byte) => byte === wanted)) return true
  session.out(`Pattern verification failed at offset ${at}, ${bytes.length} bytes\n`)
  return false
}

/** The machine's state behind the disk, as a disk of its own. */
async function machineState(session: Session, length: number): Promise<ImageDevice> {
  const { driver } = session.device
  const image = driver instanceof ImageDevice ? driver.image : undefined
  const state = image === undefined ? undefined : Reflect.get(image, 'machineState')
  if (typeof state !== 'function') throw new BlockError('ENOTSUP', 'this format keeps no machine state')
  return imageDriver(await state.call(image, length))
}

/** Does a request and reports it. */
async function timed(
  session: Session,
  verb: string,
  report: {
    readonly what: string
    readonly at: number
    readonly length: number
    readonly line: { has(l: string): boolean }
  },
  body: () => unknown,
  after: () => boolean = () => true,
): Promise<boolean> {
  const start = process.hrtime.bigint()
  try {
    await body()
  } catch (error) {
    return session.failed(verb, error)
  }
  const seconds = secondsSince(start)
  const good = after()
  const { what, at, length, line } = report
  if (!line.has('q')) session.out(reportText({ what, at, length, seconds }, line.has('C')))
  return good
}

export const read: Command = {
  name: 'read',
  short: 'r',
  least: 2,
  most: Infinity,
  usage: '[-abCqv] [-P pattern [-s off] [-l len]] off len',
  summary: 'reads a number of bytes at a specified offset',
  help: `
 reads a range of bytes from the given offset

 Example:
 'read -v 512 1k' - dumps 1 kilobyte read from 512 bytes into the file

 Reads a segment of the currently open file, optionally dumping it to the
 standard output stream (with -v option) for subsequent inspection.
 -b, -- read from the VM state rather than the virtual disk
 -C, -- report statistics in a machine parsable format
 -l, -- length for pattern verification (only with -P)
 -p, -- ignored for backwards compatibility
 -P, -- use a pattern to verify read data
 -q, -- quiet mode, do not show I/O statistics
 -s, -- start offset for pattern verification (only with -P)
 -v, -- dump buffer to standard output
`,
  run(session, words) {
    const line = takeApart(session, read, words, 'bCl:pP:qs:v')
    const checked = line.value('l') === undefined ? undefined : size(line.value('l')!)
    const wanted = pattern(line.value('P'))
    const from = line.value('s') === undefined ? 0 : size(line.value('s')!)
    if (line.operands.length !== 2) throw misused(read)
    const at = size(line.operands[0]!)
    const length = bounded(line.operands[1]!, size(line.operands[1]!))
    if (wanted === undefined && (line.has('l') || line.has('s'))) throw misused(read)
    const span = checked ?? length - from
    if (span < 0 || span + from > length) throw new Refused('pattern verification range exceeds end of read data')
    if (line.has('b')) wholeSectors(at, length)
    const bytes = new Uint8Array(length).fill(UNREAD)
    const fetch = async () => {
      if (!line.has('b')) return session.read(at, bytesVec(bytes))
      return (await machineState(session, at + length)).read(at, bytesVec(bytes))
    }
    return timed(session, 'read', { what: 'read', at, length, line }, fetch, () => {
      const good = wanted === undefined || verify(session, bytes.subarray(from, from + span), wanted, at + from)
      if (line.has('v') && !line.has('q')) session.out(dumpText(bytes, at))
      return good
    })
  },
}

export const readv: Command = {
  name: 'readv',
  least: 2,
  most: Infinity,
  usage: '[-Cqv] [-P pattern] off len [len..]',
  summary: 'reads a number of bytes at a specified offset',
  help: `
 reads a range of bytes from the given offset into multiple buffers

 Example:
 'readv -v 512 1k 1k ' - dumps 2 kilobytes read from 512 bytes into the file

 Reads a segment of the currently open file, optionally dumping it to the
 standard output stream (with -v option) for subsequent inspection.
 Uses multiple iovec buffers if more than one byte range is specified.
 -C, -- report statistics in a machine parsable format
 -P, -- use a pattern to verify read data
 -v, -- dump buffer to standard output
 -q, -- quiet mode, do not show I/O statistics
`,
  run(session, words) {
    const line = takeApart(session, readv, words, 'CP:qv')
    const wanted = pattern(line.value('P'))
    if (line.operands.length < 2) throw misused(readv)
    const at = size(line.operands[0]!)
    const into = bytesVec(...buffers(line.operands.slice(1), UNREAD))
    const length = into.byteLength
    return timed(
      session,
      'readv',
      { what: 'read', at, length, line },
      () => session.read(at, into),
      () => {
        const bytes = into.gather()
        const good = wanted === undefined || verify(session, bytes, wanted, at)
        if (line.has('v') && !line.has('q')) session.out(dumpText(bytes, at))
        return good
      },
    )
  },
}

export const write: Command = {
  name: 'write',
  short: 'w',
  least: 2,
  most: Infinity,
  writes: true,
  usage: '[-bcCfnquz] [-P pattern | -s source_file] off len',
  summary: 'writes a number of bytes at a specified offset',
  help: `
 writes a range of bytes from the given offset

 Example:
 'write 512 1k' - writes 1 kilobyte at 512 bytes into the open file

 Writes into a segment of the currently open file, using a buffer
 filled with a set pattern (0xcdcdcdcd).
 -b, -- write to the VM state rather than the virtual disk
 -c, -- write compressed data with blk_write_compressed
 -f, -- use Force Unit Access semantics
 -n, -- with -z, don't allow slow fallback
 -p, -- ignored for backwards compatibility
 -P, -- use different pattern to fill file
 -s, -- use a pattern file to fill the write buffer
 -C, -- report statistics in a machine parsable format
 -q, -- quiet mode, do not show I/O statistics
 -u, -- with -z, allow unmapping
 -z, -- write zeroes using blk_co_pwrite_zeroes
`,
  run(session, words) {
    const line = takeApart(session, write, words, 'bcCfnpP:qs:uz')
    const filler = pattern(line.value('P'))
    if (line.operands.length !== 2) throw misused(write)
    const [b, c, f, z] = (['b', 'c', 'f', 'z'] as const).map((letter) => line.has(letter))
    if (b && z) throw new Refused('-b and -z cannot be specified at the same time')
    if (f && (b || c)) throw new Refused('-f and -b or -c cannot be specified at the same time')
    if (line.has('n') && !z) throw new Refused('-n requires -z to be specified')
    if (line.has('u') && !z) throw new Refused('-u requires -z to be specified')
    if (['z', 'P', 's'].filter((letter) => line.has(letter)).length > 1)
      throw new Refused('Only one of -z, -P, and -s can be specified at the same time')
    const at = size(line.operands[0]!)
    const length = size(line.operands[1]!)
    if (!line.has('n')) bounded(line.operands[1]!, length, ' without -n')
    if (b || c) wholeSectors(at, length)
    const report = { what: 'wrote', at, length, line }
    if (z) {
      return timed(session, 'write', report, () => {
        if (line.has('n') && session.device.driver.zero === undefined)
          throw new BlockError('ENOTSUP', 'zeroes would have to be written')
        return session.zero(at, length, { unmap: line.has('u'), fua: f === true })
      })
    }
    const source = line.value('s')
    const bytes =
      source === undefined ? new Uint8Array(length).fill(filler ?? DEFAULT_PATTERN) : repeated(session, source, length)
    if (bytes === undefined) return false
    const from = bytesVec(bytes)
    return timed(session, 'write', report, async () => {
      if (b) return writeState(session, at, from)
      if (c) return packed(session, at, from)
      return session.write(at, from, f === true)
    })
  },
}

/** A file's bytes over and over; undefined, and said why, if there are none. */
function repeated(session: Session, file: string, length: number): Uint8Array | undefined {
  let content: Uint8Array
  try {
    content = readFileSync(file)
  } catch (error) {
    session.err(`${file}: ${strerror(error)}\n`)
    return undefined
  }
  if (content.length === 0) {
    session.err(`${file}: file is empty\n`)
    return undefined
  }
  const bytes = new Uint8Array(length)
  for (let at = 0; at < length; at += content.length) bytes.set(content.subarray(0, length - at), at)
  return bytes
}

async function writeState(session: Session, at: number, from: IoVec): Promise<void> {
  const state = await machineState(session, at + from.byteLength)
  await state.write(at, from)
}

function packed(session: Session, at: number, from: IoVec): unknown {
  session.checkRange(at, from.byteLength)
  const { driver } = session.device
  if (!(driver instanceof ImageDevice)) throw new BlockError('ENOTSUP', 'this format cannot compress')
  return driver.writePacked(at, from)
}

export const writev: Command = {
  name: 'writev',
  least: 2,
  most: Infinity,
  writes: true,
  usage: '[-Cfq] [-P pattern] off len [len..]',
  summary: 'writes a number of bytes at a specified offset',
  help: `
 writes a range of bytes from the given offset source from multiple buffers

 Example:
 'writev 512 1k 1k' - writes 2 kilobytes at 512 bytes into the open file

 Writes into a segment of the currently open file, using a buffer
 filled with a set pattern (0xcdcdcdcd).
 -P, -- use different pattern to fill file
 -C, -- report statistics in a machine parsable format
 -f, -- use Force Unit Access semantics
 -q, -- quiet mode, do not show I/O statistics
`,
  run(session, words) {
    const line = takeApart(session, writev, words, 'CfqP:')
    const filler = pattern(line.value('P')) ?? DEFAULT_PATTERN
    if (line.operands.length < 2) throw misused(writev)
    const at = size(line.operands[0]!)
    const from = bytesVec(...buffers(line.operands.slice(1), filler))
    const report = { what: 'wrote', at, length: from.byteLength, line }
    return timed(session, 'writev', report, () => session.write(at, from, line.has('f')))
  },
}

export const discard: Command = {
  name: 'discard',
  short: 'd',
  least: 2,
  most: Infinity,
  writes: true,
  usage: '[-Cq] off len',
  summary: 'discards a number of bytes at a specified offset',
  help: `
 discards a range of bytes from the given offset

 Example:
 'discard 512 1k' - discards 1 kilobyte from 512 bytes into the file

 Discards a segment of the currently open file.
 -C, -- report statistics in a machine parsable format
 -q, -- quiet mode, do not show I/O statistics
`,
  run(session, words) {
    const line = takeApart(session, discard, words, 'Cq')
    if (line.operands.length !== 2) throw misused(discard)
    const at = size(line.operands[0]!)
    const length = bounded(line.operands[1]!, size(line.operands[1]!))
    return timed(session, 'discard', { what: 'discard', at, length, line }, () => session.discard(at, length))
  },
}

export const flush: Command = {
  name: 'flush',
  short: 'f',
  least: 0,
  most: 0,
  usage: '',
  summary: 'flush all in-core file state to disk',
  async run(session) {
    try {
      await session.device.flush()
      return true
    } catch (error) {
      session.complain(messageOf(error))
      return false
    }
  },
}
