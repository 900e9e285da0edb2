/** One run of `block86 io`: the image that is open, requests under way, and where text goes. */
import type { BlockDevice } from '../../block/device.ts'
import { BlockError, messageOf } from '../../block/error.ts'
import { Blkdebug } from '../../block/filters/blkdebug.ts'
import type { IoVec } from '../../block/iovec.ts'
import type { Now } from '../../block/now.ts'
import type { Console } from '../img/console.ts'
import { strerror } from '../img/reasons.ts'
import { Refused } from './command.ts'
import { type OpenFlags, type OpenImage, openForIo } from './open.ts'

/** The name that messages begin with. */
const PROGRAM = 'block86'

/** What the commands work on. */
export class Session {
  readonly console: Console
  /** `--object`s of the command line. */
  readonly objects: readonly string[]
  #open: OpenImage | undefined
  readonly #requests = new Set<Promise<void>>()
  /** Names of breakpoints, so that none holds a request when the program ends. */
  readonly tags = new Set<string>()
  /** Set by `quit`, and by what ends the program. */
  ended = false

  constructor(console: Console, objects: readonly string[] = []) {
    this.console = console
    this.objects = objects
  }

  out(text: string): void {
    this.console.out.write(text)
  }

  err(text: string): void {
    this.console.err.write(text)
  }

  /** Says on standard error what went wrong, behind the program's name. */
  complain(message: string): false {
    this.err(`${PROGRAM}: ${message}\n`)
    return false
  }

  get image(): OpenImage | undefined {
    return this.#open
  }

  /** The open disk. */
  get device(): BlockDevice {
    return this.#open!.device
  }

  /** Opens an image; says why it cannot. */
  async open(name: string | undefined, flags: OpenFlags): Promise<boolean> {
    if (this.#open !== undefined) return this.complain("file open already, try 'help close'")
    try {
      this.#open = await openForIo(this, name, flags)
      return true
    } catch (error) {
      const what = name === undefined || flags.imageOptions ? '' : ` device ${name}`
      return this.complain(`can't open${what}: ${messageOf(error)}`)
    }
  }

  /** Closes the image, when its requests are done. */
  async close(): Promise<void> {
    await this.drain()
    const open = this.#open
    if (open === undefined) return
    this.#open = undefined
    if (!open.device.readOnly) {
      // Whoever wanted to know whether it is durable has said flush.
      await Promise.resolve()
        .then(() => open.device.flush())
        .catch(() => {})
    }
    await open.device.close()
  }

  /** Lets go of what breakpoints hold, and closes. */
  async end(): Promise<void> {
    for (const tag of this.tags) this.#open?.device.debug?.removeBreak(tag)
    await this.close()
  }

  /** Opens the open image anew, with other flags; on failure it is open as it was. */
  async reopen(change: Partial<OpenFlags>): Promise<boolean> {
    const { name, flags, opened, device } = this.#open!
    const { debug } = device
    await this.drain()
    await this.close()
    // What was found out once is neither guessed nor warned of again.
    const guessed = flags.format === undefined && flags.options === undefined && flags.imageOptions !== true
    const known = guessed ? { ...flags, format: opened.format } : flags
    const done = (await this.open(name, { ...known, ...change })) || ((await this.open(name, known)) && false)
    const now = this.#open?.device.debug
    if (debug instanceof Blkdebug && now instanceof Blkdebug) now.goOn(debug)
    return done
  }

  /** Keeps a request that nobody waits for. */
  follow(request: Now<void>): void {
    if (!(request instanceof Promise)) return
    const kept = request.finally(() => this.#requests.delete(kept))
    this.#requests.add(kept)
  }

  get busy(): boolean {
    return this.#requests.size > 0
  }

  /** Completes when no request is under way. */
  async drain(): Promise<void> {
    while (this.#requests.size > 0) await Promise.all(this.#requests)
  }

  /** Checks what QEMU's block layer calls an I/O error: a range that is not in the disk. */
  checkRange(at: number, length: number): void {
    if (at + length > this.device.size) throw new BlockError('EIO', 'the range passes the end of the disk')
  }

  read(at: number, into: IoVec): Now<void> {
    this.checkRange(at, into.byteLength)
    return this.device.read(at, into)
  }

  write(at: number, from: IoVec, fua: boolean): Now<void> {
    this.checkRange(at, from.byteLength)
    return this.device.write(at, from, fua || this.#open!.writeThrough ? { fua: true } : undefined)
  }

  zero(at: number, length: number, options: { unmap: boolean; fua: boolean }): Now<void> {
    this.checkRange(at, length)
    const done = this.device.zero(at, length, { unmap: options.unmap && this.#open!.unmap })
    if (!options.fua && !this.#open!.writeThrough) return done
    return Promise.resolve(done).then(() => this.device.flush())
  }

  discard(at: number, length: number): Now<void> {
    this.checkRange(at, length)
    if (this.#open!.unmap) return this.device.discard(at, length)
  }

  /** Says why a request failed; what blkverify found ends the program. */
  failed(what: string, error: unknown): false {
    if (/^blkverify: /.test(messageOf(error))) {
      this.err(`${messageOf(error)}\n`)
      this.ended = true
      return false
    }
    if (error instanceof Refused) throw error
    this.out(`${what} failed: ${strerror(error)}\n`)
    return false
  }
}

/** Seconds since `start`, a time of process.hrtime.bigint(). */
export function secondsSince(start: bigint): number {
  return Number(process.hrtime.bigint() - start) / 1e9
}
