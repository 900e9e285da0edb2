/** Sense data (SPC-4 4.5): what went wrong, in fixed and in descriptor format. */

/** Sense key, additional sense code and its qualifier. */
export type Condition = readonly [key: number, asc: number, ascq: number]

// SPC-4 table 43: sense keys
export const KEY_NO_SENSE = 0x0
export const KEY_RECOVERED_ERROR = 0x1
export const KEY_NOT_READY = 0x2
export const KEY_MEDIUM_ERROR = 0x3
export const KEY_HARDWARE_ERROR = 0x4
export const KEY_ILLEGAL_REQUEST = 0x5
export const KEY_UNIT_ATTENTION = 0x6
export const KEY_DATA_PROTECT = 0x7
export const KEY_ABORTED_COMMAND = 0xb
export const KEY_MISCOMPARE = 0xe

// SPC-4 annex E.2: additional sense codes, by the standard's words
export const NO_ADDITIONAL_SENSE: Condition = [0x0, 0x00, 0x00]
export const SANITIZE_IN_PROGRESS: Condition = [0x2, 0x04, 0x1b]
export const FORMAT_IN_PROGRESS: Condition = [0x2, 0x04, 0x04]
export const INITIALIZING_COMMAND_REQUIRED: Condition = [0x2, 0x04, 0x02]
export const SELF_TEST_IN_PROGRESS: Condition = [0x2, 0x04, 0x09]
export const BECOMING_READY: Condition = [0x2, 0x04, 0x01]
export const MEDIUM_NOT_PRESENT: Condition = [0x2, 0x3a, 0x00]
export const MEDIUM_NOT_PRESENT_TRAY_CLOSED: Condition = [0x2, 0x3a, 0x01]
export const MEDIUM_NOT_PRESENT_TRAY_OPEN: Condition = [0x2, 0x3a, 0x02]
export const WRITE_ERROR: Condition = [0x3, 0x0c, 0x00]
export const UNRECOVERED_READ_ERROR: Condition = [0x3, 0x11, 0x00]
export const FORMAT_COMMAND_FAILED: Condition = [0x3, 0x31, 0x01]
export const SANITIZE_COMMAND_FAILED: Condition = [0x3, 0x31, 0x03]
export const COMMUNICATION_FAILURE: Condition = [0x4, 0x08, 0x00]
export const LOGICAL_UNIT_FAILED_SELF_TEST: Condition = [0x4, 0x3e, 0x03]
export const TIMEOUT_ON_LOGICAL_UNIT: Condition = [0x4, 0x3e, 0x02]
export const INTERNAL_TARGET_FAILURE: Condition = [0x4, 0x44, 0x00]
export const PARAMETER_LIST_LENGTH_ERROR: Condition = [0x5, 0x1a, 0x00]
export const INVALID_COMMAND_OPERATION_CODE: Condition = [0x5, 0x20, 0x00]
export const LBA_OUT_OF_RANGE: Condition = [0x5, 0x21, 0x00]
export const INVALID_FIELD_IN_CDB: Condition = [0x5, 0x24, 0x00]
export const LOGICAL_UNIT_NOT_SUPPORTED: Condition = [0x5, 0x25, 0x00]
export const INVALID_FIELD_IN_PARAMETER_LIST: Condition = [0x5, 0x26, 0x00]
export const INVALID_RELEASE_OF_PERSISTENT_RESERVATION: Condition = [0x5, 0x26, 0x04]
export const COMMAND_SEQUENCE_ERROR: Condition = [0x5, 0x2c, 0x00]
export const CANNOT_READ_MEDIUM_INCOMPATIBLE_FORMAT: Condition = [0x5, 0x30, 0x02]
export const SAVING_PARAMETERS_NOT_SUPPORTED: Condition = [0x5, 0x39, 0x00]
export const INITIATOR_DETECTED_ERROR_MESSAGE_RECEIVED: Condition = [0xb, 0x48, 0x00]
export const INVALID_MESSAGE_ERROR: Condition = [0xb, 0x49, 0x00]
export const MEDIUM_REMOVAL_PREVENTED: Condition = [0x5, 0x53, 0x02]
export const INSUFFICIENT_REGISTRATION_RESOURCES: Condition = [0x5, 0x55, 0x04]
export const ILLEGAL_MODE_FOR_THIS_TRACK: Condition = [0x5, 0x64, 0x00]
export const MEDIUM_MAY_HAVE_CHANGED: Condition = [0x6, 0x28, 0x00]
export const POWER_ON_OR_RESET: Condition = [0x6, 0x29, 0x00]
export const POWER_ON_OCCURRED: Condition = [0x6, 0x29, 0x01]
export const SCSI_BUS_RESET_OCCURRED: Condition = [0x6, 0x29, 0x02]
export const BUS_DEVICE_RESET_OCCURRED: Condition = [0x6, 0x29, 0x03]
export const NEXUS_LOSS_OCCURRED: Condition = [0x6, 0x29, 0x07]
export const MODE_PARAMETERS_CHANGED: Condition = [0x6, 0x2a, 0x01]
export const LOG_PARAMETERS_CHANGED: Condition = [0x6, 0x2a, 0x02]
export const RESERVATIONS_PREEMPTED: Condition = [0x6, 0x2a, 0x03]
export const RESERVATIONS_RELEASED: Condition = [0x6, 0x2a, 0x04]
export const REGISTRATIONS_PREEMPTED: Condition = [0x6, 0x2a, 0x05]
export const CAPACITY_DATA_HAS_CHANGED: Condition = [0x6, 0x2a, 0x09]
export const COMMANDS_CLEARED_BY_ANOTHER_INITIATOR: Condition = [0x6, 0x2f, 0x00]
export const THIN_PROVISIONING_SOFT_THRESHOLD_REACHED: Condition = [0x6, 0x38, 0x07]
export const INQUIRY_DATA_HAS_CHANGED: Condition = [0x6, 0x3f, 0x03]
export const REPORTED_LUNS_DATA_HAS_CHANGED: Condition = [0x6, 0x3f, 0x0e]
export const OPERATOR_MEDIUM_REMOVAL_REQUEST: Condition = [0x6, 0x5a, 0x01]
export const WRITE_PROTECTED: Condition = [0x7, 0x27, 0x00]
export const SPACE_ALLOCATION_FAILED: Condition = [0x7, 0x27, 0x07]
export const DATA_PHASE_ERROR: Condition = [0xb, 0x4b, 0x00]
export const OVERLAPPED_COMMANDS_ATTEMPTED: Condition = [0xb, 0x4e, 0x00]
export const INSUFFICIENT_RESOURCES: Condition = [0xb, 0x55, 0x03]
export const MISCOMPARE_DURING_VERIFY: Condition = [0xe, 0x1d, 0x00]

/** Where the wrong field is (SPC-4 4.5.2.4.2): in the CDB or in the parameter list, a byte and, if known, its top bit. */
export interface FieldPointer {
  readonly cdb: boolean
  readonly byte: number
  readonly bit?: number
}

/** All that one sense data block can say here. */
export interface Sense {
  readonly condition: Condition
  /** INFORMATION field: an LBA, an offset or a count, as the command's standard says. */
  readonly information?: number
  /** COMMAND-SPECIFIC INFORMATION field. */
  readonly specific?: number
  readonly field?: FieldPointer
  /** PROGRESS INDICATION, of 65536. */
  readonly progress?: number
  /** The transfer's length was not the medium's (ILI). */
  readonly wrongLength?: boolean
  /** The error belongs to an earlier command (SPC-4 4.5.6). */
  readonly deferred?: boolean
}

/** Thrown by a command's handler: the command ends with CHECK CONDITION and this sense data. */
export class CheckCondition extends Error implements Sense {
  override readonly name = 'CheckCondition'
  readonly condition: Condition
  declare readonly information?: number
  declare readonly specific?: number
  declare readonly field?: FieldPointer
  declare readonly progress?: number
  declare readonly deferred?: boolean
  declare readonly wrongLength?: boolean
  /** Bytes of the transfer that failed which were still moved well, from its start. */
  readonly moved: number

  constructor(condition: Condition, more: Omit<Sense, 'condition'> & { moved?: number } = {}) {
    super(`sense ${condition.map((part) => part.toString(16).padStart(2, '0')).join('/')}`)
    this.condition = condition
    const { moved, ...rest } = more
    this.moved = moved ?? 0
    Object.assign(this, rest)
  }
}

/** INVALID FIELD IN CDB at byte `byte`; `bit` is the field's most significant one. */
export function invalidCdb(byte: number, bit?: number): CheckCondition {
  return new CheckCondition(INVALID_FIELD_IN_CDB, {
    field: bit === undefined ? { cdb: true, byte } : { cdb: true, byte, bit },
  })
}

/** INVALID FIELD IN PARAMETER LIST at byte `byte`; `bit` is the field's most significant one. */
export function invalidParameter(byte: number, bit?: number): CheckCondition {
  return new CheckCondition(INVALID_FIELD_IN_PARAMETER_LIST, {
    field: bit === undefined ? { cdb: false, byte } : { cdb: false, byte, bit },
  })
}

/** Sense data as bytes: 18 in fixed format, or in descriptor format what is needed. */
export function encodeSense(sense: Sense, descriptor = false): Uint8Array {
  return descriptor ? descriptorFormat(sense) : fixedFormat(sense)
}

/** SENSE KEY SPECIFIC, 3 bytes, or nothing (SPC-4 4.5.2.4). */
function keySpecific(sense: Sense): readonly [number, number, number] | undefined {
  if (sense.field !== undefined) {
    const { cdb, byte, bit } = sense.field
    const flags = 0x80 | (cdb ? 0x40 : 0) | (bit === undefined ? 0 : 0x08 | bit)
    return [flags, (byte >>> 8) & 0xff, byte & 0xff]
  }
  if (sense.progress !== undefined) {
    const progress = Math.min(Math.max(Math.floor(sense.progress), 0), 0xffff)
    return [0x80, progress >>> 8, progress & 0xff]
  }
  return undefined
}

// SPC-4 4.5.3: a value that needs more than four bytes leaves VALID zero
function fixedFormat(sense: Sense): Uint8Array {
  const bytes = new Uint8Array(18)
  const view = new DataView(bytes.buffer)
  bytes[0] = sense.deferred ? 0x71 : 0x70
  bytes[2] = sense.condition[0] | (sense.wrongLength ? 0x20 : 0)
  if (sense.information !== undefined && sense.information <= 0xffffffff) {
    bytes[0] |= 0x80
    view.setUint32(3, sense.information)
  }
  bytes[7] = 10
  if (sense.specific !== undefined && sense.specific <= 0xffffffff) view.setUint32(8, sense.specific)
  bytes[12] = sense.condition[1]
  bytes[13] = sense.condition[2]
  const specific = keySpecific(sense)
  if (specific) bytes.set(specific, 15)
  return bytes
}

// SPC-4 4.5.2: descriptors 00h information, 01h command specific, 02h sense key specific, 05h block commands
function descriptorFormat(sense: Sense): Uint8Array {
  const bytes = new Uint8Array(8 + 12 + 12 + 8 + 4)
  const view = new DataView(bytes.buffer)
  let at = 8
  bytes[0] = sense.deferred ? 0x73 : 0x72
  bytes.set(sense.condition, 1)
  if (sense.information !== undefined) {
    bytes.set([0x00, 0x0a, 0x80], at)
    view.setBigUint64(at + 4, BigInt(sense.information))
    at += 12
  }
  if (sense.specific !== undefined) {
    bytes.set([0x01, 0x0a], at)
    view.setBigUint64(at + 4, BigInt(sense.specific))
    at += 12
  }
  const specific = keySpecific(sense)
  if (specific) {
    bytes.set([0x02, 0x06, 0, 0, ...specific], at)
    at += 8
  }
  if (sense.wrongLength) {
    bytes.set([0x05, 0x02, 0, 0x20], at)
    at += 4
  }
  bytes[7] = at - 8
  return bytes.slice(0, at)
}
