/** A connected socket by system calls of our own: no copies, no buffers and no turns of the loop that Node's streams would add. */
import type { Now } from '../../now.ts'
import { Room } from '../room.ts'
import type { Receiver } from '../stream.ts'
import { EAGAIN, EINTR, EIO, hostError } from './failure.ts'
import type { Libc, Watch } from './libc.ts'
import { Addresses, IOV_MAX } from './vector.ts'

/** What is received without a place of its own at a time, bytes; behind bytes that have one, less: it is copied. */
const STAGE = 64 << 10
const STAGE_BEHIND = 4 << 10
/** A place is worth a call from so many bytes on. */
const PLACE_MIN = 8 << 10
/** Most that is received in one turn of the event loop, bytes: others want their turn. */
const TURN = 1 << 20
/** Replies together smaller than this wait for the end of the turn, for others to go with them; bytes. */
const GATHER = 16 << 10

interface Outgoing {
  readonly views: Uint8Array[]
  /** Called when the last of them is the kernel's. */
  readonly sent: (() => void) | undefined
}

/** Moves the bytes of one connected, non-blocking socket; the descriptor stays the caller's. */
export class Connection {
  readonly #libc: Libc
  readonly #fd: number
  readonly #receiver: Receiver
  readonly #onEnd: () => void
  readonly #addresses: Addresses
  readonly #iov = new Uint32Array(4 * IOV_MAX)
  readonly #watch: Watch
  readonly #queue: Outgoing[] = []
  #stage = new Uint8Array(STAGE)
  #queued = 0
  #taken = 0
  #blocked = false
  #scheduled = false
  #paused = false
  /** The other side sends no more, but may still take what is queued. */
  #ended = false
  #over = false
  #closing: (() => void) | undefined
  readonly #room = new Room()

  /** `onEnd` is called when the other side sends no more. */
  constructor(libc: Libc, fd: number, receiver: Receiver, onEnd: () => void) {
    this.#libc = libc
    this.#fd = fd
    this.#receiver = receiver
    this.#onEnd = onEnd
    this.#addresses = new Addresses(libc)
    this.#watch = libc.watch(fd, ({ readable, writable }) => {
      if (writable) this.#unblock()
      if (readable) this.#receive()
    })
    this.#watch.hold(true)
  }

  /** Bytes that the kernel took, and whether others wait for it to take them. */
  get progress(): { readonly taken: number; readonly waits: boolean } {
    return { taken: this.#taken, waits: this.#blocked }
  }

  /** Sends the pieces in order; as of `ByteStream`. */
  write(pieces: readonly Uint8Array[], sent?: () => void): Now<void> {
    if (this.#over) return sent?.()
    this.#queue.push({ views: pieces.filter((piece) => piece.length > 0), sent })
    for (const piece of pieces) this.#queued += piece.length
    if (this.#blocked) return this.#room.wait()
    if (this.#queued < GATHER) {
      if (!this.#scheduled) {
        this.#scheduled = true
        process.nextTick(() => {
          this.#scheduled = false
          if (!this.#blocked) this.#send()
        })
      }
      return
    }
    this.#send()
    if (this.#blocked) return this.#room.wait()
  }

  /** Sends `head` and then a range of an open file that the page cache has. */
  forward(head: Uint8Array, file: number, at: number, length: number, sent: () => void): void {
    if (!this.#blocked) this.#send()
    if (this.#over) {
      sent()
      return
    }
    this.#queue.push({ views: [head], sent: undefined })
    this.#queued += head.length
    if (!this.#blocked) this.#send()
    let done = 0
    while (!this.#blocked && !this.#over && done < length) {
      const result = this.#libc.sendfile(this.#fd, file, at + done, length - done)
      if (result > 0) {
        done += result
        this.#taken += result
      } else if (result === -EAGAIN) this.#block()
      else if (result === 0 || result !== -EINTR) break
    }
    if (done < length && !this.#over) this.#copy(file, at + done, length - done, sent)
    else sent()
  }

  /** Queues bytes of a file: the socket is full, and the file may be another when it is not. */
  #copy(file: number, at: number, length: number, sent: () => void): void {
    const bytes = new Uint8Array(length)
    for (let done = 0; done < length; ) {
      this.#addresses.fill(this.#iov, [bytes.subarray(done)], 0)
      const result = this.#libc.preadv2(file, this.#iov, 1, at + done, 0)
      if (result === -EINTR) continue
      // The head is sent: who waits for the bytes can only be told so.
      if (result <= 0) {
        this.#broken(-EIO)
        sent()
        return
      }
      done += result
    }
    void this.write([bytes], sent)
  }

  #block(): void {
    this.#blocked = true
    this.#interest()
  }

  /** Holds back what comes, or lets it come again. */
  pause(paused: boolean): void {
    this.#paused = paused
    this.#interest()
  }

  /** Calls `done` when all that was written is the kernel's. */
  drain(done: () => void): void {
    if (!this.#over && !this.#blocked) this.#send()
    if (this.#queue.length === 0 || this.#over) done()
    else this.#closing = done
  }

  /** Lets go of the socket. */
  end(): void {
    if (this.#over) return
    this.#over = true
    this.#watch.close()
    for (const { sent } of this.#queue.splice(0)) sent?.()
    this.#room.make()
    this.#closing?.()
  }

  #interest(): void {
    if (!this.#over) this.#watch.want(!this.#paused && !this.#ended, this.#blocked)
  }

  #unblock(): void {
    this.#blocked = false
    this.#send()
    if (!this.#blocked) this.#interest()
  }

  #send(): void {
    while (this.#queue.length > 0) {
      const views: Uint8Array[] = []
      for (const { views: next } of this.#queue) {
        views.push(...next.slice(0, IOV_MAX - views.length))
        if (views.length === IOV_MAX) break
      }
      const wanted = this.#addresses.fill(this.#iov, views, 0)
      const result = wanted === 0 ? 0 : this.#libc.writev(this.#fd, this.#iov, views.length)
      if (result === -EINTR) continue
      if (result < 0 && result !== -EAGAIN) {
        this.#broken(result)
        return
      }
      this.#did(Math.max(result, 0))
      if (result < wanted) {
        this.#block()
        return
      }
    }
    this.#room.make()
    this.#closing?.()
  }

  /** Takes what was sent off the queue. */
  #did(length: number): void {
    this.#queued -= length
    this.#taken += length
    let left = length
    for (;;) {
      const first = this.#queue[0]
      if (first === undefined) return
      while (first.views.length > 0 && first.views[0]!.length <= left) left -= first.views.shift()!.length
      if (first.views.length > 0) {
        if (left > 0) first.views[0] = first.views[0]!.subarray(left)
        return
      }
      this.#queue.shift()
      first.sent?.()
    }
  }

  #receive(): void {
    for (let received = 0; received < TURN && !this.#paused && !this.#ended && !this.#over; ) {
      const places = this.#receiver.places()
      let placed = 0
      for (const place of places) placed += place.length
      const direct = placed >= PLACE_MIN && places.length < IOV_MAX
      const stage = direct ? this.#stage.subarray(0, STAGE_BEHIND) : this.#stage
      const views = direct ? [...places, stage] : [stage]
      const wanted = this.#addresses.fill(this.#iov, views, 0)
      const result = this.#libc.readv(this.#fd, this.#iov, views.length)
      if (result === -EINTR) continue
      if (result === -EAGAIN) return
      if (result < 0) {
        this.#broken(result)
        return
      }
      if (result === 0) {
        this.#ended = true
        this.#interest()
        this.#onEnd()
        this.#receiver.end()
        return
      }
      received += result
      this.#deliver(result, direct ? placed : 0)
      if (result < wanted) return
    }
  }

  #deliver(length: number, placed: number): void {
    if (placed > 0) this.#receiver.placed(Math.min(length, placed))
    const staged = length - placed
    if (staged <= 0) return
    const small = staged <= STAGE_BEHIND
    const piece = small ? this.#stage.slice(0, staged) : this.#stage.subarray(0, staged)
    if (!small) this.#stage = new Uint8Array(STAGE)
    this.#receiver.push(piece)
  }

  #broken(result: number): void {
    this.end()
    this.#receiver.end(hostError(-result, 'The connection broke'))
  }
}
