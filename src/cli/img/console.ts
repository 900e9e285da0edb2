/** Where the verbs of `block86 img` print to, and how one of them says that it failed. */

import type { Objects } from '../objects.ts'

/** Takes text. */
export interface Output {
  write(text: string): unknown
}

/** Standard output and error of a run of the tool. */
export interface Console {
  readonly out: Output
  readonly err: Output
  /** Somebody reads `out` on a terminal of so many columns. */
  readonly terminal?: { readonly columns: number }
  /** What `--object` made, for the nodes that refer to it. */
  objects?: Objects
}

/** The name that messages begin with. */
export const PROGRAM = 'block86'

/** A verb failed; the message is printed behind the program's name. */
export class Failure extends Error {
  override readonly name = 'Failure'
  /** Exit status. */
  readonly status: number

  constructor(message: string, status = 1) {
    super(message)
    this.status = status
  }
}

/** `--help` was asked for, and has been given. */
export class Helped extends Error {}

/** A command line that cannot be obeyed, with where to find help. */
export function misuse(message: string): Failure {
  return new Failure(`${message}\nTry '${PROGRAM} img --help' for more information`)
}

/** What the verbs get: the console, and nothing else of the process. */
export function report(console: Console, message: string): void {
  console.err.write(`${PROGRAM}: ${message}\n`)
}

/** Text for `out`, unless the verb is to be quiet. */
export function printer(console: Console, quiet: boolean): (text: string) => void {
  return quiet ? () => {} : (text) => void console.out.write(text)
}
