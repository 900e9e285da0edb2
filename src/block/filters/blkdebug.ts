/** Injects errors at named moments: `blkdebug`, with the events, states and rules of its configuration file. */
import type { BlockDevice, Extent, WriteOptions, ZeroOptions } from '../device.ts'
import { BlockError, type Errno } from '../error.ts'
import { Filter } from '../filter.ts'
import type { IoVec } from '../iovec.ts'
import type { Now } from '../now.ts'

export type IoType = 'read' | 'write' | 'write-zeroes' | 'discard' | 'flush' | 'block-status'

/** Fails requests: those that follow `event` while the state is `state`, or, without an event, every one of its kind. */
export interface InjectError {
  /** Event that arms the rule; `none` arms it from the start. Default none. */
  readonly event?: string
  /** State in which the rule holds; 0 is any. */
  readonly state?: number
  /** Errno name or Linux number; default EIO. */
  readonly errno?: Errno | number
  /** First 512-byte sector of requests that fail; default all. */
  readonly sector?: number
  readonly iotype?: IoType
  /** Whether the rule goes after its first failure. */
  readonly once?: boolean
  /** Whether the request fails before it returns, instead of later. */
  readonly immediately?: boolean
}

/** Changes the state when an event comes. */
export interface SetState {
  readonly event: string
  readonly state?: number
  readonly newState: number
}

export interface BlkdebugOptions {
  readonly injectError?: readonly InjectError[]
  readonly setState?: readonly SetState[]
  /** Alignment that requests must have, bytes. */
  readonly align?: number
}

interface Break {
  readonly event: string
  readonly tag: string
}

const ERRNOS: Readonly<Record<number, Errno>> = {
  1: 'EPERM',
  2: 'ENOENT',
  5: 'EIO',
  11: 'EBUSY',
  12: 'ENOMEM',
  13: 'EACCES',
  16: 'EBUSY',
  17: 'EEXIST',
  22: 'EINVAL',
  27: 'EFBIG',
  28: 'ENOSPC',
  30: 'EROFS',
  95: 'ENOTSUP',
  110: 'ETIMEDOUT',
  122: 'EDQUOT',
}

/** Events that formats announce by their driver names; those of the file itself come by themselves. */
const FILE_EVENTS: Readonly<Record<IoType, readonly string[]>> = {
  read: ['preadv', 'read_aio'],
  write: ['pwritev', 'write_aio'],
  'write-zeroes': ['pwritev_zero', 'write_aio'],
  discard: ['discard'],
  flush: ['flush_to_os', 'flush_to_disk'],
  'block-status': ['block_status'],
}

/** Passes requests through, except those that its rules fail and those that a breakpoint holds. */
export class Blkdebug extends Filter {
  readonly name = 'blkdebug'
  readonly #align: number
  #rules: InjectError[]
  readonly #transitions: readonly SetState[]
  #armed = new Set<InjectError>()
  #breaks: Break[] = []
  readonly #suspended = new Map<string, (() => void)[]>()
  #state = 1

  constructor(next: BlockDevice, options: BlkdebugOptions = {}) {
    super(next)
    this.#align = options.align ?? 1
    this.#rules = [...(options.injectError ?? [])]
    this.#transitions = options.setState ?? []
    for (const rule of this.#rules) if ((rule.event ?? 'none') === 'none') this.#armed.add(rule)
  }

  override get align(): number {
    return this.#align
  }

  /** The state that rules are held against; 1 at first. */
  get state(): number {
    return this.#state
  }

  /** Announces an event: arms the rules that wait for it, then changes the state. */
  event(name: string): void {
    for (const rule of this.#rules) {
      if (rule.event === name && inState(rule.state, this.#state)) this.#armed.add(rule)
    }
    for (const { event, state, newState } of this.#transitions) {
      if (event === name && inState(state, this.#state)) {
        this.#state = newState
        return
      }
    }
  }

  /** Holds the next request at `event` under the name `tag`. */
  break(event: string, tag: string): void {
    this.#breaks.push({ event, tag })
  }

  /** Lets the requests held under `tag` go on; answers whether there were any. */
  resume(tag: string): boolean {
    const held = this.#suspended.get(tag) ?? []
    this.#suspended.delete(tag)
    for (const go of held) go()
    return held.length > 0
  }

  /** Forgets the breakpoints of `tag`, and lets go what they hold. */
  removeBreak(tag: string): boolean {
    const before = this.#breaks.length
    this.#breaks = this.#breaks.filter((point) => point.tag !== tag)
    return this.resume(tag) || this.#breaks.length < before
  }

  /** Whether a request is held under `tag`. */
  isSuspended(tag: string): boolean {
    return this.#suspended.has(tag)
  }

  override read(at: number, into: IoVec): Now<void> {
    return this.#pass('read', at, into.byteLength, () => this.next.read(at, into))
  }

  override write(at: number, from: IoVec, options?: WriteOptions): Now<void> {
    return this.#pass('write', at, from.byteLength, () => this.next.write(at, from, options))
  }

  override flush(): Now<void> {
    return this.#pass('flush', 0, 0, () => this.next.flush())
  }

  override zero(at: number, length: number, options?: ZeroOptions): Now<void> {
    return this.#pass('write-zeroes', at, length, () => this.next.zero(at, length, options))
  }

  override discard(at: number, length: number): Now<void> {
    return this.#pass('discard', at, length, () => this.next.discard(at, length))
  }

  override status(at: number, length: number): Now<Extent> {
    return this.#pass('block-status', at, length, () => this.next.status(at, length))
  }

  override close(): Now<void> {
    for (const tag of [...this.#suspended.keys()]) this.resume(tag)
    return this.next.close()
  }

  #pass<T>(kind: IoType, at: number, length: number, body: () => Now<T>): Now<T> {
    for (const event of FILE_EVENTS[kind]) {
      this.event(event)
      const point = this.#breaks.find((candidate) => candidate.event === event)
      if (point !== undefined) {
        this.#breaks.splice(this.#breaks.indexOf(point), 1)
        return this.#suspend(point.tag).then(() => this.#inject(kind, at, length, body))
      }
    }
    return this.#inject(kind, at, length, body)
  }

  #suspend(tag: string): Promise<void> {
    return new Promise((resolve) => {
      this.#suspended.set(tag, [...(this.#suspended.get(tag) ?? []), resolve])
    })
  }

  #inject<T>(kind: IoType, at: number, length: number, body: () => Now<T>): Now<T> {
    for (const rule of this.#armed) {
      if (rule.iotype !== undefined && rule.iotype !== kind) continue
      if (!inState(rule.state, this.#state)) continue
      if (rule.sector !== undefined && rule.sector >= 0) {
        const sector = rule.sector * 512
        if (sector < at || sector >= at + length) continue
      }
      if (rule.once) {
        this.#armed.delete(rule)
        this.#rules = this.#rules.filter((other) => other !== rule)
      }
      const code = typeof rule.errno === 'number' ? (ERRNOS[rule.errno] ?? 'EIO') : (rule.errno ?? 'EIO')
      const error = new BlockError(code, `blkdebug: injected ${code} into ${kind} of ${length} bytes at ${at}`)
      if (rule.immediately) throw error
      return Promise.resolve().then(() => {
        throw error
      })
    }
    return body()
  }
}

function inState(wanted: number | undefined, state: number): boolean {
  return wanted === undefined || wanted === 0 || wanted === state
}

/** Reads a blkdebug configuration file: sections [inject-error] and [set-state], `key = "value"` lines, # comments. */
export function parseBlkdebug(text: string, name = 'the blkdebug configuration'): BlkdebugOptions {
  const injectError: InjectError[] = []
  const setState: SetState[] = []
  let section: { kind: string; line: number; values: Map<string, string> } | undefined
  const end = () => {
    if (section?.kind === 'inject-error') injectError.push(injectRule(section.values, name))
    else if (section?.kind === 'set-state') setState.push(stateRule(section.values, name))
  }
  for (const [index, raw] of text.split('\n').entries()) {
    const line = raw.trim()
    if (line === '' || line.startsWith('#')) continue
    const head = /^\[([\w-]+)(?:\s+"[^"]*")?\]$/.exec(line)
    const pair = /^([\w-]+)\s*=\s*(?:"([^"]*)"|(\S+))$/.exec(line)
    if (head) {
      end()
      section = { kind: head[1]!, line: index, values: new Map() }
      if (!['inject-error', 'set-state'].includes(section.kind))
        throw refuse(name, index, `unknown section '${head[1]}'`)
    } else if (pair && section) section.values.set(pair[1]!, pair[2] ?? pair[3]!)
    else throw refuse(name, index, `cannot parse '${line}'`)
  }
  end()
  return { injectError, setState }
}

function refuse(name: string, index: number, why: string): BlockError {
  return new BlockError('EINVAL', `Could not parse ${name}, line ${index + 1}: ${why}`)
}

function injectRule(values: Map<string, string>, name: string): InjectError {
  const rule: { -readonly [K in keyof InjectError]: InjectError[K] } = {}
  for (const [key, value] of values) {
    if (key === 'event') rule.event = value
    else if (key === 'iotype') rule.iotype = value as IoType
    else if (key === 'state') rule.state = number(value, key, name)
    else if (key === 'errno') rule.errno = number(value, key, name)
    else if (key === 'sector') rule.sector = number(value, key, name)
    else if (key === 'once') rule.once = flag(value, key, name)
    else if (key === 'immediately') rule.immediately = flag(value, key, name)
    else throw new BlockError('EINVAL', `${name}: inject-error has no parameter '${key}'`)
  }
  if (rule.iotype !== undefined && !(rule.iotype in FILE_EVENTS)) {
    throw new BlockError('EINVAL', `${name}: iotype '${rule.iotype}' is none of ${Object.keys(FILE_EVENTS).join(', ')}`)
  }
  return rule
}

function stateRule(values: Map<string, string>, name: string): SetState {
  const event = values.get('event')
  const next = values.get('new_state')
  for (const key of values.keys()) {
    if (!['event', 'state', 'new_state'].includes(key))
      throw new BlockError('EINVAL', `${name}: set-state has no parameter '${key}'`)
  }
  if (event === undefined || next === undefined)
    throw new BlockError('EINVAL', `${name}: set-state needs event and new_state`)
  const state = values.get('state')
  const newState = number(next, 'new_state', name)
  return state === undefined ? { event, newState } : { event, newState, state: number(state, 'state', name) }
}

function number(value: string, key: string, name: string): number {
  if (!/^-?\d+$/.test(value)) throw new BlockError('EINVAL', `${name}: ${key} '${value}' is not a number`)
  return Number(value)
}

function flag(value: string, key: string, name: string): boolean {
  if (!/^(on|off|yes|no|true|false)$/.test(value))
    throw new BlockError('EINVAL', `${name}: ${key} '${value}' is not on or off`)
  return /^(on|yes|true)$/.test(value)
}
