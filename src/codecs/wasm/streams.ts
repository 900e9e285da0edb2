// Deflate and zstd by the module: whole buffers in, whole buffers out.

import { CodecError, type Codecs, type DeflateOptions, type Framing } from '../contract.ts'
import { type Instance, instance, trapped } from './module.ts'

/** How the module stopped; see `Stop` in crate/src/lib.rs. */
const END = 0
const FULL = 1
const SHORT = 2

const FRAMINGS: Record<Framing, number> = { raw: 0, zlib: 1, gzip: 2 }

/** A decoder or an encoder of the module: input at an address, output at another; returns how it stopped. */
type Coder = (it: Instance, from: number, length: number, to: number, room: number) => number

const inflater = (framing: Framing): Coder => {
  const frame = FRAMINGS[framing]
  return (it, from, length, to, room) => it.exports.inflate(from, length, to, room, frame)
}
const inflaters = { raw: inflater('raw'), zlib: inflater('zlib'), gzip: inflater('gzip') }
const unzstd =
  (fill: number): Coder =>
  (it, from, length, to, room) =>
    it.exports.zstd_decompress(from, length, to, room, fill)

const unzstdAll = unzstd(0)
const unzstdFill = unzstd(1)

const align = (length: number): number => (length + 63) & ~63

function broken(what: string, stop: number): CodecError {
  return new CodecError(
    'EILSEQ',
    `Cannot decompress: the ${what} stream ${stop === SHORT ? 'ends early' : 'is corrupt'}`,
  )
}

const attempt = (coder: Coder, ...args: Parameters<Coder>): number => {
  try {
    return coder(...args)
  } catch (error) {
    throw trapped(error)
  }
}

/** Decodes into `output` and returns the bytes written. */
function decodeInto(decode: Coder, what: string, input: Uint8Array, output: Uint8Array): number {
  const offset = align(input.length)
  const it = instance(offset + output.length)
  const at = it.lend(offset + output.length + 64)
  it.bytes.set(input, at)
  const stop = attempt(decode, it, at, input.length, at + offset, output.length)
  if (stop > FULL) throw broken(what, stop)
  const produced = it.exports.produced()
  output.set(it.bytes.subarray(at + offset, at + offset + produced))
  return produced
}

/** Decodes all, with an output that grows from a guess until it fits or passes `maxSize`. */
function decodeAll(decode: Coder, what: string, input: Uint8Array, maxSize: number): Uint8Array {
  if (!(maxSize >= 0)) throw new CodecError('EINVAL', `Cannot decompress to at most ${maxSize} bytes`)
  const offset = align(input.length)
  for (let room = Math.min(maxSize, Math.max(65536, input.length * 4)); ; room = Math.min(maxSize, room * 4)) {
    const it = instance(offset + room)
    const at = it.lend(offset + room + 64)
    it.bytes.set(input, at)
    const stop = attempt(decode, it, at, input.length, at + offset, room)
    if (stop === END) return it.bytes.slice(at + offset, at + offset + it.exports.produced())
    if (stop !== FULL) throw broken(what, stop)
    if (room === maxSize) throw new CodecError('EFBIG', `Cannot decompress: there are more than ${maxSize} bytes`)
  }
}

/** Encodes into at most `maxSize` bytes, of `bound` that can be needed. */
function encode(run: Coder, input: Uint8Array, bound: number, maxSize: number): Uint8Array | undefined {
  const room = Math.max(0, Math.min(bound, maxSize))
  const offset = align(input.length)
  const it = instance(offset + room)
  const at = it.lend(offset + room + 64)
  it.bytes.set(input, at)
  if (attempt(run, it, at, input.length, at + offset, room) !== END) return undefined
  return it.bytes.slice(at + offset, at + offset + it.exports.produced())
}

function inRange(name: string, value: number, least: number, most: number): number {
  if (Number.isInteger(value) && value >= least && value <= most) return value
  throw new CodecError('EINVAL', `Cannot compress: ${name} is ${value}, must be ${least} to ${most}`)
}

/** The most that deflate makes of `length` bytes, whatever its settings: zlib's bound for small windows, and framing. */
export const deflateBound = (length: number): number => length + (length >>> 3) + (length >>> 8) + (length >>> 9) + 64
/** The most that zstd makes of `length` bytes: each block of 128 KiB may be stored, with a header. */
export const zstdBound = (length: number): number => length + (length >>> 8) + 64

const deflateWithin: Codecs['deflateWithin'] = (input, maxSize, options: DeflateOptions = {}) => {
  const level = inRange('level', options.level ?? 6, 0, 9)
  const windowBits = inRange('windowBits', options.windowBits ?? 15, 9, 15)
  const framing = FRAMINGS[options.framing ?? 'raw']
  return encode(
    (it, from, length, to, room) => it.exports.deflate(from, length, to, room, framing, level, windowBits),
    input,
    deflateBound(input.length),
    maxSize,
  )
}

const zstdCompressWithin: Codecs['zstdCompressWithin'] = (input, maxSize, options = {}) => {
  const level = inRange('level', options.level ?? 3, 1, 19)
  return encode(
    (it, from, length, to, room) => it.exports.zstd_compress(from, length, to, room, level),
    input,
    zstdBound(input.length),
    maxSize,
  )
}

const unbounded = (packed: Uint8Array | undefined): Uint8Array => {
  if (packed) return packed
  throw new CodecError('ENOMEM', 'Cannot compress: the output passed its bound')
}

/** Deflate and zstd by the module. */
export const streams = {
  inflate: (input, maxSize, framing = 'raw') => decodeAll(inflaters[framing], framing, input, maxSize),
  inflateInto: (input, output, framing = 'raw') => decodeInto(inflaters[framing], framing, input, output),
  deflate: (input, options) => unbounded(deflateWithin(input, Number.POSITIVE_INFINITY, options)),
  deflateWithin,
  zstdDecompress: (input, maxSize) => decodeAll(unzstdAll, 'zstd', input, maxSize),
  zstdDecompressInto: (input, output) => decodeInto(unzstdFill, 'zstd', input, output),
  zstdCompress: (input, options) => unbounded(zstdCompressWithin(input, Number.POSITIVE_INFINITY, options)),
  zstdCompressWithin,
} satisfies Partial<Codecs>
