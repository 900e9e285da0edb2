/** What happens when somebody ends the tool in the middle of a job. */

const SIGNALS = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const

/** The tool was told to end; the exit status is the shell's for a program that a signal ended. */
export class Interrupted extends Error {
  readonly status: number

  constructor(signal: keyof typeof SIGNALS) {
    super(`ended by ${signal}`)
    this.status = 128 + SIGNALS[signal]
  }
}

/** Runs `body` with a signal that is aborted when the tool is told to end; then, and only then, throws {@link Interrupted}. */
export async function interruptible<T>(body: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController()
  const heard = (signal: string) => controller.abort(new Interrupted(signal as keyof typeof SIGNALS))
  for (const signal of Object.keys(SIGNALS)) process.on(signal, heard)
  try {
    return await body(controller.signal)
  } catch (error) {
    throw controller.signal.aborted ? controller.signal.reason : error
  } finally {
    for (const signal of Object.keys(SIGNALS)) process.off(signal, heard)
  }
}
