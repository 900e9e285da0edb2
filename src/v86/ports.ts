/** I/O windows in v86's table of ports. */
import { BlockError } from '../block/error.ts'
import type { PassingData, Stream, Window } from '../devices/machine.ts'
import type { PortEntry, V86Io } from './internals.ts'

const PORTS = 0x10000

/** What whoever lays windows wants to know. */
export interface WindowEvents {
  /** Whether to be told of writes: a field, because string instructions ask for every word. */
  readonly slices: { readonly paging: boolean }
  /** A device has taken a write, of a guest that does not page. */
  wrote(): void
  /** A device threw, which no device should. */
  failed(error: unknown): void
}

interface Range {
  readonly window: Window
  readonly port: number
  readonly entries: readonly PortEntry[]
  /** What the table held before, port by port. */
  readonly beneath: PortEntry[]
}

/** Lays windows over the ports of v86 and takes them off again, whatever v86 moves meanwhile. */
export class Ports {
  readonly #io: V86Io
  readonly #events: WindowEvents
  readonly #ranges: Range[] = []
  readonly #own = new WeakSet<PortEntry>()

  constructor(io: V86Io, events: WindowEvents) {
    this.#io = io
    this.#events = events
  }

  /** Throws a BlockError if a port of the range answers already. */
  claim(port: number, size: number, who: string): void {
    const empty = this.#io.create_empty_entry()
    for (let at = port; at < port + size; at++) {
      const entry = this.#io.ports[at]
      if (entry !== undefined && entry.read8 === empty.read8 && entry.write8 === empty.write8) continue
      throw new BlockError(
        'EBUSY',
        `Cannot attach ${who}: I/O port ${at.toString(16)}h is taken; remove the device that answers there`,
      )
    }
  }

  /** Lays `window` over the ports from `port`; a range that does not fit is not laid. */
  lay(window: Window, port: number): void {
    if (port === 0 || port + window.size > PORTS) return
    const entries = Array.from({ length: window.size }, (_, offset) => this.#entry(window, offset))
    const range: Range = { window, port, entries, beneath: [] }
    this.#ranges.push(range)
    this.#put(range)
  }

  /** Takes `window` off. */
  lift(window: Window): void {
    const index = this.#ranges.findIndex((range) => range.window === window)
    if (index < 0) return
    const above = this.#ranges.splice(index)
    for (const range of [...above].reverse()) this.#take(range)
    for (const range of above.slice(1)) {
      this.#ranges.push(range)
      this.#put(range)
    }
  }

  /** Lays again what v86 overwrote when it moved one of its own devices. */
  settle(): void {
    for (const range of this.#ranges) {
      for (let i = 0; i < range.entries.length; i++) {
        const entry = this.#io.ports[range.port + i]!
        if (this.#isOurs(entry)) continue
        range.beneath[i] = entry
        this.#io.ports[range.port + i] = range.entries[i]!
      }
    }
  }

  #isOurs(entry: PortEntry): boolean {
    return this.#own.has(entry)
  }

  #put(range: Range): void {
    for (let i = 0; i < range.entries.length; i++) {
      range.beneath[i] = this.#io.ports[range.port + i]!
      this.#io.ports[range.port + i] = range.entries[i]!
    }
  }

  #take(range: Range): void {
    for (let i = 0; i < range.entries.length; i++) {
      if (this.#io.ports[range.port + i] === range.entries[i]) this.#io.ports[range.port + i] = range.beneath[i]!
    }
  }

  #entry(window: Window, offset: number): PortEntry {
    const fits16 = offset + 2 <= window.size
    const fits32 = offset + 4 <= window.size
    const events = this.#events
    const { slices } = events
    const read = (width: number) => {
      try {
        return window.read(offset, width)
      } catch (error) {
        events.failed(error)
        return -1
      }
    }
    const write = (width: number, value: number) => {
      try {
        window.write(offset, width, value)
        if (!slices.paging) events.wrote()
      } catch (error) {
        events.failed(error)
      }
    }
    const entry: PortEntry = {
      read8: () => read(1) & 0xff,
      read16: fits16 ? () => read(2) & 0xffff : () => 0xffff,
      read32: fits32 ? () => read(4) | 0 : () => -1,
      write8: (value) => write(1, value & 0xff),
      write16: fits16 ? (value) => write(2, value & 0xffff) : () => {},
      write32: fits32 ? (value) => write(4, value >>> 0) : () => {},
      device: this,
    }
    if (offset === 0 && window.stream !== undefined) stream(entry, window.stream)
    this.#own.add(entry)
    return entry
  }
}

/** Has `entry`, which v86 calls for every word of a string instruction, move by itself what it can. */
function stream(entry: PortEntry, source: Stream): void {
  const { read16, read32, write16, write32 } = entry
  // As `this`, for v86 brings it along, and two channels' closures are one function to the compiler, which must look up what they hold
  const follow = () => {
    entry.device = source.data
  }
  source.onSwitch = follow
  follow()
  entry.read16 = function (port) {
    const data = this as PassingData
    const { at } = data
    const next = at + 2
    if (next >= data.inEnd) return read16(port)
    data.at = next
    return data.view.getUint16(at, true)
  }
  entry.read32 = function (port) {
    const data = this as PassingData
    const { at } = data
    const next = at + 4
    if (next >= data.inEnd) return read32(port)
    data.at = next
    return data.view.getInt32(at, true)
  }
  entry.write16 = function (value) {
    const data = this as PassingData
    const { at } = data
    const next = at + 2
    if (next < data.outEnd) {
      data.at = next
      data.view.setUint16(at, value, true)
    } else write16(value)
  }
  entry.write32 = function (value) {
    const data = this as PassingData
    const { at } = data
    const next = at + 4
    if (next < data.outEnd) {
      data.at = next
      data.view.setUint32(at, value, true)
    } else write32(value)
  }
}
