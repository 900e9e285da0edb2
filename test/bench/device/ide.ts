/** What a sector costs on the host's side of the IDE ports: block86's PIIX beside v86's own controller, in the same process. */

import { buildDebianGuest } from '../../../guests/debian/index.ts'
import { asDevice } from '../../../src/block/device.ts'
import { Disk } from '../../../src/block/disk.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import { makeEmulator, type NodeEmulator } from '../../../src/cli/emulator.ts'
import { cpuOf, type V86Cpu } from '../../../src/v86/internals.ts'
import { attachDrives } from '../../../src/v86.ts'

const DISK = 64 << 20
const SECTORS = 4096
const ROUNDS = 40
const COMMAND = 0x1f0
const CONTROL = 0x3f6

const BUS_MASTER = 0xb400
const PRD_TABLE = 0x10_0000
const MEMORY = 0x20_0000

interface Machine {
  readonly name: string
  readonly cpu: V86Cpu
  close(): Promise<void>
}

async function own(bios: string): Promise<Machine> {
  const buffer = new ArrayBuffer(DISK)
  const { emulator, loaded } = await makeEmulator({ memory: 64, bios, v86: { hda: { buffer } } })
  await loaded
  return { name: "v86's IDE, disk in RAM", cpu: cpuOf(emulator)!, close: () => destroy(emulator) }
}

async function ours(bios: string): Promise<Machine> {
  const { emulator, loaded } = await makeEmulator({ memory: 64, bios })
  const drives = await attachDrives(emulator, [{ if: 'ide', disk: new Disk(asDevice(new Memory(DISK))) }])
  await loaded
  const cpu = cpuOf(emulator)!
  // No firmware has run that would let the function answer
  const [address, data] = [cpu.io.ports[0xcf8]!, cpu.io.ports[0xcfc]!]
  address.write32.call(address.device as never, 0x8000_0904 | 0)
  data.write16.call(data.device as never, 0x0005)
  address.write32.call(address.device as never, 0x8000_0920 | 0)
  data.write32.call(data.device as never, BUS_MASTER)
  // As an operating system has it: firmware, which does not page, is held after every write that the host is slow to answer
  new Int32Array(cpu.wasm_memory.buffer, cpu.cr.byteOffset, 1)[0] = 0x8000_0001 | 0
  cpu.in_hlt[0] = 1
  cpu.main_loop()
  return {
    name: "block86's PIIX3, disk in RAM",
    cpu,
    async close() {
      await drives.close()
      await destroy(emulator)
    },
  }
}

async function destroy(emulator: NodeEmulator): Promise<void> {
  await emulator.destroy()
}

/** The ports as the emulated processor calls them. */
class Ports {
  readonly #table: V86Cpu['io']['ports']

  constructor(cpu: V86Cpu) {
    this.#table = cpu.io.ports
  }

  in8(port: number): number {
    const entry = this.#table[port]!
    return entry.read8.call(entry.device as never, port)
  }

  out8(port: number, value: number): void {
    const entry = this.#table[port]!
    entry.write8.call(entry.device as never, value)
  }

  out32(port: number, value: number): void {
    const entry = this.#table[port]!
    entry.write32.call(entry.device as never, value)
  }

  insw(words: number, into: Uint16Array): void {
    const table = this.#table
    for (let i = 0; i < words; i++) {
      const entry = table[COMMAND]!
      into[i] = entry.read16.call(entry.device as never, COMMAND)
    }
  }

  insd(doubles: number, into: Int32Array): void {
    const table = this.#table
    for (let i = 0; i < doubles; i++) {
      const entry = table[COMMAND]!
      into[i] = entry.read32.call(entry.device as never, COMMAND)
    }
  }

  outsw(words: number, value: number): void {
    const table = this.#table
    for (let i = 0; i < words; i++) {
      const entry = table[COMMAND]!
      entry.write16.call(entry.device as never, value)
    }
  }

  outsd(doubles: number, value: number): void {
    const table = this.#table
    for (let i = 0; i < doubles; i++) {
      const entry = table[COMMAND]!
      entry.write32.call(entry.device as never, value)
    }
  }
}

type Transfer = (ports: Ports) => void

const words = new Uint16Array(256)
const doubles = new Int32Array(words.buffer)
const PER_COMMAND = 128

function issue(ports: Ports, opcode: number, lba: number, count = PER_COMMAND): void {
  ports.out8(CONTROL, 2)
  ports.out8(COMMAND + 6, 0xe0)
  ports.out8(COMMAND + 2, count & 0xff)
  ports.out8(COMMAND + 3, lba & 0xff)
  ports.out8(COMMAND + 4, (lba >> 8) & 0xff)
  ports.out8(COMMAND + 5, (lba >> 16) & 0xff)
  ports.out8(COMMAND + 7, opcode)
}

const sectors =
  (opcode: number, block: (ports: Ports) => void): Transfer =>
  (ports) => {
    for (let lba = 0; lba < SECTORS; lba += PER_COMMAND) {
      issue(ports, opcode, lba)
      for (let i = 0; i < PER_COMMAND; i++) {
        if ((ports.in8(COMMAND + 7) & 0x88) !== 0x08) throw new Error(`the drive has no data at LBA ${lba + i}`)
        block(ports)
      }
    }
  }

/** Moves all sectors by DMA, `count` in a command, from `regions` places in memory that do not touch. */
const dma =
  (opcode: number, count: number, regions: number): Transfer =>
  (ports) => {
    for (let lba = 0; lba < SECTORS; lba += count) {
      ports.out8(BUS_MASTER, 0)
      ports.out8(BUS_MASTER + 2, 6)
      ports.out32(BUS_MASTER + 4, PRD_TABLE + 8 * (MAX_REGIONS - regions))
      issue(ports, opcode, lba, count)
      ports.out8(BUS_MASTER, opcode === 0xc8 ? 9 : 1)
      if ((ports.in8(COMMAND + 7) & 0x89) !== 0) throw new Error(`the drive has not moved LBA ${lba}`)
    }
  }

const MAX_REGIONS = 32

/** Writes a table of regions of a page with a page between them; the last ones of it are a table, too. */
function writeTable(cpu: V86Cpu): void {
  const view = new DataView(cpu.wasm_memory.buffer, cpu.mem8.byteOffset + PRD_TABLE)
  for (let i = 0; i < MAX_REGIONS; i++) {
    view.setUint32(8 * i, MEMORY + 0x2000 * i, true)
    view.setUint32(8 * i + 4, (i === MAX_REGIONS - 1 ? 0x8000_0000 : 0) + 0x1000, true)
  }
}

const TRANSFERS: readonly (readonly [string, Transfer])[] = [
  ['READ SECTOR(S), 16-bit', sectors(0x20, (ports) => ports.insw(256, words))],
  ['READ SECTOR(S), 32-bit', sectors(0x20, (ports) => ports.insd(128, doubles))],
  ['WRITE SECTOR(S), 16-bit', sectors(0x30, (ports) => ports.outsw(256, 0x5a5a))],
  ['WRITE SECTOR(S), 32-bit', sectors(0x30, (ports) => ports.outsd(128, 0x5a5a5a5a))],
  ['READ DMA, 4 KiB', dma(0xc8, 8, 1)],
  ['READ DMA, 128 KiB in 32 regions', dma(0xc8, 256, 32)],
  ['WRITE DMA, 4 KiB', dma(0xca, 8, 1)],
  ['WRITE DMA, 128 KiB in 32 regions', dma(0xca, 256, 32)],
]

/** Nanoseconds of processor time a sector on each machine, best of some rounds taken by turns. */
function measure(machines: readonly Machine[], transfer: Transfer): number[] {
  const ports = machines.map(({ cpu }) => new Ports(cpu))
  const best = machines.map(() => Number.POSITIVE_INFINITY)
  for (let round = 0; round < ROUNDS; round++) {
    ports.forEach((one, at) => {
      const start = process.cpuUsage()
      transfer(one)
      const { user, system } = process.cpuUsage(start)
      best[at] = Math.min(best[at]!, ((user + system) * 1000) / SECTORS)
    })
  }
  return best
}

/** Prints the table. */
export async function run(): Promise<void> {
  const { bios } = await buildDebianGuest()
  const machines = [await own(bios), await ours(bios)]
  for (const { cpu } of machines) writeTable(cpu)
  for (const [name, transfer] of TRANSFERS) {
    const [theirs = 0, mine = 0] = measure(machines, transfer)
    console.log(
      `${name.padEnd(33)} ${theirs.toFixed(0).padStart(6)} ns a sector in v86, ${mine.toFixed(0).padStart(6)} in block86, ${(theirs / mine).toFixed(2)} times as fast`,
    )
  }
  for (const machine of machines) await machine.close()
}
