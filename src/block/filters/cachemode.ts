/** What a cache mode and `discard=ignore` mean to a device that no {@link Disk} stands in front of. */
import { asDevice, type BlockDevice, type WriteOptions, type ZeroOptions } from '../device.ts'
import type { CacheMode } from '../disk.ts'
import { Filter } from '../filter.ts'
import type { IoVec } from '../iovec.ts'
import { after, type Now } from '../now.ts'

/** What is read is what is there. */
abstract class Plain extends Filter {
  get plain() {
    return { device: this.next, offset: 0 }
  }

  get unseen(): boolean {
    return this.next.unseen
  }
}

/** Every write is durable when it completes. */
class WriteThrough extends Plain {
  readonly name = 'writethrough'

  override write(at: number, from: IoVec): Now<void> {
    return this.next.write(at, from, { fua: true })
  }

  override zero(at: number, length: number, options?: ZeroOptions): Now<void> {
    return after(this.next.zero(at, length, options), () => this.next.flush())
  }
}

/** Nothing is made durable. */
class Unsafe extends Plain {
  readonly name = 'unsafe'

  override write(at: number, from: IoVec, _options?: WriteOptions): Now<void> {
    return this.next.write(at, from)
  }

  override flush(): Now<void> {}
}

/** Space once taken is kept. */
class KeepSpace extends Plain {
  readonly name = 'keep-space'

  override get canDiscard(): boolean {
    return false
  }

  override zero(at: number, length: number): Now<void> {
    return this.next.zero(at, length)
  }

  override discard(): Now<void> {}
}

/** The device as a cache mode and a discard mode make it; itself where they change nothing. */
export function withModes(device: BlockDevice, cache: CacheMode | undefined, discard: 'ignore' | 'unmap'): BlockDevice {
  let result = device
  if (discard === 'ignore' && !device.readOnly) result = asDevice(new KeepSpace(result))
  if (cache === 'writethrough' || cache === 'directsync') result = asDevice(new WriteThrough(result))
  if (cache === 'unsafe') result = asDevice(new Unsafe(result))
  return result
}
