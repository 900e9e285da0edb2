/** The NBD protocol's numbers and fixed layouts, as "The NBD protocol" (proto.md) names them. All integers are big-endian. */
import type { Errno } from '../../error.ts'

/** "NBDMAGIC", what a server says first. */
export const INIT_MAGIC = 0x4e42444d41474943n
/** "IHAVEOPT", of newstyle negotiation and of every option request. */
export const OPTION_MAGIC = 0x49484156454f5054n
/** Of oldstyle negotiation. */
export const OLDSTYLE_MAGIC = 0x00420281861253n
export const OPTION_REPLY_MAGIC = 0x0003e889045565a9n
export const REQUEST_MAGIC = 0x25609513
export const SIMPLE_REPLY_MAGIC = 0x67446698
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef

/** Handshake flags, of the server and of the client. */
export const FLAG_FIXED_NEWSTYLE = 1 << 0
export const FLAG_NO_ZEROES = 1 << 1

/** Option types. */
export const OPT_EXPORT_NAME = 1
export const OPT_ABORT = 2
export const OPT_LIST = 3
export const OPT_STARTTLS = 5
export const OPT_INFO = 6
export const OPT_GO = 7
export const OPT_STRUCTURED_REPLY = 8
export const OPT_LIST_META_CONTEXT = 9
export const OPT_SET_META_CONTEXT = 10

/** Option reply types; errors have bit 31 set. */
export const REP_ACK = 1
export const REP_SERVER = 2
export const REP_INFO = 3
export const REP_META_CONTEXT = 4
export const REP_ERROR = 0x80000000
export const REP_ERR_UNSUP = 0x80000001
export const REP_ERR_POLICY = 0x80000002
export const REP_ERR_INVALID = 0x80000003
export const REP_ERR_PLATFORM = 0x80000004
export const REP_ERR_TLS_REQD = 0x80000005
export const REP_ERR_UNKNOWN = 0x80000006
export const REP_ERR_SHUTDOWN = 0x80000007
export const REP_ERR_BLOCK_SIZE_REQD = 0x80000008
export const REP_ERR_TOO_BIG = 0x80000009

/** Information types of NBD_REP_INFO. */
export const INFO_EXPORT = 0
export const INFO_NAME = 1
export const INFO_DESCRIPTION = 2
export const INFO_BLOCK_SIZE = 3

/** Transmission flags of an export. */
export const FLAG_HAS_FLAGS = 1 << 0
export const FLAG_READ_ONLY = 1 << 1
export const FLAG_SEND_FLUSH = 1 << 2
export const FLAG_SEND_FUA = 1 << 3
export const FLAG_ROTATIONAL = 1 << 4
export const FLAG_SEND_TRIM = 1 << 5
export const FLAG_SEND_WRITE_ZEROES = 1 << 6
export const FLAG_SEND_DF = 1 << 7
export const FLAG_CAN_MULTI_CONN = 1 << 8
export const FLAG_SEND_CACHE = 1 << 10
export const FLAG_SEND_FAST_ZERO = 1 << 11

/** Request types. */
export const CMD_READ = 0
export const CMD_WRITE = 1
export const CMD_DISC = 2
export const CMD_FLUSH = 3
export const CMD_TRIM = 4
export const CMD_CACHE = 5
export const CMD_WRITE_ZEROES = 6
export const CMD_BLOCK_STATUS = 7

/** Command flags. */
export const CMD_FLAG_FUA = 1 << 0
export const CMD_FLAG_NO_HOLE = 1 << 1
export const CMD_FLAG_DF = 1 << 2
export const CMD_FLAG_REQ_ONE = 1 << 3
export const CMD_FLAG_FAST_ZERO = 1 << 4

/** Structured reply chunk flags and types; error types have bit 15 set. */
export const REPLY_FLAG_DONE = 1 << 0
export const REPLY_NONE = 0
export const REPLY_OFFSET_DATA = 1
export const REPLY_OFFSET_HOLE = 2
export const REPLY_BLOCK_STATUS = 5
export const REPLY_ERROR = 0x8001
export const REPLY_ERROR_OFFSET = 0x8002

/** Flags of the metadata context base:allocation. */
export const STATE_HOLE = 1 << 0
export const STATE_ZERO = 1 << 1
/** State of a run in QEMU's dirty-bitmap contexts. */
export const STATE_DIRTY = 1 << 0

/** The context of {@link STATE_HOLE} and {@link STATE_ZERO}. */
export const BASE_ALLOCATION = 'base:allocation'

/** Longest string (export name, context name, description), bytes. */
export const MAX_STRING = 4096
/** Longest payload of a request or reply where no block size was negotiated, bytes. */
export const MAX_PAYLOAD = 32 << 20

const numbers: readonly (readonly [Errno, number])[] = [
  ['EPERM', 1],
  ['EIO', 5],
  ['ENOMEM', 12],
  ['EINVAL', 22],
  ['ENOSPC', 28],
  ['ENOTSUP', 95],
  ['ESHUTDOWN', 108],
  ['EROFS', 1],
  ['EACCES', 1],
  ['EFBIG', 28],
  ['EDQUOT', 28],
]

/** The protocol's error number of an errno; what it has none for is EIO. */
export function errorNumber(code: Errno): number {
  return numbers.find(([name]) => name === code)?.[1] ?? 5
}

/** The errno of the protocol's error number; an unknown one is EINVAL, as the protocol says. */
export function errorCode(number: number): Errno {
  return numbers.find(([, value]) => value === number)?.[0] ?? 'EINVAL'
}

const encoder = new TextEncoder()
const decoder = new TextDecoder()

/** UTF-8 bytes of a string of the protocol. */
export const utf8 = (text: string): Uint8Array => encoder.encode(text)
/** The string that UTF-8 bytes stand for. */
export const text = (bytes: Uint8Array): string => decoder.decode(bytes)

/** A DataView over exactly `bytes`. */
export const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** Big-endian integers of the given widths (bytes) in one array: `[[8, magic], [4, flags]]`. */
export function pack(...fields: readonly (readonly [1 | 2 | 4 | 8, number | bigint])[]): Uint8Array {
  const bytes = new Uint8Array(fields.reduce((sum, [width]) => sum + width, 0))
  const view = viewOf(bytes)
  let at = 0
  for (const [width, value] of fields) {
    if (width === 8) view.setBigUint64(at, BigInt(value))
    else if (width === 4) view.setUint32(at, Number(value))
    else if (width === 2) view.setUint16(at, Number(value))
    else view.setUint8(at, Number(value))
    at += width
  }
  return bytes
}

/** A string with its length (u32) in front. */
export function packString(value: string): Uint8Array {
  const bytes = utf8(value)
  return join(pack([4, bytes.length]), bytes)
}

/** One array of several. */
export function join(...pieces: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0))
  let at = 0
  for (const piece of pieces) {
    bytes.set(piece, at)
    at += piece.length
  }
  return bytes
}
