/** Raw: the image is the disk, or a window of it. */
import type { BlockDevice, Extent, WriteOptions, ZeroOptions } from '../device.ts'
import { BlockError } from '../error.ts'
import { Filter, Remap } from '../filter.ts'
import type { FormatDriver, FormatOpenOptions } from '../format.ts'
import type { IoVec } from '../iovec.ts'
import { after, type Now } from '../now.ts'

const SECTOR = 512

/** The whole file. */
class Raw extends Filter {
  readonly name = 'raw'

  get plain() {
    return { device: this.next, offset: 0 }
  }

  get unseen(): boolean {
    return this.next.unseen
  }

  override status(at: number, length: number): Now<Extent> {
    return after(this.next.status(at, length), (extent) => ({ ...extent, at }))
  }
}

/** The whole file, for who debugs it. */
class DebuggedRaw extends Raw {
  override read(at: number, into: IoVec): Now<void> {
    return after(this.next.debug?.event('read_aio'), () => this.next.read(at, into))
  }

  override write(at: number, from: IoVec, options?: WriteOptions): Now<void> {
    return after(this.next.debug?.event('write_aio'), () => this.next.write(at, from, options))
  }
}

/** `size` bytes of `file` from `offset` on. */
class RawWindow extends Remap {
  readonly name = 'raw'
  readonly #file: BlockDevice
  readonly #offset: number
  readonly #size: number

  constructor(file: BlockDevice, offset: number, size: number) {
    super()
    this.#file = file
    this.#offset = offset
    this.#size = size
  }

  get size(): number {
    return this.#size
  }

  get readOnly(): boolean {
    return this.#file.readOnly
  }

  get canDiscard(): boolean {
    return this.#file.canDiscard
  }

  get discardGranularity(): number {
    return this.#file.discardGranularity
  }

  get plain() {
    return { device: this.#file, offset: this.#offset }
  }

  get debug() {
    return this.#file.debug
  }

  read(at: number, into: IoVec): Now<void> {
    return this.#file.read(this.#offset + at, into)
  }

  write(at: number, from: IoVec, options?: WriteOptions): Now<void> {
    return this.#file.write(this.#offset + at, from, options)
  }

  flush(): Now<void> {
    return this.#file.flush()
  }

  zero(at: number, length: number, options?: ZeroOptions): Now<void> {
    return this.#file.zero(this.#offset + at, length, options)
  }

  discard(at: number, length: number): Now<void> {
    return this.#file.discard(this.#offset + at, length)
  }

  status(at: number, length: number): Now<Extent> {
    return after(this.#file.status(this.#offset + at, length), (extent) => ({ ...extent, at: this.#offset + at }))
  }

  resize(size: number): Now<void> {
    throw new BlockError('ENOTSUP', `Cannot resize a raw image to ${size} bytes: it is a window of ${this.#size} bytes`)
  }

  close(): Now<void> {
    return this.#file.close()
  }
}

function bytes(options: FormatOpenOptions, key: string): number | undefined {
  const value = options.options[key]
  if (value === undefined) return undefined
  if (Number.isSafeInteger(value) && (value as number) >= 0) return value as number
  throw new BlockError('EINVAL', `Cannot open ${options.name}: ${key} is ${value}, must be a number of bytes`)
}

export const raw = {
  name: 'raw',
  openOptions: ['offset', 'size'],
  probe: () => 1,
  open(file, options) {
    const offset = bytes(options, 'offset') ?? 0
    const size = bytes(options, 'size')
    if (offset > file.size || (size !== undefined && size > file.size - offset)) {
      throw new BlockError(
        'EINVAL',
        `Cannot open ${options.name}: offset ${offset}${size === undefined ? '' : ` with size ${size}`} passes its ${file.size} bytes`,
      )
    }
    const length = size ?? file.size - offset
    if (length % SECTOR !== 0) {
      const whole = length - (length % SECTOR)
      throw new BlockError(
        'EINVAL',
        `Cannot open ${options.name} as a raw disk: its size ${length} is no multiple of 512 bytes; ` +
          `is it of another format? If not, lengthen it to ${whole + SECTOR} bytes or say size=${whole} to use what is whole`,
      )
    }
    return offset === 0 && length === file.size && size === undefined
      ? new (file.debug === undefined ? Raw : DebuggedRaw)(file)
      : new RawWindow(file, offset, length)
  },
  create(file, options) {
    return after(file.resize(options.size), () => file.flush())
  },
} satisfies FormatDriver
