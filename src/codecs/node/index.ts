// What Node does faster than the module, and its threads.

import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import type { Native } from '../native.ts'
import { ciphers } from './cipher.ts'
import { hashes } from './hash.ts'

/** Gives a script of web workers what it knows of its scope. */
const SCOPE = `
const { parentPort } = require('node:worker_threads')
globalThis.postMessage = (message, transfer) => parentPort.postMessage(message, transfer)
parentPort.on('message', (data) => onmessage({ data }))
`

/** Node's share. */
export const native: Native = {
  codecs: { ...hashes, ...ciphers },
  cores: availableParallelism(),
  start(source, onMessage, onEnd) {
    const worker = new Worker(SCOPE + source, { eval: true })
    worker.on('message', onMessage)
    worker.on('error', onEnd)
    worker.on('exit', (code) => onEnd(new Error(`exit code ${code}`)))
    worker.unref()
    return {
      post: (message, transfer) => worker.postMessage(message, transfer),
      keepAlive: (alive) => (alive ? worker.ref() : worker.unref()),
      end: () => void worker.terminate(),
    }
  },
}
