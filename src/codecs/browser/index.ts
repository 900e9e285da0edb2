// What a browser has: no codec that is faster and synchronous, and web workers.

import type { Native } from '../native.ts'

/** The browser's share. */
export const native: Native = {
  codecs: {},
  cores: globalThis.navigator?.hardwareConcurrency ?? 1,
  start(source, onMessage, onEnd) {
    const url = URL.createObjectURL(new Blob([source], { type: 'text/javascript' }))
    const worker = new Worker(url)
    URL.revokeObjectURL(url)
    worker.onmessage = ({ data }) => onMessage(data)
    worker.onerror = ({ message }) => onEnd(new Error(message || 'The worker did not start'))
    return {
      post: (message, transfer) => worker.postMessage(message, [...transfer]),
      keepAlive: () => {},
      end: () => worker.terminate(),
    }
  },
}
