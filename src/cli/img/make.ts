/** Makes new images for the verbs, with the checks and the words that people know from qemu-img. */
import { closeSync, openSync, statSync } from 'node:fs'
import { host } from '#host'
import { asDevice, type BlockDevice } from '../../block/device.ts'
import { errnoOf } from '../../block/error.ts'
import { Unflushed } from '../../block/filters/unflushed.ts'
import type { FormatDriver } from '../../block/format.ts'
import { formats } from '../../block/formats/index.ts'
import type { Gate } from '../../block/gate.ts'
import { Failure } from './console.ts'
import { type FormatOption, libraryOptions, type OptionValues } from './format-options.ts'
import { openFile, resolveBacking } from './open.ts'
import { Reason, strerror } from './reasons.ts'

/** The format to make an image of; its own words where there is none of that name. */
export function creatable(name: string): FormatDriver {
  const format = formats.find((each) => each.name === name)
  if (format === undefined) throw new Failure(`Unknown file format '${name}'`)
  if (format.create === undefined) throw new Failure(`Format driver '${name}' does not support image creation`)
  return format
}

/** Makes an image; what is there is gone. Failures have no name before them, and call the file `shown`. Unless `durable`, nothing is flushed. */
export async function makeImage(
  name: string,
  format: FormatDriver,
  size: number,
  known: readonly FormatOption[],
  values: OptionValues,
  shown = name,
  durable = true,
): Promise<void> {
  checkValues(format.name, size, values)
  const options = libraryOptions(known, values)
  const { preallocation, ...own } = options
  delete own.size
  if (format.name === 'raw' && preallocation !== undefined && !/^(off|falloc|full)$/.test(String(preallocation)))
    throw new Failure(`invalid parameter value: ${preallocation}`)
  const file = await makeFile(name, format, size, preallocation, shown, durable)
  try {
    if (format.name === 'raw') {
      // What has a size of its own, as an NBD export, may be larger.
      if (file.size < size || (file.size > size && !isFixed(name))) await file.resize(size)
      return
    }
    const gate: Gate = {
      open: (other, request) => openFile(resolveBacking(name, other), { readOnly: request.readOnly }),
      async create(other) {
        const full = resolveBacking(name, other)
        await host.createFile(full, 0)
        return asDevice(await host.openFile(full))
      },
    }
    const rounded = Math.ceil(size / 512) * 512
    const chosen = preallocation === undefined ? own : { ...own, preallocation }
    await format.create!(file, { name, size: rounded, gate, options: chosen })
  } catch (error) {
    if (error instanceof Reason || error instanceof Failure) throw error
    throw new Failure(createReason(error, name))
  } finally {
    await file.close()
  }
}

/** Whether it is a place with a size of its own: of another host, or a device. */
function isFixed(name: string): boolean {
  return isUrl(name) || (statSync(name, { throwIfNoEntry: false })?.isBlockDevice() ?? false)
}

function isUrl(name: string): boolean {
  return /^(?!file:)[a-z][a-z0-9+.-]*:/i.test(name.split('/', 1)[0]!)
}

/** Makes a file that nobody waits for to be durable; false if there is one of the name. */
function makeEmpty(path: string): boolean {
  try {
    closeSync(openSync(path, 'wx'))
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw error
  }
}

async function makeFile(
  name: string,
  format: FormatDriver,
  size: number,
  preallocation: unknown,
  shown: string,
  durable: boolean,
): Promise<BlockDevice> {
  if (isFixed(name)) return openFile(name, { readOnly: false })
  const path = name.replace(/^file:(?:\/\/(?=\/))?/, '')
  const raw = format.name === 'raw'
  try {
    const anew = !durable && preallocation === undefined && makeEmpty(path)
    if (!anew) await host.createFile(path, raw ? size : 0, raw ? (preallocation as 'falloc' | undefined) : undefined)
    const file = asDevice(await host.openFile(path, { aio: 'threads' }))
    return durable ? file : asDevice(new Unflushed(file))
  } catch (error) {
    const code = errnoOf(error)
    if (code === 'EBUSY')
      throw new Failure(`Failed to get "write" lock\nIs another process using the image [${shown}]?`)
    throw new Failure(`Could not create '${shown}': ${strerror(error)}`)
  }
}

/** Why an image could not be made, without its name. */
function createReason(error: unknown, name: string): string {
  const message = error instanceof Error ? error.message : String(error)
  const prefix = `Cannot create ${name}: `
  return message.startsWith(prefix) ? message.slice(prefix.length) : message
}

const powerOfTwo = (value: number) => value > 0 && 2 ** Math.round(Math.log2(value)) === value

/** Refuses what a format cannot do, in the words of qemu-img. */
export function checkValues(format: string, size: number, values: OptionValues): void {
  const number = (key: string, fallback: number) => Number(values.get(key) ?? fallback)
  const text = (key: string, known: readonly string[], shownAs = key) => {
    const value = values.get(key)
    if (value !== undefined && !known.includes(String(value)))
      throw new Failure(`Parameter '${shownAs}' does not accept value '${value}'`)
  }
  if (values.has('encrypt.format') || values.get('encryption') === true)
    throw new Failure(
      `Parameter '${values.has('encrypt.format') ? 'encrypt.format' : 'encryption'}' is not supported: encryption`,
    )
  if (format === 'qcow2') {
    text('preallocation', ['off', 'metadata', 'falloc', 'full'])
    text('compat', ['0.10', '1.1', 'v2', 'v3'], 'version')
    text('compression_type', ['zlib', 'zstd'], 'compression-type')
    checkQcow2(size, values, number)
  } else if (format === 'qed') {
    const cluster = number('cluster_size', 65536)
    if (!powerOfTwo(cluster) || cluster < 4096 || cluster > 64 << 20)
      throw new Failure('QED cluster size must be within range [4096, 67108864] and power of 2')
    const table = number('table_size', 4)
    if (!powerOfTwo(table) || table > 16)
      throw new Failure('QED table size must be within range [1, 16] and power of 2')
  } else if (format === 'qcow' && size === 0) {
    throw new Failure('Image size is too small, cannot be zero length')
  }
}

function checkQcow2(size: number, values: OptionValues, number: (key: string, fallback: number) => number): void {
  const old = values.get('compat') === '0.10' || values.get('compat') === 'v2'
  const cluster = number('cluster_size', 65536)
  if (!powerOfTwo(cluster) || cluster < 512 || cluster > 2 << 20)
    throw new Failure('Cluster size must be a power of two between 512 and 2048k')
  const extended = values.get('extended_l2') === true
  const needs = (what: string, verb: string, level: string) =>
    new Failure(`${what} ${verb} compatibility level ${level} (use version=v3 or greater)`)
  if (old && values.get('lazy_refcounts') === true)
    throw needs('Lazy refcounts', 'only supported with', '1.1 and above')
  const bits = number('refcount_bits', 16)
  if (!powerOfTwo(bits) || bits > 64)
    throw new Failure('Refcount width must be a power of two and may not exceed 64 bits')
  if (old && bits !== 16) throw needs('Different refcount widths than 16 bits', 'require', '1.1 or above')
  if (old && values.has('data_file')) throw needs('External data files', 'are only supported with', '1.1 and above')
  if (values.get('data_file_raw') === true && !values.has('data_file'))
    throw new Failure('data-file-raw requires data-file')
  if (values.get('data_file_raw') === true && values.has('backing_file'))
    throw new Failure('Backing file and data-file-raw cannot be used at the same time')
  if (old && values.get('compression_type') === 'zstd')
    throw needs('Non-zlib compression type', 'is only supported with', '1.1 and above')
  if (old && extended) throw needs('Extended L2 entries', 'are only supported with', '1.1 and above')
  if (extended && cluster < 16384)
    throw new Failure('Extended L2 entries are only supported with cluster sizes of at least 16384 bytes')
  if (values.has('backing_fmt') && !values.has('backing_file'))
    throw new Failure('Backing format cannot be used without backing file')
  const perTable = cluster * (cluster / (extended ? 16 : 8))
  if (Math.ceil(size / perTable) * 8 > 32 << 20)
    throw new Failure("The image size is too large for file format 'qcow2' (try using a larger cluster size)")
}
