/** How an open image came about: for jobs, which open it again in another way or name it in another image's header. */
import type { BlockDevice, BlockDriver } from './device.ts'

/** Where an image is and how it is opened. */
export interface Layer {
  /** Full name of its file; undefined if it has none. */
  readonly file: string | undefined
  readonly format: string
  /** The file below the format. */
  readonly medium: BlockDevice
  /** Opens its file once more, with its locks unless `trial`; absent, the driver is all there is. */
  openMedium?(readOnly: boolean, trial?: boolean): Promise<BlockDevice>
  /** Opens the image in `medium`, which it then owns; `backing` stands in for the backing file, if it has one. */
  openImage(medium: BlockDevice, readOnly: boolean, backing: BlockDevice | undefined): Promise<BlockDriver>
}

const layers = new WeakMap<BlockDriver, Layer>()

/** Notes how a driver came about. */
export function noteLayer(driver: BlockDriver, layer: Layer): void {
  layers.set(driver, layer)
}

/** How the driver of a device came about, if it is an image that was opened by name or from a driver. */
export function layerOf(device: BlockDevice): Layer | undefined {
  return layers.get(device.driver)
}
