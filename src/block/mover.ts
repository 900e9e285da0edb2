/** Moves the data of every image format: through its mappings and backing chain, copying up where it must. */
import type { BlockDevice, BlockDriver, DebugPoints, Extent, Place, ZeroOptions } from './device.ts'
import { BlockError } from './error.ts'
import type { Allocation, Image, Mapping } from './image.ts'
import { bytesVec, type IoVec, zeroVec } from './iovec.ts'
import { after, all, always, type Now, repeat, rescue } from './now.ts'
import { RangeLock } from './rangelock.ts'
import { Traffic } from './traffic.ts'

/** Buffers of a cluster that are kept. */
const KEPT_BUFFERS = 4

/** The disk that an image holds. Requests complete at once where the image and its files answer at once. */
export class ImageDevice implements BlockDriver {
  readonly image: Image
  readonly name: string
  readonly #traffic: Traffic
  /** For whole clusters on their way up; made once, for fresh memory costs more than the copy. */
  readonly #buffers: Uint8Array[] = []
  /** Held over clusters while they are allocated, zeroed or discarded: one such change of a cluster at a time. */
  readonly #changing = new RangeLock()
  readonly #debug: DebugPoints | undefined
  /** The image's file, found once: a request has no time to ask. */
  readonly #file: BlockDevice

  constructor(image: Image) {
    this.image = image
    this.#debug = image.file.debug
    this.#file = image.file
    this.name = image.name
    this.#traffic = image.traffic ?? new Traffic()
  }

  get size(): number {
    return this.image.size
  }

  get readOnly(): boolean {
    return this.image.readOnly ?? this.image.allocate === undefined
  }

  get backing(): BlockDevice | undefined {
    return this.image.backing
  }

  get debug(): DebugPoints | undefined {
    return this.image.file.debug
  }

  get discardGranularity(): number {
    return this.image.clusterSize
  }

  get unseen(): boolean {
    return (this.image.dataFile ?? this.image.file).unseen
  }

  read(at: number, into: IoVec): Now<void> {
    const traffic = this.#traffic
    if (traffic.gate !== undefined) return traffic.gate.then(() => this.read(at, into))
    const { image } = this
    const length = into.byteLength
    if (this.#debug === undefined && image.locate !== undefined) {
      const place = image.locate(at, length)
      const file = this.#file
      if (place >= 0 && place + length <= file.size) return traffic.track(file.readInside(place, into))
    }
    return traffic.track(this.#read(at, into))
  }

  place(at: number, length: number): Place | undefined {
    const { image } = this
    const found = this.#traffic.gate === undefined ? image.map(at, length) : undefined
    if (found === undefined || found instanceof Promise) return undefined
    if (found.kind === 'raw') {
      const device = found.file ?? image.file
      return found.at + found.length <= device.size ? { device, at: found.at, length: found.length } : undefined
    }
    const { backing } = image
    if (found.kind !== 'hole' || backing === undefined || at >= backing.size) return undefined
    return { device: backing, at, length: Math.min(found.length, backing.size - at) }
  }

  write(at: number, from: IoVec): Now<void> {
    const traffic = this.#traffic
    if (traffic.gate !== undefined) return traffic.gate.then(() => this.write(at, from))
    const tracker = this.image.tracker
    if (tracker !== undefined)
      return traffic.track(after(tracker.touch(at, from.byteLength), () => this.#write(at, from)))
    return this.#write(at, from)
  }

  #write(at: number, from: IoVec): Now<void> {
    const traffic = this.#traffic
    const length = from.byteLength
    const mapping = this.image.map(at, length)
    if (!(mapping instanceof Promise) && mapping.length === length) {
      if (inPlace(mapping)) return traffic.track(this.#put(mapping, from))
      const place = mapping.kind === 'hole' ? this.#claim(at, length) : -1
      return traffic.track(place >= 0 ? this.image.file.write(place, from) : this.#change(at, from, mapping))
    }
    let first: Now<Mapping> | undefined = mapping
    return traffic.track(
      this.#pieces(length, (done) => {
        const next = first ?? this.image.map(at + done, length - done)
        first = undefined
        return after(next, (found) => {
          const piece = from.slice(done, done + found.length)
          const later = inPlace(found) ? this.#put(found, piece) : this.#change(at + done, piece)
          return { length: found.length, later }
        })
      }),
    )
  }

  /**
   * Writes whole clusters compressed; one that does not get smaller is written plain. The range is aligned to clusters or
   * ends at the disk's end. ENOTSUP if the format has no compression.
   */
  writePacked(at: number, from: IoVec): Now<void> {
    const traffic = this.#traffic
    if (traffic.gate !== undefined) return traffic.gate.then(() => this.writePacked(at, from))
    const { clusterSize, pack } = this.image
    if (pack === undefined) throw new BlockError('ENOTSUP', `Cannot compress into ${this.name}: it has no compression`)
    const end = at + from.byteLength
    if (at % clusterSize !== 0 || (end % clusterSize !== 0 && end !== this.size)) {
      throw new BlockError(
        'EINVAL',
        `Cannot compress ${from.byteLength} bytes at ${at} of ${this.name}: no whole clusters`,
      )
    }
    return this.#tracked(at, from.byteLength, () =>
      this.#pieces(from.byteLength, (done) => {
        const length = Math.min(clusterSize, from.byteLength - done)
        const piece = from.slice(done, done + length)
        const later = this.#changing.exclusive(at + done, clusterSize, () => this.#pack(at + done, piece))
        return after(later, () => ({ length, later: undefined }))
      }),
    )
  }

  flush(): Now<void> {
    return this.image.flush === undefined ? this.image.file.flush() : this.image.flush()
  }

  zero(at: number, length: number, options?: ZeroOptions): Now<void> {
    const traffic = this.#traffic
    if (traffic.gate !== undefined) return traffic.gate.then(() => this.zero(at, length, options))
    return this.#tracked(at, length, () => this.#zeroRange(at, length, options?.unmap === true))
  }

  discard(at: number, length: number): Now<void> {
    const traffic = this.#traffic
    if (traffic.gate !== undefined) return traffic.gate.then(() => this.discard(at, length))
    const { image } = this
    const { clusterSize } = image
    const end = at + length
    const first = Math.ceil(at / clusterSize) * clusterSize
    const last = end === this.size ? end : end - (end % clusterSize)
    const discard = image.discard
    if (discard === undefined || last <= first) return
    const covered = Math.ceil(last / clusterSize) * clusterSize - first
    return this.#tracked(first, last - first, () =>
      this.#changing.exclusive(first, covered, () => discard.call(image, first, last - first)),
    )
  }

  status(at: number, length: number): Now<Extent> {
    return after(this.image.map(at, length), (found) => {
      const kind = found.kind === 'zero' || found.kind === 'hole' ? found.kind : 'data'
      const extent: Extent = { length: found.length, kind }
      if (found.kind === 'raw') extent.at = found.at
      return extent
    })
  }

  resize(size: number): Now<void> {
    const { image } = this
    const resize = image.resize
    if (resize === undefined) throw new BlockError('ENOTSUP', `Cannot resize ${this.name}: the format cannot do that`)
    return this.#traffic.pause(() => {
      const before = this.size
      return after(resize.call(image, size), () => {
        if (size <= before) return
        // New bytes are zeroes, whatever the last cluster or the backing layer has there.
        const cluster = Math.min(size, Math.ceil(before / image.clusterSize) * image.clusterSize)
        const backed = Math.max(cluster, Math.min(size, image.backing?.size ?? 0))
        return after(this.#zeroRange(before, Math.max(cluster, backed) - before, true), () => this.flush())
      })
    })
  }

  allocated(): Now<number> {
    return this.image.allocated === undefined ? this.image.file.allocated() : this.image.allocated()
  }

  close(): Now<void> {
    return after(this.#traffic.grace(), () => this.image.close?.())
  }

  /** A change that whoever follows writes hears of first. */
  #tracked(at: number, length: number, body: () => Now<void>): Now<void> {
    return this.#traffic.track(after(this.image.tracker?.touch(at, length), body))
  }

  #read(at: number, into: IoVec): Now<void> {
    const length = into.byteLength
    const mapping = this.image.map(at, length)
    if (!(mapping instanceof Promise) && mapping.length === length) return this.#get(at, mapping, into)
    let first: Now<Mapping> | undefined = mapping
    return this.#pieces(length, (done) => {
      const found = first ?? this.image.map(at + done, length - done)
      first = undefined
      return after(found, (found) => ({
        length: found.length,
        later: this.#get(at + done, found, into.slice(done, done + found.length)),
      }))
    })
  }

  #get(at: number, found: Mapping, into: IoVec): Now<void> {
    if (this.#debug === undefined) return this.#fetch(at, found, into)
    const event = found.kind === 'raw' ? 'read_aio' : found.kind === 'packed' ? 'read_compressed' : 'read_backing_aio'
    const silent = found.kind === 'zero' || (found.kind === 'hole' && this.image.backing === undefined)
    return after(silent ? undefined : this.#debug.event(event), () => this.#fetch(at, found, into))
  }

  #fetch(at: number, found: Mapping, into: IoVec): Now<void> {
    switch (found.kind) {
      case 'raw': {
        const file = found.file ?? this.image.file
        if (found.at + found.length <= file.size) return file.read(found.at, into)
        return readPadded(file, found.at, into)
      }
      case 'zero':
        return into.fill(0)
      case 'hole':
        return this.image.backing === undefined ? into.fill(0) : readPadded(this.image.backing, at, into)
      case 'packed':
        return after(found.unpack(), (bytes) => into.scatter(bytes))
    }
  }

  #put(found: Mapping & { kind: 'raw' }, from: IoVec): Now<void> {
    const file = found.file ?? this.image.file
    const end = found.at + found.length
    if (this.#debug === undefined && end <= file.size) return file.write(found.at, from)
    return after(end <= file.size ? undefined : file.grow(end), () =>
      after(this.#debug?.event('write_aio'), () => file.write(found.at, from)),
    )
  }

  /** Space for the first write of a hole, where that is had without waiting; else -1. */
  #claim(at: number, length: number): number {
    const { image } = this
    if (image.claim === undefined || this.#debug !== undefined || !this.#changing.idle) return -1
    return this.#backed(at - (at % image.clusterSize)) ? -1 : image.claim(at, length)
  }

  /** Writes what cannot be overwritten in place; `found` is what the map says of all of it now. */
  #change(at: number, from: IoVec, found?: Mapping): Now<void> {
    const { clusterSize } = this.image
    const start = Math.floor(at / clusterSize) * clusterSize
    const end = Math.ceil((at + from.byteLength) / clusterSize) * clusterSize
    const loose: Promise<void>[] = []
    let known = found
    return withAll(loose, () => {
      const later = this.#changing.exclusive(start, end - start, () => this.#allocate(at, from, loose, known))
      known = undefined // whoever had to wait must look again
      return later
    })
  }

  /** Allocates and writes under a claim; what need not be waited for before the claim ends goes to `loose`. */
  #allocate(at: number, from: IoVec, loose: Promise<void>[], known?: Mapping): Now<void> {
    const { image } = this
    const length = from.byteLength
    let first: Now<Mapping> | undefined = known ?? image.map(at, length)
    let space: Now<Allocation> | undefined
    if (!(first instanceof Promise) && first.length === length && !inPlace(first)) {
      space = image.allocate!(at, length)
      if (!(space instanceof Promise) && space.start + space.length >= at + length) {
        return this.#fill(space, at, from, loose)
      }
    }
    return this.#pieces(length, (done) => {
      const next = first ?? image.map(at + done, length - done)
      first = undefined
      return after(next, (found) => {
        if (inPlace(found)) {
          collect(loose, this.#put(found, from.slice(done, done + found.length)))
          return { length: found.length, later: undefined }
        }
        const made = space ?? image.allocate!(at + done, found.length)
        space = undefined
        return after(made, (space) => {
          const covered = Math.min(found.length, space.start + space.length - at - done)
          return { length: covered, later: this.#fill(space, at + done, from.slice(done, done + covered), loose) }
        })
      })
    })
  }

  #fill(space: Allocation, at: number, from: IoVec, loose: Promise<void>[]): Now<void> {
    const file = space.file ?? this.image.file
    const before = at - space.start
    // Space of zeroes for what read as zeroes: a link without its data shows what was there, so the link need not wait,
    // and neither need the cluster's next writer.
    if (space.zeroed && (space.was === 'zero' || (space.was === 'hole' && !this.#backed(space.start)))) {
      const linked = space.link()
      if (!(linked instanceof Promise) && this.#debug === undefined) {
        return collect(loose, file.write(space.at + before, from))
      }
      return after(linked, () =>
        after(this.#debug?.event('write_aio'), () => collect(loose, file.write(space.at + before, from))),
      )
    }
    return after(
      rescue(
        () => this.#copyUp(space, at, from),
        (error) =>
          after(
            rescue(
              () => space.abandon(),
              () => {},
            ),
            () => {
              throw error
            },
          ),
      ),
      () => space.link(),
    )
  }

  /** Writes all bytes of the space: `from`, with what was there before around it. */
  #copyUp(space: Allocation, at: number, from: IoVec): Now<void> {
    const file = space.file ?? this.image.file
    if (from.byteLength === space.length)
      return after(this.#debug?.event('write_aio'), () => file.write(space.at, from))
    const buffer = this.#buffers.pop() ?? new Uint8Array(this.image.clusterSize)
    const bytes = buffer.length < space.length ? new Uint8Array(space.length) : buffer.subarray(0, space.length)
    return always(
      () =>
        after(this.#debug?.event('cow_read'), () =>
          after(this.#old(space, bytes), () => {
            from.gather(bytes.subarray(at - space.start, at - space.start + from.byteLength))
            const announced = after(this.#debug?.event('write_aio'), () => this.#debug?.event('cow_write'))
            return after(announced, () => file.write(space.at, bytesVec(bytes)))
          }),
        ),
      () => {
        if (this.#buffers.length < KEPT_BUFFERS) this.#buffers.push(buffer)
      },
    )
  }

  /** What the range of the space shows now; zeroes after the disk's end. */
  #old(space: Allocation, into: Uint8Array): Now<void> {
    const shows = space.was === 'data' || (space.was === 'hole' && this.#backed(space.start))
    const there = shows ? Math.max(0, Math.min(into.length, this.size - space.start)) : 0
    into.fill(0, there)
    if (there > 0) return this.#read(space.start, bytesVec(into.subarray(0, there)))
  }

  /** Whether the backing layer has anything at or after `at`. */
  #backed(at: number): boolean {
    return this.image.backing !== undefined && at < this.image.backing.size
  }

  #pack(at: number, from: IoVec): Now<void> {
    const { image } = this
    return after(image.pack!(at, from.gather()), (space) => {
      if (space === undefined) {
        const loose: Promise<void>[] = []
        return withAll(loose, () => this.#allocate(at, from, loose))
      }
      const end = space.at + space.bytes.length
      return after(
        rescue(
          () => after(image.file.grow(end), () => image.file.write(space.at, bytesVec(space.bytes))),
          (error) =>
            after(space.abandon(), () => {
              throw error
            }),
        ),
        () => space.link(),
      )
    })
  }

  #zeroRange(at: number, length: number, unmap: boolean): Now<void> {
    const { clusterSize, zeroUnit = clusterSize } = this.image
    const end = at + length
    const first = Math.min(Math.ceil(at / zeroUnit) * zeroUnit, end)
    const last = Math.max(end === this.size ? end : end - (end % zeroUnit), first)
    return after(this.#writeZeroes(at, first - at), () =>
      after(last > first ? this.#zeroClusters(first, last - first, unmap) : undefined, () =>
        this.#writeZeroes(last, end - last),
      ),
    )
  }

  #zeroClusters(at: number, length: number, unmap: boolean): Now<void> {
    const { image } = this
    const zero = image.zero
    if (zero === undefined) return this.#writeZeroes(at, length)
    const { clusterSize } = image
    const start = at - (at % clusterSize)
    const covered = Math.ceil((at + length) / clusterSize) * clusterSize - start
    return after(
      this.#changing.exclusive(start, covered, () => zero.call(image, at, length, unmap)),
      (done) => (done ? undefined : this.#writeZeroes(at, length)),
    )
  }

  /** Writes zeroes where something else may be read. */
  #writeZeroes(at: number, length: number): Now<void> {
    return this.#pieces(length, (done) =>
      after(this.image.map(at + done, Math.min(length - done, 4 << 20)), (found) => {
        const start = at + done
        if (found.kind === 'zero' || (found.kind === 'hole' && !this.#backed(start))) {
          return { length: found.length, later: undefined }
        }
        const zeroes = zeroVec(found.length)
        const later = inPlace(found) ? this.#put(found, zeroes) : this.#change(start, zeroes)
        return after(later, () => ({ length: found.length, later: undefined }))
      }),
    )
  }

  /** Works through `length` bytes; the pieces' data move at the same time. All are over when it completes or fails. */
  #pieces(length: number, step: (done: number) => Now<Piece>): Now<void> {
    let done = 0
    const later: Promise<void>[] = []
    const take = (piece: Piece) => {
      collect(later, piece.later)
      done += piece.length
      return done < length
    }
    return withAll(later, () => {
      while (done < length) {
        const piece = step(done)
        if (piece instanceof Promise) {
          return piece.then((found) => take(found) && repeat(() => after(step(done), take))) as Promise<void>
        }
        take(piece)
      }
    })
  }
}

/** What was begun of a request, and how its data end; a failure of `later` is the request's. */
interface Piece {
  readonly length: number
  readonly later: Now<void>
}

/** The driver of the disk that `image` holds. */
export function imageDriver(image: Image): ImageDevice {
  return new ImageDevice(image)
}

/** Runs `body`, waits for what it put into `later` too, then throws the first failure. */
function withAll(later: readonly Promise<void>[], body: () => Now<void>): Now<void> {
  const fail = (error: unknown): Now<void> => {
    if (later.length === 0) throw error
    return Promise.allSettled(later).then(() => {
      throw error
    })
  }
  let value: Now<void>
  try {
    value = body()
  } catch (error) {
    return fail(error)
  }
  if (value instanceof Promise) return value.then(() => all(later), fail)
  if (later.length > 0) return all(later)
}

/** Keeps a promise for {@link withAll}. */
function collect(later: Promise<void>[], value: Now<void>): void {
  if (!(value instanceof Promise)) return
  value.catch(() => {}) // withAll reports it; meanwhile it is not unhandled
  later.push(value)
}

function inPlace(found: Mapping): found is Mapping & { kind: 'raw' } {
  return found.kind === 'raw' && found.inPlace
}

/** Reads from a device that may be shorter; what is past its end reads as zeroes. */
export function readPadded(device: BlockDevice, at: number, into: IoVec): Now<void> {
  const there = Math.max(0, Math.min(into.byteLength, device.size - at))
  if (there < into.byteLength) into.slice(there).fill(0)
  if (there === 0) return
  return device.read(at, there < into.byteLength ? into.slice(0, there) : into)
}
