/**
 * `npm run bench -- start [--rounds=N]`: how long Node takes to do nothing, and the tool to do little. Prints medians in
 * milliseconds, and what is more than Node's own.
 */
import { spawnSync } from 'node:child_process'
import { temporaryFolder } from '../tools.ts'
import { builtTool, environment } from './tool/built.ts'

/** Prints a table; exit status 0 if `img --version` takes less than 80 ms. */
export async function run(args: readonly string[]): Promise<number> {
  const rounds = Number(args.find((arg) => arg.startsWith('--rounds='))?.slice(9) ?? 20)
  const folder = temporaryFolder()
  try {
    const tool = builtTool(folder.file('tool'))
    const image = folder.file('image.qcow2')
    const lines: Record<string, string[]> = {
      'node -e 0': ['-e', '0'],
      'block86 img --version': [tool, 'img', '--version'],
      'block86 img create': [tool, 'img', 'create', '-q', '-f', 'qcow2', image, '1M'],
      'block86 img info': [tool, 'img', 'info', image],
    }
    const times = new Map(Object.keys(lines).map((name) => [name, [] as number[]]))
    for (let round = 0; round < rounds; round++) {
      for (const [name, line] of Object.entries(lines)) {
        const start = process.hrtime.bigint()
        const { status, stderr } = spawnSync(process.execPath, line, { env: environment, encoding: 'utf8' })
        if (status !== 0) throw new Error(`${name}: ${stderr}`)
        times.get(name)!.push(Number(process.hrtime.bigint() - start) / 1e6)
      }
    }
    const medians = [...times].map(([name, all]) => ({ name, median: all.sort((a, b) => a - b)[rounds >> 1]! }))
    for (const { name, median } of medians) {
      const more = median - medians[0]!.median
      console.log(`${name.padEnd(24)} ${median.toFixed(0).padStart(4)} ms   ${more > 0 ? `+${more.toFixed(0)}` : ''}`)
    }
    return medians[1]!.median < 80 ? 0 : 1
  } finally {
    folder.remove()
  }
}
