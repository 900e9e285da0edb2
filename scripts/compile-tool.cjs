/** Writes what V8 compiles of the tool in a folder while it converts an image, for src/cli/start.ts. */
const fs = require('node:fs')
const Module = require('node:module')
const os = require('node:os')
const path = require('node:path')
const vm = require('node:vm')

async function compile(folder) {
  const filename = path.join(folder, 'cli-whole.cjs')
  const script = new vm.Script(Module.wrap(fs.readFileSync(filename, 'latin1')), { filename })
  const module = { exports: {} }
  script.runInThisContext()(module.exports, Module.createRequire(filename), module, filename, folder)
  const { main } = module.exports
  const images = fs.mkdtempSync(path.join(os.tmpdir(), 'block86-build-'))
  const [raw, qcow2] = ['raw', 'qcow2'].map((name) => path.join(images, name))
  fs.writeFileSync(raw, Buffer.alloc(1 << 20, 7))
  const write = process.stdout.write
  process.stdout.setMaxListeners(0)
  process.stdout.write = () => true
  try {
    for (const line of [
      ['convert', '-f', 'raw', '-O', 'qcow2', raw, qcow2],
      ['convert', '-f', 'qcow2', '-O', 'raw', qcow2, raw],
      ['info', qcow2],
      ['map', qcow2],
      ['create', '-q', '-f', 'qcow2', '-b', qcow2, '-F', 'qcow2', path.join(images, 'overlay')],
      ['check', qcow2],
    ]) {
      const status = await main(['img', ...line])
      if (status !== 0) throw new Error(`block86 img ${line.join(' ')} ended with status ${status}`)
    }
    fs.writeFileSync(path.join(folder, `cli-${process.version}-${process.arch}.cache`), script.createCachedData())
  } finally {
    process.stdout.write = write
    fs.rmSync(images, { recursive: true, force: true })
  }
}

void compile(process.argv[2])
