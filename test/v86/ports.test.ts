/** Words that pass through the Data register without a call of the device: what the guest sees is the same as with one. */
import { expect, test } from 'vitest'
import { bytesVec } from '../../src/block/iovec.ts'
import { Memory } from '../../src/block/protocols/memory.ts'
import { piixIde } from '../../src/devices/ide/index.ts'
import type { Saved, Window } from '../../src/devices/machine.ts'
import type { PortEntry, V86Io } from '../../src/v86/internals.ts'
import { Ports } from '../../src/v86/ports.ts'
import { harddisk, pattern } from '../devices/ide/host.ts'
import { plug, testBus } from '../devices/machine.ts'
import { type Random, seeded } from '../random.ts'

const SECTORS = 256
const WIDTHS = [1, 2, 2, 2, 2, 4, 4] as const
type Width = (typeof WIDTHS)[number]

interface Machine {
  in(port: number, width: Width): number
  out(port: number, width: Width, value: number): void
  configure(offset: number, value: number): void
  save(): Saved
  restore(state: Saved): void
  readonly contents: Uint8Array[]
}

function emptyEntry(): PortEntry {
  return { ...NOBODY }
}

const NOBODY: PortEntry = {
  read8: () => 0xff,
  read16: () => 0xffff,
  read32: () => -1,
  write8: () => {},
  write16: () => {},
  write32: () => {},
  device: undefined,
}

/** A controller with three disks; `lay` says how its ports are reached. */
function machine(lay?: (windows: readonly Window[]) => readonly PortEntry[]): Machine {
  const media = [0, 1, 2].map((disk) => Memory.from(pattern(1000 * disk, SECTORS)))
  const slot = plug(
    testBus({ ramSize: 1 << 20 }),
    piixIde({ drives: [harddisk(media[0]!), harddisk(media[1]!), harddisk(media[2]!)] }),
  )
  const table = lay?.(slot.device.windows)
  const entry = (port: number) => table![port]!
  return {
    in(port, width) {
      if (table === undefined) return width === 1 ? slot.in8(port) : width === 2 ? slot.in16(port) : slot.in32(port)
      const { read8, read16, read32, device } = entry(port)
      return (width === 1 ? read8 : width === 2 ? read16 : read32).call(device, port) >>> 0
    },
    out(port, width, value) {
      if (table === undefined) {
        if (width === 1) slot.out8(port, value)
        else if (width === 2) slot.out16(port, value)
        else slot.out32(port, value)
        return
      }
      const { write8, write16, write32, device } = entry(port)
      const call = width === 1 ? write8 : width === 2 ? write16 : write32
      call.call(device, width === 4 ? value | 0 : value)
    },
    configure: (offset, value) => slot.device.config.write(offset, 1, value),
    save: () => slot.device.save(),
    restore(state) {
      slot.device.restore(state)
      slot.bus.clock.turn()
    },
    get contents() {
      return media.map((medium) => {
        const bytes = new Uint8Array(SECTORS * 512)
        medium.read(0, bytesVec(bytes))
        return bytes
      })
    },
  }
}

/** Ports of v86 with the windows over them, and how often a device was called for its Data register. */
function laid(): { lay: (windows: readonly Window[]) => readonly PortEntry[]; calls: () => number } {
  let calls = 0
  const counting = (window: Window): Window => {
    if (window.stream === undefined) return window
    return {
      ...window,
      read: (offset, width) => {
        if (offset === 0) calls++
        return window.read(offset, width)
      },
      write: (offset, width, value) => {
        if (offset === 0) calls++
        window.write(offset, width, value)
      },
    }
  }
  return {
    calls: () => calls,
    lay(windows) {
      const ports = Array.from({ length: 0x1_0000 }, emptyEntry)
      const io: V86Io = { ports, create_empty_entry: emptyEntry }
      const failed = (error: unknown) => {
        throw error
      }
      const laying = new Ports(io, { slices: { paging: true }, wrote: () => {}, failed })
      for (const window of windows) if (window.port !== undefined) laying.lay(counting(window), window.port)
      return ports
    },
  }
}

/** Does `step` to both machines and compares what they say. */
class Pair {
  readonly straight = machine()
  readonly #ports = laid()
  readonly direct = machine(this.#ports.lay)
  /** Accesses of a Data register. */
  accesses = 0

  get calls(): number {
    return this.#ports.calls()
  }

  in(port: number, width: Width): number {
    const value = this.straight.in(port, width)
    const direct = this.direct.in(port, width)
    if (direct !== value) throw new Error(`${width} bytes of port ${port.toString(16)}: ${direct}, not ${value}`)
    if ((port & 7) === 0) this.accesses++
    return value
  }

  out(port: number, width: Width, value: number): void {
    this.straight.out(port, width, value)
    this.direct.out(port, width, value)
    if ((port & 7) === 0) this.accesses++
  }
}

function issue(pair: Pair, random: Random, command: number): void {
  const opcode = random.pick([0x20, 0x30, 0x30, 0x30, 0xc4, 0xc5, 0xec, 0xe8])
  pair.out(command + 6, 1, random.pick([0xe0, 0xe0, 0xe0, 0xf0]))
  pair.out(command + 2, 1, 1 + random.below(9))
  pair.out(command + 3, 1, random.below(SECTORS - 9))
  pair.out(command + 4, 1, 0)
  pair.out(command + 5, 1, 0)
  pair.out(command + 7, 1, opcode)
}

function step(pair: Pair, random: Random): void {
  const command = random.pick([0x1f0, 0x1f0, 0x170])
  switch (random.below(24)) {
    case 0:
    case 1:
    case 2:
      issue(pair, random, command)
      break
    case 3:
      // Into the middle of what is under way
      pair.out(command + 7, 1, random.pick([0x20, 0x30, 0xe7, 0x90]))
      break
    case 4:
      if (random.below(4) > 0) break
      pair.out(command + 0x206, 1, 4)
      pair.out(command + 0x206, 1, 0)
      break
    case 5:
      pair.out(command + 6, 1, random.pick([0xe0, 0xf0]))
      break
    case 6: {
      if (random.below(4) > 0) break
      const state = pair.straight.save()
      expect(pair.direct.save()).toEqual(state)
      if (random.below(2) > 0) issue(pair, random, command)
      pair.straight.restore(state)
      pair.direct.restore(state)
      break
    }
    case 7: {
      // IDETIM's decode enable
      const at = command === 0x1f0 ? 0x41 : 0x43
      const value = random.pick([0, 0x80, 0x80, 0x80])
      pair.straight.configure(at, value)
      pair.direct.configure(at, value)
      break
    }
    case 8:
      pair.in(command + 0x206, 1)
      break
    case 9:
      pair.in(command + 7, 1)
      break
    default: {
      // As one string instruction, or as a mixture of widths
      const width = random.below(4) > 0 ? random.pick(WIDTHS) : undefined
      const count = random.pick([1, 3, 127, 128, 255, 256, 257, 512])
      const writes = (pair.in(command + 0x206, 1) & 8) === 0 || random.below(3) > 0
      for (let i = 0; i < count; i++) {
        const each = width ?? random.pick(WIDTHS)
        if (writes) pair.out(command, each, random.below(2 ** (8 * each)))
        else pair.in(command, each)
      }
    }
  }
}

test('status in the middle, resets, other drives, states, stray accesses and any mixture of widths', async () => {
  await seeded((random) => {
    const pair = new Pair()
    // SET MULTIPLE MODE
    for (const command of [0x1f0, 0x170]) {
      for (const select of [0xa0, 0xb0]) {
        pair.out(command + 6, 1, select)
        pair.out(command + 2, 1, 4)
        pair.out(command + 7, 1, 0xc6)
      }
    }
    for (let i = 0; i < 1500; i++) step(pair, random)
    const same = (a: Uint8Array, b: Uint8Array) => Buffer.compare(a, b) === 0
    for (const [at, bytes] of pair.direct.contents.entries())
      expect(same(bytes, pair.straight.contents[at]!)).toBe(true)
    expect(same(pair.direct.contents[0]!, pattern(0, SECTORS)), 'nothing was written').toBe(false)
    expect(pair.calls, 'calls of the device').toBeLessThan(0.9 * pair.accesses)
  })
})

test('[ATA8-APT 9.7] a block of REP OUTSW is one call of the device, and its end is seen at once', () => {
  const { lay, calls } = laid()
  const one = machine(lay)
  one.out(0x1f6, 1, 0xe0)
  one.out(0x1f2, 1, 2)
  one.out(0x1f3, 1, 7)
  one.out(0x1f4, 1, 0)
  one.out(0x1f5, 1, 0)
  one.out(0x1f7, 1, 0x30)
  const data = pattern(77, 2)
  const words = new DataView(data.buffer)
  for (let at = 0; at < 1024; at += 2) {
    expect(one.in(0x3f6, 1)).toBe(0x58)
    one.out(0x1f0, 2, words.getUint16(at, true))
  }
  expect(one.in(0x1f7, 1)).toBe(0x50)
  expect(calls()).toBe(2)
  expect(one.contents[0]!.subarray(7 * 512, 9 * 512)).toEqual(data)
})
