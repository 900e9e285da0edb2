/**
 * The image that convert and dd make. It grows under another name and takes its own when it is whole: whoever kills the tool at any
 * moment finds what was there before, or nothing, and beside it at most a file that ends in `.block86-partial`.
 */
import { chmodSync, chownSync, existsSync, realpathSync, renameSync, rmSync, statSync } from 'node:fs'
import path from 'node:path'
import { host } from '#host'
import type { BlockDevice } from '../../block/device.ts'
import { errnoOf } from '../../block/error.ts'
import type { FormatDriver } from '../../block/format.ts'
import { Failure } from './console.ts'
import type { FormatOption, OptionValues } from './format-options.ts'
import { makeImage } from './make.ts'
import { type Flags, openFile } from './open.ts'
import { Reason } from './reasons.ts'

const SUFFIX = '.block86-partial'

/** A place that an image is made in. */
export class Target {
  /** Where it is while it is made. */
  readonly path: string
  /** It reads as zeroes: it is a new file, not a device or a place elsewhere. */
  readonly fresh: boolean
  readonly #final: string | undefined

  private constructor(place: string, final: string | undefined, fresh = true) {
    this.path = place
    this.fresh = fresh
    this.#final = final
  }

  /** Makes the image; failures have no name before them. Unless `durable`, it may be gone after a power cut. */
  static async make(
    name: string,
    format: FormatDriver,
    size: number,
    known: readonly FormatOption[],
    values: OptionValues,
    durable: boolean,
  ): Promise<Target> {
    const final = await settled(name)
    if (final !== undefined) {
      const target = new Target(final + SUFFIX, final)
      try {
        await makeImage(target.path, format, size, known, values, name, durable)
        return target
      } catch (error) {
        if (
          !(
            error instanceof Failure &&
            /Permission denied|Read-only file system/.test(error.message) &&
            existsSync(final)
          )
        ) {
          if (!(error instanceof Failure && error.message.includes('lock'))) target.abandon()
          throw error
        }
        // The folder takes no new file, but the file is there and may be written: in place, then.
      }
    }
    await makeImage(name, format, size, known, values, name, durable)
    return new Target(name, undefined, final !== undefined)
  }

  /** Makes the image as a copy that shares the space of the file `from`; undefined where the file system cannot. */
  static async clone(name: string, from: string): Promise<Target | undefined> {
    const final = await settled(name)
    if (final === undefined) return undefined
    const target = new Target(final + SUFFIX, final)
    target.abandon()
    return (await host.cloneFile(from, target.path)) ? target : undefined
  }

  /** The image is whole, closed and may have its name. */
  keep(): void {
    if (this.#final === undefined) return
    if (existsSync(this.#final)) keepMode(this.#final, this.path)
    renameSync(this.path, this.#final)
  }

  /** It will never be whole. */
  abandon(): void {
    if (this.#final !== undefined) rmSync(this.path, { force: true })
  }
}

function keepMode(from: string, to: string): void {
  const { mode, uid, gid } = statSync(from)
  try {
    chownSync(to, uid, gid)
  } catch {
    // Somebody else's file becomes ours: who may write its folder may do that.
  }
  chmodSync(to, mode & 0o7777)
}

/** The full name of what is to be a file; undefined if it is something that cannot be made beside itself. */
async function settled(name: string): Promise<string | undefined> {
  if (/^[a-z][a-z0-9+.-]*:/i.test(name.split('/', 1)[0]!) && !name.startsWith('file:')) return undefined
  const plain = name.replace(/^file:(?:\/\/(?=\/))?/, '')
  let real: string
  try {
    real = realpathSync(plain)
  } catch {
    return path.join(path.dirname(path.resolve(plain)), path.basename(plain))
  }
  if (!statSync(real).isFile()) return undefined
  await refuseIfUsed(plain)
  return real
}

/** Whoever uses what is there must not find another file in its place. */
async function refuseIfUsed(name: string): Promise<void> {
  const flags: Flags = { readOnly: false }
  let file: BlockDevice
  try {
    file = await openFile(name, flags)
  } catch (error) {
    if (!(error instanceof Reason)) throw error
    const code = errnoOf(error)
    throw new Failure(code === 'EBUSY' ? error.message : error.message.replace('Could not open', 'Could not create'))
  }
  await file.close()
}
