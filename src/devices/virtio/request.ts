/** What a virtio-blk driver asks for, parsed out of a buffer with every rule of 5.2.6.2 checked in one place. */
import { bytesVec, type IoVec } from '../../block/iovec.ts'
import type { GuestMemory } from '../machine.ts'
import { Chain } from './chain.ts'

// 5.2.6 Request types
const T_IN = 0
const T_OUT = 1
const T_SCSI_CMD = 2
const T_SCSI_CMD_OUT = 3
const T_FLUSH = 4
const T_FLUSH_OUT = 5
const T_GET_ID = 8
const T_GET_LIFETIME = 10
const T_DISCARD = 11
const T_WRITE_ZEROES = 13
const T_SECURE_ERASE = 14

// 5.2.6 Status
export const S_OK = 0
export const S_IOERR = 1
export const S_UNSUPP = 2

export const SECTOR = 512
const HEADER = 16
const SEGMENT = 16
const SEGMENT_UNMAP = 1
const ID_BYTES = 20
const LIFETIME_BYTES = 6
// 5.2.6.3 struct virtio_scsi_pc_req
const SCSI_SENSE = 96
const SCSI_IN_HEADER = 16

/** Bytes that one read or write may move; no driver comes near, and more would hold the host up for too long. */
const MAX_TRANSFER = 256 << 20

const NOTHING = bytesVec()

/** A range of DISCARD, WRITE ZEROES or SECURE ERASE, bytes. */
export interface Segment {
  readonly at: number
  readonly length: number
  readonly unmap: boolean
}

/** Most sectors and segments that a request over ranges may have; undefined where the request is not offered. */
export interface RangeLimit {
  readonly sectors: number
  readonly segments: number
}

/** What the rules depend on. */
export interface Rules {
  /** Bytes. */
  readonly capacity: number
  readonly blockSize: number
  readonly readOnly: boolean
  readonly discard: RangeLimit | undefined
  readonly writeZeroes: RangeLimit | undefined
  readonly secureErase: RangeLimit | undefined
  readonly lifetime: boolean
  readonly scsi: boolean
  readonly legacy: boolean
}

/** A SCSI command as the legacy interface carries it; the bytes of `dataIn` and `dataOut` are guest memory. */
export interface ScsiRequest {
  readonly cdb: Uint8Array
  readonly dataOut: IoVec
  readonly dataIn: IoVec
}

export type BlkKind =
  | 'read'
  | 'write'
  | 'flush'
  | 'id'
  | 'lifetime'
  | 'discard'
  | 'writeZeroes'
  | 'secureErase'
  | 'scsi'
  | 'refused'

/** A buffer of a virtio-blk queue and, after {@link parse}, what it asks for. */
export class BlkRequest extends Chain {
  kind: BlkKind = 'refused'
  /** Status of a request that is refused. */
  refusal = S_UNSUPP
  /** First byte on the disk, of a read or write. */
  offset = 0
  /** Guest memory that is read from or written to. */
  data: IoVec = NOTHING
  segments: readonly Segment[] = []
  scsi: ScsiRequest | undefined
  /** Address of the status byte. */
  statusAt = 0

  /** The disk takes its own memory back; a SCSI command's would be its handler's for as long as that likes. */
  override abandon(): void {
    super.abandon()
    this.scsi?.dataIn.revoke()
    this.scsi?.dataOut.revoke()
  }

  /** Bytes that the driver may get before the status byte. */
  get room(): number {
    return this.writableBytes - 1
  }
}

/** Finds out what a buffer asks for; a string says that it is no request at all, and why. */
export function parse(request: BlkRequest, memory: GuestMemory, rules: Rules): string | undefined {
  if (request.readableBytes < HEADER) return 'a request is shorter than its header'
  if (request.writableBytes < 1) return 'a request has no writable status byte'
  const last = request.count - 1
  request.statusAt = request.at[last]! + request.length[last]! - 1
  let data = memory.data
  let at = request.at[0]!
  if (request.length[0]! < HEADER) {
    const header = request.readableVec(memory, 0, HEADER).gather()
    data = new DataView(header.buffer)
    at = 0
  }
  const type = data.getUint32(at, true)
  const sector = data.getUint32(at + 8, true) + data.getUint32(at + 12, true) * 2 ** 32
  switch (type) {
    case T_IN:
      return transfer(request, memory, rules, 'read', sector, request.room, request.readableBytes === HEADER)
    case T_OUT:
      return transfer(request, memory, rules, 'write', sector, request.readableBytes - HEADER, request.room === 0)
    case T_FLUSH:
      return accept(request, 'flush')
    case T_FLUSH_OUT:
      return rules.legacy ? accept(request, 'flush') : refuse(request, S_UNSUPP)
    case T_GET_ID:
      return answer(request, memory, 'id', Math.min(request.room, ID_BYTES))
    case T_GET_LIFETIME:
      if (!rules.lifetime) return refuse(request, S_UNSUPP)
      if (request.room < LIFETIME_BYTES) return refuse(request, S_IOERR)
      return answer(request, memory, 'lifetime', LIFETIME_BYTES)
    case T_DISCARD:
      return ranges(request, memory, rules, 'discard')
    case T_WRITE_ZEROES:
      return ranges(request, memory, rules, 'writeZeroes')
    case T_SECURE_ERASE:
      return ranges(request, memory, rules, 'secureErase')
    case T_SCSI_CMD:
    case T_SCSI_CMD_OUT:
      return rules.scsi ? scsi(request, memory) : refuse(request, S_UNSUPP)
    default:
      return refuse(request, S_UNSUPP)
  }
}

function accept(request: BlkRequest, kind: BlkKind): undefined {
  request.kind = kind
  request.data = NOTHING
}

function refuse(request: BlkRequest, status: number): undefined {
  request.kind = 'refused'
  request.refusal = status
  request.data = NOTHING
}

function answer(request: BlkRequest, memory: GuestMemory, kind: BlkKind, length: number): undefined {
  request.kind = kind
  request.data = request.writableVec(memory, 0, length)
}

function transfer(
  request: BlkRequest,
  memory: GuestMemory,
  rules: Rules,
  kind: 'read' | 'write',
  sector: number,
  length: number,
  oneWay: boolean,
): undefined {
  const { blockSize, capacity } = rules
  const offset = sector * SECTOR
  if (!oneWay || length % blockSize !== 0 || offset % blockSize !== 0) return refuse(request, S_IOERR)
  if (length > MAX_TRANSFER || offset + length > capacity) return refuse(request, S_IOERR)
  if (kind === 'write' && rules.readOnly) return refuse(request, S_IOERR)
  request.kind = kind
  request.offset = offset
  request.data =
    kind === 'read' ? request.writableVec(memory, 0, length) : request.readableVec(memory, HEADER, HEADER + length)
}

function ranges(
  request: BlkRequest,
  memory: GuestMemory,
  rules: Rules,
  kind: 'discard' | 'writeZeroes' | 'secureErase',
): undefined {
  const limit = rules[kind]
  if (limit === undefined) return refuse(request, S_UNSUPP)
  const length = request.readableBytes - HEADER
  if (length === 0 || length % SEGMENT !== 0 || length / SEGMENT > limit.segments) return refuse(request, S_IOERR)
  const bytes = request.readableVec(memory, HEADER, HEADER + length).gather()
  const view = new DataView(bytes.buffer)
  const segments: Segment[] = []
  let wrong = rules.readOnly
  for (let at = 0; at < length; at += SEGMENT) {
    const offset = (view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32) * SECTOR
    const sectors = view.getUint32(at + 8, true)
    const flags = view.getUint32(at + 12, true)
    if ((flags & ~(kind === 'writeZeroes' ? SEGMENT_UNMAP : 0)) !== 0) return refuse(request, S_UNSUPP)
    const end = offset + sectors * SECTOR
    if (sectors > limit.sectors || end > rules.capacity) wrong = true
    if (offset % rules.blockSize !== 0 || end % rules.blockSize !== 0) wrong = true
    segments.push({ at: offset, length: sectors * SECTOR, unmap: (flags & SEGMENT_UNMAP) !== 0 })
  }
  if (wrong) return refuse(request, S_IOERR)
  accept(request, kind)
  request.segments = segments
}

/** 5.2.6.3: the command has a descriptor of its own, which gives its length. */
function scsi(request: BlkRequest, memory: GuestMemory): undefined {
  const { readable, readableBytes, room } = request
  const length = request.length[1] ?? 0
  const dataIn = room - SCSI_SENSE - SCSI_IN_HEADER
  if (readable < 2 || request.length[0] !== HEADER || length > 32 || dataIn < 0) return refuse(request, S_IOERR)
  const data = HEADER + length
  request.kind = 'scsi'
  request.data = NOTHING
  request.scsi = {
    cdb: request.readableVec(memory, HEADER, data).gather(),
    dataOut: request.readableVec(memory, data, readableBytes),
    dataIn: request.writableVec(memory, 0, dataIn),
  }
}

/** What a SCSI command came to. */
export interface ScsiOutcome {
  /** SCSI status byte. */
  readonly status: number
  readonly sense: Uint8Array
  /** Bytes of data that were asked for and not moved. */
  readonly residual: number
}

/** Writes sense data and the trailing fields of a SCSI command into the driver's buffer. */
export function writeScsiOutcome(request: BlkRequest, memory: GuestMemory, outcome: ScsiOutcome): void {
  const end = request.room
  const tail = new Uint8Array(SCSI_SENSE + SCSI_IN_HEADER)
  const sense = outcome.sense.subarray(0, SCSI_SENSE)
  tail.set(sense)
  const view = new DataView(tail.buffer)
  view.setUint32(SCSI_SENSE, outcome.status, true)
  view.setUint32(SCSI_SENSE + 4, end - tail.length, true)
  view.setUint32(SCSI_SENSE + 8, sense.length, true)
  view.setUint32(SCSI_SENSE + 12, outcome.residual, true)
  const vec = request.writableVec(memory, end - tail.length, end)
  vec.scatter(tail)
  vec.filled()
}
