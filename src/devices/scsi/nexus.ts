/** What a unit keeps for one initiator port: what it has not been told yet (SAM-5 5.14; SAM-2 5.9.1). */
import type { Saved } from '../machine.ts'
import { conditionsOf, fieldsOf, numberOf, saveSense, senseOf } from './saved.ts'
import type { Condition, Sense } from './sense.ts'
import type { Task } from './task.ts'

const ATTENTION_LIMIT = 16

/** A unit's side of one I_T nexus. */
export class Nexus {
  readonly initiator: number
  /** Unit attentions, oldest first. */
  attentions: Condition[]
  /** Sense data that waits for REQUEST SENSE: the nexus is in contingent allegiance. */
  sense: Sense | undefined
  /** An error of work that no task waited for, until a command can report it. */
  deferred: Sense | undefined
  /** Tasks that ended with CHECK CONDITION while other sense data waited. */
  waiting: { readonly task: Task; readonly sense: Sense }[] = []

  constructor(initiator: number, attention: Condition | undefined) {
    this.initiator = initiator
    this.attentions = attention === undefined ? [] : [attention]
  }

  /** Adds a unit attention, unless the same one waits already. */
  establish(condition: Condition): void {
    const { attentions } = this
    if (!attentions.some((other) => isSame(other, condition)) && attentions.length < ATTENTION_LIMIT) {
      attentions.push(condition)
    }
  }

  /** Takes a unit attention back. */
  withdraw(condition: Condition): void {
    this.attentions = this.attentions.filter((other) => !isSame(other, condition))
  }

  /** Ends the allegiance, and forgets who waited for its end. */
  forget(): void {
    this.sense = undefined
    this.waiting = []
  }

  save(): Saved {
    const { initiator, attentions, sense, deferred } = this
    return { initiator, attentions, sense: saveSense(sense), deferred: saveSense(deferred) }
  }

  /** What {@link save} wrote; throws RangeError for anything else. */
  static of(state: Saved): Nexus {
    const saved = fieldsOf(state)
    const nexus = new Nexus(numberOf(saved.initiator), undefined)
    nexus.attentions = conditionsOf(saved.attentions, ATTENTION_LIMIT)
    nexus.sense = senseOf(saved.sense)
    nexus.deferred = senseOf(saved.deferred)
    return nexus
  }
}

function isSame(one: Condition, other: Condition): boolean {
  return one.every((part, i) => part === other[i])
}
