/** A READ(10) of what the page cache has, through the 53C895A: what it costs the host, SCRIPTS included, and what for. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { asDevice, type BlockDriver } from '../../../src/block/device.ts'
import { Disk } from '../../../src/block/disk.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { isLater } from '../../../src/block/now.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { createFile, openFile } from '../../../src/block/protocols/node/files.ts'
import { GuestVec } from '../../../src/devices/dma.ts'
import { lsi53c895a } from '../../../src/devices/lsi53c895a/index.ts'
import * as reg from '../../../src/devices/lsi53c895a/registers.ts'
import { DiskUnit, execute, ScsiTarget } from '../../../src/devices/scsi/index.ts'
import * as s from '../../devices/lsi53c895a/scripts.ts'
import { plug, testBus } from '../../devices/machine.ts'

const DISK = 64 << 20
const SAMPLES = 20_000
const TARGET_US = 20
const LENGTHS = [4096, 16384, 65536, 1 << 20]

const TABLE = 0x20000
const MAILBOX = 0x21000
const DATA = 0x100000
/** Entries of the table that DSA points to, as drivers lay it out: select, IDENTIFY, command, data, status. */
const [SELECT, IDENTIFY, COMMAND, PIECE, STATUS, MESSAGE] = [0, 8, 16, 24, 32, 40] as const

const ID = 3

/** A machine with a driver that gives the program in SCRIPTS RAM its commands by SIGP, as sym53c8xx does, and takes INTFLY. */
class Loop {
  readonly bus = testBus({ ramSize: 4 << 20 })
  readonly target: ScsiTarget
  readonly disk: Disk
  readonly slot
  readonly istat
  #tag = 0

  constructor(on: BlockDriver) {
    const { bus } = this
    this.disk = new Disk(asDevice(on))
    this.target = new ScsiTarget().attach(0, new DiskUnit(this.disk))
    this.slot = plug(bus, lsi53c895a({ targets: new Map([[ID, this.target]]) }))
    this.istat = this.slot.device.windows.find(({ bar }) => bar === 1)!
    this.#program()
    for (let i = 0; i < 2; i++) this.command([0, 0, 0, 0, 0, 0], 0)
    this.command([3, 0, 0, 0, 18, 0], 18)
    this.command([0, 0, 0, 0, 0, 0], 0)
    if (this.status !== 0) throw new Error('the unit does not get ready')
  }

  #program(): void {
    const { bus, slot } = this
    const ram = slot.base(2)
    const write = (instructions: readonly (readonly number[])[]) =>
      instructions.flat().forEach((word, i) => {
        slot.write(ram + 4 * i, 4, word)
      })
    const labels: Record<string, number> = {}
    const at = (name: string) => ram + (labels[name] ?? 0)
    const lines = (): readonly (string | readonly number[])[] => [
      'idle',
      s.waitReselect(at('job')),
      s.int(0x99),
      'job',
      s.toSfbr(reg.CTEST2, 'or', 0),
      s.load(reg.DSA, 4, MAILBOX),
      s.selectAtnFrom(SELECT, at('idle')),
      s.jump(at('bad'), { phase: s.MSG_OUT, when: true, not: true }),
      s.moveTable(IDENTIFY, s.MSG_OUT),
      s.jump(at('bad'), { phase: s.COMMAND, when: true, not: true }),
      s.moveTable(COMMAND, s.COMMAND),
      s.jump(at('status'), { phase: s.STATUS, when: true }),
      s.jump(at('message'), { phase: s.MSG_IN }),
      s.jump(at('out'), { phase: s.DATA_OUT }),
      s.chmovTable(PIECE, s.DATA_IN),
      s.call(at('dispatch')),
      s.jump(at('status')),
      'out',
      s.chmovTable(PIECE, s.DATA_OUT),
      s.call(at('dispatch')),
      'status',
      s.moveTable(STATUS, s.STATUS),
      s.jump(at('bad'), { phase: s.MSG_IN, when: true, not: true }),
      s.moveTable(MESSAGE, s.MSG_IN),
      s.jump(at('bad'), { data: 0, not: true }),
      s.modify(reg.SCNTL2, 'and', 0x7f),
      s.clear(s.ACK),
      s.waitDisconnect(),
      s.load(reg.SCRATCHA, 4, STATUS, true),
      s.store(reg.SCRATCHA, 4, MAILBOX + 8),
      s.intfly(),
      s.jump(at('idle')),
      'dispatch',
      s.jump(at('bad'), { phase: s.STATUS, when: true, not: true }),
      s.ret(),
      'message',
      s.int(0x11),
      'bad',
      s.int(0x22),
    ]
    for (let pass = 0; pass < 2; pass++) {
      let offset = 0
      for (const line of lines()) {
        if (typeof line === 'string') labels[line] = offset
        else offset += 4 * line.length
      }
    }
    write(lines().filter((line) => typeof line !== 'string'))
    const { data } = bus.memory
    const entry = (offset: number, first: number, second: number) => {
      data.setUint32(TABLE + offset, first, true)
      data.setUint32(TABLE + offset + 4, second, true)
    }
    entry(SELECT, ID << 16, 0)
    entry(IDENTIFY, 3, TABLE + 0x80)
    entry(STATUS, 1, TABLE + 0xa0)
    entry(MESSAGE, 1, TABLE + 0xa1)
    data.setUint32(MAILBOX, TABLE, true)
    const base = slot.base(1)
    slot.write(base + reg.DIEN, 1, 0x7d)
    slot.write(base + reg.SIEN0, 1, 0x8f)
    slot.write(base + reg.SIEN1, 1, 0x04)
    slot.write(base + reg.DSP, 4, ram)
  }

  /** Lays the command out, as the guest does before the doorbell. */
  offer(cdb: readonly number[], length: number): void {
    const { ram, data } = this.bus.memory
    this.#tag = (this.#tag + 1) & 0xff
    ram.set([0xc0, 0x20, this.#tag], TABLE + 0x80)
    ram.set(cdb, TABLE + 0x90)
    data.setUint32(TABLE + COMMAND, cdb.length, true)
    data.setUint32(TABLE + COMMAND + 4, TABLE + 0x90, true)
    data.setUint32(TABLE + PIECE, length, true)
    data.setUint32(TABLE + PIECE + 4, DATA, true)
    ram[TABLE + 0xa0] = 0xee
  }

  ring(): void {
    this.istat.write(reg.ISTAT0, 1, reg.ISTAT0_SIGP)
  }

  /** The interrupt's handler: two accesses, as every driver has them. */
  handle(): void {
    const istat = this.istat.read(reg.ISTAT0, 1)
    if ((istat & reg.ISTAT0_INTF) === 0) throw new Error(`the chip stopped with ISTAT ${istat.toString(16)}`)
    this.istat.write(reg.ISTAT0, 1, reg.ISTAT0_INTF)
    this.bus.intxLog.length = 0
    this.bus.memory.dirtied.length = 0
  }

  get status(): number {
    return this.bus.memory.ram[TABLE + 0xa0]!
  }

  command(cdb: readonly number[], length: number): void {
    this.offer(cdb, length)
    this.ring()
    this.handle()
  }
}

const transfer = (opcode: number, length: number, sample: number): number[] => {
  const blocks = length / 512
  const lba = ((sample * 7919) % (DISK / length)) * blocks
  return [opcode, 0, lba >>> 24, (lba >>> 16) & 0xff, (lba >>> 8) & 0xff, lba & 0xff, 0, blocks >>> 8, blocks & 0xff, 0]
}

/** Median and 99th percentile of a command, us: the doorbell, all of SCRIPTS, and the handler's accesses. */
function doorbell(loop: Loop, opcode: number, length: number): { median: number; p99: number } {
  const samples = new Float64Array(Math.max(300, Math.min(SAMPLES, (SAMPLES * 32768) / length / 4)))
  const timer = new Float64Array(samples.length)
  for (let warm = 0; warm < 2; warm++) {
    for (let i = 0; i < samples.length; i++) {
      loop.offer(transfer(opcode, length, i), length)
      const empty = performance.now()
      const start = performance.now()
      loop.ring()
      loop.handle()
      samples[i] = performance.now() - start
      timer[i] = start - empty
      if (loop.status !== 0) throw new Error(`the command ended with status ${loop.status}`)
    }
  }
  samples.sort()
  timer.sort()
  const at = (share: number) => (samples[Math.floor(samples.length * share)]! - timer[timer.length >> 1]!) * 1000
  return { median: at(0.5), p99: at(0.99) }
}

/** Best time of `body` over some rounds, us. */
function best(body: (i: number) => void): number {
  let least = Number.POSITIVE_INFINITY
  for (let round = 0; round < 40; round++) {
    const start = performance.now()
    for (let i = 0; i < 1000; i++) body(i)
    least = Math.min(least, performance.now() - start)
  }
  return least
}

/** The parts of a 4 KiB read, each run alone, us. */
function parts(loop: Loop): { disk: number; target: number; all: number; empty: number } {
  const { memory } = loop.bus
  const vec = new GuestVec(memory).add(DATA, 4096)
  const quiet = () => {
    memory.dirtied.length = 0
  }
  const disk = best((i) => {
    quiet()
    void loop.disk.read(((i * 7919) % (DISK / 4096)) * 4096, vec)
  })
  const target = best((i) => {
    quiet()
    const cdb = Uint8Array.from(transfer(0x28, 4096, i))
    const task = loop.target.submit({ initiator: 0, lun: 0, cdb, attribute: 'simple', tag: 1, autosense: false })
    if (isLater(execute(task, { in: vec }))) throw new Error('the read came later')
  })
  const all = best((i) => loop.command(transfer(0x28, 4096, i), 4096))
  const empty = best(() => loop.command([0, 0, 0, 0, 0, 0], 0))
  return { disk, target: target - disk, all, empty }
}

/** Dwords that SCRIPTS fetch for a read, instructions and table entries. */
function fetches(loop: Loop): number {
  const { device } = loop.slot
  const { fetch } = device
  let count = 0
  device.fetch = (high, low) => {
    count++
    return fetch.call(device, high, low)
  }
  loop.command(transfer(0x28, 4096, 0), 4096)
  device.fetch = fetch
  return count
}

const us = (value: number) => value.toFixed(2).padStart(8)

/** Prints the tables. */
export async function run(): Promise<void> {
  const memory = new Memory(DISK)
  const folder = mkdtempSync(path.join(tmpdir(), 'block86-bench-'))
  const name = path.join(folder, 'disk.img')
  await createFile(name, DISK)
  const file = await openFile(name, { locking: 'off' })
  const piece = new Uint8Array(1 << 20)
  try {
    for (let at = 0; at < DISK; at += piece.length) {
      piece.fill(1 + (at >>> 20))
      memory.write(at, bytesVec(piece))
      await file.write!(at, bytesVec(piece))
    }
    console.log('One command, SCRIPTS included, us: median and 99th percentile')
    for (const [where, on] of [
      ['memory', memory],
      ['file, page cache', file],
    ] as const) {
      const loop = new Loop(on)
      for (const length of LENGTHS) {
        const read = doorbell(loop, 0x28, length)
        const line = [`READ(10) ${us(read.median)} ${us(read.p99)}`]
        if (on === memory) {
          const write = doorbell(loop, 0x2a, length)
          line.push(`WRITE(10) ${us(write.median)} ${us(write.p99)}`)
        }
        const verdict = read.median < TARGET_US ? `  under ${TARGET_US}` : `  NOT under ${TARGET_US}`
        const text = `  ${where.padEnd(17)} ${String(length >>> 10).padStart(5)} KiB  ${line.join('  ')}`
        console.log(text + (length > 4096 ? '' : verdict))
      }
    }
    console.log('\nWhere the time of a READ(10) of 4 KiB goes, each part run alone, us')
    for (const [where, on] of [
      ['memory', memory],
      ['file, page cache', file],
    ] as const) {
      const loop = new Loop(on)
      const part = parts(loop)
      console.log(
        `  ${where.padEnd(17)} disk and copy${us(part.disk)}   target${us(part.target)}   SCRIPTS and registers${us(part.all - part.disk - part.target)}` +
          `   all${us(part.all)}   TEST UNIT READY${us(part.empty)}   dwords fetched ${fetches(loop)}`,
      )
    }
  } finally {
    await file.close?.()
    rmSync(folder, { recursive: true })
  }
}
