/** The initiator's side: sends CDBs as they are written in the standards, and reads sense data as they describe it. */
import { asDevice, type BlockDriver } from '../../../src/block/device.ts'
import { Disk, type DiskOptions } from '../../../src/block/disk.ts'
import { bytesVec } from '../../../src/block/iovec.ts'
import { isLater } from '../../../src/block/now.ts'
import { Memory } from '../../../src/block/protocols/memory.ts'
import {
  type Attribute,
  CdUnit,
  cdbLength,
  DiskUnit,
  ScsiTarget,
  type Task,
  type UnitOptions,
} from '../../../src/devices/scsi/index.ts'
import { Faulty } from '../../conformance/faulty.ts'

/** What came of a command. */
export interface Outcome {
  readonly status: number
  /** Data-in that was moved. */
  readonly data: Uint8Array
  readonly view: DataView
  readonly transferred: number
  /** Bytes that the target wanted to move. */
  readonly wanted: number
  /** Sense key, additional sense code and qualifier as hexadecimal text: `05/24/00`; empty with no sense data. */
  readonly sense: string
  /** INFORMATION, if valid. */
  readonly information: number | undefined
  /** What the field pointer says: `cdb 1.3`, `list 4`; empty without. */
  readonly field: string
  readonly bytes: Uint8Array
  readonly aborted: boolean
}

export interface Sending {
  readonly lun?: number
  readonly initiator?: number
  readonly attribute?: Attribute
  readonly tag?: number
  readonly autosense?: boolean
  readonly out?: Uint8Array
  /** Room for data-in, bytes; default 1 MiB. */
  readonly room?: number
  /** Moves the data in pieces of so many bytes, as a program of a host adapter does. */
  readonly piece?: number
}

const pad2 = (value: number) => value.toString(16).padStart(2, '0')

/** Bytes of hexadecimal text. */
export function hex(text: string): Uint8Array {
  return Uint8Array.from(text.trim().split(/\s+/), (byte) => Number.parseInt(byte, 16))
}

/** What sense data of either format says. */
export function decodeSense(bytes: Uint8Array): Pick<Outcome, 'sense' | 'information' | 'field'> & {
  deferred: boolean
  progress: number | undefined
  wrongLength: boolean
} {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const code = bytes[0]! & 0x7f
  const fixed = code === 0x70 || code === 0x71
  let information: number | undefined
  let specific: Uint8Array | undefined
  let wrongLength = fixed && (bytes[2]! & 0x20) !== 0
  if (fixed) {
    if ((bytes[0]! & 0x80) !== 0) information = view.getUint32(3)
    if ((bytes[15]! & 0x80) !== 0) specific = bytes.subarray(15, 18)
  } else {
    for (let at = 8; at < 8 + bytes[7]!; at += 2 + bytes[at + 1]!) {
      if (bytes[at] === 0) information = Number(view.getBigUint64(at + 4))
      if (bytes[at] === 2) specific = bytes.subarray(at + 4, at + 7)
      if (bytes[at] === 5) wrongLength = (bytes[at + 3]! & 0x20) !== 0
    }
  }
  const [key, asc, ascq] = fixed ? [bytes[2]! & 0xf, bytes[12]!, bytes[13]!] : [bytes[1]!, bytes[2]!, bytes[3]!]
  const text = `${pad2(key)}/${pad2(asc)}/${pad2(ascq)}`
  const value = specific && (specific[1]! << 8) | specific[2]!
  const field =
    specific === undefined || key !== 5
      ? ''
      : `${(specific[0]! & 0x40) !== 0 ? 'cdb' : 'list'} ${value}${(specific[0]! & 8) !== 0 ? `.${specific[0]! & 7}` : ''}`
  return {
    sense: text,
    information,
    field,
    deferred: code === 0x71 || code === 0x73,
    progress: specific !== undefined && key !== 5 ? value : undefined,
    wrongLength,
  }
}

let tags = 0

/** A target with an initiator at it. */
export class Initiator {
  readonly target: ScsiTarget
  constructor(target: ScsiTarget) {
    this.target = target
  }

  /** Sends a command and leaves its task to the caller. */
  submit(cdb: string | Uint8Array, sending: Sending = {}): Task {
    const bytes = typeof cdb === 'string' ? hex(cdb) : cdb
    const length = cdbLength(bytes[0]!) || bytes.length
    const padded = new Uint8Array(Math.max(length, bytes.length))
    padded.set(bytes)
    return this.target.submit({
      initiator: sending.initiator ?? 7,
      lun: sending.lun ?? 0,
      cdb: padded,
      attribute: sending.attribute ?? 'simple',
      tag: sending.tag ?? ++tags,
      autosense: sending.autosense ?? true,
    })
  }

  /** Sends a command, moves its data and takes its status; the CDB is hexadecimal text, zeroes at its end left out. */
  async send(cdb: string | Uint8Array, sending: Sending = {}): Promise<Outcome> {
    return finish(this.submit(cdb, sending), sending)
  }

  /** Takes the unit attentions off the way. */
  async ready(lun = 0, initiator = 7): Promise<void> {
    for (let i = 0; i < 16; i++) {
      if ((await this.send('00', { lun, initiator })).status === 0) return
    }
  }
}

/** Drives a task to its end. */
export async function finish(task: Task, { out, room = 1 << 20, piece }: Sending = {}): Promise<Outcome> {
  const into = new Uint8Array(room)
  const moving = async (): Promise<void> => {
    const phase = await task.next()
    if (phase === 'status' || phase === 'aborted') return
    const buffer = phase === 'in' ? into : (out ?? new Uint8Array(0))
    if (piece === undefined) await task.moveAll(bytesVec(buffer))
    else {
      for (let at = 0; at < buffer.length && task.phase === phase; at += piece) {
        await task.prepare()
        if (task.phase !== phase) break
        const part = buffer.subarray(at, at + piece)
        // Both ways, in turn
        if (part.length <= task.ready && (at / piece) % 2 === 0) task.pass(part)
        else await task.move(bytesVec(part))
      }
      if (task.phase === phase) task.cut()
    }
    return moving()
  }
  await moving()
  const decoded = task.sense.length === 0 ? { sense: '', information: undefined, field: '' } : decodeSense(task.sense)
  const data = into.slice(0, task.transferred)
  return {
    status: task.status,
    data,
    view: new DataView(data.buffer),
    transferred: task.transferred,
    wanted: task.length,
    ...decoded,
    bytes: task.sense,
    aborted: task.phase === 'aborted',
  }
}

/** Outcome of a command that must answer at once. */
export function atOnce<T>(value: T | Promise<T>): T {
  if (isLater(value)) throw new Error('the answer comes later')
  return value
}

export const SIZE = 1 << 20

/** Bytes that tell their place: every 512-byte block has its number in every 32-bit word. */
export function numbered(size: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(size)
  const words = new Uint32Array(bytes.buffer)
  for (let i = 0; i < words.length; i++) words[i] = i >> 7
  return bytes
}

/** A target with a disk as LUN 0, its unit attentions gone. */
export async function diskTarget(
  options: {
    readonly unit?: UnitOptions
    readonly disk?: DiskOptions
    readonly driver?: BlockDriver
    readonly size?: number
  } = {},
) {
  const memory = options.driver ?? Memory.from(numbered(options.size ?? SIZE))
  const faulty = new Faulty(asDevice(memory))
  const disk = new Disk(asDevice(faulty), options.disk)
  const unit = new DiskUnit(disk, options.unit)
  unit.turn = () => new Promise((resolve) => setImmediate(resolve))
  const target = new ScsiTarget().attach(0, unit)
  const initiator = new Initiator(target)
  await initiator.ready()
  return { disk, unit, target, initiator, faulty }
}

/** A target with a CD-ROM as LUN 0, its unit attentions gone. */
export async function cdTarget(
  options: { readonly blocks?: number; readonly unit?: UnitOptions; readonly empty?: boolean } = {},
) {
  const disk = cdDisc(options.blocks ?? 64)
  const unit = new CdUnit(options.empty ? undefined : disk, options.unit)
  const target = new ScsiTarget().attach(0, unit)
  const initiator = new Initiator(target)
  await initiator.ready()
  return { disk, unit, target, initiator }
}

/** A disc of blocks of 2048 bytes that tell their place. */
export function cdDisc(blocks: number): Disk {
  const driver =
    blocks > 4096
      ? new Memory(blocks * 2048, { readOnly: true })
      : Memory.from(numbered(blocks * 2048), { readOnly: true })
  return new Disk(asDevice(driver))
}

/** A turn of the event loop. */
export const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

/** Index of the first byte in which they differ, or of the end of the shorter one; -1 if they are the same. */
export function firstDifference(one: Uint8Array, other: Uint8Array): number {
  if (Buffer.compare(one, other) === 0) return -1
  const at = one.findIndex((byte, i) => byte !== other[i])
  return at < 0 ? one.length : at
}
