/** What a disk may show after a power cut: for every sector, what its last durable write left, or a later one. */

export const SECTOR = 512

interface Version {
  readonly start: number
  end: number
  /** What the sector then reads as: a version's number, or 0 for zeroes. */
  readonly value: number
  /** The old content may also stay: a discard. */
  readonly orOld: boolean
}

/** The history of every sector. Moments are the recorder's. */
export class DiskModel {
  readonly size: number
  readonly #history: Version[][]
  readonly #flushes: { start: number; end: number }[] = []
  readonly #busy: Uint8Array
  #versions = 0

  /** `start` tells what a sector holds at first, as a version's number. */
  constructor(size: number, start: (sector: number) => number) {
    this.size = size
    this.#history = Array.from({ length: size / SECTOR }, (_, sector) => [
      { start: -2, end: -1, value: start(sector), orOld: false },
    ])
    this.#busy = new Uint8Array(size / SECTOR)
    this.#versions = 1_000_000
  }

  /** Whether no request touches the range now. */
  idle(at: number, length: number): boolean {
    for (let sector = at / SECTOR; sector < (at + length) / SECTOR; sector++) if (this.#busy[sector]) return false
    return true
  }

  /** A write, zero or discard begins; gives what to write, and what to call when it has completed. */
  begin(
    kind: 'write' | 'zero' | 'discard',
    at: number,
    length: number,
    now: number,
  ): { bytes: Uint8Array; done(now: number): void } {
    const value = kind === 'write' ? ++this.#versions : 0
    const bytes = new Uint8Array(kind === 'write' ? length : 0)
    const begun: Version[] = []
    for (let offset = 0; offset < length; offset += SECTOR) {
      const sector = (at + offset) / SECTOR
      const version = { start: now, end: Number.POSITIVE_INFINITY, value, orOld: kind === 'discard' }
      begun.push(version)
      this.#history[sector]!.push(version)
      this.#busy[sector]!++
      if (kind === 'write') stamp(bytes.subarray(offset, offset + SECTOR), sector, value)
    }
    return {
      bytes,
      done: (end) => {
        for (const version of begun) version.end = end
        for (let sector = at / SECTOR; sector < (at + length) / SECTOR; sector++) this.#busy[sector]!--
      },
    }
  }

  /** The whole disk becomes what it once was. */
  replace(values: readonly number[], now: number): { done(now: number): void } {
    const begun = values.map((value, sector) => {
      const version = { start: now, end: Number.POSITIVE_INFINITY, value, orOld: false }
      this.#history[sector]!.push(version)
      return version
    })
    return {
      done: (end) => {
        for (const version of begun) version.end = end
      },
    }
  }

  /** What each sector holds, if no request is in flight and nothing was discarded. */
  current(): number[] {
    return this.#history.map((history) => history.at(-1)!.value)
  }

  /** A request over the range failed: it is over, and what it left is not known. */
  release(at: number, length: number): void {
    for (let sector = at / SECTOR; sector < (at + length) / SECTOR; sector++) this.#busy[sector]!--
  }

  /** Whether it is known what every sector holds: the last request over each has completed, and was no discard. */
  certain(): boolean {
    return this.#history.every((history) => {
      const last = history.at(-1)!
      return last.end !== Number.POSITIVE_INFINITY && !last.orOld
    })
  }

  /** A flush began and completed. */
  flushed(start: number, end: number): void {
    this.#flushes.push({ start, end })
  }

  /** What each sector may hold after a power cut at `now`. */
  allowed(now: number): Set<number>[] {
    let covered = -1
    for (const flush of this.#flushes) if (flush.end <= now) covered = Math.max(covered, flush.start)
    return this.#history.map((history) => {
      let values = new Set<number>()
      for (const version of history) {
        if (version.start >= now) break
        if (version.end <= covered && !version.orOld) values = new Set([version.value])
        else values.add(version.value)
      }
      return values
    })
  }
}

/** Fills a sector with its number and a version's. */
export function stamp(bytes: Uint8Array, sector: number, version: number): void {
  const words = new Uint32Array(SECTOR / 4)
  for (let index = 0; index < words.length; index += 2) {
    words[index] = sector
    words[index + 1] = version
  }
  bytes.set(new Uint8Array(words.buffer))
}

/** Says what is wrong with a disk's content, or nothing. */
export function judge(content: Uint8Array, allowed: readonly Set<number>[]): string | undefined {
  const words = new Uint32Array(content.buffer, content.byteOffset, content.length / 4)
  for (let sector = 0; sector < content.length / SECTOR; sector++) {
    const at = (sector * SECTOR) / 4
    const first = words[at]!
    const version = words[at + 1]!
    for (let index = 0; index < SECTOR / 4; index += 2) {
      if (words[at + index] !== first || words[at + index + 1] !== version) return `sector ${sector} is torn`
    }
    const zero = first === 0 && version === 0
    if (!zero && first !== sector) return `sector ${sector} shows the bytes of sector ${first}, version ${version}`
    if (!allowed[sector]!.has(version)) {
      return `sector ${sector} shows version ${version}, allowed are ${[...allowed[sector]!].join(', ')}`
    }
  }
  return undefined
}
