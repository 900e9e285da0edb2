// The page's side of the benchmark: the same tasks in a browser.

import { wasm } from '../../../src/codecs/wasm/index.ts'
import { flavour } from '../../../src/codecs/wasm/module.ts'
import { type Inputs, measure, type Row } from './measure.ts'

/** The inputs as one answer of the server: a list of lengths, then the byte strings end to end. */
async function inputs(): Promise<Inputs> {
  const { cluster, lengths } = (await (await fetch('/lengths')).json()) as { cluster: number; lengths: number[] }
  const all = new Uint8Array(await (await fetch('/inputs')).arrayBuffer())
  let at = 0
  const [data, deflatedWhole, zstdWhole, ...packed] = lengths.map((length) => all.slice(at, (at += length)))
  const half = packed.length / 2
  return {
    data: data!,
    cluster,
    deflatedWhole: deflatedWhole!,
    zstdWhole: zstdWhole!,
    deflated: packed.slice(0, half),
    zstd: packed.slice(half),
  }
}

declare global {
  var measureCodecs: (wanted: readonly string[]) => Promise<{ rows: Row[]; flavour: string }>
}

globalThis.measureCodecs = async (wanted) => ({
  rows: await measure({ module: wasm, own: () => '', zstdWasm: '/zstd.wasm' }, await inputs(), wanted),
  flavour,
})
