/** Programs that tests need as peers: Debian's, as scripts/packages.txt lists them. */
import { execFile, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'

const packages: Readonly<Record<string, string>> = {
  'qemu-img': 'qemu-utils',
  'qemu-io': 'qemu-utils',
  'qemu-nbd': 'qemu-utils',
  'qemu-system-i386': 'qemu-system-x86',
  nbdkit: 'nbdkit',
  'nbd-client': 'nbd-client',
  nbdinfo: 'libnbd-bin',
  nbdcopy: 'libnbd-bin',
  nbdsh: 'python3-libnbd',
  fio: 'fio',
  strace: 'strace',
  mke2fs: 'e2fsprogs',
  debugfs: 'e2fsprogs',
  e2fsck: 'e2fsprogs',
  sg_vpd: 'sg3-utils',
  'mkfs.btrfs': 'btrfs-progs',
  'mkfs.ext4': 'e2fsprogs',
  psktool: 'gnutls-bin',
  zsh: 'zsh',
  openssl: 'openssl',
  cryptsetup: 'cryptsetup-bin',
}

/**
 * For `describe.skipIf(lacks('qemu-img'))`: whether any of the programs is absent. Says which, and how to get it; where CI is set
 * that is an error, for CI may skip nothing for want of a package.
 */
export function lacks(...programs: readonly string[]): boolean {
  const absent = programs.filter((name) => spawnSync('which', [name], { stdio: 'ignore' }).status !== 0)
  if (absent.length === 0) return false
  const wanted = [...new Set(absent.map((name) => packages[name] ?? name))].join(' ')
  const message = `${absent.join(', ')} not found: apt-get install ${wanted}`
  if (process.env.CI) throw new Error(message)
  console.warn(`skipped: ${message}`)
  return true
}

/** Runs a program to its end and resolves to what it printed; rejects with its standard error if it fails. */
export async function runTool(program: string, ...args: readonly string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(program, args, { maxBuffer: 1 << 28 })
  return stdout
}

/** A new empty folder, and what removes it with all in it. */
export function temporaryFolder(): { readonly path: string; file(name: string): string; remove(): void } {
  const folder = mkdtempSync(path.join(tmpdir(), 'block86-'))
  return {
    path: folder,
    file: (name) => path.join(folder, name),
    remove: () => rmSync(folder, { recursive: true, force: true }),
  }
}

/** The tool as one file to be run by Node, and what removes it; the current folder is the repository's. */
export async function bundledTool(): Promise<{ readonly file: string; remove(): void }> {
  const { build } = await import('esbuild')
  const file = path.resolve('node_modules/.cache/block86', `tool-${process.pid}-${Date.now()}.mjs`)
  await build({
    entryPoints: ['src/cli/main.ts'],
    outfile: file,
    bundle: true,
    platform: 'node',
    format: 'esm',
    external: ['v86', 'koffi', 'esbuild', 'playwright-core'],
    logLevel: 'error',
  })
  return { file, remove: () => rmSync(file, { force: true }) }
}
