/** Checks an image that nobody is writing, and repairs it. */

import { type CheckResult, MAX_MESSAGES } from '../../checkresult.ts'
import type { BlockDevice } from '../../device.ts'
import { BlockError, errnoOf } from '../../error.ts'
import { bytesVec } from '../../iovec.ts'
import { readPadded } from '../../mover.ts'
import { Census } from './census.ts'
import { Findings } from './findings.ts'
import { type Header, INCOMPATIBLE_CORRUPT, INCOMPATIBLE_DIRTY } from './header.ts'
import { CountWriter, dropCluster, mendFlags } from './mend.ts'
import { switchHeader } from './switch.ts'
import { Budget, loadBlock, Tally, tallyLimit, writeCounts } from './tally.ts'

/**
 * Checks the image in `file`; `repair` says what to mend, and `tell` hears of everything that is found. The image must not be open
 * for writing elsewhere. EIO if it is repaired for leaks alone, but needs a new refcount structure.
 */
export async function checkQcow2(
  name: string,
  file: BlockDevice,
  header: Header,
  repair?: 'leaks' | 'all',
  tell?: (message: string) => void,
): Promise<CheckResult> {
  const limit = tallyLimit(await file.allocated())
  const found = await new Check(name, file, header, limit, repair, tell).run()
  if (repair === undefined) return found
  let result = found
  if (found['corruptions-fixed'] > 0 || found['leaks-fixed'] > 0) {
    const after = await new Check(name, file, header, limit, undefined, tell).run()
    result = {
      ...after,
      'corruptions-fixed': found['corruptions-fixed'],
      'leaks-fixed': found['leaks-fixed'],
      messages: [...found.messages, ...after.messages].slice(0, MAX_MESSAGES),
    }
  }
  if (result.corruptions === 0 && result['check-errors'] === 0) await clearMarks(name, file, header)
  return result
}

/** The image is whole again. */
async function clearMarks(name: string, file: BlockDevice, header: Header): Promise<void> {
  const marks = INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT
  if ((header.incompatible & marks) === 0n) return
  await switchHeader(name, file, header, { incompatible: header.incompatible & ~marks })
}

class Check {
  readonly #name: string
  readonly #file: BlockDevice
  readonly #header: Header
  readonly #clusterSize: number
  readonly #limit: number
  readonly #repair: 'leaks' | 'all' | undefined
  readonly #findings: Findings
  #census: Census
  /** What the image says of its clusters. */
  #counts: Tally
  #table = new DataView(new ArrayBuffer(0))
  /** Clusters of the refcount structure, as far as it is one. */
  #structure: number[] = []
  /** The refcount structure cannot be mended in place. */
  #unsound = false

  constructor(
    name: string,
    file: BlockDevice,
    header: Header,
    limit: number,
    repair: 'leaks' | 'all' | undefined,
    tell: ((message: string) => void) | undefined,
  ) {
    this.#name = name
    this.#file = file
    this.#header = header
    this.#clusterSize = 2 ** header.clusterBits
    this.#limit = limit
    this.#repair = repair
    this.#findings = new Findings(header, tell)
    const budget = new Budget(limit)
    this.#census = new Census(name, file, header, this.#findings, budget, repair === 'all')
    this.#counts = new Tally(budget)
  }

  async run(): Promise<CheckResult> {
    const { result } = this.#findings
    try {
      await this.#census.run()
      await this.#loadStructure()
    } catch (error) {
      if (errnoOf(error) !== 'EFBIG') throw error
      this.#findings.failed(error)
      return result
    }
    // What was not seen whole must not be mended: what could not be read may use clusters that seem to leak.
    const repair = result['check-errors'] === 0 ? this.#repair : undefined
    const { corruptions, leaks } = result
    this.#compare()
    const wrong = result.corruptions > corruptions || result.leaks > leaks
    if (repair === undefined) result.corruptions += this.#census.misplaced.length
    else await this.#dropMisplaced()
    if (this.#unsound && repair === 'leaks') {
      this.#findings.say('ERROR need to rebuild refcount structures')
      throw new BlockError('EIO', `Cannot repair ${this.#name}: its refcount structure must be rebuilt`)
    }
    if (this.#unsound && repair === 'all') await this.#rebuild()
    else if (wrong && repair !== undefined) {
      Object.assign(result, { corruptions, leaks })
      await this.#mendCounts(repair)
    }
    await this.#flags(repair)
    return result
  }

  get #end(): number {
    return Math.max(Math.ceil(this.#file.size / this.#clusterSize), this.#census.uses.end)
  }

  async #loadStructure(): Promise<void> {
    const { refcountTableOffset, refcountTableClusters, refcountOrder } = this.#header
    const length = refcountTableClusters * this.#clusterSize
    const perBlock = (this.#clusterSize * 8) / 2 ** refcountOrder
    if (this.#census.useMetadata(refcountTableOffset, length)) {
      for (let each = 0; each < refcountTableClusters; each++) {
        this.#structure.push(refcountTableOffset / this.#clusterSize + each)
      }
    }
    const table = new Uint8Array(length)
    await readPadded(this.#file, refcountTableOffset, bytesVec(table))
    this.#table = new DataView(table.buffer)
    const last = Math.ceil(this.#file.size / this.#clusterSize)
    const blocks: number[] = []
    for (let index = 0; index * 8 < length; index++) {
      const offset = this.#blockAt(index)
      const reserved = (this.#table.getUint32(index * 8 + 4) & 0x1ff) !== 0
      if (offset === 0 && !reserved) continue
      const cluster = offset / this.#clusterSize
      if (reserved) {
        this.#damage(`ERROR refcount table entry ${index} has reserved bits set`)
        if (Number.isInteger(cluster) && cluster < last) blocks.push(index)
      } else if (!Number.isInteger(cluster)) {
        this.#damage(`ERROR refcount block ${index} is not cluster aligned; refcount table entry corrupted`)
      } else if (cluster >= last) {
        this.#findings.corrupt(`ERROR refcount block ${index} is outside image`)
        if (this.#repair === 'all') this.#unsound = true
      } else {
        blocks.push(index)
        this.#structure.push(cluster)
        this.#census.useMetadata(offset, this.#clusterSize)
        const uses = this.#census.uses.get(cluster)
        if (uses !== 1) this.#damage(`ERROR refcount block ${index} refcount=${uses}`)
      }
    }
    const end = this.#end
    for (const index of blocks) {
      const offset = this.#blockAt(index)
      // Counts after the end matter to COPIED flags alone: a block that is shown more than once must not be read for each.
      if (index * perBlock >= end && this.#census.uses.get(offset / this.#clusterSize) !== 1) continue
      await loadBlock(this.#file, this.#header, offset, index * perBlock, this.#counts)
    }
  }

  #damage(what: string): void {
    this.#findings.corrupt(what)
    this.#unsound = true
  }

  /** Where refcount block `index` is; 0 if there is none. */
  #blockAt(index: number): number {
    return this.#table.getUint32(index * 8) * 2 ** 32 + ((this.#table.getUint32(index * 8 + 4) & ~0x1ff) >>> 0)
  }

  /** Compares what the image says with what was counted. */
  #compare(): void {
    const { uses } = this.#census
    const end = this.#end
    let last = 0
    for (const cluster of uses.either(this.#counts)) {
      if (cluster >= end) break
      last = cluster + 1
      const count = this.#counts.get(cluster)
      if (count === uses.get(cluster)) continue
      // As QEMU sees it, a cluster that is in use, but not for the refcounts, puts the whole structure in doubt.
      if (count === 0) this.#unsound = true
      this.#mismatch(cluster, count, uses.get(cluster), undefined)
    }
    this.#findings.result['image-end-offset'] = last * this.#clusterSize
  }

  /** Says what is wrong with a count; whether it is to be mended. */
  #mismatch(cluster: number, count: number, uses: number, repair: 'leaks' | 'all' | undefined): boolean {
    const { result } = this.#findings
    const leak = count > uses
    const mended = repair === 'all' || (repair === 'leaks' && leak)
    const what = mended ? 'Repairing' : leak ? 'Leaked' : 'ERROR'
    this.#findings.say(`${what} cluster ${cluster} refcount=${count} reference=${uses}`)
    if (leak) result[mended ? 'leaks-fixed' : 'leaks']++
    else result[mended ? 'corruptions-fixed' : 'corruptions']++
    return mended
  }

  /** Sets counts in place; each is old or right whenever that is interrupted. */
  async #mendCounts(repair: 'leaks' | 'all'): Promise<void> {
    const { uses } = this.#census
    const writer = new CountWriter(this.#file, this.#header, (index) => this.#blockAt(index))
    const end = this.#end
    for (const cluster of uses.either(this.#counts)) {
      if (cluster >= end) break
      const count = this.#counts.get(cluster)
      const wanted = uses.get(cluster)
      if (count === wanted || !this.#mismatch(cluster, count, wanted, repair)) continue
      await writer.set(cluster, wanted)
      this.#counts.set(cluster, wanted)
    }
    await writer.finish()
  }

  /** Compares the COPIED flags with the counts as they are now. */
  async #flags(repair: 'leaks' | 'all' | undefined): Promise<void> {
    const { result } = this.#findings
    const whole = result.corruptions === 0 && result.leaks === 0
    const mend = repair === 'all' || (repair === 'leaks' && whole)
    await mendFlags(this.#file, this.#header, this.#census, this.#counts, ({ what, changeable }) => {
      const mended = mend && changeable
      this.#findings.say(`${mended ? 'Repairing' : 'ERROR'} OFLAG_COPIED ${what}`)
      result[mended ? 'corruptions-fixed' : 'corruptions']++
      return mended
    })
  }

  async #dropMisplaced(): Promise<void> {
    const { result } = this.#findings
    for (const { table, at } of this.#census.misplaced) {
      const mended = this.#census.changeable(table)
      result[mended ? 'corruptions-fixed' : 'corruptions']++
      if (mended) await dropCluster(this.#file, this.#header, at)
    }
    if (this.#census.misplaced.length > 0) await this.#file.flush()
  }

  /** Writes a new refcount structure beside the old one, which is in force until the header shows the new. */
  async #rebuild(): Promise<void> {
    const { result } = this.#findings
    const { corruptions, leaks } = result
    const old = this.#census
    this.#findings.say('Rebuilding refcount structure')
    Object.assign(result, {
      corruptions: 0,
      leaks: 0,
      'allocated-clusters': 0,
      'fragmented-clusters': 0,
      'compressed-clusters': 0,
    })
    const census = new Census(this.#name, this.#file, this.#header, this.#findings, new Budget(this.#limit), true)
    await census.run()
    const first = Math.max(this.#end, census.uses.end)
    const made = await writeCounts(this.#name, this.#file, this.#header, census.uses, first)
    await this.#file.flush()
    const { refcountTableOffset, refcountTableClusters } = made
    await switchHeader(this.#name, this.#file, this.#header, { refcountTableOffset, refcountTableClusters })
    let last = -1
    for (const cluster of this.#structure.sort((a, b) => a - b)) {
      if (cluster === last) continue
      last = cluster
      const [had, left] = [old.uses.get(cluster), census.uses.get(cluster)]
      this.#findings.say(`Repairing cluster ${cluster} refcount=${had} reference=${left}`)
    }
    this.#census = census
    this.#counts = census.uses
    result['corruptions-fixed'] += Math.max(0, corruptions - result.corruptions)
    result['leaks-fixed'] += leaks
  }
}
