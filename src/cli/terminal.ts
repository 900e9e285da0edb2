/** The guest's serial port on this terminal. */

const CTRL_A = 0x01
const HELP = `\r\nCtrl-A H    this help\r
Ctrl-A X    turn the machine off and leave\r
Ctrl-A R    run on after a disk error stopped the guest\r
Ctrl-A Ctrl-A  send Ctrl-A to the guest\r
`

export interface TerminalEvents {
  /** Bytes for the guest. */
  send(bytes: Uint8Array): void
  quit(): void
  resume(): void
}

/** Puts the terminal into raw mode and passes bytes both ways, but for what follows Ctrl-A. */
export class Terminal {
  readonly #events: TerminalEvents
  readonly #input: (bytes: Buffer) => void
  #escaped = false
  #pending: number[] = []
  #flushes = false

  constructor(events: TerminalEvents) {
    this.#events = events
    this.#input = (bytes) => this.take(bytes)
    const { stdin } = process
    if (stdin.isTTY) stdin.setRawMode(true)
    stdin.on('data', this.#input)
    stdin.resume()
  }

  /** A byte from the guest; written with those that come in the same moment. */
  put(byte: number): void {
    this.#pending.push(byte)
    if (this.#flushes) return
    this.#flushes = true
    setImmediate(() => this.flush())
  }

  flush(): void {
    this.#flushes = false
    if (this.#pending.length === 0) return
    process.stdout.write(Uint8Array.from(this.#pending))
    this.#pending = []
  }

  /** Bytes that were typed. */
  take(bytes: Uint8Array): void {
    const rest: number[] = []
    for (const byte of bytes) {
      if (this.#escaped) {
        this.#escaped = false
        this.#command(byte, rest)
      } else if (byte === CTRL_A) this.#escaped = true
      else rest.push(byte)
    }
    if (rest.length > 0) this.#events.send(Uint8Array.from(rest))
  }

  #command(byte: number, rest: number[]): void {
    if (byte === CTRL_A) rest.push(CTRL_A)
    else {
      const letter = String.fromCharCode(byte).toLowerCase()
      if (letter === 'x') this.#events.quit()
      else if (letter === 'r') this.#events.resume()
      else process.stderr.write(HELP)
    }
  }

  /** Gives the terminal back as it was. */
  close(): void {
    this.flush()
    const { stdin } = process
    stdin.off('data', this.#input)
    if (stdin.isTTY) stdin.setRawMode(false)
    stdin.pause()
  }
}
