/** The tool as it is built starts from what V8 compiled, from its modules, and when what was compiled is of no use. */
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { builtTool } from '../bench/tool/built.ts'
import { temporaryFolder } from '../tools.ts'

const folder = temporaryFolder()
let tool = ''
beforeAll(() => {
  tool = builtTool(folder.file('the tool'))
}, 60_000)
afterAll(() => folder.remove())

function run(program: string, ...args: readonly string[]): { out: string; err: string; status: number | null } {
  const { stdout, stderr, status } = spawnSync(process.execPath, [program, ...args], { encoding: 'utf8' })
  return { out: stdout, err: stderr, status }
}

const compiled = () => fs.readdirSync(path.dirname(tool)).filter((name) => name.endsWith('.cache'))

/** Command lines and what both ways of starting must say. */
function works(program: string): void {
  const image = folder.file('image.qcow2')
  expect(run(program, 'img', 'create', '-q', '-f', 'qcow2', image, '1M')).toEqual({ out: '', err: '', status: 0 })
  expect(run(program, 'img', 'info', image).out).toMatch(/virtual size: 1 MiB/)
  expect(run(program, 'io', '-f', 'qcow2', '-c', 'read -P 0 0 64k', image)).toMatchObject({ err: '', status: 0 })
  expect(run(program, 'img', 'info', 'nothing')).toMatchObject({ out: '', status: 1 })
  expect(run(program, 'run', '--help')).toMatchObject({ err: '', status: 0 })
  expect(run(program, 'nope').status).toBe(1)
}

test('from what was compiled', () => {
  expect(compiled()).toEqual([`cli-${process.version}-${process.arch}.cache`])
  works(tool)
})

test('from its modules', () => works(path.join(path.dirname(tool), 'cli.js')))

test('though what was compiled is damaged', () => {
  const cache = path.join(path.dirname(tool), compiled()[0]!)
  const bytes = fs.readFileSync(cache)
  fs.writeFileSync(cache, bytes.subarray(0, bytes.length / 2))
  works(tool)
  fs.writeFileSync(cache, Buffer.concat([bytes.subarray(0, 8), Buffer.alloc(bytes.length - 8, 0x5a)]))
  works(tool)
})

test('without it, as with another version of Node', () => {
  for (const name of compiled()) fs.rmSync(path.join(path.dirname(tool), name))
  works(tool)
})
