/** A disk's chain of images: what its layers hold, how they are named, opened again and taken out. */
import type { BlockDevice, BlockDriver, Extent, ExtentKind } from '../device.ts'
import { BlockError, messageOf } from '../error.ts'
import { Filter } from '../filter.ts'
import type { Image } from '../image.ts'
import { type Layer, layerOf } from '../layer.ts'
import { ImageDevice } from '../mover.ts'
import { after, type Now } from '../now.ts'

/**
 * What `top` and the layers below it, down to `base` but without it, hold at `at`: `hole` where none of them has anything. Without a
 * base everything is data or zeroes.
 */
export function statusAbove(
  top: BlockDevice,
  base: BlockDevice | undefined,
  at: number,
  length: number,
): Now<{ length: number; kind: ExtentKind }> {
  const within = Math.min(length, top.size - at)
  // What is past the end of a layer shows as zeroes, whatever is below it.
  if (within <= 0) return { length, kind: 'zero' }
  return after(top.status(at, within), (extent: Extent) => {
    if (extent.kind !== 'hole') return extent
    const next = top.backing
    if (next === undefined) return { length: extent.length, kind: 'zero' }
    if (next === base) return { length: extent.length, kind: 'hole' }
    return statusAbove(next, base, at, extent.length)
  })
}

/** The layers from `top` down. */
export function* layers(top: BlockDevice): Generator<BlockDevice> {
  for (let layer: BlockDevice | undefined = top; layer !== undefined; layer = layer.backing) yield layer
}

/** The layer that is in file `name` (its full name, or what it ends in after a slash), or the device itself; EINVAL if there is none. */
export function findLayer(top: BlockDevice, wanted: BlockDevice | string, what: string): BlockDevice {
  for (const layer of layers(top)) {
    if (layer === wanted) return layer
    const file = layerOf(layer)?.file
    if (typeof wanted === 'string' && (file === wanted || file?.endsWith(`/${wanted.replace(/^\.\//, '')}`)))
      return layer
  }
  const name = typeof wanted === 'string' ? wanted : wanted.name
  throw new BlockError('EINVAL', `Cannot find the ${what} ${name} among the images of the disk`)
}

/** The image in a device; ENOTSUP if it has none of a format that can do that. */
export function imageOf(device: BlockDevice, doing: string): Image & Required<Pick<Image, 'changeBacking'>> {
  const image = device.driver instanceof ImageDevice ? device.driver.image : undefined
  if (image?.changeBacking !== undefined) return image as Image & Required<Pick<Image, 'changeBacking'>>
  const format = layerOf(device)?.format ?? device.name
  throw new BlockError('ENOTSUP', `${doing}: ${format} images cannot be given another backing file`)
}

/** How a layer came about; ENOTSUP if nobody knows. */
export function knownLayer(device: BlockDevice, doing: string): Layer {
  const layer = layerOf(device)
  if (layer !== undefined) return layer
  throw new BlockError('ENOTSUP', `${doing}: ${device.name} was not opened by name`)
}

/** What the header of the image in file `from` says to mean the layer `to`: short if both are in one folder. */
export function nameFor(from: string | undefined, to: BlockDevice, doing: string): { name: string; format: string } {
  const { file, format } = knownLayer(to, doing)
  if (file === undefined) throw new BlockError('ENOTSUP', `${doing}: ${to.name} has no file name`)
  const folder = file.slice(0, file.lastIndexOf('/') + 1)
  const near = from !== undefined && folder !== '' && from.slice(0, from.lastIndexOf('/') + 1) === folder
  return { name: near ? file.slice(folder.length) : file, format }
}

/** Passes everything on but the end: somebody else has the device too. */
export class Borrowed extends Filter {
  readonly name: string

  constructor(next: BlockDevice) {
    super(next)
    this.name = next.name
  }

  get plain() {
    return { device: this.next, offset: 0 }
  }

  override close(): void {}
}

/**
 * Opens the image in `device` again, to be written or read-only, while nobody uses it; the layers below are in other devices
 * afterwards. On failure it is as before; but if even that cannot be opened any more, every request fails from then on.
 */
export async function reopen(device: BlockDevice, readOnly: boolean, doing: string): Promise<void> {
  if (device.readOnly === readOnly) return
  const layer = knownLayer(device, doing)
  const { openMedium } = layer
  // Whoever flushes from now on reaches another file.
  if (!device.readOnly) await device.flush()
  // Whether it can be written at all is found out while there is a way back.
  if (!readOnly && openMedium !== undefined) await (await openMedium(false, true)).close()
  const backing = device.backing?.handOver()
  let own = layer.medium.handOver()
  layer.medium.replace(new Borrowed(own))
  const open = async (readOnly: boolean) => {
    if (openMedium !== undefined) {
      await own.close()
      own = await openMedium(readOnly)
    }
    device.replace(await layer.openImage(own, readOnly, backing))
  }
  const before = device.readOnly
  try {
    await device.driver.close?.()
    await open(readOnly)
  } catch (error) {
    try {
      await open(before)
    } catch (second) {
      device.replace(lost(device, second))
      await Promise.allSettled([own.close(), backing?.close()])
    }
    throw error
  }
}

/** What is left of an image that cannot be opened any more. */
function lost(device: BlockDevice, cause: unknown): BlockDriver {
  const fail = () => {
    throw new BlockError('EIO', `Cannot use ${device.name}: it could not be opened again: ${messageOf(cause)}`, {
      cause,
    })
  }
  return { name: device.name, size: device.size, read: fail, write: fail, flush: fail }
}
