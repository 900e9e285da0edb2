/** Usage texts, broken to fit a terminal. */

/** Columns of a terminal that does not say how many it has. */
const COLUMNS = 80
/** Longer lines are hard to read. */
const MOST = 110
const INDENT = '         '

/** A usage text whose synopsis, and whose lines of prose, fit `columns`; what stands in columns of its own stays as it is. */
export function fitted(usage: string, columns = COLUMNS): string {
  const width = Math.min(columns, MOST)
  const [synopsis, ...rest] = usage.split('\n\n')
  const start = /^usage: block86 img \S+ /.exec(synopsis!)?.[0] ?? ''
  const groups = synopsis!.slice(start.length).match(/\[(?:[^[\]]|\[[^\]]*\])*\]|\S+/g) ?? []
  const words = groups.flatMap((group) => (group.length + INDENT.length > width ? group.split(/\s+/) : group))
  const paragraphs = rest.map((text) => {
    const prose = !/^ /m.test(text) && text.split('\n').some((line) => line.length > width)
    return prose ? broken(text.trimEnd().split(/\s+/), '', '', width) + (text.endsWith('\n') ? '\n' : '') : text
  })
  const end = rest.length === 0 && usage.endsWith('\n') ? '\n' : ''
  return [broken(words, start, INDENT, width) + end, ...paragraphs].join('\n\n')
}

function broken(words: readonly string[], start: string, indent: string, width: number): string {
  const lines: string[] = []
  let line = start
  let empty = true
  for (const word of words) {
    if (!empty && line.length + 1 + word.length > width) {
      lines.push(line)
      line = indent
      empty = true
    }
    line += empty ? word : ` ${word}`
    empty = false
  }
  return [...lines, line].join('\n')
}
