/** One command from beginning to end, for adapters that have the whole data buffer at hand. */
import type { IoVec } from '../../block/iovec.ts'
import { after, type Now } from '../../block/now.ts'
import type { Phase, Task } from './task.ts'

/** Drives a task over `buffers` to its end; answers at once if the medium does. A missing buffer is an empty one. */
export function execute(task: Task, buffers: { readonly in?: IoVec; readonly out?: IoVec }): Now<Task> {
  const onward = (phase: Phase): Now<Task> => {
    if (phase === 'status' || phase === 'aborted' || phase === 'busy') return task
    const buffer = phase === 'in' ? buffers.in : buffers.out
    if (buffer === undefined) task.cut()
    else {
      const moved = task.moveAll(buffer)
      if (moved !== undefined) return moved.then(() => after(task.next(), onward))
    }
    return after(task.next(), onward)
  }
  return after(task.next(), onward)
}
