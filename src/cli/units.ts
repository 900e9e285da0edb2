/** Sizes as people type them for QEMU's tools, and as these print them. */

const SUFFIXES = 'BKMGTPE'

/**
 * Bytes of `text`: decimal (also a fraction, with a suffix), or hexadecimal after 0x, with a suffix b, k, M, G, T, P or E of
 * powers of 1024; `unit` is the suffix of a plain number. Undefined if it is no such size or passes 2^63.
 */
export function parseSize(text: string, unit: 'B' | 'M' = 'B'): number | undefined {
  const parts = /^(?:(0x[0-9a-f]+)|(\d+)(\.\d+)?)([bkmgtpe]?)$/i.exec(text)
  if (parts === null) return undefined
  const [, hex, whole, fraction, suffix] = parts
  const exponent = SUFFIXES.indexOf((suffix || unit).toUpperCase())
  if (fraction !== undefined && exponent === 0) return undefined
  const bytes = Number(hex ?? `${whole}${fraction ?? ''}`) * 1024 ** exponent
  return bytes < 2 ** 63 ? Math.floor(bytes) : undefined
}

/** Bytes for people, like `1.5 GiB`: three significant digits, binary units. */
export function humanSize(bytes: number): string {
  const units = ['', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei']
  let exponent = 0
  while (exponent < units.length - 1 && bytes / 1024 ** exponent >= 1000) exponent++
  const value = bytes / 1024 ** exponent
  return `${significant(value)} ${units[exponent]}B`
}

/** Like printf's %0.3g. */
function significant(value: number): string {
  if (value === 0) return '0'
  const text = value.toPrecision(3)
  return text.includes('e') ? String(Number(text)) : text.includes('.') ? text.replace(/\.?0+$/, '') : text
}
