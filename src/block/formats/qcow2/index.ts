/** qcow2, versions 2 and 3. */
import * as codecs from '../../../codecs/index.ts'
import type { BlockDevice, BlockDriver } from '../../device.ts'
import { BlockError } from '../../error.ts'
import type { FormatDriver, FormatOpenOptions } from '../../format.ts'
import { ImageDevice } from '../../mover.ts'
import { rescue } from '../../now.ts'
import { preallocate } from './amend.ts'
import { createQcow2, type Qcow2CreateOptions } from './create.ts'
import { INCOMPATIBLE_DATA_FILE, isQcow2 } from './header.ts'
import { openQcow2, type Qcow2Options, readImageHeader } from './image.ts'
import type { ClusterCodecs } from './packed.ts'

function open(file: BlockDevice, options: FormatOpenOptions): Promise<BlockDriver> {
  return openQcow2With(codecs, file, options)
}

/** Opens an image that packs and unpacks its clusters with these codecs: with those of a pool, in other threads. */
export async function openQcow2With(
  codecs: ClusterCodecs,
  file: BlockDevice,
  options: FormatOpenOptions,
): Promise<BlockDriver> {
  const { name, readOnly, gate } = options
  const header = await readImageHeader(name, file)
  const opened: BlockDevice[] = []
  const parts: { -readonly [K in keyof Qcow2Options]: Qcow2Options[K] } = { name, readOnly, codecs }
  const limit = options.options.metadataLimit
  if (limit !== undefined) {
    if (typeof limit !== 'number' || !(limit >= 0)) {
      throw new BlockError('EINVAL', `Cannot open ${name}: metadataLimit is ${limit}, must be a number of bytes`)
    }
    parts.metadataLimit = limit
  }
  try {
    if ((header.incompatible & INCOMPATIBLE_DATA_FILE) !== 0n) {
      if (header.dataFile === undefined) throw new BlockError('EINVAL', `Cannot open ${name}: it names no data file`)
      parts.dataFile = await gate.open(header.dataFile, { purpose: 'data file', format: 'raw', readOnly })
      opened.push(parts.dataFile)
    }
    if (options.backing !== undefined) parts.backing = options.backing
    else if (header.backingFile !== undefined) {
      const format = header.backingFormat
      const request = { purpose: 'backing file', readOnly: true } as const
      parts.backing = await gate.open(header.backingFile, format === undefined ? request : { ...request, format })
      opened.push(parts.backing)
    }
    return new ImageDevice(await openQcow2(file, header, parts))
  } catch (error) {
    for (const device of opened) {
      await rescue(
        () => device.close(),
        () => {},
      )
    }
    throw error
  }
}

export const qcow2 = {
  name: 'qcow2',
  openOptions: ['metadataLimit'],
  createOptions: [
    'compat',
    'clusterSize',
    'refcountBits',
    'backingFile',
    'backingFmt',
    'dataFile',
    'dataFileRaw',
    'lazyRefcounts',
    'extendedL2',
    'compressionType',
    'preallocation',
  ],
  probe: (head) => (isQcow2(head) ? 100 : 0),
  open,
  async create(file, { name, size, gate, options }) {
    const { preallocation, ...wanted } = options as Omit<Qcow2CreateOptions, 'name' | 'size'> & {
      preallocation?: string
    }
    const modes = ['off', 'metadata', 'falloc', 'full'] as const
    const mode = modes.find((each) => each === (preallocation ?? 'off'))
    if (mode === undefined) {
      throw new BlockError(
        'EINVAL',
        `Cannot create ${name}: preallocation is ${preallocation}, must be ${modes.join(', ')}`,
      )
    }
    const dataFile = wanted.dataFile === undefined ? undefined : await gate.create(wanted.dataFile)
    if (dataFile !== undefined && wanted.dataFileRaw) await dataFile.resize(size)
    const header = await createQcow2(file, { ...wanted, name, size })
    if (mode === 'off') return dataFile?.close()
    const parts = dataFile === undefined ? { name } : { name, dataFile }
    const image = await openQcow2(file, header, parts)
    await preallocate(new ImageDevice(image), mode)
    await image.commit.settle()
    await image.allocator.trim()
    await dataFile?.close()
  },
} satisfies FormatDriver
