/**
 * `npm run bench -- convert [--size=GIB] [--rounds=N] [--compress]`: a half-full qcow2 image to raw and back, by qemu-img and by
 * `block86 img` in turn. Prints the medians, and how much faster block86 is.
 */
import { spawnSync } from 'node:child_process'
import { randomFillSync } from 'node:crypto'
import fs from 'node:fs'
import { lacks, temporaryFolder } from '../tools.ts'
import { calm } from './host/pagecache.ts'
import { builtTool, environment } from './tool/built.ts'

const MIB = 1 << 20

/** Data and holes, 64 MiB each. */
function halfFull(name: string, size: number): void {
  const fd = fs.openSync(name, 'w')
  const bytes = Buffer.alloc(MIB)
  for (let at = 0; at < size; at += MIB) {
    if (Math.floor(at / (64 * MIB)) % 2 === 1) continue
    randomFillSync(bytes)
    fs.writeSync(fd, bytes, 0, MIB, at)
  }
  fs.ftruncateSync(fd, size)
  fs.closeSync(fd)
}

/** Prints the comparison; exit status 0 if block86 is at least as fast both ways. */
export async function run(args: readonly string[]): Promise<number> {
  if (lacks('qemu-img')) return 1
  const option = (key: string, fallback: number) =>
    Number(args.find((arg) => arg.startsWith(`--${key}=`))?.slice(key.length + 3) ?? fallback)
  const size = option('size', 4) * 1024 * MIB
  const rounds = option('rounds', 3)
  const compress = args.includes('--compress') ? ['-c'] : []
  const folder = temporaryFolder()
  try {
    const tool = builtTool(folder.file('tool'))
    const [raw, qcow2, out] = [folder.file('in.raw'), folder.file('in.qcow2'), folder.file('out')]
    halfFull(raw, size)
    must('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, qcow2])
    const jobs = [
      { name: 'qcow2 to raw', line: ['convert', '-f', 'qcow2', '-O', 'raw', qcow2, out] },
      { name: 'raw to qcow2', line: ['convert', ...compress, '-f', 'raw', '-O', 'qcow2', raw, out] },
    ]
    let good = true
    for (const { name, line } of jobs) {
      const theirs: number[] = []
      const ours: number[] = []
      for (let round = 0; round < rounds; round++) {
        theirs.push(timed('qemu-img', line, out, size))
        ours.push(timed(process.execPath, [tool, 'img', ...line], out, size))
        if (round === 0) check(out, raw, name.endsWith('raw') ? 'raw' : 'qcow2')
      }
      const [a, b] = [median(theirs), median(ours)]
      good &&= b <= a
      console.log(
        `${name.padEnd(14)} qemu-img ${a.toFixed(2)} s   block86 ${b.toFixed(2)} s   ${(a / b).toFixed(2)}x   ` +
          `(${theirs.map((each) => each.toFixed(2)).join(' ')} | ${ours.map((each) => each.toFixed(2)).join(' ')})`,
      )
    }
    return good ? 0 : 1
  } finally {
    folder.remove()
  }
}

function must(program: string, args: readonly string[]): void {
  const { status, stderr } = spawnSync(program, args, { env: environment, encoding: 'utf8' })
  if (status !== 0) throw new Error(`${program} ${args.join(' ')}: ${stderr}`)
}

/** Seconds that a program takes to write `out`, which shows `size` bytes. */
function timed(program: string, args: readonly string[], out: string, size: number): number {
  fs.rmSync(out, { force: true })
  calm(out, size * 0.75)
  const start = process.hrtime.bigint()
  must(program, args)
  return Number(process.hrtime.bigint() - start) / 1e9
}

function check(out: string, raw: string, format: string): void {
  must('qemu-img', ['compare', '-f', 'raw', '-F', format, raw, out])
}

const median = (values: readonly number[]) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!
