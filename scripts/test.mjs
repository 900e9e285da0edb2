/**
 * `npm test`: all that CI runs. Installs what is missing (npm modules, Debian packages of scripts/packages.txt), then lint, types,
 * unit tests, the build, the slow tests, each step with its time; stops at the first that fails.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
const bin = (name) => path.join(root, 'node_modules', '.bin', name)

function step(name, command, args, env = {}) {
  const start = Date.now()
  console.log(`\n== ${name}`)
  const { status, error } = spawnSync(command, args, { stdio: 'inherit', cwd: root, env: { ...process.env, ...env } })
  if (error) console.error(error.message)
  console.log(`== ${name}: ${status === 0 ? 'ok' : 'FAILED'} (${((Date.now() - start) / 1000).toFixed(1)} s)`)
  if (status !== 0) process.exit(1)
}

function has(command, args) {
  return spawnSync(command, args, { stdio: 'ignore' }).status === 0
}

if (!existsSync(bin('vitest'))) step('npm modules', 'npm', ['install', '--no-save', '--no-audit', '--no-fund'])

const packages = readFileSync(path.join(root, 'scripts', 'packages.txt'), 'utf8')
  .split(/\s+/)
  .filter(Boolean)
const missing = has('dpkg', ['--version']) ? packages.filter((name) => !has('dpkg', ['-s', name])) : []
if (missing.length > 0) {
  if (process.getuid?.() === 0) {
    const env = { DEBIAN_FRONTEND: 'noninteractive' }
    step('Debian package lists', 'apt-get', ['update', '-q'], env)
    step(
      `Debian packages ${missing.join(' ')}`,
      'apt-get',
      ['install', '-q', '-y', '--no-install-recommends', ...missing],
      env,
    )
  } else {
    console.log(`Tests against these peers are skipped: apt-get install ${missing.join(' ')}`)
  }
}

step('lint', bin('biome'), ['check', '.'])
step('types', bin('tsc'), ['--noEmit'])
// The same random choices every time, so that what fails is what changed; `npm run crash` and `npm run fuzz` take others.
const seed = { BLOCK86_SEED: process.env.BLOCK86_SEED ?? '86' }
// Left to itself vitest keeps a core free, which an emulator beside its host's threads needs and unit tests do not.
step('unit tests', bin('vitest'), ['run', '--maxWorkers=2', '--project', 'unit', '--project', 'unit-alone'], seed)
step('build', process.execPath, ['scripts/build.mjs'])
step('slow tests', bin('vitest'), ['run', '--project', 'slow'], seed)
