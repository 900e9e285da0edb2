/** The mode pages and the vital product data pages of a disk (SBC-3 6.4, 6.5). */
import type { Disk } from '../../../block/disk.ts'
import type { VpdPage } from '../spc/inquiry.ts'
import type { ModePageSpec } from '../spc/mode.ts'
import { extentLimit, UNMAP_DESCRIPTORS } from './provisioning.ts'
import { COMPARE_LIMIT, PREFETCH_LIMIT } from './verify.ts'

export const PAGE_RECOVERY = 0x01
export const PAGE_CACHING = 0x08

/** A disk as its pages see it. */
export interface Described {
  readonly medium: Disk | undefined
  readonly block: number
  readonly blocks: number
  readonly isThin: boolean
  readonly readsZeroes: boolean
  readonly thresholdExponent: number
  readonly removable: boolean
  readonly rotationRate: number
}

// SBC-3 6.4.8: byte 7 (5 after the header) of the Read-Write Error Recovery page
const LBPERE_AT = 5
const LBPERE = 1 << 7
const AWRE_ARRE = 0xc0

/** Read-Write Error Recovery mode page: the host relocates by itself; events of provisioning thresholds can be turned on. */
export const recoveryPage: ModePageSpec = {
  code: PAGE_RECOVERY,
  defaults: Uint8Array.of(AWRE_ARRE, 0, 0, 0, 0, 0, 0, 0, 0, 0),
  changeable: Uint8Array.of(AWRE_ARRE, 0, 0, 0, 0, LBPERE, 0, 0, 0, 0),
}

/** Whether the page says that crossed thresholds are reported. */
export function reportsThresholds(values: Uint8Array): boolean {
  return (values[LBPERE_AT]! & LBPERE) !== 0
}

const WCE = 1 << 2

/** Caching mode page; WCE is the disk's own write cache. */
export function cachingPage(unit: { readonly medium: Disk | undefined }): ModePageSpec {
  const defaults = new Uint8Array(18)
  if (unit.medium?.writeCache) defaults[0] = WCE
  const changeable = new Uint8Array(18)
  changeable[0] = WCE
  return {
    code: PAGE_CACHING,
    defaults,
    changeable,
    refresh(values) {
      if (unit.medium === undefined) return
      values[0] = unit.medium.writeCache ? values[0]! | WCE : values[0]! & ~WCE
    },
    apply: (values) => unit.medium?.setWriteCache((values[0]! & WCE) !== 0),
  }
}

// The geometry that every PC's firmware reckons with
const HEADS = 255
const SECTORS = 63

const FORMAT_HARD_SECTORED = 0x40
const FORMAT_REMOVABLE = 0x20

/** Format Device, Rigid Disk Geometry and Flexible Disk mode pages (SCSI-2 9.3.3), as far as a disk of blocks has a geometry. */
export function geometryPages(unit: Described): ModePageSpec[] {
  const cylinders = () => Math.max(Math.ceil(unit.blocks / (HEADS * SECTORS)), 1)
  const rpm = () => (unit.rotationRate > 1 ? unit.rotationRate : 0)
  const page = (code: number, length: number, fill: (view: DataView) => void): ModePageSpec => {
    const refresh = (values: Uint8Array) => fill(new DataView(values.buffer, values.byteOffset, values.length))
    const defaults = new Uint8Array(length)
    refresh(defaults)
    return { code, defaults, refresh }
  }
  return [
    page(0x03, 22, (view) => {
      view.setUint16(0, HEADS)
      view.setUint16(8, SECTORS)
      view.setUint16(10, unit.block)
      view.setUint16(12, 1)
      view.setUint8(18, FORMAT_HARD_SECTORED | (unit.removable ? FORMAT_REMOVABLE : 0))
    }),
    page(0x04, 22, (view) => {
      view.setUint16(0, Math.min(cylinders(), 0xffffff) >>> 8)
      view.setUint8(2, Math.min(cylinders(), 0xffffff) & 0xff)
      view.setUint8(3, HEADS)
      view.setUint16(18, rpm())
    }),
    page(0x05, 30, (view) => {
      // 5000 kbit/s, as SCSI-2 table 125 has it for disks that are no diskettes
      view.setUint16(0, 0x1388)
      view.setUint8(2, HEADS)
      view.setUint8(3, SECTORS)
      view.setUint16(4, unit.block)
      view.setUint16(6, Math.min(cylinders(), 0xffff))
      view.setUint16(26, rpm())
    }),
  ]
}

export const VPD_EXTENDED_INQUIRY = 0x86
export const VPD_BLOCK_LIMITS = 0xb0
export const VPD_CHARACTERISTICS = 0xb1
export const VPD_PROVISIONING = 0xb2

const LENGTH = 0x3c

/** VPD pages of a disk: 86h, B0h, B1h and B2h. */
export function diskVpdPages(unit: Described): VpdPage[] {
  return [
    { code: VPD_EXTENDED_INQUIRY, body: () => extendedInquiry(unit) },
    { code: VPD_BLOCK_LIMITS, body: () => blockLimits(unit) },
    { code: VPD_CHARACTERISTICS, body: () => characteristics(unit) },
    { code: VPD_PROVISIONING, body: () => provisioning(unit) },
  ]
}

// SPC-4 7.8.7, indexes less 4: HEADSUP, ORDSUP, SIMPSUP; V_SUP; LUICLR; minutes of an extended self-test
function extendedInquiry({ medium }: Described): Uint8Array {
  const body = new Uint8Array(LENGTH)
  body[1] = 0x07
  body[2] = medium?.writeCache ? 1 : 0
  body[3] = 1
  return body
}

// SBC-3 6.5.3, indexes less 4
function blockLimits({ medium, block, isThin }: Described): Uint8Array {
  const body = new Uint8Array(LENGTH)
  const view = new DataView(body.buffer)
  const blocks = (bytes: number) => Math.floor(bytes / block)
  body[0] = 1 // WSNZ
  body[1] = COMPARE_LIMIT
  view.setUint16(2, Math.min(blocks(medium?.minIoSize ?? 0), 0xffff))
  view.setUint32(8, blocks(medium?.optIoSize ?? 0))
  view.setUint32(12, blocks(PREFETCH_LIMIT))
  if (isThin) {
    view.setUint32(16, extentLimit(block))
    view.setUint32(20, UNMAP_DESCRIPTORS)
    view.setUint32(24, Math.max(blocks(medium?.discardGranularity ?? block), 1))
    view.setUint32(28, 0x80000000) // UGAVALID, alignment 0
  }
  view.setBigUint64(32, BigInt(extentLimit(block)))
  return body
}

// SBC-3 6.5.2, indexes less 4
function characteristics({ rotationRate }: Described): Uint8Array {
  const body = new Uint8Array(LENGTH)
  new DataView(body.buffer).setUint16(0, rotationRate)
  return body
}

const LBPU = 1 << 7
const LBPWS = 1 << 6
const LBPWS10 = 1 << 5
const LBPRZ = 1 << 2
const TYPE_FULL = 0
const TYPE_THIN = 2

// SBC-3 6.5.4, indexes less 4
function provisioning({ isThin, readsZeroes, thresholdExponent }: Described): Uint8Array {
  if (!isThin) return Uint8Array.of(0, 0, TYPE_FULL, 0)
  return Uint8Array.of(thresholdExponent, LBPU | LBPWS | LBPWS10 | (readsZeroes ? LBPRZ : 0), TYPE_THIN, 0)
}
