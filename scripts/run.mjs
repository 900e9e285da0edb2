/** Runs one TypeScript program of the repository: `node scripts/run.mjs test/crash/main.ts --states 1000`. It exports `run(args)`. */
import { rmSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import { bundle } from './bundle.mjs'

const [entry, ...args] = process.argv.slice(2)
if (entry === undefined) {
  console.error('usage: node scripts/run.mjs FILE.ts [ARGUMENT...]')
  process.exit(2)
}
const file = await bundle(entry)
process.on('exit', () => rmSync(file, { force: true }))
const { run } = await import(pathToFileURL(file).href)
process.exitCode = (await run(args)) ?? 0
