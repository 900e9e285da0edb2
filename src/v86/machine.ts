/** One v86 as a machine that devices plug into, with their part in its resets and in its saved state. */
import { BlockError } from '../block/error.ts'
import type { PciFactory, Saved } from '../devices/machine.ts'
import type { Emulator, V86Cpu } from './internals.ts'
import { Interrupts } from './interrupts.ts'
import { GuestRam } from './memory.ts'
import { Mmio } from './mmio.ts'
import { PciBus } from './pci.ts'
import { Ports } from './ports.ts'
import { decode, encode } from './saved.ts'
import { Slices } from './slices.ts'
import { Socket } from './socket.ts'

/** Our place in v86's array of states, far above its own. */
const STATE_SLOT = 200
const STATE_VERSION = 1
/** Hot-plug registers of the firmware's ACPI tables: v86 has none, and their all-ones would eject the devices. */
const HOTPLUG_PORTS = { first: 0xae00, last: 0xae0f }

const machines = new WeakMap<V86Cpu, Machine>()

/** The machine of an emulator; one for each. `failed` gets what a device threw, which no device should. */
export function machineOf(emulator: Emulator, cpu: V86Cpu, failed: (error: unknown) => void): Machine {
  let machine = machines.get(cpu)
  if (machine === undefined) machines.set(cpu, (machine = new Machine(emulator, cpu, failed)))
  return machine
}

export class Machine {
  readonly cpu: V86Cpu
  readonly pci: PciBus
  readonly #memory: GuestRam
  readonly #ports: Ports
  readonly #mmio: Mmio
  readonly #interrupts: Interrupts
  readonly #sockets: Socket[] = []
  readonly #slices: Slices
  /** Whether firmware waits for the host. */
  #waiting = false
  #resetting = false

  constructor(emulator: Emulator, cpu: V86Cpu, failed: (error: unknown) => void) {
    this.cpu = cpu
    this.#memory = new GuestRam(cpu)
    this.#slices = new Slices(cpu)
    const windows = { slices: this.#slices, wrote: () => this.#wrote(), failed }
    this.#ports = new Ports(cpu.io, windows)
    this.#mmio = new Mmio(cpu, windows)
    this.#interrupts = new Interrupts(cpu, this.#slices)
    const events = { onForeignBar: () => this.#ports.settle(), onRoute: () => this.#interrupts.rerouted() }
    this.pci = new PciBus(cpu, events, failed)
    if (cpu.acpi_enabled[0]) this.#quietHotplug()
    this.#watchReset(emulator)
    this.#watchState(emulator)
  }

  /** Makes a device for `bdf` of bus 0; throws a BlockError if something is there, or at one of its fixed ports. */
  prepare(make: PciFactory, bdf: number): Socket {
    const taken = this.pci.nameAt(bdf)
    if (taken !== undefined) {
      const where = `${(bdf >> 3).toString(16).padStart(2, '0')}.${bdf & 7}`
      throw new BlockError('EBUSY', `Cannot attach a controller at PCI 00:${where}: ${taken} is there; leave it out`)
    }
    const socket = new Socket(make, bdf, this.#memory, this.#interrupts, { io: this.#ports, mem: this.#mmio })
    for (const { port, size } of socket.device.windows) {
      if (port !== undefined) this.#ports.claim(port, size, socket.device.name)
    }
    return socket
  }

  /** Puts a prepared device in its place. */
  plug(socket: Socket): void {
    const { bdf, device } = socket
    this.#sockets.push(socket)
    this.pci.add(bdf, device.name, device.config)
    this.#markMultiFunction()
    device.config.onMap = () => socket.remap()
    socket.remap()
  }

  /** Completes when no request of any device is with the host. */
  async drain(): Promise<void> {
    await Promise.all(this.#sockets.map(({ device }) => device.drain()))
  }

  /** Resets every device; completes when none touches guest memory any more, at once if none does. */
  #reset(): void | Promise<void> {
    const waits: Promise<void>[] = []
    for (const socket of this.#sockets) {
      const wait = socket.reset()
      if (wait !== undefined) waits.push(wait)
    }
    this.#markMultiFunction()
    if (waits.length > 0) return Promise.all(waits).then(() => {})
  }

  #markMultiFunction(): void {
    for (const { bdf } of this.#sockets) {
      if ((bdf & 7) === 0) continue
      const first = this.#sockets.find((socket) => socket.bdf === (bdf & ~7))
      if (first !== undefined) this.pci.markMultiFunction(first.device.config)
    }
  }

  #quietHotplug(): void {
    const { ports } = this.cpu.io
    for (let port = HOTPLUG_PORTS.first; port <= HOTPLUG_PORTS.last; port++) {
      Object.assign(ports[port]!, { read8: () => 0, read16: () => 0, read32: () => 0 })
    }
  }

  /**
   * Lets firmware wait for the host outside of its slice. It polls, switching the processor's mode each time, which v86 takes so
   * long for that a slice lasts 100 ms, and until its end no answer of the host comes through. Whoever pages has interrupts.
   */
  #wrote(): void {
    if (this.#waiting) return
    let waits: Promise<void>[] | undefined
    for (const { device } of this.#sockets) {
      const wait = device.drain()
      if (wait !== undefined) (waits ??= []).push(wait)
    }
    if (waits === undefined) return
    this.#waiting = true
    this.#slices.hold()
    this.#slices.cut()
    Promise.allSettled(waits).then(() => {
      this.#waiting = false
      this.#slices.release()
    })
  }

  /** A reset of the machine resets the devices first, and waits while the host still writes into guest memory for them. */
  #watchReset(emulator: Emulator): void {
    const { cpu } = this
    const reboot = cpu.reboot_internal
    cpu.reboot_internal = () => {
      if (this.#resetting) return
      const wait = this.#reset()
      if (wait === undefined) {
        reboot.call(cpu)
        return
      }
      this.#resetting = true
      this.#slices.hold()
      this.#slices.cut()
      wait.finally(() => {
        this.#resetting = false
        reboot.call(cpu)
        this.#slices.release()
      })
    }
    // In older versions v86's own restart goes past reboot_internal.
    emulator.restart = () => cpu.reboot_internal()
  }

  #watchState(emulator: Emulator): void {
    const { cpu } = this
    const { get_state, set_state } = cpu
    cpu.get_state = () => {
      const state = get_state.call(cpu)
      state[STATE_SLOT] = encode(this.#save())
      return state
    }
    cpu.set_state = (state) => {
      if (this.#reset() !== undefined) {
        throw new BlockError(
          'EBUSY',
          'Cannot restore a state while requests are with the host: emulator.restore_state waits',
        )
      }
      set_state.call(cpu, state)
      this.#restore(state[STATE_SLOT])
    }
    const { save_state, restore_state } = emulator
    emulator.save_state = async () => {
      this.#slices.hold()
      try {
        await this.drain()
        return await save_state.call(emulator)
      } finally {
        this.#slices.release()
      }
    }
    emulator.restore_state = async (state) => {
      this.#slices.hold()
      try {
        await this.#reset()
        await restore_state.call(emulator, state)
      } finally {
        this.#slices.release()
      }
    }
  }

  #save(): Saved {
    return {
      version: STATE_VERSION,
      lines: this.#interrupts.save(),
      functions: this.#sockets.map(({ bdf, device, asserted }) => ({
        bdf,
        name: device.name,
        asserted,
        state: device.save(),
      })),
    }
  }

  /** Takes up our part of a state; one of a machine without drives has none and leaves them as after power-on. */
  #restore(stored: unknown): void {
    if (stored === undefined || stored === null) return
    const { version, lines, functions } = record(decode(stored))
    if (version !== STATE_VERSION || !(lines instanceof Uint8Array) || !Array.isArray(functions)) throw otherState()
    const saved = functions.map(record)
    const fits = ({ bdf, name }: Record, at: number) =>
      bdf === this.#sockets[at]?.bdf && name === this.#sockets[at]?.device.name
    if (saved.length !== this.#sockets.length || !saved.every(fits)) throw otherState()
    this.#interrupts.restore(lines)
    for (const [index, socket] of this.#sockets.entries()) {
      const { state, asserted } = saved[index]!
      if (state === undefined || typeof asserted !== 'number') throw otherState()
      socket.device.restore(state)
      socket.remap()
      socket.asserted = asserted
    }
  }
}

type Record = { readonly [key: string]: Saved }

function record(value: Saved): Record {
  if (typeof value !== 'object' || value === null || Array.isArray(value) || value instanceof Uint8Array)
    throw otherState()
  return value as Record
}

function otherState(): BlockError {
  return new BlockError('EINVAL', 'Cannot restore the state: it was saved with other drives attached')
}
