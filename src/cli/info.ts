/** `block86 info`: tells what of this host is in use, and why. */
import { hostCapabilities } from '../block/protocols/node/capabilities.ts'
import { getopt, UsageError } from './getopt.ts'

/** Where the verb prints to. */
export interface Output {
  write(text: string): unknown
}

const USAGE = `Usage: block86 info --host [--json] [FOLDER]

Tells for each thing that the host may offer whether it is used, and why. FOLDER is where the images are, for what depends on
the file system; it is asked by a temporary file there (default: the system's folder for those).
`

/** Runs the verb with what follows it on the command line; resolves to the exit status. */
export async function info(argv: readonly string[], _version = '', out: Output = process.stdout): Promise<number> {
  const options = [{ short: 'h', long: 'help' }, { long: 'host' }, { long: 'json' }]
  const parsed = getopt(argv, options)
  if (parsed.has('help')) {
    out.write(USAGE)
    return 0
  }
  const [folder, ...more] = parsed.operands
  if (!parsed.has('host') || more.length > 0) throw new UsageError(USAGE.trimEnd())
  const found = await hostCapabilities(folder)
  if (parsed.has('json')) out.write(`${JSON.stringify(found, undefined, 2)}\n`)
  else {
    for (const { name, used, reason } of found)
      out.write(`${name.padEnd(16)} ${used ? 'used    ' : 'not used'}  ${reason}\n`)
  }
  return 0
}
