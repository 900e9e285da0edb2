/** Finds free host clusters: given back ones first, then those that were free when the image was opened, then the file's end. */
import type { BlockDevice } from '../../device.ts'
import { BlockError, errnoOf } from '../../error.ts'
import { after, type Now, repeat, rescue } from '../../now.ts'
import type { Placed } from './placed.ts'
import type { Refcounts } from './refcounts.ts'

/** Host clusters that were counted for their new owner. */
export interface Space {
  readonly cluster: number
  readonly count: number
  /** They read as zeroes, after a crash too. */
  readonly zeroed: boolean
}

const MAX_RUNS = 16384
/** The file grows ahead of its use by a half, within these bounds: at least 16 clusters, at most 64 MiB. */
const GROW_LEAST = 16
const GROW_MOST = 64 << 20
/**
 * Space of at least this length begins at a multiple of it, bytes: the host's page cache takes an aligned write in one piece. The
 * clusters that this leaves out, at most four such lengths of them, are for smaller needs. A file with little in it stays as short
 * as it can be.
 */
const ALIGNED = 256 << 10
const ALIGNED_FROM = 4 << 20
const LEFT_MOST = 4 * ALIGNED
/** Clusters past the file's end that may turn out to be in use, as after a crash, before the image counts as damaged. */
const MAX_REFUSED = 4096

/** Gives host clusters away and takes them back. */
export class Allocator {
  readonly #file: BlockDevice
  readonly #counts: Refcounts
  readonly #placed: Placed
  readonly #clusterSize: number
  readonly #name: string
  readonly #punch: boolean
  readonly #pool: Space[] = []
  /** Left out before aligned space, in runs shorter than that. */
  readonly #left: Space[] = []
  #leftCount = 0
  readonly #unit: number
  /** Clusters of old refcount tables, to be given back when the header no longer shows them. */
  readonly retired: { cluster: number; count: number }[] = []
  /** The first cluster after all that are in use. */
  #tail: number
  /** Free clusters from `scan` up to `scanEnd` were there at open and are not in the pool yet. */
  #scan = 0
  readonly #scanEnd: number
  #moving: Promise<void> | undefined
  #grown = false
  #refused = 0

  constructor(name: string, file: BlockDevice, counts: Refcounts, placed: Placed, options: { punch: boolean }) {
    this.#placed = placed
    this.#name = name
    this.#file = file
    this.#counts = counts
    this.#clusterSize = 2 ** counts.clusterBits
    this.#unit = Math.max(1, ALIGNED / this.#clusterSize)
    this.#tail = Math.ceil(file.size / this.#clusterSize)
    this.#scanEnd = this.#tail
    this.#punch = options.punch && file.canDiscard
  }

  /** End of the last cluster in use, bytes. */
  get end(): number {
    return this.#tail * this.#clusterSize
  }

  /** At most `count` clusters that follow each other. ENOSPC if the file cannot grow. */
  take(count: number): Now<Space> {
    const debug = this.#file.debug
    if (debug !== undefined) return after(debug.event('cluster_alloc'), () => this.#takeNow(count))
    return this.#takeNow(count)
  }

  /** The first of the file's next `count` clusters, which read as zeroes, counted for their owner, if that takes no look at the medium; else -1. */
  next(count: number): number {
    const cluster = this.#tail
    const at = cluster * this.#clusterSize
    const length = count * this.#clusterSize
    if (this.#pool.length > 0 || this.#scan < this.#scanEnd || this.#moving !== undefined) return -1
    if (count < this.#unit ? this.#left.length > 0 : cluster % this.#unit !== 0) return -1
    if (at + length > this.#file.size || this.#placed.overlaps(at, length)) return -1
    if (!this.#counts.claimAll(cluster, count)) return -1
    this.#tail = cluster + count
    return cluster
  }

  #takeNow(count: number): Now<Space> {
    const space = this.#try(count)
    return space === undefined || space instanceof Promise ? this.#until(() => this.#try(count), space) : space
  }

  #try(count: number): Now<Space | undefined> {
    if (count < this.#unit && this.#left.length > 0) return this.#takeLeft(count)
    const run = this.#pool.pop()
    if (run !== undefined) {
      const taken = Math.min(count, run.count)
      if (taken < run.count) {
        this.#pool.push({ cluster: run.cluster + taken, count: run.count - taken, zeroed: run.zeroed })
      }
      return this.#claim(run.cluster, taken, run.zeroed)
    }
    if (this.#scan < this.#scanEnd) {
      return after(this.#scanPage(), () => (this.#pool.length > 0 ? undefined : this.#grow(count)))
    }
    return this.#grow(count)
  }

  #takeLeft(count: number): Now<Space | undefined> {
    const { cluster, count: there, zeroed } = this.#left.pop()!
    const taken = Math.min(count, there)
    if (taken < there) this.#left.push({ cluster: cluster + taken, count: there - taken, zeroed })
    this.#leftCount -= taken
    return this.#claim(cluster, taken, zeroed)
  }

  /** Exactly `count` clusters that follow each other, at the end of the file. */
  takeRun(count: number): Now<Space> {
    return after(
      this.#until(() => this.#grow(count)),
      (space) => {
        if (space.count === count) return space
        // Too short where a refcount block ends; it is given back only after the next, which it would be again.
        return after(this.takeRun(count), (found) => after(this.give(space.cluster, space.count), () => found))
      },
    )
  }

  /**
   * Takes one use from each cluster; those with none left are free from now on. They are punched while they are still counted:
   * once they are not, another request may take them, and a punch that is under way would hit its data.
   */
  give(cluster: number, count: number): Now<void> {
    const punched = new Set<number>()
    return after(this.#punchLast(cluster, count, punched), () =>
      this.#counts.lower(cluster, count, (one) => {
        this.#placed.remove(one * this.#clusterSize)
        this.#release(one, punched.has(one))
      }),
    )
  }

  /** Adds a use to a cluster that has one. EFBIG if its refcount has too few bits. */
  share(cluster: number): Now<void> {
    return this.#counts.raise(cluster, 1)
  }

  /** Cuts off what the file grew ahead of its use. */
  trim(): Now<void> {
    if (!this.#grown || this.#file.size <= this.end) return
    return rescue(
      () => this.#file.resize(this.end),
      () => {}, // a longer file is no harm
    )
  }

  #release(cluster: number, zeroed: boolean): void {
    const last = this.#pool.at(-1)
    const grows = last !== undefined && last.cluster + last.count === cluster && last.zeroed === zeroed
    if (zeroed && cluster + 1 === this.#tail) {
      this.#tail = cluster
      if (grows) {
        this.#tail = last.cluster
        this.#pool.pop()
      }
    } else if (grows) this.#pool[this.#pool.length - 1] = { ...last, count: last.count + 1 }
    else if (this.#pool.length < MAX_RUNS) this.#pool.push({ cluster, count: 1, zeroed })
  }

  /** Punches the clusters that have one use; `punched` gets those that read as zeroes then. */
  #punchLast(cluster: number, count: number, punched: Set<number>): Now<void> {
    if (!this.#punch) return
    return after(this.#counts.singles(cluster, count), (runs) => {
      let index = 0
      return repeat(() => {
        const run = runs[index++]
        if (run === undefined) return false
        return after(this.#zero(run.cluster, run.count), (zeroed) => {
          for (let each = 0; zeroed && each < run.count; each++) punched.add(run.cluster + each)
          return true
        })
      })
    })
  }

  #zero(cluster: number, count: number): Now<boolean> {
    const at = cluster * this.#clusterSize
    const length = Math.min(count * this.#clusterSize, this.#file.size - at)
    if (length <= 0) return true
    return rescue(
      () => after(this.#file.zero(at, length, { unmap: true }), () => true),
      () => false,
    )
  }

  #scanPage(): Now<void> {
    const from = this.#scan
    return this.#counts.freeRuns(from, Math.min(this.#scanEnd, this.#tail), (runs, next) => {
      // Another request was faster; or clusters were given back meanwhile, and are free here too: a later look is better.
      if (this.#scan !== from || this.#pool.length > 0) return
      this.#scan = next
      for (const run of runs.reverse()) this.#pool.push({ ...run, zeroed: false })
    })
  }

  /** Tries until there is space, `first` being the first try; one that finds its clusters in use gives undefined. */
  #until(attempt: () => Now<Space | undefined>, first: Now<Space | undefined> = undefined): Now<Space> {
    let found: Space | undefined
    let begun = first
    const search = repeat(() => {
      const next = begun ?? attempt()
      begun = undefined
      return after(next, (space) => {
        found = space
        return space === undefined
      })
    })
    return after(search, () => found!)
  }

  #claim(cluster: number, count: number, zeroed: boolean): Now<Space | undefined> {
    const extended = this.#extend((cluster + count) * this.#clusterSize)
    if (extended instanceof Promise) return extended.then(() => this.#count(cluster, count, zeroed))
    return this.#count(cluster, count, zeroed)
  }

  #count(cluster: number, count: number, zeroed: boolean): Now<Space | undefined> {
    const claimed = this.#counts.claim(cluster, count)
    if (claimed instanceof Promise) return claimed.then((claimed) => this.#counted(cluster, claimed, zeroed))
    return this.#counted(cluster, claimed, zeroed)
  }

  #counted(cluster: number, count: number, zeroed: boolean): Space | undefined {
    if (count > 0) {
      this.#refused = 0
      return { cluster, count, zeroed }
    }
    if (++this.#refused > MAX_REFUSED) throw this.#counts.corrupt('clusters after the end of the file are in use')
    return undefined
  }

  #grow(count: number): Now<Space | undefined> {
    if (this.#moving !== undefined) return this.#moving.then(() => this.#grow(count))
    const { perBlock } = this.#counts
    let cluster = this.#tail
    const index = Math.floor(cluster / perBlock)
    const end = (cluster + count + 1) * this.#clusterSize
    if (end > this.#file.size) return after(this.#extend(end), () => this.#grow(count))
    if (index >= this.#counts.capacity) return after(this.#moveTable(index), () => this.#grow(count))
    if (this.#counts.block(index) === 0) {
      // The block that counts a stretch of the file is the stretch's first cluster, and counts itself.
      this.#tail = cluster + 1
      this.#addBlock(index, cluster)
      return after(this.#counts.claim(cluster, 1), () => this.#grow(count))
    }
    const aligned = Math.ceil(cluster / this.#unit) * this.#unit
    const left = aligned - cluster
    // What was there at open is the scan's to find.
    const fresh = left > 0 && cluster >= this.#scanEnd
    if (fresh && count >= this.#unit && aligned + count <= (index + 1) * perBlock && this.#mayLeave(left)) {
      this.#left.push({ cluster, count: left, zeroed: true })
      this.#leftCount += left
      cluster = aligned
    }
    const taken = Math.min(count, (index + 1) * perBlock - cluster)
    this.#tail = cluster + taken
    return this.#claim(cluster, taken, true)
  }

  #mayLeave(count: number): boolean {
    return this.end >= ALIGNED_FROM && (this.#leftCount + count) * this.#clusterSize <= LEFT_MOST
  }

  /** Gives the refcount table more room. The new one is in use at once; the old is free when the header shows the new. */
  #moveTable(index: number): Now<void> {
    const { perBlock } = this.#counts
    const clusters = this.#counts.tableClustersFor(index + 2)
    const cluster = this.#tail
    const end = (cluster + 2 * clusters + 2) * this.#clusterSize
    if (end > this.#file.size) return this.#extend(end)
    this.#tail = cluster + clusters
    const old = this.#counts.moveTable(cluster * this.#clusterSize, clusters)
    this.retired.push({ cluster: old.offset / this.#clusterSize, count: old.clusters })
    for (let one = 0; one < clusters; one++) this.#placed.add((cluster + one) * this.#clusterSize)
    const uncounted = Array.from({ length: clusters }, (_, each) => cluster + each)
    this.#moving = Promise.resolve(
      repeat(() => {
        const one = uncounted.shift()
        if (one === undefined) return false
        const block = Math.floor(one / perBlock)
        if (this.#counts.block(block) === 0) {
          const place = this.#tail++
          this.#addBlock(block, place)
          uncounted.push(place)
        }
        return after(this.#counts.claim(one, 1), () => true)
      }),
    ).finally(() => {
      this.#moving = undefined
    })
    return this.#moving
  }

  #addBlock(index: number, cluster: number): void {
    this.#counts.addBlock(index, cluster * this.#clusterSize)
    this.#placed.add(cluster * this.#clusterSize)
  }

  /** Makes the file at least `end` bytes long, in large steps. */
  #extend(end: number): Now<void> {
    const { size } = this.#file
    if (end <= size) return
    const step = Math.min(Math.max(GROW_LEAST * this.#clusterSize, size / 2), GROW_MOST)
    this.#grown = true
    return rescue(
      () => this.#file.grow(end, Math.ceil((end + step) / this.#clusterSize) * this.#clusterSize),
      (error) => {
        const code = errnoOf(error) === 'ENOTSUP' ? 'ENOSPC' : errnoOf(error)
        throw new BlockError(code, `Cannot allocate space in ${this.#name}: its file cannot grow`, { cause: error })
      },
    )
  }
}
