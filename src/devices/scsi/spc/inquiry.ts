/** INQUIRY: standard data and vital product data (SPC-4 6.6 and 7.8). */

import { type CommandSpec, u16 } from '../command.ts'
import { ascii, type Identity } from '../identity.ts'
import { invalidCdb } from '../sense.ts'

/** A vital product data page. */
export interface VpdPage {
  readonly code: number
  /** The page after its four header bytes. */
  readonly body: () => Uint8Array
}

/** What the target port adds to standard INQUIRY data. */
export interface PortFlags {
  /** WBUS16 and SYNC, bits 5 and 4 of byte 7, of a parallel bus (SPI-4 15.3.1). */
  readonly byte7?: number
  /** CLOCKING, QAS and IUS, bits 3 to 0 of byte 56. */
  readonly byte56?: number
  /** Physical interface that MMC drives tell (MMC-6 table 94): 1 (default) SCSI, 2 ATAPI, whose drives queue nothing. */
  readonly interface?: 1 | 2
}

/** A unit as INQUIRY sees it. */
export interface Inquired {
  readonly deviceType: number
  readonly identity: Identity
  readonly removable: boolean
  /** Version descriptors (SPC-4 6.6.2), at most 8. */
  readonly versions: readonly number[]
  readonly portFlags: PortFlags
  readonly vpdPages: readonly VpdPage[]
}

export const VPD_SUPPORTED = 0x00
export const VPD_SERIAL = 0x80
export const VPD_IDENTIFICATION = 0x83

const LENGTH = 96
const VERSION_SPC4 = 0x06
const HISUP = 0x10
const CMDQUE = 0x02

/** Standard INQUIRY data, 96 bytes. */
export function standardInquiry(unit: Inquired): Uint8Array {
  const data = new Uint8Array(LENGTH)
  data[0] = unit.deviceType
  data[1] = unit.removable ? 0x80 : 0
  data[2] = VERSION_SPC4
  data[3] = HISUP | 0x02
  data[4] = LENGTH - 5
  data[7] = (unit.portFlags.interface === 2 ? 0 : CMDQUE) | (unit.portFlags.byte7 ?? 0)
  data.set(ascii(unit.identity.vendor), 8)
  data.set(ascii(unit.identity.product), 16)
  data.set(ascii(unit.identity.revision), 32)
  data[56] = unit.portFlags.byte56 ?? 0
  unit.versions.forEach((version, i) => {
    data[58 + 2 * i] = version >>> 8
    data[59 + 2 * i] = version & 0xff
  })
  return data
}

/** A page with its header. */
export function vpdPage(deviceType: number, page: VpdPage): Uint8Array {
  const body = page.body()
  const data = new Uint8Array(4 + body.length)
  data.set([deviceType, page.code, body.length >>> 8, body.length & 0xff])
  data.set(body, 4)
  return data
}

/** Pages 80h and 83h, where there is something to say in them. */
export function identityPages({ vendor, product, serial, deviceId, wwn, portWwn }: Identity): VpdPage[] {
  const pages: VpdPage[] = []
  if (serial !== '') pages.push({ code: VPD_SERIAL, body: () => ascii(serial) })
  const designators: Uint8Array[] = []
  if (wwn !== undefined) designators.push(designator(BINARY, NAA, LOGICAL_UNIT, naa(wwn)))
  // A vendor-based designator must not be the same for two units, so without an id there is none
  if (deviceId !== '') designators.push(designator(ASCII, T10, LOGICAL_UNIT, ascii(vendor + product + deviceId)))
  if (portWwn !== undefined) designators.push(designator(BINARY, NAA, TARGET_PORT, naa(portWwn)))
  designators.push(designator(BINARY, RELATIVE_PORT, TARGET_PORT, Uint8Array.of(0, 0, 0, 1)))
  const body = new Uint8Array(designators.reduce((length, one) => length + one.length, 0))
  let at = 0
  for (const one of designators) {
    body.set(one, at)
    at += one.length
  }
  pages.push({ code: VPD_IDENTIFICATION, body: () => body })
  return pages
}

// SPC-4 7.8.6: code sets, designator types, associations
const BINARY = 1
const ASCII = 2
const T10 = 1
const NAA = 3
const RELATIVE_PORT = 4
const LOGICAL_UNIT = 0
const TARGET_PORT = 1

function designator(codeSet: number, type: number, association: number, value: Uint8Array): Uint8Array {
  return Uint8Array.of(codeSet, (association << 4) | type, 0, value.length, ...value)
}

function naa(name: bigint): Uint8Array {
  const bytes = new Uint8Array(8)
  new DataView(bytes.buffer).setBigUint64(0, name)
  return bytes
}

/** INQUIRY of a unit. */
export function inquiryCommand(unit: Inquired): CommandSpec {
  return {
    name: 'INQUIRY',
    opcode: 0x12,
    usage: '12 01 ff ff ff 00',
    access: 'any',
    unmindful: true,
    run(task) {
      const { cdb } = task
      const allocation = u16(cdb, 3)
      const code = cdb[2]!
      if ((cdb[1]! & 1) === 0) {
        if (code !== 0) throw invalidCdb(2, 7)
        task.reply(standardInquiry(unit), allocation)
        return
      }
      const pages = unit.vpdPages
      if (code === VPD_SUPPORTED) {
        const codes = Uint8Array.from([VPD_SUPPORTED, ...pages.map((page) => page.code)].sort((a, b) => a - b))
        task.reply(vpdPage(unit.deviceType, { code, body: () => codes }), allocation)
        return
      }
      const page = pages.find((other) => other.code === code)
      if (page === undefined) throw invalidCdb(2, 7)
      task.reply(vpdPage(unit.deviceType, page), allocation)
    },
  }
}
