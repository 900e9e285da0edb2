/**
 * NBD servers beside each other: `npm run bench -- nbd [--rounds=N] [--size=MiB]`: what nbdcopy gets out of and into each, the first
 * time and once the server has done it before.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { existsSync, rmSync } from 'node:fs'
import path from 'node:path'
import { bundledTool, lacks, temporaryFolder } from '../tools.ts'

/** Prints a table of MiB/s; exit status 0. */
export async function run(args: readonly string[]): Promise<number> {
  if (lacks('qemu-nbd', 'qemu-img', 'qemu-io', 'nbdcopy')) return 1
  const number = (name: string, otherwise: number) =>
    Number(args.find((arg) => arg.startsWith(`--${name}=`))?.split('=')[1] ?? otherwise)
  const rounds = number('rounds', 5)
  const mebibytes = number('size', 1024)
  const folder = temporaryFolder()
  const tool = await bundledTool()
  try {
    console.log(`nbdcopy, ${mebibytes} MiB, MiB/s, median of ${rounds} rounds`)
    console.log('                                  first: qemu-nbd  block86   then: qemu-nbd  block86')
    for (const format of ['raw', 'qcow2']) {
      const image = folder.file(`image.${format}`)
      spawnSync('qemu-img', ['create', '-q', '-f', format, image, `${mebibytes}M`])
      spawnSync('qemu-io', ['-f', format, '-c', `write -P 7 0 ${mebibytes}M`, image])
      spawnSync('cat', [image], { stdio: 'ignore' })
      for (const direction of ['out', 'in'] as const) {
        for (const connections of [1, 4]) {
          const speeds = { theirs: [[], []] as number[][], ours: [[], []] as number[][] }
          for (let round = 0; round < rounds; round++) {
            for (const who of ['theirs', 'ours'] as const) {
              const socket = folder.file('s')
              const options = ['-t', '-e', '0', '-k', socket, '-f', format, image]
              const command = who === 'ours' ? [process.execPath, tool.file, 'nbd'] : ['qemu-nbd']
              const server = spawn(command[0]!, [...command.slice(1), ...options], { stdio: 'inherit' })
              try {
                await appears(socket)
                for (const list of speeds[who])
                  list.push(mebibytes / copy(socket, direction, connections, folder.file('source'), mebibytes))
              } finally {
                await ended(server)
                rmSync(socket, { force: true })
              }
            }
          }
          const label = `${format} ${direction === 'out' ? 'to null' : 'from a file'}, ${connections} connection${connections > 1 ? 's' : ''}`
          const median = (list: number[]) => list.sort((a, b) => a - b)[Math.floor(list.length / 2)]!.toFixed(0)
          const [first, then] = [0, 1].map(
            (which) => `${median(speeds.theirs[which]!).padStart(9)} ${median(speeds.ours[which]!).padStart(8)}`,
          )
          console.log(`${label.padEnd(38)} ${first}       ${then}`)
        }
      }
    }
  } finally {
    folder.remove()
    tool.remove()
  }
  return 0
}

/** Seconds that one copy takes. */
function copy(socket: string, direction: 'out' | 'in', connections: number, source: string, mebibytes: number): number {
  const uri = `nbd+unix:///?socket=${socket}`
  if (direction === 'in' && !existsSync(source)) {
    spawnSync('sh', ['-c', `head -c ${mebibytes}M /dev/zero | tr '\\0' 'x' > ${source}`])
  }
  const operands = direction === 'out' ? [uri, 'null:'] : [source, uri]
  const start = process.hrtime.bigint()
  const { status, stderr } = spawnSync('nbdcopy', [`--connections=${connections}`, ...operands], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`nbdcopy: ${stderr}`)
  return Number(process.hrtime.bigint() - start) / 1e9
}

async function appears(file: string): Promise<void> {
  while (!existsSync(path.resolve(file))) await new Promise((resolve) => setTimeout(resolve, 10))
}

function ended(server: ChildProcess): Promise<void> {
  return new Promise((resolve) => {
    server.once('exit', () => resolve())
    server.kill('SIGKILL')
  })
}
