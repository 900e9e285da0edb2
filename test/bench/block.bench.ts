/**
 * Images against QEMU: `npm run bench -- block [--rounds=N] [--formats=raw,qcow2,qed] [--cells=TEXT] [--svg=FILE]`.
 * `--cells` keeps the cells whose name contains the text, such as "none" or "4K random".
 */
import fs from 'node:fs'
import path from 'node:path'
import { lacks, temporaryFolder } from '../tools.ts'
import { type Group, svg, text } from './host/chart.ts'
import { allCells, type Cell, Contest, cellName, type Format, tabulate } from './host/contest.ts'

const FORMATS: readonly Format[] = ['raw', 'qcow2', 'qed']

/** Plays the cells, prints the table and the charts; exit status 0. */
export async function run(args: readonly string[]): Promise<number> {
  if (lacks('qemu-img')) return 1
  const option = (name: string) => args.find((arg) => arg.startsWith(`--${name}=`))?.slice(name.length + 3)
  const rounds = Number(option('rounds') ?? 3)
  const formats = FORMATS.filter((format) => (option('formats') ?? FORMATS.join()).split(',').includes(format))
  const wanted = option('cells') ?? ''
  const root = path.resolve(process.cwd())
  const folder = temporaryFolder()
  const contest = new Contest(folder.path, root)
  try {
    const cells = allCells(formats).filter((cell) => cellName(cell).replace(/ +/g, ' ').includes(wanted))
    tabulate(contest, cells, rounds)
    const charts = classics(contest, formats, rounds)
    const file = option('svg') ?? path.join(root, '.cache', 'bench-block.svg')
    for (const [title, groups] of charts) console.log(`\n${text(title, groups)}`)
    for (const [i, [title, groups]] of charts.entries()) {
      const name = file.replace(/\.svg$/, `-${i === 0 ? 'reads' : 'writes'}.svg`)
      fs.writeFileSync(name, svg(title, groups))
      console.log(`\nchart: ${name}`)
    }
  } finally {
    contest.close()
    folder.remove()
  }
  return 0
}

/** The three classic workloads of reads, and streaming writes, each per format. */
function classics(contest: Contest, formats: readonly Format[], rounds: number): [string, Group[]][] {
  const play = (name: string, cell: Omit<Cell, 'depth' | 'cache'>): Group => {
    const { qemu, block86 } = contest.play({ ...cell, depth: 32, cache: 'writeback' }, rounds)
    const rate = (perSecond: number) => (perSecond * cell.size) / 2 ** 20
    return { name, qemu: rate(qemu.rate), block86: rate(block86.rate) }
  }
  const reads = formats.flatMap((format) => [
    play(`${format} sequential`, { format, size: 256 << 10, random: false, write: false }),
    play(`${format} 256K random`, { format, size: 256 << 10, random: true, write: false }),
    play(`${format} 16K random`, { format, size: 16 << 10, random: true, write: false }),
  ])
  const writes = formats.map((format) => play(format, { format, size: 256 << 10, random: false, write: true }))
  return [
    ['Reads, depth 32, page cache', reads],
    ['Streaming writes, depth 32, page cache', writes],
  ]
}
