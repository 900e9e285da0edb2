/** A SCSI target behind a Unix socket, for programs that are run with sgio.c preloaded. */
import { execFile, execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { bytesVec } from '../../src/block/iovec.ts'
import { execute, type ScsiTarget } from '../../src/devices/scsi/index.ts'
import { temporaryFolder } from '../tools.ts'

const SOURCE = path.join(path.dirname(fileURLToPath(import.meta.url)), 'sgio.c')
const REQUEST = 8
const OUT = 1
const IN = 2
const RESET = 1

/** What a program left behind. */
export interface Ran {
  readonly code: number
  readonly text: string
}

export interface SgHost {
  /** Runs a program of sg3-utils on the target's LUN 0; `DEVICE` in its arguments is the device. */
  run(program: string, ...args: readonly string[]): Promise<Ran>
  /** The same in the name of another initiator port. */
  as(initiator: number, program: string, ...args: readonly string[]): Promise<Ran>
  close(): Promise<void>
}

/** Builds the library that is preloaded, and serves `target` to programs that have it. */
export async function sgHost(target: ScsiTarget): Promise<SgHost> {
  const folder = temporaryFolder()
  const library = folder.file('sgio.so')
  execFileSync('gcc', ['-shared', '-fPIC', '-O1', '-o', library, SOURCE])
  const socket = folder.file('socket')
  const device = folder.file('device')
  writeFileSync(device, '')
  const server = createServer((peer) => void serve(target, peer).catch(() => peer.destroy()))
  await new Promise<void>((resolve) => server.listen(socket, resolve))
  const as = (initiator: number, program: string, ...args: readonly string[]) =>
    new Promise<Ran>((resolve) => {
      const env = {
        ...process.env,
        LD_PRELOAD: library,
        BLOCK86_SG_SOCKET: socket,
        BLOCK86_SG_INITIATOR: String(initiator),
      }
      const words = args.map((word) => word.replaceAll('DEVICE', device))
      execFile(program, words, { env, timeout: 60_000 }, (error, stdout, stderr) => {
        const code = error === null ? 0 : typeof error.code === 'number' ? error.code : -1
        resolve({ code, text: `${stdout}${stderr}` })
      })
    })
  return {
    as,
    run: (program, ...args) => as(7, program, ...args),
    async close() {
      await closed(server)
      folder.remove()
    },
  }
}

function closed(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve())
  })
}

async function serve(target: ScsiTarget, peer: Socket): Promise<void> {
  let tag = 0
  let buffered = Buffer.alloc(0)
  const chunks = peer[Symbol.asyncIterator]() as AsyncIterator<Buffer>
  const read = async (length: number): Promise<Buffer | undefined> => {
    while (buffered.length < length) {
      const { done, value } = await chunks.next()
      if (done) return undefined
      buffered = Buffer.concat([buffered, value])
    }
    const bytes = buffered.subarray(0, length)
    buffered = buffered.subarray(length)
    return bytes
  }
  for (;;) {
    const request = await read(REQUEST)
    if (request === undefined) return
    const [cdbLength, direction, initiator, fn] = [request[0]!, request[1]!, request[2]!, request[3]!]
    const length = request.readUInt32LE(4)
    if (fn === RESET) {
      await target.busReset()
      peer.write(new Uint8Array(8))
      continue
    }
    const cdb = Uint8Array.from((await read(cdbLength))!)
    const out = direction === OUT ? Uint8Array.from((await read(length))!) : new Uint8Array(0)
    const into = new Uint8Array(direction === IN ? length : 0)
    const command = { initiator, lun: 0, cdb, attribute: 'simple', tag: tag++, autosense: true } as const
    const task = await execute(target.submit(command), { in: bytesVec(into), out: bytesVec(out) })
    const response = Buffer.alloc(8)
    response[0] = task.status
    response[1] = task.sense.length
    response.writeUInt32LE(task.transferred, 4)
    peer.write(Buffer.concat([response, task.sense, direction === IN ? into.subarray(0, task.transferred) : into]))
  }
}
