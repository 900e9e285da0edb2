/** The tool as `npm run build` makes it, for benchmarks of it. */
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'

/** Node reads these certificates at every start, which takes 40 ms where there is a file of them; the tool needs none. */
const { NODE_EXTRA_CA_CERTS: _, ...environment } = process.env

/** What programs are run with. */
export { environment }

/** Makes the tool in `outdir`, beside the modules that it needs; gives the file to run. */
export function builtTool(outdir: string): string {
  fs.mkdirSync(outdir, { recursive: true })
  fs.symlinkSync(path.resolve('node_modules'), path.join(outdir, 'node_modules'))
  fs.writeFileSync(path.join(outdir, 'package.json'), '{"type":"module"}')
  const program = "import { bundleTool } from './scripts/bundle.mjs'; await bundleTool(process.argv[1])"
  const { status, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', program, outdir], {
    encoding: 'utf8',
  })
  if (status !== 0) throw new Error(`the tool cannot be built: ${stderr}`)
  return path.join(outdir, 'cli.cjs')
}
