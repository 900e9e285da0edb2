/** What a server has said is written and may still lose: kept until it is flushed, to be written again to its successor. */

/** A write or a zeroing that completed. */
export interface Written {
  readonly command: number
  readonly flags: number
  readonly at: number
  readonly length: number
  readonly payload?: Uint8Array
}

/** What an entry takes besides its payload, bytes. */
const ENTRY_COST = 64
/** Most entries that are written again at a time. */
const MAX_BATCH = 64

/** Changes that no flush has covered yet, and durable ones that replaced some of them, in the order in which they completed. */
export class Journal {
  #entries: { readonly id: number; readonly written: Written }[] = []
  #lastId = 0
  #bytes = 0

  /** Memory that it takes. */
  get bytes(): number {
    return this.#bytes
  }

  /** Notes a change. */
  add(written: Written): void {
    this.#entries.push({ id: ++this.#lastId, written })
    this.#bytes += cost(written)
  }

  /** Whether anything in it touches these bytes: what comes after that must be in it too, or is lost when it is written again. */
  meets({ at, length }: Pick<Written, 'at' | 'length'>): boolean {
    return this.#entries.some(({ written }) => touch(written, at, length))
  }

  /** What is in it now, for {@link forget}. */
  mark(): number {
    return this.#lastId
  }

  /** Drops what was in it at the mark: a flush that began then has succeeded. */
  forget(mark: number): void {
    const kept = this.#entries.findIndex(({ id }) => id > mark)
    const gone = this.#entries.splice(0, kept < 0 ? this.#entries.length : kept)
    for (const { written } of gone) this.#bytes -= cost(written)
  }

  /** All changes, in groups to be done one after the other: no two in a group touch the same bytes. */
  *batches(): Generator<Written[]> {
    let batch: Written[] = []
    for (const { written } of [...this.#entries]) {
      const { at, length } = written
      const meets = batch.some((other) => touch(other, at, length))
      if (meets || batch.length === MAX_BATCH) {
        yield batch
        batch = []
      }
      batch.push(written)
    }
    if (batch.length > 0) yield batch
  }
}

function touch(one: Written, at: number, length: number): boolean {
  return at < one.at + one.length && one.at < at + length
}

function cost({ payload }: Written): number {
  return ENTRY_COST + (payload?.length ?? 0)
}
