/** The options that formats are made with: as `-o` names them, as `-o help` tells about them, and as the library calls them. */
import { parseKeyValues } from '../node-options.ts'
import { parseSize } from '../units.ts'
import { onOff } from './arguments.ts'
import { Failure, PROGRAM } from './console.ts'

/** One option of `-o`. */
export interface FormatOption {
  readonly name: string
  readonly type: 'size' | 'bool' | 'number' | 'string'
  readonly help: string
  /** Shown where it is not given. */
  readonly fallback?: string
  /** Name in the library; without one it is refused. */
  readonly key?: string
  /** May be changed by amend. */
  readonly amend?: boolean
}

const SIZE: FormatOption = { name: 'size', type: 'size', help: 'Virtual disk size', key: 'size' }
const BACKING = (format: string): readonly FormatOption[] => [
  { name: 'backing_file', type: 'string', help: 'File name of a base image', key: 'backingFile' },
  { name: 'backing_fmt', type: 'string', help: format, key: 'backingFmt' },
]
const AES: readonly FormatOption[] = [
  {
    name: 'encryption',
    type: 'bool',
    help: "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
  },
]

/** Of each format, in the order in which their values are shown. */
export const FORMAT_OPTIONS: Readonly<Record<string, readonly FormatOption[]>> = {
  raw: [SIZE],
  qcow2: [
    ...AES,
    { name: 'encrypt.format', type: 'string', help: "Encrypt the image, format choices: 'aes', 'luks'" },
    { name: 'encrypt.key-secret', type: 'string', help: 'ID of secret providing qcow AES key or LUKS passphrase' },
    { name: 'encrypt.cipher-alg', type: 'string', help: 'Name of encryption cipher algorithm' },
    { name: 'encrypt.cipher-mode', type: 'string', help: 'Name of encryption cipher mode' },
    { name: 'encrypt.ivgen-alg', type: 'string', help: 'Name of IV generator algorithm' },
    { name: 'encrypt.ivgen-hash-alg', type: 'string', help: 'Name of IV generator hash algorithm' },
    { name: 'encrypt.hash-alg', type: 'string', help: 'Name of encryption hash algorithm' },
    { name: 'encrypt.iter-time', type: 'number', help: 'Time to spend in PBKDF in milliseconds' },
    { name: 'cluster_size', type: 'size', help: 'qcow2 cluster size', fallback: '65536', key: 'clusterSize' },
    { name: 'extended_l2', type: 'bool', help: 'Extended L2 tables', fallback: 'off', key: 'extendedL2' },
    {
      name: 'preallocation',
      type: 'string',
      help: 'Preallocation mode (allowed values: off, metadata, falloc, full)',
      key: 'preallocation',
    },
    {
      name: 'compression_type',
      type: 'string',
      help: 'Compression method used for image cluster compression',
      fallback: 'zlib',
      key: 'compressionType',
    },
    { ...SIZE, amend: true },
    {
      name: 'compat',
      type: 'string',
      help: 'Compatibility level (v2 [0.10] or v3 [1.1])',
      key: 'compat',
      amend: true,
    },
    ...BACKING('Image format of the base image').map((option) => ({ ...option, amend: true })),
    { name: 'data_file', type: 'string', help: 'File name of an external data file', key: 'dataFile', amend: true },
    {
      name: 'data_file_raw',
      type: 'bool',
      help: 'The external data file must stay valid as a raw image',
      key: 'dataFileRaw',
      amend: true,
    },
    {
      name: 'lazy_refcounts',
      type: 'bool',
      help: 'Postpone refcount updates',
      fallback: 'off',
      key: 'lazyRefcounts',
      amend: true,
    },
    {
      name: 'refcount_bits',
      type: 'number',
      help: 'Width of a reference count entry in bits',
      fallback: '16',
      key: 'refcountBits',
      amend: true,
    },
  ],
  qed: [
    SIZE,
    ...BACKING('Image format of the base image'),
    { name: 'cluster_size', type: 'size', help: 'Cluster size (in bytes)', fallback: '65536', key: 'clusterSize' },
    { name: 'table_size', type: 'size', help: 'L1/L2 table size (in clusters)', key: 'tableSize' },
  ],
  qcow: [
    SIZE,
    ...BACKING('Format of the backing image'),
    ...AES,
    { name: 'encrypt.format', type: 'string', help: "Encrypt the image, format choices: 'aes'" },
    {
      name: 'encrypt.key-secret',
      type: 'string',
      help: 'ID of the secret that provides the AES encryption key',
    },
  ],
}

/** What a file of the host can be made with. */
const FILE_OPTIONS: readonly FormatOption[] = [
  { name: 'extent_size_hint', type: 'size', help: 'Extent size hint for the image file, 0 to disable' },
  { name: 'nocow', type: 'bool', help: 'Turn off copy-on-write (valid only on btrfs)' },
  {
    name: 'preallocation',
    type: 'string',
    help: 'Preallocation mode (allowed values: off, falloc, full)',
    key: 'preallocation',
  },
]

/** Options of a format in a file. */
export function optionsOf(format: string): readonly FormatOption[] {
  const own = FORMAT_OPTIONS[format] ?? [SIZE]
  return [...own, ...FILE_OPTIONS.filter(({ name }) => !own.some((each) => each.name === name))]
}

/** Values of options as they were given, by name; checked. */
export type OptionValues = ReadonlyMap<string, string | number | boolean>

/** Whether `-o` asks for help. */
export function wantsHelp(lists: readonly string[]): boolean {
  return lists.some((list) => list.split(',').some((word) => word === 'help' || word === '?'))
}

/** Refuses a list of `-o` that starts or ends with a comma, or is empty. */
export function checkLists(lists: readonly string[]): void {
  for (const list of lists) {
    const odd = /,+$/.exec(list)?.[0].length ?? 0
    if (list === '' || list.startsWith(',') || odd % 2 === 1) throw new Failure(`Invalid option list: ${list}`)
  }
}

/** Reads `-o` options against those that are known. */
export function readOptions(
  lists: readonly string[],
  known: readonly FormatOption[],
): Map<string, string | number | boolean> {
  const values = new Map<string, string | number | boolean>()
  for (const list of lists) {
    for (const [name, text] of pairs(list)) {
      const option = known.find((each) => each.name === name)
      if (option === undefined) throw new Failure(`Invalid parameter '${name}'`)
      values.set(name, checkedValue(option, text))
    }
  }
  return values
}

/** A word alone is `word=on`; one that begins with `no` is `word=off`. */
function pairs(list: string): [string, string][] {
  const words = list.match(/(?:[^,]|,,)+/g) ?? []
  return words.map((word) => {
    if (word.includes('=')) return parseKeyValues(word)[0]!
    return word.startsWith('no') ? [word.slice(2), 'off'] : [word, 'on']
  })
}

function checkedValue({ name, type }: FormatOption, text: string): string | number | boolean {
  if (type === 'bool') return onOff(text, name)
  if (type === 'string') return text
  if (type === 'number') {
    if (/^(\d+|0x[0-9a-f]+)$/i.test(text)) return Number(text)
    throw new Failure(`Parameter '${name}' expects a number`)
  }
  return optionSize(text, name)
}

/** A size as an option's value. */
export function optionSize(text: string, name: string): number {
  const value = parseSize(text)
  if (value !== undefined) return value
  throw new Failure(
    `Parameter '${name}' expects a non-negative number below 2^64\n` +
      'Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.',
  )
}

/** The values, and those that hold where none is given, in the order in which they are shown: `cluster_size=65536 size=1`. */
export function shown(known: readonly FormatOption[], values: OptionValues): string {
  const words: string[] = []
  for (const { name, fallback } of known) {
    const value = values.get(name)
    const given = typeof value === 'number' ? BigInt(value) : value // all digits of a large one
    const text = typeof given === 'boolean' ? (given ? 'on' : 'off') : (given ?? fallback)
    if (text === undefined) continue
    words.push(`${name}=${quoted(String(text))}`)
  }
  return words.join(' ')
}

function quoted(text: string): string {
  return text === '' || /[\s']/.test(text) ? `'${text.replace(/'/g, "'\\''")}'` : text
}

/** The values under the library's names; refuses what it does not do, by name. */
export function libraryOptions(known: readonly FormatOption[], values: OptionValues): Record<string, unknown> {
  const options: Record<string, unknown> = {}
  for (const [name, value] of values) {
    const key = known.find((each) => each.name === name)?.key
    if (key === undefined) {
      if (value === false || value === 0) continue
      throw new Failure(`Parameter '${name}' is not supported by ${PROGRAM}`)
    }
    options[key] = value
  }
  return options
}

/** What `-o help` prints. */
export function optionsHelp(format: string, withFile: boolean, title: string, amend = false): string {
  const known = withFile ? optionsOf(format) : (FORMAT_OPTIONS[format] ?? [SIZE])
  const types = { size: '<size>', bool: '<bool (on/off)>', number: '<num>', string: '<str>' }
  const lines = known
    .filter((option) => !amend || option.amend === true)
    .map(({ name, type, help }) => ({ name, text: `  ${`${name}=${types[type]}`.padEnd(22)} - ${help}\n` }))
    .sort((a, b) => (a.name < b.name ? -1 : 1))
  return title + lines.map(({ text }) => text).join('')
}
