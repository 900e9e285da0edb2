/** Runs qemu-img and `block86 img` on the same inputs, and compares all that they print and make. */
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { type Command, runImg } from '../../src/cli/img/index.ts'
import { temporaryFolder } from '../tools.ts'

export type { Command }

/** What a run printed, and its exit status. */
export interface Ran {
  readonly out: string
  readonly err: string
  readonly status: number | null
}

/** Runs `block86 img` in this process. */
export async function ours(args: readonly string[], terminal?: { columns: number }): Promise<Ran> {
  let out = ''
  let err = ''
  const status = await runImg(args, '0', {
    out: { write: (text) => void (out += text) },
    err: { write: (text) => void (err += text) },
    ...(terminal === undefined ? {} : { terminal }),
  })
  return { out, err, status }
}

/** Runs qemu-img. */
export function theirs(args: readonly string[], cwd: string): Ran {
  const { stdout, stderr, status } = spawnSync('qemu-img', args, { cwd, encoding: 'utf8' })
  return { out: stdout, err: stderr, status }
}

/** What must differ, made equal: names of the programs, dates, and how sparse a file came out. */
export function normal(text: string): string {
  return text
    .replace(/^qemu-img: /gm, 'block86: ')
    .replace(/(Use|or) qemu-img (amend|convert)/g, '$1 block86 img $2')
    .replaceAll("'qemu-img --help'", "'block86 img --help'")
    .replace(/disk size: .*/g, 'disk size: SIZE')
    .replace(/"actual-size": \d+/g, '"actual-size": SIZE')
    .replace(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/g, 'DATE')
    .replace(/\s+$/, '')
    .replace(/"date-(n?sec)": \d+/g, '"date-$1": DATE')
}

/** Words of a command line; quotes keep spaces. */
function words(line: string): string[] {
  return [...line.matchAll(/'([^']*)'|(\S+)/g)].map((match) => match[1] ?? match[2]!)
}

/** One comparison. */
export interface Scenario {
  readonly title: string
  /** Shell commands that make the inputs; run once, then copied for both. */
  readonly given?: string
  /** Command lines behind the program's name, one after the other. One with `? ` before it may say and print other things. */
  readonly run: readonly string[]
  /** Files that are not compared afterwards. */
  readonly except?: readonly string[]
  /** The images may lie otherwise in their files: `map` and end offsets are not compared. */
  readonly placed?: boolean
}

/** Makes a test of a scenario. */
export function scenario({ title, given, run, except = [], placed = true }: Scenario): void {
  test(title, async () => {
    const folder = temporaryFolder()
    const [left, right] = [folder.file('theirs'), folder.file('ours')]
    const before = process.cwd()
    try {
      const inputs = folder.file('inputs')
      fs.mkdirSync(inputs)
      if (given !== undefined) {
        const made = spawnSync('sh', ['-ec', given], { cwd: inputs, encoding: 'utf8' })
        expect(`${made.stderr}${made.status}`).toMatch(/0$/)
      }
      for (const copy of [left, right]) spawnSync('cp', ['-a', inputs, copy])
      process.chdir(right)
      for (const line of run) {
        const loose = line.startsWith('? ')
        const args = words(loose ? line.slice(2) : line)
        const wanted = theirs(args, left)
        const got = await ours(args)
        const seen = { line, status: got.status, out: normal(got.out), err: normal(got.err) }
        const out = loose ? seen.out : normal(wanted.out)
        const err = loose ? seen.err : normal(wanted.err)
        expect(seen).toEqual({ line, status: wanted.status, out, err })
      }
      compareFolders(left, right, except, placed)
    } finally {
      process.chdir(before)
      folder.remove()
    }
  })
}

function compareFolders(left: string, right: string, except: readonly string[], placed: boolean): void {
  const names = (folder: string) =>
    fs
      .readdirSync(folder)
      .filter((name) => !except.includes(name))
      .sort()
  expect(names(right)).toEqual(names(left))
  for (const name of names(left)) {
    const [a, b] = [path.join(left, name), path.join(right, name)]
    if (fs.statSync(a).isDirectory()) continue
    if (fs.readFileSync(a).equals(fs.readFileSync(b))) continue
    const tell = (folder: string) => {
      const { out } = theirs(['info', '-U', '--output=json', name], folder)
      return normal(out)
    }
    expect(tell(right)).toBe(tell(left))
    const format = (JSON.parse(theirs(['info', '-U', '--output=json', name], left).out) as { format: string }).format
    const check = theirs(['check', '-f', format, name], right)
    expect(`${name}: ${check.status} ${check.err}`).toMatch(/: (0 |63 )/)
    const same = spawnSync('qemu-img', ['compare', ...(placed ? ['-s'] : []), '-f', format, '-F', format, a, b], {
      encoding: 'utf8',
    })
    expect(`${name}: ${same.stdout}${same.stderr}`).toBe(`${name}: Images are identical.\n`)
  }
}
