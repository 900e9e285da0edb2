/** `npm run fuzz -- NAME [--cases N] [--seed N] [--first N]` runs test/fuzz/NAME.main.ts; without a name it lists them. */
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import path from 'node:path'
import { root } from './bundle.mjs'

const [name, ...rest] = process.argv.slice(2)
const folder = path.join(root, 'test', 'fuzz')
const file = `${name}.main.ts`
if (name === undefined || !existsSync(path.join(folder, file))) {
  const names = readdirSync(folder).filter((entry) => entry.endsWith('.main.ts'))
  console.error(`usage: npm run fuzz -- NAME, one of: ${names.map((each) => each.replace('.main.ts', '')).join(', ')}`)
  process.exit(2)
}
const args = [path.join(root, 'scripts', 'run.mjs'), path.join('test', 'fuzz', file), ...rest]
process.exit(spawnSync(process.execPath, args, { stdio: 'inherit', cwd: root }).status ?? 1)
