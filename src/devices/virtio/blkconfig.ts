/** The configuration space of virtio-blk, from what the disk is (5.2.4). */
import type { Disk } from '../../block/disk.ts'
import { type RangeLimit, SECTOR } from './request.ts'

/** Bytes of struct virtio_blk_config of virtio 1.2. */
const CONFIG_BYTES = 72
/** Offset of `writeback`, the only field that the driver writes. */
export const CONFIG_WRITEBACK = 32

export interface Geometry {
  readonly cyls: number
  readonly heads: number
  readonly secs: number
}

/** What the fields are filled from, besides the disk. */
export interface BlkLayout {
  readonly geometry: Geometry | undefined
  readonly sizeMax: number
  readonly segMax: number
  readonly queues: number
  readonly discard: RangeLimit | undefined
  readonly writeZeroes: RangeLimit | undefined
  readonly secureErase: RangeLimit | undefined
}

/** Sectors that a discard should be aligned to. */
export function discardAlignment(disk: Disk): number {
  return disk.discardGranularity / SECTOR
}

/** Fills a new configuration space. */
export function blkConfig(disk: Disk, layout: BlkLayout): Uint8Array {
  const config = new Uint8Array(CONFIG_BYTES)
  const view = new DataView(config.buffer)
  const { cyls, heads, secs } = layout.geometry ?? guess(disk.size)
  const block = disk.logicalBlockSize
  view.setUint32(8, layout.sizeMax, true)
  view.setUint32(12, layout.segMax, true)
  view.setUint16(16, cyls, true)
  view.setUint8(18, heads)
  view.setUint8(19, secs)
  view.setUint32(20, block, true)
  view.setUint8(24, Math.log2(disk.physicalBlockSize / block))
  view.setUint16(26, Math.min(disk.minIoSize / block, 0xffff), true)
  view.setUint32(28, disk.optIoSize / block, true)
  view.setUint16(34, layout.queues, true)
  if (layout.discard) {
    view.setUint32(36, layout.discard.sectors, true)
    view.setUint32(40, layout.discard.segments, true)
    view.setUint32(44, discardAlignment(disk), true)
  }
  if (layout.writeZeroes) {
    view.setUint32(48, layout.writeZeroes.sectors, true)
    view.setUint32(52, layout.writeZeroes.segments, true)
    view.setUint8(56, disk.canDiscard ? 1 : 0)
  }
  if (layout.secureErase) {
    view.setUint32(60, layout.secureErase.sectors, true)
    view.setUint32(64, layout.secureErase.segments, true)
    view.setUint32(68, block / SECTOR, true)
  }
  setCapacity(config, disk)
  setWriteback(config, disk.writeCache)
  return config
}

export function setCapacity(config: Uint8Array, disk: Disk): void {
  new DataView(config.buffer).setBigUint64(0, BigInt(Math.floor(disk.size / SECTOR)), true)
}

export function setWriteback(config: Uint8Array, on: boolean): void {
  config[CONFIG_WRITEBACK] = on ? 1 : 0
}

/** The geometry that firmware has always made up: 16 heads, 63 sectors, as many cylinders as 16 bits can say. */
function guess(size: number): Geometry {
  const cyls = Math.floor(size / SECTOR / (16 * 63))
  return { cyls: Math.min(Math.max(cyls, 2), 16383), heads: 16, secs: 63 }
}
