/** Copies disks, one behind the other, into another: several requests in flight, holes left out, zeroes found. */
import type { BlockDevice, Loan } from '../device.ts'
import { BlockError } from '../error.ts'
import { bytesVec } from '../iovec.ts'
import { ImageDevice } from '../mover.ts'
import { all, type Now, rescue } from '../now.ts'
import { type Shown, shows } from './holes.ts'
import { Job, type JobOptions } from './job.ts'
import { isZero, type Stretch, stretchesOf } from './stretches.ts'

/** A disk, or a window of it, to copy from. */
export interface ConvertSource {
  readonly device: BlockDevice
  /** Where to begin, bytes; default 0. */
  readonly offset?: number
  /** How much to copy, bytes; default all the rest. */
  readonly length?: number
}

/** How to copy. */
export interface ConvertOptions extends JobOptions {
  /** Requests in flight, 1 to 16; default few while the source answers fast, and 8 while it does not. */
  inFlight?: number
  /**
   * Writes may pass each other; default false: they begin in their order, and no more than two are under way, so that the host
   * always has one to go on with and its lock of the file is not fought for.
   */
  outOfOrder?: boolean
  /** Zeroes in data are left out where so many bytes are together; 0: everything is written. Default 4096. */
  minSparse?: number
  /** Write compressed clusters. */
  compress?: boolean
  /** From here on the target reads as zeroes already; default Infinity: nowhere. */
  zeroFrom?: number
  /** Copy only what the source has above this layer of its chain: the target shows the rest already. */
  base?: BlockDevice
  /** Let the host copy where it can, zeroes or not. */
  offload?: boolean
  /** Called for what cannot be read; zeroes take its place. Without it the job fails. */
  salvage?: (at: number, error: unknown) => void
}

/** Longest request, bytes. */
const CHUNK = 2 << 20
/** Longest piece of what is lent, bytes: nothing is kept of it, and fewer take turns. */
const LENT = 8 << 20
/** Requests in flight while reads come from a cache: more threads that copy would only take the processors from each other. */
const FEW = 3
const MANY = 8
/** Reads that take longer than this, milliseconds, wait for a disk or a network. */
const SLOW = 20

/** A request failed: which, and where in the target. */
export class ConvertError extends BlockError {
  readonly verb: 'reading' | 'writing' | 'asking'
  readonly at: number

  constructor(verb: 'reading' | 'writing' | 'asking', at: number, cause: unknown) {
    const { code, message } = cause as BlockError
    super(code ?? 'EIO', `Cannot convert: error while ${verb} at byte ${at}: ${message}`, { cause })
    this.verb = verb
    this.at = at
  }
}

type Kind = Shown['kind']

/** Copies `sources` to the start of `target`, which is large enough. Its progress counts the bytes of the disk. */
export function convert(sources: readonly ConvertSource[], target: BlockDevice, options: ConvertOptions = {}): Job {
  return new Job(
    'convert',
    async function* (job) {
      const copy = new Copy(sources, target, options)
      try {
        yield { done: 0, total: copy.total }
        for (let more = true; more || copy.busy; ) {
          while (more && !copy.full) {
            const wanted = job.slice(CHUNK)
            const piece = await copy.next(wanted)
            more = piece !== undefined
            if (piece === undefined) break
            copy.start(piece)
            if (piece.kind === 'data') job.copied(piece.length)
            if (options.speed) break
          }
          await copy.progress()
          yield { done: copy.done, total: copy.total }
        }
      } finally {
        await copy.over()
      }
    },
    options,
  )
}

interface Piece {
  readonly source: BlockDevice
  /** Where in the source, and where in the target. */
  readonly from: number
  readonly at: number
  readonly length: number
  readonly kind: Kind
  /** Its bytes, if they need not be read. */
  readonly loan?: Loan | undefined
}

/** The turn of a piece to write. */
interface Turn {
  /** It may begin. */
  readonly before: Promise<unknown>
  /** It has begun. */
  begun: () => void
}

class Copy {
  readonly total: number
  done = 0
  readonly #sources: readonly Required<ConvertSource>[]
  readonly #target: BlockDevice
  readonly #options: ConvertOptions
  /** How long reads took lately, milliseconds. */
  #latency = 0
  readonly #unit: number
  /** What is lent may be given to the target. */
  readonly #borrows: boolean
  readonly #compress: ((at: number, bytes: Uint8Array) => Now<void>) | undefined
  readonly #cluster: number
  readonly #flights = new Set<Promise<void>>()
  readonly #buffers: Uint8Array[] = []
  #failure: unknown
  #failed = false
  /** The piece before the next has begun to write; the one before that is written. */
  #begun: Promise<void> = Promise.resolve()
  #written: readonly [Promise<void>, Promise<void>] = [Promise.resolve(), Promise.resolve()]
  /** The source that is read now, how far, and what is known of what follows. */
  #index = 0
  #within = 0
  #at = 0
  #run: Shown | undefined

  constructor(sources: readonly ConvertSource[], target: BlockDevice, options: ConvertOptions) {
    this.#sources = sources.map(({ device, offset = 0, length = device.size - offset }) => ({ device, offset, length }))
    this.total = this.#sources.reduce((sum, { length }) => sum + length, 0)
    this.#target = target
    this.#options = options
    const driver = target.driver
    const image = driver instanceof ImageDevice ? driver.image : undefined
    this.#cluster = image?.clusterSize ?? 0
    if (options.compress) {
      if (!(driver instanceof ImageDevice)) throw new BlockError('ENOTSUP', `Cannot compress into ${target.name}`)
      this.#compress = (at, bytes) => driver.writePacked(at, bytesVec(bytes))
    }
    const least = options.minSparse ?? 4096
    // A cluster that holds anything is written as a whole: its parts would cost a request each.
    this.#unit = least === 0 ? 0 : Math.max(least, Math.min(this.#cluster, CHUNK))
    this.#borrows = target.unseen && !options.compress && !options.offload
  }

  get busy(): boolean {
    return this.#flights.size > 0
  }

  get full(): boolean {
    return this.#flights.size >= (this.#options.inFlight ?? (this.#latency > SLOW ? MANY : FEW))
  }

  /** What to copy next; undefined at the end. */
  async next(most: number): Promise<Piece | undefined> {
    if (this.#failed) throw this.#failure
    for (;;) {
      const source = this.#sources[this.#index]
      if (source === undefined) return undefined
      if (this.#within < source.length) break
      this.#index++
      this.#within = 0
      this.#run = undefined
    }
    const { device, offset, length } = this.#sources[this.#index]!
    const from = offset + this.#within
    this.#run ??= await this.#status(device, from, length - this.#within)
    const { kind } = this.#run
    let step = Math.min(this.#run.length, kind === 'data' ? Math.max(most, this.#cluster) : Number.POSITIVE_INFINITY)
    // Later pieces begin where the target's clusters do.
    const grid = Math.max(this.#cluster, this.#unit)
    if (kind === 'data' && grid > 0 && step < this.#run.length)
      step = Math.max(step - ((this.#at + step) % grid), Math.min(grid, step))
    if (this.#options.compress && kind !== 'base') return this.#whole(step)
    const lent = this.#options.speed ? step : Math.min(this.#run.length, LENT)
    const loan = kind === 'data' && this.#borrows ? this.#borrow(device, from, lent, grid) : undefined
    const piece = { source: device, from, at: this.#at, length: loan?.bytes.length ?? step, kind, loan }
    this.#advance(piece.length)
    return piece
  }

  /** Whole units of the target, from the memory that has them: a read would only copy them to where they are copied from again. */
  #borrow(device: BlockDevice, from: number, most: number, grid: number): Loan | undefined {
    if (grid > 0 && this.#at % grid !== 0) return undefined
    const length = grid > 0 ? most - (most % grid) : most
    if (length === 0) return undefined
    const loan = device.lend(from, length)
    if (loan === undefined || grid === 0 || loan.bytes.length % grid === 0) return loan
    loan.release()
    return undefined
  }

  /** Compressed clusters are written as a whole, with what follows whatever it is. */
  #whole(step: number): Piece {
    const { device, offset, length } = this.#sources[this.#index]!
    const from = offset + this.#within
    const kind = this.#run!.kind
    const cluster = this.#cluster
    const into = this.#at % cluster
    const end = Math.min(length - this.#within, Math.ceil((into + step) / cluster) * cluster - into)
    const full = Math.floor((into + step) / cluster) * cluster - into
    const whole = kind === 'zero' && full > 0 && into === 0
    const piece: Piece = {
      source: device,
      from,
      at: this.#at,
      length: whole ? full : Math.min(end, CHUNK),
      kind: whole ? 'zero' : 'data',
    }
    this.#advance(piece.length)
    return piece
  }

  #advance(step: number): void {
    this.#within += step
    this.#at += step
    const left = this.#run!.length - step
    this.#run = left > 0 ? { kind: this.#run!.kind, length: left } : undefined
  }

  async #status(device: BlockDevice, at: number, length: number): Promise<Shown> {
    try {
      return await shows(device, at, length, this.#options.base)
    } catch (error) {
      if (this.#options.salvage === undefined) throw new ConvertError('asking', this.#at, error)
      return { length: Math.min(length, CHUNK), kind: 'data' }
    }
  }

  /** Sets a piece off. */
  start(piece: Piece): void {
    const ordered = !this.#options.outOfOrder
    const turn: Turn = { before: Promise.all([this.#begun, this.#written[0]]), begun: () => {} }
    if (ordered) {
      this.#begun = new Promise((resolve) => {
        turn.begun = resolve
      })
    }
    const flight = (piece.kind === 'data' ? this.#data(piece, turn) : this.#nothing(piece, turn)).then(
      () => {
        this.done += piece.length
      },
      (error) => {
        this.#failure ??= error
        this.#failed = true
        turn.begun()
      },
    )
    const kept = flight.finally(() => this.#flights.delete(kept))
    this.#flights.add(kept)
    if (ordered) this.#written = [this.#written[1], flight]
  }

  /** Waits until there is room for one more, or nothing left. */
  async progress(): Promise<void> {
    if (this.#flights.size > 0) await Promise.race(this.#flights)
    if (this.#failed) throw this.#failure
  }

  /** Waits for all that is under way. */
  async over(): Promise<void> {
    await Promise.all(this.#flights)
  }

  async #nothing({ at, length, kind }: Piece, turn: Turn): Promise<void> {
    await turn.before
    turn.begun()
    const { zeroFrom = Number.POSITIVE_INFINITY } = this.#options
    if (kind === 'base') {
      // Behind the end of the target's backing file its holes are zeroes as they must be.
      return
    }
    const end = Math.min(at + length, Math.max(at, zeroFrom))
    if (end > at) await this.#zero(at, end - at)
  }

  async #data(piece: Piece, turn: Turn): Promise<void> {
    const { at, length, loan } = piece
    if (loan !== undefined) return this.#lent(at, loan, turn)
    if (this.#options.offload && (await this.#offload(piece))) return turn.begun()
    const buffer = this.#buffers.pop() ?? new Uint8Array(CHUNK)
    try {
      const bytes = buffer.subarray(0, length)
      await this.#read(piece, bytes)
      await turn.before
      if (this.#failed) return turn.begun()
      const written =
        this.#compress !== undefined
          ? this.#pack(at, bytes)
          : this.#unit === 0
            ? this.#write(at, bytes)
            : this.#sparse(at, bytes)
      turn.begun()
      await written
    } finally {
      this.#buffers.push(buffer)
    }
  }

  async #offload({ source, from, at, length }: Piece): Promise<boolean> {
    for (let done = 0; done < length; ) {
      const copied = await source.copyTo(from + done, this.#target, at + done, length - done)
      if (copied === 0 && done === 0) return false
      if (copied === 0) throw new ConvertError('writing', at + done, new BlockError('EIO', 'the host stopped copying'))
      done += copied
    }
    return true
  }

  async #read({ source, from, at }: Piece, bytes: Uint8Array): Promise<void> {
    const { salvage } = this.#options
    const start = performance.now()
    try {
      await source.read(from, bytesVec(bytes))
      this.#latency += (performance.now() - start - this.#latency) / 4
    } catch (error) {
      if (salvage === undefined) throw new ConvertError('reading', at, error)
      // Sector by sector, so that no more is lost than must be.
      for (let done = 0; done < bytes.length; done += 512) {
        const sector = bytes.subarray(done, Math.min(done + 512, bytes.length))
        await rescue(
          () => source.read(from + done, bytesVec(sector)),
          (why) => {
            salvage(from + done, why)
            sector.fill(0)
          },
        )
      }
    }
  }

  async #lent(at: number, { bytes, release }: Loan, turn: Turn): Promise<void> {
    try {
      // Now, for who lends does not promise that they can be looked at later.
      const stretches = this.#unit === 0 ? undefined : stretchesOf(at, bytes, this.#unit)
      await turn.before
      if (this.#failed) return turn.begun()
      const written = stretches === undefined ? this.#write(at, bytes) : this.#writeAll(at, bytes, stretches)
      turn.begun()
      await written
    } finally {
      release()
    }
  }

  #sparse(at: number, bytes: Uint8Array): Now<void> {
    return this.#writeAll(at, bytes, stretchesOf(at, bytes, this.#unit))
  }

  #writeAll(at: number, bytes: Uint8Array, stretches: readonly Stretch[]): Now<void> {
    const { zeroFrom = Number.POSITIVE_INFINITY } = this.#options
    const later: Now<void>[] = []
    for (const { start, end, zero } of stretches) {
      if (!zero) later.push(this.#write(at + start, bytes.subarray(start, end)))
      else if (at + start < zeroFrom) later.push(this.#zero(at + start, end - start))
    }
    return all(later)
  }

  async #pack(at: number, bytes: Uint8Array): Promise<void> {
    const { zeroFrom = Number.POSITIVE_INFINITY, minSparse = 4096 } = this.#options
    const cluster = this.#cluster
    const later: Now<void>[] = []
    for (let start = 0; start < bytes.length; ) {
      const end = Math.min(start + cluster - ((at + start) % cluster), bytes.length)
      const part = bytes.subarray(start, end)
      const whole = (at + start) % cluster === 0 && (part.length === cluster || at + end === this.#target.size)
      if (minSparse > 0 && isZero(bytes, start, end)) {
        if (at + start < zeroFrom) later.push(this.#zero(at + start, end - start))
      } else if (whole) later.push(this.#writing(at + start, () => this.#compress!(at + start, part)))
      else later.push(this.#write(at + start, part))
      start = end
    }
    await all(later)
  }

  /** A failure, also one that is here at once, is a promise's: what was begun before it must be waited for. */
  #write(at: number, bytes: Uint8Array): Now<void> {
    return this.#writing(at, () => this.#target.write(at, bytesVec(bytes)))
  }

  #zero(at: number, length: number): Now<void> {
    const unmap = (this.#options.minSparse ?? 4096) > 0
    return this.#writing(at, () => this.#target.zero(at, length, { unmap }))
  }

  #writing(at: number, body: () => Now<void>): Now<void> {
    return rescue(body, (error) => Promise.reject(new ConvertError('writing', at, error)))
  }
}
