/** Engines for tests, which ask and answer with values that are here or come later. */
import type { IoVec } from '../../../src/block/iovec.ts'
import { type Now, settle } from '../../../src/block/now.ts'
import { asked, type Engine, type Waiter } from '../../../src/block/protocols/node/engine.ts'

/** An engine as its author would write it with promises. */
export interface Answers {
  readonly name: Engine['name']
  readonly durableWrites: boolean
  read(at: number, into: IoVec, lone?: boolean): Now<void>
  write(at: number, from: IoVec, durable: boolean, lone?: boolean): Now<void>
  submit?(): void
  sync(): Promise<void>
}

/** The engine that answers as `answers` does. */
export function answering(answers: Answers): Engine {
  const tell = (waiter: Waiter, start: () => Now<void>) =>
    settle(
      start,
      () => waiter.done(),
      (error) => waiter.failed(error),
    )
  return {
    name: answers.name,
    durableWrites: answers.durableWrites,
    read: (at, into, waiter, lone) => tell(waiter, () => answers.read(at, into, lone)),
    write: (at, from, durable, waiter, lone) => tell(waiter, () => answers.write(at, from, durable, lone)),
    submit: () => answers.submit?.(),
    sync: () => answers.sync(),
  }
}

/** What `engine` answers, as values. */
export function asking(engine: Engine): Answers {
  return {
    name: engine.name,
    durableWrites: engine.durableWrites,
    read: (at, into, lone) => asked((waiter) => engine.read(at, into, waiter, lone)),
    write: (at, from, durable, lone) => asked((waiter) => engine.write(at, from, durable, waiter, lone)),
    sync: () => engine.sync(),
  }
}
