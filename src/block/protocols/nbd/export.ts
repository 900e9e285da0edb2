/** What an NBD server offers: devices by name, with what may be asked about them. */
import type { BlockDevice, Extent } from '../../device.ts'
import { after, type Now } from '../../now.ts'
import * as wire from './wire.ts'

/** One run of a metadata context, from the offset that was asked for. */
export interface ContextRun {
  readonly length: number
  readonly flags: number
}

/** Something that can be asked about ranges of an export, such as `base:allocation` or `qemu:dirty-bitmap:name`. */
export interface MetaContext {
  readonly name: string
  /** One run at `at`, at least one byte, at most `length`. */
  status(at: number, length: number): Now<ContextRun>
}

export interface NbdExport {
  readonly name: string
  readonly description?: string
  readonly device: BlockDevice
  readonly readOnly?: boolean
  /** Whether several connections see each other's flushed writes; default true, for all of them share the device. */
  readonly multiConn?: boolean
  /** More contexts than base:allocation, which every export has. */
  readonly contexts?: readonly MetaContext[]
}

/** What the range at `at` holds, all layers together: a hole is where none has anything. */
export function contents(device: BlockDevice, at: number, length: number): Now<Extent> {
  return after(device.status(at, length), (extent) => {
    const below = device.backing
    if (extent.kind !== 'hole' || below === undefined || at >= below.size) return extent
    return contents(below, at, Math.min(extent.length, below.size - at))
  })
}

/** The context of which every export has one. */
export function baseAllocation(device: BlockDevice): MetaContext {
  return {
    name: wire.BASE_ALLOCATION,
    status: async (at, length) => {
      const extent = await contents(device, at, length)
      const flags =
        extent.kind === 'data' ? 0 : extent.kind === 'zero' ? wire.STATE_ZERO : wire.STATE_ZERO | wire.STATE_HOLE
      return { length: extent.length, flags }
    },
  }
}

/** How many layers down the first one is that has the range, 1 for the image itself, 0 for none; QEMU's own context. */
export function allocationDepth(device: BlockDevice): MetaContext {
  return {
    name: 'qemu:allocation-depth',
    status: async (at, length) => {
      let layer: BlockDevice | undefined = device
      let run = length
      for (let depth = 1; layer !== undefined; depth++) {
        if (at >= layer.size) break
        const extent = await layer.status(at, Math.min(run, layer.size - at))
        run = extent.length
        if (extent.kind !== 'hole') return { length: run, flags: depth }
        layer = layer.backing
      }
      return { length: run, flags: 0 }
    },
  }
}

/** QEMU's context of a dirty bitmap: `bits` has one for each `granularity` bytes, the first in the lowest bit. */
export function dirtyBitmap(name: string, bits: Uint8Array, granularity: number): MetaContext {
  const dirty = (index: number) => (bits[index >> 3]! & (1 << (index & 7))) !== 0
  return {
    name: `qemu:dirty-bitmap:${name}`,
    status: (at, length) => {
      const first = Math.floor(at / granularity)
      const end = Math.ceil((at + length) / granularity)
      const is = dirty(first)
      const skipped = is ? 0xff : 0
      let next = first + 1
      while (next < end && dirty(next) === is) {
        next++
        while ((next & 7) === 0 && next + 8 <= end && bits[next >> 3] === skipped) next += 8
      }
      return { length: Math.min(next * granularity - at, length), flags: is ? wire.STATE_DIRTY : 0 }
    },
  }
}

/** All contexts of an export. */
export function contextsOf(item: NbdExport): readonly MetaContext[] {
  return [baseAllocation(item.device), ...(item.contexts ?? [])]
}

export function isReadOnly(item: NbdExport): boolean {
  return item.readOnly === true || item.device.readOnly
}

/** Transmission flags of an export, for a client with or without structured replies. */
export function transmissionFlags(item: NbdExport, structured: boolean): number {
  let flags = wire.FLAG_HAS_FLAGS | wire.FLAG_SEND_FLUSH | wire.FLAG_SEND_FUA | wire.FLAG_SEND_CACHE
  if (isReadOnly(item)) flags |= wire.FLAG_READ_ONLY
  else flags |= wire.FLAG_SEND_TRIM | wire.FLAG_SEND_WRITE_ZEROES | wire.FLAG_SEND_FAST_ZERO
  if (item.multiConn !== false) flags |= wire.FLAG_CAN_MULTI_CONN
  if (structured) flags |= wire.FLAG_SEND_DF
  return flags
}

/** Sizes that a client is told: what is smallest, best and largest, bytes. */
export const BLOCK_SIZES = { minimum: 1, preferred: 4096, maximum: wire.MAX_PAYLOAD }
