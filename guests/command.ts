/** Running one program of the host to its end. */
import { spawn } from 'node:child_process'

export interface RunOptions {
  readonly cwd?: string
  /** Added to the environment of this process. */
  readonly env?: Readonly<Record<string, string>>
  /** Written to the program's standard input, which is otherwise empty. */
  readonly input?: string | Uint8Array
}

/**
 * Runs `command` and gives what it wrote to its standard output; throws an Error that carries the end of what it wrote
 * to its standard error when it could not be started or ended with a status other than 0.
 */
export async function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  const child = spawn(command, args, {
    cwd: options.cwd,
    env: { ...process.env, LC_ALL: 'C', ...options.env },
    stdio: 'pipe',
  })
  const out: Buffer[] = []
  const err: Buffer[] = []
  child.stdout.on('data', (bytes: Buffer) => out.push(bytes))
  child.stderr.on('data', (bytes: Buffer) => err.push(bytes))
  // A program that ends without reading its input closes the pipe: its exit status says more than EPIPE does.
  child.stdin.on('error', () => {})
  child.stdin.end(options.input)
  const status = await new Promise<number | string>((resolve, reject) => {
    child.on('error', (cause) => reject(new Error(`Cannot run ${command}: ${cause.message}`, { cause })))
    child.on('close', (code, signal) => resolve(code ?? signal ?? 'no status'))
  })
  if (status !== 0) {
    const said = Buffer.concat(err).toString().trim().split('\n').slice(-8).join('\n')
    throw new Error(`${command} ended with ${status}: ${said || '(it said nothing)'}`)
  }
  return Buffer.concat(out).toString()
}
