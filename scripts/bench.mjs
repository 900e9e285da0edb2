/** `npm run bench -- NAME [ARGUMENT...]` runs test/bench/NAME.bench.ts; without a name it lists them. */
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import path from 'node:path'
import { root } from './bundle.mjs'

const [name, ...args] = process.argv.slice(2)
const folder = path.join(root, 'test', 'bench')
const file = `${name}.bench.ts`
if (name === undefined || !existsSync(path.join(folder, file))) {
  const names = readdirSync(folder).filter((entry) => entry.endsWith('.bench.ts'))
  console.error(
    `usage: npm run bench -- NAME, one of: ${names.map((entry) => entry.replace('.bench.ts', '')).join(', ')}`,
  )
  process.exit(2)
}
const { status } = spawnSync(
  process.execPath,
  ['--expose-gc', path.join(root, 'scripts', 'run.mjs'), path.join('test', 'bench', file), ...args],
  { stdio: 'inherit', cwd: root },
)
process.exit(status ?? 1)
