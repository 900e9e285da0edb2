/** A raw file whose size is no multiple of a sector, as a disk of whole sectors: the last ends with zeroes. */
import type { BlockDevice, Extent } from '../../block/device.ts'
import { BlockError } from '../../block/error.ts'
import { Filter, Remap } from '../../block/filter.ts'
import type { IoVec } from '../../block/iovec.ts'
import { readPadded } from '../../block/mover.ts'
import { after, type Now } from '../../block/now.ts'

const SECTOR = 512

/** Can only be read. */
export class PaddedFile extends Remap {
  readonly name = 'raw'
  readonly readOnly = true
  readonly size: number
  readonly #file: BlockDevice

  constructor(file: BlockDevice) {
    super()
    this.#file = file
    this.size = Math.ceil(file.size / SECTOR) * SECTOR
  }

  read(at: number, into: IoVec): Now<void> {
    return readPadded(this.#file, at, into)
  }

  status(at: number, length: number): Now<Extent> {
    const there = this.#file.size - at
    if (there <= 0) return { length, kind: 'zero', at }
    return after(this.#file.status(at, Math.min(length, there)), (found) => ({ ...found, at }))
  }

  write(): Now<void> {
    throw this.#refuse()
  }

  zero(): Now<void> {
    throw this.#refuse()
  }

  discard(): Now<void> {
    throw this.#refuse()
  }

  resize(): Now<void> {
    throw this.#refuse()
  }

  flush(): Now<void> {}

  close(): Now<void> {
    return this.#file.close()
  }

  #refuse(): BlockError {
    return new BlockError('EROFS', 'Cannot change a raw image whose size is no multiple of 512 bytes')
  }
}

/** A raw file of any size, as it is. */
export class WholeFile extends Filter {
  readonly name = 'raw'

  get plain() {
    return { device: this.next, offset: 0 }
  }
}
