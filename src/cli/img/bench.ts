/** `block86 img bench`: measures requests on an image, with the options and the output of `qemu-img bench`. */
import { host } from '#host'
import type { BlockDevice } from '../../block/device.ts'
import type { CacheMode } from '../../block/disk.ts'
import { bytesVec } from '../../block/iovec.ts'
import { kick } from '../../block/turn.ts'
import type { Option, Parsed } from '../getopt.ts'
import { parseSize } from '../units.ts'
import { parse } from './arguments.ts'
import { type Console, Failure, misuse, PROGRAM, printer } from './console.ts'
import { type Flags, openGiven } from './open.ts'
import { strerror } from './reasons.ts'

const OPTIONS: readonly Option[] = [
  { short: 'c', long: 'count', value: true },
  { short: 'd', long: 'depth', value: true },
  { short: 'f', long: 'format', value: true },
  { short: 'i', long: 'aio', value: true },
  { short: 'n', long: 'native' },
  { short: 'o', long: 'offset', value: true },
  { short: 'q', long: 'quiet' },
  { short: 's', long: 'buffer-size', value: true },
  { short: 'S', long: 'step-size', value: true },
  { short: 't', long: 'cache', value: true },
  { short: 'w', long: 'write' },
  { short: 'U', long: 'force-share' },
  { long: 'flush-interval', value: true },
  { long: 'no-drain' },
  { long: 'pattern', value: true },
  { long: 'warm-up', value: true },
]

const USAGE = `usage: block86 img bench [-c COUNT] [-d DEPTH] [-f FMT] [--flush-interval=INTERVAL] [-i AIO] [-n] [--no-drain]
         [-o OFFSET] [--pattern=PATTERN] [-q] [-s BUFFER_SIZE] [-S STEP_SIZE] [-t CACHE] [-w] [-U] [--warm-up=COUNT] [--image-opts] FILENAME

--warm-up, which qemu-img lacks, sends so many requests of up to 4 KiB, and some of full length, before those that are measured: until the compiler has seen them
often enough, they are slower than any later ones of a machine that has been running for a second. What the measured
ones took of the CPU is then told too.
`

/** Bytes of a large page. */
const LARGE_PAGE = 2 << 20
/** Longest request before the measured ones: it is their number that the compiler counts. */
const WARM_LENGTH = 4096
/** Bytes of those that are longer. */
const WARM_BYTES = 256 << 20
/** What it needs then, ms. */
const COMPILE_TIME = 250

/** What is measured; lengths and offsets in bytes. */
export interface Bench {
  readonly count: number
  readonly depth: number
  readonly write: boolean
  readonly length: number
  readonly step: number
  readonly offset: number
  readonly pattern: number
  /** A flush after so many writes; 0: none. */
  readonly flushInterval: number
  /** Wait for the writes before a flush; else it is sent beside them. */
  readonly drain: boolean
}

/** How long the requests of `bench` take on `device`, seconds. Stops with the first that fails. */
export async function measure(device: BlockDevice, bench: Bench): Promise<number> {
  const start = process.hrtime.bigint()
  await new Run(device, bench).done
  return Number(process.hrtime.bigint() - start) / 1e9
}

/** At most `depth` requests at a time, each of the next step's bytes; those that answer at once take no turn of the event loop. */
class Run {
  readonly done: Promise<void>
  readonly #device: BlockDevice
  readonly #bench: Bench
  readonly #vectors
  #resolve = () => {}
  #reject: (error: unknown) => void = () => {}
  #offset: number
  #left: number
  #inFlight = 0
  #untilFlush: number
  #flushing = false
  #over = false

  constructor(device: BlockDevice, bench: Bench) {
    this.#device = device
    this.#bench = bench
    this.#offset = bench.offset
    this.#left = bench.count
    this.#untilFlush = bench.flushInterval
    // A memory as an emulator's: its pages are aligned, so that requests past the page cache go straight into and out of it,
    // and large, but for those at both ends.
    const used = bench.depth * bench.length
    const pages = Math.ceil((used + 2 * LARGE_PAGE) / 65536)
    const { buffer } = new WebAssembly.Memory({ initial: pages, maximum: pages })
    host.preferLargePages?.(buffer)
    const memory = new Uint8Array(buffer, LARGE_PAGE, used)
    if (bench.write) memory.fill(bench.pattern)
    this.#vectors = Array.from({ length: bench.depth }, (_, i) =>
      bytesVec(memory.subarray(i * bench.length, (i + 1) * bench.length)),
    )
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    this.#go()
  }

  #go(): void {
    const bench = this.#bench
    const device = this.#device
    try {
      while (this.#left > 0 && this.#inFlight < bench.depth && !this.#over) {
        if (this.#flushing && bench.drain) return
        if (bench.flushInterval > 0 && this.#untilFlush === 0 && !this.#flushing) {
          if (bench.drain && this.#inFlight > 0) return
          this.#untilFlush = bench.flushInterval
          const flush = device.flush()
          if (flush instanceof Promise) {
            this.#flushing = true
            flush.then(() => this.#flushed(), this.#fail)
          }
          continue
        }
        const vector = this.#vectors.pop()!
        const at = this.#offset
        this.#offset = (at + bench.step) % device.size
        this.#left--
        this.#untilFlush--
        const request = bench.write ? device.write(at, vector) : device.read(at, vector)
        if (!(request instanceof Promise)) {
          this.#vectors.push(vector)
          if (bench.depth === 1) kick()
          continue
        }
        this.#inFlight++
        request.then(() => {
          this.#inFlight--
          this.#vectors.push(vector)
          this.#go()
        }, this.#fail)
      }
    } catch (error) {
      this.#fail(error)
    }
    kick()
    if (this.#left === 0 && this.#inFlight === 0 && !this.#flushing && !this.#over) this.#resolve()
  }

  #flushed(): void {
    this.#flushing = false
    this.#go()
  }

  readonly #fail = (error: unknown): void => {
    this.#over = true
    this.#reject(error)
  }
}

/** Runs the verb. */
export async function bench(argv: readonly string[], console: Console): Promise<number> {
  const parsed = parse(argv, OPTIONS, USAGE, console)
  const size = (key: string, name: string, fallback: number, limit = 2 ** 31 - 1) => {
    const text = parsed.last(key)
    const value = text === undefined ? fallback : parseSize(text)
    if (value !== undefined && value <= limit) return value
    throw new Failure(
      `Invalid ${name} specified. You may use k, M, G, T, P or E suffixes for\n${PROGRAM}: kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.`,
    )
  }
  const whole = (key: string, name: string, fallback: number, limit: number) => {
    const text = parsed.last(key)
    if (text === undefined) return fallback
    const value = /^(\d+|0x[0-9a-f]+)$/i.test(text) ? Number(text) : Number.NaN
    if (value >= 0 && value <= limit) return value
    throw new Failure(`Invalid ${name} specified`)
  }
  const length = size('buffer-size', 'buffer size', 4096)
  const what: Bench = {
    count: whole('count', 'request count', 75000, 2 ** 31 - 1),
    depth: whole('depth', 'queue depth', 64, 2 ** 31 - 1),
    write: parsed.has('write'),
    length,
    step: size('step-size', 'step_size', 0) || length,
    offset: size('offset', 'offset', 0, Number.MAX_SAFE_INTEGER),
    pattern: whole('pattern', 'pattern byte', 0, 255),
    flushInterval: whole('flush-interval', 'flush interval', 0, 2 ** 31 - 1),
    drain: !parsed.has('no-drain'),
  }
  const warmUp = whole('warm-up', 'warm-up count', 0, 2 ** 31 - 1)
  const [filename, ...more] = parsed.operands
  if (filename === undefined || more.length > 0) throw misuse('Expecting one image file name')
  if (what.flushInterval > 0 && !what.write) throw new Failure('--flush-interval is only available in write tests')
  if (what.flushInterval > 0 && what.flushInterval < what.depth) {
    throw new Failure("Flush interval can't be smaller than depth")
  }
  if (what.depth === 0 || length === 0) throw new Failure('Depth and buffer size must be at least 1')
  const cache = cacheMode(parsed.last('cache') ?? 'writeback')
  const opened = await openGiven(
    console,
    filename,
    parsed.last('format'),
    { readOnly: !what.write, cache, forceShare: parsed.has('force-share'), aio: aioOption(parsed) },
    parsed.has('image-opts'),
  )
  const { device } = opened
  const print = printer(console, parsed.has('quiet'))
  try {
    print(
      `Sending ${what.count} ${what.write ? 'write' : 'read'} requests, ${length} bytes each, ${what.depth} in parallel ` +
        `(starting at offset ${what.offset}, step size ${what.step})\n`,
    )
    if (what.flushInterval > 0) {
      print(`Sending flush every ${what.flushInterval} requests\n`)
    }
    if (warmUp > 0) await warm(device, { ...what, count: warmUp })
    const before = process.cpuUsage()
    const seconds = await measure(device, what)
    const { user, system } = process.cpuUsage(before)
    print(`Run completed in ${seconds.toFixed(3)} seconds.\n`)
    if (warmUp > 0) print(`Of CPU it took ${((user + system) / 1e6).toFixed(3)} seconds.\n`)
  } catch (error) {
    throw new Failure(`Failed request: ${strerror(error)}`)
  } finally {
    await opened.close()
  }
  return 0
}

/** Until the compiler, which works beside the program, has nothing more to do; then some of full length, which may go other ways. */
async function warm(device: BlockDevice, bench: Bench): Promise<void> {
  const { length } = bench
  const short = { ...bench, length: Math.min(length, WARM_LENGTH) }
  await measure(device, short)
  if (length > WARM_LENGTH)
    await measure(device, { ...bench, count: Math.ceil(Math.min(bench.count, WARM_BYTES / length)) })
  await new Promise((resolve) => setTimeout(resolve, COMPILE_TIME))
  await measure(device, { ...short, count: bench.count >> 3 })
}

function cacheMode(text: string): CacheMode {
  const modes: readonly string[] = ['writeback', 'none', 'writethrough', 'directsync', 'unsafe']
  const name = text === 'off' ? 'none' : text
  if (!modes.includes(name)) throw new Failure('Invalid cache mode')
  return name as CacheMode
}

function aioOption(parsed: Parsed): NonNullable<Flags['aio']> {
  const text = parsed.has('native') ? 'native' : (parsed.last('aio') ?? 'auto')
  if (text === 'auto' && !parsed.has('aio')) return text
  if (text === 'threads' || text === 'native' || text === 'io_uring') return text
  throw new Failure(`Invalid aio option: ${text}`)
}
