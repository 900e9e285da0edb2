// What a host may put in place of the module, through `#codecs-native`.

import type { Codecs } from './contract.ts'

/** The other side of a worker: a program that answers messages. */
export interface Port {
  /** Sends a message, giving away the buffers of `transfer`. */
  post(message: unknown, transfer: readonly ArrayBuffer[]): void
  /** Whether the host's process stays alive for the worker's sake. */
  keepAlive(alive: boolean): void
  /** Ends the worker. */
  end(): void
}

/** What a host has. */
export interface Native {
  /** The codecs that the host does faster, with the same results. */
  readonly codecs: Partial<Codecs>
  /** How many workers can work at once. */
  readonly cores: number
  /** Starts a worker that runs `source`, a script that sets `onmessage` and calls `postMessage`; throws where there are none. */
  start(source: string, onMessage: (message: unknown) => void, onEnd: (error: Error) => void): Port
}
