/** `block86 img info`: tells about an image. */
import { host } from '#host'
import type { BlockDevice } from '../../block/device.ts'
import { readQcowHeader } from '../../block/formats/qcow.ts'
import { readImageHeader } from '../../block/formats/qcow2/image.ts'
import { infoQcow2, type SnapshotInfo } from '../../block/formats/qcow2/info.ts'
import { FEATURE_BACKING_RAW, FEATURE_NEED_CHECK } from '../../block/formats/qed/header.ts'
import { readQedHeader } from '../../block/formats/qed/index.ts'
import { humanSize } from '../units.ts'
import { outputFormat, parse } from './arguments.ts'
import { type Console, Failure, misuse } from './console.ts'
import { ordered, prettyJson } from './json.ts'
import { type Flags, type Opened, openGiven, resolveBacking } from './open.ts'
import { shownName } from './shown-name.ts'
import { snapshotLines } from './snapshot-list.ts'

const USAGE = `usage: block86 img info [--object OBJECTDEF] [--image-opts] [-f FMT] [--output=OFMT] [--backing-chain] [-U] FILENAME

  -f FMT           format of the image (default: guessed)
  --output=OFMT    human (default) or json
  --backing-chain  tell about the image's backing files too
  -U               open it though another program writes to it
`

/** What is known of an image; the names are those of `--output=json`. */
export interface ImageInfo {
  'virtual-size': number
  filename: string
  format: string
  'actual-size'?: number | undefined
  'cluster-size'?: number | undefined
  'dirty-flag'?: boolean | undefined
  'backing-filename'?: string | undefined
  'full-backing-filename'?: string | undefined
  'backing-filename-format'?: string | undefined
  snapshots?: readonly SnapshotInfo[] | undefined
  'format-specific'?: object | undefined
}

/** Runs the verb. */
export async function info(argv: readonly string[], console: Console): Promise<number> {
  const args = parse(
    argv,
    [
      { short: 'f', long: 'format', value: true },
      { long: 'output', value: true },
      { long: 'backing-chain' },
      { short: 'U', long: 'force-share' },
    ],
    USAGE,
    console,
  )
  const [name, ...more] = args.operands
  if (name === undefined || more.length > 0) throw misuse('Expecting one image file name')
  const output = outputFormat(args)
  const flags = { readOnly: true, noBacking: true, forceShare: args.has('force-share') }
  const infos = await chainInfo(
    console,
    name,
    args.last('format'),
    flags,
    args.has('image-opts'),
    args.has('backing-chain'),
  )
  if (output === 'json') {
    console.out.write(`${prettyJson(args.has('backing-chain') ? infos : infos[0])}\n`)
    return 0
  }
  const tell = console.terminal === undefined ? plainText : terminalText
  console.out.write(infos.map(tell).join('\n'))
  return 0
}

async function chainInfo(
  console: Console,
  name: string,
  format: string | undefined,
  flags: Flags,
  imageOptions: boolean,
  chain: boolean,
): Promise<ImageInfo[]> {
  const infos: ImageInfo[] = []
  const seen = new Set<string>()
  for (let next: string | undefined = name, as = format, options = imageOptions; next !== undefined; ) {
    const full = host.resolveName(next)
    if (seen.has(full)) throw new Failure(`Backing file '${next}' creates an infinite loop.`)
    seen.add(full)
    const opened = await openGiven(console, next, as, flags, options)
    try {
      infos.push({ ...(await describe(opened)), filename: shownName(next === name ? name : opened.name, options) })
    } finally {
      await opened.close()
    }
    const last = infos.at(-1)!
    as = last['backing-filename-format']
    options = false
    next = chain ? last['full-backing-filename'] : undefined
  }
  return infos
}

/** What there is to tell about an open image. */
export async function describe(opened: Opened): Promise<ImageInfo> {
  const { name, file, device } = opened
  const common = {
    'virtual-size': device.size,
    filename: name,
    format: opened.format,
    // What is elsewhere does not say how much it takes.
    ...(bottom(file).driver.allocated === undefined
      ? {}
      : { 'actual-size': await file.allocated(), 'dirty-flag': false }),
  }
  const backed = (backing: string | undefined) =>
    backing === undefined ? {} : { 'backing-filename': backing, 'full-backing-filename': resolveBacking(name, backing) }
  switch (opened.format) {
    case 'qcow2': {
      const found = await infoQcow2(name, file, await readImageHeader(name, file))
      return { ...common, ...found, ...backed(found['backing-filename']) }
    }
    case 'qed': {
      const header = await readQedHeader(name, file)
      const raw = (header.features & FEATURE_BACKING_RAW) !== 0n
      return {
        ...common,
        'cluster-size': header.clusterSize,
        'dirty-flag': (header.features & FEATURE_NEED_CHECK) !== 0n,
        ...backed(header.backingFile),
        ...(raw ? { 'backing-filename-format': 'raw' } : {}),
      }
    }
    case 'qcow': {
      const header = await readQcowHeader(name, file)
      return { ...common, 'cluster-size': 2 ** header.clusterBits, ...backed(header.backingFile) }
    }
    default:
      return opened.image === undefined ? common : { ...common, 'cluster-size': opened.image.clusterSize }
  }
}

/** What a device is a plain view of. */
function bottom(device: BlockDevice): BlockDevice {
  const { plain } = device.driver
  return plain === undefined ? device : bottom(plain.device)
}

/** As qemu-img prints it. */
function plainText(found: ImageInfo): string {
  const lines = [
    `image: ${found.filename}`,
    `file format: ${found.format}`,
    `virtual size: ${humanSize(found['virtual-size'])} (${found['virtual-size']} bytes)`,
    `disk size: ${found['actual-size'] === undefined ? 'unavailable' : humanSize(found['actual-size'])}`,
  ]
  if (found['cluster-size'] !== undefined) lines.push(`cluster_size: ${found['cluster-size']}`)
  if (found['dirty-flag']) lines.push('cleanly shut down: no')
  const backing = found['backing-filename']
  if (backing !== undefined) {
    const full = found['full-backing-filename']
    lines.push(`backing file: ${backing}${full === backing ? '' : ` (actual path: ${full})`}`)
  }
  const format = found['backing-filename-format']
  if (format !== undefined) lines.push(`backing file format: ${format}`)
  if (found.snapshots !== undefined) lines.push('Snapshot list:', ...snapshotLines(found.snapshots))
  if (found['format-specific'] !== undefined) lines.push(...specificLines(found['format-specific']))
  return `${lines.join('\n')}\n`
}

/** What is particular to the format, as people read it. */
export function specificLines(specific: object): string[] {
  const lines = ['Format specific information:']
  dump(lines, (specific as { data: object }).data, 1)
  return lines
}

/** Lists and members below each other, each level further to the right. */
function dump(lines: string[], value: object, depth: number): void {
  const indent = ' '.repeat(depth * 4)
  const members: [string, unknown][] = Array.isArray(value)
    ? value.map((each, index) => [`[${index}]`, each])
    : ordered(value).map(([key, each]) => [key.replaceAll('-', ' '), each])
  for (const [key, each] of members) {
    if (typeof each === 'object' && each !== null) {
      lines.push(`${indent}${key}:`)
      dump(lines, each, depth + 1)
    } else lines.push(`${indent}${key}: ${each}`)
  }
}

const BOLD = '\x1b[1m'
const DIM = '\x1b[2m'
const YELLOW = '\x1b[33m'
const PLAIN = '\x1b[0m'

/** For somebody at a terminal: names in a column, what matters bright, and how full the image is as a bar. */
function terminalText(found: ImageInfo): string {
  const rows: [string, string][] = []
  const size = found['virtual-size']
  const actual = found['actual-size']
  const share = size === 0 || actual === undefined ? 0 : actual / size
  const bar = '█'.repeat(Math.round(Math.min(share, 1) * 20)).padEnd(20, '░')
  rows.push(['format', `${BOLD}${found.format}${PLAIN}`])
  rows.push(['disk', `${BOLD}${humanSize(size)}${PLAIN} ${DIM}(${size} bytes)${PLAIN}`])
  if (actual !== undefined)
    rows.push(['on the host', `${BOLD}${humanSize(actual)}${PLAIN} ${DIM}${bar} ${Math.round(share * 100)}%${PLAIN}`])
  if (found['cluster-size'] !== undefined) rows.push(['cluster', humanSize(found['cluster-size'])])
  if (found['dirty-flag']) rows.push(['state', `${YELLOW}not cleanly shut down${PLAIN}`])
  if (found['backing-filename'] !== undefined) {
    const format = found['backing-filename-format']
    rows.push(['over', `${found['full-backing-filename']}${format === undefined ? '' : ` ${DIM}(${format})${PLAIN}`}`])
  }
  const specific = (found['format-specific'] as { data?: Record<string, unknown> } | undefined)?.data ?? {}
  for (const [key, value] of ordered(specific)) {
    if (typeof value === 'object' || value === false) continue
    const text = key === 'corrupt' ? `${YELLOW}yes${PLAIN}` : String(value)
    rows.push([key.replaceAll('-', ' '), text])
  }
  const bitmaps = specific.bitmaps as { name: string; granularity: number; flags: string[] }[] | undefined
  for (const { name, granularity, flags } of bitmaps ?? []) {
    rows.push(['bitmap', `${name} ${DIM}${[humanSize(granularity), ...flags].join(', ')}${PLAIN}`])
  }
  const width = Math.max(...rows.map(([label]) => label.length))
  const lines = rows.map(([label, text]) => `  ${DIM}${label.padStart(width)}${PLAIN}  ${text}`)
  const snapshots =
    found.snapshots === undefined ? [] : ['', ...snapshotLines(found.snapshots).map((line) => `  ${line}`)]
  return `${[`${BOLD}${found.filename}${PLAIN}`, ...lines, ...snapshots].join('\n')}\n`
}
