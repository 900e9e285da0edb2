/** Bars, two to a group, as an SVG and as text. */

export interface Group {
  readonly name: string
  /** MiB per second. */
  readonly qemu: number
  readonly block86: number
}

const WIDTH = 760
const HEIGHT = 320
const LEFT = 60
const BOTTOM = 60

/** The groups as an SVG document. */
export function svg(title: string, groups: readonly Group[]): string {
  const top = Math.max(...groups.flatMap(({ qemu, block86 }) => [qemu, block86])) * 1.1
  const step = (WIDTH - LEFT) / groups.length
  const y = (value: number) => (HEIGHT - BOTTOM - (value / top) * (HEIGHT - BOTTOM - 40)).toFixed(1)
  const bar = (at: number, value: number, color: string) => {
    const x = at.toFixed(1)
    const width = (step * 0.35).toFixed(1)
    return (
      `<rect x="${x}" y="${y(value)}" width="${width}" height="${(HEIGHT - BOTTOM - Number(y(value))).toFixed(1)}" fill="${color}"/>` +
      `<text x="${(at + step * 0.175).toFixed(1)}" y="${(Number(y(value)) - 4).toFixed(1)}" text-anchor="middle">${value.toFixed(0)}</text>`
    )
  }
  const bars = groups.map(({ name, qemu, block86 }, i) => {
    const at = LEFT + i * step + step * 0.13
    return (
      bar(at, qemu, '#9aa5b1') +
      bar(at + step * 0.37, block86, '#2f6fde') +
      `<text x="${(LEFT + (i + 0.5) * step).toFixed(1)}" y="${HEIGHT - BOTTOM + 18}" text-anchor="middle">${name}</text>`
    )
  })
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${HEIGHT}" font-family="sans-serif" font-size="11">
<rect width="100%" height="100%" fill="white"/>
<text x="${LEFT}" y="20" font-size="14">${title}, MiB/s</text>
<line x1="${LEFT}" y1="${HEIGHT - BOTTOM}" x2="${WIDTH}" y2="${HEIGHT - BOTTOM}" stroke="black"/>
${bars.join('\n')}
<rect x="${LEFT}" y="${HEIGHT - 22}" width="10" height="10" fill="#9aa5b1"/><text x="${LEFT + 15}" y="${HEIGHT - 13}">qemu-img bench</text>
<rect x="${LEFT + 130}" y="${HEIGHT - 22}" width="10" height="10" fill="#2f6fde"/><text x="${LEFT + 145}" y="${HEIGHT - 13}">block86 img bench</text>
</svg>
`
}

/** The groups as lines of text. */
export function text(title: string, groups: readonly Group[]): string {
  const top = Math.max(...groups.flatMap(({ qemu, block86 }) => [qemu, block86]))
  const line = (who: string, value: number) =>
    `  ${who.padEnd(8)}${'#'.repeat(Math.round((value / top) * 50))} ${value.toFixed(0)}`
  return [
    `${title}, MiB/s`,
    ...groups.flatMap(({ name, qemu, block86 }) => [name, line('QEMU', qemu), line('block86', block86)]),
  ].join('\n')
}
