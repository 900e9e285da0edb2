/** Persistent dirty bitmaps of an open image: which parts of the disk were written since somebody last looked. */
import { BlockError } from '../../error.ts'
import { bytesVec } from '../../iovec.ts'
import { readPadded } from '../../mover.ts'
import type { Now } from '../../now.ts'
import {
  BITMAP_AUTO,
  BITMAP_IN_USE,
  type BitmapEntry,
  bitmapDirectory,
  readBitmaps,
  readBitmapTable,
} from './bitmaptable.ts'
import { AUTOCLEAR_BITMAPS } from './header.ts'
import type { Qcow2Image } from './image.ts'
import { HeaderLost, switchNames } from './switch.ts'

interface Bitmap {
  entry: BitmapEntry
  /** A bit for each 2^granularityBits bytes of the disk, the first in the lowest bit; undefined while on the medium alone. */
  bits: Uint8Array | undefined
  changed: boolean
  /** While a backup works from the bitmap: what was written since. */
  since?: Uint8Array | undefined
}

/** Offset of a directory entry's flags. */
const FLAGS_AT = 12
const ENTRY_SIZE = 24
/** Most memory for the bits of one bitmap, bytes. */
const MAX_BITS = 32 << 20

/** The bitmaps of an image. While one that follows writes is open for writing, the medium says that it is in use. */
export class Bitmaps {
  readonly #image: Qcow2Image
  #bitmaps: Bitmap[] = []
  /** The medium says of all that follow writes that they are in use. */
  #marked = false
  #marking: Promise<void> | undefined
  #stored = false
  /** A write of the header failed: the medium may show the bitmaps before it or after it. */
  #doubt = false
  /** The list itself has changed. */
  #touched = false

  private constructor(image: Qcow2Image) {
    this.#image = image
  }

  /** The bitmaps of an image; none if what the image says of them is not to be trusted. */
  static async load(image: Qcow2Image): Promise<Bitmaps> {
    const bitmaps = new Bitmaps(image)
    const { header, file, name } = image
    if (header.bitmaps === undefined || (header.autoclear & AUTOCLEAR_BITMAPS) === 0n) return bitmaps
    const entries = await readBitmaps(name, file, header)
    bitmaps.#stored = true
    for (const entry of entries) {
      const follows = (entry.flags & BITMAP_AUTO) !== 0 && (entry.flags & BITMAP_IN_USE) === 0
      const bitmap: Bitmap = { entry, bits: undefined, changed: false }
      if (follows && !image.readOnly) bitmap.bits = await bitmaps.#read(entry)
      bitmaps.#bitmaps.push(bitmap)
    }
    return bitmaps
  }

  /** The directory entries. */
  get list(): readonly BitmapEntry[] {
    return this.#bitmaps.map(({ entry }) => entry)
  }

  /** Whether {@link touch} must hear of writes. */
  get following(): boolean {
    return this.#bitmaps.some(follows)
  }

  /** A range is about to be written. */
  touch(at: number, length: number): Now<void> {
    for (const bitmap of this.#bitmaps) {
      if (!follows(bitmap)) continue
      const unit = 2 ** bitmap.entry.granularityBits
      const first = Math.floor(at / unit)
      const end = Math.ceil((at + length) / unit)
      setRange(bitmap.bits!, first, end)
      if (bitmap.since !== undefined) setRange(bitmap.since, first, end)
      bitmap.changed = true
    }
    if (this.#marked) return
    this.#marking ??= this.#mark().finally(() => {
      this.#marking = undefined
    })
    return this.#marking
  }

  /** The bits of a bitmap; EIO if it was not saved properly. */
  async bits(name: string): Promise<Uint8Array> {
    const bitmap = this.#find(name)
    if (bitmap.entry.flags & BITMAP_IN_USE) {
      throw new BlockError('EIO', `Cannot use bitmap ${name} of ${this.#image.name}: it was not saved properly`)
    }
    bitmap.bits ??= await this.#read(bitmap.entry)
    return bitmap.bits
  }

  /** Adds an empty bitmap that follows writes. `granularity` is a power of two from 512 to 2 GiB. */
  async add(name: string, granularity = 65536, enabled = true): Promise<void> {
    const bits = Math.log2(granularity)
    if (!Number.isInteger(bits) || bits < 9 || bits > 31)
      throw this.#refuse('add', name, `its granularity is ${granularity}`)
    if (name === '' || new TextEncoder().encode(name).length > 1023)
      throw this.#refuse('add', name, 'its name is too long')
    if (this.#bitmaps.some(({ entry }) => entry.name === name))
      throw this.#refuse('add', name, 'there is one already', 'EEXIST')
    if (this.#image.header.version === 2) throw this.#refuse('add', name, 'that needs compat=1.1', 'ENOTSUP')
    const entry: BitmapEntry = {
      tableOffset: 0,
      tableSize: 0,
      flags: enabled ? BITMAP_AUTO : 0,
      granularityBits: bits,
      name,
      extra: new Uint8Array(0),
    }
    await this.#change(() => this.#bitmaps.push({ entry, bits: new Uint8Array(this.#bytes(entry)), changed: true }))
  }

  /** Takes the bits for a backup, which then has the bitmap for itself until {@link thaw}; no write may be under way. */
  async freeze(name: string): Promise<{ bits: Uint8Array; granularity: number }> {
    const bits = await this.bits(name)
    const bitmap = this.#free('use', name)
    bitmap.since = new Uint8Array(bits.length)
    return { bits: bits.slice(), granularity: 2 ** bitmap.entry.granularityBits }
  }

  /** Ends {@link freeze}: the bits `keep` stay set, beside those of what was written since. */
  async thaw(name: string, keep: Uint8Array): Promise<void> {
    await this.#change(() => {
      const bitmap = this.#find(name)
      const { since } = bitmap
      bitmap.since = undefined
      bitmap.changed = true
      bitmap.bits = since!.map((byte, index) => byte | (keep[index] ?? 0))
    })
  }

  /** Whether a backup works from the bitmap. */
  isFrozen(name: string): boolean {
    return this.#find(name).since !== undefined
  }

  /** Removes a bitmap. */
  async remove(name: string): Promise<void> {
    this.#free('remove', name)
    await this.#change(() => {
      this.#bitmaps = this.#bitmaps.filter(({ entry }) => entry.name !== name)
    })
  }

  /** Clears all bits. */
  async clear(name: string): Promise<void> {
    await this.bits(name)
    this.#free('clear', name)
    await this.#change(() => {
      const bitmap = this.#find(name)
      bitmap.bits = new Uint8Array(bitmap.bits!.length)
      bitmap.changed = true
    })
  }

  /** Makes a bitmap follow writes, or leave off. */
  async enable(name: string, enabled: boolean): Promise<void> {
    await this.bits(name)
    this.#free(enabled ? 'enable' : 'disable', name)
    await this.#change(() => {
      const bitmap = this.#find(name)
      const { entry } = bitmap
      entry.flags = enabled ? entry.flags | BITMAP_AUTO : entry.flags & ~BITMAP_AUTO
      bitmap.changed = true
    })
  }

  /** Sets in one bitmap what is set in another, which may have another granularity. */
  async merge(name: string, from: Uint8Array, granularity: number): Promise<void> {
    await this.bits(name)
    this.#free('merge into', name)
    await this.#change(() => {
      const bitmap = this.#find(name)
      const bits = bitmap.bits!.slice()
      const unit = 2 ** bitmap.entry.granularityBits
      const units = bits.length * 8
      for (let index = 0; index < from.length * 8; index++) {
        if (((from[index >> 3]! >> (index & 7)) & 1) === 0) continue
        const first = Math.floor((index * granularity) / unit)
        setRange(bits, first, Math.min(units, Math.max(first + 1, Math.ceil(((index + 1) * granularity) / unit))))
      }
      bitmap.bits = bits
      bitmap.changed = true
    })
  }

  /** The disk has another size now. */
  resized(): void {
    for (const bitmap of this.#bitmaps) {
      if (bitmap.bits === undefined) continue
      const bits = new Uint8Array(this.#bytes(bitmap.entry))
      bits.set(bitmap.bits.subarray(0, bits.length))
      bitmap.bits = bits
      bitmap.changed = true
    }
  }

  /** Whether every bitmap is in memory, which a change of the disk's size needs. */
  async loadAll(): Promise<void> {
    for (const { entry } of this.#bitmaps) if ((entry.flags & BITMAP_IN_USE) === 0) await this.bits(entry.name)
  }

  /** Changes the bitmaps while no request is in flight, and stores them; if that fails, they are as before. */
  #change(body: () => unknown): Promise<void> {
    return Promise.resolve(
      this.#image.traffic.pause(async () => {
        const before = this.#bitmaps.map((bitmap) => ({ ...bitmap, entry: { ...bitmap.entry } }))
        const touched = this.#touched
        body()
        this.#touched = true
        try {
          await this.store()
        } catch (error) {
          this.#bitmaps = before
          this.#touched = touched
          throw error
        }
      }),
    )
  }

  /** Writes all bitmaps beside the old ones, then shows them by one write of the header. */
  async store(): Promise<void> {
    if (!this.#touched && !this.#bitmaps.some(({ changed }) => changed)) return
    const image = this.#image
    const { header, file, clusterSize } = image
    const old: { offset: number; length: number }[] = []
    if (this.#stored && header.bitmaps !== undefined) {
      old.push({ offset: header.bitmaps.directoryOffset, length: header.bitmaps.directorySize })
      old.push(...(await this.#abandoned()))
    }
    for (const bitmap of this.#bitmaps) if (bitmap.bits !== undefined && bitmap.changed) await this.#write(bitmap)
    const directory = bitmapDirectory(this.#bitmaps.map(({ entry }) => entry))
    const place = directory.length === 0 ? 0 : await this.#put(directory)
    await image.commit.flush()
    const none = directory.length === 0
    try {
      await switchNames(image.name, file, header, {
        bitmaps: none
          ? undefined
          : { count: this.#bitmaps.length, reserved: 0, directorySize: directory.length, directoryOffset: place },
        autoclear: none ? header.autoclear & ~AUTOCLEAR_BITMAPS : header.autoclear | AUTOCLEAR_BITMAPS,
      })
    } catch (error) {
      this.#doubt ||= error instanceof HeaderLost
      throw error
    }
    this.#doubt = false
    for (const bitmap of this.#bitmaps) bitmap.changed = false
    this.#stored = directory.length > 0
    this.#touched = false
    this.#marked = false
    for (const { offset, length } of old) {
      await image.allocator.give(offset / clusterSize, Math.ceil(length / clusterSize))
    }
  }

  /** What the stored directory shows that the new one does not. */
  async #abandoned(): Promise<{ offset: number; length: number }[]> {
    const { header, file, name, clusterSize } = this.#image
    const kept = new Set(
      this.#bitmaps.filter(({ bits, changed }) => bits === undefined || !changed).map(({ entry }) => entry.tableOffset),
    )
    const gone: { offset: number; length: number }[] = []
    for (const entry of await readBitmaps(name, file, header)) {
      if (kept.has(entry.tableOffset)) continue
      gone.push({ offset: entry.tableOffset, length: entry.tableSize * 8 })
      for (const offset of await readBitmapTable(file, entry))
        if (offset > 1) gone.push({ offset, length: clusterSize })
    }
    return gone
  }

  /** Notes on the medium that the bitmaps that follow writes are in use, before the first write. */
  async #mark(): Promise<void> {
    const { header, file, name } = this.#image
    if (this.#doubt) await switchNames(name, file, header, {})
    this.#doubt = false
    if (this.#stored && header.bitmaps !== undefined) {
      let at = header.bitmaps.directoryOffset
      for (const bitmap of this.#bitmaps) {
        const { entry } = bitmap
        const flags = new Uint8Array(4)
        if (follows(bitmap)) {
          new DataView(flags.buffer).setUint32(0, entry.flags | BITMAP_IN_USE)
          await file.write(at + FLAGS_AT, bytesVec(flags))
        }
        const length = ENTRY_SIZE + entry.extra.length + new TextEncoder().encode(entry.name).length
        at += Math.ceil(length / 8) * 8
      }
      await file.flush()
    }
    this.#marked = true
  }

  /** Writes a bitmap's bits and its table to new places. */
  async #write({ entry, bits }: Bitmap): Promise<void> {
    const { clusterSize } = this.#image
    const clusters = Math.max(1, Math.ceil(bits!.length / clusterSize))
    const table = new Uint8Array(clusters * 8)
    const view = new DataView(table.buffer)
    for (let index = 0; index < clusters; index++) {
      const part = bits!.subarray(index * clusterSize, (index + 1) * clusterSize)
      if (part.every((byte) => byte === 0)) continue
      const offset = await this.#put(part)
      view.setUint32(index * 8, Math.floor(offset / 2 ** 32))
      view.setUint32(index * 8 + 4, offset >>> 0)
    }
    entry.tableOffset = await this.#put(table)
    entry.tableSize = clusters
  }

  async #put(bytes: Uint8Array): Promise<number> {
    const { allocator, file, clusterSize } = this.#image
    const clusters = Math.ceil(bytes.length / clusterSize)
    const space = await allocator.takeRun(clusters)
    const whole = new Uint8Array(clusters * clusterSize)
    whole.set(bytes)
    await file.write(space.cluster * clusterSize, bytesVec(whole))
    return space.cluster * clusterSize
  }

  async #read(entry: BitmapEntry): Promise<Uint8Array> {
    const { clusterSize, file, name } = this.#image
    const bits = new Uint8Array(this.#bytes(entry))
    const table = await readBitmapTable(file, entry)
    if (table.length !== Math.max(1, Math.ceil(bits.length / clusterSize))) {
      throw new BlockError(
        'EINVAL',
        `Cannot read bitmap ${entry.name} of ${name}: its table has ${table.length} entries`,
      )
    }
    for (const [index, offset] of table.entries()) {
      const part = bits.subarray(index * clusterSize, (index + 1) * clusterSize)
      if (offset === 1) part.fill(0xff)
      else if (offset !== 0 && part.length > 0) await readPadded(file, offset, bytesVec(part))
    }
    return bits
  }

  /** Bytes of a bitmap's bits. */
  #bytes({ granularityBits, name }: BitmapEntry): number {
    const bytes = Math.ceil(Math.ceil(this.#image.size / 2 ** granularityBits) / 8)
    if (bytes > MAX_BITS) throw this.#refuse('use', name, `it would take ${bytes} bytes of memory`)
    return bytes
  }

  #find(name: string): Bitmap {
    const found = this.#bitmaps.find(({ entry }) => entry.name === name)
    if (found === undefined) throw new BlockError('ENOENT', `Cannot find bitmap '${name}' of ${this.#image.name}`)
    return found
  }

  /** A bitmap that no backup works from. */
  #free(verb: string, name: string): Bitmap {
    const bitmap = this.#find(name)
    if (bitmap.since !== undefined) throw this.#refuse(verb, name, 'a backup works from it', 'EBUSY')
    return bitmap
  }

  #refuse(
    verb: string,
    name: string,
    why: string,
    code: 'EINVAL' | 'EEXIST' | 'ENOTSUP' | 'EBUSY' = 'EINVAL',
  ): BlockError {
    return new BlockError(code, `Cannot ${verb} bitmap '${name}' of ${this.#image.name}: ${why}`)
  }
}

function follows({ entry, bits }: Bitmap): boolean {
  return bits !== undefined && (entry.flags & BITMAP_AUTO) !== 0 && (entry.flags & BITMAP_IN_USE) === 0
}

function setRange(bits: Uint8Array, first: number, end: number): void {
  for (let index = first; index < end; ) {
    if ((index & 7) === 0 && end - index >= 8) {
      bits[index >> 3] = 0xff
      index += 8
    } else {
      bits[index >> 3]! |= 1 << (index & 7)
      index++
    }
  }
}
