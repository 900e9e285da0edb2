/** Saved states of units and tasks: how their parts are written and read; what is read is checked, or is a RangeError. */
import type { Saved } from '../machine.ts'
import type { Command } from './command.ts'
import type { Condition, Sense } from './sense.ts'

type Fields = { readonly [key: string]: Saved }

/** The fields of a saved object. */
export function fieldsOf(state: Saved | undefined): Fields {
  if (typeof state !== 'object' || state === null || state instanceof Uint8Array || Array.isArray(state)) {
    throw new RangeError('a part of the saved SCSI state is missing')
  }
  return state as Fields
}

/** An integer from `low` (default 0) to `high`. */
export function numberOf(state: Saved | undefined, high = Number.MAX_SAFE_INTEGER, low = 0): number {
  if (typeof state !== 'number' || !Number.isInteger(state) || state < low || state > high) {
    throw new RangeError(`a number of the saved SCSI state is ${String(state)}, must be ${low} to ${high}`)
  }
  return state
}

export function flagOf(state: Saved | undefined): boolean {
  if (typeof state !== 'boolean') throw new RangeError('a flag of the saved SCSI state is neither true nor false')
  return state
}

/** A list of at most `limit` values. */
export function listOf(state: Saved | undefined, limit: number): readonly Saved[] {
  if (!Array.isArray(state) || state.length > limit) {
    throw new RangeError(`a list of the saved SCSI state is no list of up to ${limit}`)
  }
  return state as readonly Saved[]
}

/** A copy of at most `limit` bytes. */
export function bytesOf(state: Saved | undefined, limit: number): Uint8Array {
  if (!(state instanceof Uint8Array) || state.length > limit) {
    throw new RangeError(`bytes of the saved SCSI state are not up to ${limit} bytes`)
  }
  return state.slice()
}

const conditionOf = (state: Saved | undefined): Condition => {
  const [key, asc, ascq] = listOf(state, 3).map((part) => numberOf(part, 255))
  return [key ?? 0, asc ?? 0, ascq ?? 0]
}

/** Conditions in their order. */
export function conditionsOf(state: Saved | undefined, limit: number): Condition[] {
  return listOf(state, limit).map(conditionOf)
}

const absent = (value: number | undefined): number => value ?? -1

/** Sense data, or that there is none. */
export function saveSense(sense: Sense | undefined): Saved {
  if (sense === undefined) return null
  const { condition, information, specific, field, progress, wrongLength = false, deferred = false } = sense
  return {
    condition,
    information: absent(information),
    specific: absent(specific),
    field: field === undefined ? null : [field.cdb, field.byte, absent(field.bit)],
    progress: absent(progress),
    wrongLength,
    deferred,
  }
}

/** Sense data that {@link saveSense} wrote. */
export function senseOf(state: Saved | undefined): Sense | undefined {
  if (state === null) return undefined
  const saved = fieldsOf(state)
  const present = <K extends 'information' | 'specific' | 'progress'>(key: K) => {
    const value = numberOf(saved[key], Number.MAX_SAFE_INTEGER, -1)
    return value < 0 ? {} : { [key]: value }
  }
  const field = saved.field === null ? undefined : listOf(saved.field, 3)
  const bit = field && numberOf(field[2], 7, -1)
  return {
    condition: conditionOf(saved.condition),
    ...present('information'),
    ...present('specific'),
    ...present('progress'),
    ...(field && {
      field: { cdb: flagOf(field[0]), byte: numberOf(field[1], 0xffff), ...(bit !== undefined && bit >= 0 && { bit }) },
    }),
    wrongLength: flagOf(saved.wrongLength),
    deferred: flagOf(saved.deferred),
  }
}

const ATTRIBUTES = ['simple', 'ordered', 'head', 'aca', 'untagged'] as const
const CDB_LIMIT = 260

/** A command as it was sent. */
export function saveCommand({ initiator, lun, cdb, attribute, tag, autosense }: Command): Saved {
  return { initiator, lun, cdb: cdb.slice(), attribute: ATTRIBUTES.indexOf(attribute), tag, autosense }
}

/** A command that {@link saveCommand} wrote. */
export function commandOf(state: Saved | undefined): Command {
  const saved = fieldsOf(state)
  const cdb = bytesOf(saved.cdb, CDB_LIMIT)
  if (cdb.length < 6) throw new RangeError('a CDB of the saved SCSI state is too short')
  return {
    initiator: numberOf(saved.initiator),
    lun: numberOf(saved.lun),
    cdb,
    attribute: ATTRIBUTES[numberOf(saved.attribute, ATTRIBUTES.length - 1)]!,
    tag: numberOf(saved.tag, Number.MAX_SAFE_INTEGER, -1),
    autosense: flagOf(saved.autosense),
  }
}
