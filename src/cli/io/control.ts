/** The commands for scripts and for who types: waiting, ending, help. */
import { type Command, Refused } from './command.ts'
import { size } from './requests.ts'

export const sleep: Command = {
  name: 'sleep',
  least: 1,
  most: 1,
  alone: true,
  usage: '',
  summary: 'waits for the given value in milliseconds',
  async run(_, [, text]) {
    if (!/^[+]?\d+$/.test(text!) || Number(text) > 0x7fffffff) throw new Refused(`${text} is not a valid number`)
    await new Promise((resolve) => setTimeout(resolve, Number(text)))
    return true
  },
}

export const sigraise: Command = {
  name: 'sigraise',
  least: 1,
  most: 1,
  alone: true,
  usage: 'signal',
  summary: 'raises a signal',
  help: `
 raises the given signal

 Example:
 'sigraise 15' - raises SIGTERM

 Invokes raise(signal), where "signal" is the mandatory integer argument
 given to sigraise.

`,
  run(_, [, text]) {
    const signal = size(text!)
    if (signal > 0x7fffffff) throw new Refused(`signal argument '${text}' is too large to be a valid signal`)
    process.kill(process.pid, signal)
    return true
  },
}

export const abort: Command = {
  name: 'abort',
  least: 0,
  most: 0,
  alone: true,
  usage: '',
  summary: 'simulate a program crash using abort(3)',
  run: () => process.abort(),
}

export const quit: Command = {
  name: 'quit',
  short: 'q',
  least: 0,
  most: Infinity,
  alone: true,
  usage: '',
  summary: 'exit the program',
  run(session) {
    session.ended = true
    return true
  },
}
