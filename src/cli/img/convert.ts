/** `block86 img convert`: copies images into one of any format. */
import type { BlockDevice } from '../../block/device.ts'
import type { FormatDriver } from '../../block/format.ts'
import { formats } from '../../block/formats/index.ts'
import { ConvertError, type ConvertOptions, convert as convertJob } from '../../block/jobs/convert.ts'
import { type CodecPool, codecPool } from '../../codecs/pool.ts'
import type { Parsed } from '../getopt.ts'
import { cacheMode, parse, sizeArgument } from './arguments.ts'
import { type Console, Failure, report } from './console.ts'
import { copyBitmaps } from './copy-bitmaps.ts'
import {
  checkLists,
  type FormatOption,
  type OptionValues,
  optionsHelp,
  optionsOf,
  readOptions,
  wantsHelp,
} from './format-options.ts'
import { interruptible } from './interrupt.ts'
import { creatable } from './make.ts'
import { type Flags, type Opened, openGiven, openPlace } from './open.ts'
import { Progress } from './progress.ts'
import { Reason, strerror } from './reasons.ts'
import { type SnapshotKey, snapshotDevice, snapshotKey } from './snapshot-source.ts'
import { Target } from './target.ts'

const USAGE = `usage: block86 img convert [--object OBJECTDEF] [--image-opts] [--target-image-opts] [--target-is-zero] [--bitmaps]
         [-U] [-C] [-c] [-p] [-q] [-n] [-f FMT] [-t CACHE] [-T SRC_CACHE] [-O OUTPUT_FMT] [-B BACKING_FILE [-F BACKING_FMT]]
         [-o OPTIONS] [-l SNAPSHOT_PARAM] [-S SPARSE_SIZE] [-r RATE_LIMIT] [-m NUM_COROUTINES] [-W] [--salvage]
         FILENAME [FILENAME2 [...]] OUTPUT_FILENAME

  -f FMT, -O OUTPUT_FMT  formats of the sources (default: guessed) and of the new image (default raw)
  -o OPTIONS             options of the new image, name=value,...; -o help lists them
  -B, -F                 backing file of the new image, and its format: only what the source has over its own is copied
  -c                     compress
  -l SNAPSHOT_PARAM      copy an internal snapshot: its id or name, or snapshot.id=ID,snapshot.name=NAME
  -S SPARSE_SIZE         leave out zeroes where so many bytes are together (default 4k; 0: write everything)
  -n                     the target is there already
  --target-is-zero       it reads as zeroes (with -n)
  -m NUM_COROUTINES      requests in flight, 1 to 16 (default: as many as help, at most 8)
  -W                     writes may pass each other
  -C                     let the host copy
  -r RATE_LIMIT          bytes per second
  -t CACHE, -T CACHE     cache modes of the target (default unsafe) and of the sources
  --salvage              go on where something cannot be read: zeroes take its place
  --bitmaps              copy persistent bitmaps too; --skip-broken-bitmaps leaves out those that were not saved properly
  -p                     show progress
  -q                     print errors alone
  -U                     open the sources though another program writes to them
`

const SECTOR = 512
const LARGEST_SPARSE = 16 << 20

/** Runs the verb. */
export async function convert(argv: readonly string[], console: Console): Promise<number> {
  const args = parse(
    argv,
    [
      { short: 'f', key: 'format', value: true },
      { short: 'O', key: 'output-format', value: true },
      { short: 'B', key: 'backing', value: true },
      { short: 'F', key: 'backing-format', value: true },
      { short: 'C', key: 'offload' },
      { short: 'c', key: 'compress' },
      { short: 'o', key: 'options', value: true },
      { short: 'l', key: 'snapshot', value: true },
      { short: 'S', key: 'sparse', value: true },
      { short: 'p', key: 'progress' },
      { short: 't', key: 'cache', value: true },
      { short: 'T', key: 'source-cache', value: true },
      { short: 'q', key: 'quiet' },
      { short: 'n', key: 'no-create' },
      { short: 'm', key: 'in-flight', value: true },
      { short: 'W', key: 'out-of-order' },
      { short: 'U', long: 'force-share' },
      { short: 'r', long: 'rate-limit', value: true },
      { long: 'target-image-opts' },
      { long: 'target-is-zero' },
      { long: 'salvage' },
      { long: 'bitmaps' },
      { long: 'skip-broken-bitmaps' },
    ],
    USAGE,
    console,
  )
  const settings = readSettings(args)
  const names = args.operands.slice(0, -1)
  const target = args.operands.at(-1)
  if (wantsHelp(args.all('options'))) {
    console.out.write(
      optionsHelp(
        settings.format,
        target !== undefined,
        target === undefined ? `Supported ${settings.format} options:\n` : 'Supported options:\n',
      ),
    )
    return 0
  }
  if (names.length === 0 || target === undefined) throw new Failure('Must specify image file name')
  return interruptible((signal) => new Conversion(console, args, settings, names, target, signal).run())
}

/** What the options say, checked. */
interface Settings {
  readonly format: string
  readonly job: ConvertOptions
  readonly sparse: number
  readonly explicitSparse: boolean
  readonly snapshot: SnapshotKey | undefined
}

function readSettings(args: Parsed): Settings {
  checkLists(args.all('options'))
  const snapshot = args.last('snapshot')
  const key = snapshot === undefined ? undefined : snapshotKey(snapshot)
  const sparseText = args.last('sparse')
  const sparse = sparseText === undefined ? 4096 : sizeArgument(sparseText, 'buffer size for sparse output')
  if (sparse % SECTOR !== 0 || sparse > LARGEST_SPARSE) {
    throw new Failure(
      `Invalid buffer size for sparse output specified. Valid sizes are multiples of ${SECTOR} up to ${LARGEST_SPARSE}. ` +
        'Select 0 to disable sparse detection (fully allocates output).',
    )
  }
  const inFlight = args.last('in-flight')
  if (inFlight !== undefined && !(/^\d+$/.test(inFlight) && Number(inFlight) >= 1 && Number(inFlight) <= 16))
    throw new Failure('Invalid number of coroutines. Allowed number of coroutines is between 1 and 16')
  const rate = args.last('rate-limit')
  const speed = rate === undefined ? 0 : sizeArgument(rate, 'rate limit')
  const has = (option: string) => args.has(option)
  if (has('skip-broken-bitmaps') && !has('bitmaps'))
    throw new Failure('Use of --skip-broken-bitmaps requires --bitmaps')
  if (has('offload') && has('compress')) throw new Failure('Cannot enable copy offloading when -c is used')
  if (has('offload') && sparseText !== undefined) throw new Failure('Cannot enable copy offloading when -S is used')
  if (has('offload') && has('salvage')) throw new Failure('Cannot use copy offloading in salvaging mode')
  if (has('target-image-opts') && !has('no-create')) throw new Failure('--target-image-opts requires use of -n flag')
  if (has('no-create') && has('options')) throw new Failure('-o has no effect when skipping image creation')
  if (has('target-is-zero') && !has('no-create')) throw new Failure('--target-is-zero requires use of -n flag')
  return {
    format: args.last('output-format') ?? 'raw',
    sparse,
    explicitSparse: sparseText !== undefined,
    snapshot: key,
    job: {
      ...(inFlight === undefined ? {} : { inFlight: Number(inFlight) }),
      outOfOrder: has('out-of-order'),
      minSparse: sparse,
      compress: has('compress'),
      offload: has('offload'),
      ...(speed > 0 ? { speed } : {}),
    },
  }
}

class Conversion {
  readonly #console: Console
  readonly #args: Parsed
  readonly #settings: Settings
  readonly #names: readonly string[]
  readonly #name: string
  readonly #signal: AbortSignal
  readonly #sources: Opened[] = []
  #devices: BlockDevice[] = []
  #pool: CodecPool | undefined

  constructor(
    console: Console,
    args: Parsed,
    settings: Settings,
    names: readonly string[],
    name: string,
    signal: AbortSignal,
  ) {
    this.#console = console
    this.#args = args
    this.#settings = settings
    this.#names = names
    this.#name = name
    this.#signal = signal
  }

  async run(): Promise<number> {
    const args = this.#args
    const progress = new Progress(this.#console, args.has('progress') && !args.has('quiet'), 1)
    try {
      await this.#openSources()
      progress.set(0)
      const total = this.#devices.reduce((sum, { size }) => sum + size, 0)
      if (args.has('no-create')) await this.#into(total, progress)
      else await this.#anew(total, progress)
      progress.set(100, total)
    } finally {
      progress.end()
      this.#pool?.close()
      for (const source of this.#sources) await source.close()
    }
    return 0
  }

  async #openSources(): Promise<void> {
    const args = this.#args
    const cache = cacheMode(args.last('source-cache') ?? 'writeback', 'source cache')
    cacheMode(args.last('cache') ?? 'unsafe', 'cache')
    const flags: Flags = { readOnly: true, cache, forceShare: args.has('force-share'), bulk: true }
    for (const name of this.#names) {
      this.#sources.push(await openGiven(this.#console, name, args.last('format'), flags, args.has('image-opts')))
    }
    this.#devices = this.#sources.map(({ device }) => device)
    const { snapshot } = this.#settings
    if (snapshot !== undefined) {
      if (this.#sources.length > 1) throw new Failure('No support for concatenating multiple snapshot')
      this.#devices = [await snapshotDevice(this.#sources[0]!, snapshot)]
    }
    if (args.has('bitmaps')) {
      if (this.#sources.length > 1) throw new Failure('Copying bitmaps only possible with single source')
      if (this.#sources[0]!.format !== 'qcow2') throw new Failure('Source lacks bitmap support')
    }
  }

  /** Into an image that is there. */
  async #into(total: number, progress: Progress): Promise<void> {
    const args = this.#args
    const target = await openGiven(
      this.#console,
      this.#name,
      args.has('target-image-opts') ? undefined : this.#settings.format,
      this.#targetFlags(),
      args.has('target-image-opts'),
    )
    try {
      const known = formats.find((format) => format.name === target.format)
      if (args.has('compress')) this.#refusePacking(known)
      if (target.device.size < total) throw new Failure('output file is smaller than input file')
      if (args.has('target-is-zero') && target.backing !== undefined)
        throw new Failure('Cannot use --target-is-zero when the destination image has a backing file')
      const { backing } = target
      const zeroFrom = args.has('target-is-zero') ? 0 : Number.POSITIVE_INFINITY
      await this.#copy(target, progress, zeroFrom, args.has('backing') && backing !== undefined)
      await this.#finish(target)
    } finally {
      await target.close()
    }
  }

  #refusePacking(format: FormatDriver | undefined): void {
    if (format?.name !== 'qcow2' && format?.name !== 'qcow')
      throw new Failure('Compression not supported for this file format')
  }

  /** Into an image that is made. */
  async #anew(total: number, progress: Progress): Promise<void> {
    const args = this.#args
    const { format: name } = this.#settings
    const format = creatable(name)
    const known = optionsOf(name)
    const values = this.#values(known, name, total)
    if (args.has('compress')) {
      this.#refusePacking(format)
      const preallocation = values.get('preallocation')
      if (preallocation !== undefined && preallocation !== 'off')
        throw new Failure('Compression and preallocation not supported at the same time')
    }
    if (args.has('bitmaps') && name !== 'qcow2') throw new Failure(`Format driver '${name}' does not support bitmaps`)
    const size = Number(values.get('size'))
    const backed = values.has('backing_file')
    const cloned = size === total ? await this.#clone(values) : undefined
    if (cloned !== undefined) return cloned.keep()
    let target: Target
    try {
      target = await Target.make(this.#name, format, size, known, values, this.#targetFlags().cache !== 'unsafe')
    } catch (error) {
      if (error instanceof Failure || error instanceof Reason)
        throw new Failure(`${this.#name}: error while converting ${name}: ${error.message}`)
      throw error
    }
    let opened: Opened | undefined
    try {
      opened = await openPlace(target.path, target.path, name, this.#targetFlags(), [])
      const zeroed = target.fresh && this.#settings.sparse > 0 && !preallocated(values)
      const zeroFrom = !zeroed ? Number.POSITIVE_INFINITY : backed ? (opened.backing?.device.size ?? 0) : 0
      await this.#copy(opened, progress, zeroFrom, backed)
      await this.#finish(opened)
      await opened.close()
      target.keep()
    } catch (error) {
      await opened?.close().catch(() => {}) // what is thrown away need not be whole
      target.abandon()
      if (error instanceof Reason) throw new Failure(`Could not open '${this.#name}': ${error.message}`)
      throw error
    }
  }

  #values(known: readonly FormatOption[], format: string, total: number): OptionValues {
    const args = this.#args
    const values = readOptions(args.all('options'), known)
    values.set('size', total)
    const backing = args.last('backing')
    const supported = known.some((option) => option.name === 'backing_file')
    if (backing !== undefined) {
      if (!supported) throw new Failure(`Backing file not supported for file format '${format}'`)
      values.set('backing_file', backing)
    }
    const backingFormat = args.last('backing-format')
    if (backingFormat !== undefined) {
      if (!supported) throw new Failure(`Backing file format not supported for file format '${format}'`)
      values.set('backing_fmt', backingFormat)
    }
    if (values.has('backing_file')) {
      if (this.#sources.length > 1)
        throw new Failure(
          'Having a backing file for the target makes no sense when concatenating multiple input images',
        )
      if (!values.has('backing_fmt')) throw new Failure('Use of backing file requires explicit backing format')
    }
    return values
  }

  #targetFlags(): Flags {
    const cache = cacheMode(this.#args.last('cache') ?? 'unsafe', 'cache')
    return {
      readOnly: false,
      cache,
      bulk: true,
      ...(this.#args.has('compress') ? { codecs: (this.#pool ??= codecPool()) } : {}),
    }
  }

  /** A plain file as a plain file, with shared space, where the file system has that. */
  async #clone(values: OptionValues): Promise<Target | undefined> {
    const { job, format, explicitSparse, snapshot } = this.#settings
    const [source, ...more] = this.#sources
    const plain = source!.device.driver.plain
    const whole = plain?.offset === 0 && plain.device === source!.file && source!.device.size === source!.file.size
    const simple = more.length === 0 && format === 'raw' && source!.format === 'raw' && whole
    if (!simple || explicitSparse || snapshot !== undefined || preallocated(values) || job.speed) return undefined
    if (source!.file.driver.name !== 'file') return undefined
    try {
      return await Target.clone(this.#name, source!.name)
    } catch {
      return undefined
    }
  }

  async #copy(target: Opened, progress: Progress, zeroFrom: number, topOnly: boolean): Promise<void> {
    const { job: options } = this.#settings
    const base = this.#devices[0]!.backing
    const job = convertJob(
      this.#devices.map((device) => ({ device })),
      target.device,
      {
        ...options,
        zeroFrom,
        ...(topOnly && base !== undefined ? { base } : {}),
        signal: this.#signal,
        ...(this.#args.has('salvage') ? { salvage: (at, error) => this.#salvaged(at, error) } : {}),
      },
    )
    try {
      for await (const { done, total } of job) progress.set(total === 0 ? 100 : (done / total) * 100, done)
      this.#signal.throwIfAborted()
    } catch (error) {
      if (!(error instanceof ConvertError)) throw error
      const verb = error.verb === 'asking' ? 'reading block status' : error.verb
      const place = error.verb === 'asking' ? 'at offset' : 'at byte'
      throw new Failure(`error while ${verb} ${place} ${error.at}: ${strerror(error)}`)
    }
  }

  #salvaged(at: number, error: unknown): void {
    if (!this.#args.has('quiet')) report(this.#console, `warning: error while reading offset ${at}: ${strerror(error)}`)
  }

  async #finish(target: Opened): Promise<void> {
    if (this.#args.has('bitmaps'))
      await copyBitmaps(this.#sources[0]!, target, this.#args.has('skip-broken-bitmaps'), this.#console)
    await target.device.flush()
  }
}

function preallocated(values: OptionValues): boolean {
  const mode = values.get('preallocation')
  return mode !== undefined && mode !== 'off'
}
