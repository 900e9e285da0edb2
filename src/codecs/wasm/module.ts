// The WebAssembly module: which build this host can run, when it is compiled, and the buffer that it lends.

import { CodecError } from '../contract.ts'
import type { Exports } from '../pkg/exports.ts'
import { plain } from '../pkg/plain.ts'
import { simd } from '../pkg/simd.ts'
import { unpack } from './unpack.ts'

/** Over this many lent bytes a job gets an instance of its own, since a WebAssembly memory never shrinks. */
const LARGE = 16 * 1024 * 1024

/** The piece in which long inputs pass through the module where the order of work allows it. */
export const PIECE = 256 * 1024

/** (module (func (result v128) i32.const 0 i8x16.splat)): valid only where SIMD128 is. */
const SIMD_PROBE = Uint8Array.of(
  ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00, 0x01, 0x05, 0x01, 0x60, 0x00, 0x01, 0x7b, 0x03],
  ...[0x02, 0x01, 0x00, 0x0a, 0x08, 0x01, 0x06, 0x00, 0x41, 0x00, 0xfd, 0x0f, 0x0b],
)

/** Which build of the crate is meant. */
export type Flavour = 'plain' | 'simd'

/** An instance of the module: its functions and its memory. */
export class Instance {
  readonly exports: Exports
  #bytes: Uint8Array<ArrayBuffer>

  constructor(module: WebAssembly.Module) {
    this.exports = new WebAssembly.Instance(module).exports as unknown as Exports
    this.#bytes = new Uint8Array(this.exports.memory.buffer)
  }

  /** All of the memory; a view from before a call may be stale after it. */
  get bytes(): Uint8Array<ArrayBuffer> {
    if (this.#bytes.length === 0) this.#bytes = new Uint8Array(this.exports.memory.buffer)
    return this.#bytes
  }

  /** The address of `length` bytes to work in, which are the module's again at the next call. ENOMEM when there are none. */
  lend(length: number): number {
    // An address above 2^31 comes back negative.
    const at = length < 2 ** 32 ? this.exports.lend(length) >>> 0 : 0
    if (at === 0) throw new CodecError('ENOMEM', `Cannot get ${length} bytes of WebAssembly memory`)
    return at
  }
}

/** A build as it is committed: deflated, in base64, with its size. */
function bytesOf({ packed, size }: { packed: string; size: number }): Uint8Array<ArrayBuffer> {
  const text = atob(packed)
  const bytes = new Uint8Array(text.length)
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at)
  return unpack(bytes, size)
}

/** The build that this host runs. */
export const flavour: Flavour = WebAssembly.validate(SIMD_PROBE) ? 'simd' : 'plain'

const code = { plain, simd }
let module: WebAssembly.Module | undefined
let main: Instance | undefined

/** The compiled module, for a worker. */
export function compiled(): WebAssembly.Module {
  module ??= new WebAssembly.Module(bytesOf(code[flavour]))
  return module
}

/** Compiles the module off this thread, so that the first call of a codec does not wait for it. A call before that compiles it there. */
export async function ready(): Promise<void> {
  if (module) return
  const compiledLater = await WebAssembly.compile(bytesOf(code[flavour]))
  module ??= compiledLater
}

/** Takes a module that another thread compiled. */
export function adopt(foreign: WebAssembly.Module): void {
  module = foreign
}

/** Runs the given build from now on: for tests that compare the two. */
export function use(chosen: Flavour): void {
  module = new WebAssembly.Module(bytesOf(code[chosen]))
  main = undefined
}

/** An instance for a job that borrows `length` bytes: the common one, or one that goes when a large job is over. */
export function instance(length: number): Instance {
  if (length > LARGE) return new Instance(compiled())
  main ??= new Instance(compiled())
  return main
}

/** An instance for one job that may take any amount of memory. */
export function ownInstance(): Instance {
  return new Instance(compiled())
}

/**
 * What to throw for what the module threw: a trap leaves an instance in pieces, so the common one is given up. An allocation
 * inside the module that failed is the one known cause.
 */
export function trapped(error: unknown): unknown {
  if (!(error instanceof WebAssembly.RuntimeError)) return error
  main = undefined
  return new CodecError('ENOMEM', `Cannot get the memory that a codec needs: ${error.message}`)
}
