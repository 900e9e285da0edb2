/** Long work on a whole medium, done a slice at a time so that the emulator's thread is never held for long. */
import type { Now } from '../../block/now.ts'

/** Bytes of one slice. */
export const SLICE = 1 << 20

/** Lets others run before it goes on: completes when they had their turn. */
export type Turn = () => Promise<void>

/** A turn of the host's event loop. */
export const nextTurn: Turn = () =>
  new Promise((resolve) => {
    setTimeout(resolve, 0)
  })

/** Work under way: how far it is, and how to stop it. */
export class Work {
  readonly total: number
  done = 0
  #stopped = false
  #end: Promise<void> | undefined

  /** `total` is in bytes. */
  constructor(total: number) {
    this.total = total
  }

  /** How far it is, of 65536. */
  get progress(): number {
    return this.total === 0 ? 0 : Math.min(Math.floor((this.done / this.total) * 65536), 65535)
  }

  get isStopped(): boolean {
    return this.#stopped
  }

  /** Calls `step` for each slice, with a turn after it; resolves when all are done or {@link stop} was called. */
  async run(step: (at: number, length: number) => Now<void>, turn: Turn): Promise<void> {
    while (this.done < this.total && !this.#stopped) {
      const length = Math.min(SLICE, this.total - this.done)
      await step(this.done, length)
      this.done += length
      if (this.done < this.total) await turn()
    }
  }

  /** Remembers the promise of the whole, for {@link stop} to wait for. It must not reject. */
  during(end: Promise<void>): void {
    this.#end = end
  }

  /** Stops after the slice that is under way; completes when nothing is. */
  stop(): Now<void> {
    this.#stopped = true
    return this.#end
  }
}
