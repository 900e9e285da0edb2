/** Where compressed clusters go: one behind the other in clusters that they share. */
import { errnoOf } from '../../error.ts'
import { after, type Now, rescue } from '../../now.ts'
import type { PackedPlace } from './packed.ts'
import { type Clusters, type MapParts, takeSpace } from './parts.ts'

/** Space for compressed bytes of one image. */
export class PackedSpace {
  readonly #parts: MapParts
  readonly #clusterSize: number
  /** Where the next one may go: in the cluster of the last. */
  #end = 0

  constructor(parts: MapParts) {
    this.#parts = parts
    this.#clusterSize = 2 ** parts.header.clusterBits
  }

  /** Host offset of `length` new bytes. */
  take(length: number): Now<number> {
    const { allocator } = this.#parts
    const at = this.#end
    const room = Math.ceil(at / this.#clusterSize) * this.#clusterSize - at
    if (room >= length) {
      this.#end = at + length
      return rescue(
        () => after(allocator.share(Math.floor(at / this.#clusterSize)), () => at),
        (error) => {
          if (errnoOf(error) !== 'EFBIG') throw error
          this.#end = 0 // the refcount has too few bits: on to another cluster
          return this.take(length)
        },
      )
    }
    return after(takeSpace(this.#parts, 1), (space) => {
      const start = space.cluster * this.#clusterSize
      const apart = () => {
        this.#end = start + length
        return start
      }
      if (room === 0 || start !== at + room || this.#end !== at) return apart()
      // The next cluster follows the open one: what is left of that is used too.
      this.#end = at + length
      return rescue(
        () => after(allocator.share(start / this.#clusterSize - 1), () => at),
        (error) => {
          if (errnoOf(error) !== 'EFBIG') throw error
          return apart()
        },
      )
    })
  }

  /** Host clusters of compressed bytes that are given up; none is put behind them any more. */
  out(place: PackedPlace): Clusters {
    const clusters = this.#clusters(place)
    const open = Math.floor(this.#end / this.#clusterSize)
    if (open >= clusters.cluster && open < clusters.cluster + clusters.count) this.#end = 0
    return clusters
  }

  #clusters({ at, length }: PackedPlace): Clusters {
    const cluster = Math.floor(at / this.#clusterSize)
    return { cluster, count: Math.floor((at + length - 1) / this.#clusterSize) - cluster + 1 }
  }
}
