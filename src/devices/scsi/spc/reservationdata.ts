/** Types of persistent reservations, and the parameter data of PERSISTENT RESERVE IN (SPC-4 5.13, 6.15). */

// SPC-4 table 66: persistent reservation types
const WRITE_EXCLUSIVE = 0x1
const EXCLUSIVE_ACCESS = 0x3
const WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 0x5
const EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 0x6
const WRITE_EXCLUSIVE_ALL_REGISTRANTS = 0x7
const EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 0x8

/** All types there are. */
export const TYPES: readonly number[] = [
  WRITE_EXCLUSIVE,
  EXCLUSIVE_ACCESS,
  WRITE_EXCLUSIVE_REGISTRANTS_ONLY,
  EXCLUSIVE_ACCESS_REGISTRANTS_ONLY,
  WRITE_EXCLUSIVE_ALL_REGISTRANTS,
  EXCLUSIVE_ACCESS_ALL_REGISTRANTS,
]

/** Whether everyone registered holds such a reservation. */
export const ofAllRegistrants = (type: number): boolean => type >= WRITE_EXCLUSIVE_ALL_REGISTRANTS

/** Whether everyone registered may do as its holder. */
export const ofRegistrants = (type: number): boolean => type >= WRITE_EXCLUSIVE_REGISTRANTS_ONLY

/** Whether anyone may read. */
export const letsRead = (type: number): boolean =>
  type === WRITE_EXCLUSIVE || type === WRITE_EXCLUSIVE_REGISTRANTS_ONLY || type === WRITE_EXCLUSIVE_ALL_REGISTRANTS

/** A reservation; `holder` made it, which means nothing for the types of all registrants. */
export interface Reservation {
  readonly holder: number
  readonly type: number
}

/** What the commands report. */
export interface ReservationData {
  readonly generation: number
  /** Reservation keys by initiator port. */
  readonly keys: ReadonlyMap<number, bigint>
  readonly reservation: Reservation | undefined
}

const HEADER = 8
const KEY = 8
const TRANSPORT_ID = 24
const FULL_STATUS = 24 + TRANSPORT_ID
/** Protocol identifier of a parallel bus. */
const SPI = 0x01
/** TYPE MASK of REPORT CAPABILITIES (SPC-4 table 185): the six types above. */
const TYPE_MASK = 0xea01

/** READ KEYS (SPC-4 6.15.2). */
export function keysData({ generation, keys }: ReservationData): Uint8Array {
  const bytes = new Uint8Array(HEADER + KEY * keys.size)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, generation)
  view.setUint32(4, KEY * keys.size)
  let at = HEADER
  for (const key of keys.values()) {
    view.setBigUint64(at, key)
    at += KEY
  }
  return bytes
}

/** READ RESERVATION (SPC-4 6.15.3). */
export function reservationData({ generation, keys, reservation }: ReservationData): Uint8Array {
  const bytes = new Uint8Array(reservation === undefined ? HEADER : HEADER + 16)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, generation)
  if (reservation === undefined) return bytes
  view.setUint32(4, 16)
  // Of all registrants, nobody's key is the holder's
  if (!ofAllRegistrants(reservation.type)) view.setBigUint64(HEADER, keys.get(reservation.holder) ?? 0n)
  bytes[21] = reservation.type
  return bytes
}

/** REPORT CAPABILITIES (SPC-4 6.15.4): TMV, ALLOW COMMANDS 001b, the type mask; no CRH, SIP_C, ATP_C or PTPL_C. */
export function capabilitiesData(): Uint8Array {
  return Uint8Array.of(0, 8, 0, 0x80 | (1 << 4), TYPE_MASK >>> 8, TYPE_MASK & 0xff, 0, 0)
}

/** READ FULL STATUS (SPC-4 6.15.5); `holds` tells who holds the reservation. */
export function fullStatusData(
  { generation, keys, reservation }: ReservationData,
  holds: (initiator: number) => boolean,
): Uint8Array {
  const bytes = new Uint8Array(HEADER + FULL_STATUS * keys.size)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, generation)
  view.setUint32(4, FULL_STATUS * keys.size)
  let at = HEADER
  for (const [initiator, key] of keys) {
    view.setBigUint64(at, key)
    if (reservation !== undefined && holds(initiator)) bytes.set([1, reservation.type], at + 12)
    view.setUint16(at + 18, 1)
    view.setUint32(at + 20, TRANSPORT_ID)
    // SPC-4 7.6.4.3: the SCSI id, and the port that it is known by
    bytes[at + 24] = SPI
    view.setUint16(at + 26, initiator)
    view.setUint16(at + 30, 1)
    at += FULL_STATUS
  }
  return bytes
}
