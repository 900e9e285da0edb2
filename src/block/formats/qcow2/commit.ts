/** Brings an image's metadata onto the medium in an order that a power cut at any moment leaves consistent. */
import type { BlockDevice } from '../../device.ts'
import { bytesVec } from '../../iovec.ts'
import { after, all, type Now, rescue } from '../../now.ts'
import type { Patch } from '../../pages.ts'
import { Rounds } from '../../rounds.ts'
import type { Traffic } from '../../traffic.ts'
import type { Allocator } from './allocator.ts'
import type { ClusterMap } from './clusters.ts'
import { COMPATIBLE_LAZY_REFCOUNTS, fixedBytes, type Header, INCOMPATIBLE_DIRTY } from './header.ts'
import type { Clusters } from './parts.ts'
import type { CountPatches, Refcounts } from './refcounts.ts'

/** The points of a commit where what was written so far must be durable before what follows. */
export const BARRIERS = ['blocks', 'table', 'links', 'commit', 'header', 'clean'] as const
/**
 * One of {@link BARRIERS}; `flush`, a guest's when there is nothing to commit; or `shadow`, before the header shows metadata
 * that was written beside the old.
 */
export type Barrier = (typeof BARRIERS)[number] | 'flush' | 'shadow'

/** What a commit works on. */
export interface CommitParts {
  readonly file: BlockDevice
  readonly dataFile: BlockDevice | undefined
  readonly header: Header
  readonly counts: Refcounts
  readonly map: ClusterMap
  readonly allocator: Allocator
  readonly traffic: Traffic
  /** Takes the place of every barrier; for tests, which leave one out. */
  readonly barrier: ((barrier: Barrier, flush: () => Now<void>) => Now<void>) | undefined
}

/**
 * Commits. What must hold of the medium at every moment, whatever subset of the writes since the last barrier is on it:
 *
 * - an entry leads only to what is durable behind it: data, or zeroes that were there before the cluster was taken;
 * - a cluster that an entry leads to is counted, at least as often as it is led to;
 * - nothing is taken, punched or written anew that an entry on the medium still leads to.
 *
 * So the changes are cut into generations: what is in memory when a commit begins is copied and is one generation; a link made
 * later belongs to the next, even if it shares a table's sector. Commits never overlap. The order of each is
 *
 * 1. refcount blocks; new ones durable before the table shows them, a moved table durable before the header shows it;
 * 2. barrier: the data of the generation's clusters (written before they were linked) and their refcounts are durable;
 * 3. the generation's L2 entries and L1 entries;
 * 4. barrier: they are durable;
 * 5. when the requests that may still use an old mapping are over: what the generation's entries led to before is punched,
 *    loses its use in memory, and is taken again from then on.
 *
 * With lazy refcounts, the image is marked dirty in place of the first step; the barrier makes that durable before any link.
 * A change of the header comes after all that.
 */
export class Commit {
  readonly #parts: CommitParts
  readonly #rounds = new Rounds(() => (this.#dirty() ? this.#commit() : this.#barrier('flush')))
  #giving: Promise<void> | undefined
  #headerChanged = false
  #settling = false

  constructor(parts: CommitParts) {
    this.#parts = parts
  }

  /** Makes everything that completed before the call durable. */
  flush(): Now<void> {
    return this.#rounds.busy || this.#dirty() ? this.#rounds.run() : this.#barrier('flush')
  }

  /** Flushes until nothing is left to write, what was given back and lazy refcounts included. */
  async settle(): Promise<void> {
    this.#settling = true
    try {
      await this.flush()
      for (;;) {
        await this.#giving
        if (!this.#dirty()) break
        await this.flush()
      }
      const { header } = this.#parts
      if ((header.incompatible & INCOMPATIBLE_DIRTY) === 0n) return
      header.incompatible &= ~INCOMPATIBLE_DIRTY
      await this.writeHeader()
      await this.#barrier('clean')
    } finally {
      this.#settling = false
    }
  }

  /** Says that the fixed part of the header has changed; the next commit writes it, last. */
  headerChanged(): void {
    this.#headerChanged = true
  }

  /** Writes the fixed part of the header; it does not wait until it is durable. */
  writeHeader(): Now<void> {
    return this.#parts.file.write(0, bytesVec(fixedBytes(this.#parts.header)))
  }

  #dirty(): boolean {
    return this.#headerChanged || this.#parts.map.dirty || (!this.#lazy && this.#parts.counts.dirty)
  }

  /** Refcounts may wait. */
  get #lazy(): boolean {
    const { header, counts } = this.#parts
    return (header.compatible & COMPATIBLE_LAZY_REFCOUNTS) !== 0n && !this.#settling && !counts.pressed
  }

  async #commit(): Promise<void> {
    const { counts, map, allocator, header } = this.#parts
    const retired = allocator.retired.splice(0)
    const mapPatches = map.collect()
    const countPatches = this.#lazy ? undefined : counts.collect()
    const changed = this.#headerChanged
    this.#headerChanged = false
    let marked = false
    try {
      if (countPatches !== undefined) await this.#writeCounts(countPatches)
      else if (mapPatches.links && (header.incompatible & INCOMPATIBLE_DIRTY) === 0n) {
        header.incompatible |= INCOMPATIBLE_DIRTY
        marked = true
        await this.writeHeader()
      }
      if (mapPatches.links) await this.#barrier('links')
      await this.#write(mapPatches.patches, 'l2_update')
      await this.#barrier('commit')
      if (changed) {
        await this.writeHeader()
        await this.#barrier('header')
      }
    } catch (error) {
      this.#headerChanged ||= changed
      if (marked) header.incompatible &= ~INCOMPATIBLE_DIRTY
      countPatches?.settle(false)
      mapPatches.settle(false)
      allocator.retired.push(...retired)
      throw error
    }
    countPatches?.settle(true)
    mapPatches.settle(true)
    const frees = [...mapPatches.frees, ...retired]
    if (frees.length > 0) this.#giveBack(frees)
  }

  async #writeCounts(patches: CountPatches): Promise<void> {
    const { header } = this.#parts
    await this.#write(patches.blocks, 'refblock_update_part')
    if (patches.fresh) await this.#barrier('blocks')
    await this.#write(patches.table, 'reftable_update')
    if (!patches.moved) return
    await this.#barrier('table')
    // From here on the new table is the right one, even if this commit fails: the old lacks what the new counts.
    header.refcountTableOffset = patches.tableOffset
    header.refcountTableClusters = patches.tableClusters
    await this.writeHeader()
  }

  /** Gives clusters back when no request that began before may still touch them. What fails here is only a leak. */
  #giveBack(frees: readonly Clusters[]): void {
    const { traffic, allocator } = this.#parts
    const before = this.#giving
    const giving = (async () => {
      await before
      await traffic.grace()
      for (const { cluster, count } of frees) {
        await rescue(
          () => allocator.give(cluster, count),
          () => {},
        )
      }
    })()
    this.#giving = giving
    void giving.then(() => {
      if (this.#giving === giving) this.#giving = undefined
    })
  }

  #write(patches: readonly Patch[], event: string): Now<void> {
    const { file } = this.#parts
    if (patches.length === 0) return
    let end = 0
    for (const { at, bytes } of patches) end = Math.max(end, at + bytes.length)
    const ready = after(file.grow(end), () => file.debug?.event(event))
    return after(ready, () => all(patches.map(({ at, bytes }) => file.write(at, bytesVec(bytes)))))
  }

  #barrier(which: Barrier): Now<void> {
    const { file, dataFile, barrier } = this.#parts
    const flush = () => (dataFile === undefined ? file.flush() : all([dataFile.flush(), file.flush()]))
    return barrier === undefined ? flush() : barrier(which, flush)
  }
}
