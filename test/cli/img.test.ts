/** What `block86 img` does that no other program shows: at a terminal, with its pictures, and with what it refuses. */
import fs from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { BlockDevice } from '../../src/block/device.ts'
import { createQcow2 } from '../../src/block/formats/qcow2/create.ts'
import { bytesVec } from '../../src/block/iovec.ts'
import { Memory } from '../../src/block/protocols/memory.ts'
import { runImg } from '../../src/cli/img/index.ts'
import { prettyJson } from '../../src/cli/img/json.ts'
import { Progress } from '../../src/cli/img/progress.ts'
import { temporaryFolder } from '../tools.ts'

const folder = temporaryFolder()
const before = process.cwd()
beforeAll(async () => {
  process.chdir(folder.path)
  fs.writeFileSync('base.raw', new Uint8Array(1 << 20).fill(5))
  for (const line of [
    'create -f qcow2 -b base.raw -F raw top.qcow2 4M',
    'create -f qcow2 flat.qcow2 1M',
    'convert -n -f raw -O qcow2 base.raw flat.qcow2',
    'snapshot -c first flat.qcow2',
    'bitmap --add flat.qcow2 dirty',
  ]) {
    expect((await run(line)).err).toBe('')
  }
})
afterAll(() => {
  process.chdir(before)
  folder.remove()
})

async function run(line: string, columns?: number): Promise<{ out: string; err: string; status: number }> {
  let out = ''
  let err = ''
  const status = await runImg(line.split(' '), '1.2.3', {
    out: { write: (text) => void (out += text) },
    err: { write: (text) => void (err += text) },
    ...(columns === undefined ? {} : { terminal: { columns } }),
  })
  return { out, err, status }
}

const ESCAPES = new RegExp(`${String.fromCharCode(27)}\\[\\d*[mK]`, 'g')
const uncoloured = (text: string) => text.replace(ESCAPES, '')

const verbs = 'amend bench bitmap check commit compare convert create dd info map measure rebase resize snapshot'.split(
  ' ',
)

describe('help', () => {
  test('names every command, and each tells its options', async () => {
    const { out, status } = await run('--help')
    expect(status).toBe(0)
    for (const verb of verbs) {
      expect(out).toMatch(new RegExp(`^  ${verb} `, 'm'))
      const own = await run(`${verb} --help`)
      expect(own.status).toBe(0)
      expect(own.out).toMatch(new RegExp(`^usage: block86 img ${verb} `))
      const [synopsis] = own.out.split('\n\n')
      expect(synopsis!.split('\n').filter((line) => line.length > 80)).toEqual([])
      expect(own.err).toBe('')
    }
  })

  test('the version is the package’s', async () => {
    expect((await run('--version')).out).toBe('block86 img version 1.2.3\n')
  })
})

describe('refused by name', () => {
  test.each([
    ['create -f qcow2 -o encryption=on x 1M', 'encryption'],
    ['create -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s x 1M', 'encrypt.format'],
    ['create -f raw -o nocow=on x 1M', 'nocow'],
    ['create -f vmdk x 1M', 'vmdk'],
    ['info --object memory-backend-ram,id=m,size=1M base.raw', 'memory-backend-ram'],
    ['info --image-opts driver=ssh,file.filename=x', 'ssh'],
    ['info --image-opts driver=qcow2,l2-cache-size=1M,file.filename=flat.qcow2', 'l2CacheSize'],
    ['info gluster:x', 'gluster'],
  ])('%s', async (line, name) => {
    const { err, status } = await run(line)
    expect(status).toBe(1)
    expect(err).toMatch(/^block86: /)
    expect(err).toContain(name)
    expect(fs.existsSync('x')).toBe(false)
  })
})

describe('info at a terminal', () => {
  test('has names in a column, and everything that the plain text has', async () => {
    const { out } = await run('info --backing-chain top.qcow2', 80)
    const [top, base] = uncoloured(out).split('\n\n')
    expect(top).toMatch(/^top\.qcow2\n/)
    expect(top).toMatch(/ disk {2}4 MiB \(4194304 bytes\)\n/)
    expect(top).toMatch(/ over {2}base\.raw \(raw\)\n/)
    expect(base).toMatch(/^base\.raw\n +format {2}raw\n/)
    const flat = uncoloured((await run('info flat.qcow2', 80)).out)
    expect(flat).toMatch(/bitmap {2}dirty 64 KiB, auto\n/)
    expect(flat).toMatch(/^ {2}1 +first /m)
    const columns = flat
      .split('\n')
      .slice(1, 8)
      .map((line) => /^ *\S.*? {2}(?=\S)/.exec(line)?.[0].length)
    expect(new Set(columns).size).toBe(1)
  })

  test('is plain elsewhere', async () => {
    const { out } = await run('info top.qcow2')
    expect(uncoloured(out)).toBe(out)
  })
})

describe('progress', () => {
  const told = (terminal: boolean, steps: readonly number[], skip = 1) => {
    let out = ''
    const progress = new Progress(
      {
        out: { write: (text) => void (out += text) },
        err: { write: () => {} },
        ...(terminal ? { terminal: { columns: 60 } } : {}),
      },
      true,
      skip,
    )
    for (const step of steps) progress.set(step, step << 20)
    progress.end()
    return out
  }

  test('is percentages for scripts, in steps', () => {
    expect(told(false, [0, 0.5, 0.9, 2, 2.5, 100])).toBe('    (0.00/100%)\r    (2.00/100%)\r    (100.00/100%)\r\n')
  })

  test('is a bar with a rate at a terminal, no wider than that', () => {
    const lines = told(true, [0, 100])
      .split('\r')
      .map((line) => uncoloured(line).replace('\n', ''))
    expect(lines.at(-1)).toMatch(/^ {2}█+ 100\.0% {2}[\d.]+ \w+\/s +\d+:\d\d$/)
    for (const line of lines) expect(line.length).toBeLessThanOrEqual(60)
  })
})

describe('JSON', () => {
  test('is in the order of a QDict, four spaces deep, ASCII', () => {
    const value = { 'virtual-size': 1, filename: 'ä', format: 'x', gone: undefined, list: [], 'dirty-flag': false }
    expect(prettyJson(value)).toBe(
      '{\n    "list": [\n    ],\n    "virtual-size": 1,\n    "filename": "\\u00E4",\n    "format": "x",\n    "dirty-flag": false\n}',
    )
  })
})

describe('the target of convert', () => {
  test('is what it was when it cannot be made, and nothing is left beside it', async () => {
    fs.writeFileSync('kept.raw', 'as it was')
    const { status, err } = await run(
      'convert --image-opts driver=blkdebug,inject-error.0.event=read_aio,image.filename=base.raw kept.raw',
    )
    expect(err).toMatch(/^block86: error while reading at byte 0: Input\/output error\n/)
    expect(status).toBe(1)
    expect(fs.readFileSync('kept.raw', 'utf8')).toBe('as it was')
    expect(fs.readdirSync('.').filter((name) => name.includes('partial'))).toEqual([])
  })

  test('stays a link, and keeps its mode', async () => {
    fs.writeFileSync('real.raw', 'old', { mode: 0o604 })
    fs.symlinkSync('real.raw', 'link.raw')
    expect((await run('convert base.raw link.raw')).status).toBe(0)
    expect(fs.readlinkSync('link.raw')).toBe('real.raw')
    expect(fs.readFileSync('real.raw').equals(fs.readFileSync('base.raw'))).toBe(true)
    expect(fs.statSync('real.raw').mode & 0o777).toBe(0o604)
  })
})

describe('map --picture', () => {
  test('draws the disk and each file of the chain', async () => {
    expect(await run('map --picture out.svg top.qcow2')).toEqual({ out: '', err: '', status: 0 })
    const text = fs.readFileSync(path.join(folder.path, 'out.svg'), 'utf8')
    expect(text).toMatch(/^<svg xmlns="http:\/\/www.w3.org\/2000\/svg" width="\d+" height="\d+"/)
    expect(text).toContain('base.raw  1 MiB (25%)')
    expect(text).toContain('never written  3 MiB (75%)')
    expect(text).toContain('shows 1 MiB of the disk in 1 piece')
    // Well-formed: every element that is opened is closed.
    const open: string[] = []
    for (const [, slash, name, self] of text.matchAll(/<(\/?)([a-z]+)[^>]*?(\/?)>/g)) {
      if (slash) expect(open.pop()).toBe(name)
      else if (!self) open.push(name!)
    }
    expect(open).toEqual([])
  })
})

describe('an image that names a json: data file (CVE-2024-4467)', () => {
  const secret = 'what nobody may see'

  test.each([
    'info evil.qcow2',
    'info --output=json evil.qcow2',
    'check evil.qcow2',
    'convert -O raw evil.qcow2 seen.raw',
  ])('%s opens nothing that it names', async (line) => {
    // Opened in any way, this would be heard of.
    let heard = 0
    const server = createServer((socket) => {
      heard++
      socket.destroy()
    })
    await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening))
    try {
      fs.writeFileSync('secret', secret)
      const { port } = server.address() as AddressInfo
      for (const named of [
        'json:{"driver":"file","filename":"secret"}',
        `json:{"driver":"nbd","server":{"type":"inet","host":"127.0.0.1","port":"${port}"}}`,
        `json:{"driver":"qcow2","file":{"driver":"nbd","host":"127.0.0.1","port":"${port}"}}`,
      ]) {
        const medium = new Memory(0)
        await createQcow2(new BlockDevice(medium), { name: 'evil', size: 1 << 20, dataFile: named })
        const bytes = new Uint8Array(medium.size)
        medium.read(0, bytesVec(bytes))
        fs.writeFileSync('evil.qcow2', bytes)
        const { out, err, status } = await run(line)
        expect(status).toBe(1)
        expect(err).toMatch(/Could not open 'evil\.qcow2': Unknown protocol 'json'/)
        expect(out).not.toContain(secret)
        expect(fs.existsSync('seen.raw')).toBe(false)
      }
      expect(heard).toBe(0)
    } finally {
      await new Promise((closed) => server.close(closed))
    }
  })
})
