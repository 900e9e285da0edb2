// The codecs in a browser: the same answers as in Node, on the page's own thread and on web workers.

import { createHash } from 'node:crypto'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import { type Browser, chromium } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { codecs } from '../../src/codecs/index.ts'
import { answers } from '../codecs/answers.ts'
import { lacks } from '../tools.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))

describe.skipIf(lacks('chromium'))('Chromium', () => {
  let browser: Browser
  let server: Server

  beforeAll(async () => {
    const contents = `
      import { codecs, ready } from './src/codecs/index.ts'
      import { codecPool } from './src/codecs/pool.ts'
      import { flavour, use } from './src/codecs/wasm/module.ts'
      import { answers } from './test/codecs/answers.ts'
      Object.assign(globalThis, { codecs, ready, codecPool, flavour, use, answers })`
    const { outputFiles } = await build({
      stdin: { contents, resolveDir: root, loader: 'ts' },
      bundle: true,
      write: false,
      format: 'iife',
      platform: 'browser',
      conditions: ['browser'],
    })
    server = createServer(({ url }, response) => {
      const script = url === '/page.js'
      response.writeHead(200, { 'content-type': script ? 'text/javascript' : 'text/html' })
      response.end(script ? outputFiles[0]!.text : '<!doctype html><script src="page.js"></script>')
    })
    await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening))
    browser = await chromium.launch({
      executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
      args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking'],
    })
  })
  afterAll(async () => {
    await browser?.close()
    server?.close()
  })

  const open = async () => {
    const page = await browser.newPage()
    await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`)
    return page
  }

  test('answers as Node does, by both builds, before and after ready()', async () => {
    const expected = answers(codecs).map((bytes) => createHash('sha256').update(bytes).digest('hex'))
    const page = await open()
    const seen = await page.evaluate(`(async () => {
      const hashes = []
      const hex = (bytes) => [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('')
      const all = [answers(codecs)]
      await ready()
      all.push(answers(codecs))
      for (const build of ['plain', 'simd']) { use(build); all.push(answers(codecs)) }
      return all.map((list) => list.map((bytes) => hex(codecs.digest('sha256', bytes))))
    })()`)
    expect(seen).toEqual([expected, expected, expected, expected])
  })

  test('a pool works on web workers', async () => {
    const page = await open()
    const seen = await page.evaluate(`(async () => {
      const pool = codecPool({ workers: 2 })
      const data = answers(codecs)[0]
      const jobs = Array.from({ length: 8 }, (_, level) => pool.deflate(data, { level: level + 1 }))
      const later = jobs.every((job) => job instanceof Promise)
      const packed = await Promise.all(jobs)
      const same = packed.every((bytes, level) => bytes.join() === codecs.deflate(data, { level: level + 1 }).join())
      const error = await pool.zstdDecompress(new Uint8Array(300000), 10).catch(({ code }) => code)
      pool.close()
      return { later, same, error }
    })()`)
    expect(seen).toEqual({ later: true, same: true, error: 'EILSEQ' })
  })
})
