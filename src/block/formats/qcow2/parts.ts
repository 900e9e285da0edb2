/** What the map of an image works with, and what its rooms share. */
import type { BlockDevice } from '../../device.ts'
import type { BlockError } from '../../error.ts'
import type { Now } from '../../now.ts'
import type { Allocator, Space } from './allocator.ts'
import type { Header } from './header.ts'
import type { Packer } from './packed.ts'
import type { Placed } from './placed.ts'

/** Stretches of clusters that wait to be given back before a commit is due. */
const MAX_FREES = 65536

/** Host clusters that follow each other. */
export interface Clusters {
  cluster: number
  count: number
}

/** What the map works with. */
export interface MapParts {
  readonly name: string
  readonly header: Header
  readonly file: BlockDevice
  readonly dataFile: BlockDevice | undefined
  readonly readOnly: boolean
  /** The backing layer's size, bytes; 0 if there is none. */
  readonly backingSize: number
  readonly allocator: Allocator
  readonly packer: Packer
  readonly placed: Placed
  /** Most memory for pages, bytes. */
  readonly limit: number
  /** Marks the image as damaged and gives the error to throw. */
  readonly corrupt: (what: string) => BlockError
}

/** What the next commit must know beside the tables' bytes. */
export class Pending {
  /** Clusters that nothing on the medium shows any more once the commit is durable. */
  frees: Clusters[] = []
  /** There are links to new clusters: those must be durable first. */
  links = false

  get pressed(): boolean {
    return this.frees.length > MAX_FREES
  }

  /** Gives a cluster back after the next commit. */
  free(cluster: number): void {
    const last = this.frees.at(-1)
    if (last !== undefined && last.cluster + last.count === cluster) last.count++
    else this.frees.push({ cluster, count: 1 })
  }
}

/** New clusters of an image, which must not be those that hold its metadata. */
export function takeSpace(parts: MapParts, count: number): Now<Space> {
  const space = parts.allocator.take(count)
  return space instanceof Promise ? space.then((space) => checkSpace(parts, space)) : checkSpace(parts, space)
}

function checkSpace({ placed, corrupt, header }: MapParts, space: Space): Space {
  const clusterSize = 2 ** header.clusterBits
  if (placed.overlaps(space.cluster * clusterSize, space.count * clusterSize)) {
    throw corrupt(`cluster ${space.cluster} holds metadata, but its refcount was 0`)
  }
  return space
}
