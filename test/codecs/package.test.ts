// The committed package is of the source that is committed with it, small, and fit for a browser.

import { readdirSync, statSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { deflateRawSync } from 'node:zlib'
import { build } from 'esbuild'
import { expect, test } from 'vitest'
import { plain } from '../../src/codecs/pkg/plain.ts'
import { simd } from '../../src/codecs/pkg/simd.ts'
import { sourceHash } from '../../src/codecs/pkg/source.ts'
import { source } from '../../src/codecs/pkg/worker.ts'
import { wasm } from '../../src/codecs/wasm/index.ts'
import { compiled, flavour, instance, use } from '../../src/codecs/wasm/module.ts'
import { diskLike } from './paths.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const script: { sourceHash(): string; workerText(): Promise<string> } = await import(`${root}scripts/build-codecs.mjs`)

test('the package was built from the crate as it is: else npm run build:codecs', () => {
  expect(sourceHash).toBe(script.sourceHash())
})

test('the worker was bundled from the sources as they are: else npm run build:codecs', async () => {
  expect(await script.workerText()).toContain(JSON.stringify(source))
})

test('the package is smaller than 400 KB', () => {
  const folder = `${root}src/codecs/pkg`
  const sizes = readdirSync(folder).map((name) => statSync(`${folder}/${name}`).size)
  expect(sizes.reduce((sum, size) => sum + size)).toBeLessThan(400_000)
})

test('both builds are valid, need nothing from outside, and export the same', () => {
  const exported = (['plain', 'simd'] as const).map((name) => {
    use(name)
    expect(WebAssembly.Module.imports(compiled())).toEqual([])
    return WebAssembly.Module.exports(compiled()).map(({ name }) => name)
  })
  use(flavour)
  expect(exported[0]!.sort()).toEqual(exported[1]!.sort())
  expect(flavour).toBe('simd')
  expect(plain.packed).not.toBe(simd.packed)
})

test.each(['plain', 'simd'] as const)('%s: no call allocates, and a bomb takes no more than it may', (name) => {
  use(name)
  const data = diskLike(65_536, 3)
  const output = new Uint8Array(data.length)
  const bomb = deflateRawSync(Buffer.alloc(200_000_000))
  const cipher = wasm.createCipher({ mode: 'xts', key: data.subarray(0, 64) })
  const round = (): number => {
    for (const level of [1, 6, 9]) wasm.inflateInto(wasm.deflate(data, { level, windowBits: 12 }), output)
    for (const level of [1, 3, 6, 19]) wasm.zstdDecompressInto(wasm.zstdCompress(data, { level }), output)
    expect(() => wasm.inflate(bomb, data.length)).toThrow(expect.objectContaining({ code: 'EFBIG' }))
    wasm.blake3Each(data, 4096)
    cipher.encrypt(output, 0)
    return instance(0).bytes.length
  }
  const first = round()
  expect(first).toBeLessThan(16 << 20)
  for (let each = 0; each < 20; each++) expect(round()).toBe(first)
  cipher.close()
  use(flavour)
})

test('a bundle for the browser has nothing of Node in it', async () => {
  const { outputFiles, metafile } = await build({
    stdin: {
      contents: "export * from './src/codecs/index.ts'; export * from './src/codecs/pool.ts'",
      resolveDir: root,
    },
    bundle: true,
    write: false,
    metafile: true,
    format: 'esm',
    platform: 'browser',
    conditions: ['browser'],
  })
  expect(Object.keys(metafile.inputs).filter((name) => name.includes('codecs/node/'))).toEqual([])
  expect(outputFiles[0]!.text).not.toContain('node:')
})
