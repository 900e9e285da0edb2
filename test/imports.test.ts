/** Imports point one way: v86 -> devices -> block core; cli -> open -> formats, filters, protocols, jobs -> core. */
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'

const root = path.resolve(import.meta.dirname, '..')

interface Import {
  readonly from: string
  readonly to: string
}

function sources(folder: string): string[] {
  if (!fs.existsSync(folder)) return []
  return fs.readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const place = path.join(folder, entry.name)
    if (entry.isDirectory()) return entry.name === 'pkg' || entry.name === 'crate' ? [] : sources(place)
    return entry.name.endsWith('.ts') ? [place] : []
  })
}

/** All imports of a file, types too, by paths from the root; bare names stay as they are. */
function importsOf(file: string): Import[] {
  const text = fs.readFileSync(file, 'utf8')
  const found = text.matchAll(
    /^\s*(?:import|export)\b[^'"`;]*?from\s*['"]([^'"]+)['"]|^import\s*['"]([^'"]+)['"]|\bimport\(\s*['"]([^'"]+)['"]\s*\)/gm,
  )
  return [...found].map((match) => {
    const name = (match[1] ?? match[2] ?? match[3])!
    const to = name.startsWith('.') ? path.relative(root, path.resolve(path.dirname(file), name)) : name
    return { from: path.relative(root, file), to }
  })
}

const imports = sources(path.join(root, 'src')).flatMap(importsOf)

/** Rooms, the first that fits. */
function roomOf(place: string): string {
  if (place.startsWith('src/cli/')) return 'cli'
  if (/^src\/v86(\.ts|\/)/.test(place)) return 'v86'
  if (/^src\/[^/]+\.ts$/.test(place)) return 'face'
  if (place.startsWith('src/codecs/')) return 'codecs'
  if (place.startsWith('src/devices/')) return 'devices'
  if (place.startsWith('src/block/formats/')) return place === 'src/block/formats/index.ts' ? 'open' : 'formats'
  if (place.startsWith('src/block/filters/')) return 'filters'
  if (place.startsWith('src/block/protocols/')) return 'protocols'
  if (place.startsWith('src/block/jobs/')) return 'jobs'
  if (/^(src\/block\/(open|live|index)\.ts|#host)$/.test(place)) return 'open'
  if (place.startsWith('src/block/')) return 'core'
  return 'outside'
}

/** What each room may import besides itself. */
const MAY: Readonly<Record<string, readonly string[]>> = {
  core: [],
  codecs: [],
  protocols: ['core', 'codecs'],
  filters: ['core', 'codecs', 'protocols'],
  formats: ['core', 'codecs'],
  jobs: ['core', 'codecs', 'filters'],
  open: ['core', 'formats', 'filters', 'protocols', 'jobs', 'codecs'],
  devices: ['core'],
  v86: ['devices', 'core', 'open', 'jobs'],
  cli: ['v86', 'devices', 'open', 'core', 'formats', 'filters', 'protocols', 'jobs', 'codecs', 'face'],
  face: ['v86', 'devices', 'open', 'core', 'formats', 'filters', 'protocols', 'jobs', 'codecs'],
}

/** What a device may see of the block layer. */
const DEVICES_SEE = ['disk', 'iovec', 'now', 'error', 'device'].map((name) => `src/block/${name}.ts`)

const NODE_ROOMS = [/^src\/cli\//, /^src\/block\/protocols\/node\//, /^src\/codecs\/node\//]

/** The folder or file that stands for one format. */
function formatOf(place: string): string {
  return place.replace(/^src\/block\/formats\//, '').replace(/(\.ts$|\/.*$)/, '')
}

function wrong(rule: (found: Import) => boolean): string[] {
  return imports.filter(rule).map(({ from, to }) => `${from} imports ${to}`)
}

describe('imports', () => {
  test('the walk sees the source', () => {
    expect(imports.length).toBeGreaterThan(50)
    expect(imports).toContainEqual({ from: 'src/block/open.ts', to: 'src/block/disk.ts' })
  })

  test('point one way', () => {
    expect(
      wrong(({ from, to }) => {
        const [source, target] = [roomOf(from), roomOf(to)]
        return target !== 'outside' && source !== target && !MAY[source]?.includes(target)
      }),
    ).toEqual([])
  })

  test('devices see only the disk of the block layer', () => {
    expect(
      wrong(({ from, to }) => roomOf(from) === 'devices' && to.startsWith('src/block/') && !DEVICES_SEE.includes(to)),
    ).toEqual([])
  })

  test('formats do not import each other', () => {
    expect(
      wrong(
        ({ from, to }) => roomOf(from) === 'formats' && roomOf(to) === 'formats' && formatOf(from) !== formatOf(to),
      ),
    ).toEqual([])
  })

  test('node: is imported only where Node is', () => {
    expect(wrong(({ from, to }) => to.startsWith('node:') && !NODE_ROOMS.some((room) => room.test(from)))).toEqual([])
  })

  test("no room of Node's is imported but by #host, the tool and other rooms of Node's", () => {
    const inNode = (place: string) => NODE_ROOMS.some((room) => room.test(place))
    expect(wrong(({ from, to }) => inNode(to) && !inNode(from))).toEqual([])
  })

  test('packages are imported by no source: all that is used at run time is written here, or optional', () => {
    const bare = (to: string) => !to.startsWith('src/') && !to.startsWith('node:') && !to.startsWith('#')
    expect(wrong(({ from, to }) => bare(to) && !/^src\/(v86|cli)/.test(from))).toEqual([])
  })

  test('only v86.ts and the tool know v86', () => {
    expect(wrong(({ from, to }) => /(^|\/)v86/.test(to) && !/^src\/(v86|cli|index)/.test(from))).toEqual([])
  })
})
