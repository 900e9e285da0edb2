// What a worker of the pool runs: it takes the compiled module first, then one job after the other.
// The build bundles it into pkg/worker.ts, without the module's bytes.

import { CodecError } from './contract.ts'
import type { Answer, Job, Start } from './jobs.ts'
import { wasm } from './wasm/index.ts'
import { adopt } from './wasm/module.ts'

const scope = globalThis as unknown as {
  onmessage: (event: { data: Start | Job }) => void
  postMessage(answer: Answer, transfer: ArrayBufferLike[]): void
}

scope.onmessage = ({ data }) => {
  if ('module' in data) {
    adopt(data.module)
    return
  }
  const { id, name, args } = data
  try {
    const value = (wasm[name] as (...args: unknown[]) => Uint8Array | undefined)(...args)
    scope.postMessage({ id, value }, value ? [value.buffer] : [])
  } catch (error) {
    const code = error instanceof CodecError ? error.code : 'ENOMEM'
    scope.postMessage({ id, code, message: (error as Error).message }, [])
  }
}
