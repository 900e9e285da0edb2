/** `block86 img compare`: says whether two images hold the same. */
import { bytesVec } from '../../block/iovec.ts'
import { readPadded } from '../../block/mover.ts'
import { isAllZero } from '../../codecs/index.ts'
import { cacheMode, parse } from './arguments.ts'
import { type Console, Failure, misuse, printer } from './console.ts'
import { type Opened, openGiven } from './open.ts'
import { Progress } from './progress.ts'
import { strerror } from './reasons.ts'
import { type Run, statusAbove } from './status.ts'

const USAGE = `usage: block86 img compare [--object OBJECTDEF] [--image-opts] [-f FMT] [-F FMT] [-T SRC_CACHE] [-p] [-q] [-s] [-U] FILENAME1 FILENAME2

  -f FMT        format of the first image (default: guessed)
  -F FMT        format of the second image (default: guessed)
  -T SRC_CACHE  cache mode
  -s            the sizes and what is allocated must be the same too
  -p            show progress
  -q            print errors alone
  -U            open them though another program writes to them

Exit status: 0 identical, 1 different, 2 or more: an error.
`

const CHUNK = 2 << 20
const SECTOR = 512

/** Runs the verb. */
export async function compare(argv: readonly string[], console: Console): Promise<number> {
  const args = parse(
    argv,
    [
      { short: 'f', key: 'format', value: true },
      { short: 'F', key: 'format2', value: true },
      { short: 'T', key: 'source-cache', value: true },
      { short: 'p', key: 'progress' },
      { short: 'q', key: 'quiet' },
      { short: 's', key: 'strict' },
      { short: 'U', long: 'force-share' },
    ],
    USAGE,
    console,
  )
  const [first, second, ...more] = args.operands
  if (first === undefined || second === undefined || more.length > 0) throw misuse('Expecting two image file names')
  const print = printer(console, args.has('quiet'))
  const progress = new Progress(console, args.has('progress') && !args.has('quiet'), 2)
  const opened: Opened[] = []
  try {
    try {
      const cache = cacheMode(args.last('source-cache') ?? 'writeback', 'source cache')
      const flags = { readOnly: true, cache, forceShare: args.has('force-share') }
      const options = args.has('image-opts')
      opened.push(await openGiven(console, first, args.last('format'), flags, options))
      opened.push(await openGiven(console, second, args.last('format2'), flags, options))
    } catch (error) {
      throw error instanceof Failure ? new Failure(error.message, 2) : error
    }
    const verdict = await new Comparison(opened[0]!, opened[1]!, args.has('strict'), progress, print).run()
    print(verdict ?? 'Images are identical.\n')
    return verdict === undefined ? 0 : 1
  } finally {
    progress.end()
    for (const each of opened) await each.close()
  }
}

class Comparison {
  readonly #sides: readonly [Opened, Opened]
  readonly #strict: boolean
  readonly #progress: Progress
  readonly #print: (text: string) => void
  readonly #buffers = [new Uint8Array(CHUNK), new Uint8Array(CHUNK)] as const

  constructor(one: Opened, other: Opened, strict: boolean, progress: Progress, print: (text: string) => void) {
    this.#sides = [one, other]
    this.#strict = strict
    this.#progress = progress
    this.#print = print
  }

  /** What is different, or undefined. */
  async run(): Promise<string | undefined> {
    const [one, other] = this.#sides
    const sizes = [one.device.size, other.device.size] as const
    this.#progress.set(0)
    if (this.#strict && sizes[0] !== sizes[1]) return 'Strict mode: Image size mismatch!\n'
    const both = Math.min(...sizes)
    const all = Math.max(...sizes)
    for (let at = 0; at < both; ) {
      const a = await this.#status(one, at, sizes[0])
      const b = await this.#status(other, at, sizes[1])
      const length = Math.min(a.length, b.length)
      const different = await this.#range(a, b, at, length)
      if (different !== undefined) return different
      at += length
      this.#progress.set((at / all) * 100, at)
    }
    if (sizes[0] === sizes[1]) return undefined
    this.#print('Warning: Image size mismatch!\n')
    const longer = sizes[0] > sizes[1] ? one : other
    for (let at = both; at < all; ) {
      const run = await this.#status(longer, at, all)
      const found = run.zero ? undefined : await this.#nonZero(longer, at, run.length)
      if (found !== undefined) return mismatch(found)
      at += run.length
      this.#progress.set((at / all) * 100, at)
    }
    return undefined
  }

  async #status(side: Opened, at: number, end: number): Promise<Run> {
    try {
      return await statusAbove(side, at, end - at)
    } catch {
      throw new Failure(`Sector allocation test failed for ${side.name}`, 3)
    }
  }

  async #range(a: Run, b: Run, at: number, length: number): Promise<string | undefined> {
    if (
      this.#strict &&
      (a.data !== b.data ||
        a.zero !== b.zero ||
        a.present !== b.present ||
        (a.offset === undefined) !== (b.offset === undefined))
    )
      return `Strict mode: Offset ${at} block status mismatch!\n`
    if (a.zero && b.zero) return undefined
    const [one, other] = this.#sides
    const found =
      a.zero || b.zero ? await this.#nonZero(a.zero ? other : one, at, length) : await this.#different(at, length)
    return found === undefined ? undefined : mismatch(found)
  }

  /** Where the images differ first. */
  async #different(at: number, length: number): Promise<number | undefined> {
    const [one, other] = this.#sides
    for (let done = 0; done < length; done += CHUNK) {
      const size = Math.min(CHUNK, length - done)
      const [a, b] = await Promise.all([
        this.#read(one, at + done, this.#buffers[0].subarray(0, size)),
        this.#read(other, at + done, this.#buffers[1].subarray(0, size)),
      ])
      if (Buffer.compare(a, b) === 0) continue
      for (let sector = 0; ; sector += SECTOR) {
        const end = Math.min(sector + SECTOR, size)
        if (Buffer.compare(a.subarray(sector, end), b.subarray(sector, end)) !== 0) return at + done + sector
      }
    }
    return undefined
  }

  /** Where an image has something else than zeroes first. */
  async #nonZero(side: Opened, at: number, length: number): Promise<number | undefined> {
    for (let done = 0; done < length; done += CHUNK) {
      const size = Math.min(CHUNK, length - done)
      const bytes = await this.#read(side, at + done, this.#buffers[0].subarray(0, size))
      if (isAllZero(bytes)) continue
      for (let sector = 0; ; sector += SECTOR) {
        if (!isAllZero(bytes.subarray(sector, Math.min(sector + SECTOR, size)))) return at + done + sector
      }
    }
    return undefined
  }

  async #read(side: Opened, at: number, into: Uint8Array): Promise<Uint8Array> {
    try {
      await readPadded(side.device, at, bytesVec(into))
      return into
    } catch (error) {
      throw new Failure(`Error while reading offset ${at} of ${side.name}: ${strerror(error)}`, 4)
    }
  }
}

function mismatch(at: number): string {
  return `Content mismatch at offset ${at}!\n`
}
