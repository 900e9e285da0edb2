/** Servers of ours and of qemu-nbd for the tests of a file. */
import { execFileSync, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { expect } from 'vitest'
import { runNbd } from '../../src/cli/nbd/index.ts'
import { eachTest } from '../each.ts'

/** What `block86 nbd` said, and how it ended. */
export async function run(...args: string[]): Promise<{ out: string; err: string; status: number }> {
  let out = ''
  let err = ''
  const status = await runNbd(args, '0', {
    out: { write: (text) => void (out += text) },
    err: { write: (text) => void (err += text) },
  })
  return { out, err, status }
}

/** Waits for a file, such as the socket of a server that is starting. */
export async function appears(file: string): Promise<void> {
  const until = Date.now() + 60_000
  while (!existsSync(file)) {
    if (Date.now() > until) throw new Error(`${file} does not come`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

/** Servers that end with the test that started them, and its folder. */
export function eachServer() {
  const own = eachTest()

  /** Serves until the last client leaves, in this process; resolves when the socket is there. */
  async function serve(...args: string[]): Promise<{ socket: string; uri: string; ended: Promise<unknown> }> {
    const socket = own.folder.file(`s${own.ends.length}`)
    own.ends.push(() => {})
    const ended = run('-k', socket, ...args).then((ran) => {
      expect(ran).toEqual({ out: '', err: '', status: 0 })
    })
    await Promise.race([
      appears(socket),
      ended.then(() => {
        throw new Error('the server ended before it listened')
      }),
    ])
    return { socket, uri: `nbd+unix:///?socket=${socket}`, ended }
  }

  /** Starts qemu-nbd, and waits until it listens. */
  async function qemuNbd(...args: string[]): Promise<string> {
    const socket = own.folder.file(`q${own.ends.length}`)
    const child = spawn('qemu-nbd', ['-k', socket, ...args], { stdio: ['ignore', 'ignore', 'inherit'] })
    own.ends.push(() => child.kill())
    await appears(socket)
    return socket
  }

  /** Makes a qcow2 image of 4 MiB, and has qemu-io do something with it. */
  function qcow2(name: string, ...commands: string[]): string {
    const file = own.folder.file(name)
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', file, '4M'])
    if (commands.length > 0)
      execFileSync('qemu-io', ['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), file])
    return file
  }

  return { own, serve, qemuNbd, qcow2 }
}
