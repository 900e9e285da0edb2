/**
 * Debian packages of any architecture, fetched with the machine's own apt into a cache: a private apt root, so that the
 * host's package state is neither read nor changed. apt verifies the archive's signature and each package's hash.
 */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { fingerprint, withLock } from './cache.ts'
import { run } from './command.ts'

const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'
const DEFAULT_MIRROR = 'http://deb.debian.org/debian'
/** Packages that one run of apt fetches: enough to hide its start, few enough to show progress. */
const BATCH = 12

/** One architecture's packages that are asked for by name. */
export interface Wanted {
  /** Debian's name of it: i386, amd64, ... */
  readonly architecture: string
  readonly names: readonly string[]
}

/** A package that lies in the cache. */
export interface Package {
  readonly name: string
  readonly architecture: string
  readonly version: string
  readonly sha256: string
  /** Path of the `.deb`, absolute. */
  readonly file: string
}

/** One entry of the archive's package index. */
export interface IndexEntry {
  readonly name: string
  readonly architecture: string
  readonly version: string
  readonly section: string
  readonly sha256: string
  /** First alternatives of `Depends` and `Pre-Depends`. */
  readonly depends: readonly string[]
}

export interface FetchOptions {
  /** Where lists and packages are kept. */
  readonly folder: string
  /** Codename of the Debian release. */
  readonly suite: string
  readonly wanted: readonly Wanted[]
  /** Which dependencies come along. */
  readonly follow: (entry: IndexEntry) => boolean
  readonly onProgress: (message: string) => void
}

/**
 * Gives the wanted packages and what `follow` chooses of their dependencies, in the order of `wanted`. What was resolved
 * and fetched once is never asked for again: then this neither needs the network nor starts a program.
 */
export async function fetchPackages(options: FetchOptions): Promise<Package[][]> {
  const { folder, suite, wanted } = options
  const resolved = join(folder, `resolved-${fingerprint(suite, JSON.stringify(wanted))}.json`)
  return withLock(folder, async () => {
    if (existsSync(resolved)) {
      const packages: Package[][] = place(JSON.parse(await readFile(resolved, 'utf8')), folder)
      if (packages.flat().every((one) => existsSync(one.file))) return packages
    }
    const apt = await privateApt(options)
    const attempt = async (): Promise<Package[][]> => {
      const sets: IndexEntry[][] = []
      for (const one of wanted) sets.push(await resolve(apt, one, options.follow))
      const packages = place(sets, folder)
      await download(apt, packages.flat(), options)
      await writeWhole(resolved, JSON.stringify(sets, null, 1))
      return packages
    }
    const update = async (): Promise<void> => {
      options.onProgress(`reading Debian's package index (${suite})`)
      await apt('apt-get', ['update', '--error-on=any'])
      await writeWhole(join(folder, 'updated'), '')
    }
    if (!existsSync(join(folder, 'updated'))) {
      await update()
      return attempt()
    }
    // The mirror drops a version when the next one comes: then the index that was read earlier is out of date.
    return attempt().catch(() => update().then(attempt))
  })
}

/** Unpacks the packages' files over each other into `folder`, through links to folders that are there already. */
export async function unpack(packages: readonly Package[], folder: string): Promise<void> {
  for (const one of packages) await unpackSome(one, folder, ['.'])
}

/** Unpacks only what lies below one of the paths (tar's wildcards, from `./`) into `folder`. */
export async function unpackSome(one: Package, folder: string, paths: readonly string[]): Promise<void> {
  const script =
    'file=$1; shift; dpkg-deb --fsys-tarfile "$file" | tar -x -p -f - --keep-directory-symlink --wildcards "$@"'
  await run('bash', ['-o', 'pipefail', '-c', script, 'unpack', one.file, ...paths], { cwd: folder })
}

/** Debian's name of the machine that this runs on; throws when it has no Debian package client. */
export async function hostArchitecture(): Promise<string> {
  try {
    await run('apt-get', ['--version'])
    return (await run('dpkg', ['--print-architecture'])).trim()
  } catch (cause) {
    throw new Error(
      'This machine has no Debian package client (apt-get, dpkg), so no guest can be made here: ' +
        'pass your own with --disk, or with --kernel and --initrd',
      { cause },
    )
  }
}

type Apt = (program: 'apt-get' | 'apt-cache', args: readonly string[], cwd?: string) => Promise<string>

async function privateApt({ folder, suite, wanted }: FetchOptions): Promise<Apt> {
  if (!existsSync(KEYRING)) {
    throw new Error(`Cannot verify Debian's packages: ${KEYRING} is missing; install debian-archive-keyring`)
  }
  for (const name of ['state', 'lists/partial', 'archives/partial'])
    await mkdir(join(folder, name), { recursive: true })
  const sources = join(folder, 'sources.list')
  const main = join(folder, 'main.conf')
  const architectures = [...new Set(wanted.map((one) => one.architecture))]
  const mirror = process.env.BLOCK86_DEBIAN_MIRROR ?? (await hostMirror())
  await writeFile(join(folder, 'status'), '')
  await writeFile(
    sources,
    `deb [signed-by=${KEYRING} arch=${architectures.join(',')} target=Packages] ${mirror} ${suite} main\n`,
  )
  // The host's own apt.conf.d stays in force for proxies and credentials; its hooks and cache settings do not.
  await writeFile(
    main,
    `APT::Architecture "${architectures[0]}";
#clear APT::Architectures;
APT::Architectures { ${architectures.map((name) => `"${name}";`).join(' ')} };
#clear APT::Update;
#clear DPkg;
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::State "${folder}/state";
Dir::State::lists "${folder}/lists";
Dir::State::status "${folder}/status";
Dir::Cache "${folder}";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "";
Dir::Cache::archives "${folder}/archives";
Dir::Etc::sourcelist "${sources}";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
`,
  )
  // apt reads the file in APT_CONFIG first, then apt.conf.d, then Dir::Etc::main: ours has to come last.
  const first = join(folder, 'apt.conf')
  await writeFile(first, `Dir::Etc::main "${main}";\n`)
  return (program, args, cwd = folder) => run(program, args, { cwd, env: { APT_CONFIG: first } })
}

async function hostMirror(): Promise<string> {
  const uris = await run('apt-get', ['indextargets', '--format', '$(REPO_URI)']).catch(() => '')
  return uris.split('\n').find((uri) => /\/debian\/?$/.test(uri)) ?? DEFAULT_MIRROR
}

async function resolve(
  apt: Apt,
  { architecture, names }: Wanted,
  follow: FetchOptions['follow'],
): Promise<IndexEntry[]> {
  const found = new Map<string, IndexEntry>()
  const asked = new Set<string>()
  let next = [...names]
  while (next.length > 0) {
    for (const name of next) asked.add(name)
    const shown = await apt('apt-cache', [
      'show',
      '--no-all-versions',
      ...next.map((name) => `${name}:${architecture}`),
    ])
    const entries = parseIndex(shown)
    for (const entry of entries) {
      if (names.includes(entry.name) || follow(entry)) found.set(entry.name, entry)
    }
    const depends = entries.filter((entry) => found.has(entry.name)).flatMap((entry) => entry.depends)
    next = [...new Set(depends)].filter((name) => !asked.has(name))
  }
  const missing = names.filter((name) => !found.has(name))
  if (missing.length > 0) throw new Error(`Debian's ${architecture} archive has no ${missing.join(', ')}`)
  return [...found.values()].sort((a, b) => (a.name < b.name ? -1 : 1))
}

/** Reads the stanzas that `apt-cache show` prints. */
export function parseIndex(text: string): IndexEntry[] {
  const entries: IndexEntry[] = []
  for (const stanza of text.split(/\n\n+/)) {
    const fields = new Map<string, string>()
    for (const line of stanza.split('\n')) {
      const [, key, value] = /^([A-Za-z0-9-]+): (.*)$/.exec(line) ?? []
      if (key && value) fields.set(key, value)
    }
    const name = fields.get('Package')
    if (!name) continue
    entries.push({
      name,
      architecture: fields.get('Architecture') ?? '',
      version: fields.get('Version') ?? '',
      section: fields.get('Section') ?? '',
      sha256: fields.get('SHA256') ?? '',
      depends: [fields.get('Pre-Depends'), fields.get('Depends')]
        .flatMap((list) => list?.split(',') ?? [])
        .map((one) => one.trim().split(/[ |(:]/)[0] ?? '')
        .filter((one) => one !== ''),
    })
  }
  return entries
}

function place(sets: readonly IndexEntry[][], folder: string): Package[][] {
  return sets.map((set) =>
    set.map(({ name, architecture, version, sha256 }) => {
      const file = join(folder, 'archives', `${name}_${version.replaceAll(':', '%3a')}_${architecture}.deb`)
      return { name, architecture, version, sha256, file }
    }),
  )
}

async function download(apt: Apt, packages: readonly Package[], { folder, onProgress }: FetchOptions): Promise<void> {
  const partial = join(folder, 'archives/partial')
  const missing = packages.filter((one) => !existsSync(one.file))
  for (let at = 0; at < missing.length; at += BATCH) {
    const batch = missing.slice(at, at + BATCH)
    onProgress(`fetching Debian packages ${at + 1} to ${at + batch.length} of ${missing.length}`)
    const names = batch.map((one) => `${one.name}:${one.architecture}=${one.version}`)
    await apt('apt-get', ['download', '-q', ...names], partial)
    for (const one of batch) {
      const fetched = join(partial, basename(one.file))
      const hash = createHash('sha256')
        .update(await readFile(fetched))
        .digest('hex')
      if (hash !== one.sha256) throw new Error(`${one.name} ${one.version} has SHA-256 ${hash}, not ${one.sha256}`)
      await rename(fetched, one.file)
    }
  }
}

async function writeWhole(file: string, text: string): Promise<void> {
  await writeFile(`${file}.unfinished`, text)
  await rename(`${file}.unfinished`, file)
}
