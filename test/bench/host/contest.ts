/** One cell of the comparison with `qemu-img bench`: both programs in turn, A B A B, and what each costs. */
import { execFileSync, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { buildSync } from 'esbuild'
import { ring } from '../../../src/block/protocols/node/ring.ts'
import { Floors } from './floor.ts'
import { cacheAnew } from './pagecache.ts'

export type Format = 'raw' | 'qcow2' | 'qed'

export interface Cell {
  readonly format: Format
  /** Bytes of one request. */
  readonly size: number
  readonly random: boolean
  readonly write: boolean
  readonly depth: number
  readonly cache: 'writeback' | 'none'
}

/** Medians: requests per second, and microseconds of CPU per request. */
export interface Score {
  readonly rate: number
  readonly cpu: number
}

export interface Result {
  readonly cell: Cell
  readonly qemu: Score
  /** The `aio` by which QEMU was best. */
  readonly aio: string
  readonly block86: Score
  /** Microseconds that the bare calls take for a request of the kind on the raw image; see floor.ts. */
  readonly floor: number | undefined
}

/** Bytes of the images' disk. */
export const DISK = 256 << 20

/** What a cell is called in tables. */
export function cellName(cell: Cell): string {
  const parts = [
    cell.format.padEnd(5),
    `${cell.size >> 10}K`.padStart(4),
    cell.random ? 'random    ' : 'sequential',
    cell.write ? 'write' : 'read ',
    `depth ${String(cell.depth).padStart(2)}`,
    cell.cache.padEnd(9),
  ]
  return parts.join(' ')
}

/** What one program costs: rates of its runs, and the CPU of a request. */
interface Runs {
  readonly rates: number[]
  readonly cpus: number[]
}

/** How much is done in a cell. */
export interface Effort {
  /** How often both programs take their turn; no more than twice where a second time says the same as the first. */
  readonly rounds: number
  /** How long QEMU takes for a run, seconds, about. */
  readonly seconds: number
}

/** Rates that say the same. */
const AGREE = 1.15

export const FULL: Effort = { rounds: 3, seconds: 0.3 }
export const QUICK: Effort = { rounds: 1, seconds: 0.3 }

/** The arena: images full of data, and the tool as one file, in `folder`. */
export class Contest {
  readonly #folder: string
  readonly #tool: string
  readonly #floors: Floors

  constructor(folder: string, root: string) {
    this.#folder = folder
    const entry = path.join(folder, 'tool.ts')
    // Beside the packages, whatever links lead here: what is not bundled is found from the file's real place.
    this.#tool = path.join(root, 'node_modules', '.cache', 'block86', `bench-tool-${process.pid}.mjs`)
    const verb = path.join(root, 'src/cli/img/bench.ts')
    fs.writeFileSync(
      entry,
      `import { bench } from '${verb}'
       process.exitCode = await bench(process.argv.slice(2), { out: process.stdout, err: process.stderr })`,
    )
    buildSync({
      entryPoints: [entry],
      outfile: this.#tool,
      bundle: true,
      platform: 'node',
      format: 'esm',
      packages: 'external',
      absWorkingDir: root,
      logLevel: 'error',
    })
    this.#makeImages()
    this.#floors = new Floors(this.image('raw'), DISK)
    // The tool must have what this process has; without koffi it would measure something else.
    const aio = ring() === undefined ? [] : ['-i', 'io_uring']
    this.#timed(process.execPath, [this.#tool, '-c', '1', '-d', '1', '-f', 'raw', ...aio, this.image('raw')])
  }

  image(format: Format): string {
    return path.join(this.#folder, `image.${format}`)
  }

  close(): void {
    fs.rmSync(this.#tool, { force: true })
  }

  /**
   * Plays one cell. A short run of each `aio` shows by which QEMU is best, and how many requests make a run of the wanted length;
   * then both programs in turn: QEMU, block86, QEMU, block86, ... Before block86's clock starts it has done some thousand small
   * requests: a disk of an emulator that has been running for a second is measured, not the compiler.
   */
  async play(cell: Cell, { rounds, seconds }: Effort): Promise<Result> {
    // An odd number of requests' lengths: they come to all of the disk.
    const stride = cell.random ? (Math.floor((DISK * 0.381966) / cell.size) | 1) * cell.size : cell.size
    const floor = await this.#floors.of(cell, stride)
    const image = this.image(cell.format)
    const args = ['-d', String(cell.depth), '-f', cell.format, '-s', String(cell.size), '-S', String(stride)]
    args.push('-t', cell.cache, ...(cell.write ? ['-w', '--pattern=90'] : []), image)
    const warm = cell.cache === 'none' ? 6000 : 10_000
    const few = Math.max(512, Math.min(warm >> 1, Math.floor((128 << 20) / cell.size)))
    const timed = (way: string, requests: number) => {
      if (cell.write) execFileSync('sync', [image])
      return way === 'block86'
        ? this.#timed(process.execPath, [this.#tool, `--warm-up=${warm}`, '-c', String(requests), ...args])
        : this.#timed('qemu-img', ['bench', '-i', way, '-c', String(requests), ...args])
    }
    if (cell.cache === 'writeback') fs.readFileSync(image)
    const trials = (cell.cache === 'none' ? ['threads', 'native', 'io_uring'] : ['threads', 'io_uring']).map((way) => ({
      way,
      ...timed(way, few),
    }))
    const best = trials.reduce((a, b) => (b.seconds < a.seconds ? b : a))
    const count = Math.max(2 * few, Math.round((few / best.seconds) * seconds))
    const qemu: Runs = { rates: [], cpus: [] }
    const block86: Runs = { rates: [], cpus: [] }
    for (let round = 0; round < rounds; round++) {
      const theirs = timed(best.way, count)
      qemu.rates.push(count / theirs.seconds)
      // What starting costs is in the trial too, and leaves with the difference.
      qemu.cpus.push((Math.max(theirs.cpu - best.cpu, 0) / (count - few)) * 1e6)
      const ours = timed('block86', count)
      block86.rates.push(count / ours.seconds)
      block86.cpus.push((ours.cpu / count) * 1e6)
      if (round > 0 && [qemu, block86].every(({ rates }) => Math.max(...rates) <= Math.min(...rates) * AGREE)) break
    }
    return { cell, qemu: score(qemu), aio: best.way, block86: score(block86), floor }
  }

  /** Seconds of the run by its own account, and of CPU: by its own account if it tells, else by the shell's, with its start. */
  #timed(program: string, args: readonly string[]): { seconds: number; cpu: number } {
    const shell = spawnSync('bash', ['-c', `TIMEFORMAT='cpu %U %S'; time "$0" "$@"`, program, ...args], {
      encoding: 'utf8',
    })
    const seconds = /Run completed in ([\d.]+) seconds/.exec(shell.stdout)?.[1]
    const own = /Of CPU it took ([\d.]+) seconds/.exec(shell.stdout)
    const cpu = /cpu ([\d.]+) ([\d.]+)/.exec(shell.stderr)
    if (seconds === undefined || cpu === null) throw new Error(`${program} ${args.join(' ')} failed: ${shell.stderr}`)
    return { seconds: Math.max(Number(seconds), 0.001), cpu: own ? Number(own[1]) : Number(cpu[1]) + Number(cpu[2]) }
  }

  #makeImages(): void {
    const raw = this.image('raw')
    const fd = fs.openSync(raw, 'w')
    const bytes = Buffer.alloc(1 << 20)
    for (let i = 0; i < bytes.length; i++) bytes[i] = (i * 31) ^ (i >> 8) || 1
    for (let at = 0; at < DISK; at += bytes.length) fs.writeSync(fd, bytes)
    fs.fsyncSync(fd)
    fs.closeSync(fd)
    for (const format of ['qcow2', 'qed'] as const) {
      execFileSync('qemu-img', ['convert', '-f', 'raw', '-O', format, raw, this.image(format)])
    }
    execFileSync('sync', [this.#folder])
    for (const format of ['raw', 'qcow2', 'qed'] as const) cacheAnew(this.image(format))
  }
}

function score(runs: Runs): Score {
  return { rate: median(runs.rates), cpu: median(runs.cpus) }
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** How many times as fast block86 is. */
export function ratio(result: Result): number {
  return result.block86.rate / result.qemu.rate
}

export function geometricMean(values: readonly number[]): number {
  return Math.exp(values.reduce((sum, value) => sum + Math.log(value), 0) / values.length)
}

/** All cells of some formats. */
export function allCells(formats: readonly Format[]): Cell[] {
  return formats.flatMap((format) =>
    (['writeback', 'none'] as const).flatMap((cache) =>
      [false, true].flatMap((write) =>
        [false, true].flatMap((random) =>
          [1, 32].flatMap((depth) =>
            [4, 16, 64, 256].map((kib) => ({ format, size: kib << 10, random, write, depth, cache })),
          ),
        ),
      ),
    ),
  )
}

/** Small and large random requests of some formats. */
export function fewCells(formats: readonly Format[]): Cell[] {
  return allCells(formats).filter(({ size, random }) => random && (size === 4096 || size === 256 << 10))
}

/** Microseconds of a request. */
const took = (score: Score) => 1e6 / score.rate

/** Prints each result as it comes, then what they come to. */
export async function tabulate(contest: Contest, cells: readonly Cell[], effort: Effort): Promise<Result[]> {
  console.log('block86 is measured after a warm-up (img bench --warm-up), QEMU with its best aio of the cell')
  console.log(
    'bare: the host alone, on the raw file: preadv2 or pwritev2 one after the other, at depth 32 past the page cache',
  )
  console.log('io_uring in batches; "bare x": how many times as fast as QEMU that is')
  console.log(
    `${'cell'.padEnd(49)}    QEMU/s  (aio)      block86/s  ratio   bare x   us: QEMU  block86     bare   CPU us: QEMU  block86`,
  )
  const results: Result[] = []
  for (const cell of cells) {
    const result = await contest.play(cell, effort)
    const { qemu, block86, aio, floor } = result
    const columns = [took(qemu), took(block86), floor ?? Number.NaN]
      .map((value) => value.toFixed(2).padStart(9))
      .join('')
    console.log(
      `${cellName(cell).padEnd(46)} ${qemu.rate.toFixed(0).padStart(11)}  ${aio.padEnd(9)} ${block86.rate.toFixed(0).padStart(10)} ` +
        `${ratio(result).toFixed(2).padStart(6)} ${bound(result).toFixed(2).padStart(8)}  ${columns} ${qemu.cpu.toFixed(1).padStart(13)} ${block86.cpu.toFixed(1).padStart(8)}`,
    )
    results.push(result)
  }
  summarize(results)
  return results
}

/** How many times as fast as QEMU the bare calls are. */
function bound({ qemu, floor }: Result): number {
  return floor === undefined ? Number.NaN : took(qemu) / floor
}

/** Where the time of a request goes, in words. */
function whereItGoes({ cell, block86, floor }: Result): string {
  const all = took(block86)
  if (floor === undefined)
    return `CPU ${block86.cpu.toFixed(1)} us, waiting ${Math.max(all - block86.cpu, 0).toFixed(1)}`
  const rest = all - floor
  if (cell.cache === 'none') {
    return `the bare call ${floor.toFixed(1)} us, all else ${rest.toFixed(1)}; ${block86.cpu.toFixed(1)} of both on the CPU`
  }
  const waiting = Math.max(all - block86.cpu, 0)
  return `the bare call ${floor.toFixed(1)} us, waiting ${waiting.toFixed(1)}, JavaScript and all else ${(rest - waiting).toFixed(1)}`
}

function summarize(results: readonly Result[]): void {
  const lines: [string, readonly Result[]][] = [
    ['all cells', results],
    ['page cache', results.filter(({ cell }) => cell.cache === 'writeback')],
    ['past it', results.filter(({ cell }) => cell.cache === 'none')],
    ['reads', results.filter(({ cell }) => !cell.write)],
    ['writes', results.filter(({ cell }) => cell.write)],
    [
      'depth 1 reads from the page cache',
      results.filter(({ cell }) => !cell.write && cell.depth === 1 && cell.cache === 'writeback'),
    ],
  ]
  console.log()
  for (const [name, part] of lines) {
    if (part.length === 0) continue
    const ratios = part.map(ratio)
    const bounds = part.map(bound)
    console.log(
      `${name}: geometric mean ${geometricMean(ratios).toFixed(2)} (the bare calls: ${geometricMean(bounds).toFixed(2)}), least ${Math.min(...ratios).toFixed(2)}`,
    )
  }
  for (const format of ['qcow2', 'qed'] as const) {
    const shares = results.flatMap(({ cell, block86 }) => {
      if (cell.format !== format || cell.write || cell.cache === 'none') return []
      const raw = results.find((other) => cellName(other.cell) === cellName({ ...cell, format: 'raw' }))
      return raw === undefined ? [] : [block86.rate / raw.block86.rate]
    })
    if (shares.length === 0) continue
    const [mean, least] = [geometricMean(shares), Math.min(...shares)]
    console.log(
      `${format} reads from the page cache, of our raw: geometric mean ${mean.toFixed(2)}, least ${least.toFixed(2)}`,
    )
  }
  const below = results.filter((result) => ratio(result) < (result.cell.write ? 0.8 : 1))
  console.log(below.length === 0 ? 'no cell falls short' : 'cells that fall short (reads of 1.0, writes of 0.8):')
  for (const result of below) {
    const { cell, qemu, block86 } = result
    console.log(
      `  ${cellName(cell)} ${ratio(result).toFixed(2)} (bare ${bound(result).toFixed(2)})   QEMU ${took(qemu).toFixed(1)} us; block86 ${took(block86).toFixed(1)}: ${whereItGoes(result)}`,
    )
  }
  const small = results.filter(({ cell }) => cell.size === 4096)
  const dearer = small.filter(({ qemu, block86 }) => block86.cpu > qemu.cpu)
  console.log(`CPU per 4 KiB request above QEMU's in ${dearer.length} of ${small.length} cells`)
}
