/** Values on the command lines of `block86 io`, and how its reports show them. */
import { parseSize } from '../units.ts'

/** Most bytes of one request. */
export const LARGEST_REQUEST = 2147483136

/** A number of bytes with an optional suffix, or what is wrong with it. */
export function sizeOf(text: string): number | string {
  const bytes = parseSize(text)
  if (bytes !== undefined) return bytes
  return /^(0x[0-9a-f]+|\d+(\.\d+)?)[bkmgtpe]?$/i.test(text) && !/^\d+\.\d+b?$/i.test(text)
    ? `Parsing error: argument too large -- ${text}`
    : `Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- ${text}`
}

/** A byte as C's strtol reads it, base 0; undefined if it is none. */
export function patternOf(text: string): number | undefined {
  const value = /^0[0-7]+$/.test(text)
    ? Number.parseInt(text, 8)
    : /^(0x[0-9a-f]+|0|[1-9]\d*)$/i.test(text)
      ? Number(text)
      : Number.NaN
  return value >= 0 && value <= 255 ? value : undefined
}

const UNITS = ['EiB', 'PiB', 'TiB', 'GiB', 'MiB', 'KiB'] as const

/** Three digits behind the point; what is in the middle goes to the even one, as printf rounds it. */
function thousandths(value: number): string {
  const scaled = value * 1000
  const even = scaled % 1 === 0.5 && Math.floor(scaled) % 2 === 0
  return (even ? Math.floor(scaled) / 1000 : value).toFixed(3)
}

/** A number of bytes as reports have it: `4 KiB`, `8.583 MiB`, `76.147741 bytes`. */
export function sizeText(bytes: number): string {
  const index = UNITS.findIndex((_, i) => bytes >= 1024 ** (UNITS.length - i))
  const text = index < 0 ? bytes.toFixed(6) : thousandths(bytes / 1024 ** (UNITS.length - index))
  const cut = text.indexOf('.000')
  return `${cut < 0 ? text : text.slice(0, cut)} ${index < 0 ? 'bytes' : UNITS[index]}`
}

/** A time as reports have it: `00.01 sec`, from a minute on or if `fixed` `0:01:00.00`. */
export function timeText(seconds: number, fixed = false): string {
  const hundredths = Math.floor(seconds * 100)
  const two = (value: number) => String(value).padStart(2, '0')
  const [whole, part] = [Math.floor(hundredths / 100), hundredths % 100]
  if (!fixed && whole < 60) return `${two(whole)}.${two(part)} sec`
  return `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}.${two(part)}`
}

/** What a request did, for {@link reportText}. */
export interface Done {
  /** `read`, `wrote`, `discard`. */
  readonly what: string
  readonly at: number
  readonly length: number
  readonly seconds: number
}

/** The two lines that follow a request; with `machine` the one line of numbers. */
export function reportText({ what, at, length, seconds }: Done, machine: boolean): string {
  const time = Math.max(seconds, 1e-6)
  if (machine) return `${length},1,${timeText(time, true)},${(length / time).toFixed(3)},${(1 / time).toFixed(3)}\n`
  return (
    `${what} ${length}/${length} bytes at offset ${at}\n` +
    `${sizeText(length)}, 1 ops; ${timeText(time)} (${sizeText(length / time)}/sec and ${(1 / time).toFixed(4)} ops/sec)\n`
  )
}

const HEX = Array.from({ length: 256 }, (_, byte) => `${byte.toString(16).padStart(2, '0')} `)
const LETTERS = Array.from({ length: 256 }, (_, byte) => {
  const letter = String.fromCharCode(byte)
  return /[0-9a-z]/i.test(letter) ? letter : '.'
})

/** Sixteen bytes a line, in hexadecimal and as letters and digits. */
export function dumpText(bytes: Uint8Array, at: number): string {
  const lines: string[] = []
  for (let start = 0; start < bytes.length; start += 16) {
    const end = Math.min(start + 16, bytes.length)
    let hex = ''
    let letters = ''
    for (let i = start; i < end; i++) {
      hex += HEX[bytes[i]!]
      letters += LETTERS[bytes[i]!]
    }
    lines.push(`${(at + start).toString(16).padStart(8, '0')}:  ${hex} ${letters}\n`)
  }
  return lines.join('')
}
