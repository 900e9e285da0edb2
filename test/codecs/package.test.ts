// The committed package is of the source that is committed with it, small, and fit for a browser.

import { readdirSync, statSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import { expect, test } from 'vitest'
import { plain } from '../../src/codecs/pkg/plain.ts'
import { simd } from '../../src/codecs/pkg/simd.ts'
import { sourceHash } from '../../src/codecs/pkg/source.ts'
import { source } from '../../src/codecs/pkg/worker.ts'
import { compiled, flavour, use } from '../../src/codecs/wasm/module.ts'

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
