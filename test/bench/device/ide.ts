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
}

type Transfer = (ports: Ports) => void

const words = new Uint16Array(256)
const doubles = new Int32Array(words.buffer)
const PER_COMMAND = 128

function issue(ports: Ports, opcode: number, lba: number): void {
  ports.out8(CONTROL, 2)
  ports.out8(COMMAND + 6, 0xe0)
  ports.out8(COMMAND + 2, PER_COMMAND)
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

const TRANSFERS: readonly (readonly [string, Transfer])[] = [
  ['READ SECTOR(S), 16-bit', sectors(0x20, (ports) => ports.insw(256, words))],
  ['READ SECTOR(S), 32-bit', sectors(0x20, (ports) => ports.insd(128, doubles))],
  ['WRITE SECTOR(S), 16-bit', sectors(0x30, (ports) => ports.outsw(256, 0x5a5a))],
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
  for (const [name, transfer] of TRANSFERS) {
    const [theirs = 0, mine = 0] = measure(machines, transfer)
    console.log(
      `${name.padEnd(26)} ${theirs.toFixed(0).padStart(6)} ns a sector in v86, ${mine.toFixed(0).padStart(6)} in block86, ${(theirs / mine).toFixed(2)} times as fast`,
    )
  }
  for (const machine of machines) await machine.close()
}
