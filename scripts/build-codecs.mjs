// Builds src/codecs/crate with wasm-pack, plain and with SIMD128, and writes the package that is committed: src/codecs/pkg.
// `npm run build:codecs` builds; `-- --check` builds and fails when the result differs from what is committed;
// `-- --ready` only says whether everything is there to build with. What is missing is installed by a plain build.
// Everything that could change a byte is pinned here, in crate/Cargo.lock and in package-lock.json.

import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const RUST = '1.95.0'
const TARGET = 'wasm32-unknown-unknown'
const TOOLS = { 'wasm-bindgen-cli': '0.2.122', 'wasm-pack': '0.15.1' }

const root = fileURLToPath(new URL('..', import.meta.url))
const crate = join(root, 'src/codecs/crate')
const committed = join(root, 'src/codecs/pkg')
// Outside the checkout, so that every checkout of a machine shares one warm cache and builds at one path.
const cache = join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'block86/codecs')
const workshop = join(cache, 'crate')
const path = [join(cache, 'tools/bin'), process.env.PATH].join(delimiter)

const has = (command, ...args) => {
  try {
    return execFileSync(command, args, {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
      env: { ...process.env, PATH: path },
    })
  } catch {
    return undefined
  }
}
const run = (command, args, env = {}) =>
  execFileSync(command, args, { stdio: ['ignore', 'inherit', 'inherit'], env: { ...process.env, PATH: path, ...env } })

/** The newest of Debian's linkers, where Rust came without its own. */
function linker() {
  const names = (existsSync('/usr/bin') ? readdirSync('/usr/bin') : []).filter((name) => /^wasm-ld(-\d+)?$/.test(name))
  const version = (name) => Number(name.split('-')[2] ?? 0)
  return names.sort((a, b) => version(b) - version(a))[0]
}

/** The toolchains that can build the crate, the pinned one first; `env` makes cargo use it. */
function toolchain() {
  if (has('rustup', 'target', 'list', '--installed', '--toolchain', RUST)?.includes(TARGET))
    return { name: `Rust ${RUST} of rustup`, pinned: true, env: { RUSTUP_TOOLCHAIN: RUST }, cargo: [] }
  const version = has('rustc', '--version') ?? ''
  const library = join(has('rustc', '--print', 'sysroot')?.trim() ?? '/', 'lib/rustlib')
  if (
    existsSync(join(library, TARGET, 'lib')) &&
    readdirSync(join(library, TARGET, 'lib')).some((name) => name.startsWith('libstd'))
  )
    return { name: version.trim(), pinned: version.startsWith(`rustc ${RUST} `), env: {}, cargo: [], linker: linker() }
  if (existsSync(join(library, 'src/rust/library/std'))) {
    // wasm-pack looks for this folder; build-std then builds what would be in it.
    mkdirSync(join(library, TARGET, 'lib'), { recursive: true })
    return {
      name: `${version.trim()} with its library's source`,
      pinned: false,
      env: { RUSTC_BOOTSTRAP: '1' },
      cargo: ['-Z', 'build-std=std,panic_abort'],
      linker: linker(),
    }
  }
  return undefined
}

/** The oldest Rust that can build the crate, as its Cargo.toml says. */
const oldest = readFileSync(join(crate, 'Cargo.toml'), 'utf8').match(/^rust-version = "([\d.]+)"/m)[1]

/** The chosen toolchain's version, when it is older than that. */
function tooOld() {
  const chosen = toolchain()
  const version = chosen && !chosen.pinned && chosen.name.match(/^rustc (\d+)\.(\d+)/)
  const [major, minor] = oldest.split('.').map(Number)
  const old = version && (Number(version[1]) < major || (Number(version[1]) === major && Number(version[2]) < minor))
  return old ? version[0] : undefined
}

/** What is missing, in words; empty when a build can start. */
function missing() {
  const lacks = []
  if (!has('cargo', '--version')) lacks.push('cargo (https://rustup.rs)')
  else if (tooOld())
    lacks.push(
      `Rust ${oldest} or later: this is ${tooOld()} (rustup toolchain install ${RUST} -t ${TARGET}, or Debian's rustc-web; see src/codecs/README.md)`,
    )
  else if (!toolchain())
    lacks.push(
      `the ${TARGET} library (rustup toolchain install ${RUST} -t ${TARGET}; other ways are in src/codecs/README.md)`,
    )
  if (!has('wasm-bindgen', '--version')?.includes(TOOLS['wasm-bindgen-cli']))
    lacks.push(`wasm-bindgen-cli ${TOOLS['wasm-bindgen-cli']}`)
  if (!has('wasm-pack', '--version')?.includes(TOOLS['wasm-pack'])) lacks.push(`wasm-pack ${TOOLS['wasm-pack']}`)
  return lacks
}

function install() {
  if ((!toolchain() || tooOld()) && has('rustup', '--version'))
    run('rustup', ['toolchain', 'install', RUST, '--profile', 'minimal', '--target', TARGET])
  for (const [tool, version] of Object.entries(TOOLS)) {
    const command = tool === 'wasm-pack' ? tool : 'wasm-bindgen'
    if (!has(command, '--version')?.includes(version))
      run('cargo', ['install', '--locked', '--root', join(cache, 'tools'), `${tool}@${version}`])
  }
}

/** Builds one flavour and returns its module and the declarations of its raw exports. */
function pack(flavour, { env, cargo, linker }) {
  const out = join(cache, `pkg-${flavour}`)
  const simd = flavour === 'simd'
  const flags = [
    `--remap-path-prefix=${workshop}=/codecs`,
    `--remap-path-prefix=${process.env.CARGO_HOME || join(homedir(), '.cargo')}=/cargo`,
    ...(simd ? ['-Ctarget-feature=+simd128'] : []),
  ]
  rmSync(out, { recursive: true, force: true })
  run(
    'wasm-pack',
    [
      '--quiet',
      'build',
      '--release',
      '--target',
      'web',
      '--mode',
      'no-install',
      '--no-pack',
      '--out-dir',
      out,
      workshop,
      '--',
      '--locked',
      ...(simd ? ['--features', 'simd'] : []),
      ...cargo,
    ],
    {
      ...env,
      ...(linker ? { CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER: linker } : {}),
      CARGO_TARGET_DIR: join(cache, `target-${flavour}`),
      CARGO_ENCODED_RUSTFLAGS: flags.join('\x1f'),
    },
  )
  return {
    module: readFileSync(join(out, 'block86_codecs_bg.wasm')),
    declarations: readFileSync(join(out, 'block86_codecs_bg.wasm.d.ts'), 'utf8'),
  }
}

/** All that the crate is made from: names and contents. */
function sources() {
  return readdirSync(crate, { recursive: true })
    .map(String)
    .filter((name) => /\.(rs|toml|lock)$/.test(name) && !name.startsWith('target'))
    .sort()
    .map((name) => [name, readFileSync(join(crate, name))])
}

/** A hash over the crate's source, so that a stale package is noticed even where no Rust is. */
export function sourceHash() {
  const hash = createHash('sha256')
  for (const [name, content] of sources()) hash.update(`${name}\0${content.length}\0`).update(content)
  return hash.digest('hex')
}

const HEAD = '// Made by `npm run build:codecs`; do not edit.\n\n'

/** Deflates with the codecs just built: Node's own zlib makes other bytes on other processors. */
function squeeze(module, bytes) {
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(module))
  const from = exports.lend(2 * bytes.length + 64)
  new Uint8Array(exports.memory.buffer).set(bytes, from)
  const to = from + bytes.length
  if (exports.deflate(from, bytes.length, to, bytes.length, 0, 9, 15) !== 0)
    throw new Error('The module did not deflate')
  return Buffer.from(exports.memory.buffer, to, exports.produced()).toString('base64')
}

/** The worker of the pool, as the text of pkg/worker.ts: one script, without the module, which it is given. */
export async function workerText() {
  const { outputFiles } = await build({
    entryPoints: [join(root, 'src/codecs/worker.ts')],
    bundle: true,
    write: false,
    minify: true,
    format: 'iife',
    target: 'es2022',
    conditions: ['browser'],
    charset: 'ascii',
    absWorkingDir: root,
    plugins: [
      {
        name: 'without the module',
        setup: ({ onLoad }) =>
          onLoad({ filter: /pkg[/\\](plain|simd)\.ts$/ }, ({ path }) => ({
            contents: `export const ${path.includes('simd') ? 'simd' : 'plain'} = { size: 0, packed: '' }`,
            loader: 'ts',
          })),
      },
    ],
  })
  return `${HEAD}export const source =\n  ${JSON.stringify(outputFiles[0].text.trim())}\n`
}

/** The package's files, by name. */
async function makePackage() {
  const chosen = toolchain()
  console.log(`Building the codecs with ${chosen.name}`)
  mkdirSync(cache, { recursive: true })
  const current = new Map(sources())
  for (const name of existsSync(workshop) ? readdirSync(workshop, { recursive: true }).map(String) : [])
    if (/\.(rs|toml|lock)$/.test(name) && !current.has(name)) rmSync(join(workshop, name))
  // Only what changed is written, so that cargo sees what there is to build again.
  for (const [name, content] of current) {
    const file = join(workshop, name)
    if (existsSync(file) && content.equals(readFileSync(file))) continue
    mkdirSync(dirname(file), { recursive: true })
    writeFileSync(file, content)
  }
  const plain = pack('plain', chosen)
  const simd = pack('simd', chosen)
  if (plain.declarations !== simd.declarations)
    throw new Error('The plain and the SIMD build export different functions')
  const members = [...plain.declarations.matchAll(/^export const (\w+): (.*);$/gm)]
    .map(([, name, type]) => `  readonly ${name}: ${type}\n`)
    .join('')
  const embed = (name, { module }) =>
    `${HEAD}export const ${name} = {\n  size: ${module.length},\n  packed:\n    '${squeeze(plain.module, module)}',\n}\n`
  return {
    pinned: chosen.pinned,
    files: {
      'exports.ts': `${HEAD}/** What the module exports: functions of addresses and numbers; crate/src/lib.rs says what each does. */\nexport interface Exports {\n${members}}\n`,
      'plain.ts': embed('plain', plain),
      'simd.ts': embed('simd', simd),
      'source.ts': `${HEAD}export const sourceHash = '${sourceHash()}'\n`,
      'worker.ts': await workerText(),
    },
    sizes: `plain ${plain.module.length}, simd ${simd.module.length} bytes`,
  }
}

/** Ends with one sentence. */
function refuse(why) {
  console.error(why)
  process.exit(1)
}

async function main() {
  const [verb] = process.argv.slice(2)
  const lacks = missing()
  if (verb === '--ready') {
    if (lacks.length) console.log(`Missing: ${lacks.join('; ')}`)
    else if (!toolchain().pinned)
      console.log(`Missing: Rust ${RUST} (${toolchain().name} builds a good package, but not the same bytes)`)
    else console.log('ready')
    return
  }
  if (lacks.length && (!tooOld() || has('rustup', '--version'))) install()
  const left = missing()
  if (left.length) refuse(`Cannot build the codecs without ${left.join(' and ')}`)
  const made = await makePackage()
  console.log(made.sizes)
  if (verb !== '--check') {
    mkdirSync(committed, { recursive: true })
    for (const [name, content] of Object.entries(made.files)) writeFileSync(join(committed, name), content)
    if (!made.pinned)
      console.log(`This is not Rust ${RUST}: the package works, but differs from one that may be committed`)
    return
  }
  const different = Object.entries(made.files).filter(([name, content]) => {
    const file = join(committed, name)
    return !existsSync(file) || readFileSync(file, 'utf8') !== content
  })
  if (different.length)
    throw new Error(
      `Built from the same source, ${different.map(([name]) => name)} differ from src/codecs/pkg: run npm run build:codecs`,
    )
  console.log('The committed package is what its source builds to')
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main()
