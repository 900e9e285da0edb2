// All codecs by the WebAssembly module: what every host has.

import type { Codecs } from '../contract.ts'
import { ciphers } from './cipher.ts'
import { hashes } from './hash.ts'
import { streams } from './streams.ts'

/** The codecs by the module, the same to the last bit on every host. */
export const wasm: Codecs = { ...streams, ...hashes, ...ciphers }
