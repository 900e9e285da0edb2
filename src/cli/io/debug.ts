/** The commands that hold requests at named moments and let them go. */
import type { DebugPoints } from '../../block/device.ts'
import { BlockError } from '../../block/error.ts'
import { strerror } from '../img/reasons.ts'
import type { Command } from './command.ts'
import type { Session } from './session.ts'

function pointsOf(session: Session): DebugPoints {
  const points = session.device.debug
  if (points === undefined) throw new BlockError('ENOTSUP', 'there is no blkdebug below')
  return points
}

/** Does it, or says what could not be done. */
async function attempt(session: Session, what: string, body: (points: DebugPoints) => unknown): Promise<boolean> {
  try {
    await body(pointsOf(session))
    return true
  } catch (error) {
    session.out(`Could not ${what}: ${strerror(error)}\n`)
    return false
  }
}

function found(was: boolean): void {
  if (!was) throw new BlockError('ENOENT', 'nothing has this tag')
}

export const breakpoint: Command = {
  name: 'break',
  least: 2,
  most: 2,
  usage: 'event tag',
  summary: 'sets a breakpoint on event and tags the stopped request as tag',
  run(session, [, event, tag]) {
    session.tags.add(tag!)
    return attempt(session, 'set breakpoint', (points) => points.break(event!, tag!))
  },
}

export const removeBreak: Command = {
  name: 'remove_break',
  least: 1,
  most: 1,
  usage: 'tag',
  summary: 'remove a breakpoint by tag',
  run: (session, [, tag]) => attempt(session, `remove breakpoint ${tag}`, (points) => found(points.removeBreak(tag!))),
}

export const resume: Command = {
  name: 'resume',
  least: 1,
  most: 1,
  usage: 'tag',
  summary: 'resumes the request tagged as tag',
  run: (session, [, tag]) => attempt(session, 'resume request', (points) => found(points.resume(tag!))),
}

export const waitBreak: Command = {
  name: 'wait_break',
  least: 1,
  most: 1,
  usage: 'tag',
  summary: 'waits for the suspension of a request',
  run: (session, [, tag]) =>
    attempt(session, 'wait for a request', async (points) => {
      const held = points.suspended(tag!)
      if (!(held instanceof Promise)) return
      // With no request under way, none will ever be held.
      await Promise.race([
        held,
        session.drain().then(() => {
          throw new BlockError('ENOENT', 'no request is under way')
        }),
      ])
    }),
}
