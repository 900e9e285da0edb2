/**
 * `npm start`: does all of its own set-up, then boots the Debian guest from a disk that block86 serves. On a terminal you land in
 * its shell; without one, or with `npm start -- --self-test`, a scripted session runs. `npm start -- --help` tells the rest.
 */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')

for (const name of ['esbuild', 'v86']) {
  if (existsSync(path.join(root, 'node_modules', name))) continue
  console.log('Installing the npm packages')
  const { status } = spawnSync('npm', ['install', '--no-save', '--no-audit', '--no-fund'], {
    stdio: 'inherit',
    cwd: root,
  })
  if (status !== 0) process.exit(1)
  break
}
const { status, signal } = spawnSync(
  process.execPath,
  [path.join(root, 'scripts', 'run.mjs'), path.join('guests', 'start.ts'), ...process.argv.slice(2)],
  { stdio: 'inherit', cwd: process.cwd() },
)
process.exit(status ?? (signal === 'SIGINT' ? 130 : 1))
