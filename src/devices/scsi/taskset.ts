/** The order in which a logical unit's tasks run (SAM-5 8). */
import type { Task } from './task.ts'

/** Tasks that a logical unit takes on; one more gets TASK SET FULL. */
export const TASK_LIMIT = 256

/** A task set. Ordered tasks wait for all older ones, and all wait for ordered and head-of-queue tasks before them. */
export class TaskSet {
  readonly #start: (task: Task) => void
  readonly #blocked: (task: Task) => boolean
  /** Not ended, in the order in which they came; those at the head of the queue, newest first, come before. */
  readonly #tasks: Task[] = []
  readonly #dormant = new Set<Task>()
  #barriers = 0
  #running = false
  #again = false

  /** `start` begins a task that became enabled; `blocked` holds one dormant whatever its attribute. */
  constructor(start: (task: Task) => void, blocked: (task: Task) => boolean) {
    this.#start = start
    this.#blocked = blocked
  }

  get size(): number {
    return this.#tasks.length
  }

  /** The tasks that have not ended, in their order. */
  get tasks(): readonly Task[] {
    return this.#tasks
  }

  /** Takes a task into the set, and starts it if nothing is before it, or at once if `urgent`. */
  add(task: Task, urgent = false): void {
    const attribute = task.order
    const barrier = attribute === 'ordered' || attribute === 'head'
    const first = attribute === 'head' || this.#tasks.length === 0 || (this.#barriers === 0 && !barrier)
    const free = urgent || (first && !this.#blocked(task))
    this.adopt(task)
    if (free) this.#start(task)
    else this.#dormant.add(task)
  }

  /** Takes in a task that has been started already. */
  adopt(task: Task): void {
    if (task.order === 'ordered' || task.order === 'head') this.#barriers++
    if (task.order === 'head') this.#tasks.unshift(task)
    else this.#tasks.push(task)
  }

  /** Takes a task that has ended out of the set, and starts those that waited for it. */
  remove(task: Task): void {
    if (!takeOut(this.#tasks, task)) return
    if (this.#dormant.size > 0) this.#dormant.delete(task)
    const attribute = task.order
    if (attribute === 'ordered' || attribute === 'head') this.#barriers--
    this.wake()
  }

  /** Whether a task waits for its turn. */
  isDormant(task: Task): boolean {
    return this.#dormant.has(task)
  }

  /** Starts whatever may run. */
  wake(): void {
    if (this.#dormant.size === 0) return
    this.#again = true
    if (this.#running) return
    this.#running = true
    while (this.#again) {
      this.#again = false
      for (const task of this.#enabled()) if (this.#dormant.delete(task)) this.#start(task)
    }
    this.#running = false
  }

  // SAM-5 8.8: heads first and together, an ordered task alone, simple ones together
  #enabled(): Task[] {
    const enabled: Task[] = []
    if (this.#dormant.size === 0) return enabled
    let heads = false
    let older = false
    for (const task of this.#tasks) {
      const attribute = task.order
      if (attribute === 'head') heads = true
      else if (heads || (attribute === 'ordered' && older)) break
      if (this.#dormant.has(task) && !this.#blocked(task)) enabled.push(task)
      if (attribute === 'ordered') break
      older = true
    }
    return enabled
  }
}

/** Takes `item` out of `list`, if it is in it. Mostly it is all of it, for which splice() would make another list. */
export function takeOut<T>(list: T[], item: T): boolean {
  const at = list.indexOf(item)
  if (at < 0) return false
  for (let i = at + 1; i < list.length; i++) list[i - 1] = list[i]!
  list.pop()
  return true
}
