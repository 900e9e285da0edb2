/** One command on its way through a logical unit: its data phase, its status, its abort (SAM-5 5 and 8). */
import { bytesVec, type IoVec } from '../../block/iovec.ts'
import { after, isLater, type Now, repeat } from '../../block/now.ts'
import type { Saved } from '../machine.ts'
import { type Attribute, type Command, STATUS_CHECK_CONDITION, STATUS_GOOD, STATUS_TASK_ABORTED } from './command.ts'
import type { Promptness } from './promptness.ts'
import { bytesOf, fieldsOf, flagOf, numberOf, saveCommand } from './saved.ts'
import { CheckCondition, DATA_PHASE_ERROR, PARAMETER_LIST_LENGTH_ERROR, type Sense } from './sense.ts'
import type { Stage, Stages } from './stage.ts'
import { Collector, type DataSink, type DataSource, Reply } from './transfer.ts'

/**
 * What a task asks of its adapter: `busy` nothing yet; `in` and `out` to move data; `status` to take the status, the task is
 * over; `aborted` to forget the nexus without a status.
 */
export type Phase = 'busy' | 'in' | 'out' | 'status' | 'aborted'

/** Whom a task belongs to. */
export interface TaskOwner {
  readonly stages: Stages
  /** How its medium has answered. */
  readonly reads: Promptness
  readonly writes: Promptness
  /** Says what the guest is to be told of anything thrown; undefined if the work was canceled. */
  senseOf(error: unknown): Sense | undefined
  /** Takes note that a task ends with CHECK CONDITION and gives the autosense bytes; undefined: it has to wait for {@link Task.check} again. */
  checked(task: Task, sense: Sense): Uint8Array | undefined
  /** The task is over. */
  ended(task: Task): void
}

/** Shortest piece that goes straight between memory and a prompt medium, bytes: of a shorter one the copy costs less. */
const STRAIGHT_MIN = 64 << 10
/** Longest that is written so, bytes: a longer write a host does not do at once, but hands to others. */
const WRITTEN_MAX = 256 << 10
const NO_SENSE = new Uint8Array(0)
/** Longest answer or parameter list of a saved state, bytes. */
const ANSWER_LIMIT = 8 << 20
/** Most bytes that a task stages: a block of the largest size. */
const STAGED_LIMIT = 2 << 20

/**
 * A task. The adapter looks at {@link phase} (or waits for {@link next}) and does what it says, until `status` or `aborted`.
 * No method throws or rejects: what goes wrong becomes the status.
 */
export class Task {
  // Before the public fields, and few: V8 makes a dictionary of an object that gets private fields behind a dozen others
  readonly #owner: TaskOwner
  #source: DataSource | undefined
  #sink: DataSink | undefined
  /** Host requests under way: completes, never rejects. */
  #work: Promise<void> | undefined
  #lent: IoVec | undefined
  #abandon: (() => void) | undefined
  #stage: Stage | undefined
  #failure: unknown
  #begun = false
  #aborted: false | 'silently' | 'announced' = false
  #waiter: { readonly promise: Promise<Phase>; readonly wake: (phase: Phase) => void } | undefined
  readonly command: Command
  /** How it queues: by its attribute, or ordered if the command must run alone. */
  readonly order: Attribute
  phase: Phase = 'busy'
  /** Bytes that the data phase moves in all. */
  length = 0
  /** Bytes of them that were moved. The residual is the initiator's buffer less these. */
  transferred = 0
  status = STATUS_GOOD
  /** Autosense data; empty without CHECK CONDITION. */
  sense: Uint8Array = NO_SENSE

  constructor(command: Command, owner: TaskOwner, alone = false) {
    this.command = command
    this.order = alone && command.attribute !== 'head' ? 'ordered' : command.attribute
    this.#owner = owner
  }

  get cdb(): Uint8Array {
    return this.command.cdb
  }

  /** The phase, as soon as it is not `busy`. */
  next(): Now<Phase> {
    if (this.phase !== 'busy') return this.phase
    this.#waiter ??= waiter()
    return this.#waiter.promise
  }

  /**
   * Moves the rest of the data phase straight between the medium and `buffer`: the zero-copy way for adapters that know the
   * whole buffer. One that is too short cuts the phase; what is too long stays untouched.
   */
  moveAll(buffer: IoVec): Now<void> {
    if (this.phase === 'in') {
      const length = Math.min(buffer.byteLength, this.length - this.transferred)
      return after(this.#moveIn(length === buffer.byteLength ? buffer : buffer.slice(0, length)), () => this.cut())
    }
    if (this.phase === 'out') return this.#writeAll(buffer)
  }

  /** Reads ahead, or makes room, so that {@link move} can go on at once; look at {@link phase} again after it. */
  prepare(): Now<void> {
    if (this.#work !== undefined) return this.#work
    if (this.phase === 'in' && this.#ahead() === 0 && !this.#source!.held) return this.#readAhead()
  }

  /**
   * Whether what is left is best moved in long pieces: its medium answers at once, and nothing is in a buffer. Then there is no need
   * to {@link prepare}.
   */
  get straight(): boolean {
    return this.length - this.transferred >= STRAIGHT_MIN && this.#isStraight
  }

  get #isStraight(): boolean {
    if (this.#work !== undefined) return false
    if (this.phase === 'in') return this.#owner.reads.prompt && !this.#source!.held && this.#ahead() === 0
    return this.phase === 'out' && this.#owner.writes.prompt && !this.#sink!.held && this.#staged() === 0
  }

  /** Bytes that {@link move} takes or gives without waiting. */
  get ready(): number {
    if (this.phase === 'in') return this.#source!.held ? this.length - this.transferred : this.#ahead()
    if (this.phase !== 'out' || this.#work !== undefined) return 0
    const left = this.length - this.transferred
    return this.#sink!.held
      ? left
      : Math.min(left, (this.#stage?.size ?? this.#owner.stages.size(left, this.#sink!.block)) - this.#staged())
  }

  /** Bytes that were read ahead of the adapter. */
  #ahead(): number {
    return this.#stage === undefined ? 0 : this.#stage.filled - this.#stage.taken
  }

  /** Bytes that the adapter has moved and the medium has not got. */
  #staged(): number {
    return this.#stage?.filled ?? 0
  }

  /** Moves the next bytes of the data phase, all of `piece` or as much as is left: the way for adapters that move in pieces. */
  move(piece: IoVec): Now<void> {
    return this.#move(piece, true)
  }

  #move(piece: IoVec, mayBeStraight: boolean): Now<void> {
    let done = 0
    const step = (): Now<boolean> => {
      const left = piece.byteLength - done
      if (left === 0 || (this.phase !== 'in' && this.phase !== 'out')) return false
      const straight = mayBeStraight ? this.#straightPart(left) : 0
      if (straight > 0) {
        const part = piece.slice(done, done + straight)
        done += straight
        return after(this.phase === 'in' ? this.#moveIn(part) : this.#moveOut(part), () => true)
      }
      const now = Math.min(left, this.ready)
      if (now > 0) {
        const part = now === piece.byteLength ? piece : piece.slice(done, done + now)
        done += now
        if (this.phase === 'out') this.#take(part)
        else this.#give(part)
        return done < piece.byteLength
      }
      return after(this.prepare(), () => true)
    }
    return repeat(step)
  }

  /** Bytes of the next `left` that need no buffer. */
  #straightPart(left: number): number {
    const rest = Math.min(left, this.length - this.transferred)
    if (rest >= STRAIGHT_MIN && this.#isStraight) {
      if (this.phase === 'in') return rest
      const most = Math.min(rest, WRITTEN_MAX)
      return most - (most % this.#sink!.block)
    }
    if (this.phase !== 'in' || this.#work !== undefined || this.#source!.held || this.#ahead() > 0) return 0
    return rest >= this.#owner.stages.size(this.length - this.transferred) ? rest : 0
  }

  /** Moves all of `bytes`, of which there are no more than {@link ready}: {@link move} for an adapter that has them at hand. */
  pass(bytes: Uint8Array): void {
    const { length } = bytes
    if (this.phase === 'in') {
      const stage = this.#stage
      if (stage === undefined) this.#give(bytesVec(bytes))
      else {
        bytes.set(stage.part(stage.taken, stage.taken + length))
        stage.taken += length
        this.#advance(length)
      }
    } else if (this.phase === 'out') {
      if (this.#sink!.held) this.#take(bytesVec(bytes))
      else {
        const stage = this.#room(length)
        stage.part(stage.filled - length, stage.filled).set(bytes)
        this.#unload(stage)
      }
    }
  }

  /** Ends the data phase early: the initiator has no more room, or no more bytes. */
  cut(): void {
    if (this.phase === 'in') this.#finishData()
    else if (this.phase === 'out') {
      this.fail(new CheckCondition(this.#sink!.held ? PARAMETER_LIST_LENGTH_ERROR : DATA_PHASE_ERROR))
    }
  }

  /**
   * Takes the task back; completes when no memory lent to it, and no block of the medium, is touched any more. A task that is
   * over stays as it is. With `announce` it ends with TASK ABORTED instead of without a status (SAM-5 5.6).
   */
  abort(announce = false): Now<void> {
    if (this.phase === 'status' || this.phase === 'aborted') return
    if (!this.#aborted) this.#aborted = announce ? 'announced' : 'silently'
    this.#lent?.revoke()
    this.#abandon?.()
    // A read ahead fills memory that nobody else has: whenever it ends, even never, it does no harm
    const ahead = this.#stage?.reading === true
    if (ahead) {
      this.#owner.stages.lose()
      this.#stage = undefined
    }
    if (this.#work !== undefined && !ahead) return this.#work
    this.#enter('aborted')
  }

  /** Its request with the host, if there is one; never rejects. */
  get work(): Promise<void> | undefined {
    return this.#work
  }

  /** Whether {@link abort} was called: a command with several steps does not begin the next one. */
  get isAborted(): boolean {
    return this.#aborted !== false
  }

  // ---- for the device server ----

  /** What the data phase moves is gone: a task that waits for its adapter ends. One that waits for the host is told by the host. */
  withdraw(error: unknown): void {
    if ((this.phase === 'in' || this.phase === 'out') && this.#work === undefined) this.fail(error)
  }

  /** Runs a command's handler, and what follows from it. */
  run(handler: (task: Task) => Now<void>): void {
    this.#begun = true
    void this.#attempt(
      () => handler(this),
      () => this.#begin(),
    )
  }

  /** Names the memory that a handler's own request works on, so that an abort cuts it off; returns it. */
  lend(memory: IoVec): IoVec {
    this.#lent = memory
    return memory
  }

  /** Waits for work that goes on without the task: an abort does not wait for it. */
  until(work: Promise<void>): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#abandon = resolve
      work.then(resolve, reject)
    })
  }

  /** Asks for a data-in phase; called by a handler. */
  dataIn(source: DataSource): void {
    this.#source = source
  }

  /** Answers with `bytes`, at most `allocation` of them; called by a handler. */
  reply(bytes: Uint8Array, allocation = bytes.length): void {
    this.dataIn(new Reply(bytes.length > allocation ? bytes.subarray(0, allocation) : bytes))
  }

  /** Asks for a data-out phase; called by a handler. */
  dataOut(sink: DataSink): void {
    this.#sink = sink
  }

  /** Asks for a parameter list of `length` bytes, then goes on with it; called by a handler. An empty list goes on at once. */
  receive(length: number, parse: (list: Uint8Array) => Now<void>): void {
    this.dataOut(new Collector(length, parse))
  }

  /** Ends the task with a status without sense data. */
  end(status: number): void {
    this.status = status
    this.#enter(this.#aborted ? 'aborted' : 'status')
  }

  /** Ends the task with CHECK CONDITION for anything thrown. */
  fail(error: unknown): void {
    const sense = this.#aborted ? undefined : this.#owner.senseOf(error)
    if (sense !== undefined) this.check(sense)
    else {
      this.#aborted ||= 'silently'
      this.#enter('aborted')
    }
  }

  /** Ends the task with CHECK CONDITION and this sense data, as soon as the owner lets it. */
  check(sense: Sense): void {
    this.phase = 'busy'
    const bytes = this.#owner.checked(this, sense)
    if (bytes === undefined) return
    this.status = STATUS_CHECK_CONDITION
    this.sense = bytes
    this.#enter('status')
  }

  /**
   * The task as it stands, with no request of it at the host. Bytes that were moved into or out of lent memory by a
   * {@link moveAll} that has not ended count as not moved: the adapter does it again.
   */
  save(): Saved {
    const source = this.#source
    const sink = this.#sink
    const staged = sink === undefined ? 0 : this.#staged()
    return {
      command: saveCommand(this.command),
      begun: this.#begun,
      ended: this.phase === 'status',
      status: this.status,
      sense: this.sense.slice(),
      transferred: this.transferred - staged,
      reply: source instanceof Reply ? source.bytes.slice() : null,
      collected: sink instanceof Collector ? sink.bytes.slice() : null,
      staged: staged > 0 ? this.#stage!.part(0, staged).slice() : null,
    }
  }

  /**
   * Goes on from a saved state; `handler` runs the command again, unless its answer was saved. A state that does not fit is a
   * RangeError. For {@link LogicalUnit.resume}.
   */
  resume(state: Saved, handler: (task: Task) => Now<void>): void {
    const saved = fieldsOf(state)
    const transferred = numberOf(saved.transferred)
    const reply = saved.reply === null ? undefined : bytesOf(saved.reply, ANSWER_LIMIT)
    const collected = saved.collected === null ? undefined : bytesOf(saved.collected, ANSWER_LIMIT)
    const staged = saved.staged === null ? undefined : bytesOf(saved.staged, STAGED_LIMIT)
    const sense = bytesOf(saved.sense, 252)
    this.status = numberOf(saved.status, 0xff)
    if (flagOf(saved.ended)) {
      this.sense = sense
      this.transferred = transferred
      this.#enter('status')
      return
    }
    this.#begun = true
    this.#attempt(
      () => (reply === undefined ? handler(this) : this.dataIn(new Reply(reply))),
      () => {
        this.#begin()
        this.#skip(transferred, collected, staged)
      },
    )
  }

  /** Takes the data phase to where it was. */
  #skip(transferred: number, collected: Uint8Array | undefined, staged: Uint8Array | undefined): void {
    if (this.phase !== 'in' && this.phase !== 'out') return
    this.transferred = Math.min(transferred, this.length)
    if (this.#sink instanceof Collector && collected !== undefined)
      this.#sink.bytes.set(collected.subarray(0, this.length))
    if (this.transferred === this.length) this.#finishData()
    // They count as moved from now on, which they would not while they go straight to the medium
    else if (this.phase === 'out' && staged !== undefined) void this.#move(bytesVec(staged), false)
  }

  #begin(): void {
    const side = this.#source ?? this.#sink
    this.length = side?.length ?? 0
    if (this.#aborted) this.#enter('aborted')
    else if (this.length > 0) this.#enter(this.#source !== undefined ? 'in' : 'out')
    else this.#finishData()
  }

  #finishData(): void {
    this.phase = 'busy'
    const sink = this.#sink
    if (this.#failure !== undefined) this.fail(this.#failure)
    else if (sink === undefined) this.end(this.status)
    else {
      void this.#attempt(
        () => sink.end(),
        () => this.end(this.status),
      )
    }
  }

  /** Reads straight into `into`. */
  #moveIn(into: IoVec): Now<void> {
    const ahead = Math.min(this.#ahead(), into.byteLength)
    if (ahead > 0) this.#give(into.slice(0, ahead))
    const left = into.byteLength - ahead
    if (left === 0 || this.phase !== 'in') return
    const rest = ahead === 0 ? into : into.slice(ahead)
    const read = this.#attempt(
      () => this.#source!.read(this.transferred, rest),
      () => this.#advance(left),
      rest,
      (error) => {
        // The request may have changed more than has moved
        rest.filled()
        this.#failed(error)
      },
    )
    this.#owner.reads.took(isLater(read))
    return read
  }

  /** Writes straight from `from`: the target has taken it, however that ends. */
  #moveOut(from: IoVec): Now<void> {
    const sink = this.#sink!
    const end = this.transferred + from.byteLength
    const written = this.#attempt(
      () => sink.write(this.transferred, from),
      () => {
        this.transferred = end
        if (end === this.length) this.#finishData()
      },
      from,
      (error) => {
        this.transferred = end
        this.fail(error)
      },
    )
    this.#owner.writes.took(isLater(written))
    return written
  }

  #writeAll(buffer: IoVec): Now<void> {
    const left = this.length - this.transferred
    if (buffer.byteLength < left) return this.cut()
    const part = buffer.byteLength === left ? buffer : buffer.slice(0, left)
    const sink = this.#sink!
    if (this.#staged() > 0 || sink.held) return this.move(part)
    this.phase = 'busy'
    const written = this.#attempt(
      () => sink.write(this.transferred, part),
      () => {
        this.transferred = this.length
        this.#finishData()
      },
      part,
    )
    return after(written, () => this.#work)
  }

  #readAhead(): Now<void> {
    const left = this.length - this.transferred
    const stage = (this.#stage ??= this.#owner.stages.take(left))
    const length = Math.min(stage.size, left)
    stage.filled = 0
    stage.taken = 0
    stage.reading = true
    const into = bytesVec(stage.part(0, length))
    const read = this.#attempt(
      () => this.#source!.read(this.transferred, into),
      () => {
        stage.reading = false
        stage.filled = length
      },
      into,
      (error) => {
        stage.reading = false
        const moved = error instanceof CheckCondition ? error.moved : 0
        if (moved === 0 || this.#aborted) this.fail(error)
        else {
          stage.filled = moved
          this.length = this.transferred + moved
          this.#failure = error
        }
      },
    )
    this.#owner.reads.took(isLater(read))
    return read
  }

  #give(part: IoVec): void {
    const length = part.byteLength
    if (this.#source!.held) this.#source!.read(this.transferred, part)
    else {
      const stage = this.#stage!
      part.scatter(stage.part(stage.taken, stage.taken + length))
      part.filled()
      stage.taken += length
    }
    this.#advance(length)
  }

  #advance(length: number): void {
    this.transferred += length
    if (this.transferred === this.length && this.phase === 'in') this.#finishData()
  }

  #take(part: IoVec): void {
    const sink = this.#sink!
    if (sink.held) {
      const at = this.transferred
      this.transferred += part.byteLength
      const last = this.transferred === this.length
      this.#attempt(
        () => sink.write(at, part),
        () => {
          if (last) this.#finishData()
        },
      )
      return
    }
    const stage = this.#room(part.byteLength)
    part.gather(stage.part(stage.filled - part.byteLength, stage.filled))
    this.#unload(stage)
  }

  /** The staging buffer, where its last `length` bytes are for the adapter to fill. */
  #room(length: number): Stage {
    const stage = (this.#stage ??= this.#owner.stages.take(this.length - this.transferred, this.#sink!.block))
    stage.filled += length
    this.transferred += length
    return stage
  }

  /** Writes what is staged, if that is all of it or all that the buffer takes. */
  #unload(stage: Stage): void {
    const last = this.transferred === this.length
    if (!last && stage.filled < stage.size) return
    const from = bytesVec(stage.part(0, stage.filled))
    const start = this.transferred - stage.filled
    if (last) this.phase = 'busy'
    const written = this.#attempt(
      () => this.#sink!.write(start, from),
      () => {
        stage.filled = 0
        if (last) this.#finishData()
      },
      from,
    )
    this.#owner.writes.took(isLater(written))
  }

  /** Runs `start`; then exactly one of `done` and `failed`. What it returns never rejects. */
  #attempt(
    start: () => Now<void>,
    done: () => void,
    lent?: IoVec,
    failed: (error: unknown) => void = (error) => this.#failed(error),
  ): Now<void> {
    let value: Now<void>
    this.#lent = lent
    try {
      value = start()
    } catch (error) {
      failed(error)
      return
    }
    if (isLater(value)) return this.#await(value, done, failed)
    done()
  }

  /** Waits for a request with the host; then exactly one of `done` and `failed` runs. What it returns never rejects. */
  #await(
    request: Promise<void>,
    done: () => void,
    failed: (error: unknown) => void = (error) => this.#failed(error),
  ): Promise<void> {
    const end = () => {
      this.#work = undefined
      this.#lent = undefined
    }
    return (this.#work = request.then(
      () => {
        end()
        if (this.#aborted) this.#enter('aborted')
        else done()
        return this.#work
      },
      (error) => {
        end()
        failed(error)
      },
    ))
  }

  #failed(error: unknown): void {
    if (error instanceof CheckCondition && this.phase === 'in') this.transferred += error.moved
    this.fail(error)
  }

  #enter(to: Phase): void {
    if (this.phase === 'status' || this.phase === 'aborted') return
    const announced = to === 'aborted' && this.#aborted === 'announced'
    if (announced) this.status = STATUS_TASK_ABORTED
    const phase = announced ? 'status' : to
    this.phase = phase
    if (phase === 'status' || phase === 'aborted') {
      if (this.#stage !== undefined) this.#owner.stages.give(this.#stage)
      this.#stage = undefined
      this.#owner.ended(this)
    }
    this.#waiter?.wake(phase)
    this.#waiter = undefined
  }
}

function waiter(): { readonly promise: Promise<Phase>; readonly wake: (phase: Phase) => void } {
  let wake: (phase: Phase) => void = () => {}
  const promise = new Promise<Phase>((resolve) => {
    wake = resolve
  })
  return { promise, wake }
}
