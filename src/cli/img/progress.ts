/** How far a verb has got: percentages for scripts, a bar with rate and time left for somebody at a terminal. */
import { humanSize } from '../units.ts'
import type { Console } from './console.ts'

/** A bar is drawn anew after so many milliseconds. */
const REDRAW = 100

/** Progress of one run of a verb. SIGUSR1 tells it at any time. */
export class Progress {
  readonly #console: Console
  readonly #shown: boolean
  readonly #skip: number
  readonly #start = performance.now()
  readonly #signalled = () => {
    this.#asked = true
  }
  #percent = 0
  #printed = 0
  #drawn = 0
  #asked = false

  /** `skip`: percentages are told in steps of so much. */
  constructor(console: Console, shown: boolean, skip: number) {
    this.#console = console
    this.#shown = shown
    this.#skip = skip
    process.on('SIGUSR1', this.#signalled)
  }

  /** So much is done, in percent; `bytes` of so many, for the rate. */
  set(percent: number, bytes?: number): void {
    this.#percent = Math.min(percent, 100)
    if (this.#asked) {
      this.#asked = false
      this.#console.err.write(`    (${this.#percent.toFixed(2)}/100%)\n`)
    }
    if (!this.#shown) return
    if (this.#console.terminal !== undefined) {
      this.#draw(bytes)
      return
    }
    const step = Math.abs(this.#percent - this.#printed)
    if (step <= this.#skip && this.#percent !== 100 && this.#percent !== 0) return
    this.#printed = this.#percent
    this.#console.out.write(`    (${this.#percent.toFixed(2)}/100%)\r`)
  }

  /** Nothing more will be told. */
  end(): void {
    process.off('SIGUSR1', this.#signalled)
    if (this.#shown) this.#console.out.write('\n')
  }

  #draw(bytes: number | undefined): void {
    const now = performance.now()
    if (now - this.#drawn < REDRAW && this.#percent !== 100) return
    this.#drawn = now
    const seconds = (now - this.#start) / 1000
    const rate = bytes === undefined || seconds === 0 ? '' : `${humanSize(bytes / seconds)}/s`
    const left =
      this.#percent > 0 && this.#percent < 100
        ? `${time((seconds * (100 - this.#percent)) / this.#percent)} left`
        : time(seconds)
    const tail = ` ${this.#percent.toFixed(1).padStart(5)}%  ${rate.padEnd(12)} ${left}`
    const width = Math.max(10, Math.min(50, this.#console.terminal!.columns - tail.length - 6))
    const full = Math.round((this.#percent / 100) * width)
    this.#console.out.write(`\r  ${'█'.repeat(full)}${'░'.repeat(width - full)}${tail}\x1b[K`)
  }
}

function time(seconds: number): string {
  const whole = Math.round(seconds)
  const minutes = Math.floor(whole / 60) % 60
  const two = (value: number) => String(value).padStart(2, '0')
  const hours = Math.floor(whole / 3600)
  return hours > 0 ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`
}
