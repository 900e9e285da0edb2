/** What a target is doing on behalf of one command, from its selection to its end, and how that is saved. */
import type { Saved } from '../machine.ts'
import type { Attribute, ScsiTarget, Task, TaskManagement } from '../scsi/index.ts'
import { bytesOf, fieldsOf, flagOf, numberOf } from '../scsi/saved.ts'

export interface Nexus {
  readonly id: number
  readonly target: ScsiTarget
  lun: number
  identified: boolean
  mayDisconnect: boolean
  attribute: Attribute
  tag: number
  /** What has come of the CDB. */
  command: Uint8Array
  task: Task | undefined
  statusSent: boolean
  /** Bytes that are still to be sent in MESSAGE IN. */
  messages: readonly number[]
  /** Those that were sent last, for an initiator that did not get them right. */
  said: readonly number[]
  /** What follows when the last of them has been taken. */
  sequel: 'go on' | 'disconnect' | 'end'
  /** The task management that ends the connection, while it is under way. */
  managed: TaskManagement['function'] | undefined
}

/** Our number of the one initiator port of this bus. */
export const INITIATOR = 0

const NOTHING = new Uint8Array(0)
/** Message bytes that wait for the initiator at most. */
export const MESSAGES_LIMIT = 1024
/** No messages. */
export const NONE: readonly number[] = []

/** A connection with `target`, nothing said yet. */
export function newNexus(id: number, target: ScsiTarget): Nexus {
  return {
    id,
    target,
    lun: 0,
    identified: false,
    mayDisconnect: false,
    attribute: 'untagged',
    tag: 0,
    command: NOTHING,
    task: undefined,
    statusSent: false,
    messages: NONE,
    said: NONE,
    sequel: 'go on',
    managed: undefined,
  }
}

/** A task management function as a nexus' messages ask for it. */
export function managementOf(nexus: Nexus, name: TaskManagement['function']): TaskManagement {
  if (name === 'target reset' || name === 'i_t nexus reset') return { function: name, initiator: INITIATOR }
  const tag = name === 'abort task' && nexus.attribute !== 'untagged' ? { tag: nexus.tag } : {}
  return { function: name, initiator: INITIATOR, lun: nexus.lun, ...tag }
}

// Their numbers are in saved states
const ATTRIBUTES: readonly Attribute[] = ['simple', 'ordered', 'head', 'aca', 'untagged']
const SEQUELS: readonly Nexus['sequel'][] = ['go on', 'disconnect', 'end']
const MANAGEMENT: readonly TaskManagement['function'][] = [
  'abort task set',
  'abort task',
  'clear task set',
  'logical unit reset',
  'target reset',
]
const COMMAND_LIMIT = 260

/** The nexus with its task. */
export function saveNexus(nexus: Nexus): Saved {
  const { id, lun, identified, mayDisconnect, tag, task, statusSent } = nexus
  return {
    id,
    lun,
    identified,
    mayDisconnect,
    attribute: ATTRIBUTES.indexOf(nexus.attribute),
    tag,
    command: nexus.command.slice(),
    task: task?.save() ?? null,
    statusSent,
    messages: Uint8Array.from(nexus.messages),
    said: Uint8Array.from(nexus.said),
    sequel: SEQUELS.indexOf(nexus.sequel),
    managed: nexus.managed === undefined ? -1 : MANAGEMENT.indexOf(nexus.managed),
  }
}

/** What {@link saveNexus} wrote, without the task; throws RangeError for anything else. */
export function nexusOf(state: Saved, targets: ReadonlyMap<number, ScsiTarget>): { nexus: Nexus; task: Saved } {
  const saved = fieldsOf(state)
  const id = numberOf(saved.id, 15)
  const target = targets.get(id)
  if (target === undefined) throw new RangeError(`the saved SCSI state has a connection with target ${id}`)
  const managed = numberOf(saved.managed, MANAGEMENT.length - 1, -1)
  const nexus: Nexus = {
    id,
    target,
    lun: numberOf(saved.lun, 63),
    identified: flagOf(saved.identified),
    mayDisconnect: flagOf(saved.mayDisconnect),
    attribute: ATTRIBUTES[numberOf(saved.attribute, ATTRIBUTES.length - 1)]!,
    tag: numberOf(saved.tag, 255),
    command: bytesOf(saved.command, COMMAND_LIMIT),
    task: undefined,
    statusSent: flagOf(saved.statusSent),
    messages: [...bytesOf(saved.messages, MESSAGES_LIMIT)],
    said: [...bytesOf(saved.said, MESSAGES_LIMIT)],
    sequel: SEQUELS[numberOf(saved.sequel, SEQUELS.length - 1)]!,
    managed: managed < 0 ? undefined : MANAGEMENT[managed],
  }
  if (saved.task === undefined) throw new RangeError('a connection of the saved SCSI state says nothing of its command')
  return { nexus, task: saved.task }
}
