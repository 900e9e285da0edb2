/**
 * Images against QEMU: `npm run bench -- block [--quick] [--rounds=N] [--seconds=N] [--formats=raw,qcow2,qed] [--cells=TEXT]
 * [--svg=FILE]`. `--seconds` says how long QEMU's runs take; `--cells` keeps the cells whose name contains the text, such as
 * "none" or "4K random"; `--quick` takes a sixth of them, and one round. Then come what only the copy-on-write formats do, and
 * what it costs them to be one.
 */
import fs from 'node:fs'
import path from 'node:path'
import { lacks, temporaryFolder } from '../tools.ts'
import { run as runFormats } from './formats.bench.ts'
import { type Group, svg, text } from './host/chart.ts'
import {
  allCells,
  type Cell,
  Contest,
  cellName,
  type Effort,
  type Format,
  FULL,
  fewCells,
  QUICK,
  type Result,
  tabulate,
} from './host/contest.ts'

const FORMATS: readonly Format[] = ['raw', 'qcow2', 'qed']

/** Plays the cells, prints the table and the charts; exit status 0. */
export async function run(args: readonly string[]): Promise<number> {
  if (lacks('qemu-img')) return 1
  const option = (name: string) => args.find((arg) => arg.startsWith(`--${name}=`))?.slice(name.length + 3)
  const quick = args.includes('--quick')
  const effort: Effort = {
    ...(quick ? QUICK : FULL),
    ...(option('rounds') ? { rounds: Number(option('rounds')) } : {}),
    ...(option('seconds') ? { seconds: Number(option('seconds')) } : {}),
  }
  const formats = FORMATS.filter((format) =>
    (option('formats') ?? (quick ? 'raw,qcow2' : FORMATS.join())).split(',').includes(format),
  )
  const wanted = option('cells') ?? ''
  const root = path.resolve(process.cwd())
  const folder = temporaryFolder()
  const contest = new Contest(folder.path, root)
  try {
    const cells = (quick ? fewCells(formats) : allCells(formats)).filter((cell) =>
      cellName(cell).replace(/ +/g, ' ').includes(wanted),
    )
    const results = await tabulate(contest, cells, effort)
    const charts = wanted === '' ? await classics(contest, results, formats, effort) : []
    const file = option('svg') ?? path.join(root, '.cache', 'bench-block.svg')
    for (const [title, groups] of charts) console.log(`\n${text(title, groups)}`)
    fs.mkdirSync(path.dirname(path.resolve(file)), { recursive: true })
    for (const [i, [title, groups]] of charts.entries()) {
      const name = file.replace(/\.svg$/, `-${i === 0 ? 'reads' : 'writes'}.svg`)
      fs.writeFileSync(name, svg(title, groups))
      console.log(`\nchart: ${name}`)
    }
    if (wanted === '' && formats.includes('qcow2')) {
      console.log()
      await runFormats(quick ? ['bounded', 'opening'] : ['allocating', 'copyUp', 'bounded', 'opening'])
    }
  } finally {
    contest.close()
    folder.remove()
  }
  return 0
}

/** The three classic workloads of reads, and streaming writes, each per format; from the table, or played where it lacks them. */
async function classics(
  contest: Contest,
  results: readonly Result[],
  formats: readonly Format[],
  effort: Effort,
): Promise<[string, Group[]][]> {
  const play = async (name: string, part: Omit<Cell, 'depth' | 'cache'>): Promise<Group> => {
    const cell: Cell = { ...part, depth: 32, cache: 'writeback' }
    const same = results.find((result) => cellName(result.cell) === cellName(cell))
    const { qemu, block86 } = same ?? (await contest.play(cell, effort))
    const rate = (perSecond: number) => (perSecond * cell.size) / 2 ** 20
    return { name, qemu: rate(qemu.rate), block86: rate(block86.rate) }
  }
  const reads: Group[] = []
  const writes: Group[] = []
  for (const format of formats) {
    reads.push(await play(`${format} sequential`, { format, size: 256 << 10, random: false, write: false }))
    reads.push(await play(`${format} 256K random`, { format, size: 256 << 10, random: true, write: false }))
    reads.push(await play(`${format} 16K random`, { format, size: 16 << 10, random: true, write: false }))
    writes.push(await play(format, { format, size: 256 << 10, random: false, write: true }))
  }
  return [
    ['Reads, depth 32, page cache', reads],
    ['Streaming writes, depth 32, page cache', writes],
  ]
}
