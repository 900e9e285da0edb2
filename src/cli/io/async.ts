/** The commands whose requests nobody waits for, and the one that waits for all of them. */
import { bytesVec } from '../../block/iovec.ts'
import type { Now } from '../../block/now.ts'
import { type Command, misused, Refused, takeApart } from './command.ts'
import { buffers, pattern, size, verify } from './requests.ts'
import { type Session, secondsSince } from './session.ts'
import { dumpText, reportText } from './values.ts'

/** Starts a request and reports it when it completes. */
function start(session: Session, verb: string, begin: () => Now<void>, done: (seconds: number) => void): void {
  const since = process.hrtime.bigint()
  const fail = (error: unknown) => void session.failed(verb, error)
  let begun: Now<void>
  try {
    begun = begin()
  } catch (error) {
    fail(error)
    return
  }
  const end = () => done(secondsSince(since))
  if (begun instanceof Promise) session.follow(begun.then(end, fail))
  else end()
}

export const aioRead: Command = {
  name: 'aio_read',
  least: 2,
  most: Infinity,
  usage: '[-Ciqv] [-P pattern] off len [len..]',
  summary: 'asynchronously reads a number of bytes',
  help: `
 asynchronously reads a range of bytes from the given offset

 Example:
 'aio_read -v 512 1k 1k ' - dumps 2 kilobytes read from 512 bytes into the file

 Reads a segment of the currently open file, optionally dumping it to the
 standard output stream (with -v option) for subsequent inspection.
 The read is performed asynchronously and the aio_flush command must be
 used to ensure all outstanding aio requests have been completed.
 Note that due to its asynchronous nature, this command will be
 considered successful once the request is submitted, independently
 of potential I/O errors or pattern mismatches.
 -C, -- report statistics in a machine parsable format
 -P, -- use a pattern to verify read data
 -i, -- treat request as invalid, for exercising stats
 -v, -- dump buffer to standard output
 -q, -- quiet mode, do not show I/O statistics
`,
  run(session, words) {
    const line = takeApart(session, aioRead, words, 'CP:iqv')
    const wanted = pattern(line.value('P'))
    if (line.has('i')) {
      session.out('injecting invalid read request\n')
      return true
    }
    if (line.operands.length < 2) throw misused(aioRead)
    const at = size(line.operands[0]!)
    const into = bytesVec(...buffers(line.operands.slice(1), 0xab))
    const length = into.byteLength
    start(
      session,
      'readv',
      () => session.read(at, into),
      (seconds) => {
        const bytes = into.gather()
        if (wanted !== undefined) verify(session, bytes, wanted, at)
        if (line.has('q')) return
        if (line.has('v')) session.out(dumpText(bytes, at))
        session.out(reportText({ what: 'read', at, length, seconds }, line.has('C')))
      },
    )
    return true
  },
}

export const aioWrite: Command = {
  name: 'aio_write',
  least: 2,
  most: Infinity,
  writes: true,
  usage: '[-Cfiquz] [-P pattern] off len [len..]',
  summary: 'asynchronously writes a number of bytes',
  help: `
 asynchronously writes a range of bytes from the given offset source
 from multiple buffers

 Example:
 'aio_write 512 1k 1k' - writes 2 kilobytes at 512 bytes into the open file

 Writes into a segment of the currently open file, using a buffer
 filled with a set pattern (0xcdcdcdcd).
 The write is performed asynchronously and the aio_flush command must be
 used to ensure all outstanding aio requests have been completed.
 Note that due to its asynchronous nature, this command will be
 considered successful once the request is submitted, independently
 of potential I/O errors or pattern mismatches.
 -P, -- use different pattern to fill file
 -C, -- report statistics in a machine parsable format
 -f, -- use Force Unit Access semantics
 -i, -- treat request as invalid, for exercising stats
 -q, -- quiet mode, do not show I/O statistics
 -u, -- with -z, allow unmapping
 -z, -- write zeroes using blk_aio_pwrite_zeroes
`,
  run(session, words) {
    const line = takeApart(session, aioWrite, words, 'CfiP:quz')
    const filler = pattern(line.value('P')) ?? 0xcd
    if (line.has('i')) {
      session.out('injecting invalid write request\n')
      return true
    }
    const { operands } = line
    if (operands.length < 2) throw misused(aioWrite)
    if (line.has('z') && operands.length !== 2) throw new Refused('-z supports only a single length parameter')
    if (line.has('u') && !line.has('z')) throw new Refused('-u requires -z to be specified')
    const at = size(operands[0]!)
    const fua = line.has('f')
    const report = (length: number) => (seconds: number) => {
      if (!line.has('q')) session.out(reportText({ what: 'wrote', at, length, seconds }, line.has('C')))
    }
    if (line.has('z')) {
      const length = size(operands[1]!)
      start(session, 'aio_write', () => session.zero(at, length, { unmap: line.has('u'), fua }), report(length))
      return true
    }
    const from = bytesVec(...buffers(operands.slice(1), filler))
    start(session, 'aio_write', () => session.write(at, from, fua), report(from.byteLength))
    return true
  },
}

export const aioFlush: Command = {
  name: 'aio_flush',
  least: 0,
  most: 0,
  usage: '',
  summary: 'completes all outstanding aio requests',
  async run(session) {
    await session.drain()
    return true
  },
}
