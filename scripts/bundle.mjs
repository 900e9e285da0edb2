/** Bundles one TypeScript program of the repository for Node into the cache, and says where it is. */
import { mkdirSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
export const cache = process.env.BLOCK86_CACHE ?? path.join(root, '.cache')

/** Modules that stay outside of every bundle: the emulator, and native code. */
export const external = ['v86', 'koffi', 'esbuild', 'playwright-core']

/** Bundles `entry` (a path in the repository) and resolves to the URL of the module made of it. */
export async function bundle(entry) {
  const { build } = await import('esbuild')
  const outdir = path.join(root, 'node_modules', '.cache', 'block86')
  mkdirSync(outdir, { recursive: true })
  const outfile = path.join(outdir, `${entry.replace(/[^a-z0-9]+/gi, '-')}-${process.pid}.mjs`)
  await build({
    entryPoints: [path.join(root, entry)],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    sourcemap: 'inline',
    external,
    logLevel: 'error',
    absWorkingDir: root,
  })
  return outfile
}
