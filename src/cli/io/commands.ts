/** All commands of `block86 io`, in the order of their names. */
import { aioFlush, aioRead, aioWrite } from './async.ts'
import { type Command, Refused, usageLine } from './command.ts'
import { abort, quit, sigraise, sleep } from './control.ts'
import { breakpoint, removeBreak, resume, waitBreak } from './debug.ts'
import { alloc, info, length, map, truncate } from './inspect.ts'
import { close, open, reopen } from './manage.ts'
import { discard, flush, read, readv, write, writev } from './requests.ts'

const help: Command = {
  name: 'help',
  short: '?',
  least: 0,
  most: 1,
  alone: true,
  usage: '[command]',
  summary: 'help for one or all commands',
  run(session, [, name]) {
    if (name === undefined) {
      session.out(commands.map((command) => usageLine(command)).join(''))
      session.out("\nUse 'help commandname' for extended help.\n")
      return true
    }
    const command = findCommand(name)
    if (command === undefined) throw new Refused(`command ${name} not found`)
    session.out(usageLine(command, name))
    if (command.help !== undefined) session.out(`${command.help}\n`.replace(/\n\n\n$/, '\n\n'))
    return true
  },
}

/** Every command. */
export const commands: readonly Command[] = [
  abort,
  aioFlush,
  aioRead,
  aioWrite,
  alloc,
  breakpoint,
  close,
  discard,
  flush,
  help,
  info,
  length,
  map,
  open,
  quit,
  read,
  readv,
  removeBreak,
  reopen,
  resume,
  sigraise,
  sleep,
  truncate,
  waitBreak,
  write,
  writev,
]

/** The command of this name or this letter. */
export function findCommand(name: string): Command | undefined {
  return commands.find((command) => command.name === name || command.short === name)
}
