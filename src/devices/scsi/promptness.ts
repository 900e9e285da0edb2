/** Whether a medium answers at once, as one does whose bytes are in a cache. */

/** So many answers in a row came at once, for the next one to be relied on: where every other does not, nobody waits for those. */
const IN_A_ROW = 16

/** What the requests of one kind have been like of late. */
export class Promptness {
  #inARow = 0

  /** Whether the next answer will come at once, as far as one can know. */
  get prompt(): boolean {
    return this.#inARow >= IN_A_ROW
  }

  /** Takes note of an answer. */
  took(later: boolean): void {
    this.#inARow = later ? 0 : this.#inARow + 1
  }
}
