/** Images for tests: made, opened and reopened in memory or in a file. */
import { closeSync, fdatasyncSync, fstatSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs'
import { BlockDevice, type BlockDriver } from '../../../src/block/device.ts'
import { createQcow2, type Qcow2CreateOptions } from '../../../src/block/formats/qcow2/create.ts'
import {
  openQcow2,
  type Qcow2Image,
  type Qcow2Options,
  readImageHeader,
} from '../../../src/block/formats/qcow2/image.ts'
import type { IoVec } from '../../../src/block/iovec.ts'
import { ImageDevice } from '../../../src/block/mover.ts'
import * as codecs from '../../../src/codecs/index.ts'

/** A file, by the simplest calls there are. */
export class TestFile implements BlockDriver {
  readonly name = 'file'
  readonly readOnly: boolean
  readonly #fd: number
  #size: number

  constructor(path: string, options: { create?: boolean; readOnly?: boolean } = {}) {
    this.readOnly = options.readOnly ?? false
    this.#fd = openSync(path, options.create ? 'w+' : this.readOnly ? 'r' : 'r+')
    this.#size = fstatSync(this.#fd).size
  }

  get size(): number {
    return this.#size
  }

  read(at: number, into: IoVec): void {
    let from = at
    for (const view of into.views()) {
      readSync(this.#fd, view, 0, view.length, from)
      from += view.length
    }
  }

  write(at: number, from: IoVec): void {
    let to = at
    for (const view of from.views()) {
      writeSync(this.#fd, view, 0, view.length, to)
      to += view.length
    }
  }

  flush(): void {
    fdatasyncSync(this.#fd)
  }

  resize(size: number): void {
    ftruncateSync(this.#fd, size)
    this.#size = size
  }

  close(): void {
    closeSync(this.#fd)
  }
}

/** Opens the qcow2 image in `medium`, which outlives it if it has no `close`. */
export async function openImage(
  medium: BlockDriver,
  options: Partial<Qcow2Options> = {},
): Promise<{ image: Qcow2Image; disk: BlockDevice }> {
  const file = new BlockDevice(medium)
  const header = await readImageHeader('test.qcow2', file)
  const image = await openQcow2(file, header, { name: 'test.qcow2', codecs, ...options })
  return { image, disk: new BlockDevice(new ImageDevice(image)) }
}

/** Makes a qcow2 image in `medium` and opens it. */
export async function makeImage(
  medium: BlockDriver,
  create: Partial<Qcow2CreateOptions> & { size: number },
  options: Partial<Qcow2Options> = {},
): Promise<{ image: Qcow2Image; disk: BlockDevice }> {
  await createQcow2(new BlockDevice(medium), { name: 'test.qcow2', ...create })
  return openImage(medium, options)
}
