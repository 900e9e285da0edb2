/** cache=unsafe for a file: nobody waits until what was written is durable, and it is not. */
import { Filter } from '../filter.ts'
import type { IoVec } from '../iovec.ts'
import type { Now } from '../now.ts'

/** Leaves out flushes. */
export class Unflushed extends Filter {
  readonly name = 'unflushed'

  get plain() {
    return { device: this.next, offset: 0 }
  }

  get unseen(): boolean {
    return this.next.unseen
  }

  override write(at: number, from: IoVec): Now<void> {
    return this.next.write(at, from)
  }

  override flush(): Now<void> {}
}
