/**
 * The copy-on-write formats beside raw, and beside `qemu-img bench` on the same images: `npm run bench -- formats [--rounds=N] [WORD...]`. What is
 * measured here has run once before, for the compiler.
 */
import { execFileSync } from 'node:child_process'
import { rmSync, statSync } from 'node:fs'
import path from 'node:path'
import type { BlockDevice } from '../../src/block/device.ts'
import { bytesVec } from '../../src/block/iovec.ts'
import { createImage, openImage } from '../../src/block/open.ts'
import { lacks, temporaryFolder } from '../tools.ts'
import { cacheAnew, calm } from './host/pagecache.ts'

const folder = temporaryFolder()
const MIB = 1 << 20
const ROUNDS = 5
const FORMATS = ['raw', 'qcow2', 'qed'] as const
type Format = (typeof FORMATS)[number]
/** Rounds of reads and of first writes, and the parts of a round. */
let rounds = 9
const READ_PARTS = 8
const WRITE_PARTS = 4
/** Runs before those that are measured, of what takes a long way through the code. */
const WARM = 8

interface Load {
  readonly write: boolean
  readonly count: number
  readonly length: number
  readonly step: number
  readonly depth: number
}

/** What is read into and written from: whole pages, as an emulator's memory and qemu-img's buffers are. */
const memory = new WebAssembly.Memory({ initial: (8 * MIB) / 65536 }).buffer

/** Seconds that the load takes on a device, as `qemu-img bench` would run it. */
async function drive(device: BlockDevice, load: Load): Promise<number> {
  const { write, count, length, step, depth } = load
  const buffers = Array.from({ length: depth }, (_, i) => bytesVec(new Uint8Array(memory, i * length, length)))
  for (const buffer of buffers) buffer.fill(0x5a)
  const span = device.size // a multiple of the length and of the step's unit, as qemu-img bench wants
  let started = 0
  const begin = performance.now()
  const worker = async (buffer: ReturnType<typeof bytesVec>) => {
    while (started < count) {
      const at = (started++ * step) % span
      const value = write ? device.write(at, buffer) : device.read(at, buffer)
      if (value instanceof Promise) await value
    }
  }
  await Promise.all(buffers.map(worker))
  return (performance.now() - begin) / 1000 // without a flush, as qemu-img bench counts
}

/** Seconds that qemu-img says. */
function qemu(file: string, format: string, load: Load): number {
  const args = ['bench', '-f', format, '-t', 'writeback', '-c', String(load.count), '-d', String(load.depth)]
  args.push('-s', String(load.length), '-S', String(load.step))
  if (load.write) args.push('-w', '--pattern=90')
  args.push(file)
  const out = execFileSync('qemu-img', args, { encoding: 'utf8' })
  return Number(/completed in ([\d.]+) seconds/.exec(out)![1])
}

/** The value that `part` of all are below. */
function quantile(values: readonly number[], part: number): number {
  return [...values].sort((a, b) => a - b)[Math.round((values.length - 1) * part)]!
}

function median(values: readonly number[]): number {
  return quantile(values, 0.5)
}

interface Times {
  readonly parts: number[]
  readonly ours: number[]
  readonly qemu: number[]
}

/**
 * Lets the formats take turns, each with us and with QEMU: what a machine has to spare changes from moment to moment, so only times
 * of one round are compared. With us, a round is `parts` parts, in which the formats take turns too.
 */
async function inTurn(
  rounds: number,
  parts: number,
  ours: (format: Format) => Promise<number>,
  theirs: (format: Format) => Promise<number>,
): Promise<Map<Format, Times>> {
  const times = new Map(FORMATS.map((format) => [format, { parts: [], ours: [], qemu: [] } as Times]))
  const order = (turn: number) => FORMATS.map((_, i) => FORMATS[(i + turn) % FORMATS.length]!)
  for (let round = 0; round < rounds; round++) {
    for (let part = 0; part < parts; part++)
      for (const format of order(round + part)) times.get(format)!.parts.push(await ours(format))
    for (const { parts: all, ours } of times.values()) ours.push(median(all.slice(-parts)) * parts)
    for (const format of order(round)) times.get(format)!.qemu.push(await theirs(format))
  }
  return times
}

/** The ratios of times, round by round: their median, and between what half of them lie. */
function spread(above: readonly number[], below: readonly number[]): string {
  const ratios = above.map((time, round) => time / below[round]!)
  const [low, middle, high] = [0.25, 0.5, 0.75].map((part) => quantile(ratios, part).toFixed(2))
  return `${middle}x (${low}-${high})`
}

const file = (name: string) => path.join(folder.path, name)

async function fresh(format: string, size: number, options: Record<string, unknown> = {}): Promise<string> {
  const place = file(`fresh.${format}`)
  rmSync(place, { force: true })
  await createImage(place, format, size, options)
  return place
}

async function on(place: string, format: string, load: Load, options: Record<string, unknown> = {}): Promise<number> {
  const device = await openImage(place, { format, gate: 'any', ...options })
  try {
    return await drive(device, load)
  } finally {
    await device.close()
  }
}

const row = (...cells: (string | number)[]) =>
  console.log(cells.map((cell, index) => String(cell).padEnd(index === 0 ? 40 : 20)).join(''))
const ms = (seconds: number) => `${(seconds * 1000).toFixed(1)} ms`
const ratio = (value: number) => `${value.toFixed(2)}x`

/** Reads of what is in the page cache, beside raw and QEMU; the images stay open, as a machine's are. */
async function warm(): Promise<void> {
  const size = 256 * MIB
  const fill: Load = { write: true, count: size / MIB, length: MIB, step: MIB, depth: 4 }
  const devices = new Map<Format, BlockDevice>()
  const place = (format: Format) => file(`full.${format}`)
  try {
    for (const format of FORMATS) {
      await createImage(place(format), format, size)
      await on(place(format), format, fill)
      cacheAnew(place(format))
      devices.set(format, await openImage(place(format), { format, readOnly: true }))
    }
    row('reads, page cache warm', 'ours', 'of our raw', 'over QEMU')
    for (const [length, depth, count] of [
      [4096, 1, 40_000],
      [4096, 32, 40_000],
      [16384, 1, 30_000],
      [16384, 32, 30_000],
      [65536, 1, 12_000],
      [65536, 32, 12_000],
      [262144, 1, 4000],
      [262144, 32, 4000],
    ] as const) {
      const load: Load = { write: false, count, length, step: length * 7, depth }
      const ours = (format: Format) => drive(devices.get(format)!, { ...load, count: count / READ_PARTS })
      for (const format of FORMATS) await drive(devices.get(format)!, load)
      globalThis.gc?.()
      const times = await inTurn(rounds, READ_PARTS, ours, async (format) => qemu(place(format), format, load))
      const raw = times.get('raw')!.parts
      for (const [format, { parts, ours, qemu }] of times) {
        const what = `  ${format} ${length / 1024} KiB, depth ${depth}`
        row(what, ms(median(ours)), spread(raw, parts), spread(qemu, ours))
      }
    }
  } finally {
    for (const device of devices.values()) await device.close()
  }
}

/** First writes. */
async function allocating(): Promise<void> {
  row('allocating writes', 'ours', 'time of raw', 'over QEMU')
  for (const [what, load] of [
    ['4 KiB at 64 KiB stride, depth 32', { write: true, count: 16_000, length: 4096, step: 65536, depth: 32 }],
    ['256 KiB streaming, depth 8', { write: true, count: 2000, length: 262144, step: 262144, depth: 8 }],
  ] as const) {
    const part = { ...load, count: load.count / WRITE_PARTS }
    const image = async (format: Format, { count, step, length }: Load) => {
      const place = await fresh(format, count * step + MIB)
      calm(file('memory'), count * length)
      return place
    }
    const ours = async (format: Format) => on(await image(format, part), format, part)
    for (const format of FORMATS)
      for (let round = 0; round < WARM; round++)
        await on(await fresh(format, part.count * part.step + MIB), format, part)
    const theirs = async (format: Format) => qemu(await image(format, load), format, load)
    const times = await inTurn(rounds, WRITE_PARTS, ours, theirs)
    const raw = times.get('raw')!.parts
    for (const [format, { parts, ours, qemu }] of times) {
      row(`  ${format} ${what}`, ms(median(ours)), spread(parts, raw), spread(qemu, ours))
    }
  }
}

/** 4 KiB writes over a backing file. */
async function copyUp(): Promise<void> {
  row('copy-up, 4 KiB writes over raw', 'ours', '', 'over QEMU')
  const size = 1024 * MIB
  const base = file('base.raw')
  await createImage(base, 'raw', size)
  await on(base, 'raw', { write: true, count: 1024, length: MIB, step: MIB, depth: 4 })
  for (const [clusterSize, extendedL2] of [
    [65536, false],
    [65536, true],
    [2 * MIB, false],
    [2 * MIB, true],
  ] as const) {
    const load: Load = {
      write: true,
      count: clusterSize > MIB ? 400 : 2000,
      length: 4096,
      step: 2 * MIB + 20480,
      depth: 1,
    }
    const options = { clusterSize, extendedL2, backingFile: base, backingFmt: 'raw' }
    const ours: number[] = []
    const theirs: number[] = []
    await on(await fresh('qcow2', size, options), 'qcow2', load)
    for (let round = 0; round < ROUNDS; round++) {
      ours.push(await on(await fresh('qcow2', size, options), 'qcow2', load))
      theirs.push(qemu(await fresh('qcow2', size, options), 'qcow2', load))
    }
    const kind = `${clusterSize / 1024} KiB clusters${extendedL2 ? ', extended L2' : ''}`
    row(`  ${kind}`, ms(median(ours)), '', ratio(median(theirs) / median(ours)))
  }
}

/** Little memory for the metadata of a large image. */
async function bounded(): Promise<void> {
  row('40 GB, random 4 KiB reads', 'time', 'of no bound')
  const place = file('large.qcow2')
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'preallocation=metadata', place, '40G'])
  const load: Load = { write: false, count: 30_000, length: 4096, step: 32 * MIB + 4096, depth: 1 }
  const free: number[] = []
  const tight: number[] = []
  await on(place, 'qcow2', load)
  for (let round = 0; round < ROUNDS; round++) {
    free.push(await on(place, 'qcow2', load, { metadataLimit: 1 << 30 }))
    tight.push(await on(place, 'qcow2', load, { metadataLimit: MIB }))
  }
  row('  no bound', ms(median(free)))
  row('  1 MiB', ms(median(tight)), ratio(median(tight) / median(free)))
}

/** How long opening takes. */
async function opening(): Promise<void> {
  const place = await fresh('qcow2', 2 ** 40)
  await (await openImage(place, { format: 'qcow2' })).close()
  const times: number[] = []
  let grew = 0
  for (let round = 0; round < 7; round++) {
    globalThis.gc?.()
    const before = process.memoryUsage()
    const begin = performance.now()
    const device = await openImage(place, { format: 'qcow2' })
    times.push((performance.now() - begin) / 1000)
    globalThis.gc?.()
    const now = process.memoryUsage()
    grew = Math.max(grew, now.heapUsed + now.arrayBuffers - before.heapUsed - before.arrayBuffers)
    await device.close()
  }
  row('opening 1 TiB', ms(median(times)), `${(grew / MIB).toFixed(2)} MiB`, `file ${statSync(place).size} B`)
}

/** Runs the parts whose name contains one of the words, or all. */
export async function run(args: readonly string[]): Promise<number> {
  if (lacks('qemu-img')) return 1
  rounds = Number(args.find((arg) => arg.startsWith('--rounds='))?.slice(9) ?? rounds)
  const words = args.filter((arg) => !arg.startsWith('--'))
  const parts = { warm, allocating, copyUp, bounded, opening }
  try {
    for (const [name, part] of Object.entries(parts))
      if (words.length === 0 || words.some((word) => name.includes(word))) await part()
  } finally {
    folder.remove()
  }
  return 0
}
