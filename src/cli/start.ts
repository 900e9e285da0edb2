/**
 * What the command `block86` starts: the whole program as V8 compiled it when it was built, where that was by this Node; else its
 * modules, one by one.
 */
import { existsSync, readFileSync } from 'node:fs'
import Module, { createRequire } from 'node:module'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import vm from 'node:vm'

const program = path.join(__dirname, 'cli-whole.cjs')
const compiled = path.join(__dirname, `cli-${process.version}-${process.arch}.cache`)

interface Program {
  main(argv: readonly string[]): Promise<number>
}

async function start(): Promise<void> {
  // What was compiled before cannot import modules; `run` imports the emulator.
  if (process.argv[2] === 'run' || !existsSync(compiled)) {
    await import(pathToFileURL(path.join(__dirname, 'cli.js')).href)
    return
  }
  const script = new vm.Script(Module.wrap(readFileSync(program, 'latin1')), {
    filename: program,
    cachedData: readFileSync(compiled),
  })
  const module = { exports: {} as Program }
  script.runInThisContext()(module.exports, createRequire(program), module, program, __dirname)
  process.exitCode = await module.exports.main(process.argv.slice(2))
}

void start()
