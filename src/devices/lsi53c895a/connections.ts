/** The commands of a bus: those that have not ended, which of them are disconnected, and which of these wait to reselect. */
import type { Saved } from '../machine.ts'
import type { ScsiTarget } from '../scsi/index.ts'
import { fieldsOf, listOf, numberOf } from '../scsi/saved.ts'
import { takeOut } from '../scsi/taskset.ts'
import { type Nexus, nexusOf, saveNexus } from './nexus.ts'

/** Commands of a saved state: more than the task sets of all targets take. */
const LIMIT = 16 * 512

/** Commands as a state has them, their tasks not yet begun again. */
export interface SavedConnections {
  readonly nexuses: readonly { readonly nexus: Nexus; readonly task: Saved }[]
  readonly current: Nexus | undefined
  /** The disconnected ones; those that waited to reselect come first. */
  readonly away: readonly Nexus[]
}

export class Connections {
  /** In the order in which they came. */
  readonly #commands: Nexus[] = []
  readonly #away: Nexus[] = []
  readonly #ready: Nexus[] = []

  /** Whether a target waits for the bus to reselect. */
  get isReselecting(): boolean {
    return this.#ready.length > 0
  }

  /** Whether a command is disconnected, and what it waits for may not be there. */
  isWaiting(nexus: Nexus): boolean {
    return this.#away.includes(nexus) && !this.#ready.includes(nexus)
  }

  /** A target has taken the command. */
  began(nexus: Nexus): void {
    this.#commands.push(nexus)
  }

  /** The connection is over, and with it the command unless it is disconnected. */
  ended(nexus: Nexus): void {
    if (!this.#away.includes(nexus)) takeOut(this.#commands, nexus)
  }

  /** The target disconnects. */
  left(nexus: Nexus): void {
    this.#away.push(nexus)
  }

  /** The target wants to reselect. */
  arrived(nexus: Nexus): void {
    this.#ready.push(nexus)
  }

  /** The first that wants to reselect, which it does. */
  next(): Nexus | undefined {
    const nexus = this.#ready.shift()
    if (nexus !== undefined) takeOut(this.#away, nexus)
    return nexus
  }

  /** A disconnected command was aborted. */
  drop(nexus: Nexus): void {
    takeOut(this.#away, nexus)
    takeOut(this.#commands, nexus)
  }

  /** Disconnected commands were aborted, as many as `gone` says. */
  forget(gone: (nexus: Nexus) => boolean): void {
    for (const nexus of this.#away.filter(gone)) this.drop(nexus)
    const left = this.#ready.filter((nexus) => !gone(nexus))
    this.#ready.splice(0, this.#ready.length, ...left)
  }

  clear(): void {
    this.#commands.length = 0
    this.#away.length = 0
    this.#ready.length = 0
  }

  /** All of them with their tasks, and the one that is connected. */
  save(current: Nexus | undefined): Saved {
    const nexuses = [...this.#commands]
    if (current !== undefined && !this.#commands.includes(current)) nexuses.push(current)
    const away = new Set([...this.#ready, ...this.#away])
    return {
      nexuses: nexuses.map(saveNexus),
      current: current === undefined ? -1 : nexuses.indexOf(current),
      away: [...away].map((nexus) => nexuses.indexOf(nexus)),
    }
  }
}

/** What {@link Connections.save} wrote; throws RangeError for anything else. */
export function connectionsOf(state: Saved | undefined, targets: ReadonlyMap<number, ScsiTarget>): SavedConnections {
  const saved = fieldsOf(state)
  const nexuses = listOf(saved.nexuses, LIMIT).map((one) => nexusOf(one, targets))
  const current = numberOf(saved.current, nexuses.length - 1, -1)
  const away = listOf(saved.away, nexuses.length).map((index) => nexuses[numberOf(index, nexuses.length - 1)]!.nexus)
  return { nexuses, current: nexuses[current]?.nexus, away }
}
