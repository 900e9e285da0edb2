/**
 * `npm test`: all that CI runs. Installs what is missing (npm modules, Debian packages of scripts/packages.txt), then lint, types,
 * unit tests, the build, the slow tests, each step with its time; stops at the first that fails. Installing goes on beside the rest.
 */
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
const bin = (name) => path.join(root, 'node_modules', '.bin', name)

/** Runs a step to its end, true if that was good; what it says comes as it goes, or in one piece if others run `beside` it. */
function step(name, command, args, { env = {}, beside = false } = {}) {
  const start = Date.now()
  if (!beside) console.log(`\n== ${name}`)
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      stdio: beside ? ['ignore', 'pipe', 'pipe'] : 'inherit',
      cwd: root,
      env: { ...process.env, ...env },
    })
    const said = []
    child.stdout?.on('data', (data) => said.push(data))
    child.stderr?.on('data', (data) => said.push(data))
    child.on('error', (error) => said.push(Buffer.from(`${error.message}\n`)))
    child.on('close', (status) => {
      if (beside) console.log(`\n== ${name}`)
      process.stdout.write(Buffer.concat(said))
      console.log(`== ${name}: ${status === 0 ? 'ok' : 'FAILED'} (${((Date.now() - start) / 1000).toFixed(1)} s)`)
      resolve(status === 0)
    })
  })
}

/** Waits for all of the steps, then goes on only if all were good. */
async function need(...steps) {
  if ((await Promise.all(steps)).includes(false)) process.exit(1)
}

function has(command, args) {
  return spawnSync(command, args, { stdio: 'ignore' }).status === 0
}

async function installPackages() {
  const packages = readFileSync(path.join(root, 'scripts', 'packages.txt'), 'utf8')
    .split(/\s+/)
    .filter(Boolean)
  const missing = has('dpkg', ['--version']) ? packages.filter((name) => !has('dpkg', ['-s', name])) : []
  if (missing.length === 0) return true
  if (process.getuid?.() !== 0) {
    console.log(`Tests against these peers are skipped: apt-get install ${missing.join(' ')}`)
    return true
  }
  const how = { env: { DEBIAN_FRONTEND: 'noninteractive' }, beside: true }
  if (!(await step('Debian package lists', 'apt-get', ['update', '-q'], how))) return false
  const install = ['install', '-q', '-y', '--no-install-recommends']
  return step(`Debian packages ${missing.join(' ')}`, 'apt-get', [...install, ...missing], how)
}

const packages = installPackages()
if (!existsSync(bin('vitest'))) {
  await need(step('npm modules', 'npm', ['install', '--no-save', '--no-audit', '--no-fund']))
}
await need(
  step('lint', bin('biome'), ['check', '.'], { beside: true }),
  step('types', bin('tsc'), ['--noEmit'], { beside: true }),
  packages,
)
// The same random choices every time, so that what fails is what changed; `npm run crash` and `npm run fuzz` take others.
const env = { BLOCK86_SEED: process.env.BLOCK86_SEED ?? '86' }
const tests = (...projects) => ['run', ...projects.flatMap((name) => ['--project', name])]
await need(step('unit tests', bin('vitest'), tests('unit', 'unit-alone'), { env }))
await need(step('build', process.execPath, ['scripts/build.mjs']))
await need(step('slow tests', bin('vitest'), tests('slow', 'guests'), { env }))
