/** What writers wait on while the other side takes its time: one promise for all of them, made when it is wanted. */
export class Room {
  #promise: Promise<void> | undefined
  #resolve: (() => void) | undefined

  /** Resolves at the next {@link make}. */
  wait(): Promise<void> {
    this.#promise ??= new Promise((resolve) => {
      this.#resolve = resolve
    })
    return this.#promise
  }

  make(): void {
    this.#resolve?.()
    this.#promise = undefined
    this.#resolve = undefined
  }
}
