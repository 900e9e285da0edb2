/** `npm run crash -- [--states N] [--seed N] [--rounds N] [--only WORD]`: long runs of the crash explorer. */
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { root } from './bundle.mjs'

const args = [path.join(root, 'scripts', 'run.mjs'), path.join('test', 'crash', 'main.ts'), ...process.argv.slice(2)]
process.exit(spawnSync(process.execPath, args, { stdio: 'inherit', cwd: root }).status ?? 1)
