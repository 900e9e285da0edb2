// The codecs beside Node's own and the best-known packages: `npm run bench -- codecs [node|chromium] [TASK...]`.

import crypto from 'node:crypto'
import { openSync, readSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import zlib from 'node:zlib'
import { build } from 'esbuild'
import { codecs } from '../../src/codecs/index.ts'
import { wasm } from '../../src/codecs/wasm/index.ts'
import { flavour } from '../../src/codecs/wasm/module.ts'
import { each, type Inputs, measure, type Row } from './codecs/measure.ts'

const CLUSTER = 65536
const SIZE = 512 << 10

/** What must hold in Chromium, and in Node: a task, who is compared, and how many times faster (or how fast) ours must be. */
const goals: readonly { host: string; task: string; ours: string; other?: string; least: number }[] = [
  { host: 'Chromium', task: 'inflate, 64 KiB clusters', ours: 'module', other: 'fflate', least: 2 },
  { host: 'Chromium', task: 'inflate, 512 KiB', ours: 'module', other: 'fflate', least: 2 },
  { host: 'Chromium', task: 'zstd decompress, 64 KiB clusters', ours: 'module', other: 'fzstd', least: 3 },
  { host: 'Chromium', task: 'zstd decompress, 512 KiB', ours: 'module', other: 'fzstd', least: 3 },
  { host: 'Chromium', task: 'AES-256-XTS, 64 KiB runs', ours: 'module', other: '@noble/ciphers', least: 3 },
  { host: 'Chromium', task: 'BLAKE3, 64 KiB clusters', ours: 'module', other: 'hash-wasm', least: 1 },
  { host: 'Node', task: 'AES-256-XTS, 64 KiB runs', ours: 'face', least: 1000 },
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
  const own: Record<string, () => void> = {
    'inflate, 64 KiB clusters': each(inputs.deflated, (packed) => zlib.inflateRawSync(packed)),
    'inflate, 512 KiB': () => zlib.inflateRawSync(inputs.deflatedWhole),
    'deflate, level 1, 64 KiB clusters': each(parts, (part) => zlib.deflateRawSync(part, { level: 1 })),
    'deflate, level 6, 64 KiB clusters': each(parts, (part) => zlib.deflateRawSync(part, { level: 6 })),
    'AES-256-XTS, 64 KiB runs': opensslXts(inputs.data.slice(0, CLUSTER)),
    'AES-256-XTS, 4 KiB runs': opensslXts(inputs.data.slice(0, 4096)),
  }
  for (const name of ['sha1', 'sha256', 'sha512'])
    own[`${name}, 64 KiB clusters`] = each(parts, (part) => crypto.createHash(name).update(part).digest())
  return measure({ module: wasm, face: codecs, own }, inputs, wanted)
}

/** XTS sector by sector, as Node has it. */
function opensslXts(data: Uint8Array): () => void {
  const key = crypto.randomBytes(64)
  const iv = Buffer.alloc(16)
  return () => {
    for (let at = 0; at < data.length; at += 512) {
      iv.writeUInt32LE(at / 512)
      data.set(crypto.createCipheriv('aes-256-xts', key, iv).update(data.subarray(at, at + 512)), at)
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
  })
  const all = [inputs.data, inputs.deflatedWhole, inputs.zstdWhole, ...inputs.deflated, ...inputs.zstd]
  const answers: Record<string, [type: string, body: string | Buffer]> = {
    '/': ['text/html', '<!doctype html><title>codecs</title><script src="page.js"></script>'],
    '/page.js': ['text/javascript', outputFiles[0]!.text],
    '/lengths': ['application/json', JSON.stringify({ cluster: CLUSTER, lengths: all.map(({ length }) => length) })],
    '/inputs': ['application/octet-stream', Buffer.concat(all)],
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
  const names = ['module', 'face', 'host', 'fflate', 'fzstd', '@noble/ciphers', 'hash-wasm', 'a loop'].filter((name) =>
    rows.some(({ speeds }) => name in speeds),
  )
  const line = (first: string, cells: readonly string[]) =>
    console.log(`| ${first.padEnd(40)} | ${cells.map((cell) => cell.padStart(14)).join(' | ')} |`)
  line('', names)
  line(
    '-'.repeat(40),
    names.map(() => `${'-'.repeat(13)}:`),
  )
  for (const { task, unit, speeds } of rows)
    line(
      unit === 'MB/s' ? task : `${task} (${unit})`,
      names.map((name) => (speeds[name] === undefined ? '' : speeds[name].toFixed(0))),
    )
  console.log()
  for (const goal of goals) {
    const speeds = rows.find(({ task }) => task === goal.task)?.speeds
    if (goal.host !== host || !speeds) continue
    const reached = speeds[goal.ours]! / (goal.other ? speeds[goal.other]! : 1)
    const what = goal.other
      ? `${reached.toFixed(1)}x ${goal.other}, wanted ${goal.least}x`
      : `${reached.toFixed(0)} MB/s, wanted ${goal.least}`
    console.log(`${reached >= goal.least ? 'reached' : 'MISSED '}  ${goal.task}: ${what}`)
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
