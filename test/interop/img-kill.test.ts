/** Whoever ends convert or dd at any moment never finds a half-written target that looks whole. */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomFillSync } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { build } from 'esbuild'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { temporaryFolder } from '../tools.ts'

const folder = temporaryFolder()
const tool = folder.file('cli.mjs')
const source = folder.file('source.raw')
const bytes = Buffer.alloc(24 << 20)

beforeAll(async () => {
  fs.symlinkSync(path.resolve('node_modules'), folder.file('node_modules'))
  await build({
    entryPoints: ['src/cli/main.ts'],
    outfile: tool,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    external: ['v86', 'koffi', 'esbuild', 'playwright-core'],
    logLevel: 'error',
  })
  fs.writeFileSync(source, randomFillSync(bytes))
})
afterAll(() => folder.remove())

/** Runs the tool, and sends `signal` when it has told of so many percent; resolves to how it ended. */
function killed(
  args: readonly string[],
  percent: number,
  signal: NodeJS.Signals,
): Promise<{ status: number | null; signal: string | null }> {
  return new Promise((resolve) => {
    const child: ChildProcess = spawn(process.execPath, [tool, 'img', ...args])
    child.stdout!.on('data', (text: Buffer) => {
      for (const [, reached] of String(text).matchAll(/\(([\d.]+)\/100%\)/g))
        if (Number(reached) >= percent) child.kill(signal)
    })
    child.on('close', (status, by) => resolve({ status, signal: by }))
  })
}

const statuses = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const

describe('convert that is killed', () => {
  const cases = (['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGKILL'] as const).flatMap((signal) =>
    [0, 20, 50, 80, 100].map((percent) => ({ signal, percent })),
  )

  test.each(cases)('by $signal at $percent%', async ({ signal, percent }) => {
    const target = folder.file(`${signal}-${percent}`)
    const old = percent % 20 === 0 && percent > 0 ? Buffer.from('what was there') : undefined
    if (old !== undefined) fs.writeFileSync(target, old, { mode: 0o640 })
    const format = percent === 50 ? 'qcow2' : 'raw'
    const args = ['convert', '-p', '-r', '60M', '-m', '4', '-f', 'raw', '-O', format, source, target]
    const ended = await killed(args, percent, signal)
    const whole = ended.status === 0
    if (!whole)
      expect(ended).toEqual(
        signal === 'SIGKILL' ? { status: null, signal } : { status: statuses[signal], signal: null },
      )
    expect(whole && percent < 100).toBe(false)
    if (signal !== 'SIGKILL') expect(fs.existsSync(`${target}.block86-partial`)).toBe(false)
    // Killed at the very end it may have been done.
    const now = fs.existsSync(target) ? fs.readFileSync(target) : undefined
    const done = format === 'raw' && now?.length === bytes.length
    if (done) expect(now!.equals(bytes)).toBe(true)
    else expect(now).toEqual(old)
    const again = ['convert', '-f', 'raw', '-O', 'raw', source, target]
    const { status } = await killed(again, 200, 'SIGKILL')
    expect(status).toBe(0)
    expect(fs.readFileSync(target).equals(bytes)).toBe(true)
    if (old !== undefined) expect(fs.statSync(target).mode & 0o777).toBe(0o640)
    expect(fs.existsSync(`${target}.block86-partial`)).toBe(false)
    fs.rmSync(target)
  })
})
