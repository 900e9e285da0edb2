/** Builds dist/: bundles for Node and for browsers, the tool, and the type declarations. */
import { execFileSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import path from 'node:path'
import { build } from 'esbuild'
import { bundleTool, external, root } from './bundle.mjs'

const dist = path.join(root, 'dist')
rmSync(dist, { recursive: true, force: true })

const common = {
  bundle: true,
  format: 'esm',
  splitting: true,
  sourcemap: true,
  external,
  logLevel: 'error',
  absWorkingDir: root,
}
const entries = { index: 'src/index.ts', block: 'src/block/index.ts', devices: 'src/devices/index.ts' }
await Promise.all([
  build({ ...common, entryPoints: entries, outdir: 'dist/node', platform: 'node', target: 'node20' }),
  build({
    ...common,
    entryPoints: entries,
    outdir: 'dist/browser',
    platform: 'browser',
    conditions: ['browser'],
    target: ['chrome110', 'firefox115', 'safari16.4'],
  }),
  bundleTool('dist'),
])
if (!process.argv.includes('--no-types')) {
  execFileSync(
    process.execPath,
    [path.join(root, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', 'tsconfig.build.json'],
    {
      stdio: 'inherit',
      cwd: root,
    },
  )
}
