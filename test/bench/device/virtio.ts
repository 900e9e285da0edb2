/** A virtio doorbell whose answer is already here: what it costs the host, and what for. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { BlockDriver } from '../../../src/block/device.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { createFile, openFile } from '../../../src/block/protocols/node/files.ts'
import { PackedRing } from '../../../src/devices/virtio/packed.ts'
import { BlkRequest, parse, type Rules } from '../../../src/devices/virtio/request.ts'
import { SplitRing } from '../../../src/devices/virtio/split.ts'
import { Features } from '../../../src/devices/virtio/standard.ts'
import { Driver, F, OK, pattern, type Request, T } from '../../devices/virtio/driver.ts'
import { type PackedDriver, SplitDriver } from '../../devices/virtio/rings.ts'

const DISK = 64 << 20
const SAMPLES = 20_000
const LENGTHS = [4096, 65536, 1 << 20]
const TARGET_US = 5

type RingKind = 'split' | 'packed'

/** A driver as Linux's is: modern, event index, one indirect table for header, data and status. */
class Loop {
  readonly driver: Driver
  readonly request: Request
  readonly table: number

  constructor(ring: RingKind, on: BlockDriver, type: number, length: number) {
    this.driver = new Driver({ ring, on, ramSize: 8 << 20 })
    const { driver } = this
    this.request =
      type === T.IN ? driver.build(type, 0, { input: length }) : driver.build(type, 0, { output: pattern(length) })
    this.table = driver.alloc(16 * 3)
    driver.add(this.request, { indirect: true })
    driver.notify()
    driver.used()
    this.table = this.#table()
  }

  #table(): number {
    return Number(this.driver.bus.memory.data.getBigUint64(this.driver.queue.descriptors, true))
  }

  /** Makes the request available again, at the sector that is next, and wants an interrupt for it. */
  offer(sector: number): void {
    const { queue, bus } = this.driver
    const { data } = bus.memory
    data.setUint32(this.request.elements[0]!.at + 8, sector, true)
    data.setUint8(this.request.statusAt, 0xee)
    if (queue instanceof SplitDriver) {
      queue.offer(0)
      data.setUint16(queue.driver + 4 + 2 * queue.size, data.getUint16(queue.device + 2, true), true)
    } else (queue as PackedDriver).offer([{ at: this.table, length: 48 }], 0, 4)
  }
}

/** Median and 99th percentile of a doorbell, us. */
function doorbell(ring: RingKind, on: BlockDriver, type: number, length: number): { median: number; p99: number } {
  const loop = new Loop(ring, on, type, length)
  const { driver, request } = loop
  const window = driver.slot.device.windows.find(({ bar }) => bar === 2)!
  const offset = driver.structures.get(2)!.offset
  const blocks = DISK / length
  const samples = new Float64Array(Math.max(500, Math.min(SAMPLES, (SAMPLES * 65536) / length / 4)))
  const timer = new Float64Array(samples.length)
  for (let warm = 0; warm < 2; warm++) {
    for (let i = 0; i < samples.length; i++) {
      loop.offer((((i * 7919) % blocks) * length) / 512)
      const empty = performance.now()
      const start = performance.now()
      window.write(offset, 2, 0)
      const end = performance.now()
      samples[i] = end - start
      timer[i] = start - empty
      if (request.status !== OK) throw new Error(`the doorbell left status ${request.status}`)
      if (!driver.bus.intxLevel) throw new Error('the doorbell did not interrupt')
      driver.isr()
      driver.used()
      driver.bus.intxLog.length = 0
      driver.bus.memory.dirtied.length = 0
    }
  }
  samples.sort()
  timer.sort()
  const at = (share: number) => (samples[Math.floor(samples.length * share)]! - timer[timer.length >> 1]!) * 1000
  return { median: at(0.5), p99: at(0.99) }
}

/** Best time of `body` over some rounds, us. */
function best(body: () => void): number {
  let least = Number.POSITIVE_INFINITY
  for (let round = 0; round < 40; round++) {
    const start = performance.now()
    for (let i = 0; i < 1000; i++) body()
    least = Math.min(least, performance.now() - start)
  }
  return least
}

const RULES: Rules = {
  capacity: DISK,
  blockSize: 512,
  readOnly: false,
  discard: undefined,
  writeZeroes: undefined,
  secureErase: undefined,
  lifetime: false,
  scsi: false,
  legacy: false,
}

/** The parts of a 4 KiB read, each run alone: best of many rounds, us. */
function parts(kind: RingKind, on: BlockDriver): { ring: number; parse: number; disk: number; copy: number } {
  const loop = new Loop(kind, on, T.IN, 4096)
  const { memory } = loop.driver.bus
  const { descriptors, driver, device, size } = loop.driver.queue
  const place = { size, descriptors, driver, device }
  const ring = kind === 'split' ? new SplitRing(memory, place, size) : new PackedRing(memory, place, size)
  ring.negotiated(new Features([F.INDIRECT_DESC, F.EVENT_IDX]))
  // One buffer has been through it.
  ring.restore(kind === 'split' ? [1, 1] : [1, 1, 1, 1])
  const request = new BlkRequest()
  const turn = best(() => {
    memory.dirtied.length = 0
    loop.offer(0)
    if (!ring.take(request)) throw new Error(ring.fault ?? 'the ring is empty')
    ring.give(request.id, request.slots, 4097)
    ring.publish()
    ring.take(request)
  })
  const offer = best(() => loop.offer(0))
  const parsing = best(() => void parse(request, memory, RULES))
  const page = new Uint8Array(4096)
  const copy = best(() => memory.ram.set(page, loop.request.room))
  const disk = best(() => {
    memory.dirtied.length = 0
    void loop.driver.disk.read(0, request.data)
  })
  return { ring: turn - offer, parse: parsing, disk: disk - copy, copy }
}

const us = (value: number) => value.toFixed(2).padStart(8)

/** Prints the tables. */
export async function run(): Promise<void> {
  const memory = new Memory(DISK)
  for (let at = 0; at < DISK; at += 1 << 20) memory.write(at, bytesVec(pattern(1 << 20, at >>> 20)))
  const folder = mkdtempSync(path.join(tmpdir(), 'block86-bench-'))
  const name = path.join(folder, 'disk.img')
  await createFile(name, DISK)
  const file = await openFile(name, { locking: 'off' })
  try {
    for (let at = 0; at < DISK; at += 1 << 20) await file.write!(at, bytesVec(pattern(1 << 20, at >>> 20)))
    console.log('One request behind a doorbell, us: median and 99th percentile')
    for (const [where, on] of [
      ['memory', memory],
      ['file, page cache', file],
    ] as const) {
      for (const ring of ['split', 'packed'] as const) {
        for (const length of LENGTHS) {
          const read = doorbell(ring, on, T.IN, length)
          const line = [`read ${us(read.median)} ${us(read.p99)}`]
          if (on === memory) {
            const write = doorbell(ring, on, T.OUT, length)
            line.push(`write ${us(write.median)} ${us(write.p99)}`)
          }
          const verdict =
            length > 4096 ? '' : read.median < TARGET_US ? `  under ${TARGET_US}` : `  NOT under ${TARGET_US}`
          console.log(
            `  ${where.padEnd(17)} ${ring.padEnd(7)} ${String(length >>> 10).padStart(5)} KiB  ${line.join('  ')}${verdict}`,
          )
        }
      }
    }
    console.log('\nWhere the time of a 4 KiB read goes, each part run alone, us')
    for (const ring of ['split', 'packed'] as const) {
      const { median } = doorbell(ring, memory, T.IN, 4096)
      const part = parts(ring, memory)
      const rest = median - part.ring - part.parse - part.disk - part.copy
      console.log(
        `  ${ring.padEnd(7)} ring, in and out${us(part.ring)}   parse${us(part.parse)}   disk${us(part.disk)}   copy${us(part.copy)}   interrupt and the rest${us(rest)}   all${us(median)}`,
      )
    }
  } finally {
    await file.close?.()
    rmSync(folder, { recursive: true })
  }
}
