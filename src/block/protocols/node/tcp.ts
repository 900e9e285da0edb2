/** Byte streams over Node's sockets: TCP, Unix sockets and TLS. */
import net from 'node:net'
import tls from 'node:tls'
import { isMainThread } from 'node:worker_threads'
import type { Place } from '../../device.ts'
import { BlockError } from '../../error.ts'
import type { Now } from '../../now.ts'
import { Room } from '../room.ts'
import type { ByteStream, Receiver } from '../stream.ts'
import { Connection } from './connection.ts'
import { FileDriver } from './file.ts'
import { libc } from './libc.ts'

// socket(7)
const SOL_SOCKET = 1
const SO_SNDBUF = 7
// tcp(7), unix(7): what the kernel holds that the other end has not taken
const SIOCOUTQ = 0x5411
/** What the kernel is asked to hold of what was sent, bytes: more than a reply, so that the next is made while it is taken. */
const SEND_BUFFER = Uint32Array.of(512 << 10)
/** Longest range of a file that is forwarded, bytes: what the socket does not take is copied in the same turn of the event loop. */
const FORWARD_MAX = 1 << 20
/** How long the other end of a stream that sends no more may take nothing of what waits for it, ms; as long as an NBD handshake. */
const PATIENCE_MS = 10_000

/** Lets more be sent before who receives it takes it, where that can be had; a Unix socket holds 208 KiB by itself. */
function widen(socket: net.Socket): void {
  const fd = handleOf(socket)?.fd ?? -1
  if (fd >= 0) libc()?.setsockopt(fd, SOL_SOCKET, SO_SNDBUF, SEND_BUFFER)
}

/** What Node has behind a socket; it does not promise any of it. */
interface Handle {
  readonly fd?: number
  readStop?(): number
  reading?: boolean
  /** Bytes that libuv was given, and those of them that the kernel has not taken. */
  readonly bytesWritten?: number
  readonly writeQueueSize?: number
}

function handleOf(socket: net.Socket): Handle | undefined {
  return (Reflect.get(socket, '_handle') as Handle | null | undefined) ?? undefined
}

/** Bytes that the kernel holds for the other end, where it tells. */
function heldOf(socket: net.Socket): number {
  const fd = handleOf(socket)?.fd ?? -1
  const held = new Uint32Array(1)
  if (fd < 0 || (libc()?.ioctl(fd, SIOCOUTQ, new Uint8Array(held.buffer)) ?? -1) < 0) return 0
  return held[0]!
}

/** A Node socket as a {@link ByteStream}. */
export class SocketStream implements ByteStream {
  readonly peer: string
  readonly socket: net.Socket
  onEnd: (error?: Error) => void = () => {}
  #failure: Error | undefined
  readonly #room = new Room()
  /** Moves the bytes in Node's place. */
  #connection: Connection | undefined
  #watched: NodeJS.Timeout | undefined

  constructor(socket: net.Socket, peer: string) {
    this.peer = peer
    this.socket = socket
    socket.setNoDelay(true)
    // Who sends no more may still take what it asked for.
    socket.allowHalfOpen = true
    widen(socket)
    socket.on('error', (error) => {
      this.#failure = error
    })
    socket.on('end', () => {
      this.#watch()
      this.onEnd()
    })
    socket.on('close', () => {
      this.#room.make()
      this.onEnd(this.#failure)
    })
    socket.on('drain', () => this.#room.make())
  }

  /** Nothing is read, and so nothing lost, before this is set. */
  set onData(receive: (piece: Uint8Array) => void) {
    this.socket.removeAllListeners('data')
    this.socket.on('data', receive)
  }

  write(pieces: readonly Uint8Array[], sent?: () => void): Now<void> {
    if (this.#connection !== undefined) return this.#connection.write(pieces, sent)
    const { socket } = this
    if (socket.destroyed || !socket.writable) return sent?.()
    let room = true
    socket.cork()
    const last = pieces.length - 1
    for (const [index, piece] of pieces.entries()) {
      if (index === last && sent !== undefined) room = socket.write(piece, sent)
      else if (piece.length > 0) room = socket.write(piece)
    }
    process.nextTick(() => socket.uncork())
    if (!room) return this.#room.wait()
  }

  hasten(receiver: Receiver): void {
    const { socket } = this
    const calls = libc()
    const handle = handleOf(socket)
    const fd = socket instanceof tls.TLSSocket ? -1 : (handle?.fd ?? -1)
    // In a thread that is terminated koffi's watch would end the process.
    if (calls === undefined || !isMainThread || fd < 0 || handle?.readStop === undefined) return
    while (socket.writableCorked > 0) socket.uncork()
    if (socket.destroyed || socket.writableLength > 0) return
    // The event loop watches a descriptor once: the socket keeps its own.
    const own = calls.duplicate(fd)
    if (own < 0) return
    handle.readStop()
    handle.reading = false
    socket.removeAllListeners('data')
    for (let piece = socket.read(); piece !== null; piece = socket.read()) receiver.push(piece)
    const connection = new Connection(calls, own, receiver, () => this.#watch())
    this.#connection = connection
    socket.once('close', () => {
      connection.end()
      calls.close(own)
    })
  }

  forward(head: Uint8Array, { device, at, length }: Place, sent: () => void): boolean {
    if (this.#connection === undefined || length > FORWARD_MAX || !(device.driver instanceof FileDriver)) return false
    const file = device.driver.cached(at, length)
    if (file === undefined) return false
    this.#connection.forward(head, file, at, length, sent)
    return true
  }

  pause(paused: boolean): void {
    if (this.#connection !== undefined) this.#connection.pause(paused)
    else if (paused) this.socket.pause()
    else this.socket.resume()
  }

  close(): void {
    if (this.socket.destroyed) return
    if (this.#connection !== undefined) this.#connection.drain(() => this.socket.destroy())
    else this.socket.end(() => this.socket.destroy())
    // Who sends no more may be slow to take what it asked for, and is watched.
    if (this.#watched === undefined) setTimeout(() => this.socket.destroy(), 1000).unref()
  }

  /** Bytes that the kernel took, and whether there are others. */
  get #progress(): { readonly taken: number; readonly waits: boolean } {
    if (this.#connection !== undefined) return this.#connection.progress
    const { bytesWritten = 0, writeQueueSize = 0 } = handleOf(this.socket) ?? {}
    return { taken: bytesWritten - writeQueueSize, waits: this.socket.writableLength > 0 }
  }

  /** Breaks the stream once nothing more is taken of what waits: who sends no more could hold it so for ever. */
  #watch(): void {
    const { socket } = this
    let before = Number.NaN
    const timer = setInterval(() => {
      const { taken, waits } = this.#progress
      // The kernel asks for more only once there is much room: what makes less of it is progress too.
      const now = taken - heldOf(socket)
      if (waits && now === before) socket.destroy()
      before = now
    }, PATIENCE_MS)
    timer.unref()
    this.#watched = timer
    socket.once('close', () => clearInterval(timer))
  }

  /** Lets go of the socket, so that TLS may take it over. */
  release(): net.Socket {
    clearInterval(this.#watched)
    this.#watched = undefined
    for (const event of ['data', 'error', 'end', 'close', 'drain']) this.socket.removeAllListeners(event)
    return this.socket
  }
}

/** Connects to a TCP port or a Unix socket. */
export function dial(to: { path: string } | { host: string; port: number }): Promise<SocketStream> {
  const peer = 'path' in to ? to.path : `${to.host}:${to.port}`
  return new Promise((resolve, reject) => {
    const socket = net.connect('path' in to ? { path: to.path } : { host: to.host || 'localhost', port: to.port })
    const refused = (cause: Error) => {
      reject(new BlockError('ECONNRESET', `Failed to connect to '${peer}': ${cause.message}`, { cause }))
    }
    socket.once('error', refused)
    socket.once('connect', () => {
      socket.off('error', refused)
      resolve(new SocketStream(socket, peer))
    })
  })
}

/** Makes a TLS client of a connected stream. */
export function tlsClient(options: tls.ConnectionOptions): (stream: ByteStream) => Promise<ByteStream> {
  return (stream) => {
    if (!(stream instanceof SocketStream)) throw new BlockError('ENOTSUP', `${stream.peer} cannot be secured with TLS`)
    const socket = tls.connect({ ...options, socket: stream.release() })
    return secured(socket, 'secureConnect', stream.peer)
  }
}

/** Makes a TLS server's end of a connected stream; a client whose certificate is asked for and is not good is refused. */
export function tlsServer(options: tls.TlsOptions): (stream: ByteStream) => Promise<ByteStream> {
  return (stream) => {
    if (!(stream instanceof SocketStream)) throw new BlockError('ENOTSUP', `${stream.peer} cannot be secured with TLS`)
    // Only a tls.Server looks at what a client's certificate is worth; a TLSSocket by itself takes any.
    const server = tls.createServer(options)
    return new Promise((resolve, reject) => {
      server.once('secureConnection', (socket) => resolve(new SocketStream(socket, stream.peer)))
      server.once('tlsClientError', (cause) => {
        reject(new BlockError('EACCES', `TLS with ${stream.peer} failed: ${cause.message}`, { cause }))
      })
      server.emit('connection', stream.release())
    })
  }
}

function secured(socket: tls.TLSSocket, event: string, peer: string): Promise<ByteStream> {
  return new Promise((resolve, reject) => {
    const refused = (cause?: Error) => {
      socket.destroy()
      reject(
        new BlockError('EACCES', `TLS with ${peer} failed: ${cause?.message ?? 'the connection was closed'}`, {
          cause,
        }),
      )
    }
    socket.once('error', refused)
    socket.once('close', refused)
    socket.once(event, () => {
      socket.off('error', refused)
      socket.off('close', refused)
      resolve(new SocketStream(socket, peer))
    })
  })
}
