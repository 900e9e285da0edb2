// The codecs beside Node's own and the best-known packages: `npm run bench -- codecs [node|chromium] [TASK...]`.

import crypto from 'node:crypto'
import { openSync, readFileSync, readSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import zlib from 'node:zlib'
import { build } from 'esbuild'
import { codecs } from '../../src/codecs/index.ts'
import { wasm } from '../../src/codecs/wasm/index.ts'
import { flavour } from '../../src/codecs/wasm/module.ts'
import { each, type Inputs, measure, PASSWORD, type Row, SALT, type Work } from './codecs/measure.ts'

const CLUSTER = 65536
const SIZE = 512 << 10

/** What must hold in Chromium, and in Node: how many times faster than the package, or how fast, ours must be. */
const goals: readonly { host: string; task: string; times?: number; least?: number }[] = [
  { host: 'Chromium', task: 'inflate, 64 KiB clusters', times: 2 },
  { host: 'Chromium', task: 'inflate, 512 KiB', times: 2 },
  { host: 'Chromium', task: 'zstd decompress, 64 KiB clusters', times: 3 },
  { host: 'Chromium', task: 'zstd decompress, 512 KiB', times: 3 },
  { host: 'Chromium', task: 'AES-128-XTS, 64 KiB runs', times: 3 },
  { host: 'Chromium', task: 'AES-256-XTS, 64 KiB runs', times: 3 },
  { host: 'Chromium', task: 'BLAKE3, 64 KiB clusters', times: 1 },
  { host: 'Node', task: 'AES-128-XTS, 64 KiB runs', least: 1000 },
  { host: 'Node', task: 'AES-256-XTS, 64 KiB runs', least: 1000 },
]

/** A piece of this Node: machine code, tables and text, as disks of systems hold. */
function sample(): Uint8Array {
  const data = new Uint8Array(SIZE)
  readSync(openSync(process.execPath, 'r'), data, 0, SIZE, 30_000_000)
  return data
}

function makeInputs(): Inputs {
  const data = sample()
  const clusters = Array.from({ length: SIZE / CLUSTER }, (_, at) => data.subarray(at * CLUSTER, (at + 1) * CLUSTER))
  return {
    data,
    cluster: CLUSTER,
    deflated: clusters.map((part) => zlib.deflateRawSync(part, { windowBits: 12 })),
    deflatedWhole: zlib.deflateRawSync(data),
    zstd: clusters.map((part) => wasm.zstdCompress(part)),
    zstdWhole: wasm.zstdCompress(data),
  }
}

function inNode(inputs: Inputs, wanted: readonly string[]): Promise<Row[]> {
  const parts = Array.from({ length: SIZE / CLUSTER }, (_, at) =>
    inputs.data.subarray(at * CLUSTER, (at + 1) * CLUSTER),
  )
  const run = inputs.data.slice(0, CLUSTER)
  const zeroes = Buffer.alloc(CLUSTER)
  const more = zlib as {
    crc32?: (bytes: Uint8Array) => number
    zstdCompressSync?: (bytes: Uint8Array, options: object) => Uint8Array
    zstdDecompressSync?: (bytes: Uint8Array) => Uint8Array
  }
  const own: Record<string, Work | string> = {
    'inflate, 64 KiB clusters': each(inputs.deflated, (packed) => zlib.inflateRawSync(packed)),
    'inflate, 512 KiB': () => zlib.inflateRawSync(inputs.deflatedWhole),
    'AES-128-XTS, 64 KiB runs': opensslSectors('aes-128-xts', run, 32, 'encrypt'),
    'AES-256-XTS, 64 KiB runs': opensslSectors('aes-256-xts', run, 64, 'encrypt'),
    'AES-256-XTS, 4 KiB runs': opensslSectors('aes-256-xts', run.subarray(0, 4096), 64, 'encrypt'),
    'all zero, 64 KiB of zeroes': () => zeroes.equals(ZEROES),
  }
  for (const level of [1, 6, 9])
    own[`deflate, level ${level}, 64 KiB clusters`] = each(parts, (part) => zlib.deflateRawSync(part, { level }))
  for (const kind of ['plain', 'plain64', 'essiv'])
    for (const way of ['encrypt', 'decrypt'] as const)
      own[`AES-256-CBC-${kind} ${way}, 64 KiB runs`] = opensslSectors('aes-256-cbc', run, 32, way, kind === 'essiv')
  for (const name of ['sha1', 'sha224', 'sha256', 'sha384', 'sha512', 'ripemd160'])
    own[`${name}, 64 KiB clusters`] = each(parts, (part) => crypto.createHash(name).update(part).digest())
  for (const name of ['sha1', 'sha256', 'sha512'])
    own[`PBKDF2, ${name}`] = () => crypto.pbkdf2Sync(PASSWORD, SALT, 5000, 20, name)
  const { crc32, zstdCompressSync, zstdDecompressSync } = more
  own['crc32, 64 KiB clusters'] = crc32 ? each(parts, (part) => crc32(part)) : 'from Node 20.15'
  own['zstd decompress, 64 KiB clusters'] = zstdDecompressSync ? each(inputs.zstd, zstdDecompressSync) : NO_ZSTD
  own['zstd decompress, 512 KiB'] = zstdDecompressSync ? () => zstdDecompressSync(inputs.zstdWhole) : NO_ZSTD
  for (const level of [1, 3, 6])
    own[`zstd compress, level ${level}, 64 KiB clusters`] = zstdCompressSync
      ? each(parts, (part) => zstdCompressSync(part, { params: { 100: level } }))
      : NO_ZSTD
  return measure({ module: wasm, face: codecs, own: (task) => own[task] ?? reason(task) }, inputs, wanted)
}

const ZEROES = Buffer.alloc(CLUSTER)
const NO_ZSTD = 'from Node 22.15'

/** Why Node has nothing of its own for a task. */
const reason = (task: string): string =>
  task.startsWith('argon2') ? 'from Node 24.7' : task.startsWith('BLAKE3') ? 'not in OpenSSL' : 'not in zlib'

/** Sector by sector, as Node has it: a cipher object for each. */
function opensslSectors(
  name: 'aes-128-xts' | 'aes-256-xts' | 'aes-256-cbc',
  data: Uint8Array,
  keyLength: number,
  way: 'encrypt' | 'decrypt',
  essiv = false,
): Work {
  const key = crypto.randomBytes(keyLength)
  const make = way === 'encrypt' ? crypto.createCipheriv : crypto.createDecipheriv
  const ivs = essiv
    ? crypto.createCipheriv('aes-256-ecb', crypto.createHash('sha256').update(key).digest(), null)
    : null
  const number = Buffer.alloc(16)
  return () => {
    for (let at = 0; at < data.length; at += 512) {
      number.writeUInt32LE(at / 512)
      const iv = ivs ? ivs.update(number) : number
      data.set(
        make(name, key, iv)
          .setAutoPadding(false)
          .update(data.subarray(at, at + 512)),
        at,
      )
    }
  }
}

async function inChromium(inputs: Inputs, wanted: readonly string[]): Promise<Row[]> {
  const { chromium } = await import('playwright-core')
  const { outputFiles } = await build({
    entryPoints: ['test/bench/codecs/page.ts'],
    bundle: true,
    write: false,
    format: 'iife',
    platform: 'browser',
    conditions: ['browser'],
    target: 'es2022',
    // Where @bokuweb/zstd-wasm would look beside itself, and asks even when it is told where to.
    define: { 'import.meta.url': 'location.href' },
  })
  const all = [inputs.data, inputs.deflatedWhole, inputs.zstdWhole, ...inputs.deflated, ...inputs.zstd]
  const answers: Record<string, [type: string, body: string | Buffer]> = {
    '/': ['text/html', '<!doctype html><title>codecs</title><script src="page.js"></script>'],
    '/page.js': ['text/javascript', outputFiles[0]!.text],
    '/lengths': ['application/json', JSON.stringify({ cluster: CLUSTER, lengths: all.map(({ length }) => length) })],
    '/inputs': ['application/octet-stream', Buffer.concat(all)],
    '/zstd.wasm': ['application/wasm', readFileSync('node_modules/@bokuweb/zstd-wasm/dist/web/zstd.wasm')],
  }
  const server = createServer(({ url = '/' }, response) => {
    const [type, body] = answers[url] ?? ['text/plain', '']
    response.writeHead(200, { 'content-type': type }).end(body)
  })
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening))
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
    ].concat('--disable-component-update', '--disable-sync'),
  })
  try {
    const page = await browser.newPage()
    await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`)
    const { rows, flavour } = await page.evaluate((tasks) => globalThis.measureCodecs(tasks), wanted)
    console.log(`Chromium ${browser.version()}, ${flavour} build, MB/s\n`)
    return rows
  } finally {
    await browser.close()
    server.close()
  }
}

function print(host: string, rows: readonly Row[]): void {
  const line = (first: string, ...cells: readonly string[]) =>
    console.log(`| ${first.padEnd(40)} | ${cells.map((cell) => cell.padStart(15)).join(' | ')} |`)
  const node = host === 'Node'
  line('MB/s', 'crate', ...(node ? ['face', 'Node'] : []), 'npm', 'which'.padStart(19))
  line('-'.repeat(40), ...Array(node ? 4 : 2).fill(`${'-'.repeat(14)}:`), `${'-'.repeat(18)}:`)
  const cell = (speed: number | string | undefined) => (typeof speed === 'number' ? speed.toFixed(0) : (speed ?? ''))
  for (const { task, unit, npm, speeds } of rows)
    line(
      unit === 'MB/s' ? task : `${task} (${unit})`,
      ...[speeds.crate, ...(node ? [speeds.face, speeds.host] : []), speeds.npm].map(cell),
      npm.padStart(19),
    )
  console.log()
  if (!node) console.log('Of its own a browser has none of these that answers at once.\n')
  for (const { task, speeds, npm } of rows) {
    const [crate, host, face] = [speeds.crate, speeds.host, speeds.face].map(Number)
    const ours = Number.isNaN(face) ? crate! : face!
    // A tenth is within what two runs differ by.
    if (host! > 1.1 * ours) console.log(`SLOWER   ${task}: Node's own does ${(host! / ours).toFixed(2)}x`)
    const goal = goals.find((goal) => goal.host === (node ? 'Node' : 'Chromium') && goal.task === task)
    if (!goal) continue
    const reached = goal.times === undefined ? ours : crate! / Number(speeds.npm)
    const least = goal.times ?? goal.least!
    const what =
      goal.times === undefined
        ? `${reached.toFixed(0)} MB/s, wanted ${least}`
        : `${reached.toFixed(1)}x ${npm}, wanted ${least}x`
    console.log(`${reached >= least ? 'reached' : 'MISSED '}  ${task}: ${what}`)
  }
  console.log()
}

/** Measures in Node and in headless Chromium, or in the one that is named. */
export async function run(args: readonly string[]): Promise<number> {
  const hosts = args.filter((arg) => arg === 'node' || arg === 'chromium')
  const wanted = args.filter((arg) => arg !== 'node' && arg !== 'chromium')
  const inputs = makeInputs()
  if (hosts.length === 0 || hosts.includes('node')) {
    console.log(`Node ${process.version}, ${flavour} build, MB/s\n`)
    print('Node', await inNode(inputs, wanted))
  }
  if (hosts.length === 0 || hosts.includes('chromium')) print('Chromium', await inChromium(inputs, wanted))
  return 0
}
