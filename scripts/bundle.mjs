/** Bundles one TypeScript program of the repository for Node into the cache, and says where it is. */
import { execFileSync } from 'node:child_process'
import { chmodSync, mkdirSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
export const cache = process.env.BLOCK86_CACHE ?? path.join(root, '.cache')

/** Modules that stay outside of every bundle: the emulator, native code, and what reads files beside itself. */
export const external = ['v86', 'koffi', 'esbuild', 'playwright-core', '@bokuweb/zstd-wasm']

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

/**
 * Makes the tool in `outdir`: `cli.js` with its modules, and `cli.cjs`, which starts faster: it takes the program in one piece, as
 * V8 compiled it, where this Node runs it.
 */
export async function bundleTool(outdir) {
  const { build } = await import('esbuild')
  const common = {
    bundle: true,
    platform: 'node',
    target: 'node20',
    external,
    logLevel: 'error',
    absWorkingDir: root,
    // What is parsed at every start; names stay, for messages and profiles.
    minifyWhitespace: true,
    minifySyntax: true,
  }
  const banner = { js: '#!/usr/bin/env node' }
  await Promise.all([
    build({
      ...common,
      entryPoints: { cli: 'src/cli/main.ts' },
      outdir,
      chunkNames: 'cli/[name]-[hash]',
      format: 'esm',
      splitting: true,
      sourcemap: true,
      banner,
    }),
    build({
      ...common,
      entryPoints: ['src/cli/start.ts'],
      outfile: path.join(outdir, 'cli.cjs'),
      format: 'cjs',
      banner,
    }),
    build({
      ...common,
      entryPoints: ['src/cli/whole.ts'],
      outfile: path.join(outdir, 'cli-whole.cjs'),
      format: 'cjs',
      define: { 'import.meta.url': '__url' },
      banner: { js: "const __url = require('node:url').pathToFileURL(__filename).href;" },
    }),
  ])
  const there = path.resolve(root, outdir)
  for (const name of ['cli.js', 'cli.cjs']) chmodSync(path.join(there, name), 0o755)
  execFileSync(process.execPath, [path.join(root, 'scripts', 'compile-tool.cjs'), there], { stdio: 'inherit' })
}
