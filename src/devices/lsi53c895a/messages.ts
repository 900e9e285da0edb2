/** Messages of the parallel bus (SPI-3, chapter 16): their codes, and how a target takes them apart. */

export const TASK_COMPLETE = 0x00
export const EXTENDED_MESSAGE = 0x01
export const SAVE_DATA_POINTER = 0x02
export const DISCONNECT = 0x04
export const INITIATOR_DETECTED_ERROR = 0x05
export const ABORT_TASK_SET = 0x06
export const MESSAGE_REJECT = 0x07
export const NO_OPERATION = 0x08
export const MESSAGE_PARITY_ERROR = 0x09
export const TARGET_RESET = 0x0c
export const ABORT_TASK = 0x0d
export const CLEAR_TASK_SET = 0x0e
export const CLEAR_ACA = 0x16
export const LOGICAL_UNIT_RESET = 0x17
export const SIMPLE = 0x20
export const HEAD_OF_QUEUE = 0x21
export const ORDERED = 0x22
export const IGNORE_WIDE_RESIDUE = 0x23
export const ACA = 0x2f
export const IDENTIFY = 0x80
export const IDENTIFY_DISCPRIV = 0x40
export const IDENTIFY_LUN = 0x3f

/** Extended messages, by the code in their third byte. */
export const SYNCHRONOUS_DATA_TRANSFER_REQUEST = 0x01
export const WIDE_DATA_TRANSFER_REQUEST = 0x03
export const PARALLEL_PROTOCOL_REQUEST = 0x04

/** What this bus does at most: Ultra2, 80 Mbyte/s, wide; the transfer period factor 0Ah is 25 ns. */
const FASTEST_PERIOD = 0x0a
const DEEPEST_OFFSET = 31

/** Length of the message that starts at `at`, bytes; undefined if its end has not come. */
export function messageLength(bytes: ArrayLike<number>, at: number): number | undefined {
  const code = bytes[at]
  if (code === undefined) return undefined
  let length = 1
  if (code === EXTENDED_MESSAGE) {
    const more = bytes[at + 1]
    if (more === undefined) return undefined
    length = 2 + (more === 0 ? 256 : more)
  } else if (code >= 0x20 && code <= 0x2f) length = 2
  return at + length <= bytes.length ? length : undefined
}

/** A target's answer to an extended message: the agreement, or MESSAGE REJECT. `wide` is whether the bus has 16 bits. */
export function negotiate(message: Iterable<number>, wide: boolean): number[] {
  const [, length, code, first = 0, second = 0, third = 0, fourth = 0] = message
  const width = Math.min(wide ? 1 : 0, code === PARALLEL_PROTOCOL_REQUEST ? fourth : first)
  if (code === SYNCHRONOUS_DATA_TRANSFER_REQUEST && length === 3) {
    const offset = Math.min(second, DEEPEST_OFFSET)
    return [EXTENDED_MESSAGE, 3, code, Math.max(first, FASTEST_PERIOD), offset]
  }
  if (code === WIDE_DATA_TRANSFER_REQUEST && length === 2) return [EXTENDED_MESSAGE, 2, code, width]
  if (code === PARALLEL_PROTOCOL_REQUEST && length === 6) {
    const offset = Math.min(third, DEEPEST_OFFSET)
    return [EXTENDED_MESSAGE, 6, code, Math.max(first, FASTEST_PERIOD), 0, offset, width, 0]
  }
  return [MESSAGE_REJECT]
}
