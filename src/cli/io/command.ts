/** What a command of `block86 io` is, and how its line is taken apart. */
import { getopt, UsageError } from '../getopt.ts'
import type { Session } from './session.ts'

/** One command. */
export interface Command {
  readonly name: string
  /** Its one letter, if it has one. */
  readonly short?: string
  /** Fewest and most arguments. */
  readonly least: number
  readonly most: number
  /** What follows the name in its usage line. */
  readonly usage: string
  readonly summary: string
  /** The rest of `help NAME`. */
  readonly help?: string
  /** It needs no open image. */
  readonly alone?: boolean
  /** It changes the image. */
  readonly writes?: boolean
  /** Runs it; resolves to whether it succeeded. Whatever it has to say, it says to the session. */
  run(session: Session, words: readonly string[]): boolean | Promise<boolean>
}

/** A command's line, taken apart. */
export interface Line {
  has(letter: string): boolean
  value(letter: string): string | undefined
  readonly operands: readonly string[]
}

/** A command cannot be obeyed, for a reason that goes to standard output. */
export class Refused extends Error {}

/** The line that tells how a command is called. */
export function usageLine({ name, short, usage, summary }: Command, called = name): string {
  const shown = called === short ? short : name
  return `${shown} ${usage === '' ? '' : `${usage.trim()} `}-- ${summary}\n`
}

/** Takes the words behind a command's name apart; `letters` as getopt(3) has them, a colon behind those with a value. */
export function takeApart(session: Session, command: Command, words: readonly string[], letters: string): Line {
  const known = [...letters.matchAll(/(\w)(:?)/g)].map(([, short, colon]) => ({ short: short!, value: colon === ':' }))
  try {
    const parsed = getopt(words.slice(1), known)
    return { has: (letter) => parsed.has(letter), value: (letter) => parsed.last(letter), operands: parsed.operands }
  } catch (error) {
    if (!(error instanceof UsageError)) throw error
    session.err(`${words[0]}: ${error.message}\n`)
    throw misused(command)
  }
}

/** The command was called in a way that it cannot be called. */
export function misused(command: Command): Refused {
  return new Refused(usageLine(command).trimEnd())
}
