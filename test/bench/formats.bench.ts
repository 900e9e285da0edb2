/**
 * The copy-on-write formats beside raw, and beside `qemu-img bench` on the same images: `npm run bench -- formats [WORD...]`. What is
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
const ROUNDS = 3
/** Runs before those that are measured, of what takes a long way through the code. */
const WARM = 4

interface Load {
  readonly write: boolean
  readonly count: number
  readonly length: number
  readonly step: number
  readonly depth: number
}

/** Seconds that the load takes on a device, as `qemu-img bench` would run it. */
async function drive(device: BlockDevice, load: Load): Promise<number> {
  const { write, count, length, step, depth } = load
  const buffers = Array.from({ length: depth }, () => bytesVec(new Uint8Array(length).fill(0x5a)))
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

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1]!
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
  console.log(cells.map((cell, index) => String(cell).padEnd(index === 0 ? 46 : 12)).join(''))
const ms = (seconds: number) => `${(seconds * 1000).toFixed(1)} ms`
const ratio = (value: number) => `${value.toFixed(2)}x`

/** Reads of what is in the page cache, and rewrites, beside raw and QEMU. */
async function warm(): Promise<void> {
  const size = 256 * MIB
  const formats = ['raw', 'qcow2', 'qed']
  const fill: Load = { write: true, count: size / MIB, length: MIB, step: MIB, depth: 4 }
  const places = new Map<string, string>()
  for (const format of formats) {
    const place = file(`full.${format}`)
    await createImage(place, format, size)
    await on(place, format, fill)
    cacheAnew(place)
    places.set(format, place)
  }
  row('reads, page cache warm', 'ours', 'of our raw', 'over QEMU')
  for (const [length, depth, count] of [
    [4096, 1, 60_000],
    [4096, 32, 60_000],
    [65536, 1, 20_000],
    [65536, 32, 20_000],
    [262144, 1, 5000],
    [262144, 32, 5000],
  ] as const) {
    const load: Load = { write: false, count, length, step: length * 7, depth }
    const times = new Map(formats.map((format) => [format, { ours: [] as number[], qemu: [] as number[] }]))
    for (const format of formats) await on(places.get(format)!, format, load)
    for (let round = 0; round < ROUNDS; round++) {
      for (const format of formats) {
        times.get(format)!.ours.push(await on(places.get(format)!, format, load))
        times.get(format)!.qemu.push(qemu(places.get(format)!, format, load))
      }
    }
    const raw = median(times.get('raw')!.ours)
    for (const [format, { ours, qemu }] of times) {
      const own = median(ours)
      row(`  ${format} ${length / 1024} KiB, depth ${depth}`, ms(own), ratio(raw / own), ratio(median(qemu) / own))
    }
  }
}

/** First writes. */
async function allocating(): Promise<void> {
  row('allocating writes', 'ours', 'time of raw', 'over QEMU')
  for (const [what, load] of [
    ['4 KiB at 64 KiB stride, depth 32', { write: true, count: 16_000, length: 4096, step: 65536, depth: 32 }],
    ['256 KiB streaming, depth 8', { write: true, count: 2000, length: 262144, step: 262144, depth: 8 }],
  ] as const) {
    const size = load.count * load.step + MIB
    let raw = 0
    for (const format of ['raw', 'qcow2', 'qed']) {
      for (let round = 0; round < WARM; round++) await on(await fresh(format, size), format, load)
      const ours: number[] = []
      const theirs: number[] = []
      for (let round = 0; round < ROUNDS; round++) {
        const taken = load.count * load.length
        calm(file('memory'), taken)
        ours.push(await on(await fresh(format, size), format, load))
        calm(file('memory'), taken)
        theirs.push(qemu(await fresh(format, size), format, load))
      }
      const own = median(ours)
      if (format === 'raw') raw = own
      row(`  ${format} ${what}`, ms(own), ratio(own / raw), ratio(median(theirs) / own))
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
  const parts = { warm, allocating, copyUp, bounded, opening }
  try {
    for (const [name, part] of Object.entries(parts))
      if (args.length === 0 || args.some((word) => name.includes(word))) await part()
  } finally {
    folder.remove()
  }
  return 0
}
