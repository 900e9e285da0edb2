import { expect, test } from 'vitest'
import { bytesVec } from '../../../src/block/iovec.ts'
import { type Random, seeded } from '../../random.ts'
import { microtasks } from '../machine.ts'
import { Slow } from '../slow.ts'
import { BSY, DRQ, ERR, Host, harddisk, machine, type Region } from './host.ts'

const SECTORS = 2048
const BYTES = SECTORS * 512
const MEMORY = 0x10_0000

interface Way {
  readonly opcode: number
  readonly ext?: true
  readonly multiple?: true
}

const PIO_IN: readonly Way[] = [{ opcode: 0x20 }, { opcode: 0x24, ext: true }, { opcode: 0xc4, multiple: true }]
const PIO_OUT: readonly Way[] = [{ opcode: 0x30 }, { opcode: 0x34, ext: true }, { opcode: 0xc5, multiple: true }]
const DMA_IN: readonly Way[] = [{ opcode: 0xc8 }, { opcode: 0x25, ext: true }]
const DMA_OUT: readonly Way[] = [{ opcode: 0xca }, { opcode: 0x35, ext: true }, { opcode: 0x3d, ext: true }]

const same = (a: Uint8Array, b: Uint8Array) => Buffer.compare(a, b) === 0

/** A drive, what it must hold, and how a driver gets at it. */
class Drive {
  readonly host: Host
  readonly unit: 0 | 1
  readonly slow: Slow
  readonly holds = new Uint8Array(BYTES)
  readonly random: Random
  multiple = 16

  constructor(host: Host, unit: 0 | 1, slow: Slow, random: Random) {
    this.host = host
    this.unit = unit
    this.slow = slow
    this.random = random
  }

  /** What the medium has. */
  medium(at: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length)
    this.slow.memory.read(at, bytesVec(bytes))
    return bytes
  }

  issue({ opcode, ext }: Way, lba: number, count: number): void {
    const taskFile = { lba, count: ext ? count : count & 0xff, unit: this.unit }
    if (ext) this.host.issueExt(opcode, taskFile)
    else if (this.random.below(4) > 0) this.host.issue(opcode, taskFile)
    else {
      // The same by CHS, in the geometry of 2 heads of 63 sectors that the test sets
      const track = Math.floor(lba / 63)
      this.host.issue(opcode, {
        ...taskFile,
        cylinder: track >> 1,
        head: track & 1,
        sector: (lba % 63) + 1,
      })
    }
  }

  /** Waits until the drive is not busy, while its host answers. */
  async idle(): Promise<number> {
    for (let i = 0; i < 100; i++) {
      const status = this.host.alt
      if ((status & BSY) === 0) return status
      if (this.slow.pending.length > 0) this.slow.next()
      this.host.bus.clock.turn()
      await microtasks()
    }
    throw new Error('the drive stays busy')
  }

  extent(): readonly [lba: number, count: number] {
    const count = 1 + this.random.below(this.random.below(8) === 0 ? 256 : 24)
    return [this.random.below(SECTORS - count + 1), count]
  }

  /** Regions of even length, somewhere in memory, that do not touch and are `length` bytes in all, perhaps in two tables. */
  regions(length: number): Region[] {
    const regions: Region[] = []
    let at = MEMORY + 2 * this.random.below(100)
    for (let left = length; left > 0; ) {
      const size = Math.min(
        left,
        this.random.below(3) === 0 ? 2 + 2 * this.random.below(700) : 512 * (1 + this.random.below(64)),
      )
      regions.push([at, size & 0xffff])
      at += size + 2 * this.random.below(300)
      left -= size
    }
    return regions
  }

  async readPio(way: Way): Promise<void> {
    const [lba, count] = this.extent()
    const block = way.multiple ? this.multiple : 1
    this.issue(way, lba, count)
    const data = new Uint8Array(count * 512)
    for (let done = 0; done < count; done += block) {
      expect((await this.idle()) & (DRQ | ERR)).toBe(DRQ)
      this.host.in(7)
      data.set(this.host.insw(Math.min(block, count - done) * 512), done * 512)
    }
    expect((await this.idle()) & (DRQ | ERR)).toBe(0)
    expect(same(data, this.holds.subarray(lba * 512, (lba + count) * 512))).toBe(true)
  }

  noise(length: number): Uint8Array {
    const data = new Uint8Array(length)
    for (let i = 0; i < length; i += 4) data[i] = this.random.below(256)
    return data
  }

  async writePio(way: Way): Promise<void> {
    const [lba, count] = this.extent()
    const block = way.multiple ? this.multiple : 1
    this.issue(way, lba, count)
    const data = this.noise(count * 512)
    for (let done = 0; done < count; done += block) {
      expect((await this.idle()) & (DRQ | ERR)).toBe(DRQ)
      this.host.outsw(data.subarray(done * 512, Math.min(done + block, count) * 512))
    }
    expect((await this.idle()) & (DRQ | ERR)).toBe(0)
    this.holds.set(data, lba * 512)
  }

  /** Runs the bus master over the regions, by one table or by two, and waits for the end. */
  async master(way: Way, lba: number, count: number, regions: readonly Region[], toMemory: boolean): Promise<number> {
    const { host } = this
    const cut = this.random.below(3) === 0 ? this.random.below(regions.length) : 0
    const tables = cut === 0 ? [regions] : [regions.slice(0, cut), regions.slice(cut)]
    if (this.random.below(2) === 0) this.issue(way, lba, count)
    else {
      host.prd(tables.shift()!)
      host.start(toMemory)
      this.issue(way, lba, count)
    }
    let status = await this.idle()
    for (const table of tables) {
      host.stop()
      host.prd(table)
      host.start(toMemory)
      status = await this.idle()
    }
    host.stop()
    host.in(7)
    return status
  }

  async readDma(way: Way): Promise<void> {
    const [lba, count] = this.extent()
    const regions = this.regions(count * 512)
    const { ram } = this.host.bus.memory
    ram.fill(0xee, MEMORY, MEMORY + (1 << 20))
    expect((await this.master(way, lba, count, regions, true)) & (DRQ | ERR)).toBe(0)
    let done = lba * 512
    let end = MEMORY
    const untouched = (from: number, to: number) => this.host.ram(from, to - from).every((byte) => byte === 0xee)
    for (const [at, size] of regions) {
      expect(untouched(end, at)).toBe(true)
      expect(same(this.host.ram(at, size), this.holds.subarray(done, done + size))).toBe(true)
      end = at + size
      done += size
    }
    expect(untouched(end, end + 4096)).toBe(true)
  }

  async writeDma(way: Way): Promise<void> {
    const [lba, count] = this.extent()
    const regions = this.regions(count * 512)
    const data = this.noise(count * 512)
    let done = 0
    for (const [at, size] of regions) {
      this.host.ram(at, size).set(data.subarray(done, done + size))
      done += size
    }
    expect((await this.master(way, lba, count, regions, false)) & (DRQ | ERR)).toBe(0)
    this.holds.set(data, lba * 512)
  }

  /** A write that a reset cuts off: each of its sectors is then the old one or the new one. */
  async cutOff(): Promise<void> {
    const [lba, count] = this.extent()
    const data = this.noise(count * 512)
    const { host } = this
    host.ram(MEMORY, data.length).set(data)
    const first = Math.min(data.length, 0x1_0000)
    host.prd([
      [MEMORY, first & 0xffff],
      ...(data.length > first ? [[MEMORY + first, data.length - first] as const] : []),
    ])
    this.issue(this.random.pick(DMA_OUT), lba, count)
    host.start(false)
    if (this.random.below(2) === 0) await microtasks()
    host.softReset()
    host.ram(MEMORY, data.length).fill(0x99)
    host.stop()
    expect((await this.idle()) & (DRQ | ERR)).toBe(0)
    await this.slow.settle()
    for (let i = 0; i < count; i++) {
      const at = (lba + i) * 512
      const now = this.medium(at, 512)
      const fresh = same(now, data.subarray(i * 512, (i + 1) * 512))
      expect(fresh || same(now, this.holds.subarray(at, at + 512))).toBe(true)
      this.holds.set(now, at)
    }
  }

  async setMultiple(): Promise<void> {
    this.multiple = 1 << this.random.below(5)
    this.host.issue(0xc6, { count: this.multiple, unit: this.unit })
    this.host.done()
  }
}

test('whatever way a driver reads and writes, on a host that answers at once or late, it finds what it wrote', async () => {
  await seeded(async (random) => {
    const slow = [new Slow(BYTES), new Slow(BYTES)] as const
    const host = new Host(machine(slow.map((driver) => harddisk(driver))))
    const drives = slow.map((driver, unit) => new Drive(host, unit as 0 | 1, driver, random))
    for (const { unit } of drives) {
      host.issue(0x91, { cylinder: 0, head: 1, count: 63, unit })
      host.done()
    }
    for (let step = 0; step < 300; step++) {
      const drive = random.pick(drives)
      for (const driver of slow) driver.direct = random.below(2) === 0
      const ways: readonly (() => Promise<void>)[] = [
        () => drive.readPio(random.pick(PIO_IN)),
        () => drive.writePio(random.pick(PIO_OUT)),
        () => drive.readDma(random.pick(DMA_IN)),
        () => drive.writeDma(random.pick(DMA_OUT)),
      ]
      const choice = random.below(20)
      if (choice === 0) await drive.cutOff()
      else if (choice === 1) await drive.setMultiple()
      else await random.pick(ways)()
    }
    for (const drive of drives) expect(same(drive.medium(0, BYTES), drive.holds)).toBe(true)
  })
})
