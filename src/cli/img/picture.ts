/** Draws what is where in an image and its chain, as SVG. */
import { humanSize } from '../units.ts'
import type { Opened } from './open.ts'
import { type Cell, type Layer, type Stretch, type Survey, survey } from './survey.ts'

const WIDTH = 1040
const MARGIN = 40
const INNER = WIDTH - 2 * MARGIN
const COLUMNS = 64
const ROWS = 24
const LABELS = 76
const PITCH = (INNER - LABELS) / COLUMNS
const BAND = 16
const RIBBON = 84
/** Most ribbons between a disk and a file: more are one colour anyway. */
const RIBBONS = 500

const LAYERS = ['#2f6fde', '#12908a', '#d97a1a', '#8b4fc9', '#c93a55', '#5d8a1f']
const INK = '#1d2733'
const FAINT = '#6b7786'
const ZERO = '#c9d1db'
const HOLE = '#eef1f5'
const REST = '#dfe4ea'

const colour = (depth: number) => LAYERS[depth % LAYERS.length]!

/** The picture of an open image. */
export async function drawMap(opened: Opened): Promise<string> {
  return new Picture(await survey(opened, COLUMNS * ROWS)).text
}

class Picture {
  readonly #parts: string[] = []
  readonly #survey: Survey
  #y = MARGIN

  constructor(found: Survey) {
    this.#survey = found
    this.#head()
    this.#legend()
    this.#grid()
    found.layers.forEach((layer, depth) => {
      this.#file(layer, depth)
    })
  }

  get text(): string {
    const height = Math.ceil(this.#y + MARGIN - 20)
    const hatches = this.#survey.layers.map(
      (_, depth) =>
        `<pattern id="packed${depth}" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">` +
        `<rect width="5" height="5" fill="${colour(depth)}"/><rect width="1.6" height="5" fill="#fff" fill-opacity=".45"/></pattern>`,
    )
    return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" font-family="system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif" font-size="13" fill="${INK}">
<defs>${hatches.join('')}</defs>
<rect width="${WIDTH}" height="${height}" fill="#fff"/>
${this.#parts.join('\n')}
</svg>
`
  }

  #head(): void {
    const { layers, size } = this.#survey
    const top = layers[0]!
    this.#text(MARGIN, this.#y + 8, shortened(top.name), 'font-size="22" font-weight="600"')
    const chain = layers.length === 1 ? '' : `, over ${layers.length - 1} backing file${layers.length > 2 ? 's' : ''}`
    this.#text(MARGIN, this.#y + 32, `${top.format}, a disk of ${humanSize(size)}${chain}`, `fill="${FAINT}"`)
    this.#y += 58
  }

  /** What the disk is made of: one bar, and what its colours mean. */
  #legend(): void {
    const { layers, size, zero, hole } = this.#survey
    const shares: { label: string; bytes: number; fill: string }[] = []
    layers.forEach(({ name, plain, packed }, depth) => {
      if (plain > 0) shares.push({ label: shortened(name), bytes: plain, fill: colour(depth) })
      if (packed > 0)
        shares.push({ label: `${shortened(name)}, compressed`, bytes: packed, fill: `url(#packed${depth})` })
    })
    if (zero > 0) shares.push({ label: 'zeroes', bytes: zero, fill: ZERO })
    if (hole > 0) shares.push({ label: 'never written', bytes: hole, fill: HOLE })
    let x = MARGIN
    for (const { bytes, fill } of shares) {
      const width = (bytes / Math.max(size, 1)) * INNER
      this.#rect(x, this.#y, width, 10, fill)
      x += width
    }
    this.#y += 32
    x = MARGIN
    for (const { label, bytes, fill } of shares) {
      const text = `${label}  ${humanSize(bytes)} (${percent(bytes / Math.max(size, 1))})`
      const width = 34 + text.length * 7.2
      if (x > MARGIN && x + width > WIDTH - MARGIN) {
        x = MARGIN
        this.#y += 22
      }
      this.#rect(x, this.#y - 10, 12, 12, fill, `stroke="${FAINT}" stroke-width=".4"`)
      this.#text(x + 19, this.#y, text)
      x += width
    }
    this.#y += 30
  }

  /** The disk from its start to its end, row by row. */
  #grid(): void {
    const { cells, cellSize } = this.#survey
    this.#text(MARGIN, this.#y, `The disk, ${humanSize(cellSize)} a square`, 'font-weight="600"')
    this.#y += 14
    const rows = Math.ceil(cells.length / COLUMNS)
    for (let row = 0; row < rows; row++) {
      const y = this.#y + row * PITCH
      if (row % 4 === 0) {
        const label = row === 0 ? '0' : humanSize(row * COLUMNS * cellSize)
        this.#text(MARGIN + LABELS - 12, y + PITCH - 3, label, `text-anchor="end" font-size="11" fill="${FAINT}"`)
      }
      for (let column = 0; column < COLUMNS; column++) {
        const cell = cells[row * COLUMNS + column]
        if (cell !== undefined) this.#cell(cell, MARGIN + LABELS + column * PITCH, y)
      }
    }
    this.#y += rows * PITCH + 34
  }

  /** A square, filled from below with what its bytes are. */
  #cell(cell: Cell, x: number, y: number): void {
    const side = PITCH - 1.2
    const all: [bytes: number, fill: string][] = []
    cell.plain.forEach((bytes, depth) => {
      all.push([bytes, colour(depth)])
    })
    cell.packed.forEach((bytes, depth) => {
      all.push([bytes, `url(#packed${depth})`])
    })
    all.push([cell.zero, ZERO])
    const total = all.reduce((sum, [bytes]) => sum + bytes, cell.hole)
    if (cell.hole > 0) this.#rect(x, y, side, side, HOLE)
    let top = y + side
    for (const [bytes, fill] of all) {
      if (!bytes) continue
      // What is there at all can be seen.
      const height = Math.min(Math.max((bytes / total) * side, 2), top - y)
      top -= height
      this.#rect(x, top, side, height, fill)
    }
  }

  /** A layer: the disk above, its file below, and what of the one is where in the other. */
  #file(layer: Layer, depth: number): void {
    const { size } = this.#survey
    const { name, format, fileSize, plain, packed, stretches } = layer
    const role = depth === 0 ? '' : depth === 1 ? 'backing file, ' : `backing file ${depth}, `
    const pieces = `${stretches.length} piece${stretches.length === 1 ? '' : 's'}`
    const about = `${role}${format}, ${humanSize(fileSize)} of file; shows ${humanSize(plain + packed)} of the disk in ${pieces}`
    this.#parts.push(
      `<text x="${MARGIN}" y="${n(this.#y)}" font-weight="600" fill="${colour(depth)}">${safe(shortened(name))}` +
        `<tspan dx="10" font-weight="400" fill="${FAINT}">${safe(about)}</tspan></text>`,
    )
    const disk = this.#y + 12
    const file = disk + BAND + RIBBON
    this.#rect(MARGIN, disk, INNER, BAND, HOLE)
    this.#rect(MARGIN, file, INNER, BAND, REST)
    const onDisk = (at: number) => MARGIN + (at / Math.max(size, 1)) * INNER
    const inFile = (at: number) => MARGIN + (at / Math.max(fileSize, 1)) * INNER
    const ribbons = widest(stretches)
    const opacity = ribbons.length > 100 ? 0.16 : 0.3
    for (const { start, length, offset } of ribbons) {
      if (offset === undefined) continue
      const [a, b] = [onDisk(start), Math.max(onDisk(start + length), onDisk(start) + 0.6)]
      const [c, d] = [inFile(offset), Math.max(inFile(offset + length), inFile(offset) + 0.6)]
      const [from, to, middle] = [disk + BAND, file, (disk + BAND + file) / 2]
      this.#parts.push(
        `<path d="M${n(a)} ${n(from)}C${n(a)} ${n(middle)} ${n(c)} ${n(middle)} ${n(c)} ${n(to)}L${n(d)} ${n(to)}C${n(d)} ${n(middle)} ${n(b)} ${n(middle)} ${n(b)} ${n(from)}Z" fill="${colour(depth)}" fill-opacity="${opacity}"/>`,
      )
    }
    for (const [left, right] of columns(stretches.map(({ start, length }) => [onDisk(start), onDisk(start + length)])))
      this.#rect(left, disk, right - left, BAND, colour(depth))
    const placed = stretches.filter((each) => each.offset !== undefined)
    for (const [left, right] of columns(
      placed.map(({ offset, length }) => [inFile(offset!), inFile(offset! + length)]),
    ))
      this.#rect(left, file, right - left, BAND, colour(depth))
    const small = `font-size="11" fill="${FAINT}"`
    this.#text(MARGIN, file + BAND + 15, 'start of the file', small)
    this.#text(WIDTH - MARGIN, file + BAND + 15, humanSize(fileSize), `text-anchor="end" ${small}`)
    this.#text(WIDTH - MARGIN, this.#y, `the disk, ${humanSize(size)}`, `text-anchor="end" ${small}`)
    this.#y = file + BAND + 52
  }

  #rect(x: number, y: number, width: number, height: number, fill: string, more = ''): void {
    this.#parts.push(
      `<rect x="${n(x)}" y="${n(y)}" width="${n(width)}" height="${n(height)}" fill="${fill}"${more && ` ${more}`}/>`,
    )
  }

  #text(x: number, y: number, text: string, more = ''): void {
    this.#parts.push(`<text x="${n(x)}" y="${n(y)}"${more && ` ${more}`}>${safe(text)}</text>`)
  }
}

function safe(text: string): string {
  return text.replace(/[&<>]/g, (mark) => (mark === '&' ? '&amp;' : mark === '<' ? '&lt;' : '&gt;'))
}

/** The end of a long name, which tells files apart. */
function shortened(name: string): string {
  return name.length <= 44 ? name : `…${name.slice(-43)}`
}

const n = (value: number) => String(Math.round(value * 100) / 100)

function percent(share: number): string {
  return share > 0 && share < 0.001 ? '<0.1%' : `${(share * 100).toFixed(share < 0.1 ? 1 : 0)}%`
}

/** The largest stretches, in their order. */
function widest(stretches: readonly Stretch[]): readonly Stretch[] {
  if (stretches.length <= RIBBONS) return stretches
  const least = [...stretches].sort((a, b) => b.length - a.length)[RIBBONS - 1]!.length
  return stretches.filter(({ length }) => length >= least).slice(0, RIBBONS)
}

/** Ranges of a line that touch each other at the picture's resolution, as one. */
function columns(ranges: readonly (readonly [number, number])[]): [number, number][] {
  const joined: [number, number][] = []
  for (const [left, right] of [...ranges].sort((a, b) => a[0] - b[0])) {
    const last = joined.at(-1)
    const end = Math.max(right, left + 0.8)
    if (last !== undefined && left <= last[1] + 0.25) last[1] = Math.max(last[1], end)
    else joined.push([left, end])
  }
  return joined
}
